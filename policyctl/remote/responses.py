"""Responses of a service: read within bounds of time and size, and what they mean.

httpx limits only each single wait, so a server that sends one byte a minute would keep a request open forever. Here every
wait of a connection (connect, TLS handshake, send, read) ends at the deadline of the whole request.
"""

from __future__ import annotations

import json
import math
import ssl
import threading
import zlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Any

import httpcore
import httpx


class Deadline:
    """The time at which a thread's current request must end; each thread has its own. `latest` is the end for all requests."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.latest = math.inf
        self._seconds = seconds
        self._clock = clock
        self._mine = threading.local()

    def begin(self) -> None:
        """Start the time of this thread's next request."""
        self._mine.end = self._clock() + self._seconds

    def within(self, timeout: float | None, late: type[httpcore.TimeoutException]) -> float:
        """The seconds that one wait may take, at most `timeout`. Raises `late` when the request's time is over."""
        left: float = min(self._mine.end, self.latest) - self._clock()
        if left <= 0:
            raise late("the request took too long")
        return left if timeout is None else min(timeout, left)


class DeadlineNetwork(httpcore.NetworkBackend):
    """Connections that keep to a deadline, over a network backend that has none."""

    def __init__(self, inner: httpcore.NetworkBackend, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        wait = self._deadline.within(timeout, httpcore.ConnectTimeout)
        return _DeadlineStream(self._inner.connect_tcp(host, port, wait, local_address, socket_options), self._deadline)


class _DeadlineStream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.within(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._deadline.within(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        wait = self._deadline.within(timeout, httpcore.ConnectTimeout)
        return _DeadlineStream(self._inner.start_tls(ssl_context, server_hostname, wait), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


MAX_LIST = 64 * 1024 * 1024  # bytes of an answer to a GET, unpacked
MAX_ROW = 16 * 1024 * 1024  # bytes of any other answer
_SMALL = 256 * 1024  # bytes that may be in memory twice
ENCODING = "gzip"


class ResponseTooLarge(Exception):
    """A body that is not read to its end; the message completes "it answered 200 with …"."""


def read_whole(response: httpx.Response) -> httpx.Response:
    """The response with its body in memory, unpacked. Raises ResponseTooLarge for an oversized body of a success.

    An oversized body of a failure is dropped: it is not needed, and a part of it could end within a secret. A response with
    two lengths is refused, as RFC 9112 (6.3) allows: its end is unknown, so it could include the next response.
    """
    if "Content-Length" in response.headers and "Transfer-Encoding" in response.headers:
        response.close()
        raise ResponseTooLarge("two lengths, Content-Length and Transfer-Encoding")
    if _is_small(response):
        response.read()
        return response
    try:
        content = _content(response)
    except ResponseTooLarge:
        if response.is_success:
            raise
        content = b""
    finally:
        response.close()
    kept = [(name, value) for name, value in response.headers.raw if name.lower() not in _OF_THE_BODY]
    extensions = {"reason_phrase": response.extensions.get("reason_phrase", b"")}
    return httpx.Response(response.status_code, headers=kept, content=content, request=response.request, extensions=extensions)


def _is_small(response: httpx.Response) -> bool:
    """Whether a body declares a small size, which HTTP enforces, and is not compressed, as most are."""
    size = response.headers.get("Content-Length", "")
    is_number = size.isascii() and size.isdigit() and len(size) <= 20  # as long as HTTP libraries take them
    return is_number and int(size) <= _SMALL and "Content-Encoding" not in response.headers


_OF_THE_BODY = (b"content-encoding", b"content-length", b"transfer-encoding")


def _content(response: httpx.Response) -> bytes:
    most = MAX_LIST if response.request.method == "GET" else MAX_ROW
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", ENCODING):
        raise ResponseTooLarge(f"a body in an encoding that was not asked for ({encoding[:40]!r})")
    body = BytesIO()  # not a list of pieces, which would be in memory beside the whole
    for piece in response.iter_raw():
        if body.tell() + len(piece) > most:
            raise _too_large(most)
        body.write(piece)
    content = body.getvalue()
    return content if encoding == "identity" else _unpacked(content, most)


def _unpacked(content: bytes, most: int) -> bytes:
    """Decompress gzip, at most `most` bytes (guards against zip bombs)."""
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        unpacked = unpacker.decompress(content, most + 1)
    except zlib.error:
        raise ResponseTooLarge("a body that is not valid gzip") from None
    if len(unpacked) > most:
        raise _too_large(most)
    if content and not unpacker.eof:
        raise ResponseTooLarge("a body that is cut short")
    return unpacked


def _too_large(most: int) -> ResponseTooLarge:
    return ResponseTooLarge(f"more than {most // (1024 * 1024)} MiB, more than any list of policies needs")


MAX_MEMORY = 1024 * 1024 * 1024  # bytes, estimated from above; 64 MiB of policies need less
MAX_DEPTH = 200  # as in a file
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class TooLargeJson(Exception):
    """JSON that is too large to read; the message completes "it answered 200 with …"."""


def read_bounded_json(content: bytes) -> Any:
    """The value of a JSON text. Raises TooLargeJson, before parsing if possible, or ValueError."""
    count = content.count
    # The memory in CPython of an object, a list, a value with its slot, and of each character if one is an emoji.
    memory = 232 * count(b"{") + 88 * count(b"[") + 80 * (count(b",") + count(b":")) + 4 * len(content)
    if memory > MAX_MEMORY:
        raise TooLargeJson(f"so many values that they would take more than {MAX_MEMORY >> 30} GiB of memory")
    deep = _may_be_deep(content)
    try:
        value = json.loads(content)
    except RecursionError:
        raise _too_deep() from None
    if deep and _is_deep(value):
        raise _too_deep()
    return value


def _too_deep() -> TooLargeJson:
    return TooLargeJson(f"JSON that is nested more than {MAX_DEPTH} deep")


def _may_be_deep(content: bytes) -> bool:
    """Whether brackets remain after removing empty pairs that many times. Brackets in text count too."""
    brackets = content.translate(None, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        fewer = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(fewer) == len(brackets):
            break
        brackets = fewer
    return bool(brackets)


def _is_deep(value: Any) -> bool:
    layer = [value]
    for _ in range(MAX_DEPTH):
        inner = (item.values() if isinstance(item, dict) else item for item in layer if isinstance(item, dict | list))
        layer = [item for items in inner for item in items]
    return any(isinstance(item, dict | list) for item in layer)


QUOTA = "RESOURCE_QUOTA_EXCEEDED"
_LONGEST = 300  # characters of a server's message
# Where services put their message: IBM's API reference, its identity service, and its platform, in this order.
_WORDS = ("detail", "message", "error", "errorMessage", "error_description", "errors", "exception")


class BadContent(Exception):
    """A response that should be JSON and is not. `whole` means that it is something else, rather than cut short."""

    def __init__(self, what: str, *, whole: bool) -> None:
        super().__init__(what)
        self.whole = whole


def content_of(response: httpx.Response) -> Any:
    """The JSON value of an answer; None when it is empty. Raises BadContent."""
    if not response.content.strip():
        return None
    try:
        return read_bounded_json(response.content)
    except TooLargeJson as error:
        raise BadContent(str(error), whole=True) from None
    except ValueError:
        if _is_page(response):
            raise BadContent("an HTML page instead of JSON", whole=True) from None
        raise BadContent("text that is not whole JSON", whole=False) from None


def describe(response: httpx.Response, scrub: Callable[[str], str]) -> str:
    """`422 Unprocessable Entity: policy.targets: Field required`, the status with the server's message.

    `scrub` runs before the text is shortened, so that no part of a secret remains.
    """
    status = f"{response.status_code} {scrub(response.reason_phrase)}".strip()
    words = " ".join(scrub(_message_of(response)).split())
    words = words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "…"
    return f"{status}: {words}" if words else status


def is_quota(response: httpx.Response) -> bool:
    """Whether a 429 means that the tenant is full, so that waiting does not help, rather than too many requests."""
    try:
        content = content_of(response)
    except BadContent:
        return False
    detail = content.get("detail") if isinstance(content, dict) else None
    return QUOTA in (_code(detail), _code(content))


def retry_after(response: httpx.Response) -> float | None:
    """The seconds in a `Retry-After`, which is a number or a date; None without a usable one."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    until = _date(text)
    if until is None:
        return None
    now = _date(response.headers.get("Date", "")) or datetime.now(UTC)  # the server's own clock, if known
    return max(0.0, (until - now).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _code(value: Any) -> Any:
    return value.get("code") if isinstance(value, dict) else None


def _is_page(response: httpx.Response) -> bool:
    return "html" in response.headers.get("Content-Type", "").lower() or response.content.lstrip()[:1] == b"<"


def _message_of(response: httpx.Response) -> str:
    try:
        content = content_of(response)
    except BadContent as error:
        # As UTF-8, whatever encoding the header claims: some of Python's codecs fail, or never end.
        return str(error) if error.whole else response.content.decode("utf-8", "replace")
    return _message(content)


def _message(value: Any, depth: int = 4) -> str:
    """The text in an error's detail, which is a string, an object, or a list of either."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and depth:
        return "; ".join(filter(None, (_message(item, depth - 1) for item in value)))
    if not isinstance(value, dict) or not depth:
        return ""
    if isinstance(value.get("msg"), str):
        where = _field_of(value.get("loc"))
        return f"{where}: {value['msg']}" if where else value["msg"]
    found = (_message(value[key], depth - 1) for key in _WORDS if key in value)
    return next(filter(None, found), str(value.get("code") or ""))


def _field_of(location: Any) -> str:
    """`policy.targets.0`, from the list that locates an error in the request's body."""
    return ".".join(str(part) for part in location if part != "body") if isinstance(location, list) else ""
