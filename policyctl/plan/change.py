"""A change of one policy: what a live policy means for it, when it may run, and which unknown fields an update keeps.

Unknown fields are fields of a live policy that the format does not know. An update keeps them wherever the part that contains
them remains. They may affect traffic, which is not modelled; so they are named wherever the policy is shown, and nothing is
proven about it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from enum import Enum, auto
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from policyctl.plan.diff import FieldChange, fields_between, pair_targets
from policyctl.plan.references import Queue
from policyctl.policy.document import (
    BODY_KEYS,
    KNOWN_KEYS,
    PART_KEYS,
    TARGET_KEYS,
    Document,
    Policy,
    canonical_text,
    digest,
    normal_form,
    references,
)
from policyctl.policy.live import LivePolicy

if TYPE_CHECKING:
    from policyctl.effect.analysis import Effect


Action = Literal["add", "update", "remove"]
ACTIONS: tuple[Action, ...] = ("add", "update", "remove")


@dataclass(frozen=True, slots=True)
class Change:
    """What is to happen to one policy.

    `before` is the live policy's normal form (None for an add), `after` the document to write (None for a remove), `id`
    the live policy's id. `file` is the file of the policy, for people; it is not part of the plan's digest.
    """

    action: Action
    name: str
    id: str | None
    before: Document | None
    after: Document | None
    fields: tuple[FieldChange, ...] = ()
    file: str | None = None

    @property
    def needs(self) -> frozenset[str]:
        """The policies that must be there for this change's result to work."""
        return references(self.after) if self.after is not None else frozenset()

    @property
    def frees(self) -> frozenset[str]:
        """The policies that were needed before this change."""
        return references(self.before) if self.before is not None else frozenset()

    def before_digest(self) -> str | None:
        return None if self.before is None else digest(self.before)


def add(policy: Policy) -> Change:
    """The add of a policy that the remote does not have."""
    return Change("add", policy.name, None, None, policy.document, file=policy.file)


def update(policy: Policy, live: LivePolicy) -> Change | None:
    """The update from the live to the desired policy, or None if they are equal."""
    if equal(policy, live):
        return None
    # From the normal form, as all that a saved plan holds: from it the same fields can be found again.
    fields = fields_between(live.normal, policy.document)
    return Change("update", policy.name, live.id, live.normal, policy.document, fields, policy.file)


def equal(policy: Policy, live: LivePolicy) -> bool:
    """Whether the desired and the live policy are equal."""
    # Most rows equal the desired text, which needs no normal form.
    row = canonical_text({key: live.document.get(key) for key in KNOWN_KEYS})
    return row == policy.text or canonical_text(normal_form(policy.document)) == live.text


def remove(live: LivePolicy) -> Change:
    """The remove of a live policy without a file."""
    return Change("remove", live.name, live.id, live.normal, None)


