"""The connections of a tenant, by which virtual models reach their credentials. Only what is known of them is read.

A list has one entry for each environment (draft and live) of a connection, page by page; how to ask for the next page is not
documented, so what the pages miss is asked for one by one. No answer that is read here holds a secret.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from policyctl.errors import RemoteError
from policyctl.policy.virtual_model import UNNAMED

_PAGES = 100  # of a list of connections


class Connection(NamedTuple):
    """A connection in one environment of the tenant (draft, live, or None where it is configured in neither)."""

    connection_id: str
    app_id: str
    environment: str | None = None
    security_scheme: str | None = None
    credentials_entered: bool | None = None
    preference: str | None = None
    is_configured: bool = True


Get = Callable[[tuple[tuple[str, str], ...]], Any]


class Connections:
    """The connections of one tenant, each read once. Several threads may ask."""

    def __init__(self, get: Get) -> None:
        """`get` gives the answer for a query of the list of connections; None where the tenant does not have it (404)."""
        self._get = get
        self._lock = threading.Lock()
        self._listed: tuple[Connection, ...] | None = None
        self._read = False
        self._single: dict[tuple[str, str], Connection | None] = {}

    def listed(self) -> tuple[Connection, ...] | None:
        """Every connection that the list has; None where the tenant has no list of connections."""
        with self._lock:
            if not self._read:
                self._listed, self._read = self._pages(), True
            return self._listed

    def id_of(self, app_id: str) -> str:
        """The id that this tenant has for a connection. Raises RemoteError where there is none."""
        if app_id.startswith(UNNAMED):
            return app_id.removeprefix(UNNAMED)
        found = self._find("app_id", app_id)
        if found is None:
            why = "this remote has no list of connections" if self.listed() is None else "there is no such connection"
            raise RemoteError(f"connection {app_id}: {why}; make it with orchestrate connections add, or correct app_id")
        return found.connection_id

    def exists(self, app_id: str) -> bool:
        """Whether the tenant has a connection of that app id, in its list or when asked for it alone."""
        return self._find("app_id", app_id) is not None

    def app_id_of(self, connection_id: str) -> str:
        """The app id of a connection; `id:…` where it cannot be found."""
        found = self._find("connection_id", connection_id)
        return UNNAMED + connection_id if found is None else found.app_id

    def _find(self, key: str, value: str) -> Connection | None:
        for connection in self.listed() or ():
            if getattr(connection, key) == value:
                return connection
        with self._lock:
            if (key, value) not in self._single:
                self._single[key, value] = _entry(self._get(((key, value),)))
            found = self._single[key, value]
        # A filter that is ignored finds any connection.
        return found if found is not None and getattr(found, key) == value else None

    def _pages(self) -> tuple[Connection, ...] | None:
        found: dict[Connection, None] = {}
        for page in range(1, _PAGES + 1):
            asked = (("include_details", "true"), *((("page", str(page)),) if page > 1 else ()))
            answer = self._get(asked)
            if answer is None:
                return None if page == 1 else tuple(found)
            rows = answer.get("applications") if isinstance(answer, dict) else answer
            new = [one for one in _entries(rows) if one not in found]
            found |= dict.fromkeys(new)
            total = answer.get("total") if isinstance(answer, dict) else None
            if not new or not isinstance(total, int) or len(found) >= total:
                break
        return tuple(found)


def _entries(rows: Any) -> Iterator[Connection]:
    for row in rows if isinstance(rows, list) else ():
        if (entry := _entry(row)) is not None:
            yield entry


def _entry(row: Any) -> Connection | None:
    if not isinstance(row, dict) or not isinstance(row.get("connection_id"), str) or not isinstance(row.get("app_id"), str):
        return None
    entered = row.get("credentials_entered")
    return Connection(
        row["connection_id"],
        row["app_id"],
        row.get("environment") or None,
        row.get("security_scheme") or None,
        entered if isinstance(entered, bool) else None,
        row.get("preference") or None,
        row.get("is_configured") is not False,
    )
