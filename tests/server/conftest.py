"""A server in this process (the application through httpx's own ASGI transport) and one in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from policyctl.remote.sqlite import SqliteRemote
from tests.server.serving import Inside, Served, inside, serving


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Inside]:
    """An application in this process, which admits everyone."""
    with SqliteRemote(tmp_path / "served.db") as store, inside(store) as running:
        yield running


@pytest.fixture
def client(server: Inside) -> httpx.Client:
    return server.client


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`policyctl serve` in a process of its own, for all tests that only need a socket."""
    with serving(tmp_path_factory.mktemp("served") / "served.db") as running:
        yield running
