"""Reading the remote: every policy in its list, or single ones looked up by name; and who uses them.

Consumers are also read from the directory's other files. What uses a policy prevents its removal.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from shlex import quote
from typing import TYPE_CHECKING, Any

from policyctl.errors import Incomplete, PolicyctlError, RemoteError
from policyctl.load.directory import ConsumerDocument, Loaded
from policyctl.load.urls import GIT
from policyctl.plan.consumers import Consumer, Consumers, ConsumerUse, FoundConsumers, consumers_of, path_of, phrase
from policyctl.policy.document import Document
from policyctl.policy.findings import Finding
from policyctl.policy.live import Live, LivePolicy, LiveRows, observe_rows
from policyctl.policy.names import Kind, canonical, kind_of
from policyctl.policy.virtual_model import VirtualModelRow
from policyctl.remote.protocol import Reader

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
    if any(change.action != "add" for change in reviewed.plan.changes):
        notes += consumers.not_inspected(_MOST_RELEASED)
    return reviewed._replace(consumers=found, refusals=(*reviewed.refusals, *refusals), notes=(*reviewed.notes, *notes))


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
