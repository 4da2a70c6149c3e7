"""P443: placeholders of other tools, which nothing fills in here: the platform would get them as they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from policyctl.lint.groups import Group
from policyctl.policy.findings import FieldPath, Finding, format_path
from policyctl.rules.catalogue import finding

_PLACEHOLDER = re.compile(
    r"""
      [$#]\{[^{}]*\}                       # ${NAME} and #{NAME}
    | \$\([^()]*\) | \$[A-Za-z_]\w*        # $(NAME) and $NAME
    | <[^<>]+>                             # <NAME> and <%= NAME %>
    | %\w+% | %\(\w+\)s
    | \[\[[^\[\]]*\]\] | \(\([^()]*\)\)
    | @[A-Z_][A-Z0-9_]*@ | __[A-Z][A-Z0-9_]*__
    | (?<!\{)\{[A-Za-z_][\w.-]*\}(?!\})    # {NAME}
    | \b(?:env|file|secret|vault|ssm|op):\S+
    """,
    re.VERBOSE,
)
_NAME = re.compile(r"\b(?!(?:env|file|secret|vault|ssm|op|var|vars)\b)_*([A-Za-z]\w*?)_*\b")


def check(place: Group) -> Iterator[Finding]:
    """Models in one group that hold a placeholder."""
    for position, target in enumerate(place.targets):
        if isinstance(name := target.get("model_name"), str):
            yield from in_name((*place.path, "targets", position, "model_name"), name)


def in_name(path: FieldPath, text: str) -> Iterator[Finding]:
    """The placeholder in the name of a policy or of a model."""
    if found := _PLACEHOLDER.search(text):
        name = _NAME.search(found[0])
        wanted = name[1] if name else "name"
        message = f'write "{{{{ {wanted} }}}}", and {wanted} under vars in policyctl.yaml'
        yield finding(
            path, "P443", f"{format_path(found[0])} is a placeholder of another tool, which nothing fills in here ({message})"
        )


def in_variables(path: FieldPath, value: Any) -> Iterator[Finding]:
    """The placeholders in a variable of an environment, at any depth."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from in_variables((*path, key), item)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from in_variables((*path, place), item)
    elif isinstance(value, str) and (found := _PLACEHOLDER.search(value)):
        mend = "write the value; policy files take it from vars with {{ NAME }}"
        yield finding(
            path, "P443", f"{format_path(found[0])} is a placeholder of another tool, which nothing fills in here ({mend})"
        )
