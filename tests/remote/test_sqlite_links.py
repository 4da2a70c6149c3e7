"""The file of an embedded remote: no link that lies in a repository leads to it, and no journal comes with a commit."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from policyctl.errors import RemoteError
from policyctl.remote.sqlite import settled
from tests.conftest import Policyctl, Project
from tests.git_repo import commit

COMMANDS = (["plan"], ["apply", "--yes"], ["policy", "list"], ["policy", "remove", "--name", "a", "--yes"], ["pull"])
MAGIC = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"  # of a journal
TWO = "default: dev\nenvironments: {dev: {}, prod: {}}\n"


@pytest.fixture
def outside(project: Project, policyctl: Policyctl) -> Path:
    """A directory beside a repository, with the database of someone else in it."""
    project.policy("theirs")
    folder = project.folder.parent / f"{project.folder.name}-outside"
    assert policyctl("apply", "--yes", "--remote", f"sqlite:///{folder}/local.db").code == 0
    assert policyctl("apply", "--yes", "--remote", f"sqlite:///{folder}/dev.db").code == 0
    (project.policies / "theirs.yaml").unlink()
    project.policy("a")
    return folder


def _folder(top: Path, outside: Path) -> str:
    (top / ".policyctl").symlink_to(os.path.relpath(outside, top))
    return ""


def _folder_of_a_repository(top: Path, outside: Path) -> str:
    commit(outside)
    return _folder(top, outside)


def _file(top: Path, outside: Path) -> str:
    (top / ".policyctl").mkdir()
    (top / ".policyctl" / "local.db").symlink_to(outside / "local.db")
    return ""


def _missing_file(top: Path, outside: Path) -> str:
    (top / ".policyctl").mkdir()
    (top / ".policyctl" / "local.db").symlink_to(outside / "new.db")
    return ""


def _another_environment(top: Path, outside: Path) -> str:
    (top / "policies" / "policyctl.yaml").write_text(TWO, "utf-8")
    (top / ".policyctl").mkdir()
    (outside / "dev.db").rename(top / ".policyctl" / "prod.db")
    (top / ".policyctl" / "dev.db").symlink_to("prod.db")
    return ""


def _another_directory(top: Path, outside: Path) -> str:
    (top / "other").mkdir()
    outside.rename(top / "other" / ".policyctl")
    (top / ".policyctl").symlink_to("other/.policyctl")
    return ""


def _directory_above(top: Path, outside: Path) -> str:
    (top / "other").mkdir()
    outside.rename(top / "other" / ".policyctl")
    (top / "policies").rename(top / "other" / "policies")
    (top / "team").symlink_to("other")
    return "team/policies"


def _written(top: Path, outside: Path) -> str:
    settings = "environments: {local: {remote: 'sqlite:///../data/local.db'}}\n"
    (top / "policies" / "policyctl.yaml").write_text(settings, "utf-8")
    (top / "data").symlink_to(outside)
    return ""


def _journal(top: Path, outside: Path) -> str:
    (top / ".policyctl").mkdir()
    (outside / "local.db").rename(top / ".policyctl" / "local.db")
    (top / ".policyctl" / "local.db-journal").symlink_to(outside / "dev.db")
    return ""


LED: dict[str, Callable[[Path, Path], str]] = {
    "the folder leads out": _folder,
    "the folder leads to another repository": _folder_of_a_repository,
    "the file leads out": _file,
    "the file leads out to one that is not there": _missing_file,
    "the file leads to another environment's": _another_environment,
    "the folder leads to another directory's": _another_directory,
    "the directory above leads to another": _directory_above,
    "a path of the settings leads out": _written,
    "the journal leads out": _journal,
}


def contents(*folders: Path) -> dict[str, bytes]:
    """Every file below some folders and what it holds, links left out."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path): path.read_bytes() for path in files}


@pytest.mark.parametrize("case", LED)
@pytest.mark.alike
def test_a_link_in_the_repository_leads_to_no_database(
    case: str, outside: Path, project: Project, policyctl: Policyctl
) -> None:
    directory = LED[case](project.folder, outside)
    commit(project.folder)
    before = contents(project.folder, outside)
    for command in COMMANDS:
        ran = policyctl(*command, *(["--dir", directory] if directory else []))
        assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, "", 1), ran
        assert (" has the remote of dev" if LED[case] is _another_environment else " link") in ran.err
    assert contents(project.folder, outside) == before


def test_a_journal_that_a_commit_brought_is_not_carried_out(project: Project, policyctl: Policyctl) -> None:
    """SQLite deletes the file that the end of a journal names, when that file names no journal."""
    project.policy("a")
    assert policyctl("apply", "--yes").code == 0
    precious = project.folder.parent / f"{project.folder.name}-precious"
    name = bytes(precious)
    database = project.folder / ".policyctl" / "local.db"
    head = MAGIC + struct.pack(">iIIII", 0, 0, database.stat().st_size // 4096, 512, 4096) + b"\0" * 484
    end = struct.pack(">I", 2**30 // 4096 + 1) + name + struct.pack(">II", len(name), sum(name)) + MAGIC
    journal = database.with_name("local.db-journal")

    def bring() -> None:
        precious.write_bytes(b"x")
        journal.write_bytes(head + end)

    bring()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("SELECT count(*) FROM policy")
    assert not precious.exists()  # else what follows could not fail
    bring()
    commit(project.folder)
    for command in COMMANDS:
        ran = policyctl(*command)
        assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, "", 1), ran
        assert "local.db-journal is a link, or in git" in ran.err
    assert precious.read_bytes() == b"x"


def test_links_of_the_machine_are_followed_and_the_identity_names_the_file(
    tmp_path_factory: pytest.TempPathFactory, project: Project, policyctl: Policyctl
) -> None:
    project.policy("a")
    commit(project.folder)
    place = tmp_path_factory.mktemp("place")
    (place / "real").mkdir()
    (place / "way").symlink_to("real")
    assert policyctl("plan", "--remote", f"sqlite:///{place}/way/x.db", "--out", "plan.json").code == 0
    assert json.loads(Path("plan.json").read_text("utf-8"))["remote"] == f"sqlite:///{place}/real/x.db"
    assert policyctl("apply", "plan.json", "--yes", "--remote", f"sqlite:///{place}/real/x.db").code == 0
    assert (place / "real" / "x.db").is_file()


def test_a_link_to_the_repository_itself_is_the_machine_s_own(project: Project, policyctl: Policyctl) -> None:
    project.policy("a")
    commit(project.folder)
    way = project.folder.parent / f"{project.folder.name}-way"
    way.symlink_to(project.folder)
    assert settled(way / ".policyctl" / "local.db") == project.folder / ".policyctl" / "local.db"
    assert policyctl("apply", "--yes", "--dir", way / "policies").code == 0
    assert policyctl("plan", "--detailed-exitcode").code == 0


def test_a_link_that_leads_back_to_itself_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "x.db").symlink_to("x.db")
    with pytest.raises(RemoteError, match=r"x\.db is a link that leads back to itself; remove it"):
        settled(tmp_path / "x.db")
