"""One request through a policy: the course of the rules, driven with attempts at upstreams.

An attempt is a request over HTTP, and its answer as the rules see it. The body of an answer is held back until it is known to
be whole, so that one that breaks off can still count as broken; what is longer than `HELD` bytes, and every stream, is passed
on while it arrives, and no more is read than the client takes.

A pretence of the providers takes their place where an outage is to be tried without a key and without a network.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import msgspec

from policyctl import __version__
from policyctl.effect.course import Attempt, CourseEnd, course
from policyctl.effect.gateway import MAX_RETRY_AFTER, NO_ANSWER, Answer, RetryAfter, is_served, read_answer, status_of
from policyctl.effect.tree import Balance
from policyctl.errors import UsageError
from policyctl.gateway.pool import CONNECT_SECONDS, Broken, Exchange, HttpPool, NoConnection, Place
from policyctl.gateway.table import Destination, RouteTable, Upstream
from policyctl.policy.names import matching_models

Sleep = Callable[[float], Awaitable[object]]


class Upstreams(Protocol):
    """What answers attempts: providers over HTTP, or a pretence of them."""

    async def ask(self, upstream: Upstream, asking: Asking) -> Reply: ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class Tried:
    """One attempt that was made: the model, the seconds waited before, what came back, and after how many seconds."""

    model: str
    wait: int
    answer: Answer
    seconds: float


@dataclass(slots=True)
class Relayed:
    """The attempts of one request so far. Also of one whose client leaves in the middle."""

    tried: list[Tried] = field(default_factory=list)
    wait: int = 0  # seconds after the last attempt

    @property
    def served_by(self) -> str:
        """The model that was asked last."""
        return self.tried[-1].model if self.tried else ""


def _draw(node: Balance) -> int | None:
    """The position of the target that a load balance draws by weight."""
    return node.draw.position(random.random())  # noqa: S311 - the choice of a load balancer need not be secret


async def relay(
    table: RouteTable,
    route: Destination,
    asking: Asking,
    upstreams: Upstreams,
    relayed: Relayed,
    sleep: Sleep,
) -> Reply:
    """Ask the models of a policy as its rules have it, and return what the client gets. Attempts are noted in `relayed`."""
    steps = course(route.tree, _draw)
    reply: Reply | None = None
    try:
        attempt: Attempt = next(steps)
        while True:
            if reply is not None:
                reply.drop()
            if attempt.wait:
                reply = None  # its body is not kept while nothing happens
                await sleep(attempt.wait)
            reply = await _ask(table, attempt, asking, upstreams, relayed)
            attempt = steps.send(reply.answer)
    except StopIteration as end:
        ended: CourseEnd = end.value
    relayed.wait = ended.wait
    if ended.wait:
        await sleep(ended.wait)
    return _last(ended, reply, route)


async def _ask(table: RouteTable, attempt: Attempt, asking: Asking, upstreams: Upstreams, relayed: Relayed) -> Reply:
    model = attempt.leaf.model
    upstream = table.upstream(model)
    began = time.perf_counter()
    if upstream is None:
        reply = failure(404, f"{model or 'a target'} has no upstream: {table.why_not(model)}")
    else:
        reply = await upstreams.ask(upstream, asking)
    relayed.tried.append(Tried(model, attempt.wait, reply.answer, time.perf_counter() - began))
    return reply


def _last(ended: CourseEnd, reply: Reply | None, route: Destination) -> Reply:
    """What the client gets: the last reply, unless the rules give it another status."""
    if ended.outcome == NO_ANSWER:
        return _own(503, "no_target", f"{route.name} has no target to ask: it has none, or every weight is 0")
    if reply is None:
        why = route.tree.refused or "it cannot be run as it is written"
        return _own(abs(ended.outcome), "invalid_policy", f"{route.name} is refused: {why}")
    status = status_of(ended.outcome)
    if status == reply.status:
        return reply
    reply.drop()
    return _own(status or 500, "upstream_broken_answer", f"{reply.status} is not an answer that can be passed on")


def _own(status: int, code: str, message: str) -> Reply:
    return Reply(status, status, [(b"content-type", b"application/json")], error_body(message, "policy_error", code))


_USUAL = f"Content-Type: application/json\r\nUser-Agent: policyctl/{__version__}\r\n".encode()
HELD = 1 << 20  # bytes of a body that are held until they are all there
MOST_FIELDS = 256  # of a request's body; each costs far more than its bytes, and the interface has some forty

# Headers that go to the upstream, and those that go back to the client. All others stay here: a client's own Authorization
# is for the gateway, and cookies of an upstream are not for its clients.
SENT_UP = frozenset({b"traceparent", b"tracestate", b"openai-beta", b"idempotency-key"})
_SENT_DOWN = frozenset({b"content-type", b"content-encoding", b"cache-control", b"retry-after", b"retry-after-ms"})
_SENT_DOWN_PREFIXES = (b"openai-", b"x-ratelimit-", b"anthropic-ratelimit-")
_WAITS_MS, _WAITS = (b"retry-after-ms", b"x-ms-retry-after-ms"), b"retry-after"
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


class StreamCut(Exception):
    """An answer ended before it was whole, when a part of it had been passed on already."""


@dataclass(slots=True)
class Reply:
    """What came back from an attempt: the answer for the rules, and what the client gets if it is the last.

    `rest` follows `held`, and is None where that is all; with `is_stream` it is events that can be read. `tokens` are those
    that it reports, in and out.
    """

    status: int
    answer: Answer
    headers: list[tuple[bytes, bytes]]
    held: bytes = b""
    rest: AsyncIterator[bytes] | None = None
    source: Exchange | None = None
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
    headers: Mapping[bytes, bytes]

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
        self._pool = HttpPool()
        self._places: dict[tuple[str, str], Place] = {}

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

    async def ask(self, upstream: Upstream, asking: Asking) -> Reply:
        """The answer of an upstream, or why there is none. Raises nothing but CancelledError."""
        place = self._places.get((upstream.base, asking.path))
        if place is None:
            place = self._places[upstream.base, asking.path] = Place.of(upstream.base + asking.path)
        headers = _USUAL + b"".join([b"%b: %b\r\n" % header for header in asking.headers.items()])
        if upstream.key is not None:
            headers += b"Authorization: Bearer %b\r\n" % upstream.key.encode()
        try:
            # Sent once, whatever breaks: a provider may have read it, and whether it is sent again is for the policy.
            async with asyncio.timeout(upstream.timeout):
                exchange = await self._pool.post(place, headers, asking.body_for(upstream.model))
        except NoConnection as error:
            return failure("hang", f"{upstream.name}: {error}")
        except TimeoutError:
            return failure(408, f"{upstream.name} did not answer within {upstream.timeout:g} s (request_timeout)")
        except Broken as error:
            return failure("refused", f"{upstream.name}: the connection failed ({error})")
        if exchange.status < 200:  # what follows such a head is not its body
            exchange.close()
            return failure("refused", f"{upstream.name}: {exchange.status} is not the status of an answer")
        return await self._whole(upstream, exchange)

    async def _whole(self, upstream: Upstream, exchange: Exchange) -> Reply:
        """The reply with its body, unless that is a stream or long."""
        status, headers = exchange.status, dict(exchange.headers)
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        passed = _passed_down(exchange.headers)
        if is_served(status) and kind == b"text/event-stream":
            is_plain = b"content-encoding" not in headers
            return Reply(status, status, passed, rest=_rest(exchange), source=exchange, is_stream=is_plain)
        held = bytearray()
        try:
            while chunk := await exchange.read():
                held += chunk
                if len(held) > HELD:
                    return Reply(status, _status_answer(status, headers), passed, bytes(held), _rest(exchange), source=exchange)
        except Broken as error:
            if is_served(status):
                return failure("broken-body", f"{upstream.name}: the body of the answer broke off ({error})")
            held = bytearray(error_body(f"{upstream.name}: the body of this error broke off", "upstream_error", "upstream_cut"))
            passed = [(b"content-type", b"application/json"), *(one for one in passed if not one[0].startswith(b"content-"))]
        except BaseException:  # the client has left
            exchange.close()
            raise
        reply = Reply(status, _status_answer(status, headers), passed, bytes(held))
        if is_served(status) and kind == b"application/json" and b"content-encoding" not in headers:
            try:
                reply.tokens = tokens_in(held)
            except ValueError:
                return failure("broken-body", f"{upstream.name}: the body of the answer is not JSON")
        return reply


def _passed_down(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of an answer that the client gets."""
    found = []
    for name, value in headers:
        if name in _SENT_DOWN or name.startswith(_SENT_DOWN_PREFIXES):
            found.append((name, value))
        elif name == b"x-request-id":
            found.append((b"x-policyctl-upstream-request-id", value))
    return [header for header in found if not _CONTROL.search(header[1])]


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


