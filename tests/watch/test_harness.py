"""The harness in small: every edit is shown and put back, nothing else is, and a kill doubles nothing."""

from __future__ import annotations

import pytest

from tests.watch.harness import measured


@pytest.mark.slow
def test_edits_of_forty_tenants_are_shown_and_put_back_also_over_a_kill() -> None:
    found = measured(environments=40, interval=1, seconds=0, edits=6)
    assert (found.noticed, found.alarms) == (6, 0)
    assert (found.healed, found.twice) == (found.killed, 0)
