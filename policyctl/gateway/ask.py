"""One attempt over HTTP: a request to an upstream, and its answer as the rules see it.

The body of an answer is held back until it is known to be whole, so that one that breaks off can still count as broken; what is
longer than `HELD` bytes, and every stream, is passed on while it arrives, and no more is read than the client takes.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from policyctl import __version__
from policyctl.effect.gateway import MAX_RETRY_AFTER, Answer, RetryAfter, is_served
from policyctl.gateway.table import Upstream

HELD = 1 << 20  # bytes of a body that are held until they are all there
MOST_FIELDS = 256  # of a request's body; each costs far more than its bytes, and the interface has some forty
CONNECT_SECONDS = 10  # as long as the recorded gateway waits for a connection
IDLE_SECONDS = 4.0  # before an idle connection is closed: Node and uvicorn close theirs after 5, others later
_LARGE = 1 << 18  # bytes of a body that is written in parts

# Headers that go to the upstream, and those that go back to the client. All others stay here: a client's own Authorization
# is for the gateway, and cookies of an upstream are not for its clients.
SENT_UP = frozenset({b"traceparent", b"tracestate", b"openai-beta", b"idempotency-key"})
_SENT_DOWN = frozenset({"content-type", "content-encoding", "cache-control", "retry-after", "retry-after-ms"})
_SENT_DOWN_PREFIXES = ("openai-", "x-ratelimit-", "anthropic-ratelimit-")
_WAITS_MS, _WAITS = ("retry-after-ms", "x-ms-retry-after-ms"), "retry-after"


class StreamCut(Exception):
    """An answer ended before it was whole, when a part of it had been passed on already."""


@dataclass(slots=True)
class Reply:
    """What came back from an attempt: the answer for the rules, and what the client gets if it is the last.

    `rest` follows `held`, and is None where that is all. `tokens` are those that it reports, in and out.
    """

    status: int
    answer: Answer
    headers: list[tuple[bytes, bytes]]
    held: bytes = b""
    rest: AsyncIterator[bytes] | None = None
    source: aiohttp.ClientResponse | None = None
    is_stream: bool = False
    tokens: tuple[int, int] | None = None

    def drop(self) -> None:
        """Read no more of it. A connection with more to come is closed."""
        if self.source is not None:
            self.source.close()
            self.source = None


class TooManyFields(Exception):
    """A body has more fields than MOST_FIELDS."""


class _FieldName(str):
    """The name of a field; a type of its own, since msgspec hands over only such while it reads."""

    __slots__ = ()


def fields_of(body: bytearray) -> dict[str, msgspec.Raw]:
    """The fields of a body in UTF-8, each as it was sent. Raises TooManyFields, or DecodeError for what is not an object."""
    seen = itertools.count(1)

    def name(kind: type[_FieldName], text: str) -> _FieldName:
        if next(seen) > MOST_FIELDS:
            raise TooManyFields
        return kind(text)

    decoder = msgspec.json.Decoder(dict[_FieldName, msgspec.Raw], dec_hook=name)
    try:
        return {str(name): value for name, value in decoder.decode(body).items()}
    except RecursionError:
        raise msgspec.DecodeError("nested too deeply") from None


@dataclass(slots=True)
class Asking:
    """The payload of one client's request, for one upstream after the other: the path below the upstream's base, the fields of
    the body, and the headers that are sent beside the usual ones."""

    path: str
    fields: Mapping[str, msgspec.Raw]
    headers: Mapping[str, str]

    def body_for(self, model: str) -> list[bytes | memoryview]:
        """The parts of the body with another model. All else is as the client sent it, and is not copied."""
        parts: list[bytes | memoryview] = []
        for name, value in self.fields.items():
            parts.append(b"%b%b:" % (b"," if parts else b"{", msgspec.json.encode(name)))
            parts.append(msgspec.json.encode(model) if name == "model" else memoryview(value))
        return [*parts, b"}"]


class HttpUpstreams:
    """Asks upstreams over HTTP. Made and closed within the event loop."""

    def __init__(self) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=timeout,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        )
        self._urls: dict[tuple[str, str], URL] = {}

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def ask(self, upstream: Upstream, asking: Asking) -> Reply:
        """The answer of an upstream, or why there is none. Raises nothing but CancelledError."""
        url = self._urls.get((upstream.base, asking.path))
        if url is None:
            url = self._urls[upstream.base, asking.path] = URL(upstream.base + asking.path)
        headers = {"Content-Type": "application/json", "User-Agent": f"policyctl/{__version__}", **asking.headers}
        if upstream.key is not None:
            headers["Authorization"] = f"Bearer {upstream.key}"
        body = asking.body_for(upstream.model)
        if (size := sum(map(len, body))) >= _LARGE:
            headers["Content-Length"] = str(size)
        response = await self._head(upstream, url, _in_parts(body) if size >= _LARGE else b"".join(body), headers)
        if isinstance(response, Reply):
            return response
        if response.status < 200:  # what follows such a head is not its body
            response.close()
            return failure("refused", f"{upstream.name}: {response.status} is not the status of an answer")
        return await self._whole(upstream, response)

    async def _head(
        self, upstream: Upstream, url: URL, body: bytes | AsyncIterator[bytes | memoryview], headers: dict[str, str]
    ) -> aiohttp.ClientResponse | Reply:
        try:
            async with asyncio.timeout(upstream.timeout):
                # Sent once, whatever breaks: a provider may have read it, and whether it is sent again is for the policy.
                return await self._session.post(url, data=body, headers=headers, allow_redirects=False)
        except aiohttp.ServerTimeoutError:
            return failure("hang", f"{upstream.name}: there was no connection within {CONNECT_SECONDS} s")
        except TimeoutError:
            return failure(408, f"{upstream.name} did not answer within {upstream.timeout:g} s (request_timeout)")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return failure("refused", f"{upstream.name}: the connection failed ({_reason(error)})")

    async def _whole(self, upstream: Upstream, response: aiohttp.ClientResponse) -> Reply:
        """The reply with its body, unless that is a stream or long."""
        status, kind = response.status, response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        headers = _passed_down(response.headers)
        if is_served(status) and kind == "text/event-stream":
            return Reply(status, status, headers, rest=_rest(response), source=response, is_stream=True)
        held = bytearray()
        try:
            async for chunk in _chunks(response):
                held += chunk
                if len(held) > HELD:
                    answer = _status_answer(response)
                    return Reply(status, answer, headers, bytes(held), _rest(response), source=response)
        except (aiohttp.ClientError, OSError):
            response.close()
            if is_served(status):
                return failure("broken-body", f"{upstream.name}: the body of the answer broke off")
            return Reply(status, _status_answer(response), headers, bytes(held))
        except BaseException:  # the client has left
            response.close()
            raise
        reply = Reply(status, _status_answer(response), headers, bytes(held))
        if is_served(status) and kind == "application/json" and "Content-Encoding" not in response.headers:
            try:
                reply.tokens = tokens_in(held)
            except ValueError:
                return failure("broken-body", f"{upstream.name}: the body of the answer is not JSON")
        return reply


async def _in_parts(body: list[bytes | memoryview]) -> AsyncIterator[bytes | memoryview]:
    """A large body. Others wait while one part is written."""
    for part in body:
        for at in range(0, len(part), _LARGE):
            yield part[at : at + _LARGE]
            await asyncio.sleep(0)


def _passed_down(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """The headers of an answer that the client gets."""
    found = []
    for name, value in headers.items():
        lower = name.lower()
        if not value.isprintable() and value.isascii():
            continue  # control characters
        if lower in _SENT_DOWN or lower.startswith(_SENT_DOWN_PREFIXES):
            found.append((lower.encode(), value.encode("utf-8", "surrogateescape")))
        elif lower == "x-request-id":
            found.append((b"x-policyctl-upstream-request-id", value.encode("utf-8", "surrogateescape")))
    return found


_MOST_TOKENS = 10**12  # more than this, or fewer than none, is not a count


class _TokenUsage(msgspec.Struct):
    """The tokens that a model reports, by the names of either interface."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None

    @property
    def counts(self) -> tuple[int, int] | None:
        """Tokens in and out."""
        taken = self.input_tokens if self.prompt_tokens is None else self.prompt_tokens
        given = self.output_tokens if self.completion_tokens is None else self.completion_tokens
        counts = taken or 0, given or 0
        return counts if (taken, given) != (None, None) and all(0 <= count <= _MOST_TOKENS for count in counts) else None


