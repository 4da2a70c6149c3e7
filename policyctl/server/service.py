"""What goes into a handler and what comes out of it: plain values, so that handlers need no web framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from policyctl.remote.sqlite import SqliteRemote
from policyctl.remote.sqlite_models import SqliteModels
from policyctl.server.tokens import TokenIssuer


@dataclass(frozen=True, slots=True)
class Service:
    """What handlers work on.

    `quota` is the number of policies from which on another one is refused (None: no limit); who adds one holds `adding`.
    """

    policies: SqliteRemote
    models: SqliteModels
    keeper: TokenIssuer
    quota: int | None = None
    adding: Lock = field(default_factory=Lock)


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One request: the variables of its path, its query (every value of every key), its body, and `If-Match`."""

    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, list[str]] = field(default_factory=dict)
    body: bytes = b""
    if_match: str | None = None


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """A status, a JSON value (None with 204: no body), and headers."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


class HttpError(Exception):
    """A request that fails: the answer's status, and its `detail`, which is text, an object, or a list of mistakes."""

    def __init__(self, status: int, detail: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{status}: {detail}")
        self.answer = ApiResponse(status, {"detail": detail}, headers or {})
