"""A server that trickles its answer is bounded as a whole, not only by each read."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from policyctl.errors import LostAnswer, RemoteError
from policyctl.remote.hosts import WHOLE
from tests.remote.http_helpers import Clock, document, reach

HEAD = b"HTTP/1.1 200 OK\r\nX-Slow: "
BODY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"


@dataclass
class Creeping(Clock):
    """A clock by which a second passes at every look; each look lets the server send one more byte."""

    looks: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def now(self) -> float:
        self.time += 1
        self.looks.release()
        return self.time


@contextmanager
def dripping(start: bytes, clock: Creeping, drop: bytes = b"x") -> Iterator[str]:
    """A server that answers with `start` and then a `drop` at each look at the clock, for ever; its URL."""
    stop = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65536)
                connection.sendall(start)
                while not stop.is_set():
                    clock.looks.acquire()
                    connection.sendall(drop)
            except OSError:  # the client gave up, as it should
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=[connection], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()


@pytest.mark.parametrize("start", [HEAD, BODY], ids=["headers", "body"])
def test_a_write_whose_answer_trickles_for_ever_is_a_lost_answer(start: bytes) -> None:
    clock = Creeping()
    with dripping(start, clock) as url, reach(url, clock=clock) as remote:
        began = clock.time
        with pytest.raises(LostAnswer, match="did not answer in time"):
            remote.add(document("one"))
    assert WHOLE <= clock.time - began <= WHOLE + 5


def test_a_read_whose_answer_trickles_for_ever_is_given_up() -> None:
    clock = Creeping()
    with (
        dripping(BODY, clock) as url,
        reach(url, clock=clock) as remote,
        pytest.raises(RemoteError, match="did not answer in time"),
    ):
        remote.rows()
    assert clock.slept == []  # the whole budget for repeating it went into waiting for it


def test_an_answer_that_comes_slowly_but_in_time_is_taken() -> None:
    """The deadline is for what takes too long, not for what takes many reads."""
    clock = Creeping()
    start = BODY.replace(b"1000000", b"60") + b"[]"
    with dripping(start, clock, b" ") as url, reach(url, clock=clock) as remote:
        assert remote.rows() == []


def test_a_proxy_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Creeping()
    with dripping(HEAD, clock) as url:
        for name in ("NO_PROXY", "no_proxy", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTP_PROXY", url)
        with reach("http://orchestrate.example", clock=clock) as remote, pytest.raises(LostAnswer, match="in time"):
            remote.add(document("one"))
    assert clock.time <= Clock().time + WHOLE + 5