def _status_answer(status: int, headers: Mapping[bytes, bytes]) -> Answer:
    """The answer of a status, with the wait that a 429 asks for. A part of a second counts as a whole one."""
    if status != 429:
        return status
    milliseconds = next((headers[name] for name in _WAITS_MS if name in headers), None)
    text = headers.get(_WAITS, b"") if milliseconds is None else milliseconds
    try:
        seconds = float(text) / (1 if milliseconds is None else 1000)
    except ValueError:  # a date counts as no header
        return 429
    # Whatever asks for this long or longer ends the attempts; beyond it, records would differ by what is the same.
    return RetryAfter(min(math.ceil(seconds), MAX_RETRY_AFTER)) if 0 < seconds < math.inf else 429


async def _rest(exchange: Exchange) -> AsyncIterator[bytes]:
    """What still comes. Raises StreamCut when it breaks off."""
    try:
        while chunk := await exchange.read():
            yield chunk
    except Broken as error:
        raise StreamCut from error


_MADE_UP = ("This answer ", "is made up: ", "no provider was asked.")
_JSON = [(b"content-type", b"application/json")]
_EVENTS = [(b"content-type", b"text/event-stream")]
_PRETENDED_USAGE = {"prompt_tokens": 8, "completion_tokens": 9, "total_tokens": 17}


