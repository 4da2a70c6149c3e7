"""What goes wrong between a client and a server, drawn from a seed, and how it looks from the client's end of the line."""

from __future__ import annotations

import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum, auto

from tests.chaos.messages import Answer, Request, Upstream, answer


class Fault(StrEnum):
    """The kinds, in the words of the figures."""

    DROP_BEFORE = "dropped before the server saw it"
    DROP_AFTER = "answer dropped after the commit"
    RESET = "connection reset"
    LATE = "delivered after the client gave up"
    DUPLICATE = "delivered twice"
    TRUNCATED = "truncated answer"
    FAILED = "5xx, before or after the commit"
    ECHO = "4xx or 5xx that repeats the credentials"
    BUSY = "429 in a storm"
    DELAY = "delayed answer"
    DRIP = "slow drip"
    EXPIRED = "token ended"
    KILLED = "client killed"
    STOPPED = "client told to stop"


LINE = (
    Fault.DROP_BEFORE,
    Fault.DROP_AFTER,
    Fault.RESET,
    Fault.LATE,
    Fault.DUPLICATE,
    Fault.TRUNCATED,
    Fault.FAILED,
    Fault.ECHO,
    Fault.BUSY,
    Fault.DELAY,
    Fault.DRIP,
    Fault.EXPIRED,
)


class End(Enum):
    """What becomes of a connection once everything was said on it."""

    KEEP = auto()
    CLOSE = auto()
    RESET = auto()
    SILENCE = auto()  # nothing more comes until the client gives up


@dataclass(frozen=True)
class Play:
    """What a client gets to see of one answer: bytes, each after so many seconds, and the end."""

    pieces: tuple[tuple[float, bytes], ...]
    end: End = End.KEEP


@dataclass(frozen=True)
class Pace:
    """How long things take, in seconds: where the clock is injected, as long as they like; on real sockets next to nothing."""

    delays: tuple[float, float]
    drips: tuple[float, ...]  # between the pieces of a drip
    piece: int  # bytes of a piece of a drip
    ends: tuple[End, ...]  # how a dropped connection may end


INJECTED = Pace((1.0, 100.0), (0.01, 2.0), 8, (End.CLOSE, End.RESET, End.SILENCE))
REAL = Pace((0.005, 0.03), (0.001,), 64, (End.CLOSE, End.RESET))


