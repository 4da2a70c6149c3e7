"""A tenant that does not behave: its list and its look-ups disagree, it shows writes late or never, it shares out ids twice.

Time is injected. What is stored is in `rows`; what a read shows is another matter.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from policyctl.policy.names import canonical_name
from tests.chaos.faults import End, Play
from tests.chaos.messages import Answer, Request, answer

Row = dict[str, Any]
SLOWEST = 600.0  # seconds after which nothing is under way any more


class Quirk(StrEnum):
    """The kinds, in the words of the figures."""

    LATE_READS = "reads that show a write after 50 ms to 5 s"
    SLOW_ADDS = "adds that take longer than the client waits"
    LOST_ANSWERS = "lost answers to writes, before or after the commit"
    FIRST_NAME = "a filter that takes the first name only"
    LAST_NAME = "a filter that takes the last name only"
    NO_FILTER = "a filter that is ignored"
    LOOSE_FILTER = "a filter that takes beginnings of names"
    NOT_FOUND = "a filter that answers 404 for nothing"
    SHARED_IDS = "ids that two policies share"
    CUT_LIST = "a list that is cut short"
    CUT_BOTH = "a list and look-ups that are cut short"
    HALF_ROWS = "rows that are listed before they are whole"
    MERGES = "updates that merge"
    NO_WRITES = "writes that are answered and not done"
    SOFT_REMOVES = "removals that leave the row without its policy"
    ODD_ANSWERS = "adds that are answered without an id, or with that of a job"
    TWINS = "second policies of one name that are taken"


@dataclass
class Clock:
    """One time for all threads, which moves when one of them waits."""

    time: float = 1_000_000.0
    _lock: Any = field(default_factory=threading.Lock)

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.time += seconds


@dataclass
class Tenant:
    """The tenant; `rate` is the share of writes that a fault meets, where answers get lost."""

    quirks: frozenset[Quirk]
    clock: Clock
    rng: random.Random
    rows: list[Row] = field(default_factory=list)
    rate: float = 0.3
    lag: float = 0.0
    page: int = 10**9
    half_seconds: float = 0.0
    log: list[str] = field(default_factory=list)
    _history: list[tuple[float, tuple[Row, ...]]] = field(default_factory=list)
    _under_way: list[tuple[float, Callable[[], object]]] = field(default_factory=list)
    _born: dict[int, float] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.RLock)

    def settle(self) -> None:
        """Let time pass until nothing is under way and every read shows what is stored."""
        self.clock.sleep(SLOWEST)
        self._catch_up()

    def play(self, request: Request) -> Play:
        """Answer, late or not at all."""
        with self._lock:
            self._catch_up()
            if request.method == "GET":
                return Play(((0.0, self._read(request).raw),))
            self.log.append(f"{request.method} {unquote(request.path).rpartition('/')[2]}")
            if request.method == "POST" and Quirk.SLOW_ADDS in self.quirks and self.rng.random() < self.rate:
                return self._slow(request)
            if Quirk.LOST_ANSWERS in self.quirks and self.rng.random() < self.rate:
                return self._lose(request)
            return Play(((0.0, self._write(request).raw),))

    def _slow(self, request: Request) -> Play:
        seconds = self.rng.uniform(30, 300)
        self._under_way.append((self.clock.now() + seconds, lambda: self._write(request)))
        return Play(((seconds, answer(201).raw),))

    def _lose(self, request: Request) -> Play:
        if self.rng.random() < 0.6:
            self._write(request)
        after = {"Retry_After": "20"} if self.rng.random() < 0.2 else {}
        if self.rng.random() < 0.3:
            return Play(((0.0, answer(self.rng.choice((500, 502)), None, **after).raw),))
        return Play((), self.rng.choice((End.CLOSE, End.RESET)))

    def _catch_up(self) -> None:
        due = [work for at, work in self._under_way if at <= self.clock.now()]
        self._under_way = [(at, work) for at, work in self._under_way if at > self.clock.now()]
        for work in due:
            work()
        if not self._history:
            self._note()

    def _note(self) -> None:
        self._history.append((self.clock.now() if self._history else 0.0, tuple(self.rows)))

    def _read(self, request: Request) -> Answer:
        if "/model_policy" not in request.path:
            return answer(404)
        seen = next(rows for at, rows in reversed(self._history) if at <= max(0.0, self.clock.now() - self.lag))
        shown = [self._shown(row) for row in seen]
        names = [value for key, value in parse_qsl(urlsplit(request.target).query) if key == "name"]
        if not names:
            return answer(200, shown[: self.page])
        found = self._filtered(shown, names)
        if not found and Quirk.NOT_FOUND in self.quirks:
            return answer(404, {"detail": "none"})
        return answer(200, found[: self.page] if Quirk.CUT_BOTH in self.quirks else found)

    def _filtered(self, rows: list[Row], names: list[str]) -> list[Row]:
        if Quirk.NO_FILTER in self.quirks:
            return rows
        if Quirk.LOOSE_FILTER in self.quirks:
            return [row for row in rows if any(row["name"].startswith(name) for name in names)]
        names = names[:1] if Quirk.FIRST_NAME in self.quirks else names[-1:] if Quirk.LAST_NAME in self.quirks else names
        return [row for row in rows if row["name"] in names]

    def _shown(self, row: Row) -> Row:
        if id(row) in self._born and self.clock.now() < self._born[id(row)] + self.half_seconds:
            return {**row, "policy": None} if len(row["name"]) % 2 else {**row, "id": None}
        return row

    def _write(self, request: Request) -> Answer:
        identifier = unquote(request.path.rpartition("/")[2])
        given = {"POST": self._add, "PUT": self._update, "DELETE": self._remove}[request.method](identifier, request.body)
        self._note()
        return given

    def _add(self, _: str, body: bytes) -> Answer:
        document = json.loads(body)
        taken = any(canonical_name(row["name"]) == canonical_name(document["name"]) for row in self.rows)
        if taken and Quirk.TWINS not in self.quirks:
            return answer(409, {"detail": "there is one"})
        shares = self.rows and Quirk.SHARED_IDS in self.quirks and self.rng.random() < 0.5
        row = {**document, "id": self.rng.choice(self.rows)["id"] if shares else f"new-{self.rng.random()}"}
        if not self._ignores():
            self.rows.append(row)
            self._born[id(row)] = self.clock.now()
        if Quirk.ODD_ANSWERS in self.quirks:
            return self.rng.choice((answer(202), answer(200, {"name": "job", "id": "job-1"}), answer(200, {"status": "ok"})))
        return answer(201, row)

    def _update(self, identifier: str, body: bytes) -> Answer:
        place = self._place(identifier)
        if place is None:
            return answer(404)
        if not self._ignores():
            row, document = self.rows[place], json.loads(body)
            self.rows[place] = _merged(row, document) if Quirk.MERGES in self.quirks else {**document, "id": row["id"]}
        return answer(200, self.rows[place])

    def _remove(self, identifier: str, _: bytes) -> Answer:
        place = self._place(identifier)
        if place is None:
            return answer(404)
        if Quirk.SOFT_REMOVES in self.quirks:
            self.rows[place] = {**self.rows[place], "policy": None}
        elif not self._ignores():
            del self.rows[place]
        return answer(204)

    def _ignores(self) -> bool:
        return Quirk.NO_WRITES in self.quirks and self.rng.random() < self.rate

    def _place(self, identifier: str) -> int | None:
        return next((place for place, row in enumerate(self.rows) if row["id"] == identifier), None)


def _merged(kept: Any, sent: Any) -> Any:
    if not isinstance(kept, dict) or not isinstance(sent, dict):
        return sent
    return {**kept, **{key: _merged(kept.get(key), value) for key, value in sent.items()}}


def draw_tenant(rng: random.Random, rows: list[Row], clock: Clock) -> Tenant:
    """A tenant with one to three quirks (and, for every other one, that it takes twins) over these rows."""
    quirks = set(rng.sample(list(Quirk), rng.randint(1, 3)))
    quirks |= {Quirk.TWINS} if rng.random() < 0.5 else set()
    if rng.random() < 0.3:
        quirks |= {Quirk.LOST_ANSWERS}
    rows = [dict(row) for row in rows]
    if Quirk.SHARED_IDS in quirks:
        for _ in range(rng.randint(1, 3)):
            one, other = rng.sample(range(len(rows)), 2)
            rows[one]["id"] = rows[other]["id"]
    return Tenant(
        frozenset(quirks),
        clock,
        rng,
        rows,
        rate=rng.choice((0.1, 0.3, 1.0)),
        lag=rng.choice((0.05, 0.3, 1.0, 2.5, 5.0)) if Quirk.LATE_READS in quirks else 0.0,
        page=rng.randint(1, len(rows) + 5) if quirks & {Quirk.CUT_LIST, Quirk.CUT_BOTH} else 10**9,
        half_seconds=rng.choice((0.1, 2.0, 1000.0)) if Quirk.HALF_ROWS in quirks else 0.0,
    )