class Pretence(NamedTuple):
    """Models by a pattern, what they answer instead of 200, and to which share of their calls."""

    pattern: str
    answer: Answer
    share: float


def read_pretences(text: str) -> tuple[Pretence, ...]:
    """`MODEL=ANSWER[:RATE]`, with commas between several. Raises UsageError."""
    found = tuple(_read_pretence(part.strip()) for part in text.split(",") if part.strip())
    for pattern in {one.pattern for one in found}:
        if sum(one.share for one in found if one.pattern == pattern) > 1 + 1e-9:
            raise UsageError(f"--pretend {pattern}: it would give these answers to more than all of its calls")
    return found


def _read_pretence(text: str) -> Pretence:
    pattern, equals, value = text.rpartition("=")
    answer, _, rate = value.partition(":")
    if not equals or not pattern:
        raise UsageError(f"--pretend takes MODEL=ANSWER or MODEL=ANSWER:RATE, not {text!r}")
    try:
        share = float(rate) if rate else 1.0
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageError(f"--pretend {text}: {rate!r} is not a rate; write one above 0, at most 1")
    try:
        return Pretence(pattern, read_answer(answer), share)
    except ValueError as error:
        raise UsageError(f"--pretend {text}: {error}") from None


class PretendedUpstreams:
    """Answers every attempt by itself."""

    def __init__(self, pretences: Sequence[Pretence]) -> None:
        self._pretences = pretences
        self._of: dict[str, list[Pretence]] = {}

    async def close(self) -> None:
        """There is nothing to close."""

    async def ask(self, upstream: Upstream, asking: Asking) -> Reply:
        """The answer that is pretended for this model; 200 where none is."""
        own = self._of.get(upstream.name)
        if own is None:
            own = self._of[upstream.name] = [one for one in self._pretences if matching_models(one.pattern, [upstream.name])]
        point = random.random()  # noqa: S311 - a pretended failure need not be secret
        answer: Answer = 200
        for one in own:
            if point < one.share:
                answer = one.answer
                break
            point -= one.share
        if answer == "hang":
            return await _pretended_hang(upstream)
        return _pretended_reply(upstream, asking, answer)


