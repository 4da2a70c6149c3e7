"""Connections to models: which request has which, when one is used again, and that none is left behind."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from policyctl.gateway import pool as pools
from policyctl.gateway.pool import LARGE, Broken, Exchange, HttpPool, NoConnection, Place
from tests.examples import examples
from tests.patience import LONGEST

Act = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


TURNS = 1000  # of the loop: far more than it takes to move all that a test sends


@pytest.fixture(autouse=True)
def long_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a test is about closes a connection."""
    monkeypatch.setattr(pools, "IDLE_SECONDS", 1000.0)


def run(test: Coroutine[Any, Any, None]) -> None:
    """On the loop that the gateway has, which differs from that of asyncio where a connection ends."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test)


class Model:
    """An upstream in the loop of the test. Each request is handed to `act` with its body; `of` has its connection's number."""

    def __init__(self, act: Act) -> None:
        self.act = act
        self.url = ""
        self.of: dict[bytes, int] = {}
        self.connections = 0
        self.open = 0
        self._changed = asyncio.Condition()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        number = self.connections
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
                    body = b"" if b"unread" in head else await reader.readexactly(length)
                    self.of[body] = number
                    await self.act(body, reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            self.open -= 1
            async with self._changed:
                self._changed.notify_all()

    async def until_open(self, number: int) -> None:
        """Wait until so many connections are open."""
        async with asyncio.timeout(LONGEST), self._changed:
            await self._changed.wait_for(lambda: self.open == number)


@asynccontextmanager
async def connected(act: Act, host: str = "127.0.0.1", **more: Any) -> Any:
    """A pool and a model that acts so."""
    model = Model(act)
    server = await asyncio.start_server(model.serve, host, 0, **more)
    scheme = "https" if more.get("ssl") else "http"
    model.url = f"{scheme}://{'[::1]' if host == '::1' else host}:{server.sockets[0].getsockname()[1]}/v1"
    pool = HttpPool()
    try:
        yield pool, model
    finally:
        await pool.close()
        server.close()
        await asyncio.sleep(0)  # what was accepted begins to be served
        await model.until_open(0)


async def echo(body: bytes, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    await writer.drain()


async def whole(exchange: Exchange) -> bytes:
    found = []
    while chunk := await exchange.read():
        found.append(chunk)
    return b"".join(found)


async def ask(pool: HttpPool, model: Model, body: bytes, headers: bytes = b"") -> bytes:
    return await whole(await pool.post(Place.of(model.url), headers, [body]))


def test_a_connection_serves_one_request_after_the_other() -> None:
    async def test() -> None:
        async with connected(echo) as (pool, model):
            assert [await ask(pool, model, body) for body in (b"1", b"2", b"3")] == [b"1", b"2", b"3"]
            assert await asyncio.gather(*(ask(pool, model, body) for body in (b"4", b"5"))) == [b"4", b"5"]
            assert await ask(pool, model, b"6") == b"6"
            assert [model.of[b"%d" % number] for number in range(1, 5)] == [1] * 4
            assert model.connections == 2

    run(test())


def test_to_leave_an_answer_closes_its_own_connection_only_and_one_that_came_whole_closes_none() -> None:
    async def some(body: bytes, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n" + (b"x" if body == b"left" else b"xxxx"))
        await writer.drain()

    async def test() -> None:
        async with connected(some) as (pool, model):
            place = Place.of(model.url)
            first = await pool.post(place, b"", [b"first"])
            assert await whole(first) == b"xxxx"
            left = await pool.post(place, b"", [b"left"])  # on the connection of the first
            first.close()
            assert await left.read() == b"x"
            left.close()
            await model.until_open(0)
            with pytest.raises(Broken):
                await left.read()
            assert await ask(pool, model, b"next") == b"xxxx"
            assert (model.of[b"left"], model.of[b"next"]) == (1, 2)

    run(test())


def test_a_request_that_is_cancelled_closes_its_connection() -> None:
    heard = asyncio.Event()

    async def silent(_: bytes, reader: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        heard.set()
        await reader.read()

    async def test() -> None:
        async with connected(silent) as (pool, model):
            asked = asyncio.ensure_future(ask(pool, model, b"x"))
            await heard.wait()
            asked.cancel()
            await model.until_open(0)

    run(test())


def test_a_connection_is_closed_after_some_time_without_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "IDLE_SECONDS", 0.05)

    async def test() -> None:
        async with connected(echo) as (pool, model):
            await asyncio.gather(ask(pool, model, b"1"), ask(pool, model, b"2"))
            await model.until_open(0)
            assert await ask(pool, model, b"3") == b"3"

    run(test())


def test_one_that_was_idle_for_too_long_is_not_used_although_it_is_not_closed_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with connected(echo) as (pool, model):
            await ask(pool, model, b"1")
            monkeypatch.setattr(pools, "IDLE_SECONDS", 0.0)
            await ask(pool, model, b"2")
            assert model.of == {b"1": 1, b"2": 2}

    run(test())


@pytest.mark.parametrize("more", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"], ids=["closed", "an answer"])
def test_an_idle_connection_that_is_closed_or_sends_something_is_not_used(more: bytes) -> None:
    """What came without a request would be taken for the answer to the next one."""
    go = asyncio.Event()

    async def then_more(body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await echo(body, reader, writer)
        if body == b"1":
            await go.wait()
            writer.write(more)
            if not more:
                writer.close()

    async def test() -> None:
        async with connected(then_more) as (pool, model):
            assert await ask(pool, model, b"1") == b"1"
            go.set()
            await model.until_open(0)
            assert await ask(pool, model, b"2") == b"2"
            assert model.of == {b"1": 1, b"2": 2}

    run(test())


def test_an_answer_that_comes_before_the_request_was_sent_is_read_and_its_connection_not_used_again() -> None:
    async def refuse(_: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 413 X\r\ncontent-length: 1\r\n\r\nx")
        await reader.read()

    async def test() -> None:
        async with connected(refuse) as (pool, model):
            exchange = await pool.post(Place.of(model.url), b"unread: 1\r\n", [b"x" * (40 * LARGE)])
            assert (exchange.status, await whole(exchange)) == (413, b"x")
            await model.until_open(0)

    run(test())


ENDS: dict[str, tuple[bytes, int]] = {
    "without an answer": (b"", 0),
    "with an answer that ends with it": (b"HTTP/1.1 413 X\r\n\r\nx", 413),
    "in the middle of an answer": (b"HTTP/1.1 413 X\r\ncontent-length: 3\r\n\r\nx", 413),
}


@pytest.mark.parametrize("case", ENDS)
def test_a_model_that_ends_its_side_ends_the_connection_although_it_takes_no_more_of_the_request(case: str) -> None:
    """Else the rest of a large request would be kept for as long as the model keeps its other side open."""
    answer, status = ENDS[case]
    heard, stuck, seen = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def end(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.set()
        await stuck.wait()
        writer.write(answer)
        writer.write_eof()
        await seen.wait()

    async def test() -> None:
        async with connected(end) as (pool, model), asyncio.timeout(LONGEST):
            body = [b"x" * (100 * LARGE)]
            asked = asyncio.ensure_future(pool.post(Place.of(model.url), b"unread: 1\r\n", body))
            await heard.wait()
            for _ in range(TURNS):
                await asyncio.sleep(0)
            (connection,) = pool._open
            assert connection._transport.get_write_buffer_size() > 0
            stuck.set()
            if status:
                exchange = await asked
                assert exchange.status == status
                with suppress(Broken):
                    assert await whole(exchange) == b"x"
                    assert case == "with an answer that ends with it"
            else:
                with pytest.raises(Broken, match="it was closed"):
                    await asked
            while pool._open:
                await asyncio.sleep(0)
            seen.set()

    run(test())


@pytest.mark.parametrize("sizes", [[LARGE], [1, 3 * LARGE + 7, 5], [LARGE - 1, LARGE - 1]], ids=str)
def test_a_large_request_arrives_whole(sizes: list[int]) -> None:
    body = [random.Random(size).randbytes(size) for size in sizes]

    async def test() -> None:
        async with connected(echo, limit=1 << 24) as (pool, model):
            assert await whole(await pool.post(Place.of(model.url), b"", [memoryview(part) for part in body])) == b"".join(body)
            assert await ask(pool, model, b"next") == b"next"
            assert model.connections == 1

    run(test())


def test_no_more_of_a_large_request_is_written_than_its_model_takes() -> None:
    heard, seen = asyncio.Event(), asyncio.Event()

    async def silent(_: bytes, __: asyncio.StreamReader, ___: asyncio.StreamWriter) -> None:
        heard.set()
        await seen.wait()

    async def test() -> None:
        async with connected(silent) as (pool, model):
            posted = asyncio.ensure_future(pool.post(Place.of(model.url), b"unread: 1\r\n", [b"x" * (100 * LARGE)]))
            await heard.wait()
            for _ in range(TURNS):
                await asyncio.sleep(0)
            (connection,) = pool._open
            size = connection._transport.get_write_buffer_size()
            posted.cancel()
            seen.set()
            assert 0 < size <= 2 * LARGE

    run(test())


def test_no_more_is_taken_than_is_read() -> None:
    sent = 0
    part = b"x" * (1 << 20)

    async def endless(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (50 * len(part)))
        for _number in range(50):
            writer.write(part)
            await writer.drain()
            sent += 1

    async def test() -> None:
        async with connected(endless) as (pool, model):
            exchange = await pool.post(Place.of(model.url), b"", [b"first"])
            size = len(await exchange.read())
            for _ in range(TURNS):
                await asyncio.sleep(0)
            assert sent < 40
            size += len(await whole(exchange))
            assert size == 50 * len(part)
            await whole(await pool.post(Place.of(model.url), b"", [b"second"]))
            assert model.of == {b"first": 1, b"second": 1}

    run(test())


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "unknown"])
def test_a_certificate_must_be_of_the_host_and_of_an_authority_that_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    authority = trustme.CA()
    (authority if trusted else trustme.CA()).cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)

    async def test() -> None:
        async with connected(echo, "localhost", ssl=context) as (pool, model):
            if trusted:
                assert await asyncio.gather(*(ask(pool, model, body) for body in (b"1", b"2"))) == [b"1", b"2"]
                assert await ask(pool, model, b"3") == b"3"
                assert model.connections == 2
                model.url = model.url.replace("localhost", "127.0.0.1")
            with pytest.raises(Broken, match="certificate"):
                await ask(pool, model, b"4")
            assert set(model.of) == ({b"1", b"2", b"3"} if trusted else set())

    run(test())


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_a_host_is_found_at_whichever_of_its_addresses_listens(host: str) -> None:
    async def test() -> None:
        try:
            async with connected(echo, "127.0.0.1" if host == "localhost" else host) as (pool, model):
                model.url = model.url.replace("127.0.0.1", host)
                assert await ask(pool, model, b"x") == b"x"
        except OSError:
            pytest.skip("this machine has no IPv6")

    run(test())


PLACES: dict[str, tuple[tuple[str, int, bool], bytes]] = {
    "https://api.openai.com/v1/chat/completions": (("api.openai.com", 443, True), b"POST /v1/chat/completions|api.openai.com"),
    "http://127.0.0.1:8000/v1": (("127.0.0.1", 8000, False), b"POST /v1|127.0.0.1:8000"),
    "http://[::1]:80/x": (("::1", 80, False), b"POST /x|[::1]"),
    "https://H.example:443/\u00e9 %20/a:b": (("h.example", 443, True), b"POST /%C3%A9%20%20/a:b|h.example"),
    "http://h.example": (("h.example", 80, False), b"POST /|h.example"),
}


@pytest.mark.parametrize("url", PLACES)
def test_a_url_becomes_an_address_and_the_first_lines_of_a_request(url: str) -> None:
    address, lines = PLACES[url]
    first, host = lines.split(b"|")
    assert Place.of(url) == (address, first + b" HTTP/1.1\r\nHost: " + host + b"\r\n")


def test_a_body_of_which_nothing_comes_for_long_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "SILENT_SECONDS", 0.1)

    async def begin(_: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nx")
        await reader.read()

    async def test() -> None:
        async with connected(begin) as (pool, model):
            exchange = await pool.post(Place.of(model.url), b"", [b"x"])
            assert await exchange.read() == b"x"
            with pytest.raises(Broken, match=r"nothing came for 0\.1 s"):
                await exchange.read()
            await model.until_open(0)

    run(test())


@pytest.fixture
def silent_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Hosts whose name server does not answer until the end of the test. All others are this machine."""
    silent, end = set[str](), threading.Event()
    real = socket.getaddrinfo

    def find(host: str, *given: Any, **more: Any) -> Any:
        if more.get("flags") == socket.AI_NUMERICHOST:
            return real(host, *given, **more)
        if host in silent:
            end.wait(LONGEST)
            raise socket.gaierror(socket.EAI_AGAIN, "later")
        return real("127.0.0.1", *given, **more)

    monkeypatch.setattr(socket, "getaddrinfo", find)
    yield silent
    end.set()


def test_a_silent_name_server_is_an_outage_of_its_own_hosts_only(silent_names: set[str]) -> None:
    silent_names |= {f"silent-{number}.test" for number in range(40)}

    async def test() -> None:
        async with connected(echo) as (pool, model):
            url = model.url
            waiting = []
            for host in silent_names:
                place = Place.of(url.replace("127.0.0.1", host))
                waiting.append(asyncio.ensure_future(pool.post(place, b"", [b"x"])))
            model.url = url.replace("127.0.0.1", "other.test")
            async with asyncio.timeout(LONGEST):
                assert await ask(pool, model, b"y") == b"y"
            for one in waiting:
                one.cancel()

    run(test())


def test_the_addresses_of_a_host_are_used_again_while_its_name_server_is_silent(
    silent_names: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_FRESH_SECONDS", 0.0)
    monkeypatch.setattr(pools, "_LATE_SECONDS", 0.01)

    async def test() -> None:
        async with connected(echo) as (pool, model):
            model.url = model.url.replace("127.0.0.1", "known.test")
            assert await ask(pool, model, b"1") == b"1"
            silent_names.add("known.test")
            asked = [asyncio.ensure_future(ask(pool, model, body)) for body in (b"2", b"3")]
            async with asyncio.timeout(LONGEST):
                assert await asyncio.gather(*asked) == [b"2", b"3"]
            assert model.connections == 2

    run(test())


def test_why_there_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "CONNECT_SECONDS", 0.2)

    async def why(pool: HttpPool, url: str) -> Broken:
        with pytest.raises(Broken) as raised:
            await pool.post(Place.of(url), b"", [])
        return raised.value

    async def test() -> None:
        async with connected(echo) as (pool, model):
            found = await why(pool, model.url.replace("http:", "https:"))  # it waits for a request, not for TLS
        assert (type(found), str(found)) == (NoConnection, "there was no connection within 0.2 s")
        monkeypatch.setattr(pools, "CONNECT_SECONDS", LONGEST)
        assert str(await why(pool, model.url)) == "Connection refused"
        assert str(await why(pool, "http://nothing.invalid/")) == "the host is not known"

    run(test())


async def any_way(body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer as the last byte has it: in one of three framings, cut off, or not at all."""
    match body[-1] % 5:
        case 0:
            await echo(body, reader, writer)
        case 1:
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for at in range(0, len(body), 997):
                part = body[at : at + 997]
                writer.write(b"%x\r\n%b\r\n" % (len(part), part))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
        case 2:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + body)
            writer.close()
        case 3:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body[:-1]))
            writer.close()
        case _:
            writer.transport.abort()


@pytest.mark.slow
def test_of_many_requests_each_has_its_own_answer_whoever_leaves() -> None:
    """Of every length, framed in every way, broken off or left in the middle."""
    dice = random.Random(7)
    bodies = [dice.randbytes(dice.choice([10, 1000, 100_000])) for _ in range(3000)]
    leaving = {body for body in bodies if dice.random() < 0.1}

    async def one(pool: HttpPool, model: Model, body: bytes) -> str:
        try:
            exchange = await pool.post(Place.of(model.url), b"", [body])
            if body in leaving:
                exchange.close()
                return "left"
            return "own" if await whole(exchange) == body else "wrong"
        except Broken:
            return "broken"

    async def test() -> None:
        async with connected(any_way, backlog=2048, limit=1 << 20) as (pool, model):
            turn = asyncio.Semaphore(100)

            async def in_turn(body: bytes) -> str:
                async with turn:
                    return await one(pool, model, body)

            for body, found in zip(bodies, await asyncio.gather(*map(in_turn, bodies)), strict=True):
                assert found == ("broken" if body[-1] % 5 > 3 - (body not in leaving) else "left" if body in leaving else "own")

    run(test())


class Asked:
    """A request of the machine below, and how far its answer is: planned, sent by the model and read here."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.answer = body * 40
        self.writer: asyncio.StreamWriter | None = None
        self.handed = asyncio.Event()
        self.done = asyncio.Event()
        self.exchange: Exchange | None = None
        self.sent = self.taken = 0


class PoolMachine(RuleBasedStateMachine):
    """Requests in any order, answered piece by piece, read, left, cancelled and broken off."""

    asked = Bundle("asked")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.all: list[Asked] = []
        self.waiting: dict[bytes, Asked] = {}
        self.runner.run(self._start())

    async def _start(self) -> None:
        self.model = Model(self._act)
        self.server = await asyncio.start_server(self.model.serve, "127.0.0.1", 0)
        self.place = Place.of(f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/")
        self.pool = HttpPool()

    async def _act(self, body: bytes, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        one = self.waiting.pop(body)
        one.writer = writer
        one.handed.set()
        await one.done.wait()

    @rule(target=asked)
    def ask(self) -> Asked:
        """A request, whose model sends the head at once."""
        one = Asked(b"%d;" % len(self.all))
        self.all.append(one)
        self.waiting[one.body] = one

        async def begin() -> None:
            posted = asyncio.ensure_future(self.pool.post(self.place, b"", [one.body]))
            async with asyncio.timeout(LONGEST):
                await one.handed.wait()
                assert one.writer is not None
                one.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(one.answer))
                one.exchange = await posted

        self.runner.run(begin())
        return one

    @rule(one=asked, size=st.integers(1, 200))
    def send(self, one: Asked, size: int) -> None:
        """A piece of the answer, which is read."""
        if one.exchange is None or one.sent == len(one.answer):
            return

        async def pass_on() -> None:
            assert one.writer is not None
            assert one.exchange is not None
            piece = one.answer[one.sent : one.sent + size]
            one.writer.write(piece)
            one.sent += len(piece)
            if one.sent == len(one.answer):
                one.done.set()
            async with asyncio.timeout(LONGEST):
                while one.taken < one.sent:
                    chunk = await one.exchange.read()
                    assert chunk
                    assert one.answer[one.taken :].startswith(chunk)
                    one.taken += len(chunk)
                if one.sent == len(one.answer):
                    assert await one.exchange.read() == b""

        self.runner.run(pass_on())

    @rule(one=consumes(asked), how=st.sampled_from(["close", "abort"]))
    def leave(self, one: Asked, how: str) -> None:
        """The client leaves, or the model does."""
        if one.exchange is None:
            return
        is_whole = one.exchange.is_whole

        async def end() -> None:
            assert one.writer is not None
            assert one.exchange is not None
            if how == "close":
                one.exchange.close()
                one.done.set()
            elif not is_whole:
                one.writer.transport.abort()
                one.done.set()
                async with asyncio.timeout(LONGEST):
                    with pytest.raises(Broken):
                        await whole(one.exchange)

        self.runner.run(end())
        one.exchange = None

    @invariant()
    def no_connection_is_of_two(self) -> None:
        """The model has handed each request out once, so none came on a connection of one that is under way."""
        assert not self.waiting

    def teardown(self) -> None:
        async def end() -> None:
            for one in self.all:
                one.done.set()
            await self.pool.close()
            await self.model.until_open(0)
            self.server.close()

        self.runner.run(end())
        self.runner.close()


PoolMachine.TestCase.settings = settings(max_examples=examples(50), stateful_step_count=40, deadline=None)
TestAnyOrder = PoolMachine.TestCase
