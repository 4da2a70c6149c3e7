"""A proxy on real sockets, which lets requests through to a real server, or does not, as a test decides."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tests.chaos.faults import End, Play
from tests.chaos.messages import Answer, Request, Requests, Upstream
from tests.patience import LONGEST

_HOP = (b"connection", b"transfer-encoding", b"keep-alive")  # what concerns one connection only


def server_at(port: int) -> Upstream:
    """Something to ask: a server on this machine."""

    def ask(request: Request) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONGEST)
        with suppress(OSError):
            connection.connect()
        try:
            connection.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers:
                connection.putheader(name.decode(), value)
            connection.endheaders(request.body)
            given = connection.getresponse()
            headers = tuple((name.lower().encode(), value.encode()) for name, value in given.getheaders())
            return Answer(given.status, tuple(pair for pair in headers if pair[0] not in _HOP), given.read())
        finally:
            connection.close()

    return ask


class Proxy:
    """Answers every request on a port of its own with what `play` makes of it; a thread for each connection."""

    def __init__(self, play: Callable[[Request], Play]) -> None:
        self._play = play
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._connections: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def start(self) -> None:
        self._accepting.start()

    def settle(self) -> None:
        """Wait until nothing is under way. For when the client has ended: then every connection ends."""
        while self._connections:
            self._connections.pop().join()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        self.settle()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._serve, args=[connection])
            self._connections.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        requests, end = Requests(), End.KEEP
        with connection, suppress(ConnectionError):
            while end is End.KEEP and (data := connection.recv(65536)):
                request = requests.feed(data)
                if request is not None:
                    end = _show(self._play(request), connection)
            if end is End.RESET:  # closing with nothing to linger for sends a reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _show(play: Play, connection: socket.socket) -> End:
    never = threading.Event()
    for seconds, data in play.pieces:
        never.wait(seconds)
        connection.sendall(data)
    return play.end


@contextmanager
def proxying(play: Callable[[Request], Play]) -> Iterator[Proxy]:
    """Run a proxy for a while."""
    proxy = Proxy(play)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.close()
