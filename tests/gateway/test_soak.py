"""Traffic while everything changes; `python -m tests.gateway.soak` is the long form."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.soak import soak


@pytest.mark.slow
@pytest.mark.no_cover
def test_each_request_is_answered_by_one_whole_policy_or_its_connection_ends(tmp_path: Path) -> None:
    tally = soak(tmp_path, seconds=24, clients_at_once=24)  # two workers are killed, and four times an upstream dies
    assert tally.mistakes == []
    assert tally.answers["answer whole"] > 0
    assert tally.answers["stream whole"] > 0
    assert tally.answers["500"] + tally.answers["stream error"] + tally.answers["stream broken"] > 0
    assert len(tally.kills) > 1
    assert tally.deaths > 1
    assert len(tally.versions) > 2  # policies of several versions were run


# The gateway with a fault: a request that has begun asks the models of the newest table, and not those of its own.
NEWEST_TABLE = """\
from policyctl.cli.main import main
from policyctl.gateway.table import RouteTable

made, upstream, newest = RouteTable.__init__, RouteTable.upstream, []


def make(table, *given, **more):
    made(table, *given, **more)
    newest[:] = [table]


RouteTable.__init__ = make
RouteTable.upstream = lambda table, model: upstream(newest[0], model)
main()
"""


@pytest.mark.slow
@pytest.mark.no_cover
def test_a_table_that_changes_within_a_request_is_found(tmp_path: Path) -> None:
    """So a soak without a mistake shows something."""
    tally = soak(tmp_path, seconds=12, clients_at_once=24, gateway=("-c", NEWEST_TABLE))
    assert any("has no upstream" in mistake for mistake in tally.mistakes), tally.mistakes