async def _pretended_hang(upstream: Upstream) -> Reply:
    limit = upstream.timeout
    await asyncio.sleep(CONNECT_SECONDS if limit is None else min(limit, CONNECT_SECONDS))
    if limit is not None and limit < CONNECT_SECONDS:
        return failure(408, f"{upstream.name} did not answer within {limit:g} s (pretended)")
    return failure("hang", f"{upstream.name}: there was no connection within {CONNECT_SECONDS} s (pretended)")


def _pretended_reply(upstream: Upstream, asking: Asking, answer: Answer) -> Reply:
    if answer in ("refused", "broken-body"):
        return failure(answer, f"{upstream.name}: {answer} (pretended)")
    if isinstance(answer, int | RetryAfter) and answer != 200:
        status = 429 if isinstance(answer, RetryAfter) else answer
        after = [(b"retry-after", b"%d" % answer.seconds)] if isinstance(answer, RetryAfter) else []
        held = b"" if status in (204, 205, 304) else error_body(f"a pretended {status}", "pretended", "pretended")
        return Reply(status, answer, [*_JSON, *after], held)
    cut = answer == "cut-stream"
    if cut or asking.fields.get("stream") == b"true":
        return Reply(200, 200, _EVENTS, rest=_pretended_stream(upstream, asking, cut), is_stream=True)
    return Reply(200, 200, _JSON, msgspec.json.encode(_pretended_body(upstream, asking)))


def _pretended_body(upstream: Upstream, asking: Asking) -> dict[str, Any]:
    text, about = "".join(_MADE_UP), {"id": "pretended", "created": int(time.time()), "model": upstream.model}
    if asking.path == "/embeddings":
        datum = {"object": "embedding", "index": 0, "embedding": [0.0, 0.6, 0.8]}
        return {"object": "list", "model": upstream.model, "data": [datum], "usage": {"prompt_tokens": 8, "total_tokens": 8}}
    if asking.path == "/responses":
        return _pretended_response(upstream, text)
    if asking.path == "/completions":
        choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
        return {**about, "object": "text_completion", "choices": [choice], "usage": _PRETENDED_USAGE}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {**about, "object": "chat.completion", "choices": [choice], "usage": _PRETENDED_USAGE}


def _pretended_response(upstream: Upstream, text: str) -> dict[str, Any]:
    content = {"type": "output_text", "text": text, "annotations": []}
    message = {"id": "pretended", "type": "message", "role": "assistant", "status": "completed", "content": [content]}
    usage = {"input_tokens": 8, "output_tokens": 9, "total_tokens": 17}
    return {
        "id": "pretended", "object": "response", "created_at": int(time.time()), "model": upstream.model,
        "status": "completed", "output": [message], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        "usage": usage,
    }  # fmt: skip


async def _pretended_stream(upstream: Upstream, asking: Asking, cut: bool) -> AsyncIterator[bytes]:
    for number, event in enumerate(_pretended_events(upstream, asking)):
        if cut and number == 2:
            raise StreamCut
        yield b"data: %s\n\n" % msgspec.json.encode(event)
        await asyncio.sleep(0)
    if asking.path != "/responses":
        yield b"data: [DONE]\n\n"


def _pretended_events(upstream: Upstream, asking: Asking) -> list[dict[str, Any]]:
    if asking.path == "/responses":
        place = {"item_id": "pretended", "output_index": 0, "content_index": 0}
        deltas = [{"type": "response.output_text.delta", "delta": part, **place} for part in _MADE_UP]
        return [*deltas, {"type": "response.completed", "response": _pretended_response(upstream, "".join(_MADE_UP))}]
    chat = asking.path == "/chat/completions"
    about = {
        "id": "pretended",
        "created": int(time.time()),
        "model": upstream.model,
        "object": "chat.completion.chunk" if chat else "text_completion",
    }
    parts: list[dict[str, Any]] = [{"delta": {"content": part}} if chat else {"text": part} for part in _MADE_UP]
    ends: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
    choices = [{"index": 0, **part, "finish_reason": None} for part in parts]
    return [{**about, "choices": [choice]} for choice in (*choices, {"index": 0, **ends, "finish_reason": "stop"})]