@dataclass
class Chaos:
    """The line to one server.

    Which fault meets a request depends on the seed, on what is asked, and on how often that was asked before: not on which
    thread came first. `rate` is the share of requests that a fault meets; `repeats` says whether a write may arrive later or
    twice (a server that takes twins cannot know such an add from a new one).
    """

    seed: int
    upstream: Upstream
    pace: Pace
    rate: float = 0.0
    repeats: bool = True
    expire: Callable[[Request], Request] = lambda request: request
    faults: Counter[Fault] = field(default_factory=Counter)
    commits: Counter[str] = field(default_factory=Counter)  # how often a write to a policy's path or name was carried out
    late: set[str] = field(default_factory=set)  # what a late write was about
    _asked: defaultdict[tuple[str, ...], int] = field(default_factory=lambda: defaultdict(int))
    _storm: int = 0
    _waiting: list[tuple[int, Request]] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def play(self, request: Request) -> Play:
        """Let a request through, or not, and say what the client gets to see."""
        rng, drawn = self._draw(request)
        fault = None if drawn is None else self._possible(drawn, request)
        self._deliver()
        if fault is None:
            return Play(((0.0, self._forward(request).raw),))
        self.faults[fault] += 1
        return _PLAYS[fault](self, request, rng)

    def calm(self) -> None:
        """From now on nothing goes wrong; what was under way arrives."""
        self.rate, self._storm = 0.0, 0
        self._deliver(whatever=True)

    def _draw(self, request: Request) -> tuple[random.Random, Fault | None]:
        with self._lock:
            key = (request.method, request.subject)
            self._asked[key] += 1
            rng = random.Random(f"{self.seed} {key} {self._asked[key]}")
            if self._storm:
                self._storm -= 1
                return rng, Fault.BUSY
            fault = rng.choice(LINE) if rng.random() < self.rate else None
            self._storm = rng.randrange(6) if fault is Fault.BUSY else 0
            return rng, fault

    def _possible(self, fault: Fault, request: Request) -> Fault:
        """The fault that meets a request, where not every one can: the figures say what happened."""
        if fault is Fault.LATE and not (request.is_write and self.repeats):
            return Fault.DROP_BEFORE
        if fault is Fault.DUPLICATE and request.is_write and request.method == "POST" and not self.repeats:
            return Fault.DROP_AFTER
        return fault

    def _forward(self, request: Request) -> Answer:
        given = self.upstream(request)
        if request.is_write and given.status < 300:
            with self._lock:
                self.commits[request.subject] += 1
        return given

    def _deliver(self, *, whatever: bool = False) -> None:
        """Let late requests arrive whose time has come."""
        with self._lock:
            waiting = [(left - 1, request) for left, request in self._waiting]
            due = [request for left, request in waiting if left < 0 or whatever]
            self._waiting = [] if whatever else [(left, request) for left, request in waiting if left >= 0]
        for request in due:
            self._forward(request)

    def drop_before(self, _: Request, rng: random.Random) -> Play:
        return self._cut(b"", rng)

    def drop_after(self, request: Request, rng: random.Random) -> Play:
        self._forward(request)
        return self._cut(b"", rng)

    def reset(self, request: Request, rng: random.Random) -> Play:
        """Before it is sent on, or in the middle of the answer."""
        raw = self._forward(request).raw if rng.random() < 0.7 else b""
        return Play(((0.0, raw[: rng.randrange(len(raw) + 1)]),), End.RESET)

    def arrive_late(self, request: Request, rng: random.Random) -> Play:
        with self._lock:
            self.late.add(request.subject)
            self._waiting.append((rng.randrange(12), request))
        if rng.random() < 0.5:
            return Play(((0.0, answer(504).raw),))
        return self._cut(b"", rng)

    def deliver_twice(self, request: Request, rng: random.Random) -> Play:
        """The client sees either answer; not a 401 to the second alone, since a client must take a refusal at its word."""
        first, second = self._forward(request), self._forward(request)
        return Play(((0.0, (first if second.status == 401 else rng.choice((first, second))).raw),))

    def truncate(self, request: Request, rng: random.Random) -> Play:
        """Fewer bytes than were promised, or fewer that were promised."""
        given = self._forward(request)
        if rng.random() < 0.5 and given.body:
            return Play(((0.0, replace(given, body=given.body[: rng.randrange(1, len(given.body))]).raw),))
        return self._cut(given.raw[: rng.randrange(len(given.raw))], rng)

    def fail(self, request: Request, rng: random.Random) -> Play:
        if rng.random() < 0.5:
            self._forward(request)
        body = rng.choice((None, {"detail": "out of order"}, b"<html><title>Bad Gateway</title></html>"))
        return Play(((0.0, answer(rng.choice((500, 502, 503, 504)), body).raw),))

    def echo(self, request: Request, rng: random.Random) -> Play:
        """As a gateway does that shows the request in its error page. A refusal is final, so that its words are shown."""
        status = rng.choice((400, 500, 502))
        if status >= 500 and rng.random() < 0.5:
            self._forward(request)
        shown = (request.header(b"authorization") or b"") + b" " + request.body
        return Play(((0.0, answer(status, {"detail": f"cannot handle {shown.decode()}"}).raw),))

    def be_busy(self, _: Request, rng: random.Random) -> Play:
        seconds = rng.choice((None, 0, 1, 20)) if self.pace is INJECTED else rng.choice((None, 0))
        headers = {} if seconds is None else {"Retry_After": str(seconds)}
        return Play(((0.0, answer(429, {"detail": "slow down"}, **headers).raw),))

    def delay(self, request: Request, rng: random.Random) -> Play:
        return Play(((rng.uniform(*self.pace.delays), self._forward(request).raw),))

    def drip(self, request: Request, rng: random.Random) -> Play:
        raw, size, seconds = self._forward(request).raw, self.pace.piece, rng.choice(self.pace.drips)
        return Play(tuple((seconds, raw[start : start + size]) for start in range(0, len(raw), size)))

    def end_token(self, request: Request, _: random.Random) -> Play:
        return Play(((0.0, self._forward(self.expire(request)).raw),))

    def _cut(self, raw: bytes, rng: random.Random) -> Play:
        return Play(((0.0, raw),), rng.choice(self.pace.ends))


_PLAYS: dict[Fault, Callable[[Chaos, Request, random.Random], Play]] = {
    Fault.DROP_BEFORE: Chaos.drop_before,
    Fault.DROP_AFTER: Chaos.drop_after,
    Fault.RESET: Chaos.reset,
    Fault.LATE: Chaos.arrive_late,
    Fault.DUPLICATE: Chaos.deliver_twice,
    Fault.TRUNCATED: Chaos.truncate,
    Fault.FAILED: Chaos.fail,
    Fault.ECHO: Chaos.echo,
    Fault.BUSY: Chaos.be_busy,
    Fault.DELAY: Chaos.delay,
    Fault.DRIP: Chaos.drip,
    Fault.EXPIRED: Chaos.end_token,
}
