"""Receivers of notifications: HTTP servers that take them, and one that answers without end."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from policyctl.load.environment import Receiver
from policyctl.watch import Board, State
from policyctl.watch.memory import StateFolder
from policyctl.watch.notify import GATHER_SECONDS, Notifier
from tests.patience import LONGEST
from tests.watch.boards import status


class Got(NamedTuple):
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.body)

    @property
    def names(self) -> list[str]:
        return [one["environment"] for one in self.data["environments"]]


class Hook(ThreadingHTTPServer):
    """A receiver that keeps what it gets; `answers` are its next statuses, then 204."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HookHandler)
        self.got: list[Got] = []
        self.answers: list[int] = []
        self.arrived = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook/of-a-secret-path"


class HookHandler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append(Got(dict(self.headers), body))
        status = self.server.answers.pop(0) if self.server.answers else 204
        self.send_response(status)
        if status == 302:
            self.send_header("Location", self.server.url)
        self.end_headers()
        self.server.arrived.set()

    def do_GET(self) -> None:
        """Where a redirect would lead, if it were followed."""
        self.server.got.append(Got(dict(self.headers), b"{}"))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


class Drip:
    """Takes a message, then answers with a beginning and a byte now and then, until it is closed or the other side leaves."""

    def __init__(self, listener: socket.socket, begins: bytes) -> None:
        self._listener, self._begins = listener, begins
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        self.got: list[bytes] = []
        self.left = 0  # senders that have left
        self.changed = threading.Condition()
        self.closing = threading.Event()

    @property
    def ids(self) -> list[str]:
        return [json.loads(one)["id"] for one in self.got]

    def until(self, messages: int = 0, left: int = 0) -> bool:
        """Wait until it has got so many messages, and the senders of so many have left."""
        with self.changed:
            return self.changed.wait_for(lambda: len(self.got) >= messages and self.left >= left, LONGEST)

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            with connection.makefile("rb") as file:
                head = list(iter(file.readline, b"\r\n"))
                lengths = [line.split(b":")[1] for line in head if line.lower().startswith(b"content-length:")]
                message = file.read(int(lengths[0])) if lengths else b"{}"
            with self.changed:
                self.got.append(message)
                self.changed.notify_all()
            with suppress(OSError):
                connection.sendall(self._begins)
                while not self.closing.wait(0.02):
                    connection.sendall(b"x")
            with self.changed:
                self.left += 1
                self.changed.notify_all()


@contextmanager
def dripping(begins: bytes = b"HTTP/1.1 200 ") -> Iterator[Drip]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        drip = Drip(listener, begins)
        threading.Thread(target=drip.serve, daemon=True).start()
        try:
            yield drip
        finally:
            drip.closing.set()
            listener.shutdown(socket.SHUT_RDWR)


@contextmanager
def receiving() -> Iterator[Hook]:
    with Hook() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


class Watching:
    """A board with a notifier whose clock only moves when it is moved."""

    def __init__(self, folder: Path, *receivers: Receiver, now: float = 1_000_000.0) -> None:
        self.now = now
        self.notifier = Notifier(receivers, StateFolder(folder), folder.parent, clock=lambda: self.now, chance=lambda: 1.0)
        self.board = Board(self.notifier)

    def put(self, name: str, state: State = State.DRIFTED, digest: str = "sha256:1") -> None:
        self.board.put(status(name, state, digest="" if state is State.IN_SYNC else digest))

    def after(self, seconds: float = GATHER_SECONDS) -> float:
        """Deliver what is due then, and return the seconds until something else is."""
        self.now += seconds
        self.notifier.step()
        assert self.notifier.settle(60)
        return self.notifier.step()
