"""How far long work is: one line on a terminal, never elsewhere, and nothing of it is left."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import pytest

from policyctl.cli.console import EVERY, QUIET, Progress, ProgressTask
from tests.conftest import ANYGEM, Project
from tests.patience import LONGEST
from tests.remote.fake_server import Reply, Seen, Silence, standing_in
from tests.remote.fake_tenant import Tenant
from tests.terminal import CTRL_C, Terminal, on_terminal

# The real program, but it is long work from its first moment on.
AT_ONCE = "import policyctl.cli.console as p; p.QUIET = 0.0; from policyctl.cli.main import main; main()"


class Ticks(threading.Event):
    """An event whose waits end when the test decides, and what each wait was asked to last."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float | None] = []
        self._ends: SimpleQueue[bool] = SimpleQueue()
        self._waits = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        self.asked.append(timeout)
        self._waits.release()
        return self._ends.get()

    def set(self) -> None:
        self._ends.put(True)

    def end_a_wait(self) -> None:
        self._waits.acquire()
        self._ends.put(False)

    def tick(self) -> None:
        """Let one wait end, and be back when what follows is drawn."""
        self.end_a_wait()
        self._waits.acquire()
        self._waits.release()


class Scripted:
    """Progress on a stream that is taken for a terminal, in a time that the test makes pass."""

    def __init__(self, width: int | None = 80, stream: io.StringIO | None = None) -> None:
        self.stream = stream or io.StringIO()
        self.now = 100.0
        self.ticks: list[Ticks] = []
        self.progress = Progress(self.stream, lambda: width, clock=lambda: self.now, new_event=self._new)

    def _new(self) -> Ticks:
        self.ticks.append(Ticks())
        return self.ticks[-1]

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.ticks[-1].tick()


def test_nothing_is_drawn_of_work_that_is_done_within_a_second() -> None:
    there = Scripted()
    with there.progress.of("Loading", "file", 10) as step:
        for _ in range(10):
            step()
    assert there.stream.getvalue() == ""
    assert there.ticks[0].asked == [QUIET] == [1.0]


def test_longer_work_is_drawn_again_and_again_and_erased_in_the_end() -> None:
    there = Scripted()
    with there.progress.of("Loading", "file", 4) as step:
        step()
        there.passes(1)
        step("whatever", "was", "done")
        step()
        there.passes(0.2)
    first, second = "Loading [######------------------] 1 of 4 files", "Loading [##################------] 3 of 4 files"
    assert there.stream.getvalue() == f"\r\x1b[K{first}\r\x1b[K{second}\r\x1b[K"
    assert there.ticks[0].asked == [QUIET, EVERY, EVERY]


def test_where_there_is_no_terminal_nothing_is_drawn_and_nothing_waits() -> None:
    there = Scripted(width=None)
    with there.progress.of("Loading", "file", 1) as step:
        step()
    assert (there.stream.getvalue(), there.ticks) == ("", [])


def test_a_line_is_never_as_wide_as_the_terminal() -> None:
    there = Scripted(width=20)
    with there.progress.of("Loading", "file", 4):
        there.passes(1)
        assert there.stream.getvalue() == f"\r\x1b[KLoading [{'-' * 10}"


