"""What a remote holds: rows, read leniently. A row is unreadable only if its policy cannot be identified."""

from __future__ import annotations

import json
import marshal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from policyctl.policy.document import KNOWN_KEYS, Document, canonical_text, is_server_key, normal_form, references
from policyctl.policy.findings import as_one_word
from policyctl.policy.memo import Memo
from policyctl.policy.names import PLURALS, bare_name, canonical_name, kind_of, short_model, virtual_model
from policyctl.policy.virtual_model import LiveModel, VirtualModelRow, is_own_key

_TEXTS = Memo[str]()  # of what rows contain, as marshal has it: that takes an eighth of the time of the text
_NORMAL_FORMS = Memo[Document]()  # of these texts
MAX_NESTING = 200  # mappings and lists in each other in a row; with more, what walks through a document may not end


class LivePolicy:
    """One live policy: its canonical name, the remote's id, and its document (the row less the server's own keys).

    `document["name"]` keeps the row's own spelling, which an update must write. `version` is the row's `etag`, where the
    remote gives one: a write that carries it is refused when the row changed since. `known` is the text of what the format
    knows of the document, and `beside` are its other top-level keys: the text of many rows takes a fraction of the memory of
    their documents. The normal form and its `text` are made when first used: most rows equal the desired text and need neither.
    """

    def __init__(self, name: str, identifier: str, known: str, beside: Document, version: str | None = None) -> None:
        self.name = name
        self.id = identifier
        self.known = known
        self.beside = beside
        self.version = version

    @property
    def document(self) -> Document:
        """The document, made anew each time."""
        known = {key: value for key, value in json.loads(self.known).items() if value is not None}
        return {**known, **self.beside}

    @cached_property
    def normal(self) -> Document:
        return _NORMAL_FORMS.of(lambda: self.known, lambda: normal_form(self.document))

    @cached_property
    def text(self) -> str:
        return canonical_text(self.normal)


Live = LivePolicy | LiveModel


@dataclass(frozen=True, slots=True)
class UnreadableRow:
    """A row whose policy cannot be identified: shown, never touched, never fatal to the others.

    `count` is more than one for rows with equally little content: no name, no id, and the same reason. `targets` are the
    policies that the row's own policy targets, by canonical name; None where that cannot be read.
    """

    reason: str
    name: str | None
    id: str | None
    count: int = 1
    targets: frozenset[str] | None = None

    @property
    def which(self) -> str:
        """What is known of the row: `name virtual-policy/x, id unknown`."""
        name, identifier = (as_one_word(one) if one else "unknown" for one in (self.name, self.id))
        return f"name {name}, id {identifier}"


class Duplicates(NamedTuple):
    """Rows that share one canonical name, or one whose id another name has too. Which one counts is not for policyctl to guess.

    `others` are the other names of that id.
    """

    name: str
    rows: tuple[Live, ...]
    others: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(row.id for row in self.rows)

    @property
    def fault(self) -> str:
        """What is wrong; the ids are for the caller to show."""
        if len(self.rows) > 1:
            return f"the remote has several {PLURALS[kind_of(self.name)]} of this name"
        return f"the remote gives the same id to {', '.join(self.others)}"

    @property
    def reason(self) -> str:
        """What is wrong, and what to do about it."""
        remedy = "remove all but one by id" if len(self.rows) > 1 else "neither is touched until it is repaired on the remote"
        return f"{self.fault}; {remedy}"


class LiveRows(NamedTuple):
    """What a remote holds, sorted out: policies by canonical name, twins, and unreadable rows.

    `whole` means that this is everything, so that a policy of another name does not exist.
    """

    live: dict[str, Live]
    twins: tuple[Duplicates, ...] = ()
    unreadable: tuple[UnreadableRow, ...] = ()
    whole: bool = True

    @property
    def policies(self) -> dict[str, LivePolicy]:
        """The live policies alone."""
        return {name: live for name, live in self.live.items() if isinstance(live, LivePolicy)}

    @property
    def models(self) -> dict[str, LiveModel]:
        """The live virtual models alone."""
        return {name: live for name, live in self.live.items() if isinstance(live, LiveModel)}

    def obstacles(self) -> dict[str, str]:
        """By name, why a policy is not known although rows of that name exist."""
        found = {
            row.name: f"the remote has a row of this name that cannot be read: {row.reason} (id {row.id or 'unknown'})"
            for row in self.unreadable
            if row.name is not None
        }
        return found | {twins.name: f"{twins.reason} (ids {', '.join(twins.ids)})" for twins in self.twins}

    def untouched(self) -> Iterator[tuple[str | None, frozenset[str]]]:
        """Of each row that is never touched and whose policy can be read, the name and the policies that it targets.

        Requests may come to it as to any other.
        """
        yield from ((row.name, references(row.document)) for twins in self.twins for row in twins.rows)
        yield from ((row.name, row.targets) for row in self.unreadable if row.targets is not None)

    @property
    def all_read(self) -> bool:
        """Whether it is known of every policy that there is what it targets."""
        return self.whole and all(row.targets is not None for row in self.unreadable)

    def has(self, name: str) -> bool:
        """Whether any row has that name, readable or not."""
        return name in self.live or name in self.obstacles()


