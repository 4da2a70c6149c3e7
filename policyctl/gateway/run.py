"""The gateway as a server: sockets, workers, signals; and from one set of policies to the next while requests are answered."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import Any, NoReturn, Protocol

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from policyctl.errors import InvalidInput, PolicyctlError
from policyctl.gateway.app import CLIENT_LEFT, CallerKeys, Follow, GatewayApp
from policyctl.gateway.observed import LibraryEvents
from policyctl.gateway.pool import Apart
from policyctl.gateway.table import RouteTable

HEAD_BYTES, HEAD_SECONDS = 64 * 1024, 30  # of a request's line and headers
TAKE_SECONDS = 60  # within which a client takes more of its answer
AHEAD_BYTES = 64 * 1024  # that a client may send behind a request that is not answered yet
_INVALID = "Invalid HTTP request received."
IDLE_SECONDS = 75  # before an idle connection of a client is closed
_ENDING = (signal.SIGINT, signal.SIGTERM)
_RESTART_SECONDS = 1.0  # between two starts of a worker, and twice as long each time that one ended soon
_SOON, _LONGEST_PAUSE = 10.0, 30.0


class ClientProtocol(HttpToolsProtocol):
    """A client's connection: ends the request under way when it is lost, and limits how long a head may be and take."""

    _late: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None
    _task: asyncio.Task[None] | None = None  # of the newest request that has begun; with pipelining others wait
    _quiet = 0  # bytes since the last head or part of a body
    _ahead = 0  # bytes behind a request that is not answered yet
    _in_head = True

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._late, self._stuck):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        if self._task is not None:
            self._task.cancel(CLIENT_LEFT)

    def _expect_head(self) -> None:
        """Give a head its time, from the first byte after the last answer on."""
        if self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """As uvicorn does it, but the task is kept."""
        self._task = self.loop.create_task(cycle.run_asgi(app))
        self._task.add_done_callback(self.tasks.discard)
        self.tasks.add(self._task)

    def data_received(self, data: bytes) -> None:
        self._quiet += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(memoryview(data))
        except httptools.HttpParserError:
            self.logger.warning(_INVALID)
            self.send_400_response(_INVALID)
        if self.cycle is None or self.cycle.response_complete:
            self._expect_head()
        self._read_ahead(len(data))
        if self._quiet > HEAD_BYTES and not self.transport.is_closing():
            if self._in_head:
                self.send_400_response(f"The head has more than {HEAD_BYTES} bytes.")
            else:  # trailers, or what a chunk has beside its data; the answer may have begun
                self.transport.close()

    def pause_writing(self) -> None:
        """Give a client its time to take what was sent."""
        super().pause_writing()
        self._expect_taking()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck is not None and not self.transport.is_closing():
            self._stuck.cancel()
            self._stuck = None

    def _expect_taking(self) -> None:
        if self._stuck is None:
            self._stuck = self.loop.call_later(TAKE_SECONDS, self.transport.abort)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():  # once the client has taken what was sent
            self._expect_taking()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._expect_taking()

    def _read_ahead(self, size: int) -> None:
        """Read on while requests wait for the one under way, since only what is read shows that a client has left."""
        self._ahead = self._ahead + size if self.pipeline else 0
        if self._ahead > AHEAD_BYTES:
            self.transport.close()
        elif self.pipeline:
            self.flow.resume_reading()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that cannot be read, unless that would be taken for a part of the answer under way."""
        cycle = self.cycle
        is_answered = cycle is None or cycle.response_complete
        if is_answered or (cycle.more_body and not cycle.response_started and not self.pipeline):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def _parse(self, rest: memoryview) -> None:
        """Parse what came. Upgrade is ignored (RFC 9110, 7.8). Raises HttpParserError."""
        while True:
            try:
                return self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                # The parser left out the body, which it would take for the next request: it reads the request again, as one
                # that does not ask for another protocol.
                head = self._head_without_upgrade()
                self.parser = httptools.HttpRequestParser(self)
                with suppress(AttributeError):  # httptools before 0.6.3; as uvicorn has it
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self.parser.feed_data(head)
                rest = rest[upgrade.args[0] :]

    def _head_without_upgrade(self) -> bytes:
        """The head of the newest request. Raises HttpParserError for a tunnel, which cannot be refused and then go on."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise httptools.HttpParserError("a tunnel")
        headers = b"".join(b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade")
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, self.parser.get_http_version().encode(), headers)

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # a trailer is not a header (RFC 9110, 6.5.1)
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._quiet = 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # the request is read again
        self._in_head, self._quiet = False, 0
        if self._late is not None:
            self._late.cancel()
            self._late = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._quiet = 0
        super().on_message_complete()
        if not self.pipeline:  # after a large part of a body nothing would be read, so not that the client leaves
            self.flow.resume_reading()


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A bound socket; with `shared`, other processes may listen at the same address. Raises PolicyctlError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
        bound.bind((host, port))
    except OSError as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise PolicyctlError(f"cannot listen on {host} port {port}: {reason}; choose another --host or --port") from None
    return bound


