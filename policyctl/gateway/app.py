"""The gateway as an ASGI application: paths, callers, limits, errors, and what clients get.

Callers have keys of the gateway's own, of which only hashes are kept.
"""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from policyctl.errors import NotKnown, UsageError, where_raised
from policyctl.gateway.observed import ClientRequest, Observer
from policyctl.gateway.relay import (
    MOST_FIELDS,
    SENT_UP,
    Asking,
    Reply,
    Sleep,
    StreamCut,
    TooManyFields,
    Upstreams,
    error_body,
    fields_of,
    relay,
    tokens_at_end,
)
from policyctl.gateway.table import Destination, RouteTable
from policyctl.load.source import read_bounded
from policyctl.load.urls import host_in, is_loopback_host
from policyctl.policy.names import virtual_model

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Receive = Callable[[], Awaitable[Message]]

OPERATIONS = {f"/v1{path}": path for path in ("/chat/completions", "/completions", "/embeddings", "/responses")}
BODY_SECONDS = 60  # until a client has sent its body
CURRENT_SECONDS = 10  # that the first request waits at most for policies that are current
_PAGES = ("/v1/models", "/livez", "/readyz", "/metrics")
_JSON = (b"content-type", b"application/json")
_TEXT = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
CLIENT_LEFT = "the client has left"  # why the task of a request is cancelled
_TAIL = 8192  # bytes at the end of a stream in which it may report tokens


class GatewayLimits(NamedTuple):
    """What the gateway holds at most: bytes of one request's body and of all together, and requests at once."""

    body: int = 32 << 20
    bodies: int = 512 << 20
    requests: int = 2000


class Refusal(Exception):
    """A request that gets an answer from the gateway itself."""

    def __init__(self, status: int, code: str, message: str, *, param: str | None = None, **headers: str) -> None:
        super().__init__(message)
        kind = "invalid_request_error" if status < 500 else "gateway_error"
        self.status = status
        self.body = error_body(message, kind, code, param)
        self.headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]


Follow = Callable[["GatewayApp", asyncio.Event], Awaitable[None]]


