"""Live policies: listed, shown, pulled into files, and who uses them. The schemas of the JSON are in `schemas`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from policyctl.load.placement import Pull
from policyctl.load.unread import listed
from policyctl.load.write import policy_text, unrepresentable_reasons, what_files_lack
from policyctl.plan.consumers import ConsumerUse
from policyctl.plan.plan import Plan
from policyctl.plan.unknown_fields import unknown_field_notes, unknown_fields
from policyctl.policy.document import normal_form
from policyctl.policy.findings import HIDDEN
from policyctl.policy.live import LivePolicy, LiveRows
from policyctl.policy.names import kind_of
from policyctl.policy.virtual_model import LiveModel
from policyctl.report.format import Style, count, describe_value, escape, json_text, position_name, value
from policyctl.report.plan_json import unread_data, uses_data
from policyctl.report.plan_view import how_many

FORMAT = "policyctl/policies"
VERSION = 1

_LONGEST = 1000  # characters of a value
_SECRET = re.compile(r"key|secret|token$|passw|credential|auth|header", re.IGNORECASE)  # a field with such a name may be secret


def policies_text(observed: LiveRows, environment: str, remote: str, style: Style) -> str:
    """One line for each policy, the rows that are not policies, and a summary as the last line."""
    lines = [
        f"{style.paint(escape(name), 'bold')}  {_describe(live, style)}" for name, live in sorted(observed.policies.items())
    ]
    head = style.paint(f"environment {escape(environment)}, remote {escape(remote)}", "dim")
    blocks = [[head], [*lines, *_strange(observed, style)], [f"{count(len(observed.policies), 'policy')}."]]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def policies_json(observed: LiveRows, environment: str, remote: str) -> str:
    """The same as JSON text. Policies are in normal form, with their targets in the order of the remote."""
    data = {
        "format": FORMAT,
        "version": VERSION,
        "environment": environment,
        "remote": remote,
        "policies": [_policy(live) for _, live in sorted(observed.policies.items())],
        "twins": [{"name": twins.name, "ids": list(twins.ids)} for twins in observed.twins],
        "unreadable": [{"name": row.name, "id": row.id, "reason": row.reason} for row in observed.unreadable],
    }
    return json_text(data)


def policy_text_or_why(live: LivePolicy) -> str:
    """A live policy as a policy file, with further fields as comments below. One that is not a valid policy is JSON, below
    comments with the reasons.
    """
    text = policy_text(live.document)
    if isinstance(text, str):
        return text + extra_comments(live)
    why = "".join(f"# not a valid policy: {escape(reason)}\n" for reason in unrepresentable_reasons(text))
    return why + json_text(normal_form(live.document, sort=False)) + extra_comments(live)


def extra_comments(live: LivePolicy) -> str:
    """The fields of a live policy that a policy file cannot hold, as comments."""
    lines = [f"#   {position_name(path)}: {value(item, longest=_LONGEST)}\n" for path, item in _unknown(live).items()]
    head = "# The live policy also has fields that a policy file cannot hold; an update keeps them:\n"
    return head + "".join(lines) if lines else ""


def _unknown(live: LivePolicy) -> dict[str, Any]:
    """The fields that the format does not know. Values that may be secret are hidden."""
    return {
        field.path: _shown(field.value, secret=_is_secret(field.path.rpartition(".")[2]))
        for field in unknown_fields(live.document)
    }


def _is_secret(key: str) -> bool:
    return _SECRET.search(key) is not None


def _shown(item: Any, *, secret: bool = False) -> Any:
    """A value in which texts are hidden whose key suggests a secret."""
    if isinstance(item, dict):
        return {key: _shown(child, secret=secret or _is_secret(key)) for key, child in item.items()}
    if isinstance(item, list):
        return [_shown(child, secret=secret) for child in item]
    return HIDDEN if secret and isinstance(item, str) else item


def _policy(live: LivePolicy) -> dict[str, Any]:
    text = policy_text(live.document)
    problems = [] if isinstance(text, str) else unrepresentable_reasons(text)
    unknown = _unknown(live)
    return {
        **normal_form(live.document, sort=False),
        **({"unknown_fields": unknown} if unknown else {}),
        "problems": problems,
    }


def _describe(live: LivePolicy, style: Style) -> str:
    text = policy_text(live.document)
    also = ", ".join(position_name(field.path) for field in unknown_fields(live.document))
    if isinstance(text, str):
        return describe_value(live.document) + (style.paint(f"; also has {also}", "dim") if also else "")
    return f"{style.paint('not a valid policy', 'yellow')}: {escape('; '.join(unrepresentable_reasons(text)))}"


def _strange(observed: LiveRows, style: Style) -> Iterator[str]:
    for twins in observed.twins:
        ids = ", ".join(map(escape, twins.ids))
        yield f"{style.paint('blocked', 'red', 'bold')}  {escape(twins.name)}: {escape(twins.reason)} (ids {ids})"
    for row in observed.unreadable:
        yield f"{style.paint('unreadable', 'red', 'bold')}  {escape(f'{row.reason} ({row.which})')}"


def pull_text(pull: Pull, observed: LiveRows, plan: Plan | None, unmanaged: int, style: Style) -> str:
    """Every written file, what was not pulled and why, and a summary as the last line. `plan` is the plan afterwards,
    `unmanaged` the number of virtual models that the directory does not manage."""
    wrote = [f"{_sign(is_new, style)} {escape(str(path))}" for path, _, is_new in pull.writes]
    notes = [f"{style.paint('note', 'cyan')}  {escape(note)}" for note in _notes(pull, observed, unmanaged)]
    blocks = [wrote, [*_rest(pull, observed, style), *notes], [_pull_summary(pull, plan, style)]]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def _sign(is_new: bool, style: Style) -> str:
    return style.paint("+", "green", "bold") if is_new else style.paint("~", "yellow", "bold")


def _rest(pull: Pull, observed: LiveRows, style: Style) -> Iterator[str]:
    for why in pull.kept.values():
        yield f"{style.paint('kept', 'yellow', 'bold')}  {escape(why)}"
    for why in pull.left.values():
        yield f"{style.paint('not pulled', 'red', 'bold')}  {escape(why)}"
    for row in observed.unreadable:
        yield f"{style.paint('note', 'cyan')}  a row of the remote is left alone: {escape(f'{row.reason} ({row.which})')}"


def _notes(pull: Pull, observed: LiveRows, unmanaged: int) -> Iterator[str]:
    """What of the remote no file holds: fields of live policies and models, and models that are not managed."""
    live = [observed.live[name] for name in pull.names]
    unknown = {one.name: fields for one in live if isinstance(one, LivePolicy) and (fields := unknown_fields(one.document))}
    yield from unknown_field_notes(unknown, position_name)
    alike: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for model in live:
        if isinstance(model, LiveModel) and (left := what_files_lack(model.document)):
            alike[left].append(model.name)
    for left, names in alike.items():
        who = f"model {names[0]} also has" if len(names) == 1 else f"models {listed(names)} also have"
        yield f"the live {who} {', '.join(left)}, which no file can hold; {'it is' if len(left) == 1 else 'they are'} kept"
    if unmanaged:
        yield (
            f"{count(unmanaged, 'virtual model')} of the remote not pulled: the directory does not manage models "
            "(write manage: [policies, models] in policyctl.yaml)"
        )


def _pull_summary(pull: Pull, plan: Plan | None, style: Style) -> str:
    files = f"{count(len(pull.writes), 'file')} written, {pull.unchanged:,} unchanged"
    if plan is None:
        return f"{style.paint('Nothing to pull.', 'bold')} The remote has nothing in scope."
    if not plan.changes:
        return f"{style.paint('Pulled', 'green', 'bold')}: {files}; the plan is empty."
    totals = ", ".join(f"{how_many(plan, action)} to {action}" for action, number in plan.totals.items() if number)
    return f"{style.paint('Pulled', 'yellow', 'bold')}: {files}; the plan is not empty: {totals}."


class UsedName(NamedTuple):
    """A policy or model by its canonical name, whether the remote has it (None: not known), and who uses it."""

    name: str
    exists: bool | None
    uses: tuple[ConsumerUse, ...]


class Usage(NamedTuple):
    """Who uses what on a remote; `unread` has by source why it could not be read."""

    environment: str
    remote: str
    used: tuple[UsedName, ...]
    unread: Mapping[str, str]
    notes: tuple[str, ...]


def usage_text(usage: Usage, style: Style) -> str:
    """Each policy and model with a line for each consumer, and what is not known."""
    blocks = [[style.paint(f"environment {escape(usage.environment)}, remote {escape(usage.remote)}", "dim")]]
    for one in usage.used:
        missing = style.paint("  not on the remote", "yellow") if one.exists is False else ""
        lines = [f"    {_use_line(use, style)}" for use in one.uses] or [style.paint(f"    {_unused(usage)}", "dim")]
        blocks.append([f"{style.paint(escape(one.name), 'bold')}{missing}", *lines])
    red = style.paint("not known", "red", "bold")
    blocks.append([f"{red}  {escape(f'{source} could not be read: {why}')}" for source, why in usage.unread.items()])
    blocks.append([f"{style.paint('note', 'cyan')}  {escape(note)}" for note in usage.notes])
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def _unused(usage: Usage) -> str:
    return "no use found in what could be read" if usage.unread else "not used"


def _use_line(use: ConsumerUse, style: Style) -> str:
    """`agent billing-bot (workspace w1): llm`, with what is in between: `through triage`."""
    who = use.consumer
    name = "" if who.kind in ("tenant default", "denylist") else f" {escape(who.name)}"
    place = who.file or (f"workspace {who.workspace}" if who.workspace else "")
    way = f", through {', '.join(map(escape, use.through))}" if use.through else ""
    return f"{who.kind}{name}{style.paint(f' ({escape(place)})', 'dim') if place else ''}{way}: {escape(use.field)}"


def usage_json(usage: Usage) -> str:
    """The same as JSON text."""
    data = {
        "format": "policyctl/consumers",
        "version": VERSION,
        "environment": usage.environment,
        "remote": usage.remote,
        "used": [
            {"name": one.name, "kind": kind_of(one.name), "exists": one.exists, "consumers": uses_data(one.uses)}
            for one in usage.used
        ],
        "unread": unread_data(usage.unread),
        "notes": list(usage.notes),
    }
    return json_text(data)
