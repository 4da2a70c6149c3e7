"""A whole apply without the command line: its order, and what stops it before anything is written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from policyctl.errors import PolicyctlError, Refused, StalePlan, UsageError
from policyctl.load.environment import Environment
from policyctl.plan.change import Outcome
from policyctl.plan.plan import Selection
from policyctl.plan.safety import Review
from policyctl.plan.settings import Settings
from policyctl.reconcile.apply import Applied, ApplyEvents, ApplySettings, apply_plan
from policyctl.reconcile.audit import Audit, AuditFile
from policyctl.reconcile.plan import plan_directory
from policyctl.remote.open import Access, open_reader
from policyctl.remote.sqlite import LockWait, apply_lock
from tests.builders import policy
from tests.sqlite_rows import live_documents, put, row


def reviewed(database: Path, *names: str) -> Review:
    with open_reader(f"sqlite:///{database}") as reader:
        desired = [policy(name) for name in names]
        return plan_directory(reader, desired, Environment("dev"), Settings(), Selection())


class Recorder(ApplyEvents):
    """Notes each event, and whether the lock is held and what is live then."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self.seen: list[tuple[str, bool, int]] = []

    def note(self, event: str) -> None:
        self.seen.append((event, is_locked(self.database), len(live_documents(self.database))))

    @contextmanager
    def progress(self, label: str, _total: int | None) -> Iterator[None]:
        self.note(label)
        yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        self.note("begin")
        yield
        self.note("end")

    def outcome(self, outcome: Outcome) -> None:
        self.note(outcome.change.name)

    def finished(self, applied: Applied) -> None:
        self.note("finished")


def is_locked(database: Path) -> bool:
    try:
        with apply_lock(database, "another apply", LockWait(0), lambda _: None):
            return False
    except Refused:
        return True


def test_an_apply_locks_writes_verifies_and_reports_in_this_order(tmp_path: Path) -> None:
    database, audit = tmp_path / "a.db", tmp_path / "audit.jsonl"
    events = Recorder(database)
    settings = ApplySettings(audit=Audit(AuditFile(audit), "apply"))
    applied = apply_plan(reviewed(database, "one", "two"), f"sqlite:///{database}", Access(), settings, events)
    applied.raise_if_incomplete()
    assert [outcome.status for outcome in applied.outcomes] == ["applied", "applied"]
    first = events.seen[2][2]  # while the outcome of the first write is reported, the second one may be made
    assert first in (1, 2)
    assert events.seen == [
        ("begin", True, 0),
        ("Applying", True, 0),
        ("virtual-policy/one", True, first),
        ("virtual-policy/two", True, 2),
        ("Verifying", True, 2),
        ("finished", True, 2),
        ("end", True, 2),
    ]
    assert not is_locked(database)
    assert len(audit.read_text("utf-8").splitlines()) == 4
    assert reviewed(database, "one", "two").plan.changes == ()


STOPPED: dict[str, tuple[type[PolicyctlError], str, str]] = {
    "a refused plan": (Refused, "sqlite:///a.db", "refused"),
    "a stale plan": (StalePlan, "sqlite:///a.db", "stale"),
    "a policy that changed since": (StalePlan, "sqlite:///a.db", "changed"),
    "a lock that is held": (Refused, "sqlite:///a.db", "locked"),
    "a revision of git": (UsageError, "git:HEAD", "read-only"),
}


@pytest.mark.parametrize("case", STOPPED)
def test_what_stops_an_apply_does_so_before_any_write(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    error, url, why = STOPPED[case]
    database = Path("a.db")
    review = reviewed(database, "one", "two")
    if why == "refused":
        review = review._replace(refusals=("a reason",))
    if why == "stale":
        review = review._replace(stale=("a reason",))
    if why == "changed":
        put([row("one", display_name="by another client")], database)
    before = live_documents(database)
    other = apply_lock(database, "another apply", LockWait(0), lambda _: None) if why == "locked" else nullcontext()
    with other, pytest.raises(error):
        apply_plan(review, url, Access(), ApplySettings(lock_seconds=0))
    assert live_documents(database) == before


def test_a_plan_is_applied_without_importing_click() -> None:
    code = "import sys, policyctl.reconcile.apply; sys.exit('click' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
