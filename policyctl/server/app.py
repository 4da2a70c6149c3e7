"""The web application: from HTTP to handlers and back, the checks before a handler runs, the log, and the list of operations.

Both the routes and the OpenAPI 3.1 description are made from that list. Logs are structured: one JSON object a line. They
contain no query, header or body, and so no secret.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from typing import Any, Protocol, TextIO

import uvicorn
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from policyctl import __version__
from policyctl.errors import Conflict, LostAnswer, Moved, NotFound, PolicyctlError, where_raised
from policyctl.load.urls import host_in, is_loopback_host
from policyctl.server import documents, login, policies
from policyctl.server.api import (
    ApiRequest,
    ApiResponse,
    Fault,
    Health,
    HttpError,
    Invalid,
    Operation,
    PathItem,
    QuotaFault,
    Service,
    Shape,
)


class Log(Protocol):
    """Writes one event: a level, a name and further fields."""

    def __call__(self, level: str, event: str, **fields: Any) -> None: ...


class JsonLog:
    """Writes events to a stream, with the time. Events are lost if the stream fails; the server continues."""

    def __init__(self, stream: TextIO, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._stream = stream
        self._now = now

    def __call__(self, level: str, event: str, **fields: Any) -> None:
        time_text = self._now().isoformat(timespec="milliseconds")
        with suppress(OSError):
            self._stream.write(json.dumps({"time": time_text, "level": level, "event": event, **fields}) + "\n")
            self._stream.flush()


class LogHandler(logging.Handler):
    """Turns the log records of libraries into events."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log(record.levelname.lower(), "library", message=record.getMessage())


class Watch:
    """Logs every request, and turns an unexpected error into a 500 that reveals nothing about the inside."""

    def __init__(self, app: ASGIApp, log: Log, clock: Callable[[], float] = time.perf_counter) -> None:
        self._app = app
        self._log = log
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = 0, self._clock()

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except ClientDisconnect:
            self._log("info", "disconnected", method=scope["method"], path=scope["path"])
            return
        except Exception as error:  # noqa: BLE001 - the boundary
            self._log("error", "bug", method=scope["method"], path=scope["path"], **where_raised(error))
            if not status:
                await JSONResponse({"detail": "the server failed; see its log"}, 500)(scope, receive, noting)
        milliseconds = round((self._clock() - began) * 1000, 1)
        self._log("info", "request", method=scope["method"], path=scope["path"], status=status, ms=milliseconds)


# The page shows nothing of the store, so it needs no token.
PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "X-Content-Type-Options": "nosniff"}
PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>policyctl serve</title>
<h1>policyctl serve</h1>
<p>This is a control plane for model policies. It is for programs: its API is below <code>/v1</code>.
<ul>
<li><a href="/openapi.json">/openapi.json</a> describes the API (with a token, where the server has one)
<li><a href="/livez">/livez</a> shows whether the server runs, <a href="/readyz">/readyz</a> whether its store answers
</ul>
<p>To use it with policyctl, write this server's URL into policyctl.yaml as the <code>remote</code> of an environment,
or try <code>policyctl plan --remote URL</code>.
</html>
"""


# Bytes of a request's URL and headers, of its body (a policy has about a thousand), and of the body of a login, which is all
# that is read before a caller is authenticated. Slow clients are left to the proxy in front.
HEAD_BYTES, BODY_BYTES, LOGIN_BYTES = 32 * 1024, 1 << 20, 16 * 1024


def make_app(service: Service, log: Log) -> Starlette:
    """The application for one service. It logs every request."""
    app = Starlette(
        routes=_routes(service),
        middleware=[Middleware(Watch, log=log)],
        exception_handlers={HTTPException: _unrouted, HttpError: _failed, PolicyctlError: _refused},
    )
    app.router.redirect_slashes = False
    app.state.log = log
    return app


def _routes(service: Service) -> list[BaseRoute]:
    itself = Operation("GET", _describe, "This description.")
    for_people = Operation("GET", lambda *_: ApiResponse(200, PAGE, PAGE_HEADERS), "What this is, for a person.", public=True)
    pages = (PathItem(path, (for_people,)) for path in ("/", "/docs"))
    root = [_route(place, service) for place in (*LOGINS, *HEALTH, PathItem("/openapi.json", (itself,)), *pages)]
    resources = Router([_route(place, service) for place in RESOURCES], redirect_slashes=False)
    return [*root, *(Mount(prefix, app=resources) for prefix in PREFIXES)]


def _describe(service: Service, _: ApiRequest) -> ApiResponse:
    return ApiResponse(200, description(open_to_all=service.keeper.open))


def _route(place: PathItem, service: Service) -> Route:
    return Route(place.path, Endpoint(place, service))


class Endpoint:
    """One path: from a request to its operation's handler, and back."""

    def __init__(self, place: PathItem, service: Service) -> None:
        self._operations = place.by_method
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._answer(Request(scope, receive))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        operation = self._operations.get("GET" if request.method == "HEAD" else request.method)
        if operation is None:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(self._operations))})
        _check_head(request)
        check_caller(operation, self._service, _host(request), request.headers.get("authorization", ""))
        call = ApiRequest(
            path=request.path_params,
            query={key: request.query_params.getlist(key) for key in request.query_params},
            body=b"" if operation.takes is None else await _body(request, operation),
            if_match=request.headers.get("if-match"),
        )
        if operation.at_once:
            return _response(operation.handler(self._service, call))
        return await run_in_threadpool(lambda: _response(operation.handler(self._service, call)))