def read_row(row: Any) -> Live | UnreadableRow:
    """A row of a remote's list as a live policy or model, or why it is none. Never raises, whatever the row is."""
    if isinstance(row, UnreadableRow):
        return row
    if isinstance(row, VirtualModelRow):
        return _read_model(row)
    if not isinstance(row, dict):
        return UnreadableRow("the row is not an object", None, None)
    name, identifier = row.get("name"), id_of(row)
    canonical = canonical_name(name) if isinstance(name, str) and bare_name(name) else None
    if canonical is None or identifier is None or not isinstance(row.get("policy"), dict):
        return _unreadable(row, canonical, identifier)
    version = row.get("etag")
    version = version if isinstance(version, str) and version else None
    document = {key: value for key, value in row.items() if value is not None and not is_server_key(key)}
    beside = {key: value for key, value in document.items() if key not in KNOWN_KEYS}
    try:
        content = {key: document.get(key) for key in KNOWN_KEYS}
        known = _TEXTS.of(lambda: marshal.dumps(content, 2), lambda: canonical_text(content))
    except (RecursionError, ValueError):  # the latter is marshal's
        known = None
    # Most rows have fewer brackets than a row may be deep, which is quickly seen.
    if known is None or ((beside or known.count("{") + known.count("[") > MAX_NESTING) and _is_deeper(document, MAX_NESTING)):
        why = "the row's policy is nested too deeply"
        return UnreadableRow(why, canonical, identifier, targets=references(row))
    return LivePolicy(canonical, identifier, known, beside, version)


def _unreadable(row: dict[str, Any], name: str | None, identifier: str | None) -> UnreadableRow:
    """A row without a usable name, id or policy."""
    targets = references(row) if isinstance(row.get("policy"), dict) else None
    if name is None:
        return UnreadableRow("the row has no usable name", None, identifier, targets=targets)
    if identifier is None:
        return UnreadableRow("the row has no usable id", name, None, targets=targets)
    return UnreadableRow("the row has no policy", name, identifier)


def _read_model(row: VirtualModelRow) -> LiveModel | UnreadableRow:
    """A row of a list of models; it targets nothing, so that what is not known of it hides no use of a policy."""
    name, identifier, nothing = row.get("name"), id_of(row), frozenset[str]()
    if not isinstance(name, str) or not short_model(name):
        return UnreadableRow("the row of a model has no usable name", None, identifier, targets=nothing)
    if identifier is None:
        return UnreadableRow("the row has no usable id", virtual_model(name), None, targets=nothing)
    document = {key: value for key, value in row.items() if value is not None and not is_own_key(key)}
    if _is_deeper(document, MAX_NESTING):
        return UnreadableRow("the row's model is nested too deeply", virtual_model(name), identifier, targets=nothing)
    version = row.get("etag")
    return LiveModel(virtual_model(name), identifier, document, version if isinstance(version, str) and version else None)


def row_name(row: Any) -> str | None:
    """The canonical name that a row has, readable or not; None where it has none."""
    if isinstance(row, UnreadableRow):
        return row.name
    name = row.get("name") if isinstance(row, dict) else None
    if not isinstance(name, str):
        return None
    return virtual_model(name) if isinstance(row, VirtualModelRow) else canonical_name(name)


def _is_deeper(value: Any, most: int) -> bool:
    """Whether mappings and lists are nested more than so deep in each other."""
    level = [value]
    for _ in range(most):
        level = [
            child
            for one in level
            for child in (one.values() if isinstance(one, dict) else one)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def id_of(row: Any) -> str | None:
    """The id of a row as it appears in a URL; None where it has no usable one."""
    if isinstance(row, UnreadableRow):
        return row.id
    identifier = row.get("id") if isinstance(row, dict) else None
    return str(identifier) if isinstance(identifier, str | int) and identifier != "" else None


def named_rows(rows: Iterable[Any]) -> dict[str, list[Any]]:
    """The rows by canonical name, in order; those without a usable name are left out."""
    found: dict[str, list[Any]] = {}
    for row in rows:
        if (name := row_name(row)) is not None:
            found.setdefault(name, []).append(row)
    return found


def observe_rows(rows: Iterable[Any]) -> LiveRows:
    """Sort out the rows of a remote's list (see `read_row`). Every row ends in exactly one of the three places."""
    live: dict[str, list[Live]] = {}
    unreadable: dict[object, UnreadableRow] = {}
    owners: dict[tuple[bool, str | None], str | None] = {}  # a tenant may number the rows of each list by itself
    shared: dict[tuple[bool, str | None], set[str | None]] = {}
    for row in rows:
        found = read_row(row)
        own = isinstance(row, VirtualModelRow), found.id
        if found.id is not None and owners.setdefault(own, found.name) != found.name:
            shared.setdefault(own, {owners[own]}).add(found.name)
        if isinstance(found, Live):
            _join(live.setdefault(found.name, []), found)
        elif found.name is None and found.id is None:
            known = unreadable.get(found.reason, found)
            unreadable[found.reason] = known if known is found else _as_one(known, found)
        else:
            unreadable[len(unreadable), found] = found
    single, twins = {}, []
    for name, same in live.items():
        sharing = (shared.get((isinstance(row, LiveModel), row.id), ()) for row in same)
        others = {other or "a row without a name" for some in sharing for other in some if other != name}
        if len(same) > 1 or others:
            twins.append(Duplicates(name, tuple(same), tuple(sorted(others))))
        else:
            single[name] = same[0]
    return LiveRows(single, tuple(sorted(twins, key=lambda one: one.name)), tuple(unreadable.values()))


def _as_one(row: UnreadableRow, other: UnreadableRow) -> UnreadableRow:
    """Two rows with equally little content, as one with a count."""
    targets = None if row.targets is None or other.targets is None else row.targets | other.targets
    return replace(row, count=row.count + other.count, targets=targets)


def _join(same: list[Live], row: Live) -> None:
    """Add a row to those of its name. A list that grew while it was read may show one twice, as it was: that counts once."""
    for position, other in enumerate(same):
        if other.id == row.id and other.document == row.document:
            same[position] = row
            return
    same.append(row)