def test_what_was_drawn_is_erased_when_the_work_fails() -> None:
    there = Scripted()

    def fail() -> None:
        with there.progress.of("Listing", "policy"):
            there.passes(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert there.stream.getvalue() == "\r\x1b[KListing, 1 s\r\x1b[K"


def test_a_terminal_that_has_gone_does_not_stop_the_work() -> None:
    class Gone(io.StringIO):
        tried = 0

        def flush(self) -> None:
            self.tried += 1
            raise OSError(5, "Input/output error")

    gone = Gone()
    there = Scripted(stream=gone)
    with there.progress.of("Loading", "file") as step:
        there.ticks[0].end_a_wait()
        step()
    assert gone.tried == 1


LINES = {
    "nothing is known yet": (ProgressTask("Listing", "live policy"), "Listing, 7 s"),
    "nobody knows how many there are": (ProgressTask("Listing", "live policy", None, 3200), "Listing 3,200 live policies, 7 s"),
    "the beginning": (ProgressTask("Applying", "change", 500), f"Applying [{'-' * 24}] 0 of 500 changes"),
    "a half": (ProgressTask("Applying", "change", 2000, 1000), f"Applying [{'#' * 12}{'-' * 12}] 1,000 of 2,000 changes"),
    "all but one are not all": (ProgressTask("Applying", "change", 500, 499), f"Applying [{'#' * 23}-] 499 of 500 changes"),
    "all": (ProgressTask("Applying", "change", 1, 1), f"Applying [{'#' * 24}] 1 of 1 change"),
    "nothing to do": (ProgressTask("Writing", "file", 0), f"Writing [{'-' * 24}] 0 of 0 files"),
}


@pytest.mark.parametrize("case", LINES)
def test_the_line(case: str) -> None:
    work, expected = LINES[case]
    assert work.line(7.4) == expected


class Slow:
    """A tenant that does not answer requests of one method before it is let go."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.asked = threading.Event()
        self.go = threading.Event()
        self.tenant = Tenant()

    def __call__(self, seen: Seen) -> Reply | Silence:
        if seen.method == self.method:
            self.asked.set()
            self.go.wait(LONGEST)
        return self.tenant(seen)


@contextmanager
def slowly(method: str, *args: str, stdout: int | None = None) -> Iterator[tuple[Terminal, Slow]]:
    """policyctl on a terminal, before a remote that is slow to answer."""
    slow = Slow(method)
    with (
        standing_in(slow) as server,
        on_terminal("-c", AT_ONCE, *args, "--remote", server.url, "--color", "never", stdout=stdout) as terminal,
    ):
        yield terminal, slow
        slow.go.set()


@pytest.fixture
def two(project: Project) -> Project:
    project.policy("a")
    project.policy("b")
    return project


def test_a_slow_remote_is_seen_on_the_terminal_and_nothing_of_that_is_left(two: Project) -> None:
    with slowly("GET", "plan") as (terminal, slow):
        terminal.until("Comparing, 0 s")
        slow.go.set()
        assert terminal.end() == 0
    assert terminal.screen()[-2:] == ["Plan: 2 to add, 0 to update, 0 to remove.", ""]
    assert not [line for line in terminal.screen() if "Comparing" in line or "Loading" in line or "Checking" in line]


def test_effects_of_many_policies_are_seen_one_by_one(two: Project) -> None:
    with slowly("GET", "effect", "--against", "live") as (terminal, slow):
        terminal.until("Working out [------------------------] 0 of 2 policies")
        slow.go.set()
        assert terminal.end() == 0
    assert not [line for line in terminal.screen() if "Working out" in line]


def test_json_stays_alone_on_standard_output(two: Project) -> None:
    with (
        Path("plan.json").open("wb") as file,
        slowly("GET", "plan", "--format", "json", stdout=file.fileno()) as (terminal, slow),
    ):
        terminal.until("Comparing, 0 s")
        slow.go.set()
        assert terminal.end() == 0
    assert json.loads(Path("plan.json").read_text("utf-8"))["summary"]["add"] == 2
    assert terminal.screen() == [""]


def test_ctrl_c_leaves_a_clean_line(two: Project) -> None:
    with slowly("GET", "plan") as (terminal, slow):
        terminal.until("Comparing, 0 s")
        slow.asked.wait()
        terminal.type(CTRL_C)
        assert terminal.end() == 130
    assert [line.removeprefix("^C") for line in terminal.screen()] == ["", "interrupted", ""]


def test_ctrl_c_in_an_apply_shows_that_it_stops_and_finishes_what_was_begun(two: Project) -> None:
    with slowly("POST", "apply", "--yes", "--parallelism", "1") as (terminal, slow):
        terminal.until("Applying [------------------------] 0 of 2 changes")
        slow.asked.wait()
        terminal.type(CTRL_C)
        terminal.until("stopping when what was begun is finished; once more stops at once\r\n")
        slow.go.set()
        assert terminal.end() == 130
    end = terminal.screen()[-4:]
    assert end[0].removeprefix("^C") == "stopping when what was begun is finished; once more stops at once"
    assert end[1:] == ["+ virtual-policy/b  skipped: interrupted", "Not all applied: 1 added, 1 skipped.", ""]
    assert len(slow.tenant.rows) == 1


def test_a_second_ctrl_c_stops_at_once_on_a_clean_line(two: Project) -> None:
    with slowly("POST", "apply", "--yes") as (terminal, slow):
        terminal.until("Applying [------------------------] 0 of 2 changes")
        slow.asked.wait()
        terminal.type(CTRL_C)
        terminal.until("stops at once\r\n")
        terminal.type(CTRL_C)
        assert terminal.end() == -2
    assert terminal.screen()[-1] in ("^C", "")


def test_without_a_terminal_long_work_is_not_drawn_and_an_apply_reports_each_change(two: Project) -> None:
    with standing_in(Tenant()) as server:
        program = [sys.executable, "-c", AT_ONCE, "apply", "--yes", "--remote", server.url]
        ran = subprocess.run(program, capture_output=True, text=True, check=True)
    assert ran.stderr == "+ virtual-policy/a  applied\n+ virtual-policy/b  applied\n"


def test_a_plan_is_left_for_the_terminal_to_wrap(project: Project) -> None:
    project.policy("a", "virtual-model/vendor/one", "virtual-model/vendor/two", "virtual-model/vendor/three")
    with on_terminal("-m", "policyctl", "plan", "--color", "never", width=50) as terminal:
        assert terminal.end() == 0
    assert "    fallback of vendor/one, then vendor/two, then vendor/three\r\n" in terminal.shown


@pytest.mark.parametrize(("environ", "width"), [({}, 50), ({"COLUMNS": "60"}, 60), ({"COLUMNS": "wide"}, 50)])
def test_an_excerpt_is_as_wide_as_its_terminal_or_as_columns_sets(
    environ: dict[str, str], width: int, project: Project
) -> None:
    project.write("a.yaml", ANYGEM.replace("description: ", f"descripton: {'long ' * 40}"))
    with on_terminal("-m", "policyctl", "validate", width=50, environ={"NO_COLOR": "1", "CI": "", **environ}) as terminal:
        assert terminal.end() == 1
    excerpt = next(line for line in terminal.shown.splitlines() if " | descripton: " in line)
    assert width - 8 <= len(excerpt) <= width


def test_a_dumb_terminal_gets_lines_and_no_drawing(two: Project) -> None:
    with standing_in(Tenant()) as server:
        args = ("-c", AT_ONCE, "apply", "--yes", "--remote", server.url)
        with on_terminal(*args, environ={"TERM": "dumb"}) as terminal:
            assert terminal.end() == 0
    assert "+ virtual-policy/a  applied\r\n" in terminal.shown
    assert "\x1b" not in terminal.shown
