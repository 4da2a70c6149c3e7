"""Reading the remote: every policy in its list, or single ones looked up by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from policyctl.errors import Incomplete, PolicyctlError
from policyctl.load.directory import Loaded
from policyctl.load.documents import ConsumerDocument
from policyctl.load.urls import GIT
from policyctl.plan.consumers import Consumer, Consumers, ConsumerUse, FoundConsumers, consumers_of, path_of
from policyctl.plan.safety import Review, consumer_refusals
from policyctl.plan.settings import Settings
from policyctl.policy.document import Document
from policyctl.policy.findings import Finding
from policyctl.policy.live import Live, LivePolicy, LiveRows, observe_rows
from policyctl.policy.names import Kind, kind_of
from policyctl.policy.virtual_model import VirtualModelRow
from policyctl.remote.protocol import Reader

CONTRADICTS = "the remote contradicts itself"


def observe(reader: Reader, on_row: Callable[[], object] = lambda: None, kind: Kind | None = None) -> LiveRows:
    """Everything on the remote, or only what is of one `kind`; `on_row` is called for each row. The result of a git revision is
    not `whole`: it has the policies of one directory, and there may be others."""
    rows = (row for row in reader.rows() if kind is None or isinstance(row, VirtualModelRow) is (kind == "model"))
    observed = observe_rows(_row_count(rows, on_row))
    return replace(observed, whole=not reader.identity.startswith(GIT))


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
    sources = reader.sources()
    found = Consumers() if sources is None else consumers_of(sources)
    for consumer, document in _in_files(loaded).items():
        found.add(consumer, document.consumer.uses, document.consumer.collaborators)
    found.policies(policies)
    return found


def _in_files(loaded: Loaded | None) -> dict[Consumer, ConsumerDocument]:
    documents = loaded.consumers if loaded is not None else ()
    return {Consumer(one.consumer.kind, one.consumer.name, file=one.file): one for one in documents}


def with_lines(uses: Iterable[ConsumerUse], loaded: Loaded | None) -> tuple[ConsumerUse, ...]:
    """The uses with the lines of those in files: `agents/billing.yaml:4`."""
    files = _in_files(loaded)
    return tuple(_with_line(use, files.get(use.consumer), loaded) for use in uses)


def _with_line(use: ConsumerUse, document: ConsumerDocument | None, loaded: Loaded | None) -> ConsumerUse:
    if document is None or loaded is None:
        return use
    mark = loaded.mark_of(document, Finding(path_of(use.field), "", "")).mark
    return use._replace(consumer=use.consumer._replace(file=f"{mark.file}:{mark.line}" if mark.line else mark.file))


NOT_READ = {"consumers (--no-consumers)": "--no-consumers is given"}
_MOST_RELEASED = 5  # agents named in a note


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
        refusals = consumer_refusals(reviewed, FoundConsumers(unread=NOT_READ), settings, unseen=unseen)
        note = "it was not read who uses what changes (--no-consumers)"
        return replace(reviewed, refusals=(*reviewed.refusals, *refusals), notes=(*reviewed.notes, note))
    consumers = read_consumers(reader, loaded, {**reviewed.policies, **reviewed.policies_before})
    if consumers.empty and (reader.embedded or reader.identity.startswith(GIT)):
        return reviewed
    names = [*(one.name for one in reviewed.plan.changes), *(one.name for one in reviewed.affected)]
    found = FoundConsumers({name: with_lines(consumers.of(name), loaded) for name in names}, consumers.unread)
    refusals = consumer_refusals(reviewed, found, settings, unseen=unseen)
    notes = [f"it is not known who uses what changes: {name} could not be read: {why}" for name, why in found.unread.items()]
    if any(change.action != "add" for change in reviewed.plan.changes):
        notes += consumers.not_inspected(_MOST_RELEASED)
    return replace(reviewed, consumers=found, refusals=(*reviewed.refusals, *refusals), notes=(*reviewed.notes, *notes))