class GatewayApp:
    """Answers requests by the newest table. `table`, `keys` and `refusals` may be replaced at any time. When a
    client leaves, the server cancels the task of its request."""

    _upstreams: Upstreams  # made when the loop runs, before the first request

    def __init__(
        self,
        table: RouteTable,
        connect: Callable[[], Upstreams],
        observer: Observer,
        *,
        keys: CallerKeys | None = None,
        limits: GatewayLimits = GatewayLimits(),
        follow: Follow | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """`connect` makes the upstreams once the loop runs; `follow` runs beside the requests until the end, and sets its event
        once the table is current; `sleep` waits before a model is asked again."""
        self.table = table
        self.keys = keys
        self.refusals: dict[str, str] = {}  # of "policies" and "keys": why the newest are not in use
        self.observer = observer
        self._connect = connect
        self._limits = limits
        self._follow = follow
        self._sleep = sleep
        self._requests = self._held = 0

    @property
    def refused(self) -> str | None:
        """Why what is newest is not in use."""
        return "; ".join(self.refusals.values()) or None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            operation = OPERATIONS.get(scope["path"]) if scope["method"] == "POST" else None
            await (self._page(scope, send) if operation is None else self._post(operation, scope, receive, send))

    async def _live(self, receive: Receive, send: Send) -> None:
        """Open what needs the loop, and close it in the end."""
        await receive()
        self._upstreams = self._connect()
        beside = None
        if self._follow is not None:
            is_current = asyncio.Event()
            beside = asyncio.ensure_future(self._follow(self, is_current))
            with suppress(TimeoutError):  # what it begins with is better than no answer
                await asyncio.wait_for(is_current.wait(), CURRENT_SECONDS)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if beside is not None:
            beside.cancel()
        await self._upstreams.close()
        self.observer.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _post(self, operation: str, scope: Message, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        request = ClientRequest(operation, _request_id(headers.get(b"x-request-id", b"")))
        self._requests += 1
        self.observer.begin()
        try:
            await self._answer(request, headers, receive, send)
        except Refusal as refusal:
            request.status = refusal.status
            await _send(send, refusal.status, [_JSON, *self._about(request), *refusal.headers], refusal.body)
        except asyncio.CancelledError as error:
            if CLIENT_LEFT in error.args:
                request.status = 499
            else:  # the time to finish is over
                await self._end(request, 503, "stopped", "the gateway ends", send)
        except Exception as error:  # noqa: BLE001 - the boundary: whatever is left becomes a 500 that shows nothing of the inside
            self.observer.log("error", "bug", id=request.id, **where_raised(error))
            await self._end(request, 500, "internal_error", "the gateway failed; see its log", send)
        finally:
            self._requests -= 1
            self._release(request)
            self.observer.end(request)

    async def _answer(self, request: ClientRequest, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        request.caller = self._caller(headers)
        if self._requests > self._limits.requests:
            raise Refusal(503, "overloaded", "the gateway has as many requests as it takes; try later", retry_after="1")
        fields = await self._fields(request, headers, receive)
        table = self.table
        route = _route(table, fields)
        request.route, request.stream = route, fields.get("stream") == b"true"
        up = {name: headers[name] for name in SENT_UP if name in headers}
        asking = Asking(request.operation, fields, {**up, b"x-request-id": request.id.encode()})
        reply = await relay(table, route, asking, self._upstreams, request.relayed, self._sleep)
        del fields, asking  # a stream may last long
        if reply.source is None or reply.source.is_sent:
            self._release(request)
        try:
            await self._pass_on(request, reply, send)
        finally:
            reply.drop()

    async def _end(self, request: ClientRequest, status: int, code: str, message: str, send: Send) -> None:
        """End a request that has no answer: with an error, if nothing was sent yet."""
        if request.first_byte is None:
            request.status = status
            await _send(send, status, [_JSON, *self._about(request)], error_body(message, "gateway_error", code))

    def _caller(self, headers: Mapping[bytes, bytes]) -> str:
        if self.keys is None:
            if not is_local(headers.get(b"host", b"")):
                raise Refusal(403, "not_local", "a gateway without keys answers to loopback names only; ask for 127.0.0.1")
            return ""
        caller = self.keys.caller(headers.get(b"authorization", b""))
        if caller is None:
            message = "this is not a key of the gateway; send one as Authorization: Bearer KEY"
            raise Refusal(401, "invalid_api_key", message, www_authenticate="Bearer")
        return caller

    async def _fields(self, request: ClientRequest, headers: Mapping[bytes, bytes], receive: Receive) -> dict[str, msgspec.Raw]:
        """The fields of the body. Raises Refusal for one that is too large, comes too slowly, or is not an object."""
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":  # this also keeps web pages of other sites from asking without a preflight request
            raise Refusal(415, "unsupported_media_type", "the body must be JSON; send Content-Type: application/json")
        if b"content-length" in headers and b"transfer-encoding" in headers:
            # A proxy may have used the other one, and taken the rest for the next request (request smuggling).
            raise Refusal(
                400, "two_lengths", "the body has two lengths, Content-Length and Transfer-Encoding", connection="close"
            )
        if int(headers.get(b"content-length", b"0")) > self._limits.body:
            raise self._too_large()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return fields_of(await self._body(request, receive))
        except TimeoutError:
            raise Refusal(408, "slow_body", f"the body did not come within {BODY_SECONDS} s", connection="close") from None
        except TooManyFields:
            raise Refusal(400, "too_many_fields", f"the body has more than {MOST_FIELDS} fields") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Refusal(400, "invalid_json", "the body is not a JSON object") from None

    async def _body(self, request: ClientRequest, receive: Receive) -> bytearray:
        """The whole body. Raises UnicodeDecodeError as well: msgspec reads over the insides of the fields."""
        body, reading = bytearray(), codecs.getincrementaldecoder("utf-8")()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise asyncio.CancelledError(CLIENT_LEFT)
            chunk, more = message.get("body", b""), message.get("more_body", False)
            body += chunk
            request.held += len(chunk)
            self._held += len(chunk)
            if len(body) > self._limits.body:
                raise self._too_large()
            if self._held > self._limits.bodies:
                raise Refusal(503, "overloaded", "the gateway holds as much as it can; try later", retry_after="1")
            reading.decode(chunk, final=not more)  # a part at a time: a text as a whole may take four times its bytes
            if not more:
                return body

    def _release(self, request: ClientRequest) -> None:
        self._held -= request.held
        request.held = 0

    def _too_large(self) -> Refusal:
        return Refusal(413, "body_too_large", f"the body has more than {self._limits.body:,} bytes", connection="close")

    async def _pass_on(self, request: ClientRequest, reply: Reply, send: Send) -> None:
        """Send a reply to the client; what comes later is passed on as it comes."""
        request.status, request.first_byte, request.tokens = reply.status, time.perf_counter(), reply.tokens
        headers = [*reply.headers, *self._about(request)]
        if reply.rest is None:
            await _send(send, reply.status, headers, reply.held)
            return
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        tail = reply.held[-_TAIL:]
        if reply.held:
            await send({"type": "http.response.body", "body": reply.held, "more_body": True})
        try:
            async for chunk in reply.rest:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                tail = (tail + chunk)[-_TAIL:]
        except StreamCut:
            request.relayed.tried[-1].answer = "cut-stream"
            if not reply.is_stream or (tail and not tail.endswith((b"\n\n", b"\r\n\r\n"))):
                return  # in the middle of something: the connection is closed, which a client cannot take for the end
            tail = b""
            error = error_body("the answer broke off", "upstream_error", "upstream_cut")
            await send({"type": "http.response.body", "body": b"data: %s\n\n" % error, "more_body": True})
        if reply.is_stream:
            request.tokens = tokens_at_end(tail)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _about(self, request: ClientRequest) -> Headers:
        """The headers that show what became of a request."""
        found = [(b"x-request-id", request.id.encode())]
        if request.route is not None:
            tried = request.relayed.tried
            found += [
                (b"x-policyctl-policy", _header(request.route.name)),
                (b"x-policyctl-version", request.route.version.encode()),
                (b"x-policyctl-served-by", _header(request.relayed.served_by)),
                (b"x-policyctl-attempts", b"%d" % len(tried)),
            ]
            if len(tried) > 1:  # so that a client does not repeat what the policy has repeated
                found.append((b"x-should-retry", b"false"))
        return found

    async def _page(self, scope: Message, send: Send) -> None:
        """Everything but requests to models."""
        try:
            status, headers, body = self._content(scope["method"], scope["path"], scope["headers"])
        except Refusal as refusal:
            status, headers, body = refusal.status, [_JSON, *refusal.headers], refusal.body
        await _send(send, status, headers, body)

    def _content(self, method: str, path: str, headers: Headers) -> tuple[int, Headers, bytes]:
        if path in OPERATIONS:
            raise Refusal(405, "method_not_allowed", f"{path} takes POST", allow="POST")
        if path not in _PAGES or method not in ("GET", "HEAD"):
            raise Refusal(404, "not_found", f"{method} {path} is not served here; see policyctl help gateway")
        if path == "/livez":
            return 200, [_JSON], b'{"status":"alive"}'
        if path == "/readyz":
            return 200, [_JSON], msgspec.json.encode(self._state())
        self._caller(dict(headers))
        if path == "/v1/models":
            models = [{"id": name, "object": "model", "created": 0, "owned_by": "policyctl"} for name in self.table.names]
            return 200, [_JSON], msgspec.json.encode({"object": "list", "data": models})
        return 200, [_TEXT], self.observer.metrics_text(self.table.revision, self.refused is not None).encode()

    def _state(self) -> dict[str, Any]:
        table = self.table
        return {
            "status": "ready",
            "revision": table.revision,
            "revisions": sorted({table.revision} | self.observer.metrics.revisions()),
            "policies": len(table.policies),
            "without_upstream": sorted(table.unreachable),
            "left_out": sorted(table.left_out),
            "own_models": sorted(table.snapshot.own),
            "refused": self.refused,
        }


_MODEL = msgspec.json.Decoder(str)


def _route(table: RouteTable, fields: Mapping[str, msgspec.Raw]) -> Destination:
    """What a request's model leads to. Raises Refusal when it leads nowhere."""
    try:
        model = _MODEL.decode(fields["model"])
    except (KeyError, msgspec.DecodeError):
        raise Refusal(400, "missing_model", "model must name a policy, such as virtual-policy/NAME", param="model") from None
    try:
        route = table.route(model)
    except NotKnown as error:
        raise Refusal(501, "policy_not_supported", str(error), param="model") from None
    if route is None:
        named = model[:200]
        why = table.without.get(virtual_model(model))
        message = f"{named} has no upstream: {why}" if why else f"no policy or model is named {named}; GET /v1/models lists all"
        raise Refusal(404, "model_not_found", message, param="model")
    return route


def _request_id(given: bytes) -> str:
    text = given.decode("latin-1")
    return text if 0 < len(text) <= 128 and text.isascii() and text.isprintable() else secrets.token_hex(16)


def _header(text: str) -> bytes:
    return text.encode() if text.isascii() and text.isprintable() else quote(text, safe="/:@ ").encode()


async def _send(send: Send, status: int, headers: Headers, body: bytes) -> None:
    if status not in (204, 304):
        headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


SHORTEST = 16  # characters of a key
_MOST_KEY_BYTES = 1 << 20  # bytes of the file of keys


class CallerKeys:
    """Who may call, by the hash of their keys. Several keys may have one name, to replace one by another."""

    def __init__(self, names: Mapping[bytes, str]) -> None:
        self._names = names

    def caller(self, authorization: bytes) -> str | None:
        """The name of who sends this Authorization header; None for a key that is not known."""
        scheme, _, key = authorization.strip().partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        return self._names.get(hashlib.sha256(key.strip()).digest())


def read_keys(reference: str) -> CallerKeys:
    """The keys that `env:NAME` or `file:PATH` has: one a line, alone or after a name and a space; # begins a comment.

    Raises UsageError when there are none, or for one that is too short to be secret.
    """
    kind, _, where = reference.partition(":")
    if kind not in ("env", "file") or not where:
        raise UsageError("--keys-from must be a reference, env:NAME or file:PATH; never a key itself")
    try:
        text = os.environ.get(where, "") if kind == "env" else read_bounded(Path(where), _MOST_KEY_BYTES).decode()
    except OSError as error:
        raise UsageError(f"--keys-from refers to {reference}, which cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--keys-from refers to {reference}, which is not text") from None
    names: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        *name, key = line.split("#")[0].split() or [""]
        if not key:
            continue
        if len(name) > 1 or len(key) < SHORTEST or not key.isascii():
            raise UsageError(
                f"--keys-from refers to {reference}, whose line {number} is not a key of {SHORTEST} characters or more, "
                "alone or after a name"
            )
        names[hashlib.sha256(key.encode()).digest()] = name[0] if name else f"key {len(names) + 1}"
    if not names:
        raise UsageError(f"--keys-from refers to {reference}, which is not set or has no key")
    return CallerKeys(names)


def is_local(host: bytes) -> bool:
    """Whether a Host header names this machine. Without keys only such requests are answered: otherwise a web page whose name
    resolves to this machine could use the gateway through its visitor's browser."""
    return is_loopback_host(host_in(host.decode("latin-1")) or "")
