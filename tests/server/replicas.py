"""Many clients write through two `policyctl serve` to one PostgreSQL, and something fails. What is lost or doubled, and when
can every client write again?

    python -m tests.server.replicas [--seconds 20] [--clients 64] [--policies 10000] [--fault NAME]...

The clients are those of the soak test of one server: each knows what must be stored in the end, since it was answered so, or
that either may be where no answer came.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import psycopg

from policyctl.remote.postgres import PostgresRemote
from tests.dropping_proxy import DroppingProxy, dropping
from tests.postgres import PostgresServer, running_postgres
from tests.server.serving import Served, serving_at
from tests.server.soak import COUNTERS, Client, Tally, document_of, mistakes, wait

BACK_SECONDS = 2.0  # until every client writes again


@dataclass
class Scene:
    """What a fault can happen to, and the time in which it may."""

    server: PostgresServer
    database: str
    proxy: DroppingProxy
    replicas: list[Served]
    seconds: float


@dataclass
class Happened:
    """How often a fault happened, and since when clients could write again; None where they always could."""

    times: int
    again: float | None = None


def kill_a_replica(scene: Scene) -> Happened:
    """kill -9 of one of the two, which stays down; its clients go to the other."""
    Event().wait(scene.seconds / 2)
    scene.replicas[0].process.kill()
    return Happened(1, time.monotonic())


def lose_answers(scene: Scene) -> Happened:
    """One in a hundred messages to PostgreSQL arrives, and instead of its answer comes a reset of the connection."""
    chance = random.Random(1)
    scene.proxy.loses = lambda _: chance.random() < 0.01
    Event().wait(scene.seconds)
    scene.proxy.loses = lambda _: False
    return Happened(scene.proxy.dropped)


def end_backends(scene: Scene) -> Happened:
    """Four times a second a third of the connections is ended by PostgreSQL, whatever they are doing."""
    ended, until = 0, time.monotonic() + scene.seconds
    ask = f"""SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = '{scene.database}' AND pid <> pg_backend_pid() AND random() < 0.33"""
    while time.monotonic() < until:
        ended += len(scene.server.execute(ask))
        Event().wait(0.25)
    return Happened(ended)


def crash_postgres(scene: Scene) -> Happened:
    """kill -9 of PostgreSQL's first process, and a start, which replays its log."""
    Event().wait(scene.seconds / 2)
    scene.server.crash()
    scene.server.start()
    return Happened(1, time.monotonic())


FAULTS: dict[str, Callable[[Scene], Happened]] = {
    "a replica killed": kill_a_replica,
    "answers of PostgreSQL lost": lose_answers,
    "connections ended by PostgreSQL": end_backends,
    "PostgreSQL crashed": crash_postgres,
}


@dataclass
class Outcome:
    """What became of a fault: the clients' tallies, and what is wrong."""

    tallies: list[Tally]
    happened: Happened
    wrong: list[str] = field(default_factory=list)

    @property
    def back(self) -> float | None:
        """The seconds until every client wrote again, from when that was possible; infinite if one has not."""
        if self.happened.again is None:
            return None
        first = [next((at for at in tally.written if at > self.happened.again), None) for tally in self.tallies]
        return max(math.inf if at is None else at - self.happened.again for at in first)


def suffer(server: PostgresServer, fault: str, *, seconds: float, clients: int, policies: int) -> Outcome:
    """Let one fault happen to two servers at a database of their own."""
    database = server.new_database()
    seeded = _seed(server.url(database), policies - len(COUNTERS))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        proxy = stack.enter_context(dropping(server.port, lambda _: False))
        remote = f"postgresql://postgres@127.0.0.1:{proxy.port}/{database}"
        replicas = [stack.enter_context(serving_at(remote, folder / f"{number}.log")) for number in range(2)]
        ports, up, over = [replica.port for replica in replicas], Event(), Event()
        up.set()
        shares = [dict(itertools.islice(seeded.items(), number, None, clients)) for number in range(clients)]
        threads = [
            Client(ports[number % 2 :] + ports[: number % 2], number, share, over.is_set, up)
            for number, share in enumerate(shares)
        ]
        for thread in threads:
            thread.start()
        tallies = [thread.tally for thread in threads]
        wait(lambda: all(tally.written for tally in tallies))
        outcome = Outcome(tallies, FAULTS[fault](Scene(server, database, proxy, replicas, seconds)))
        wait(lambda: outcome.back != math.inf)
        over.set()
        for thread in threads:
            thread.join()
    rows = [json.loads(text) for (text,) in server.execute("SELECT document FROM policyctl.policy", database)]
    outcome.wrong = [*(line for tally in outcome.tallies for line in tally.wrong), *mistakes(rows, outcome.tallies)]
    return outcome


def _seed(url: str, count: int) -> dict[str, str]:
    """Fill a database; the ids of the policies that are not counters, by name."""
    seeded = {f"virtual-policy/seed-{number}": f"seed-{number}" for number in range(count)}
    with PostgresRemote(url) as store:
        store.database.prepare()
    documents = {
        **{name: (known, document_of(name, "seed")) for name, known in seeded.items()},
        **{name: (name.partition("/")[2], document_of(name, "0")) for name in COUNTERS},
    }
    columns = "id, name, document, created_on, updated_at, version"
    with (
        psycopg.connect(url) as connection,
        connection.cursor() as cursor,
        cursor.copy(f"COPY policyctl.policy ({columns}) FROM STDIN") as copy,
    ):
        for name, (known, document) in documents.items():
            copy.write_row((known, name, json.dumps(document), "", "", 1))
    return seeded


def line_of(fault: str, outcome: Outcome) -> str:
    """A row of the table that `main` prints."""
    tallies = outcome.tallies
    took = sorted(second for tally in tallies for second in tally.seconds)
    back = "–" if outcome.back is None else f"{outcome.back:.2f} s"
    cells = (
        f"{fault} ({outcome.happened.times:,})",
        f"{len(took):,}",
        f"{sum(tally.writes for tally in tallies):,}",
        f"{sum(tally.cut_off for tally in tallies)}",
        back,
        f"{took[-1]:.2f} s",
        f"{len(outcome.wrong)}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("seconds", 20), ("clients", 64), ("policies", 10_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--fault", choices=FAULTS, action="append", default=[])
    given = vars(parser.parse_args())
    chosen = given.pop("fault") or list(FAULTS)
    print("| fault (times) | requests | writes | of unknown outcome | all write again after | longest request | mistakes |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    wrong: list[str] = []
    with running_postgres(durable=True) as server:
        for fault in chosen:
            outcome = suffer(server, fault, **given)
            print(line_of(fault, outcome), flush=True)
            wrong += outcome.wrong
            if outcome.back is not None and outcome.back > BACK_SECONDS:
                wrong.append(
                    f"{fault}: clients could not write for {outcome.back:.1f} s, and {BACK_SECONDS:.0f} s is the limit"
                )
    for line in wrong[:20]:
        print(f"  {line}")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
