"""What an audit file says: one JSON line for each change that is about to be written, and one for what became of it.

A line is written before the remote is, so that whatever happens to this process no change is without a line. One with the
outcome `begun` is followed by one with the outcome; where it is not, what became of that change is not known.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from policyctl.core.apply import GOOD, Outcome, Status
from policyctl.core.change import Action, Change
from policyctl.core.plan import Plan
from policyctl.errors import PolicyctlError
from policyctl.model.normal import digest, normal_form

FORMAT = "policyctl/audit"
VERSION = 1


class BadEntry(PolicyctlError):
    """A line that says no change; the message says why."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Who changes something, with which command, in which run of which service, and from which commit; None: not known.

    `dirty` says that the policy directory was not as the commit has it, `subject` is the commit's first line.
    """

    who: str
    command: str
    run: str | None = None
    commit: str | None = None
    dirty: bool | None = None
    subject: str | None = None


class Entry(BaseModel):
    """One line. The digests are those of normal forms, None where there was, or will be, no policy."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    format: Literal["policyctl/audit"]
    version: Literal[1]
    time: str
    id: str  # of the apply: what it writes shares it
    who: str
    command: str
    run: str | None = None
    commit: str | None = None
    dirty: bool | None = None
    subject: str | None = None
    environment: str
    remote: str
    plan: str
    action: Action
    name: str
    before: str | None
    after: str | None
    outcome: Status | Literal["begun"]
    reason: str = ""


def entry_line(plan: Plan, origin: Origin, identifier: str, time: datetime, change: Change, outcome: Outcome | None) -> str:
    """The line for a change of a plan, with its end; without an outcome it is only begun."""
    data = {
        "format": FORMAT,
        "version": VERSION,
        "time": time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "id": identifier,
        **asdict(origin),
        "environment": plan.environment,
        "remote": plan.remote,
        "plan": plan.digest,
        "action": change.action,
        "name": change.name,
        "before": change.before_digest(),
        "after": None if change.after is None else digest(normal_form(change.after)),
        "outcome": "begun" if outcome is None else outcome.status,
        "reason": "" if outcome is None else outcome.reason,
    }
    return json.dumps(data) + "\n"


def read_entry(line: bytes) -> Entry:
    """The entry of a line. Raises BadEntry for one that is torn, or no entry, or of another version."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise BadEntry("is no whole line of JSON") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise BadEntry(f"does not say {FORMAT}")
    if data.get("version") != VERSION:
        raise BadEntry(f"is of a version that this policyctl does not read (it reads {VERSION})")
    try:
        return Entry.model_validate(data)
    except ValidationError as error:
        raise BadEntry(f"is no entry: {'.'.join(map(str, error.errors()[0]['loc']))} is missing or wrong") from None


def fold(entries: Iterable[Entry]) -> list[Entry]:
    """The entries with one for each change, in the order of their lines: what was begun stays only where nothing followed."""
    kept: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        key = (entry.id, entry.name)
        kept.pop(key, None)
        kept[key] = entry
    return list(kept.values())


def gaps(entries: Iterable[Entry]) -> Iterator[bool]:
    """For each entry whether the policy was changed before it by somebody who left no entry.

    What one entry left is what the next one finds; only where an outcome is known can that be told.
    """
    left: dict[tuple[str, str], tuple[str | None]] = {}
    for entry in entries:
        key = (entry.remote, entry.name)
        yield key in left and left[key] != (entry.before,) and entry.outcome != "already"
        if entry.outcome in GOOD:
            left[key] = (entry.after,)
        elif entry.outcome != "skipped":
            left.pop(key, None)
