"""Which files have templates, and which of their variables an environment does not set; without importing jinja2."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from policyctl.errors import Problem
from policyctl.load.environment import Environment
from policyctl.load.kinds import CONFIG_FILE
from policyctl.policy.findings import did_you_mean

MAX_VARIABLES = 65_536  # characters of all variables of an environment together
_MARKERS = ("{{", "{%", "{#")
_BYTES = tuple(marker.encode() for marker in _MARKERS)


def is_templated(content: bytes) -> bool:
    """Whether what a file says depends on the environment."""
    return b"{" in content and any(marker in content for marker in _BYTES)


def is_template(text: str) -> bool:
    """Whether a scalar holds template syntax at all."""
    return "{" in text and any(marker in text for marker in _MARKERS)


def has_template(value: Any) -> bool:
    """Whether a plain value holds a template in any of its scalars (keys never count)."""
    if isinstance(value, str):
        return is_template(value)
    if isinstance(value, dict):
        return any(map(has_template, value.values()))
    return isinstance(value, list) and any(map(has_template, value))


UNSET = "P018"
_WHAT, _IN = "the variable ", " in environment"


def in_environment(problems: Iterable[Problem], environment: Environment) -> list[Problem]:
    """The problems, where a variable is not set with the environment's name and what to do."""
    return [name_environments(problem, [environment]) if problem.code == UNSET else problem for problem in problems]


def name_environments(problem: Problem, environments: Sequence[Environment]) -> Problem:
    """An unset variable's problem with the environments that do not set it, whether it names some already or not."""
    if not problem.message.startswith(_WHAT):  # its file is a link, of which nothing is quoted
        return problem
    what = problem.message.partition(_IN)[0]
    variable = what.split()[2]
    *most, last = (environment.name for environment in environments)
    names = f"s {', '.join(most)} and {last}" if most else f" {last}"
    guess = did_you_mean(variable, {name for environment in environments for name in environment.vars})
    where = f"the vars of each in {CONFIG_FILE}" if most else f"environments.{last}.vars in {CONFIG_FILE}"
    return problem._replace(message=f"{what}{_IN}{names}{guess or f' (add it to {where})'}")
