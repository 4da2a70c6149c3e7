"""A proxy in front of a server on this machine, which loses answers: what was asked arrives, and what comes back does not."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread

_PIECE = 1 << 16
Loses = Callable[[bytes], bool]


class DroppingProxy:
    """`loses` is asked of each piece that a client sends; for True the server gets it, the proxy waits for the answer, and then
    resets the client's connection instead of passing it on. `dropped` counts these."""

    def __init__(self, port: int, loses: Loses) -> None:
        self.dropped = 0
        self.loses = loses
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._server))
            except OSError:
                client.close()
                continue
            _Line(self, client, server)


class _Line:
    """One connection: a thread for each direction."""

    def __init__(self, proxy: DroppingProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._loses = False
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for forward in (self._forth, self._back):
            Thread(target=forward, daemon=True).start()

    def _forth(self) -> None:
        with suppress(OSError):
            while piece := self._client.recv(_PIECE):
                self._loses = self._loses or self._proxy.loses(piece)
                self._server.sendall(piece)
        self._end()

    def _back(self) -> None:
        with suppress(OSError):
            while piece := self._server.recv(_PIECE):
                if self._loses:
                    self._proxy.dropped += 1
                    break
                self._client.sendall(piece)
        self._end()

    def _end(self) -> None:
        for one in (self._client, self._server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # wakes the other thread
            one.close()


@contextmanager
def dropping(port: int, loses: Loses) -> Iterator[DroppingProxy]:
    """A proxy in front of that port."""
    proxy = DroppingProxy(port, loses)
    try:
        yield proxy
    finally:
        proxy.close()


def through(proxy: DroppingProxy, name: str) -> str:
    """The URL of a database behind a proxy."""
    return f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}"


def first(words: bytes) -> Callable[[bytes], bool]:
    """Whether a piece is the first with these words."""
    left = [True]

    def loses(piece: bytes) -> bool:
        found = left[0] and words in piece
        left[0] = left[0] and not found
        return found

    return loses
