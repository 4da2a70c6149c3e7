"""What is read of a remote in one look is bounded as a whole, however many requests it makes its readers send."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from policyctl.errors import RemoteError
from policyctl.load.urls import origin
from policyctl.remote.hosts import LOOK, Hosts
from policyctl.remote.http import HttpClient
from policyctl.remote.orchestrate import OrchestrateRemote
from policyctl.remote.redaction import Redactor
from tests.remote.fake_server import Reply, Seen, StandIn, standing_in
from tests.remote.http_helpers import Clock, document, reach

SLOW = 10.0  # seconds until an answer
ENOUGH = int(LOOK / SLOW)  # answers
MODELS = [{"id": str(number), "name": f"virtual-model/x/{number}", "connection_id": f"c-{number}"} for number in range(1000)]


@contextmanager
def slow(answer: Callable[[Seen], Reply], clock: Clock) -> Iterator[StandIn]:
    """A tenant that takes a while for each answer."""

    def handle(seen: Seen) -> Reply:
        clock.time += SLOW
        return answer(seen)

    with standing_in(handle) as server:
        yield server


def full(seen: Seen) -> Reply:
    """A tenant with many models, each of a connection that its list does not have."""
    return Reply(200, MODELS if seen.path.endswith("/models") else [])


def test_a_tenant_cannot_have_connections_asked_for_without_end() -> None:
    clock = Clock()
    with slow(full, clock) as server, reach(server.url, clock=clock, models=True) as remote:
        with pytest.raises(RemoteError, match=r"took more than 5 minutes for what is read in one look"):
            remote.rows()
        assert len(server.seen) == ENOUGH
        with pytest.raises(RemoteError, match="5 minutes"):
            remote.models()
        assert len(server.seen) == ENOUGH


def test_a_tenant_cannot_have_pages_asked_for_without_end() -> None:
    clock = Clock()

    def answer(seen: Seen) -> Reply:
        if not seen.path.endswith("/tools"):
            return Reply(200, {"model_selection_settings": {}} if seen.path.endswith("/model-selection") else [])
        return Reply(200, {"tools": [{"id": str(len(server.seen)), "name": "x"}], "total": 1_000_000})

    with slow(answer, clock) as server, reach(server.url, clock=clock) as remote:
        unread = remote.sources().unread
        assert "5 minutes" in unread["tools"]
        assert len(server.seen) <= ENOUGH + 8  # of which some were on their way at once


def test_each_write_is_made_and_begins_another_look() -> None:
    clock = Clock()
    with slow(full, clock) as server, reach(server.url, clock=clock, models=True) as remote:
        for name in ("one", "two"):
            with pytest.raises(RemoteError, match="5 minutes"):
                remote.rows()
            remote.add(document(name))
        remote.models()
        assert [seen.method for seen in server.seen].count("POST") == 2


def test_the_time_in_which_a_rate_is_kept_does_not_count() -> None:
    clock = Clock()
    with standing_in(lambda _: Reply(200, [])) as server:
        hosts = Hosts(clock.patience())
        hosts.pace(origin(server.url)).limit(1 / 60)
        wire = HttpClient(Redactor(), hosts=hosts)
        with OrchestrateRemote(server.url, wire, Redactor()) as remote:
            began = clock.time
            for _ in range(20):
                assert remote.rows() == []
        hosts.close()
    assert clock.time - began > LOOK
