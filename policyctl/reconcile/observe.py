"""Reading the remote: its policies and models, and where its list and its look-up disagree."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from policyctl.effect.context import KnownPolicies
from policyctl.load.urls import GIT
from policyctl.plan.change import Change
from policyctl.plan.references import only_declared, remote_spelling
from policyctl.plan.safety import Review
from policyctl.policy.document import Policy
from policyctl.policy.live import LiveRows, id_of, named_rows, observe_rows
from policyctl.policy.names import virtual_model
from policyctl.remote.protocol import Reader


def observe(reader: Reader, on_row: Callable[[], object] = lambda: None) -> LiveRows:
    """Everything on the remote; `on_row` is called for each row.

    A git revision has the policies of one directory; there may be others.
    """
    observed = observe_rows(_row_count(reader.rows(), on_row))
    return replace(observed, whole=not reader.identity.startswith(GIT))


def look_up(reader: Reader, names: Collection[str]) -> LiveRows:
    """The policies of these canonical names, as they are right now."""
    return observe_rows(reader.find(names))


def _row_count(rows: Iterable[Any], on_row: Callable[[], object]) -> Iterator[Any]:
    for row in rows:
        yield row
        on_row()


class KnownModels:
    """The models of a remote, which is asked once and only when it matters, and those that a directory declares."""

    def __init__(self, reader: Reader, declared: Collection[str] = ()) -> None:
        self._reader = reader
        self._declared = declared

    @cached_property
    def listed(self) -> frozenset[str]:
        """The names that the remote lists; empty when it cannot say."""
        return self._reader.models()

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name, as the remote spells it; empty when no model is known at all."""
        return self.listed | frozenset(map(virtual_model, self._declared))

    def noted(self, reviewed: Review) -> Review:
        """The review of a plan that writes something, with notes on what of the models that it targets is not known."""
        if not self.names:
            return replace(reviewed, unchecked="targets not checked: the remote knows no models")
        written = {change.name: change.after for change in reviewed.plan.changes if change.after is not None}
        policies = reviewed.policies.keys() | KnownPolicies.of(reviewed.policies).unclear
        notes = only_declared(written, self.listed, self._declared, policies)
        return replace(reviewed, notes=(*reviewed.notes, *notes))

    def speller(self, policies: Collection[str], *, virtual: bool = False) -> Callable[[Policy], Policy]:
        """A function that spells the models of a policy as they are known; `policies` are by canonical name."""
        return lambda policy: remote_spelling(policy, self.names, policies, virtual=virtual)


CONTRADICTS = "the remote contradicts itself"


class Witnesses:
    """What the list says about names that the look-up and the plan (which was made from a list) do not agree on.

    The list is read when it is needed, and again before it is called a liar: another client may have been there meanwhile.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._listed: Mapping[str, tuple[str, ...]] | None = None
        self._not_listed: str | None = None
        self._not_found: str | None = None

    def why_not(self, change: Change) -> str | None:
        """Why a change must not be carried out since one of the two is known to miss policies; None when it may.

        A list that is cut short does not prove that a policy is new, or that none targets it. A look-up that misses some does
        not prove that a policy is new either.
        """
        if self._not_listed is not None and change.action != "update":
            return f"{CONTRADICTS}: its list is cut short, {self._not_listed} is missing from it; nothing is added or removed"
        if self._not_found is not None and change.action == "add":
            return f"{CONTRADICTS}: its look-up by name does not find {self._not_found}, so nothing is added"
        return None

    def doubts(self, changes: Sequence[Change], observed: LiveRows) -> dict[str, str]:
        """Why changes cannot be carried out: by name, what the two ways of reading say.

        `observed` is what the look-up just found. Raises RemoteError where the list is needed and cannot be read.
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
        """What the list has of a name that the look-up does not find, after all; None when it has nothing either."""
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
