"""Many clients write to `policyctl serve` for a while, and it is killed in the middle and started again: what is lost?

    python -m tests.server.soak [--seconds 30] [--clients 64] [--policies 10000]

Each client has policies of its own, so that it knows what must be stored: what was answered last. A write that was cut off
by the kill may have happened or not; its policy is left alone from then on, and both are right. Besides, all clients add to
the same few counters, and ask for the same new names.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sqlite3
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import Event, Thread
from typing import Any

from tests.patience import LONGEST
from tests.server.serving import serving
from tests.sqlite_rows import LEAF, live_documents, put

PATH = "/v1/model_policy"
COUNTERS = [f"virtual-policy/counter-{number}" for number in range(2)]
RACES = [f"virtual-policy/race-{number}" for number in range(500)]

Stored = str | None  # the description of what is stored, or None: no such policy


@dataclass
class Tally:
    """What one client was answered, and what must therefore be stored.

    `allowed` are the possible states of its own policies by name: one, or two after a write that was not answered; a state is
    a description. `done` counts, by shared policy, the writes that were answered as done, `cut` those that were not answered.
    `written` are the times of all answers to writes, and `unknown` counts those that a server did not know the outcome of.
    """

    allowed: dict[str, set[Stored]]
    written: list[float] = field(default_factory=list)
    unknown: int = 0
    seconds: list[float] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def writes(self) -> int:
        """How many writes were answered as done."""
        return len(self.written)

    @property
    def cut_off(self) -> int:
        """How many writes were not answered, or with an unknown outcome."""
        return self.cut.total() + sum(len(states) > 1 for states in self.allowed.values())


class Cut(Exception):
    """A request that was sent and not answered."""


class Client(Thread):
    """Asks one thing after the other until it is `over`. When its server is down it goes to the next one of `ports`; with
    one alone it waits until that is `up`."""

    def __init__(self, ports: Sequence[int], number: int, owned: dict[str, str], over: Callable[[], bool], up: Event) -> None:
        super().__init__(daemon=True)
        self.tally = Tally({name: {"seed"} for name in owned})
        self._ids = owned
        self._number = number
        self._over = over
        self._up = up
        self._random = random.Random(number)
        self._fresh = itertools.count()
        self._ports = itertools.cycle(ports)
        self._connection = HTTPConnection("127.0.0.1", next(self._ports), timeout=LONGEST)

    def run(self) -> None:
        kinds = (self._add, self._update, self._remove, self._read, self._count, self._race)
        while not self._over():
            with suppress(Cut):
                self._random.choice(kinds)()
        self._connection.close()

    def _ask(self, expected: tuple[int, ...], method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Ask, as often as it is refused because the store is away. Raises Cut when it was sent and not answered; any other
        answer than the expected ones is noted."""
        while True:
            status, text, refused = self._send(method, path, None if body is None else json.dumps(body), headers)
            if not (status == 503 and refused):
                break
        if status == 500 and b"not known" in text:
            self.tally.unknown += 1
            raise Cut
        if status not in expected:
            self.tally.wrong.append(f"{method} {path} was answered {status}: {text[:200]!r}")
            raise Cut
        if method != "GET" and status < 300:
            self.tally.written.append(time.monotonic())
        return status, json.loads(text) if text else None

    def _send(self, method: str, path: str, content: str | None, headers: dict[str, str]) -> tuple[int, bytes, bool]:
        """The status and body of an answer, and whether it has Retry-After."""
        while self._connection.sock is None:
            try:
                self._connection.connect()
            except ConnectionError:
                self._connection.port = next(self._ports)
                self._up.wait()
        began = time.perf_counter()
        try:
            self._connection.request(method, path, content, {"Content-Type": "application/json", **headers})
            answer = self._connection.getresponse()
            text = answer.read()
        except (OSError, HTTPException):
            self._connection.close()
            raise Cut from None
        self.tally.seconds.append(time.perf_counter() - began)
        return answer.status, text, "Retry-After" in answer.headers

    def _write(self, name: str, after: Stored, method: str, path: str, body: Any = None) -> Any:
        """Change one of the own policies. When it is not known whether that happened, it is left alone from then on."""
        try:
            _, content = self._ask((200, 201, 204), method, path, body)
        except Cut:
            self.tally.allowed[name] = {*self.tally.allowed.get(name, {None}), after}
            self._ids.pop(name, None)
            raise
        self.tally.allowed[name] = {after}
        return content

    def _share(self, name: str, expected: tuple[int, ...], method: str, path: str, body: Any, **headers: str) -> None:
        """Change a policy that others want to change too."""
        try:
            status, _ = self._ask(expected, method, path, body, **headers)
        except Cut:
            self.tally.cut[name] += 1
            raise
        self.tally.done[name] += status < 300

    def _own(self) -> str:
        if not self._ids:
            self._add()
        return self._random.choice(list(self._ids))

    def _add(self) -> None:
        name = f"virtual-policy/client-{self._number}-{next(self._fresh)}"
        self._ids[name] = self._write(name, "new", "POST", PATH, document_of(name, "new"))["id"]

    def _update(self) -> None:
        name, text = self._own(), f"update {next(self._fresh)}"
        self._write(name, text, "PUT", f"{PATH}/{self._ids[name]}", {"description": text})

    def _remove(self) -> None:
        name = self._own()
        self._write(name, None, "DELETE", f"{PATH}/{self._ids[name]}")
        del self._ids[name]

    def _read(self) -> None:
        """What was answered is what is read next."""
        name = self._own()
        _, content = self._ask((200,), "GET", f"{PATH}/{self._ids[name]}")
        if {content["description"]} != self.tally.allowed[name]:
            self.tally.wrong.append(f"{name} was read as {content['description']}, not {self.tally.allowed[name]}")

    def _count(self) -> None:
        """Add one to a counter that all share, unless another client did meanwhile."""
        name = self._random.choice(COUNTERS)
        _, [found] = self._ask((200,), "GET", f"{PATH}?name={name}")
        body = {"description": str(int(found["description"]) + 1)}
        self._share(name, (200, 412), "PUT", f"{PATH}/{found['id']}", body, **{"If-Match": found["etag"]})

    def _race(self) -> None:
        """Add a policy that others want to add too."""
        name = self._random.choice(RACES)
        self._share(name, (201, 409), "POST", PATH, document_of(name, "race"))


