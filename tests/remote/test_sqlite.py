"""The embedded remote's own bad days: locked, read-only, corrupt, foreign, newer; and several writers at once."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from policyctl.errors import Conflict, RemoteError
from policyctl.policy.live import observe_rows
from policyctl.remote.sqlite import SqliteReader, SqliteRemote
from tests.builders import body, plan, policy
from tests.conftest import ANYGEM, Policyctl, Project
from tests.sqlite_rows import LOCAL

DOCUMENT = {"name": "a", "policy": body()}


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[SqliteRemote]:
    with SqliteRemote(tmp_path / "folder" / "remote.db") as remote:
        yield remote


def test_a_missing_file_reads_as_empty_and_is_not_made(tmp_path: Path) -> None:
    with SqliteReader(tmp_path / "none" / "x.db") as reader:
        assert list(reader.rows()) == []
        assert reader.find({"virtual-policy/a"}) == []
    assert list(tmp_path.iterdir()) == []


def test_a_reader_has_no_way_to_write() -> None:
    assert not {"add", "update", "remove"} & set(dir(SqliteReader))


def test_a_readers_connection_refuses_to_write(remote: SqliteRemote) -> None:
    remote.add(DOCUMENT)
    with SqliteReader(remote.path) as reader:
        reader.rows()
        connection = reader.database._connection
        assert connection is not None
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM policy")


def test_an_empty_file_is_a_new_database(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.touch()
    with SqliteReader(path) as reader:
        assert list(reader.rows()) == []
    with SqliteRemote(path) as remote:
        remote.add(DOCUMENT)
        assert len(list(remote.rows())) == 1


def test_many_threads_and_two_connections_lose_and_double_nothing(remote: SqliteRemote) -> None:
    conflicts: list[str] = []

    def write(writer: SqliteRemote) -> None:
        for number in range(20):
            try:
                writer.add({"name": f"p{number}", "policy": body()})
            except Conflict as error:
                conflicts.append(str(error))

    with SqliteRemote(remote.path) as other:
        threads = [threading.Thread(target=write, args=(writer,)) for writer in (remote, other, remote, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    observed = observe_rows(remote.rows())
    assert (len(observed.live), observed.twins, len(conflicts)) == (20, (), 60)


WRITER = """
import sys
from pathlib import Path
from policyctl.remote.sqlite import SqliteRemote
with SqliteRemote(Path(sys.argv[1])) as remote:
    for number in range(50):
        remote.add({"name": f"{sys.argv[2]}-{number}", "policy": {}})
