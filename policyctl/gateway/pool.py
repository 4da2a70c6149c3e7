"""Connections to models over HTTP/1.1, one request on them and its answer, and work beside the event loop that may wait long.

A request has a connection for itself, and gives it back once its answer has come whole.

With a general client, such as aiohttp's, half of what a request costs the gateway would be that client. This one sends a
request once, and leaves out what a gateway must not do: it follows no redirects, keeps no cookies and decodes nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

import aiohappyeyeballs
import httptools

CONNECT_SECONDS = 10  # as long as the recorded gateway waits for a connection
IDLE_SECONDS = 4.0  # before an idle connection is closed: Node and uvicorn close theirs after 5, others later
_SECOND_ADDRESS_SECONDS = 0.25  # before the next address of a host is tried beside the first (RFC 8305)
_FRESH_SECONDS = 10.0  # for which the addresses of a host are not looked up again
_LATE_SECONDS = 1.0  # after which those that were found before are used
# A machine that is gone does not end its connections: after a minute of silence it is asked whether it is there.
_PROBES = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}
_PORTS = {"http": 80, "https": 443}

AddressInfos = list[Any]  # as socket.getaddrinfo returns them


class Broken(Exception):
    """Why an answer did not come, or not as a whole. Shows nothing that the other side sent."""


class NoConnection(Broken):
    """There was no connection within CONNECT_SECONDS."""


class Address(NamedTuple):
    """Where connections lead."""

    host: str
    port: int
    is_tls: bool


class Place(NamedTuple):
    """What a URL leads to: the address, and the first lines of each request."""

    address: Address
    head: bytes

    @classmethod
    def of(cls, url: str) -> Place:
        """The place of an http(s) URL whose host is in ASCII."""
        parts = urlsplit(url)
        address = Address(parts.hostname or "", parts.port or _PORTS[parts.scheme], parts.scheme == "https")
        host = f"[{address.host}]" if ":" in address.host else address.host
        if address.port != _PORTS[parts.scheme]:
            host = f"{host}:{address.port}"
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
        return cls(address, f"POST {path} HTTP/1.1\r\nHost: {host}\r\n".encode())


class HttpPool:
    """Connections by their address. Made and closed within the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle: dict[Address, list[HttpConnection]] = {}
        self._open: set[HttpConnection] = set()
        self._found: dict[Address, tuple[AddressInfos, float]] = {}  # and until when they are fresh
        self._lookups: dict[Address, asyncio.Future[AddressInfos]] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._tls: ssl.SSLContext | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._sweep is not None:
            self._sweep.cancel()
        for lookup in self._lookups.values():
            lookup.cancel()
        for connection in self._open:
            connection.abort()
        await asyncio.sleep(0)  # they close in the next turn of the loop

    async def post(self, place: Place, headers: bytes, body: Sequence[Part]) -> Exchange:
        """Send a request once, and return its answer when the head has come. `headers` are lines, each with its end.

        The answer is to be read to its end, or closed. Raises Broken.
        """
        connection = self._take(place.address) or await self._connect(place.address)
        exchange = connection.send(place.head + headers, body)
        try:
            await exchange.head()
        except BaseException:
            exchange.close()
            raise
        return exchange

    def _take(self, address: Address) -> HttpConnection | None:
        """The idle connection that was used last."""
        idle = self._idle.get(address)
        oldest = self._loop.time() - IDLE_SECONDS
        while idle:
            connection = idle.pop()
            if connection.idle_since > oldest and connection.is_open:
                return connection
            connection.abort()
        return None

    def _give_back(self, address: Address, connection: HttpConnection) -> None:
        connection.idle_since = self._loop.time()
        self._idle.setdefault(address, []).append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(IDLE_SECONDS / 4, self._close_old)

    def _close_old(self) -> None:
        """Close what was idle for too long, and come again while there is more."""
        oldest = self._loop.time() - IDLE_SECONDS
        for address, idle in list(self._idle.items()):
            for connection in idle:
                if connection.idle_since <= oldest:
                    connection.abort()
            self._idle[address] = [connection for connection in idle if connection.is_open]
            if not self._idle[address]:
                del self._idle[address]
        self._sweep = self._loop.call_later(IDLE_SECONDS / 4, self._close_old) if self._idle else None

    async def _connect(self, address: Address) -> HttpConnection:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                found = await self._look_up(address)
                delay = _SECOND_ADDRESS_SECONDS
                connected = await aiohappyeyeballs.start_connection(found, happy_eyeballs_delay=delay, loop=self._loop)
                return await self._on(connected, address)
        except socket.gaierror as error:
            is_known = error.errno != socket.EAI_NONAME
            raise Broken("its name server does not answer" if is_known else "the host is not known") from None
        except TimeoutError:
            raise NoConnection(f"there was no connection within {CONNECT_SECONDS} s") from None
        except (OSError, ValueError) as error:
            raise Broken(reason_of(error)) from None

    async def _on(self, connected: socket.socket, address: Address) -> HttpConnection:
        """A connection on a socket that is connected."""
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _PROBES.items():
            if (number := getattr(socket, option, None)) is not None:
                connected.setsockopt(socket.IPPROTO_TCP, number, value)
        tls, name = (self._context(), address.host) if address.is_tls else (None, None)

        def protocol() -> HttpConnection:
            return HttpConnection(partial(self._give_back, address), self._open.discard)

        try:
            _, connection = await self._loop.create_connection(protocol, sock=connected, ssl=tls, server_hostname=name)
        except BaseException:
            connected.close()
            raise
        if not connection.is_open:
            raise Broken(CLOSED)
        self._open.add(connection)
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls

    async def _look_up(self, address: Address) -> AddressInfos:
        """The addresses of a host: those that were found last, if its name server is silent."""
        find = partial(socket.getaddrinfo, address.host, address.port, type=socket.SOCK_STREAM)
        with suppress(socket.gaierror):  # a number needs no name server
            return find(flags=socket.AI_NUMERICHOST)
        found, until = self._found.get(address, (None, 0.0))
        if found is not None and self._loop.time() < until:
            return found
        lookup = self._lookups.get(address)
        if lookup is None:  # in a thread of its own: those of the loop are few, and a silent name server holds one for long
            lookup = self._lookups[address] = asyncio.ensure_future(Apart()(find))
            lookup.add_done_callback(partial(self._looked_up, address))
        try:
            async with asyncio.timeout(_LATE_SECONDS if found else None):
                return await asyncio.shield(lookup)
        except (TimeoutError, socket.gaierror) as error:
            if found is None or getattr(error, "errno", None) == socket.EAI_NONAME:
                raise
            return found

    def _looked_up(self, address: Address, lookup: asyncio.Future[AddressInfos]) -> None:
        del self._lookups[address]
        if not lookup.cancelled() and lookup.exception() is None:
            self._found[address] = lookup.result(), self._loop.time() + _FRESH_SECONDS


