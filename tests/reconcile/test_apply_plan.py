"""A whole apply without the command line: its order, and what stops it before anything is written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from policyctl.errors import PolicyctlError, Refused, StalePlan, UsageError
from policyctl.load.environment import Environment
from policyctl.plan.plan import Outcome, Selection
from policyctl.plan.safety import Review
from policyctl.plan.settings import Override, Settings
from policyctl.reconcile.apply import Applied, ApplyEvents, ApplySettings, apply_plan
from policyctl.reconcile.audit import Audit, AuditFile
from policyctl.reconcile.observe import WAITS
from policyctl.reconcile.plan import plan_directory
from policyctl.remote import Backoff
from policyctl.remote.open import Access, open_reader
from policyctl.remote.sqlite import LockWait, apply_lock
from tests.builders import policy
from tests.remote.fake_server import Reply, Seen, Silence, standing_in
from tests.remote.fake_tenant import Tenant
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


class Stopping(ApplyEvents):
    """Stopped while the first write is on its way, to a tenant that then answers by a rule."""

    def __init__(self, after: Callable[[Tenant, Seen], Reply | Silence]) -> None:
        self.tenant, self._after, self._stopped = Tenant(), after, False
        self.tenant.put({"id": "1", **row("one")})

    def stopped(self) -> bool:
        return self._stopped

    def __call__(self, seen: Seen) -> Reply | Silence:
        self._stopped = self._stopped or seen.method in ("POST", "PUT")
        return self._after(self.tenant, seen) if self._stopped else self.tenant(seen)


def not_kept(tenant: Tenant, seen: Seen) -> Reply | Silence:
    return Reply(200, tenant.rows["1"]) if seen.method == "PUT" else tenant(seen)


def gone_afterwards(tenant: Tenant, seen: Seen) -> Reply | Silence:
    return tenant(seen) if seen.method == "PUT" else Reply(404)


DIFFERS = "virtual-policy/one was not applied: policy."
READ_BACK: dict[str, tuple[Callable[[Tenant, Seen], Reply | Silence], str | None, tuple[float, ...]]] = {
    "the remote keeps it": (Tenant.__call__, None, ()),
    "the remote answers and does not keep it": (not_kept, DIFFERS, WAITS),
    "the remote cannot be read any more": (gone_afterwards, "the result could not be read back: ", ()),
}


@pytest.mark.parametrize("case", READ_BACK)
def test_what_a_stopped_apply_wrote_is_read_back_and_never_taken_for_done_unseen(case: str) -> None:
    after, unverified, waits = READ_BACK[case]
    waited: list[float] = []
    events = Stopping(after)
    settings = ApplySettings(patience=Backoff(sleep=waited.append))
    with standing_in(events) as server:
        with open_reader(server.url, Access()) as reader:
            review = plan_directory(reader, [policy("one")], Environment("dev"), Settings(), Selection())
        applied = apply_plan(review, server.url, Access(), settings, events)
    assert [outcome.status for outcome in applied.outcomes] == ["applied"]
    assert applied.is_verified == (unverified is None)
    assert [line[: len(unverified or "")] for line in applied.unverified] == ([] if unverified is None else [unverified])
    assert tuple(waited) == waits


def test_whether_it_may_write_is_asked_once_with_the_lock_directly_before_the_first_write(tmp_path: Path) -> None:
    database, audit = tmp_path / "a.db", tmp_path / "audit.jsonl"
    asked: list[tuple[bool, int]] = []

    def admit() -> tuple[Override, ...]:
        asked.append((is_locked(database), len(live_documents(database))))
        return (Override("--outside-window", "", "an incident"),)

    settings = ApplySettings(audit=Audit(AuditFile(audit), "apply"), admit=admit)
    apply_plan(reviewed(database, "one", "two"), f"sqlite:///{database}", Access(), settings).raise_if_incomplete()
    assert asked == [(True, 0)]
    entries = [line.entry for line in AuditFile(audit).lines()]
    assert [entry is not None and entry.overrides[0].reason for entry in entries] == ["an incident"] * 4


def test_what_may_not_write_now_writes_nothing(tmp_path: Path) -> None:
    database, audit = tmp_path / "a.db", tmp_path / "audit.jsonl"

    def admit() -> tuple[Override, ...]:
        raise Refused("a window is open")

    settings, review = ApplySettings(audit=Audit(AuditFile(audit), "apply"), admit=admit), reviewed(database, "one")
    with pytest.raises(Refused, match="a window is open"):
        apply_plan(review, f"sqlite:///{database}", Access(), settings)
    assert not live_documents(database)
    assert not audit.exists()
