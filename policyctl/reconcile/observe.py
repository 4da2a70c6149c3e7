"""Reading the remote: every policy in its list, or single ones looked up by name; who uses them; and reading back.

Consumers are also read from the directory's other files. What uses a policy prevents its removal.

The list and the look-up by name are two readings of one remote: whether they agree, and whether what apply wrote is in both, is
found here too. The next plan is made from the list, so that one counts too.
"""

from __future__ import annotations

import marshal
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from hashlib import sha256
from shlex import quote
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from policyctl.errors import Incomplete, PolicyctlError, RemoteError
from policyctl.load.directory import ConsumerDocument, Loaded
from policyctl.load.urls import GIT
from policyctl.plan.consumers import (
    MILD,
    Consumer,
    Consumers,
    ConsumerUse,
    FoundConsumers,
    consumers_of,
    counted_consumers,
    path_of,
    phrase,
)
from policyctl.plan.diff import fields_between, lost_extras
from policyctl.plan.plan import GOOD, Change, LiveState, Outcome, live_state, unapplied_fields
from policyctl.policy.document import Document
from policyctl.policy.findings import Finding, listed
from policyctl.policy.live import Live, LivePolicy, LiveRows, id_of, named_rows, observe_rows, read_row
from policyctl.policy.names import Kind, canonical, kind_of
from policyctl.policy.virtual_model import VirtualModelRow
from policyctl.remote import Reader

if TYPE_CHECKING:
    from policyctl.plan.safety import Review
    from policyctl.plan.settings import Settings


CONTRADICTS = "the remote contradicts itself"
NOT_READ = {"consumers (--no-consumers)": "--no-consumers is given"}
_MOST_RELEASED = 5  # agents named in a note


def observe(reader: Reader, on_row: Callable[[], object] = lambda: None, kind: Kind | None = None) -> LiveRows:
    """Everything on the remote, or only what is of one `kind`; `on_row` is called for each row. The result of a git revision is
    not `whole`: it has the policies of one directory, and there may be others."""
    rows = (row for row in reader.rows() if kind is None or isinstance(row, VirtualModelRow) is (kind == "model"))
    observed = observe_rows(_row_count(rows, on_row))
    return observed._replace(whole=not reader.identity.startswith(GIT))


def look_up(reader: Reader, names: Collection[str]) -> LiveRows:
    """The policies of these canonical names, as they are right now."""
    return observe_rows(reader.find(names))


def _row_count(rows: Iterable[Any], on_row: Callable[[], object]) -> Iterator[Any]:
    for row in rows:
        yield row
        on_row()


def find_live(reader: Reader, name: str, environment: str) -> Live:
    """The live policy or virtual model of this canonical name. Raises PolicyctlError when there is none, and as `find_those`
    does."""
    found, kind = _readable(reader, {name}).live, kind_of(name)
    if name not in found:
        raise PolicyctlError(f"no {kind} {name} on {environment}; see policyctl {kind} list")
    return found[name]


def find_those(reader: Reader, names: Collection[str]) -> Mapping[str, LivePolicy]:
    """The live policies of these canonical names. Raises Incomplete for several of one name or an unreadable row."""
    return _readable(reader, names).policies


def _readable(reader: Reader, names: Collection[str]) -> LiveRows:
    observed = look_up(reader, names)
    for twins in observed.twins:
        raise Incomplete(f"{twins.name}: {twins.reason} (ids {', '.join(twins.ids)})")
    for row in observed.unreadable:
        raise Incomplete(f"{row.name} cannot be read: {row.reason} (id {row.id or 'unknown'}); repair it on the remote")
    return observed


def read_consumers(reader: Reader, loaded: Loaded | None, policies: Mapping[str, Document]) -> Consumers:
    """Who uses what, by the lists of the remote, the directory's other files, and the targets of these policies (documents by
    canonical name). What cannot be read is in the result."""
    found = _consumers_besides_policies(reader, loaded)
    found.policies(policies)
    return found


def _consumers_besides_policies(reader: Reader, loaded: Loaded | None) -> Consumers:
    sources = reader.sources()
    listed = cache(partial(_listed, reader))
    found = Consumers(listed=listed) if sources is None else consumers_of(sources, listed)
    for consumer, document in _in_files(loaded).items():
        found.add(consumer, document.consumer.uses, document.consumer.collaborators)
    return found


