"""Connections to models. A request has one for itself, and gives it back once its answer has come whole.

With a general client, such as aiohttp's, half of what a request costs the gateway would be that client. This one sends a
request once, and leaves out what a gateway must not do: it follows no redirects, keeps no cookies and decodes nothing.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import aiohappyeyeballs

from policyctl.gateway.apart import Apart
from policyctl.gateway.exchange import CLOSED, Broken, Exchange, HttpConnection, Part, reason_of

CONNECT_SECONDS = 10  # as long as the recorded gateway waits for a connection
IDLE_SECONDS = 4.0  # before an idle connection is closed: Node and uvicorn close theirs after 5, others later
_SECOND_ADDRESS_SECONDS = 0.25  # before the next address of a host is tried beside the first (RFC 8305)
_FRESH_SECONDS = 10.0  # for which the addresses of a host are not looked up again
_LATE_SECONDS = 1.0  # after which those that were found before are used
# A machine that is gone does not end its connections: after a minute of silence it is asked whether it is there.
_PROBES = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}
_PORTS = {"http": 80, "https": 443}

AddressInfos = list[Any]  # as socket.getaddrinfo returns them


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
