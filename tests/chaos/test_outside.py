"""Real processes over a real proxy, with `kill -9`, SIGINT and SIGTERM, some of them between a commit and its answer."""

from __future__ import annotations

import pytest

from tests.chaos.figures import Figures
from tests.chaos.outside import run_outside

RUNS = 12  # every fate twice; twice as many by hand: `python -m tests.chaos.harness`


@pytest.mark.parametrize("seed", range(RUNS))
def test_whatever_strikes_a_real_apply_a_second_one_finishes(seed: int, chaos_figures: Figures) -> None:
    """A seed that fails can be run by itself: `python -m tests.chaos.harness --inside 0 --outside 1 --seed SEED`."""
    figures, found = run_outside(seed)
    chaos_figures.add(figures)
    assert found == [], f"outside, seed {seed}"
