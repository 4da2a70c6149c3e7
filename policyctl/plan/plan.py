"""A plan: ordered changes as a value, with its digest and what else the comparison found.

A change is of one policy or virtual model: what the live one means for it, when it may run, and what is written.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Literal, NamedTuple

from policyctl.errors import PolicyctlError, Refused
from policyctl.plan.diff import FieldChange, fields_between, fields_written, keep_unknown_fields, moved_fields
from policyctl.plan.references import Queue, ordered
from policyctl.plan.settings import Override, Settings
from policyctl.policy.document import (
    Document,
    Policy,
    canonical_text,
    digest,
    model_names,
    normal_form,
    references,
)
from policyctl.policy.live import Live, LivePolicy, LiveRows, UnreadableRow
from policyctl.policy.names import MODEL_PREFIX, POLICY_PREFIX, Kind, kind_of, matches, virtual_model
from policyctl.policy.virtual_model import LiveModel, VirtualModel, lost_secrets, masked_extras, settled, written
from policyctl.policy.virtual_model import normal_form as normal_model


class BlockedChange(NamedTuple):
    """A policy that cannot be planned because of rows on the remote: their ids, and the reason."""

    name: str
    ids: tuple[str, ...]
    reason: str


class Counts(NamedTuple):
    """Live policies that the plan leaves alone: equal, out of scope, in scope but not removed, not selected.

    `managed` is the number of live policies that the directory manages, the base of limits in percent. `blocked` are
    the policies that rows of the remote block, and `unreadable` the other rows that could not be read and are of a name in
    scope, or of none: what these are was not compared.
    """

    unchanged: int = 0
    outside_scope: int = 0
    unmanaged: int = 0
    unselected: int = 0
    managed: int = 0
    blocked: int = 0
    unreadable: int = 0

    @property
    def whole(self) -> bool:
        """Whether everything that the directory manages was compared."""
        return not (self.blocked or self.unreadable)


class Plan(NamedTuple):
    """What apply would do: to which environment on which remote, under which configuration, and the changes in order.

    Of the directory's own policies that it leaves alone, `kept` are those that match the files and may target others,
    and `unselected` those that are not selected.
    `config` is the digest of the `settings` that affect the plan, where those are known.
    `overrides` are the safety settings that were overridden for it: approving the plan approves them too. So they do
    with what it does by way of other policies: `traffic` has a hash for each policy that it moves so (see `traffic_of`).
    `to` is the commit whose files it goes back to; empty for the files as they are. It is not in the digest: a revert of those
    files has the same plan, and approving one approves what the other does. `made` is when it was made, if it was saved.
    `edited` are the policies and models that differ in the files from those of the base, whatever is live; None without a
    base, or where its files cannot all be read. `access` is a hash of how the remote is reached (see `access_at`), if that is
    known: it is not in the digest, since a digest is compared only once that was used.
    """

    environment: str
    remote: str
    config: str
    changes: tuple[Change, ...]
    counts: Counts = Counts()
    blocked: tuple[BlockedChange, ...] = ()
    kept: frozenset[str] = frozenset()
    unselected: frozenset[str] = frozenset()
    settings: Mapping[str, Any] = {}
    overrides: tuple[Override, ...] = ()
    traffic: Mapping[str, str] = {}
    to: str = ""
    made: str = ""
    edited: frozenset[str] | None = None
    access: str = ""

    @property
    def digest(self) -> str:
        """The hash of what apply would do, to the policies that it leaves alone too. It holds no time and no file."""
        return digest(
            {
                "environment": self.environment,
                "remote": self.remote,
                "config": self.config,
                "changes": [change.content for change in self.changes],
                "overrides": sorted({override.text for override in self.overrides}),
                **({"traffic": dict(self.traffic)} if self.traffic else {}),
            }
        )

    @property
    def prints(self) -> tuple[str, ...]:
        """A short hash of each change, the same in every plan of this environment and remote that has the change, after one of
        what it changes.

        So the changes of several plans can be added up where only their hashes are kept. 160 bits: to find two changes with one
        of them is out of reach, even for one author who makes both.
        """
        from policyctl.plan.approval import print_of  # most plans are shown, and nothing is approved

        where = [self.environment, self.remote]
        return tuple(print_of([self.environment, one.name], [where, *one.content]) for one in self.changes)

    @property
    def replaces(self) -> tuple[str, ...] | None:
        """Hashes of what the files have changed since the base though the plan leaves it as it is: what was approved for it
        before counts no longer. None if that is not known."""
        from policyctl.plan.approval import print_of, subject_of  # as above

        if self.edited is None:
            return None
        left = sorted(self.edited.difference(self.changed))
        return tuple(subject_of(print_of([self.environment, name], [])) for name in left)

    @property
    def changed(self) -> tuple[str, ...]:
        """The name of what each change is about."""
        return tuple(change.name for change in self.changes)

    @property
    def environments(self) -> dict[str, int]:
        """Empty: the changes are all in this one environment."""
        return {}

    @property
    def has_models(self) -> bool:
        """Whether virtual models are among the changes."""
        return any(change.kind == "model" for change in self.changes)

    @property
    def policies(self) -> tuple[Change, ...]:
        """The changes of policies, which are those that the effect engine looks at."""
        return tuple(change for change in self.changes if change.kind == "policy")

    def count(self, action: Action) -> int:
        """How many changes of one kind the plan has."""
        return Counter(change.action for change in self.changes)[action]

    @property
    def totals(self) -> dict[Action, int]:
        """How many changes of each kind the plan has."""
        return {action: self.count(action) for action in ACTIONS}


class Selection(NamedTuple):
    """Which policies a run is about: those that match `only` (all, when empty) and not `exclude`."""

    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def takes(self, name: str) -> bool:
        return (not self.only or matches(name, self.only)) and not matches(name, self.exclude)


def make_plan(
    *,
    environment: str,
    remote: str,
    config: str,
    desired: Sequence[Desired],
    observed: LiveRows,
    settings: Settings,
    removes: bool,
    selection: Selection = Selection(),
    spell: Callable[[Policy], Policy] = lambda policy: policy,
) -> Plan:
    """Compare the `desired` policies and models of the directory with the rows `observed` on the remote.

    `removes` is whether live policies without a file may be removed at all (a written scope or the embedded remote, and prune
    on). `spell` returns a policy with its models spelled as the remote knows them; it is called only for policies that differ
    from the live one as written, so that a file that matches the live policy changes nothing. Raises Refused when the
    selection includes a change but not the new policy that it needs.
    """
    wanted = {policy.name: policy for policy in desired}
    blocked = blocked_by_rows(wanted, observed, settings)
    names = {block.name for block in blocked}
    compared = [_change(policy, observed.live.get(policy.name), spell) for policy in desired if policy.name not in names]
    changes = [change for change in compared if change is not None]
    counts = Counter(unchanged=len(compared) - len(changes))
    for live in observed.live.values():
        if live.name not in wanted and live.name not in names:
            _consider_remove(live, settings, removes, changes, counts)
    selected = [change for change in changes if selection.takes(change.name)]
    unselected = [change for change in changes if not selection.takes(change.name)]
    _refuse_missing_needs(selected, unselected)
    named = sum(policy.name in observed.live and settings.in_scope(policy.name) for policy in desired)
    removable = sum(change.action == "remove" for change in changes)
    totals = Counts(
        **counts,
        unselected=len(unselected),
        managed=named + removable,
        blocked=len(blocked),
        unreadable=unread_rows(wanted, observed, settings),
    )
    left = frozenset(change.name for change in unselected)
    others = left | names | {change.name for change in selected}
    kept = frozenset(one.name for one in desired if one.name not in others and _may_target_policies(one))
    return Plan(environment, remote, config, ordered(selected), totals, blocked, kept, left)


def _may_target_policies(policy: Desired) -> bool:
    """Whether a policy has a target that may be a policy. Counted in its text, which is cheaper than parsing it."""
    return policy.text.count('"model_name":"') != policy.text.count(f'"model_name":"{MODEL_PREFIX}')


def _change(desired: Desired, live: Live | None, spell: Callable[[Policy], Policy]) -> Change | None:
    if live is not None and equal(desired, live):
        return None
    spelled = spell(desired) if isinstance(desired, Policy) else desired
    return add(spelled) if live is None else update(spelled, live)


def _consider_remove(live: Live, settings: Settings, removes: bool, changes: list[Change], counts: Counter[str]) -> None:
    if not settings.in_scope(live.name):
        counts["outside_scope"] += 1
    elif removes:
        changes.append(remove(live))
    else:
        counts["unmanaged"] += 1


def blocked_by_rows(wanted: Collection[str], observed: LiveRows, settings: Settings) -> tuple[BlockedChange, ...]:
    """Policies and models blocked by twins in scope, or by unreadable rows of a name that is wanted or that a readable row in
    scope has too: reported, and left alone."""
    return tuple(_blocked(wanted, observed, settings))


def unread_rows(wanted: Collection[str], observed: LiveRows, settings: Settings) -> int:
    """How many rows could not be read that block nothing, but whose policies the directory may manage."""
    rows = (row for row in observed.unreadable if not _blocks(row, wanted, observed, settings))
    return sum(row.count for row in rows if row.name is None or settings.in_scope(row.name))


def _blocks(row: UnreadableRow, wanted: Collection[str], observed: LiveRows, settings: Settings) -> bool:
    return row.name is not None and (row.name in wanted or (row.name in observed.live and settings.in_scope(row.name)))


def _blocked(wanted: Collection[str], observed: LiveRows, settings: Settings) -> Iterator[BlockedChange]:
    for twins in observed.twins:
        if settings.in_scope(twins.name):
            yield BlockedChange(twins.name, twins.ids, twins.reason)
    for row in observed.unreadable:
        if row.name is not None and _blocks(row, wanted, observed, settings):
            yield BlockedChange(row.name, (row.id,) if row.id else (), f"{row.reason}; repair it on the remote")


def _refuse_missing_needs(selected: list[Change], unselected: list[Change]) -> None:
    new = {change.name for change in unselected if change.action == "add"}
    for change in selected:
        for name in sorted(change.comes_after & new):
            raise Refused(f"{change.name} targets the new {kind_of(name)} {name}, which is not selected; select both")


def renames(plan: Plan) -> Iterator[str]:
    """A sentence for every added policy with the content of exactly one removed policy."""
    added, removed = _by_content(plan, "add"), _by_content(plan, "remove")
    for content, names in added.items():
        if len(names) == len(old := removed.get(content, [])) == 1:
            yield f"{names[0]} is added with the content of the removed {old[0]}: a rename? Requests for the old name will fail"


def _by_content(plan: Plan, action: Action) -> dict[str, list[str]]:
    """The names of the added, or removed, policies by their content."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for change in plan.changes:
        document = change.after or change.before
        if change.kind == "policy" and change.action == action and document is not None:
            found[_content(normal_form(document))].append(change.name)
    return found


