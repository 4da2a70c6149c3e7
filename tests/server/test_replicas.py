"""Two servers at one PostgreSQL, and each fault that they must survive; `python -m tests.server.replicas` is the long form."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from tests.postgres import PostgresServer, programs, running_postgres
from tests.server.replicas import FAULTS, suffer


@pytest.fixture(scope="module")
def durable() -> Iterator[PostgresServer]:
    """A server that may crash."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with running_postgres(durable=True) as server:
        yield server


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost_or_doubled_and_clients_go_on(durable: PostgresServer, fault: str) -> None:
    outcome = suffer(durable, fault, seconds=1.5, clients=8, policies=200)
    assert outcome.wrong == []
    assert outcome.happened.times > 0
    assert all(tally.writes > 0 for tally in outcome.tallies)
    assert outcome.back is None or math.isfinite(outcome.back)  # how soon is what the program measures
