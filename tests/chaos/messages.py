"""Requests and answers as values, and as the bytes of HTTP/1.1."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import h11

from policyctl.policy.names import canonical_name, virtual_model

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class Request:
    """One request that arrived whole; header names are in lower case."""

    method: str
    target: str
    headers: Headers
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def is_write(self) -> bool:
        """Whether it is to change a policy or a model; logging in changes nothing."""
        return self.method != "GET" and ("/model_policy" in self.path or self._of_model)

    @property
    def _of_model(self) -> bool:
        return "/models" in self.path

    @cached_property
    def subject(self) -> str:
        """The one policy or model that it is about (ids here are made of names), else the path."""
        canonical = virtual_model if self._of_model else canonical_name
        if self.method == "DELETE":
            return canonical(unquote(self.path).rpartition("/id-")[2])
        if self.is_write:
            return canonical(json.loads(self.body)["name"])
        names = {canonical(value) for key, value in parse_qsl(urlsplit(self.target).query) if key == "name"}
        return names.pop() if len(names) == 1 else self.path

    @property
    def names_one(self) -> bool:
        """Whether it is about one policy."""
        return self.subject != self.path

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)

    def with_header(self, name: bytes, value: bytes) -> Request:
        return replace(self, headers=(*(pair for pair in self.headers if pair[0] != name), (name, value)))


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Headers = ()
    body: bytes = b""

    @property
    def head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}".encode()]
        lines += [name + b": " + value for name, value in self.headers if name.lower() not in (b"content-length", b"date")]
        if self.status != 204:
            lines.append(b"content-length: %d" % len(self.body))
        return b"\r\n".join([*lines, b"", b""])

    @property
    def raw(self) -> bytes:
        return self.head + self.body


Upstream = Callable[[Request], Answer]


def answer(status: int, body: Any = None, **headers: str) -> Answer:
    """An answer with a JSON body, or bytes as they are; header names are written with _ for -."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    kind = () if isinstance(body, bytes) or body is None else ((b"content-type", b"application/json"),)
    return Answer(status, (*kind, *((k.replace("_", "-").encode(), v.encode()) for k, v in headers.items())), content)


class Requests:
    """Puts the bytes of one connection together to requests."""

    def __init__(self) -> None:
        self._parser = h11.Connection(h11.SERVER)
        self._head: h11.Request | None = None
        self._body = b""

    def feed(self, data: bytes) -> Request | None:
        """Take bytes; the request when they make it whole. A client asks for the next one only after its answer."""
        if not data:  # which the parser would take for the end of the connection
            return None
        self._parser.receive_data(data)
        while (event := self._parser.next_event()) is not h11.NEED_DATA and event is not h11.PAUSED:
            if isinstance(event, h11.Request):
                self._head, self._body = event, b""
            elif isinstance(event, h11.Data):
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return self._whole()
        return None

    def _whole(self) -> Request:
        head = self._head
        assert head is not None
        self._parser = h11.Connection(h11.SERVER)
        return Request(head.method.decode(), head.target.decode(), tuple(head.headers), self._body)
