"""--audit with a PostgreSQL database: what a file of lines holds, for many machines."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from policyctl.errors import RemoteError
from policyctl.plan.audit import read_entry
from policyctl.reconcile.audit import AuditFile, audit_record
from policyctl.remote.postgres import AuditTable
from tests.conftest import Policyctl, Project
from tests.dropping_proxy import dropping, first, through
from tests.git_repo import commit
from tests.postgres import PostgresServer


@pytest.fixture
def entry() -> str:
    """A line as an apply records it."""
    digest = f"sha256:{'0' * 64}"
    texts = {"time": "2026-11-29T10:00:00Z", "id": "1", "who": "a@b", "command": "apply", "environment": "prod", "remote": "r"}
    change = {"plan": digest, "action": "add", "name": "virtual-policy/a", "before": None, "after": digest, "outcome": "begun"}
    return json.dumps({"format": "policyctl/audit", "version": 1, **texts, **change, "reason": ""})


def test_history_and_drift_read_what_apply_recorded_in_a_database(
    project: Project, policyctl: Policyctl, database: str
) -> None:
    project.policy("anygem")
    assert policyctl("apply", "--yes", "--audit", database).code == 0
    assert policyctl("apply", "--yes", "--audit", "audit.jsonl").code == 0  # nothing to do
    shown = policyctl("history", "--audit", database, "--format", "json")
    assert [(one["name"], one["outcome"]) for one in json.loads(shown.out)["changes"]] == [("virtual-policy/anygem", "applied")]
    assert policyctl("policy", "remove", "anygem", "--yes").code == 0
    found = policyctl("drift", "--audit", database, "--format", "json")
    assert (found.code, "removed from the remote since policyctl wrote it" in found.out) == (0, True), found.err
    assert '"audit": "postgresql://127.0.0.1' in found.out


def test_a_watch_records_in_a_database(project: Project, policyctl: Policyctl, database: str) -> None:
    project.policy("anygem")
    Path("policyctl.yaml").write_text("watch: {apply: on-merge}\n", "utf-8")
    commit(project.folder)
    assert policyctl("watch", "--once", "--audit", database).code == 0
    lines = [line.entry for line in AuditTable(database).lines()]
    assert [(one.origin.command, one.outcome) for one in lines if one] == [("watch", "begun"), ("watch", "applied")]


def test_lines_of_many_applies_at_once_are_all_kept_and_only_those_of_one_remote_are_read(database: str, entry: str) -> None:
    table, barrier = AuditTable(database), threading.Barrier(8)

    def apply(number: int) -> None:
        barrier.wait()
        with_remote = json.dumps({**json.loads(entry), "remote": f"r{number % 2}", "id": str(number)})
        writer = table.writer()
        for _ in range(200):
            writer.add(f"{with_remote}\n")
        writer.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(apply, range(8)))
    everything = [line.entry for line in AuditTable(database).lines()]
    assert len(everything) == 1600
    assert sum(line.entry is not None for line in AuditTable(database).lines("r1")) == 800
    assert not any(True for _ in AuditTable(database).lines("other"))


def test_a_line_whose_answer_is_lost_is_sent_again(postgres: PostgresServer, entry: str) -> None:
    name = postgres.new_database()
    with dropping(postgres.port, lambda _: False) as proxy:
        writer = AuditTable(through(proxy, name)).writer()
        proxy.loses = first(b"INSERT INTO policyctl_audit")
        writer.add(f"{entry}\n")
        writer.close()
        assert proxy.dropped == 1
    assert {line.entry for line in AuditTable(postgres.url(name)).lines()} == {read_entry(entry.encode())}


def test_a_role_that_may_only_add_lines_and_read_them_can_apply(postgres: PostgresServer, entry: str) -> None:
    """So a job cannot change what is recorded."""
    name = postgres.new_database()
    AuditTable(postgres.url(name)).writer().close()
    postgres.execute("CREATE ROLE adder LOGIN")
    for what in (
        "USAGE ON SCHEMA policyctl_audit",
        "SELECT ON policyctl_audit.format",
        "SELECT, INSERT ON policyctl_audit.line",
    ):
        postgres.execute(f"GRANT {what} TO adder", name)
    table = AuditTable(postgres.url(name, user="adder"))
    table.writer().add(f"{entry}\n")
    assert len(list(table.lines())) == 1
    table.close()


@pytest.mark.parametrize(
    ("record", "code", "why"),
    [
        ("postgresql://user:secret@db/audit", 64, "must not contain a password"),
        ("postgresql://127.0.0.1:1/audit", 1, "cannot be used: connection to server at"),
        ("service=", 64, "must be postgresql://HOST/DATABASE"),
    ],
)
def test_a_database_that_cannot_be_used_stops_before_the_first_write(
    project: Project, policyctl: Policyctl, record: str, code: int, why: str
) -> None:
    project.policy("anygem")
    ran = policyctl("apply", "--yes", "--audit", record)
    assert (ran.code, why in ran.err, "secret" in ran.err) == (code, True, False), ran.err
    assert policyctl("plan", "--detailed-exitcode").code == 2


def test_a_database_without_a_record_and_one_of_another_version_are_one_clear_line(
    policyctl: Policyctl, project: Project, database: str, postgres: PostgresServer
) -> None:
    project.policy("anygem")
    assert "is not there yet; policyctl apply --audit makes it" in policyctl("history", "--audit", database).err
    AuditTable(database).writer().close()
    postgres.execute("UPDATE policyctl_audit.format SET version = 2", database.rpartition("/")[2])
    with pytest.raises(RemoteError, match="of another version of policyctl"):
        audit_record(database).writer()


def test_other_text_names_a_file() -> None:
    assert isinstance(audit_record("audit.jsonl"), AuditFile)
