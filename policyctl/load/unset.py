"""Templates whose variable an environment does not set: what a file says is known before it is known for which environment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from policyctl.errors import Problem
from policyctl.load.environment import Environment
from policyctl.load.kinds import CONFIG_FILE
from policyctl.model.complaints import did_you_mean

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
