"""Two applies at once: no update is lost, nothing is there twice, and each report shows what its own apply did."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from policyctl.plan.plan import GOOD
from tests.chaos.directory import Directory, Ran
from tests.chaos.faults import REAL, Chaos, Play
from tests.chaos.messages import Request
from tests.chaos.proxy import proxying, server_at
from tests.patience import LONGEST
from tests.remote.http_helpers import document, row
from tests.remote.lock_holder import held
from tests.server.serving import serving
from tests.sqlite_rows import live_documents, put

OURS, THEIRS, WAS = "virtual-model/x/ours", "virtual-model/x/theirs", "virtual-model/x/was"
SHARED = 80  # more than one batch of either


class Meeting:
    """Lets a first write through only when both clients have come to theirs: both planned, and looked, before either wrote."""

    def __init__(self) -> None:
        self._both = threading.Barrier(2, timeout=LONGEST)

    def line(self, port: int) -> tuple[Chaos, Any]:
        """A client's line to the server: what was carried out on it, and what a proxy is to do."""
        chaos, arrived, lock = Chaos(0, server_at(port), REAL), threading.Event(), threading.Lock()

        def play(request: Request) -> Play:
            if request.is_write:
                with lock:  # the others of this client wait behind the first
                    if not arrived.is_set():
                        self._both.wait()
                        arrived.set()
            return chaos.play(request)

        return chaos, play


@contextmanager
def two_at_once(
    folder: Path, rows: list[dict[str, Any]], one: list[dict[str, Any]], other: list[dict[str, Any]], scopes: tuple[str, str]
) -> Iterator[tuple[list[Ran], Counter[str], dict[str, dict[str, Any]]]]:
    """Apply both directories at once to one server: what each did, how often a policy was written, what is there then."""
    with ExitStack() as stack:
        database = folder / "served.db"
        put(rows, database)
        served = stack.enter_context(serving(database))
        meeting, processes, lines = Meeting(), list[tuple[Directory, Popen[str]]](), list[Chaos]()
        for number, (documents, scope) in enumerate(zip((one, other), scopes, strict=True)):
            chaos, play = meeting.line(served.port)
            directory = Directory(folder / str(number))
            directory.write(stack.enter_context(proxying(play)).url, documents, [scope])
            processes.append((directory, directory.start("apply", "--yes")))
            lines.append(chaos)
        ran = [directory.finish(process) for directory, process in processes]
        yield ran, lines[0].commits + lines[1].commits, live_documents(database)


def documents(prefix: str, count: int, model: str) -> list[dict[str, Any]]:
    return [document(f"virtual-policy/{prefix}-{number:03}", model) for number in range(count)]


def model_of(found: dict[str, Any]) -> str:
    model: str = found["policy"]["targets"][0]["model_name"]
    return model


def test_from_two_directories_with_scopes_of_their_own_both_get_all_they_want(tmp_path: Path) -> None:
    one, other = documents("a", SHARED, OURS), documents("b", SHARED, THEIRS)
    with two_at_once(tmp_path, [], one, other, ("a-*", "b-*")) as (ran, commits, live):
        assert [done.code for done in ran] == [0, 0], ran
        assert set(commits.values()) == {1}
        assert {name: model_of(found) for name, found in live.items()} == {
            **{one["name"]: OURS for one in one},
            **{one["name"]: THEIRS for one in other},
        }


@pytest.mark.parametrize("seed", range(3))
def test_where_two_directories_disagree_each_policy_has_one_winner_and_the_other_learns_of_it(
    tmp_path: Path, seed: int
) -> None:
    """Lost updates: none. What one apply reports as applied is there; the other reports that it moved."""
    rng = random.Random(seed)
    ours, theirs = documents("x", SHARED, OURS), documents("x", SHARED, THEIRS)
    rows = [row(one["name"], WAS) for one in ours if rng.random() < 0.7]  # the rest is added by both
    rows = [{**one, "id": one["id"].replace("virtual-policy/", "")} for one in rows]
    with two_at_once(tmp_path, rows, rng.sample(ours, SHARED), rng.sample(theirs, SHARED), ("x-*", "x-*")) as (
        ran,
        commits,
        live,
    ):
        assert set(commits.values()) == {1}
        assert len(live) == SHARED
        for one in ours:
            name = one["name"]
            told = [done.told[name] for done in ran]
            assert sorted(said.status for said in told) == ["applied", "failed"], told
            winner, loser = (0, 1) if told[0].status == "applied" else (1, 0)
            assert model_of(live[name]) == (OURS, THEIRS)[winner]
            assert "changed since the plan was made" in told[loser].reason
    assert all(done.code == (0 if all(said.status in GOOD for said in done.told.values()) else 5) for done in ran)


def test_from_the_same_directory_everything_is_written_once(tmp_path: Path) -> None:
    same = documents("x", SHARED, OURS)
    with two_at_once(tmp_path, [], same, same, ("x-*", "x-*")) as (ran, commits, live):
        assert [done.code for done in ran] == [0, 0], ran
        assert set(commits.values()) == {1}
        assert len(live) == SHARED
        for one in same:
            assert sorted(done.told[one["name"]].status for done in ran) == ["already", "applied"]


@pytest.mark.parametrize("same", [True, False], ids=["the same directory", "two that disagree"])
def test_on_the_embedded_remote_the_second_waits_and_looks_again(tmp_path: Path, same: bool) -> None:
    """Both have planned before either may write: the second finds its work done, or its plan stale and writes nothing."""
    database = tmp_path / "shared.db"
    directories = [Directory(tmp_path / "one"), Directory(tmp_path / "two")]
    for directory, model in zip(directories, (OURS, OURS if same else THEIRS), strict=True):
        directory.write(f"sqlite:///{database}", documents("x", SHARED, model), ["x-*"])
    with held(database) as holder:
        processes = [directory.start("apply", "--yes") for directory in directories]
        for process in processes:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("waiting up to 30 s for ")
        holder.kill()
        ran = [directory.finish(process) for directory, process in zip(directories, processes, strict=True)]
    assert sorted(done.code for done in ran) == ([0, 0] if same else [0, 4]), ran
    statuses = Counter(said.status for done in ran for said in done.told.values())
    assert statuses == ({"applied": SHARED, "already": SHARED} if same else {"applied": SHARED})
    winner = next(model for done, model in zip(ran, (OURS, THEIRS), strict=True) if done.code == 0)
    assert {model_of(found) for found in live_documents(database).values()} == {OURS if same else winner}
    assert len(live_documents(database)) == SHARED
