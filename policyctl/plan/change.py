"""A change of one policy or virtual model: what the live one means for it, when it may run, and what is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal, NamedTuple

from policyctl.errors import PolicyctlError
from policyctl.plan.diff import FieldChange, fields_between, fields_written
from policyctl.plan.references import Queue
from policyctl.plan.unknown_fields import keep_unknown_fields
from policyctl.policy.document import (
    Document,
    Policy,
    canonical_text,
    digest,
    model_names,
    normal_form,
    references,
)
from policyctl.policy.live import Live, LivePolicy, LiveRows
from policyctl.policy.names import POLICY_PREFIX, Kind, kind_of, virtual_model
from policyctl.policy.virtual_model import LiveModel, VirtualModel, lost_secrets, masked_extras, settled, written
from policyctl.policy.virtual_model import normal_form as normal_model

Action = Literal["add", "update", "remove"]
ACTIONS: tuple[Action, ...] = ("add", "update", "remove")


class Change(NamedTuple):
    """What is to happen to one policy or virtual model.

    `before` is the normal form of the live one (None for an add), `after` the document to write (None for a remove), `id`
    its id. `file` is the file that wants it, for people; it is not part of the plan's digest.
    """

    action: Action
    name: str
    id: str | None
    before: Document | None
    after: Document | None
    fields: tuple[FieldChange, ...] = ()
    file: str | None = None

    @property
    def kind(self) -> Kind:
        """What is changed."""
        return kind_of(self.name)

    @property
    def needs(self) -> frozenset[str]:
        """The policies that must be there for this change's result to work."""
        return references(self.after) if self.after is not None else frozenset()

    @property
    def frees(self) -> frozenset[str]:
        """The policies that were needed before this change."""
        return references(self.before) if self.before is not None else frozenset()

    @property
    def comes_after(self) -> frozenset[str]:
        """The policies and virtual models that must be there before this change."""
        return uses(self.after) if self.after is not None else frozenset()

    @property
    def comes_before(self) -> frozenset[str]:
        """The policies and virtual models that may only go after this change."""
        return uses(self.before) if self.before is not None else frozenset()

    def before_digest(self) -> str | None:
        return None if self.before is None else digest(self.before)


Desired = Policy | VirtualModel


def add(desired: Desired) -> Change:
    """The add of a policy or model that the remote does not have."""
    return Change("add", desired.name, None, None, desired.document, file=desired.file)


def update(desired: Desired, live: Live) -> Change | None:
    """The update from the live to the desired version, or None if they are equal."""
    if equal(desired, live):
        return None
    after = settled(desired.document, live) if isinstance(live, LiveModel) else desired.document
    # From the normal form, as all that a saved plan holds: from it the same fields can be found again.
    fields = fields_written(live.normal, after)
    return Change("update", desired.name, live.id, live.normal, after, fields, desired.file)


def equal(desired: Desired, live: Live) -> bool:
    """Whether the desired and the live version are equal."""
    if isinstance(live, LiveModel):
        return canonical_text(normal_model(settled(desired.document, live))) == live.text
    # Most rows equal the desired text, which needs no normal form.
    return is_as_written(desired, live) or canonical_text(normal_form(desired.document)) == live.text


def is_as_written(desired: Desired, live: Live | None) -> bool:
    """Whether a live policy has the very text of the desired one, so that it has no field in it that no file may have."""
    return isinstance(live, LivePolicy) and live.known == desired.text


def is_already(live: Live, after: Document) -> bool:
    """Whether the live version is the wanted one."""
    # Most of what was written is read back as it was sent, which needs no normal form.
    as_sent = isinstance(live, LivePolicy) and live.known == canonical_text(after)
    return as_sent or live.text == canonical_text(normal_of(after))


def remove(live: Live) -> Change:
    """The remove of a live policy or model without a file."""
    return Change("remove", live.name, live.id, live.normal, None)


def normal_of(document: Document) -> Document:
    """The normal form of a document that a change wants, which has its canonical name."""
    return normal_model(document) if kind_of(document["name"]) == "model" else normal_form(document)


def uses(document: Document) -> frozenset[str]:
    """The canonical names of the policies and virtual models that a policy's targets may mean; a model has no targets."""
    models = (virtual_model(name) for name in model_names(document) if not name.startswith(POLICY_PREFIX))
    return references(document).union(models)


def document_to_write(live: Live | None, after: Document) -> Document:
    """What to send for a change that wants `after`, with all that is to survive of the live row that it is written over.

    Raises PolicyctlError where a secret is to survive that the remote only shows a mask of.
    """
    if kind_of(after["name"]) == "model":
        if isinstance(live, LiveModel) and (why := why_secrets_are_lost(live, after)):
            raise PolicyctlError(why)
        return written(live if isinstance(live, LiveModel) else None, after)
    return after if live is None else keep_unknown_fields(live.document, after)


