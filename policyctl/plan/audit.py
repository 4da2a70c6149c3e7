"""The entries of an audit record: one JSON line before each write, and one with its outcome.

A line is written before the remote is changed, so no change is without a line, whatever happens to this process. A `begun`
line is followed by one with the outcome; if it is not, the outcome is unknown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

from policyctl.errors import PolicyctlError
from policyctl.plan.diff import FieldChange, contents
from policyctl.plan.plan import ACTIONS, GOOD, Action, Change, Outcome, Plan, Status, normal_of
from policyctl.plan.settings import Override
from policyctl.policy.document import digest

FORMAT = "policyctl/audit"
VERSION = 1
MAX_LINE = 1024 * 1024  # bytes


class BadAuditEntry(PolicyctlError):
    """A line that is not an entry; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class AuditOrigin:
    """Who makes a change, with which command, in which CI run, and from which commit; None: not known.

    `dirty` is whether the policy directory differed from the commit, `subject` is the commit's first line, `no_commit` is the
    reason why the commit is unknown. `to` is the commit whose files were gone back to.
    """

    who: str
    command: str
    run: str | None = None
    commit: str | None = None
    dirty: bool | None = None
    subject: str | None = None
    no_commit: str | None = None
    to: str | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line. `time` is RFC 3339 in UTC, `id` is that of the apply, which all its lines share.

    The digests are of normal forms; None before an add and after a remove. `overrides` are the safety settings that
    were overridden for the plan. `fields` are the differences, as the plan shows them; None if the line does not have them.
    """

    time: str
    id: str
    origin: AuditOrigin
    environment: str
    remote: str
    plan: str
    action: Action
    name: str
    before: str | None
    after: str | None
    outcome: Status | Literal["begun"]
    reason: str = ""
    overrides: tuple[Override, ...] = ()
    fields: tuple[FieldChange, ...] | None = None

    def plain(self) -> dict[str, Any]:
        """The entry as a plain value, without the unknown parts of its origin and without empty overrides."""
        data = asdict(replace(self, overrides=(), fields=None))
        del data["overrides"], data["fields"]
        if self.overrides:
            data["overrides"] = [override.plain for override in self.overrides]
        if self.fields is not None:
            data["fields"] = [_known(field._asdict()) for field in self.fields]
        origin = {key: value for key, value in data.pop("origin").items() if value is not None}
        return {"time": data.pop("time"), "id": data.pop("id"), **origin, **data}


def _known(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value not in (None, "")}


def entry_of(
    plan: Plan, origin: AuditOrigin, identifier: str, time: str, change: Change, outcome: Outcome | None
) -> AuditEntry:
    """The entry for a change of a plan; without an outcome it is `begun`, and lists the fields."""
    return AuditEntry(
        time=time,
        id=identifier,
        origin=replace(origin, to=plan.to or None),
        environment=plan.environment,
        remote=plan.remote,
        plan=plan.digest,
        action=change.action,
        name=change.name,
        before=change.before_digest(),
        after=None if change.after is None else digest(normal_of(change.after)),
        outcome="begun" if outcome is None else outcome.status,
        reason="" if outcome is None else outcome.reason,
        overrides=plan.overrides,
        fields=_fields_of(change) if outcome is None else None,
    )


def _fields_of(change: Change) -> tuple[FieldChange, ...]:
    """The differences; for an add or a remove every key but the name, and of a model its settings one by one."""
    if change.action == "update":
        return change.fields
    if change.kind == "model" and (document := change.after or change.before) is not None:
        return contents(document, gone=change.action == "remove")
    before, after = (normal_of(document) if document else {} for document in (change.before, change.after))
    keys = [key for key in {**before, **after} if key != "name"]
    return tuple(FieldChange(key, before.get(key), after.get(key)) for key in keys)


def entry_line(entry: AuditEntry) -> str:
    """The line of an entry, with its newline. Fields are left out where the line would be too long to be read back."""
    line = json.dumps({"format": FORMAT, "version": VERSION, **entry.plain()}) + "\n"
    return line if len(line) < MAX_LINE or entry.fields is None else entry_line(replace(entry, fields=None))


# The types of a line's keys; other keys are ignored.
_TEXTS = ("time", "id", "who", "command", "environment", "remote", "plan", "name", "reason")
_PERHAPS: dict[str, type] = {"run": str, "commit": str, "subject": str, "no_commit": str, "to": str, "dirty": bool}
_DIGESTS = ("before", "after")
_CHOICES = {"action": ACTIONS, "outcome": ("begun", *get_args(Status))}


def read_entry(line: bytes) -> AuditEntry:
    """The entry of a line. Raises BadAuditEntry for an incomplete line, for anything else, and for another version."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise BadAuditEntry("is not a complete line of JSON") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise BadAuditEntry(f"does not have the format {FORMAT}")
    if data.get("version") != VERSION:
        raise BadAuditEntry(f"is of a version that this policyctl does not read (it reads {VERSION})")
    for key in _wrong(data):
        raise BadAuditEntry(f"is not an entry: {key} is missing or wrong")
    origin = AuditOrigin(data["who"], data["command"], **{key: data.get(key) for key in _PERHAPS})
    plainly = {key: data[key] for key in AuditEntry.__dataclass_fields__ if key not in ("origin", "overrides", "fields")}
    overrides = tuple(Override(**override) for override in data.get("overrides", ()))
    fields = [FieldChange(one["path"], one.get("before"), one.get("after")) for one in data.get("fields", ())]
    return AuditEntry(origin=origin, overrides=overrides, fields=tuple(fields) if "fields" in data else None, **plainly)


