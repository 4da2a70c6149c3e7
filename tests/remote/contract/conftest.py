"""The remotes that the contract is asked of: each starts empty for every test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from policyctl.remote import Reader, Writer
from policyctl.remote.open import open_reader, open_writer
from policyctl.remote.sqlite import SqliteRemote
from tests.server.serving import Served, serving


@dataclass(frozen=True)
class Kind:
    """One kind of remote: how to open it for reading or for writing, as often as a test likes."""

    url: str

    def reader(self) -> Reader:
        return open_reader(self.url)

    def writer(self) -> Writer:
        return open_writer(self.url)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    """`policyctl serve` on a socket, with its database."""
    database = tmp_path_factory.mktemp("contract") / "served.db"
    with serving(database) as running:
        yield running, database


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow), "orchestrate over serve"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    if request.param == "sqlite":
        return Kind(f"sqlite:///{tmp_path / 'remote.db'}")
    if request.param == "postgres":
        return Kind(request.getfixturevalue("database"))
    running, database = request.getfixturevalue("served")
    with SqliteRemote(database) as store:
        for row in store.rows():
            store.remove(row["id"])
    # An instance's layout, over what IBM's CLI does not call local; the other layout is what all other tests use.
    return Kind(running.url.replace("127.0.0.1", "LOCALHOST") + "/instances/x")


@pytest.fixture
def writer(kind: Kind) -> Iterator[Writer]:
    with kind.writer() as opened:
        yield opened