@dataclass
class Result:
    """What became of it: the clients' tallies, how many writes each had had answered at the kill, what is stored and wrong."""

    tallies: list[Tally]
    before: list[int]
    stored: int
    wrong: list[str]


def soak(folder: Path, seconds: float = 30, clients: int = 64, policies: int = 10_000) -> Result:
    """Run it, against a database that is filled beforehand."""
    database = folder / "soak.db"
    seeded = {f"virtual-policy/seed-{number}": f"seed-{number}" for number in range(policies - len(COUNTERS))}
    put([{"id": known, **document_of(name, "seed")} for name, known in seeded.items()], database)
    put([{"id": name.partition("/")[2], **document_of(name, "0")} for name in COUNTERS], database)
    up, over = Event(), Event()
    with serving(database) as served:
        shares = [dict(itertools.islice(seeded.items(), number, None, clients)) for number in range(clients)]
        threads = [Client([served.port], number, share, over.is_set, up) for number, share in enumerate(shares)]
        for thread in threads:
            thread.start()
        wait(lambda: all(thread.tally.writes for thread in threads), seconds / 2)
        served.process.kill()
        before = [thread.tally.writes for thread in threads]
        served.process.wait()
    with serving(database, "--port", str(served.port)):
        up.set()
        wait(lambda: all(thread.tally.writes > earlier for thread, earlier in zip(threads, before, strict=True)), seconds / 2)
        over.set()
        for thread in threads:
            thread.join()
    tallies = [thread.tally for thread in threads]
    wrong = [line for tally in tallies for line in tally.wrong]
    return Result(tallies, before, len(live_documents(database)), [*wrong, *_mistakes(database, tallies)])


def wait(done: Callable[[], bool], at_least: float = 0.0) -> None:
    """Wait so many seconds, and then until it is done; if it never is, the outcome shows it."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < at_least or (not done() and passed < LONGEST):
        Event().wait(0.02)


def document_of(name: str, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "display_name": name,
        "description": description,
        "policy": {"strategy": {"mode": "single"}, "targets": [LEAF]},
    }


def _mistakes(database: Path, tallies: list[Tally]) -> Iterator[str]:
    """Where what is stored is not what was answered."""
    with closing(sqlite3.connect(database)) as connection:
        if (found := connection.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
            yield f"the file is not intact: {found}"
        rows = [json.loads(text) for (text,) in connection.execute("SELECT document FROM policy")]
    yield from mistakes(rows, tallies)


def mistakes(rows: Sequence[dict[str, Any]], tallies: Iterable[Tally]) -> Iterator[str]:
    """Where the documents that are stored are not those of the answers."""
    live = {row["name"]: row for row in rows}
    if len(rows) != len(live):
        yield f"{len(rows)} rows have {len(live)} names"
    allowed = {name: states for tally in tallies for name, states in tally.allowed.items()}
    for name, states in allowed.items():
        if (stored := live.get(name, {}).get("description")) not in states:
            yield f"{name} is {stored}, not {states}"
    shared = dict.fromkeys(RACES, 0) | dict.fromkeys(COUNTERS, 0)
    for name in shared:
        done, cut = (sum(counts[name] for counts in kind) for kind in zip(*((t.done, t.cut) for t in tallies), strict=True))
        stored = int(live[name]["description"]) if name in COUNTERS else int(name in live)
        if not done <= stored <= done + cut:
            yield f"{name} is {stored}, but {done} writes were answered and {cut} not"
    yield from (f"{name} is stored, but no client added it" for name in live.keys() - allowed.keys() - shared.keys())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("seconds", 30), ("clients", 64), ("policies", 10_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    with tempfile.TemporaryDirectory() as folder:
        result = soak(Path(folder), **vars(parser.parse_args()))
    took = [1000 * second for tally in result.tallies for second in tally.seconds]
    median, slow = (statistics.quantiles(took, n=100)[place] for place in (49, 98))
    print(f"{len(took)} requests answered: median {median:.0f} ms, 99th percentile {slow:.0f} ms, longest {max(took):.0f} ms")
    writes = sum(tally.writes for tally in result.tallies)
    cut = sum(tally.cut_off for tally in result.tallies)
    print(f"{writes} writes answered, {sum(result.before)} of them before the kill; {cut} cut off by it")
    print(f"{result.stored} policies stored; {len(result.wrong)} mistakes")
    for line in result.wrong[:20]:
        print(f"  {line}")


if __name__ == "__main__":
    main()