def why_secrets_are_lost(live: LiveModel, after: Document) -> str | None:
    """Why a live model cannot be updated to `after`: one sentence; None where it can."""
    if keys := lost_secrets(live, after):
        remedy = "make a connection that holds it and write its app_id in the file"
    elif keys := masked_extras(live):
        remedy = "clear it on the remote, or remove the model and add it again"
    else:
        return None
    return (
        f"{live.name} has its own {', '.join(keys)} on the remote, which shows only a mask or a part of it, so an update would "
        f"lose it; {remedy}"
    )


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
    written: Document | None = field(default=None, repr=False)  # with secrets, as the remote shows them


class ModelTest(NamedTuple):
    """What the platform reported when it was asked to test a model. `detail` is why a test failed, or was not made."""

    name: str
    status: Literal["passed", "failed", "skipped", "not known"]
    detail: str = ""


class LiveState(Enum):
    """The live policy compared with a change."""

    DO = auto()  # live equals before
    ALREADY = auto()  # live equals after
    STALE = auto()  # live equals neither


def live_state(change: Change, live: Live | None) -> LiveState:
    """Compare the live policy of that name (None: there is none) with what the change replaces and what it wants.

    Asked three times: for all changes before the first write, for each directly before its write, and to find out what
    became of a write whose answer was lost.
    """
    if live is None:
        if change.after is None:
            return LiveState.ALREADY
        return LiveState.DO if change.before is None else LiveState.STALE
    if change.after is not None and is_already(live, change.after):
        return LiveState.ALREADY
    if change.before is None or live.text != canonical_text(change.before):
        return LiveState.STALE
    return LiveState.DO if live.id == change.id else LiveState.STALE


def is_open(change: Change, observed: LiveRows) -> bool:
    """Whether a later look may show more of a write: nothing has happened yet, or a row is not complete yet."""
    if any(row.name == change.name for row in observed.unreadable):
        return True
    return change.name not in observed.obstacles() and live_state(change, observed.live.get(change.name)) is LiveState.DO


def drifted_fields(change: Change, live: Live | None) -> tuple[FieldChange, ...]:
    """The fields of the live policy that changed since the plan was made; for a stale change."""
    if live is None:
        return (FieldChange(change.kind, "live", None),)
    if change.before is None:
        return (FieldChange(change.kind, None, "live"),)
    fields = fields_between(change.before, live.normal)
    return fields or (FieldChange("id", change.id, live.id),)


def unapplied_fields(change: Change, live: Live | None) -> tuple[str, ...]:
    """The fields of the live policy that differ from the change; for one that was not applied."""
    if live is None:
        return ("it is not there",)
    if change.after is None:
        return ("it is still there",)
    return tuple(field.path for field in fields_between(live.normal, change.after))


def why_too_early(change: Change, before: Iterable[Change], observed: LiveRows) -> str | None:
    """Why a change must not be made yet, although the changes `before` it were answered as done: a remote may answer first and
    write later, or not at all. `observed` is what a look-up shows."""
    for earlier in before:
        row = observed.live.get(earlier.name)
        if change.after is not None and not observed.has(earlier.name):
            return f"{earlier.name} was added, and the remote does not show it"
        if change.after is None and isinstance(row, LivePolicy) and change.name in uses(row.document):
            return f"{earlier.name} was changed, and on the remote it still targets {change.name}"
    return None


class Schedule:
    """Which changes may run now. A change waits for those that must come before it, and is skipped when one of them failed."""

    def __init__(self, changes: Iterable[Change]) -> None:
        self._queue = Queue(changes)
        self._bad: set[str] = set()
        self._answered: dict[str, Change] = {}

    def batch(self, size: int) -> list[Change]:
        """Up to `size` changes that may run at once. Each is handed out once; empty when all have been."""
        return self._queue.take(size)

    def finish(self, outcome: Outcome) -> None:
        """Record the outcome of a change that was handed out."""
        if outcome.status not in GOOD:
            self._bad.add(outcome.change.name)
        if outcome.status == "applied":
            self._answered[outcome.change.name] = outcome.change
        self._queue.finish(outcome.change.name)

    def relied_on(self, batch: Iterable[Change]) -> dict[str, list[Change]]:
        """By name, the changes before each of these that were answered as done and that nothing has shown yet."""
        return {
            change.name: [self._answered[name] for name in self._queue.needs[change.name] if name in self._answered]
            for change in batch
        }

    def shown(self, names: Iterable[str]) -> None:
        """Record that a look-up showed what these changes did."""
        for name in names:
            self._answered.pop(name, None)

    def why_skip(self, change: Change) -> str | None:
        """Why a change must be skipped: something that it needs failed. None if nothing did."""
        failed = sorted(self._queue.needs[change.name] & self._bad)
        return f"{', '.join(failed)} did not work" if failed else None