class _Inner(msgspec.Struct):
    usage: _TokenUsage | None = None


class _Body(msgspec.Struct):
    """An answer, of which msgspec keeps only this and reads over the rest."""

    usage: _TokenUsage | None = None
    response: _Inner | None = None  # of the last event of a stream of /v1/responses


_BODY = msgspec.json.Decoder(_Body)


def tokens_in(body: bytes | bytearray | memoryview) -> tuple[int, int] | None:
    """The tokens that an answer reports; None where it reports none. Raises ValueError for what is not JSON as a whole."""
    try:
        found = _BODY.decode(body)
    except msgspec.ValidationError:  # JSON, but of another form
        return None
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError("not JSON") from error
    usage = found.usage or (found.response and found.response.usage)
    return usage.counts if usage else None


def tokens_at_end(tail: bytes) -> tuple[int, int] | None:
    """The tokens that the last events of a stream report."""
    for line in reversed(tail.split(b"\n")):
        if line.startswith(b"data: {") and b'"usage"' in line:
            try:
                return tokens_in(line[6:])
            except ValueError:
                return None
    return None


def error_body(message: str, kind: str, code: str, param: str | None = None) -> bytes:
    """An error as OpenAI's interface has it."""
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


_CODES: dict[Answer, tuple[int, str]] = {
    "refused": (500, "upstream_refused"),
    "hang": (503, "upstream_hang"),
    "broken-body": (500, "upstream_broken_answer"),
    404: (404, "model_not_found"),
    408: (408, "upstream_timeout"),
}