def _wrong(data: dict[str, Any]) -> Iterator[str]:
    """The keys that are missing or have a wrong value."""
    yield from (key for key in _TEXTS if not isinstance(data.get(key), str))
    yield from (key for key, kind in _PERHAPS.items() if not isinstance(data.get(key), kind | None))
    yield from (key for key in _DIGESTS if key not in data or not isinstance(data[key], str | None))
    yield from (key for key, fits in _LISTS.items() if not _is_list_of(data.get(key, []), fits))
    yield from (key for key, known in _CHOICES.items() if data.get(key) not in known)


def _is_list_of(found: Any, fits: Callable[[dict[str, Any]], bool]) -> bool:
    return isinstance(found, list) and all(isinstance(one, dict) and fits(one) for one in found)


def _is_override(data: dict[str, Any]) -> bool:
    return {"option", "value"} <= data.keys() <= set(Override._fields) and all(isinstance(one, str) for one in data.values())


def _is_field(data: dict[str, Any]) -> bool:
    return isinstance(data.get("path"), str)


_LISTS: dict[str, Callable[[dict[str, Any]], bool]] = {"overrides": _is_override, "fields": _is_field}


class AuditLine(NamedTuple):
    """One line of an audit record: its number, its entry or why it has none, and whether its line feed is missing."""

    number: int
    entry: AuditEntry | None
    complaint: str = ""
    unfinished: bool = False


def audit_line(number: int, line: bytes, *, unfinished: bool = False) -> AuditLine:
    """A line as it was read."""
    try:
        return AuditLine(number, read_entry(line))
    except BadAuditEntry as error:
        return AuditLine(number, None, str(error), unfinished)


def fold(entries: Iterable[AuditEntry]) -> list[AuditEntry]:
    """One entry for each change, in the order of the lines: a `begun` entry remains only if no outcome followed."""
    kept: dict[tuple[str, str], AuditEntry] = {}
    for entry in entries:
        key = (entry.id, entry.name)
        begun = kept.pop(key, None)
        kept[key] = entry if begun is None or entry.fields is not None else replace(entry, fields=begun.fields)
    return list(kept.values())


def gaps(entries: Iterable[AuditEntry]) -> Iterator[bool]:
    """For each entry, whether the policy was changed before it without an entry.

    Compares the `before` of each entry with the previous `after`. Entries of unknown outcome reset the comparison.
    """
    left: dict[tuple[str, str], tuple[str | None]] = {}
    for entry in entries:
        key = (entry.remote, entry.name)
        yield key in left and left[key] != (entry.before,) and entry.outcome != "already"
        if entry.outcome in GOOD:
            left[key] = (entry.after,)
        elif entry.outcome != "skipped":
            left.pop(key, None)
