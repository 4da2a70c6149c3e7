"""Live policies, for people and for machines. The JSON's schema is `schemas/policies.schema.json`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from policyctl.load.write import policy_text, reasons
from policyctl.model.live import Live, Observed
from policyctl.model.normal import normal_form
from policyctl.report.plain import count, describe, json_text, plain
from policyctl.report.style import Style

FORMAT = "policyctl/policies"
VERSION = 1


def policies_text(observed: Observed, environment: str, remote: str, style: Style) -> str:
    """One line a policy, what is wrong with the rows that are none, and one summary line, the last."""
    lines = [f"{style.paint(plain(name), 'bold')}  {_describe(live, style)}" for name, live in sorted(observed.live.items())]
    head = style.paint(f"environment {plain(environment)}, remote {plain(remote)}", "dim")
    blocks = [[head], [*lines, *_strange(observed, style)], [f"{count(len(observed.live), 'policy')}."]]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def policies_json(observed: Observed, environment: str, remote: str) -> str:
    """The same as JSON text; a policy is in its normal form, with its targets in the order that the remote has."""
    data = {
        "format": FORMAT,
        "version": VERSION,
        "environment": environment,
        "remote": remote,
        "policies": [_policy(live) for _, live in sorted(observed.live.items())],
        "twins": [{"name": twins.name, "ids": list(twins.ids)} for twins in observed.twins],
        "unreadable": [{"name": row.name, "id": row.id, "reason": row.reason} for row in observed.unreadable],
    }
    return json_text(data)


def policy_text_or_why(live: Live) -> str:
    """A live policy as a policy file; one that can be none as JSON, below comments that say why."""
    text = policy_text(live.document)
    if isinstance(text, str):
        return text
    why = "".join(f"# not a valid policy: {plain(reason)}\n" for reason in reasons(text))
    return why + json_text(normal_form(live.document, sort=False))


def _policy(live: Live) -> dict[str, Any]:
    text = policy_text(live.document)
    problems = [] if isinstance(text, str) else reasons(text)
    return {**normal_form(live.document, sort=False), "problems": problems}


def _describe(live: Live, style: Style) -> str:
    text = policy_text(live.document)
    if isinstance(text, str):
        return describe(live.document)
    return f"{style.paint('not a valid policy', 'yellow')}: {plain('; '.join(reasons(text)))}"


def _strange(observed: Observed, style: Style) -> Iterator[str]:
    for twins in observed.twins:
        ids = ", ".join(map(plain, twins.ids))
        yield f"{style.paint('blocked', 'red', 'bold')}  {plain(twins.name)}: {plain(twins.reason)} (ids {ids})"
    for row in observed.unreadable:
        yield f"{style.paint('unreadable', 'red', 'bold')}  {plain(f'{row.reason} ({row.which})')}"
