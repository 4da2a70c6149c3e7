"""What a remote holds: rows, read leniently. A row is only unreadable when it cannot be told which policy it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from policyctl.model.names import bare_name, canonical_name
from policyctl.model.normal import KNOWN_KEYS, Document, canonical_text, is_server_key, normal_form


@dataclass(frozen=True)
class Live:
    """One live policy: its canonical name, the remote's id, and its document (the row less the server's own keys).

    `document["name"]` keeps the row's own spelling, which an update must write. `version` is the row's `etag`, where the
    remote gives one: a write that says it is refused when the row moved since. `said` is the text of the desired document
    where the row says just that: of those nobody needs the normal form, so that one and its `text` are made when asked for.
    """

    name: str
    id: str
    document: Document
    version: str | None = field(default=None, repr=False)
    said: str | None = field(default=None, repr=False)

    @cached_property
    def normal(self) -> Document:
        return normal_form(self.document)

    @cached_property
    def text(self) -> str:
        return canonical_text(self.normal)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that cannot be told apart: shown, never touched, never fatal to the others."""

    reason: str
    name: str | None
    id: str | None

    @property
    def which(self) -> str:
        """What is known of the row: `name virtual-policy/x, id unknown`."""
        return f"name {self.name or 'unknown'}, id {self.id or 'unknown'}"


@dataclass(frozen=True, slots=True)
class Twins:
    """Rows that share one canonical name. Which one counts is not for policyctl to guess."""

    name: str
    rows: tuple[Live, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(row.id for row in self.rows)


@dataclass(frozen=True, slots=True)
class Observed:
    """What a remote holds, sorted out: policies by canonical name, twins, and unreadable rows.

    `whole` means that this is everything, so that a policy of another name does not exist.
    """

    live: dict[str, Live]
    twins: tuple[Twins, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    whole: bool = True

    @property
    def unclear(self) -> dict[str, str]:
        """The policies that are there, but of which it cannot be told what they say, each with the reason."""
        return {
            **{row.name: row.reason for row in self.unreadable if row.name is not None},
            **{twins.name: "the remote has several policies of this name" for twins in self.twins},
        }


def read_row(row: Any, desired: Mapping[str, str] = MappingProxyType({})) -> Live | Unreadable:
    """A row of a remote's list as a live policy, or why it is none. Never raises, whatever the row is.

    `desired` are the canonical texts of desired documents, by canonical name.
    """
    if isinstance(row, Unreadable):
        return row
    if not isinstance(row, dict):
        return Unreadable("the row is not an object", None, None)
    name, identifier = row.get("name"), row.get("id")
    identifier = str(identifier) if isinstance(identifier, str | int) and identifier != "" else None
    if not isinstance(name, str) or not bare_name(name):
        return Unreadable("the row has no usable name", None, identifier)
    canonical = canonical_name(name)
    if identifier is None:
        return Unreadable("the row has no usable id", canonical, None)
    if not isinstance(row.get("policy"), dict):
        return Unreadable("the row has no policy", canonical, identifier)
    version = row.get("etag")
    version = version if isinstance(version, str) and version else None
    document = {key: value for key, value in row.items() if value is not None and not is_server_key(key)}
    try:
        if canonical in desired and canonical_text({key: row.get(key) for key in KNOWN_KEYS}) == desired[canonical]:
            return Live(canonical, identifier, document, version, desired[canonical])
        live = Live(canonical, identifier, document, version)
        live.text  # noqa: B018 - made now, because only here a row can still be called unreadable
    except RecursionError:
        return Unreadable("the row's policy is nested too deeply", canonical, identifier)
    return live


def observe_rows(rows: Iterable[Any], desired: Mapping[str, str] = MappingProxyType({})) -> Observed:
    """Sort out the rows of a remote's list (see `read_row`). Every row ends in exactly one of the three places."""
    live: dict[str, dict[str, Live]] = {}
    unreadable = []
    for row in rows:
        match read_row(row, desired):
            case Live() as policy:
                # A list that grew while it was read may show a row twice; by its id it is one.
                live.setdefault(policy.name, {})[policy.id] = policy
            case Unreadable() as bad:
                unreadable.append(bad)
    twins = tuple(Twins(name, tuple(same.values())) for name, same in sorted(live.items()) if len(same) > 1)
    single = {name: policy for name, same in live.items() if len(same) == 1 for policy in same.values()}
    return Observed(single, twins, tuple(unreadable))