Status = Literal["applied", "already", "failed", "skipped"]
GOOD: frozenset[Status] = frozenset({"applied", "already"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one change, and the reason if it was not applied.

    `sent` is how many of its writes may have been carried out; `id` is the id of an added policy, if
    the remote returned it. `written` is the document of an update that keeps fields which the format does not know.
    """

    change: Change
    status: Status
    reason: str = ""
    sent: int = 0
    id: str | None = None
    written: Document | None = None


class LiveState(Enum):
    """The live policy compared with a change."""

    DO = auto()  # live equals before
    ALREADY = auto()  # live equals after
    STALE = auto()  # live equals neither


def live_state(change: Change, live: LivePolicy | None) -> LiveState:
    """Compare the live policy of that name (None: there is none) with what the change replaces and what it wants.

    Asked three times: for all changes before the first write, for each directly before its write, and to find out what
    became of a write whose answer was lost.
    """
    if live is None:
        if change.after is None:
            return LiveState.ALREADY
        return LiveState.DO if change.before is None else LiveState.STALE
    if change.after is not None and live.text == canonical_text(normal_form(change.after)):
        return LiveState.ALREADY
    if change.before is None or live.text != canonical_text(change.before):
        return LiveState.STALE
    return LiveState.DO if live.id == change.id else LiveState.STALE


def drifted_fields(change: Change, live: LivePolicy | None) -> tuple[FieldChange, ...]:
    """The fields of the live policy that changed since the plan was made; for a stale change."""
    if live is None:
        return (FieldChange("policy", "live", None),)
    if change.before is None:
        return (FieldChange("policy", None, "live"),)
    fields = fields_between(change.before, live.document)
    return fields or (FieldChange("id", change.id, live.id),)


def unapplied_fields(change: Change, live: LivePolicy | None) -> tuple[str, ...]:
    """The fields of the live policy that differ from the change; for one that was not applied."""
    if live is None:
        return ("it is not there",)
    if change.after is None:
        return ("it is still there",)
    return tuple(field.path for field in fields_between(live.document, change.after))


class Schedule:
    """Which changes may run now. A change waits for those that must come before it, and is skipped when one of them failed."""

    def __init__(self, changes: Iterable[Change]) -> None:
        self._queue = Queue(changes)
        self._bad: set[str] = set()

    def batch(self, size: int) -> list[Change]:
        """Up to `size` changes that may run at once. Each is handed out once; empty when all have been."""
        return self._queue.take(size)

    def finish(self, outcome: Outcome) -> None:
        """Record the outcome of a change that was handed out."""
        if outcome.status not in GOOD:
            self._bad.add(outcome.change.name)
        self._queue.finish(outcome.change.name)

    def why_skip(self, change: Change) -> str | None:
        """Why a change must be skipped: something that it needs failed. None if nothing did."""
        failed = sorted(self._queue.needs[change.name] & self._bad)
        return f"{', '.join(failed)} did not work" if failed else None


def keep_unknown_fields(row: Document, desired: Document) -> Document:
    """The document to write over a live row (its document, without the server's keys).

    For the format's own fields `desired` decides, absent means removed. Keys that the format does not know come from the
    row, at every level that is still there, and the row keeps its own spelling of the name. Nulls are never sent.
    """
    written = {**dict(_unknown(row, KNOWN_KEYS)), **deepcopy(desired), "name": row["name"]}
    for part in _parts(row.get("policy"), written["policy"], BODY_KEYS, "policy"):
        if part.after is not None:
            for key, value in _unknown(part.row, part.known):
                part.after.setdefault(key, value)
    return written


_NAMED = 3  # policies that a note names


class UnknownField(NamedTuple):
    """One such field: its path, written as that of a difference, its value, and whether an update keeps it."""

    path: str
    value: Any
    kept: bool = True


def unknown_fields(row: Document, after: Document | None = None) -> tuple[UnknownField, ...]:
    """The unknown fields of a live policy's document, by path; `after` is what is to be written over it, if anything.

    Only of what the gateway runs: keys beside `policy` are the remote's own bookkeeping.
    """
    if not _has_any(row.get("policy"), BODY_KEYS):
        return ()  # as nearly every policy, of which there may be thousands
    return tuple(sorted(_fields(row["policy"], (after or row).get("policy")), key=attrgetter("path")))


def has_extras(document: Document) -> bool:
    """Whether a live policy's document has any unknown field, beside `policy` too."""
    return any(_unknown(document, KNOWN_KEYS)) or bool(unknown_fields(document))


def uncounted(effect: Effect) -> Effect:
    """The effect of a change where a policy of either version, or one that it leads to, has such fields.

    The same policy stays the same policy. Other words for it may be given to other targets than those with the fields, as with
    an answer cache; so nothing is proven.
    """
    if effect.kind in ("metadata", "unknown"):
        return effect
    return replace(effect, kind="effective", sure=False, uncounted=True)


def lost_extras(written: Document, now: Document) -> tuple[str, ...]:
    """The paths of unknown fields that were written and that the live document does not have, or has with another value.

    Of the remote's own bookkeeping, beside `policy`, only what is not there any more.
    """
    gone = [key for key, _ in _unknown(written, KNOWN_KEYS) if now.get(key) is None]
    has = {field.path: field.value for field in unknown_fields(now)}
    return (*gone, *(field.path for field in unknown_fields(written) if has.get(field.path) != field.value))


def _has_any(group: Any, known: Collection[str]) -> bool:
    """Whether a group, a part of it or a target has a key that the format does not know."""
    if not isinstance(group, dict):
        return False
    if any(key not in known for key in group):
        return True
    parts = ((group.get(part), part_keys) for part, part_keys in PART_KEYS.items() if part in group)
    if any(isinstance(part, dict) and not part.keys() <= part_keys for part, part_keys in parts):
        return True
    targets = group.get("targets")
    return isinstance(targets, list) and any(_has_any(target, TARGET_KEYS) for target in targets)


def _fields(row: Any, after: Any) -> Iterator[UnknownField]:
    for part in _parts(row, after, BODY_KEYS, "policy"):
        kept = part.after is not None
        yield from (UnknownField(f"{part.path}.{key}", value, kept) for key, value in _unknown(part.row, part.known))


class _Part(NamedTuple):
    """A mapping in a live policy's body, and the one that replaces it (None: nothing does). `known` are the format's keys."""

    path: str
    row: Document
    after: Document | None
    known: Collection[str]


def _parts(row: Any, after: Any, known: Collection[str], path: str) -> Iterator[_Part]:
    """A group or target, its strategy, retry and cache where the format has them, and its targets, paired with what follows."""
    if not isinstance(row, dict):
        return
    after = after if isinstance(after, dict) else None
    yield _Part(path, row, after, known)
    below = after or {}
    for key in PART_KEYS.keys() & known:
        if isinstance(row.get(key), dict):
            part = below.get(key)
            yield _Part(f"{path}.{key}", row[key], part if isinstance(part, dict) else None, PART_KEYS[key])
    if isinstance(row.get("targets"), list):
        targets = below.get("targets")
        targets = targets if isinstance(targets, list) else []
        for label, was, becomes in pair_targets(row["targets"], targets):
            if was is not None:
                child = None if becomes is None else targets[becomes]
                yield from _parts(row["targets"][was], child, TARGET_KEYS, f"{path}.targets[{label}]")


def _unknown(row: Document, known: Collection[str]) -> Iterator[tuple[str, Any]]:
    return ((key, value) for key, value in row.items() if key not in known and value is not None)


def unknown_field_notes(found: Mapping[str, tuple[UnknownField, ...]], text_of: Callable[[str], str] = str) -> Iterator[str]:
    """Notes on these live policies (by name), one sentence for all with the same fields. `text_of` formats a path."""
    alike: defaultdict[tuple[bool, tuple[str, ...]], list[str]] = defaultdict(list)
    for name, fields in sorted(found.items()):
        for kept in (True, False):
            if paths := tuple(field.path for field in fields if field.kept is kept):
                alike[kept, paths].append(name)
    for (kept, paths), names in alike.items():
        who = f"policy {names[0]} also has" if len(names) == 1 else f"policies {_listed(names)} also have"
        it, them = ("it", "it") if len(paths) == 1 else ("they", "them")
        stays = "is kept" if it == "it" else "are kept"
        goes = "goes" if it == "it" else "go"
        becomes = stays if kept else f"{goes} with what is removed around {them}"
        yield f"the live {who} {', '.join(map(text_of, paths))}; {it} {becomes}, and effects on traffic ignore {them}"


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= _NAMED + 1 else f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED:,} more"