def failure(answer: Answer, message: str) -> Reply:
    """The reply to an attempt that got no proper answer."""
    status, code = _CODES[answer]
    return Reply(status, answer, [(b"content-type", b"application/json")], error_body(message, "upstream_error", code))


def _status_answer(response: aiohttp.ClientResponse) -> Answer:
    """The answer of a status, with the wait that a 429 asks for. A part of a second counts as a whole one."""
    if response.status != 429:
        return response.status
    milliseconds = next((response.headers[name] for name in _WAITS_MS if name in response.headers), None)
    text = response.headers.get(_WAITS, "") if milliseconds is None else milliseconds
    try:
        seconds = float(text) / (1 if milliseconds is None else 1000)
    except ValueError:  # a date counts as no header
        return 429
    # Whatever asks for this long or longer ends the attempts; beyond it, records would differ by what is the same.
    return RetryAfter(min(math.ceil(seconds), MAX_RETRY_AFTER)) if 0 < seconds < math.inf else 429


def _take_note(closed: asyncio.Future[Any]) -> None:
    """Look at why a connection was closed: asyncio logs what was not looked at."""
    closed.exception()


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The parts of a body. Raises ClientError when it breaks off, also at a malformed chunk: at that aiohttp closes the
    connection and leaves the reader waiting."""
    content, connection = response.content, response.connection

    def end(_: object) -> None:
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection was closed"))

    closed = None
    if connection is not None and connection.protocol is not None:
        closed = connection.protocol.closed
        if closed is None:  # it is closed already
            end(None)
        else:
            closed.remove_done_callback(_take_note)  # of the answer before
            closed.add_done_callback(_take_note)
            closed.add_done_callback(end)
    try:
        async for chunk in content.iter_any():
            yield chunk
    finally:
        if closed is not None:  # the connection may serve others
            closed.remove_done_callback(end)


async def _rest(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """What still comes. Raises StreamCut when it breaks off."""
    try:
        async for chunk in _chunks(response):
            yield chunk
    except (aiohttp.ClientError, OSError) as error:
        raise StreamCut from error


def _reason(error: Any) -> str:
    """Why a connection failed, without what the upstream sent."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host is not known"
    number = getattr(error, "os_error", error)
    return str(getattr(number, "strerror", None) or type(error).__name__)
