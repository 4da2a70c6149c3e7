"""A minute of traffic while everything changes; `python -m tests.gateway.soak` is the long form."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.soak import soak


@pytest.mark.slow
@pytest.mark.no_cover
def test_each_request_is_answered_by_one_whole_policy_or_its_connection_ends(tmp_path: Path) -> None:
    tally = soak(tmp_path, seconds=60, clients=8)
    assert tally.mistakes == []
    assert tally.answered > 0
    assert tally.kills > 1
    assert len(tally.served) > 2  # policies of several versions were run