def check_caller(operation: Operation, service: Service, host: str, authorization: str) -> None:
    """Raise HttpError unless the caller may use the operation.

    A server without a secret answers to loopback names only: otherwise a web page whose name resolves to this machine (DNS
    rebinding) could write through its visitor's browser.
    """
    if service.keeper.open and not is_loopback_host(host):
        raise HttpError(403, "a server without a token answers to loopback names only; ask for 127.0.0.1 or localhost")
    if not operation.public and not service.keeper.admits(authorization):
        raise HttpError(401, "the token is missing, wrong or expired; log in again", {"WWW-Authenticate": "Bearer"})


def _host(request: Request) -> str:
    """The name or address in the Host header, without the port; empty if the header is malformed."""
    return host_in(request.headers.get("host", "")) or ""


def _check_head(request: Request) -> None:
    headers = sum(len(key) + len(value) for key, value in request.headers.raw)
    size = len(request.scope["path"]) + len(request.scope["query_string"]) + headers
    if size > HEAD_BYTES:
        raise HttpError(431, f"the URL and the headers have more than {HEAD_BYTES} bytes")
    if "content-length" in request.headers and "transfer-encoding" in request.headers:
        # A proxy may have used the other one, and taken the rest for the next request (request smuggling).
        raise HttpError(400, "the body has two lengths, Content-Length and Transfer-Encoding", _CLOSE)