def url_of(bound: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(app: GatewayApp, bound: socket.socket, *, workers: int, drain_seconds: int) -> None:
    """Serve until a signal arrives. Requests under way are finished first, within `drain_seconds`."""
    _open_more_files()
    if workers == 1:
        bound.listen(2048)
        _serve(app, bound, drain_seconds)
    else:
        _Supervisor(app, bound, drain_seconds).run(workers)


def _open_more_files() -> None:
    """Raise the limit of open files to what is allowed: a request needs two, and without one a model would count as broken."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # not everywhere can it be that high
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def configure(app: GatewayApp, drain_seconds: int) -> uvicorn.Config:
    """The configuration of uvicorn."""
    return uvicorn.Config(
        app,
        http=ClientProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=drain_seconds,
    )


def _serve(app: GatewayApp, listener: socket.socket, drain_seconds: int) -> None:
    gc.enable()  # the program disables it for short commands; in a server, garbage would accumulate
    for name in ("uvicorn", "asyncio"):
        library = logging.getLogger(name)
        library.addHandler(LibraryEvents(app.observer.log))
        library.propagate = False
    server = uvicorn.Server(configure(app, drain_seconds))

    def end(*_: object) -> None:
        server.should_exit = True

    for number in _ENDING:  # before uvicorn's own handlers are there, and after: it raises the signal again
        signal.signal(number, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    app.observer.log("info", "started", url=url_of(listener), revision=app.table.revision, policies=len(app.table.policies))
    server.run(sockets=[listener])
    app.observer.log("info", "stopped")
    app.observer.log.lines.flush()


class _Supervisor:
    """Starts workers that share an address, replaces those that end, and ends all of them at a signal."""

    def __init__(self, app: GatewayApp, bound: socket.socket, drain_seconds: int) -> None:
        self.app = app  # each worker begins with a copy
        self.bound = bound  # never listens: it keeps the port while no worker does
        self.drain_seconds = drain_seconds
        self.started: dict[int, float] = {}
        self.soon = 0  # workers in a row that ended soon after their start
        self.ending = False
        self.noticed, self.held = os.pipe()  # the second is open in this process alone, so its end shows at the first

    def run(self, workers: int) -> None:
        for number in _ENDING:
            signal.signal(number, self._end)
        for _ in range(workers):
            self._start()
        while self.started:
            try:
                pid, status = os.wait()
            except ChildProcessError:
                return
            lived = time.monotonic() - self.started.pop(pid, 0.0)
            if not self.ending:
                self._pause(pid, status, lived)
                self._start(replaces=True)

    def _pause(self, pid: int, status: int, lived: float) -> None:
        """Log how a worker ended, and wait until another is started: longer each time that they end soon after their start."""
        code = os.waitstatus_to_exitcode(status)
        self.soon = self.soon + 1 if lived < _SOON else 0
        pause = max(0.0, min(_RESTART_SECONDS * 2.0 ** max(0, self.soon - 1), _LONGEST_PAUSE) - lived)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        self.app.observer.log("error", "worker ended", pid=pid, reason=how, lived_seconds=round(lived, 1))
        end = time.monotonic() + pause
        while not self.ending and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _RESTART_SECONDS))

    def _end(self, *_: object) -> None:
        self.ending = True
        for pid in list(self.started):
            with suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(pid, signal.SIGTERM)

    def _start(self, *, replaces: bool = False) -> None:
        """Start a worker, unless all of them are to end."""
        # A worker must not get a signal while it still has the handlers of this process.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        if not self.ending:
            pid = os.fork()
            if not pid:
                self._work(replaces)
            self.started[pid] = time.monotonic()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)

    def _work(self, replaces: bool) -> NoReturn:
        code = 1
        try:
            os.close(self.held)
            threading.Thread(target=self._end_with_supervisor, daemon=True).start()
            host, port = self.bound.getsockname()[:2]
            listener = listen(host, port, shared=True)
            if not replaces:  # one that does listens only once its policies are current; until then the others answer
                listener.listen(2048)
            _serve(self.app, listener, self.drain_seconds)
            code = 0
        finally:
            os._exit(code)

    def _end_with_supervisor(self) -> None:
        """End this worker once its supervisor has gone, however that ended: another gateway could share the port with it."""
        os.read(self.noticed, 1)
        os.kill(os.getpid(), signal.SIGTERM)


_SHARE_SECONDS = 1.0  # between two times that a worker gives its counters to the others
_READINGS = 5  # of policies that change while they are read
_KEYS_SECONDS = 1.0  # between two readings of keys, at most
_PART = 0.1  # of a processor's time is spent on looking, at most


class Followed(Protocol):
    """Where policies come from. The methods are called in a thread."""

    every: float  # seconds between two looks

    def signature(self) -> object:
        """A value that differs once the policies may have changed; None if only loading shows it."""
        ...

    def load(self) -> RouteTable:
        """The policies as they are now. Raises PolicyctlError when they are not fit to be used."""
        ...

    def keys(self) -> CallerKeys | None:
        """The keys of callers as they are now. Raises PolicyctlError as well."""
        ...


def begin(source: Followed) -> tuple[RouteTable, object]:
    """The policies to begin with, and their signature, for `following`. What changes while it is read is read again. Raises
    PolicyctlError."""
    for _ in range(_READINGS - 1):
        before = source.signature()
        table = source.load()
        if source.signature() == before:
            return table, before
        del table  # it may be large
    before = source.signature()  # it changes all the time: the first look finds what changes now
    return source.load(), before


def following(source: Followed, seen: object) -> Follow:
    """What keeps a gateway up to date. `seen` is the signature of the table that it begins with, see `begin`: a
    worker that is started much later looks before its first request."""
    due = time.monotonic() + source.every

    async def follow(app: GatewayApp, is_current: asyncio.Event) -> None:
        if time.monotonic() < due:
            is_current.set()
        else:
            await _take_keys(app, source)
        await asyncio.gather(_follow(app, source, seen, due, is_current), _follow_keys(app, source), _share(app))

    return follow


async def _share(app: GatewayApp) -> None:
    while True:
        app.observer.note(app.table.revision, app.refused is not None)
        with suppress(OSError):  # a full disk: the others miss the newest counts until there is space again
            app.observer.metrics.share()
        await asyncio.sleep(_SHARE_SECONDS)


async def _follow(app: GatewayApp, source: Followed, seen: object, due: float, is_current: asyncio.Event) -> None:
    while True:
        await asyncio.sleep(due - time.monotonic())
        apart, settled = Apart(), True
        try:
            now = await apart(source.signature)
            if now is None or now != seen or "policies" in app.refusals:  # what was refused may have been a passing fault
                seen = await _take(app, source, apart, now)
                settled = seen == now
        except PolicyctlError as error:
            _refuse(app, "policies", error)
        except Exception as error:  # noqa: BLE001 - whatever a source raises, the requests go on
            _refuse(app, "policies", PolicyctlError(f"{type(error).__name__} while reading the policies"))
        if settled:
            is_current.set()
        # Without a pause while it runs what the gateway began with: what changes all the time could take minutes to settle.
        due = time.monotonic() + max(source.every, apart.worked / _PART if is_current.is_set() else 0)


async def _follow_keys(app: GatewayApp, source: Followed) -> None:
    """Keys by themselves: one that was withdrawn is not taken while policies cannot be read."""
    while True:
        await asyncio.sleep(min(source.every, _KEYS_SECONDS))
        await _take_keys(app, source)


async def _take_keys(app: GatewayApp, source: Followed) -> None:
    try:
        app.keys = await Apart()(source.keys)
    except PolicyctlError as error:
        _refuse(app, "keys", error)
    except Exception as error:  # noqa: BLE001 - as for policies
        _refuse(app, "keys", PolicyctlError(f"{type(error).__name__} while reading the keys"))
    else:
        app.refusals.pop("keys", None)


async def _take(app: GatewayApp, source: Followed, apart: Apart, signature: object) -> object:
    """Load, and swap if nothing changed meanwhile; the signature of what is in use now."""
    try:
        table = await apart(source.load)
    except PolicyctlError as error:
        _refuse(app, "policies", error)
        return signature
    if signature is not None and await apart(source.signature) != signature:
        return object()  # it changed while it was read: look again
    if app.refusals.pop("policies", None) is not None or table.snapshot != app.table.snapshot:
        app.table = table
        app.observer.log("info", "policies", revision=table.revision, policies=len(table.policies))
        report_unreachable(app)
    return signature


def _refuse(app: GatewayApp, what: str, error: PolicyctlError) -> None:
    """Keep the policies or keys in use, and show why; once for each reason."""
    shown = [str(problem) for problem in error.problems[:5]] if isinstance(error, InvalidInput) else [str(error)]
    reason = "; ".join(shown)
    if reason != app.refusals.get(what):
        app.refusals[what] = reason
        app.observer.log("error", "refused", reason=reason, revision=app.table.revision)


def report_unreachable(app: GatewayApp) -> None:
    """Log the models that policies target and that cannot be called, and the policies that cannot be run."""
    for model, why in app.table.unreachable.items():
        app.observer.log("warning", "no upstream", model=model, reason=why)
    for policy, why in app.table.left_out.items():
        app.observer.log("warning", "left out", policy=policy, reason=why)