"""


def test_two_processes_writing_at_once_both_succeed(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in ("a", "b")]
    assert [writer.wait() for writer in writers] == [0, 0]
    with SqliteReader(path) as reader:
        assert len(list(reader.rows())) == 100


def _corrupt(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100] + os.urandom(4000))


def _newer(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()


def _foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE users (id)")
    database.close()


BAD_FILES = {
    "corrupt": (_corrupt, "not an intact SQLite database"),
    "no database at all": (lambda path: path.write_bytes(b"hello, this is a text file" * 50), "not an intact SQLite database"),
    "from a newer version": (_newer, "newer policyctl"),
    "of another program": (_foreign, "a database of another program"),
    "a directory": (lambda path: (path.unlink(), path.mkdir()), "is not a regular file"),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "is not a regular file"),
    "a link to a device": (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "is not a regular file"),
}


@pytest.mark.parametrize("command", ["plan", "apply"])
@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_database_is_one_clear_line_and_stays_as_it_was(
    case: str, command: str, project: Project, policyctl: Policyctl
) -> None:
    project.write("anygem.yaml")
    assert policyctl("apply", "--yes").code == 0
    path = Path(".policyctl/local.db")
    spoil, expected = BAD_FILES[case]
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    ran = policyctl(command, *(["--yes"] if command == "apply" else []))
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, "", 1)
    assert expected in ran.err
    assert before == (path.read_bytes() if path.is_file() else None)


@pytest.mark.parametrize("text", ["{broken", "[1]", "", "null", "[" * 100_000])
def test_a_row_that_is_broken_is_shown_and_left_alone_and_the_others_are_not(
    text: str, project: Project, policyctl: Policyctl
) -> None:
    project.policy("one")
    assert policyctl("apply", "--yes").code == 0
    with closing(sqlite3.connect(LOCAL)) as database:
        database.execute("UPDATE policy SET document = ?", [text])
        database.commit()
    project.policy("two")
    ran = policyctl("apply", "--yes")
    assert ran.code == 5
    assert "virtual-policy/one: the row has no policy" in ran.out
    with closing(sqlite3.connect(LOCAL)) as database:
        rows = dict(database.execute("SELECT canonical, document FROM policy"))
    assert rows.keys() == {"virtual-policy/one", "virtual-policy/two"}
    assert rows["virtual-policy/one"] == text
    listed = policyctl("policy", "list")
    assert listed.code == 0
    assert "virtual-policy/two" in listed.out


def test_a_locked_database_is_one_clear_line_and_can_be_used_afterwards(remote: SqliteRemote) -> None:
    remote.add(DOCUMENT)
    lock = sqlite3.connect(remote.path, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    with SqliteRemote(remote.path, busy_seconds=0.05) as second:
        for call in (second.rows, lambda: second.find({"virtual-policy/a"}), lambda: second.add({**DOCUMENT, "name": "b"})):
            with pytest.raises(RemoteError, match="locked by another program"):
                call()
        lock.execute("ROLLBACK")
        lock.close()
        assert len(list(second.rows())) == 1


def without_root_privileges() -> list[str]:
    """Words before a command that make file permissions hold, also for root."""
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


@pytest.mark.slow
def test_a_read_only_database_can_be_planned_but_not_applied(project: Project) -> None:
    project.write("anygem.yaml")
    run = [*without_root_privileges(), sys.executable, "-m", "policyctl"]
    subprocess.run([*run, "apply", "--yes"], check=True, capture_output=True)
    project.write("anygem.yaml", ANYGEM.replace("0.25", "0.4").replace("0.75", "0.6"))
    folder = project.folder / ".policyctl"
    before = (folder / "local.db").read_bytes()
    (folder / "local.db").chmod(0o444)
    folder.chmod(0o555)
    plan = subprocess.run([*run, "plan"], capture_output=True, text=True, check=False)
    apply = subprocess.run([*run, "apply", "--yes"], capture_output=True, text=True, check=False)
    folder.chmod(0o755)
    assert (plan.returncode, plan.stderr) == (0, "")
    assert "0.25 → 0.4" in plan.stdout
    assert apply.returncode == 5
    assert "the database is read-only" in apply.stdout
    assert (folder / "local.db").read_bytes() == before


@pytest.mark.parametrize(
    "document",
    ['{"name": "virtual-policy/zed", "policy": {}}', '{"policy": {}}', '{"name": 3, "policy": {}}', "[]", "no JSON"],
)
def test_a_row_whose_document_has_lost_its_name_keeps_it_and_is_not_touched(tmp_path: Path, document: str) -> None:
    """The list and the look-up go by the same name, and a plan that would add onto it is blocked."""
    path = tmp_path / "a.db"
    with SqliteRemote(path) as remote:
        remote.add(policy("a").document)
        identifier = remote.add(policy("b").document)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE policy SET document = ? WHERE id = ?", (document, identifier))
    connection.close()
    with SqliteRemote(path) as remote:
        for rows in (remote.rows(), remote.find(["virtual-policy/b"])):
            observed = observe_rows(rows)
            assert [(row.name, row.id) for row in observed.unreadable] == [("virtual-policy/b", identifier)]
        assert remote.find(["virtual-policy/zed"]) == []
        found = plan([policy("a"), policy("b")], list(remote.rows()))
    assert found.changes == ()
    assert [(block.name, block.ids) for block in found.blocked] == [("virtual-policy/b", (identifier,))]
