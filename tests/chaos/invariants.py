"""What must hold after every run, whatever went wrong in it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from policyctl.plan.plan import GOOD, Status
from policyctl.policy.document import canonical_text, normal_form
from tests.chaos.world import World

Rows = Mapping[str, tuple[str, ...]]  # by id: the name that the row is filed under, its document, its times
UNREADABLE = "its outcome cannot be read"


class Violation(NamedTuple):
    """Something that must never be: one of the kinds in figures.BROKEN, and what it is."""

    kind: str
    what: str


class Told(NamedTuple):
    """What an apply said of one change."""

    status: Status
    reason: str


def violations(
    world: World,
    before: Rows,
    after: Rows,
    told: Mapping[str, Told],
    commits: Counter[str],
    late: Iterable[str] = (),
) -> Iterator[Violation]:
    """Hold what is stored against what was there, what was wanted and what was reported.

    A change of which nothing was told (the client died) may have been carried out or not. A failure may have been carried
    out only where it says that this cannot be known, or where the network held the write back (`late`).
    """
    yield from _doubled(before, after, commits)
    yield from _moved(world, before, after)
    wanted = world.wanted()
    was, now = _by_name(before), _by_name(after)
    for name in world.changes:
        unmoved, done = now.get(name) == was.get(name), _is(now.get(name), wanted.get(name))
        if not unmoved and not done:
            yield Violation("losses", f"{name} is neither as it was nor as planned")
        elif name in told:
            status, reason = told[name]
            may_be_done = name in set(late) or UNREADABLE in reason
            if status in GOOD and not done:
                yield Violation("untrue reports", f"{name} is told as {status} and is not as wanted")
            if status not in GOOD and not unmoved and not may_be_done:
                yield Violation("untrue reports", f"{name} is told as {status} ({reason}) and was carried out")
        if done and name in was and name in wanted and not _keeps(was[name], now[name]):
            yield Violation("losses", f"{name} lost fields that no file knows")


def _doubled(before: Rows, after: Rows, commits: Counter[str]) -> Iterator[Violation]:
    twins = Counter(row[0] for row in after.values()) - Counter(row[0] for row in before.values())
    counted = Counter(row[0] for row in after.values())
    yield from (Violation("duplicates", f"{name} is there {counted[name]} times") for name in twins if counted[name] > 1)
    yield from (Violation("duplicates", f"{name} was written {n} times") for name, n in commits.items() if n > 1)


def _moved(world: World, before: Rows, after: Rows) -> Iterator[Violation]:
    """Rows that the plan does not name must be there to the byte; and no other may have come."""
    for identifier, row in before.items():
        if row[0] not in world.changes and after.get(identifier) != row:
            yield Violation("losses", f"{row[0]} moved though it is in no plan")
    for identifier, row in after.items():
        if row[0] not in world.changes and identifier not in before:
            yield Violation("duplicates", f"{row[0]} came though it is in no plan")


def _by_name(rows: Rows) -> dict[str, tuple[str, ...]]:
    return {row[0]: row for row in rows.values()}


def _is(row: tuple[str, ...] | None, text: str | None) -> bool:
    return (None if row is None else canonical_text(normal_form(json.loads(row[1])))) == text


def _keeps(was: tuple[str, ...], now: tuple[str, ...]) -> bool:
    return bool(json.loads(was[1]).get("limits") == json.loads(now[1]).get("limits"))


def leaks(texts: Iterable[str | bytes], secrets: Iterable[str]) -> Iterator[Violation]:
    """Secrets in what was printed, logged or left on the disk."""
    for text in texts:
        data = text if isinstance(text, bytes) else text.encode()
        yield from (Violation("leaks", "a secret was told") for secret in secrets if secret.encode() in data)