MOST_HEAD = 64 * 1024  # bytes of a head, and of what is between two parts of a body
MOST_UNREAD = 256 * 1024  # bytes of a body that wait for their reader, before no more are taken from the socket
SILENT_SECONDS = 300.0  # without a byte of a body, after which it counts as broken off; as in Node's client
LARGE = 1 << 18  # bytes of a request that is written in slices

CLOSED = "it was closed"
_FRAMES = (b"content-length", b"transfer-encoding")

Part = bytes | memoryview


class Exchange:
    """One request and its answer, of which `status` and `headers` are there after `head`; headers have names in lower case."""

    __slots__ = (
        "_body", "_connection", "_has_head", "_needs_end", "_parser", "_quiet", "_size", "_waiting", "_why", "headers",
        "is_whole", "keeps_connection", "status",
    )  # fmt: skip

    def __init__(self, connection: HttpConnection) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_whole = False
        self.keeps_connection = False  # another request may follow
        self._has_head = self._needs_end = False
        self._quiet = 0  # bytes since the last part of the body
        self._size = 0  # bytes of the head
        self._body = bytearray()  # what of it was not read
        self._why: str | None = None  # it broke off
        self._waiting: asyncio.Future[None] | None = None
        self._connection: HttpConnection | None = connection
        self._parser: Any = httptools.HttpResponseParser(self)
        # As other clients read: models are behind servers of every kind.
        self._parser.set_dangerous_leniencies(lenient_headers=True, lenient_optional_cr_before_lf=True)

    async def head(self) -> None:
        """Wait for the head. Raises Broken."""
        while not self._has_head:
            await self._more()

    async def read(self) -> bytes:
        """The next part of the body; empty at its end. Raises Broken."""
        while not self._body:
            if self.is_whole:
                return b""
            await self._more(SILENT_SECONDS)
        data = bytes(self._body)
        self._body.clear()
        if self._connection is not None:
            self._connection.read_on()
        return data

    def close(self) -> None:
        """Read no more. A connection with more to come is closed."""
        self._body.clear()
        self.break_off("it was not read to its end")

    def break_off(self, why: str) -> None:
        """End an answer that is not whole, and its connection."""
        if self._connection is not None:
            self._connection.abort()
        self.fail(why)

    def feed(self, data: bytes) -> bool:
        """Take what has come. Returns False once nothing more is wanted."""
        self._quiet += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.keeps_connection = False
        except httptools.HttpParserError:  # also behind a whole answer
            self.keeps_connection = False
            self.fail("what came is not HTTP")
        if self._quiet > MOST_HEAD:
            self.fail("it has a head that is too long")
        return self._connection is not None

    def feed_end(self) -> None:
        """Nothing more will come. For some bodies this is their end."""
        if self._has_head and self._needs_end:
            self._end()
        else:
            self.fail(CLOSED)

    def fail(self, why: str) -> None:
        """End an answer that is not whole. What has come of it can still be read."""
        if not self.is_whole and self._why is None:
            self._why = why
            self._leave()

    @property
    def is_sent(self) -> bool:
        """Whether the request was written as a whole, or will not be."""
        return self._connection is None or self._connection.is_sent

    @property
    def is_full(self) -> bool:
        """Whether more has come than should wait for its reader."""
        return len(self._body) > MOST_UNREAD

    async def _more(self, seconds: float | None = None) -> None:
        """Wait until something comes. Raises Broken, also if nothing does for so many seconds."""
        if self._why is not None:
            raise Broken(self._why)
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        timer = None if seconds is None else loop.call_later(seconds, self.break_off, f"nothing came for {seconds:g} s")
        try:
            await self._waiting
        finally:
            self._waiting = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _end(self) -> None:
        """All of it has come."""
        self.is_whole = True
        self._leave()

    def _leave(self) -> None:
        self._connection = self._parser = None
        self._wake()

    # What the parser calls.

    def on_message_begin(self) -> None:
        self.keeps_connection = False  # also behind a whole answer, where nothing should be

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:  # otherwise it is a trailer
            self._size += len(name) + len(value)
            if self._size > MOST_HEAD:
                raise ValueError
            self.headers.append((name.strip().lower(), value))

    def on_headers_complete(self) -> None:
        if self.is_whole:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:  # the answer is still to come (RFC 9110, 15.2)
            self.headers.clear()
            return
        self.status, self._has_head = status, True
        # Whatever names a framing: one that ends with its connection could be cut off and pass as whole.
        self._needs_end = not any(name in _FRAMES for name, _ in self.headers)
        self._wake()

    def on_body(self, data: bytes) -> None:
        if not self.is_whole:
            self._quiet = 0
            self._body += data
            self._wake()

    def on_message_complete(self) -> None:
        if self._has_head and not self.is_whole:
            self.keeps_connection = self._parser.should_keep_alive()
            self._end()


