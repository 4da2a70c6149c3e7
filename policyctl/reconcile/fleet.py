"""Work on many environments at once, in waves, with a record from which an interrupted run goes on.

The runner is three functions: `submit` the environments, `work` through them, `progress` so far. This one is embedded: threads
of this process. Another one may hand the same work to other machines.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

from policyctl.errors import PolicyctlError, Refused, UsageError
from policyctl.load.source import make_folder, make_state_folder, raise_if_led_out
from policyctl.plan.fleet import EnvironmentResult, WaveOf
from policyctl.plan.plan import Selection
from policyctl.reconcile.audit import LineFile

Task = Callable[[str], EnvironmentResult]
RUNS = "runs"
VERSION = 1


class Runner(Protocol):
    """Where the work on environments is done."""

    def submit(self, names: Sequence[str]) -> None:
        """Hand over environments."""

    def work(self, task: Task) -> Iterator[EnvironmentResult]:
        """Do the task for each submitted environment, and yield the results as they come."""

    def progress(self) -> tuple[int, int]:
        """How many environments are done, and how many were submitted."""


class EmbeddedRunner:
    """Works in threads of this process. Once `stopped` is true nothing new is begun."""

    def __init__(self, parallelism: int, stopped: Callable[[], bool] = lambda: False) -> None:
        self._parallelism = parallelism
        self._stopped = stopped
        self._waiting: deque[str] = deque()
        self._submitted = self._done = 0

    def submit(self, names: Sequence[str]) -> None:
        self._waiting += names
        self._submitted += len(names)

    def work(self, task: Task) -> Iterator[EnvironmentResult]:
        """Only as many environments as there are threads are in hand, so that a stop takes effect at once."""
        ended, running = SimpleQueue[Future[EnvironmentResult]](), 0
        with ThreadPoolExecutor(self._parallelism) as pool:
            while True:
                while self._waiting and running < self._parallelism and not self._stopped():
                    pool.submit(task, self._waiting.popleft()).add_done_callback(ended.put)
                    running += 1
                if not running:
                    break
                future, running = ended.get(), running - 1
                self._done += 1
                yield future.result()
        for name in self._waiting:
            yield EnvironmentResult(name, "not begun", reason="the run was stopped before it")
        self._waiting.clear()

    def progress(self) -> tuple[int, int]:
        return self._done, self._submitted


class Brakes:
    """When to begin nothing more: after a failure (`fail_fast`), or after more than `most` failures."""

    def __init__(self, *, fail_fast: bool = False, most: int | None = None) -> None:
        self._most = 0 if fail_fast else most
        self._failures = 0
        self._lock = threading.Lock()
        self.signal: int | None = None

    def note(self, result: EnvironmentResult) -> None:
        """Count a result."""
        with self._lock:
            self._failures += result.failed

    def interrupt(self, number: int) -> None:
        """Begin nothing more, because of a signal."""
        self.signal = self.signal or number

    def stopped(self) -> bool:
        """Whether nothing more is begun."""
        return self.signal is not None or (self._most is not None and self._failures > self._most)


def run_waves(
    waves: Sequence[WaveOf],
    task: Task,
    brakes: Brakes,
    on_result: Callable[[EnvironmentResult], None],
    runner_of: Callable[[Callable[[], bool]], Runner],
) -> None:
    """Do the task for every environment, wave by wave. `on_result` gets each result, also of those that were not begun.
    `runner_of` makes the runner of a wave, which begins nothing more once its argument is true.

    A wave begins when the one before ended with at most its `max_failures` failures, counted in this run alone.
    """
    held = ""
    for number, wave in enumerate(waves, 1):
        if held or brakes.stopped():
            why = held or "the run was stopped before it"
            for name in wave.names:
                on_result(EnvironmentResult(name, "not begun", reason=why))
            continue
        failures = 0
        runner = runner_of(brakes.stopped)
        runner.submit(wave.names)
        for result in runner.work(task):
            failures += result.failed
            brakes.note(result)
            on_result(result)
        if wave.max_failures is not None and failures > wave.max_failures and number < len(waves):
            held = f"wave {number} did not end well, so later waves are held back"


class Run(NamedTuple):
    """The record of a run: its id, command and time, the commit and the environments that it is about, which policies of them,
    and the last result of each by name. `shown` are the digests of the plans that were approved, by name; none if any were.
    `to` is the commit whose files it goes back to, `files` a hash of all files that were read, `on` what does the work: here,
    or a queue."""

    id: str
    command: str
    began: str
    revision: str
    names: tuple[str, ...]
    results: Mapping[str, Mapping[str, Any]]
    selection: Selection = Selection()
    shown: Mapping[str, str] | None = None
    to: str = ""
    files: str = ""
    on: str = "here"

    @property
    def left(self) -> tuple[str, ...]:
        """The environments that are not done: failed, not begun, or without a result because the process ended."""
        return tuple(name for name in self.names if self.results.get(name, {}).get("status") not in ("applied", "suspended"))


class RunRecord:
    """Writes the record of a run, one line an environment, each on the disk before the next one begins."""

    def __init__(self, folder: Path, run: Run) -> None:
        """A new record in the state folder, or if the run has an id already more lines in its record."""
        runs = folder / RUNS
        raise_if_led_out(runs)  # before anything is made there
        make_state_folder(folder)
        make_folder(runs)
        self.id = run.id or f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
        self._file = LineFile(runs / f"{self.id}.jsonl", "the record of this run")
        if not self._file.lock():
            self._file.close()
            raise Refused(f"run {self.id} is still at work in another process; wait until it ends, or stop it")
        if not run.id:
            head = {"format": "policyctl/run", "version": VERSION, "command": run.command, "revision": run.revision}
            head |= {"began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "environments": list(run.names)}
            what: dict[str, Any] = {key: list(globs) for key, globs in run.selection._asdict().items() if globs}
            what |= {key: text for key, text in (("to", run.to), ("files", run.files), ("on", run.on)) if text}
            self._add(head | what | ({} if run.shown is None else {"shown": dict(run.shown)}))

    def add(self, result: EnvironmentResult) -> None:
        """Record a result."""
        kept = {"status": result.status, "code": result.code, "reason": result.reason, "digest": result.digest}
        self._add({"environment": result.name, **kept, "outcome": result.outcome})

    def _add(self, line: Mapping[str, Any]) -> None:
        try:
            self._file.add(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            raise PolicyctlError(f"{self._file.path} cannot be written: {error.strerror}; the run cannot be resumed") from None

    def close(self) -> None:
        self._file.close()


def read_run(folder: Path, run: str) -> Run:
    """The record of a run. Raises UsageError for an unknown one, PolicyctlError for a file that is not a record."""
    path = folder / RUNS / f"{run}.jsonl"
    if run not in run_ids(folder):
        raise UsageError(f"unknown run {run} (policyctl runs lists those in {folder / RUNS})")
    lines = path.read_text("utf-8", "replace").splitlines()
    entries = []
    for text in lines:
        try:
            entries.append(json.loads(text))
        except ValueError:  # a killed process leaves an unfinished line
            continue
    if not entries or not _is_head(entries[0]):
        raise PolicyctlError(f"{path} is not the record of a run of this version; delete it")
    head = entries[0]
    found = [one for one in entries[1:] if isinstance(one, dict) and isinstance(one.get("environment"), str)]
    results = {one["environment"]: one for one in found}
    selection = Selection(tuple(head.get("only", ())), tuple(head.get("exclude", ())))
    names = tuple(head["environments"])
    more = {key: head.get(key, "") for key in ("to", "files")} | {"on": head.get("on", "here")}
    return Run(run, head["command"], head["began"], head["revision"], names, results, selection, head.get("shown"), **more)


def _is_head(line: Any) -> bool:
    """Whether this is the first line of a record, as `RunRecord` writes it."""
    if not isinstance(line, dict) or line.get("format") != "policyctl/run" or line.get("version") != VERSION:
        return False
    texts = (
        *(line.get(key) for key in ("command", "began", "revision")),
        *(line.get(key, "") for key in ("to", "files", "on")),
    )
    lists = (line.get("environments"), line.get("only", []), line.get("exclude", []))
    whole = all(isinstance(one, str) for one in texts) and isinstance(line.get("shown", {}), dict)
    return whole and all(isinstance(one, list) and all(isinstance(name, str) for name in one) for one in lists)


def run_ids(folder: Path) -> list[str]:
    """The ids of the recorded runs, the oldest first."""
    return sorted(path.stem for path in (folder / RUNS).glob("*.jsonl"))