async def _body(request: Request, operation: Operation) -> bytes:
    """The whole body. One that is too large is refused before it is read, or once the limit is exceeded."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    wanted = "application/x-www-form-urlencoded" if operation.form else "application/json"
    if kind != wanted:  # this also keeps web pages of other sites from writing without a preflight request
        raise HttpError(415, f"the body must be {wanted}")
    most = LOGIN_BYTES if operation.public else BODY_BYTES
    too_large = HttpError(413, f"the body has more than {most} bytes")
    if int(request.headers.get("content-length", 0)) > most:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise too_large
    return bytes(body)


def _response(answer: ApiResponse) -> Response:
    if answer.status == 204:
        return Response(status_code=204)
    if answer.body is PAGE:
        return Response(PAGE, answer.status, dict(answer.headers), "text/html")
    text = json.dumps(answer.body, ensure_ascii=False, separators=(",", ":"))
    return Response(text.encode(), answer.status, dict(answer.headers), "application/json")


async def _unrouted(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for these alone
    return _response(ApiResponse(error.status_code, {"detail": error.detail}, error.headers or {}))


async def _failed(_: Request, error: Exception) -> Response:
    assert isinstance(error, HttpError)  # noqa: S101 - registered for these alone
    return _response(error.answer)


async def _refused(request: Request, error: Exception) -> Response:
    """A refusal of the store is returned to the client. A failure is only logged, since its text names files."""
    for kind, status in _STATUSES.items():
        if isinstance(error, kind):
            return _response(ApiResponse(status, {"detail": str(error)}))
    log: Any = request.app.state.log
    log("error", "store", message=str(error))
    if isinstance(error, LostAnswer):  # without Retry-After, which would mean that nothing was done
        return _response(ApiResponse(500, {"detail": "it is not known whether the write was carried out; read it again"}))
    return _response(ApiResponse(503, {"detail": "the store cannot be used now; see the server's log"}, {"Retry-After": "1"}))


_CLOSE = {"Connection": "close"}  # the rest of the body is not read
_STATUSES: dict[type[PolicyctlError], int] = {Moved: 412, Conflict: 409, NotFound: 404}


SHUTDOWN_SECONDS = 10
IDLE_SECONDS = 30  # before an idle connection is closed. Long, since the close may cross a new request
MAX_CONNECTIONS = 512


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises PolicyctlError if the address is not available."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise PolicyctlError(f"cannot listen on {host} port {port}: {reason}; choose another --host or --port") from None
    # Accepted connections inherit it. asyncio sets it only for sockets with an explicit protocol, which these do not have.
    # Without it a response that is sent in two parts waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def url_of(listener: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def configure(app: Starlette, max_connections: int = MAX_CONNECTIONS) -> uvicorn.Config:
    """The configuration of uvicorn. Connections beyond `max_connections` get a 503."""
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEAD_BYTES,  # while the head is incomplete; the application checks complete ones
        timeout_keep_alive=IDLE_SECONDS,
        limit_concurrency=max_connections + 1,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


def run(app: Starlette, listener: socket.socket, log: Log, max_connections: int = MAX_CONNECTIONS) -> None:
    """Serve until a signal arrives. Open requests are finished first, within SHUTDOWN_SECONDS."""
    gc.enable()  # the program disables it for short commands; in a server, garbage would accumulate
    for name in ("uvicorn", "asyncio"):
        library = logging.getLogger(name)
        library.addHandler(LogHandler(log))
        library.propagate = False
    server = uvicorn.Server(configure(app, max_connections))

    def end(*_: object) -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):  # before uvicorn's own handlers are there, and after: it raises it again
        signal.signal(number, end)
    log("info", "started", url=url_of(listener))
    server.run(sockets=[listener])
    log("info", "stopped")


# Where resources are: the layout of the Developer Edition, of IBM's API reference, and of an instance elsewhere.
PREFIXES = ("/v1/orchestrate", "/{instance:path}/v1/orchestrate", "/api/v1", "/v1")
RESOURCES = (*policies.PATHS, *documents.PATHS)
LOGINS = login.PATHS  # at the root, wherever the client logs in


def healthz(service: Service, _: ApiRequest) -> ApiResponse:
    """Healthy if the store can be read. Otherwise the error that this raises becomes a 503."""
    service.policies.count()
    return ApiResponse(200, {"status": "ok"})


def livez(*_: object) -> ApiResponse:
    """This process answers. It does not ask the store: a restart of the server would not bring that back."""
    return ApiResponse(200, {"status": "ok"})


def readyz(service: Service, _: ApiRequest) -> ApiResponse:
    """Whether the store answers at once, in a format that this server knows. Otherwise the error becomes a 503."""
    service.policies.database.check()
    return ApiResponse(200, {"status": "ok"})


HEALTH = (
    PathItem("/healthz", (Operation("GET", healthz, "Whether the server can read its store.", gives=Health, public=True),)),
    PathItem("/livez", (Operation("GET", livez, "Whether the server runs.", gives=Health, public=True, at_once=True),)),
    PathItem(
        "/readyz",
        (Operation("GET", readyz, "Whether requests may be sent here: the store answers at once.", gives=Health, public=True),),
    ),
)

_DESCRIPTION = """The policies, models, connections and other documents of IBM watsonx Orchestrate, as far as its clients use
them, in one database. Everything below /v1 is also below /api/v1 and below <anything>/v1/orchestrate."""

_FAULTS = {
    400: "The request is not valid HTTP.",
    401: "The token is missing, invalid or expired; or the key or password is wrong.",
    403: "A server without a token answers to loopback names only.",
    404: "It does not exist.",
    405: "This path does not have this method.",
    409: "The name is taken, or a policy targets the model.",
    412: "The row does not have a version that If-Match names.",
    413: "The body is too large.",
    415: "The body has another content type.",
    422: "The body or the query has the wrong shape.",
    429: "The server accepts no further policies.",
    431: "The URL and the headers are too large.",
    500: "It is not known whether the write was carried out; read before it is sent again.",
    503: "The store cannot be used now; try again later.",
}
_SHAPES: dict[int, type[Shape]] = {422: Invalid, 429: QuotaFault}
_ALWAYS = (400, 403, 431, 503)  # statuses that every operation may return
_BODIED = (413, 415)  # and those that every operation with a body may return


@cache
def description(*, open_to_all: bool) -> dict[str, Any]:
    """The whole description, as JSON, of a server that needs a token or of one that needs none. It is not to be changed."""
    places = [*(PathItem(f"/v1{place.path}", place.operations) for place in RESOURCES), *LOGINS, *HEALTH]
    return {
        "openapi": "3.1.0",
        "info": {"title": "policyctl serve", "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "security": [] if open_to_all else [{"token": []}],
        "paths": {place.path: {op.method.lower(): _operation(op, place.path) for op in place.operations} for place in places},
        "components": {
            "schemas": _schemas(operation for place in places for operation in place.operations),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _operation(operation: Operation, path: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": f"{operation.method.lower()}{path.replace('/', '_')}".replace("{", "").replace("}", ""),
        "summary": operation.summary,
        "parameters": [*_path_parameters(path), *map(_query_parameter, operation.query), *_version_parameters(operation)],
        "responses": {str(status): _fault(status) for status in _statuses(operation)},
    }
    described["responses"][str(operation.status)] = _success(operation)
    if operation.takes is not None:
        kind = "application/x-www-form-urlencoded" if operation.form else "application/json"
        described["requestBody"] = {"required": True, "content": {kind: {"schema": _ref(operation.takes)}}}
    if operation.public:
        described["security"] = []
    return described


def _statuses(operation: Operation) -> list[int]:
    private = () if operation.public else (401,)
    writes = () if operation.method == "GET" or operation.public else (500,)
    bodied = () if operation.takes is None else _BODIED
    return sorted({*_ALWAYS, *private, *writes, *bodied, *operation.faults})


def _fault(status: int) -> dict[str, Any]:
    shape = _SHAPES.get(status, Fault)
    return {"description": _FAULTS[status], "content": {"application/json": {"schema": _ref(shape)}}}


def _success(operation: Operation) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "Done."}
    if operation.versioned and operation.gives is not None:
        answer["headers"] = {"ETag": {"description": "The row's version, for If-Match.", "schema": {"type": "string"}}}
    if operation.gives is not None:
        one = _ref(operation.gives)
        schema = {"type": "array", "items": one} if operation.many else one
        answer["content"] = {"application/json": {"schema": schema}}
    return answer


def _path_parameters(path: str) -> list[dict[str, Any]]:
    found = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in found]


def _query_parameter(name: str) -> dict[str, Any]:
    schema = {"type": "array", "items": {"type": "string"}}
    return {"name": name, "in": "query", "required": False, "style": "form", "explode": True, "schema": schema}


def _version_parameters(operation: Operation) -> list[dict[str, Any]]:
    if 412 not in operation.faults:
        return []
    text = "The versions that may be replaced: entity tags, or *."
    return [{"name": "If-Match", "in": "header", "required": False, "description": text, "schema": {"type": "string"}}]


def _schemas(operations: Iterable[Operation]) -> dict[str, Any]:
    used: set[type[BaseModel]] = {Fault, Invalid, QuotaFault}
    for operation in operations:
        used |= {shape for shape in (operation.takes, operation.gives) if shape is not None}
    ordered = sorted(used, key=lambda shape: shape.__name__)
    _, schema = models_json_schema([(shape, "validation") for shape in ordered], ref_template="#/components/schemas/{model}")
    found: dict[str, Any] = schema["$defs"]
    return found


def _ref(shape: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{shape.__name__}"}