def _listed(reader: Reader) -> frozenset[str]:
    """The platform's own models, which have no prefix. Where that is not known there are none, so that a name counts as use."""
    if reader.embedded:
        return frozenset()  # it has none, and may store a virtual model without its prefix
    try:
        return reader.models()
    except RemoteError:
        return frozenset()


def _in_files(loaded: Loaded | None) -> dict[Consumer, ConsumerDocument]:
    documents = loaded.consumers if loaded is not None else ()
    return {Consumer(one.consumer.kind, one.consumer.name, file=one.file): one for one in documents}


def uses_with_lines(found: Consumers, names: Iterable[str], loaded: Loaded | None) -> dict[str, tuple[ConsumerUse, ...]]:
    """Who uses each of these, by name, with the lines of those in files: `agents/billing.yaml:4`."""
    files = _in_files(loaded)
    return {name: tuple(_with_line(use, files.get(use.consumer), loaded) for use in found.of(name)) for name in names}


def _with_line(use: ConsumerUse, document: ConsumerDocument | None, loaded: Loaded | None) -> ConsumerUse:
    if document is None or loaded is None:
        return use
    mark = loaded.mark_of(document, Finding(path_of(use.field), "", "")).mark
    return use._replace(consumer=use.consumer._replace(file=f"{mark.file}:{mark.line}" if mark.line else mark.file))


def with_consumers(
    reviewed: Review, reader: Reader, loaded: Loaded | None, settings: Settings, *, read: bool = True, unseen: bool = False
) -> Review:
    """The review with who uses what it changes, and with refusals for removals that consumers prevent.

    Nothing is read for a plan without changes, nor unless `read`: then removals need `unseen`, as where a source cannot be
    read. An embedded remote on which no consumers are stored has none, and nothing is added.
    """
    if not reviewed.plan.changes or (not read and reader.identity.startswith(GIT)):
        return reviewed
    if not read:
        refusals = _refusals(reviewed, FoundConsumers(unread=NOT_READ), settings, unseen=unseen)
        note = "it was not read who uses what changes (--no-consumers)"
        return reviewed._replace(refusals=(*reviewed.refusals, *refusals), notes=(*reviewed.notes, note))
    consumers = _consumers_besides_policies(reader, loaded)
    if consumers.empty and (reader.embedded or reader.identity.startswith(GIT)):
        return reviewed
    consumers.policies(reviewed.policies_before)
    consumers.policies({change.name: change.after for change in reviewed.plan.policies if change.after is not None})
    names = [*(one.name for one in reviewed.plan.changes), *(one.name for one in reviewed.affected)]
    found = FoundConsumers(uses_with_lines(consumers, names, loaded), consumers.unread)
    refusals = _refusals(reviewed, found, settings, unseen=unseen)
    notes = [f"it is not known who uses what changes: {name} could not be read: {why}" for name, why in found.unread.items()]
    notes += _named_already(reviewed, found)
    if any(change.action != "add" for change in reviewed.plan.changes):
        notes += consumers.not_inspected(_MOST_RELEASED)
    return reviewed._replace(consumers=found, refusals=(*reviewed.refusals, *refusals), notes=(*reviewed.notes, *notes))


def _named_already(reviewed: Review, found: FoundConsumers) -> Iterator[str]:
    """What is new and named by live consumers already, maybe as a model until now: they are served otherwise then. Live
    policies that target it are affected."""
    new = {change.name: found.uses.get(change.name, ()) for change in reviewed.plan.changes if change.action == "add"}
    live = {name: [one.consumer for one in uses if not (one.through or one.consumer.file)] for name, uses in new.items()}
    live = {name: [one for one in some if one.kind not in MILD and one.kind != "policy"] for name, some in live.items()}
    if who := counted_consumers(dict.fromkeys(one for some in live.values() for one in some)):
        names = listed([name for name, some in live.items() if some])
        yield f"what is new is named by {who} already, whose requests go there from now on: {names}"


def _refusals(reviewed: Review, found: FoundConsumers, settings: Settings, *, unseen: bool) -> Iterator[str]:
    """The removals that consumers prevent: those in use, unless allowed by name, and all of them where a source could not be
    read, unless that is allowed (`unseen`). What is gone already is not removed."""
    removed = [one.name for one in reviewed.plan.changes if one.action == "remove" and one.name in reviewed.live]
    allowed = set(map(canonical, settings.allow_remove))
    for name in removed:
        if name not in allowed and (users := phrase(found.holding(name))):
            yield (
                f"{name} would be removed, but it is {users} (change what uses it first, or allow it with --allow-remove "
                f"{quote(name)})"
            )
    if removed and found.unread and not unseen:
        yield (
            f"it is not known who uses {_these(removed)}, since this could not be read: {', '.join(found.unread)} "
            "(allow it with --allow-unseen-consumers)"
        )