def _content(normal: Document) -> str:
    """A policy's content without its name, which its texts default to."""
    texts = [None if normal[key] == normal["name"] else normal[key] for key in ("display_name", "description")]
    return canonical_text([texts, normal["policy"]])


Action = Literal["add", "update", "remove"]
ACTIONS: tuple[Action, ...] = ("add", "update", "remove")


class Change(NamedTuple):
    """What is to happen to one policy or virtual model.

    `before` is the normal form of the live one (None for an add), `after` the document to write (None for a remove), `id`
    its id. `file` is the file that wants it, for people; it is not part of the plan's digest. `moved` are the fields that the
    format does not know and that the update moves or loses; they are among its `fields`.
    """

    action: Action
    name: str
    id: str | None
    before: Document | None
    after: Document | None
    fields: tuple[FieldChange, ...] = ()
    file: str | None = None
    moved: tuple[FieldChange, ...] = ()

    @property
    def content(self) -> list[Any]:
        """All that it does, as it is hashed."""
        return [self.action, self.name, self.id, self.before, self.after, *([list(self.moved)] if self.moved else [])]

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
    fields, moved = fields_written(live.normal, after), moved_by(live, after)
    return Change("update", desired.name, live.id, live.normal, after, (*fields, *moved), desired.file, moved)


def moved_by(live: Live, after: Document) -> tuple[FieldChange, ...]:
    """The fields unknown to the format that writing `after` over a live policy moves or loses; of a model it keeps all."""
    return moved_fields(live.document, after) if isinstance(live, LivePolicy) else ()


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
    same = live.id == change.id and (change.after is None or moved_by(live, change.after) == change.moved)
    return LiveState.DO if same else LiveState.STALE


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
    if fields := fields_between(change.before, live.normal):
        return fields
    if change.id != live.id or change.after is None:
        return (FieldChange("id", change.id, live.id),)
    moved = moved_by(live, change.after)
    return tuple(one for one in (*change.moved, *moved) if one not in change.moved or one not in moved)


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