class HttpConnection(asyncio.Protocol):
    """A connection. `on_idle` is called after a whole answer, if another request may follow; `on_lost` once it is closed."""

    def __init__(self, on_idle: Callable[[HttpConnection], object], on_lost: Callable[[HttpConnection], object]) -> None:
        self.idle_since = 0.0
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._transport: Any = None
        self._exchange: Exchange | None = None
        self._writing: asyncio.Task[None] | None = None  # a large request
        self._full: asyncio.Future[None] | None = None  # until more can be written
        self._is_paused = False

    def send(self, head: bytes, body: Sequence[Part]) -> Exchange:
        """Send a request on an idle connection; `head` lacks its last two lines."""
        exchange = self._exchange = Exchange(self)
        size = sum(map(len, body))
        head = b"%bContent-Length: %d\r\n\r\n" % (head, size)
        if size < LARGE:
            self._transport.write(b"".join((head, *body)))
        else:
            self._transport.write(head)
            self._writing = asyncio.get_running_loop().create_task(self._write(body))
        return exchange

    async def _write(self, body: Sequence[Part]) -> None:
        """Write a large body, no faster than it is taken. Others have their turn meanwhile."""
        for part in body:
            for at in range(0, len(part), LARGE):
                self._transport.write(memoryview(part)[at : at + LARGE])
                await (asyncio.sleep(0) if self._full is None else self._full)

    @property
    def is_sent(self) -> bool:
        """Whether the last request was written as a whole."""
        return self._writing is None or self._writing.done()

    @property
    def is_open(self) -> bool:
        """Whether it can take a request."""
        return not self._transport.is_closing()

    def read_on(self) -> None:
        """Take more from the socket, if that was stopped."""
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once."""
        if self._writing is not None:
            self._writing.cancel()
        self._exchange = self._writing = None
        self._transport.abort()

    # What the loop calls.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:  # to an idle connection nothing is sent
            self.abort()
        elif not exchange.feed(data):
            self._finish(exchange)
        elif exchange.is_full and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        exchange = self._exchange
        if exchange is not None:
            exchange.feed_end()
        self.abort()  # the loop would first write all of a large request, which may not be taken any more

    def connection_lost(self, error: Exception | None) -> None:
        exchange = self._exchange
        self.abort()
        if exchange is not None:
            exchange.fail(CLOSED if error is None else reason_of(error))
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._full = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._full is not None and not self._full.done():
            self._full.set_result(None)
        self._full = None

    def _finish(self, exchange: Exchange) -> None:
        if not exchange.keeps_connection or not self.is_sent or not self.is_open:
            self.abort()
            return
        self._exchange = self._writing = None
        self._on_idle(self)


def reason_of(error: Exception) -> str:
    """Why a connection failed, without what the other side sent."""
    if isinstance(error, ssl.SSLError):
        return str(getattr(error, "verify_message", None) or error.reason or "TLS failed")
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return type(error).__name__


Found = TypeVar("Found")


class Apart:
    """Does what may wait long in threads of its own, which do not keep the program from ending. `worked` are the seconds that a
    processor was busy with it: a remote that was waited for is looked at as soon as any other."""

    def __init__(self) -> None:
        self.worked = 0.0

    async def __call__(self, work: Callable[[], Found]) -> Found:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Found] = loop.create_future()

        def give(put: Callable[[Any], None], what: Any) -> None:
            if not done.cancelled():
                put(what)

        def run() -> None:
            end: tuple[Callable[[Any], None], Any]
            try:
                end = done.set_result, work()
            except BaseException as error:  # noqa: BLE001 - it is for what waits
                end = done.set_exception, error
            self.worked += time.thread_time()
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(give, *end)

        threading.Thread(target=run, daemon=True).start()
        return await done
