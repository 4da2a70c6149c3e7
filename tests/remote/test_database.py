"""The file of an embedded remote: its formats, whose it is, and whether names are unique in it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from policyctl.errors import Conflict, Moved, NotFound, RemoteError
from policyctl.remote.sqlite import APPLICATION_ID, VERSION, SqliteReader, SqliteRemote
from policyctl.remote.store import DocumentTable, ModelTable

FORMAT_1 = f"""
CREATE TABLE policy (
    id         TEXT PRIMARY KEY,
    canonical  TEXT NOT NULL UNIQUE,
    document   TEXT NOT NULL,
    created_on TEXT NOT NULL,
    updated_at TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO policy VALUES ('1', 'virtual-policy/a', '{{"name": "a", "policy": {{}}}}', 'then', 'then');
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = 1;
"""


FORMAT_2 = """
CREATE TABLE policy (
    id         TEXT PRIMARY KEY,
    canonical  TEXT NOT NULL {unique},
    document   TEXT NOT NULL,
    created_on TEXT NOT NULL,
    updated_at TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE model (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    document   TEXT NOT NULL,
    created_on TEXT NOT NULL,
    updated_at TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO model VALUES ('1', 'm', '{{"name": "m", "provider_config": {{"api_key": "canary-7131", "index": 1}}}}', '', '');
INSERT INTO model VALUES ('2', 'n', 'not JSON', '', '');
PRAGMA application_id = {application};
PRAGMA user_version = 2;
"""


def run(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file of format 1, with one policy and no table of models."""
    run(tmp_path / "old.db", FORMAT_1)
    return tmp_path / "old.db"


def test_a_file_of_the_first_format_is_read_as_it_is(old: Path) -> None:
    with SqliteReader(old) as reader:
        assert [row["name"] for row in reader.rows()] == ["a"]
        assert reader.models() == frozenset()
        assert ModelTable(reader.database, "model").rows() == []
    assert version_of(old) == 1


def test_the_first_write_brings_it_to_this_format_and_loses_nothing(old: Path) -> None:
    with SqliteRemote(old) as remote:
        ModelTable(remote.database, "model").insert({"name": "m"})
        assert remote.models() == {"m"}
        with pytest.raises(Conflict):
            remote.add({"name": "virtual-policy/a", "policy": {}})
    assert version_of(old) == VERSION
    with SqliteReader(old) as reader:
        assert [row["id"] for row in reader.rows()] == ["1"]


@pytest.mark.parametrize("unique", [True, False])
def test_a_file_of_the_second_format_loses_its_secrets_and_nothing_else(tmp_path: Path, unique: bool) -> None:
    """It holds the secrets of its models in clear: they are hidden at once, and overwritten by the first write."""
    path = tmp_path / "old.db"
    run(path, FORMAT_2.format(unique="UNIQUE" if unique else "", application=APPLICATION_ID))
    with SqliteRemote(path) as remote:
        models = ModelTable(remote.database, "model")
        before = models.rows()
        assert version_of(path) == 2
        assert (before[0]["provider_config"], before[1]["name"]) == ({"api_key": "***", "index": 1}, "n")
        remote.add({"name": "a", "policy": {}})
        after = models.rows()
        assert [{**row, "etag": ""} for row in after] == [{**row, "etag": ""} for row in before]
        if unique:
            with pytest.raises(Conflict):
                models.insert({"name": "m"})
        else:
            models.insert({"name": "m"})
    assert version_of(path) == VERSION
    assert b"canary-7131" not in path.read_bytes()


def test_a_file_of_a_later_format_is_refused(old: Path) -> None:
    run(old, f"PRAGMA user_version = {VERSION + 1}")
    with SqliteReader(old) as reader, pytest.raises(RemoteError, match=f"newer policyctl \\(format {VERSION + 1}\\)"):
        reader.rows()


def test_a_file_that_nothing_was_written_to_reads_as_empty(tmp_path: Path) -> None:
    """As a writer leaves one that was killed before its first write was whole."""
    (tmp_path / "blank.db").touch()
    with SqliteReader(tmp_path / "blank.db") as reader:
        assert (list(reader.rows()), reader.models(), reader.count()) == ([], frozenset(), 0)


@pytest.mark.parametrize("unique", [True, False])
def test_whether_names_are_unique_stays_as_it_was_when_the_file_was_made(tmp_path: Path, unique: bool) -> None:
    path = tmp_path / "a.db"
    with SqliteRemote(path, unique_names=unique) as remote:
        assert remote.database.names_are_unique() is unique
        remote.add({"name": "a", "policy": {}})
    with SqliteRemote(path, unique_names=not unique) as remote:
        assert remote.database.names_are_unique() is unique
        if unique:
            with pytest.raises(Conflict):
                remote.add({"name": "virtual-policy/a", "policy": {}})
        else:
            remote.add({"name": "virtual-policy/a", "policy": {}})
        assert len(remote.find(["virtual-policy/a"])) == (1 if unique else 2)


def test_every_write_gives_the_row_as_it_was_written(tmp_path: Path) -> None:
    with SqliteRemote(tmp_path / "a.db") as remote:
        added = remote.insert({"name": "a", "policy": {}, "etag": "mine", "tenant_id": "t"})
        assert list(remote.rows()) == [added]
        changed = remote.replace(added["id"], {"policy": {"x": 1}}, added["etag"])
        assert list(remote.rows()) == [changed]
        assert changed["etag"] != added["etag"]
        assert "tenant_id" not in changed


def test_a_version_guards_the_write_and_the_remove(tmp_path: Path) -> None:
    with SqliteRemote(tmp_path / "a.db") as remote:
        row = remote.insert({"name": "a", "policy": {}})
        remote.update(row["id"], {"policy": {"x": 1}})
        with pytest.raises(Moved):
            remote.update(row["id"], {"policy": {"x": 2}}, row["etag"])
        with pytest.raises(Moved):
            remote.remove(row["id"], row["etag"])
        assert next(iter(remote.rows()))["policy"] == {"x": 1}


def test_rows_by_id(tmp_path: Path) -> None:
    with SqliteRemote(tmp_path / "a.db") as remote:
        rows = [remote.insert({"name": name, "policy": {}}) for name in "cab"]
        wanted = {rows[0]["id"], rows[1]["id"], "none"}
        assert [row["name"] for row in remote.by_id(wanted)] == ["a", "c"]


def test_models_are_kept_by_name(tmp_path: Path) -> None:
    with SqliteRemote(tmp_path / "a.db") as remote:
        models = ModelTable(remote.database, "model")
        row = models.insert({"name": "m", "extra": 1})
        with pytest.raises(Conflict):
            models.insert({"name": "m"})
        changed = models.replace(row["id"], {"name": "n"})
        assert (models.rows(), changed["extra"], changed["id"]) == ([changed], 1, row["id"])
        models.remove(row["id"])
        with pytest.raises(NotFound):
            models.remove(row["id"])
        with pytest.raises(NotFound):
            models.replace(row["id"], {})


def test_documents_are_given_back_as_they_were_put_in(tmp_path: Path) -> None:
    """With the id that they bring, since they name each other by it, and without being understood."""
    document = {"id": "mine", "name": "d", "kind": "native", "tenant_id": "t", "token": {"type": "string"}, "hidden": None}
    with SqliteRemote(tmp_path / "a.db") as remote:
        agents, connections = DocumentTable(remote.database, "agent"), DocumentTable(remote.database, "connection")
        assert (agents.rows(), agents.count(), agents.by_id(["mine"])) == ([], 0, [])
        with pytest.raises(NotFound, match="no agent has the id mine"):
            agents.remove("mine")
        row = agents.insert(document)
        assert {**row, **document} == row
        assert agents.insert({"name": "d"})["id"] != "mine", "names are not unique"
        with pytest.raises(Conflict):
            agents.insert(document)
        connections.insert({"name": "d"})
        with pytest.raises(Conflict):
            connections.insert({"name": "d"})
        cleared = agents.replace("mine", {"x": 1}, merge=False)
        assert cleared.keys() == {"id", "name", "x", "created_on", "updated_at", "etag"}
    with SqliteReader(tmp_path / "a.db") as reader:
        assert DocumentTable(reader.database, "agent").by_id(["mine"]) == [cleared]
        assert DocumentTable(reader.database, "toolkit").rows() == []


def test_what_was_opened_for_reading_is_not_written(tmp_path: Path) -> None:
    """Neither is it made. A plan reads models, and what it reads them with could write them."""
    with SqliteReader(tmp_path / "a.db") as reader, pytest.raises(RemoteError, match="was opened for reading"):
        ModelTable(reader.database, "model").insert({"name": "m"})
    assert list(tmp_path.iterdir()) == []
