"""A remote's list and its look-up by name, held against each other: where they disagree, neither is believed."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence

from policyctl.core.change import Change
from policyctl.model.live import Observed, id_of, named_rows
from policyctl.remote.protocol import Reader

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

    def doubts(self, changes: Sequence[Change], observed: Observed) -> dict[str, str]:
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
        doubts = {name: _told(name, listed.get(name), observed) for name, there in found.items() if there != (name in listed)}
        self._not_listed = self._not_listed or next((name for name in doubts if found[name]), None)
        self._not_found = self._not_found or next((name for name in doubts if not found[name]), None)
        return doubts

    def lists(self, name: str) -> str | None:
        """What the list has of a name that the look-up does not find, after all; None when it has nothing either."""
        with self._lock:
            listed = self._read()
        return _told(name, listed[name], Observed({})) if name in listed else None

    def _agrees(self, found: Mapping[str, bool]) -> bool:
        return self._listed is not None and all((name in self._listed) == there for name, there in found.items())

    def _read(self) -> Mapping[str, tuple[str, ...]]:
        rows = named_rows(self._reader.rows())
        self._listed = {name: tuple(id_of(row) or "unknown" for row in same) for name, same in rows.items()}
        return self._listed


def _told(name: str, listed: Iterable[str] | None, observed: Observed) -> str:
    if listed is not None:
        return f"{CONTRADICTS}: its list has {name} (id {', '.join(listed)}), and a look-up by name does not find it"
    live = observed.live.get(name)
    identifier = f" (id {live.id})" if live is not None else ""
    return f"{CONTRADICTS}: a look-up by name finds {name}{identifier}, and its list does not have it"