def _these(removed: Sequence[str]) -> str:
    return " and ".join(removed) if len(removed) < 3 else f"the {len(removed):,} that would be removed"


WAITS = (0.2, 0.5, 1.0, 2.0, 3.0)  # seconds between looks, for a remote that shows a write late
_SHOWN = 3  # names of a line


def verify(
    outcomes: Iterable[Outcome],
    reader: Reader,
    sleep: Callable[[float], None],
    before: Collection[str] | None = None,
    in_scope: Callable[[str], bool] = lambda _: True,
    documents: Mapping[str, Document] = MappingProxyType({}),
    models: Mapping[str, Live] = MappingProxyType({}),
    stopped: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Read back an apply: a line for each change that is not on the remote; empty when all are. See safety rule 8.

    Adds that failed are read back too: if one was sent, it may have been carried out, even several times. `before` are the
    names that the list had when the plan was made; they reveal a list that is cut short, because then policies `in_scope` come
    and go that nothing changed. `documents` are those policies in normal form, and `models` the live models; they
    reveal that a write changed another one of the scope. `sleep` waits between looks, for a remote that shows a write late.
    Once `stopped`, a remote that cannot be read is not waited for.
    """
    back = _ReadBack(outcomes, reader)
    if not back.names:
        return []
    for wait in (*WAITS, None):
        try:
            unverified = back.look(last=wait is None)
        except RemoteError as error:
            unverified = [f"the result could not be read back: {error}"]
            if stopped():
                break
        if not unverified or wait is None or not back.good:
            break
        sleep(wait)
    if back.listed is None:
        return unverified
    before = frozenset(before or ())
    try:
        return [
            *unverified,
            *back.of_failed(),
            *back.of_others(before, in_scope),
            *back.of_changed(documents, models, in_scope),
        ]
    except RemoteError as error:
        return [*unverified, f"the result could not be read back: {error}"]


class _ReadBack:
    """The changes of an apply that were not yet seen on the remote as they should be."""

    def __init__(self, outcomes: Iterable[Outcome], reader: Reader) -> None:
        self._reader = reader
        by_name = {outcome.change.name: outcome for outcome in outcomes}
        self.good = {name: outcome for name, outcome in by_name.items() if outcome.status in GOOD}
        self._failed = {
            name: outcome
            for name, outcome in by_name.items()
            if outcome.status == "failed" and outcome.change.action == "add" and outcome.sent
        }
        self._planned = by_name.keys()
        self._by_name, self._in_list = dict(self.good), dict(self.good)
        # Of each row that was looked up a mark and the id: of thousands, the rows themselves take a lot of memory.
        self._marks: dict[str, list[Any]] = {}
        self._ids: dict[str, list[str | None]] = {}
        self._rows_of_failed: dict[str, list[Any]] = {}
        self._shared: list[str] = []
        self.listed: Mapping[str, list[Any]] | None = None

    @property
    def names(self) -> frozenset[str]:
        return frozenset((*self._by_name, *self._failed))

    def look(self, *, last: bool) -> list[str]:
        """Look up by name what is left, then read the list. Returns a line for each change that is not as it should be.

        The list is read once everything is right by name, or on the `last` look.
        """
        lines: dict[str, str] = {}
        if names := self.names:
            lines = self._look_up(names)
            self._by_name = {name: outcome for name, outcome in self._by_name.items() if name in lines}
        if lines and not last:
            return [*lines.values()]
        rows = list(self._reader.rows())
        self.listed = named_rows(rows)
        self._shared = self._ids_of_others(rows)
        differ = [name for name in self._in_list if [*map(_mark, self.listed.get(name, ()))] != self._marks[name]]
        other = {name: self._in_list[name] for name in differ}
        unlike = _wrong(other, observe_rows(row for name in other for row in self.listed.get(name, ())))
        self._in_list = {name: outcome for name, outcome in other.items() if name in unlike or name in lines}
        disagree = [f"{CONTRADICTS}: in its list {line}" for name, line in unlike.items() if name not in lines]
        return [*lines.values(), *disagree, *self._shared]

    def _look_up(self, names: Collection[str]) -> dict[str, str]:
        """Look up policies by name. Returns a line, by name, for each change that is not as it should be."""
        found = self._reader.find(names)
        for name, rows in ({name: [] for name in names} | named_rows(found)).items():
            self._marks[name], self._ids[name] = [*map(_mark, rows)], [id_of(row) for row in rows]
            if name in self._failed:
                self._rows_of_failed[name] = rows
        return _wrong(self._by_name, observe_rows(found))

    def _ids_of_others(self, rows: Iterable[Any]) -> list[str]:
        """A line for each policy whose id another row of the list has too: the next plan could not distinguish them."""
        kinds = {name: kind_of(name) == "model" for name in self.good}
        own = {(kinds[name], found): name for name in self.good for found in self._ids[name] if found is not None}
        found = ((own.get((isinstance(row, VirtualModelRow), id_of(row) or "")), row) for row in rows)
        others = ((name, row) for name, row in found if name is not None and named_rows([row]).keys() != {name})
        return [f"{name} has the id {id_of(row)}, which another row of the remote has as well" for name, row in others]

    def of_failed(self) -> Iterator[str]:
        """A line for each failed add that is on the remote all the same, or whose row is unusable."""
        listed = self.listed or {}
        for name, outcome in self._failed.items():
            looked_up = self._rows_of_failed[name]
            rows = [row for row in listed.get(name, ()) if row not in looked_up]
            observed = observe_rows([*looked_up, *rows])
            if name in (obstacles := observed.obstacles()):
                yield f"{name}: {obstacles[name]}"
            elif live_state(outcome.change, observed.live.get(name)) is LiveState.ALREADY:
                yield f"{name} is there although its add failed (id {observed.live[name].id})"

    def of_others(self, before: Collection[str], in_scope: Callable[[str], bool]) -> Iterator[str]:
        """A line for policies that were not changed and yet appeared in the list, or disappeared from it."""
        done = {outcome.change.action for outcome in self.good.values() if outcome.status == "applied"}
        listed = self.listed or {}
        if "remove" in done and before:
            new = (name for name in listed if name not in before and name not in self.good and in_scope(name))
            if names := [name for name in new if any(isinstance(read_row(row), Live) for row in listed[name])]:
                yield (
                    f"the list has {_few(names)}, which it did not have when the plan was made: "
                    "someone added it meanwhile, or the list is cut short; plan again"
                )
        gone = {name for name in before if name not in listed and name not in self.good}
        found = named_rows(self._reader.find(gone)) if gone and done else {}
        if found:
            shown = _few(sorted(found))
            yield f"{CONTRADICTS}: a look-up by name finds {shown}, which its list no longer has: the list is cut short"
        if done and (names := sorted(gone - found.keys())):
            yield (
                f"{_few(names)} {'is' if len(names) == 1 else 'are'} gone, and this apply did not remove "
                f"{'it' if len(names) == 1 else 'them'}: another client or the remote itself did"
            )

    def of_changed(
        self, documents: Mapping[str, Document], models: Mapping[str, Live], in_scope: Callable[[str], bool]
    ) -> Iterator[str]:
        """A line for policies and models that the plan leaves alone and that the list shows changed since before the apply."""
        if not any(outcome.status == "applied" for outcome in self.good.values()):
            return
        known = (documents.keys() | models.keys()) - self._planned
        others = {name: rows for name, rows in (self.listed or {}).items() if name in known}
        live = observe_rows(row for name, rows in others.items() if in_scope(name) for row in rows).live
        if names := sorted(
            name for name, row in live.items() if row.normal != (models[name].normal if name in models else documents[name])
        ):
            yield f"{_few(names)} changed without being in the plan: another client or the remote itself did that; plan again"


def _mark(row: Any) -> Any:
    """What distinguishes a row from others: the hash of a plain one, any other itself. The same row has another mark where its
    keys come in another order; then it is compared."""
    return sha256(marshal.dumps(dict(row), 2)).digest() if isinstance(row, dict) else row


def _few(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _wrong(outcomes: Mapping[str, Outcome], observed: LiveRows) -> dict[str, str]:
    """By name, a line for each change that was carried out and is not as it should be."""
    obstacles = observed.obstacles()
    found = ((name, _line_of(outcome, observed, obstacles)) for name, outcome in outcomes.items())
    return {name: line for name, line in found if line is not None}


def _line_of(outcome: Outcome, observed: LiveRows, obstacles: Mapping[str, str]) -> str | None:
    change = outcome.change
    live = observed.live.get(change.name)
    for twins in observed.twins:
        if twins.name == change.name and len(twins.rows) > 1:
            return f"{change.name} is there {len(twins.rows)} times (ids {', '.join(twins.ids)}); remove all but one by id"
    if change.name in obstacles:
        return f"{change.name}: {obstacles[change.name]}"
    if live_state(change, live) is not LiveState.ALREADY:
        return f"{change.name} was not applied: {', '.join(unapplied_fields(change, live))}{_kept(change, live)}"
    if live is not None and outcome.written is not None and (lost := lost_extras(outcome.written, live.document, change.kind)):
        return f"{change.name} did not keep {', '.join(lost)}, which was written and which policyctl does not know"
    if live is None or change.action != "add":
        return None
    if outcome.id is not None and outcome.id != live.id:
        return f"{change.name} has the id {live.id}, but its add returned the id {outcome.id}; look for a second one"
    if outcome.id is None and outcome.sent > 1:
        return f"{change.name} was sent {outcome.sent} times and each may have been carried out; look for a second one"
    return None


def _kept(change: Change, live: Live | None) -> str:
    """What to do about fields of a model that an update removes and that the remote keeps; empty where it keeps none."""
    if change.kind != "model" or change.action != "update" or change.before is None or change.after is None or live is None:
        return ""
    gone = {field.path for field in fields_between(change.before, change.after) if field.after is None}
    kept = [field.path for field in fields_between(live.normal, change.after) if field.after is None and field.path in gone]
    if not kept:
        return ""
    it = "it" if len(kept) == 1 else "them"
    return (
        f"; an update does not clear {', '.join(kept)} on this remote, so write {it} in the file again, or remove the model "
        "and add it again"
    )


class Witnesses:
    """The remote's list, asked about names on which the look-up disagrees with the plan, which was made from a list.

    The list is read when it is needed, and once more before it counts as wrong: another client may have written meanwhile.
    See safety rule 7.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._listed: Mapping[str, tuple[str, ...]] | None = None
        self._not_listed: str | None = None
        self._not_found: str | None = None

    def why_not(self, change: Change) -> str | None:
        """Why a change must not be carried out because the list or the look-up is known to miss policies; None when it may.

        A list that is cut short does not prove that a policy is new, or that no other targets it. A look-up that misses some
        does not prove that a policy is new either.
        """
        if self._not_listed is not None and change.action != "update":
            return f"{CONTRADICTS}: its list is cut short, {self._not_listed} is missing from it; nothing is added or removed"
        if self._not_found is not None and change.action == "add":
            return f"{CONTRADICTS}: its look-up by name does not find {self._not_found}, so nothing is added"
        return None

    def doubts(self, changes: Sequence[Change], observed: LiveRows) -> dict[str, str]:
        """By name, why changes cannot be carried out: the list and the look-up disagree.

        `observed` is what the look-up just found. Raises RemoteError when the list is needed and cannot be read.
        """
        # The plan was made from a list that had no policy to add, and every policy to update or to remove.
        disputed = [change for change in changes if (change.action == "add") == observed.has(change.name)]
        if not disputed:
            return {}
        found = {change.name: observed.has(change.name) for change in disputed}
        with self._lock:
            if not self._agrees(found):
                self._read()
            listed = self._listed or {}
        doubts = {
            name: _disagreement(name, listed.get(name), observed) for name, there in found.items() if there != (name in listed)
        }
        self._not_listed = self._not_listed or next((name for name in doubts if found[name]), None)
        self._not_found = self._not_found or next((name for name in doubts if not found[name]), None)
        return doubts

    def lists(self, name: str) -> str | None:
        """Why a name that the look-up does not find exists all the same, in the list; None when it is not there either."""
        with self._lock:
            listed = self._read()
        return _disagreement(name, listed[name], LiveRows({})) if name in listed else None

    def _agrees(self, found: Mapping[str, bool]) -> bool:
        return self._listed is not None and all((name in self._listed) == there for name, there in found.items())

    def _read(self) -> Mapping[str, tuple[str, ...]]:
        rows = named_rows(self._reader.rows())
        self._listed = {name: tuple(id_of(row) or "unknown" for row in same) for name, same in rows.items()}
        return self._listed


def _disagreement(name: str, listed: Iterable[str] | None, observed: LiveRows) -> str:
    if listed is not None:
        return f"{CONTRADICTS}: its list has {name} (id {', '.join(listed)}), and a look-up by name does not find it"
    live = observed.live.get(name)
    identifier = f" (id {live.id})" if live is not None else ""
    return f"{CONTRADICTS}: a look-up by name finds {name}{identifier}, and its list does not have it"
