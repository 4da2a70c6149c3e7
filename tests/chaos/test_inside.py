"""Many seeded runs in this process: nothing is lost, doubled, leaked or reported wrongly."""

from __future__ import annotations

import pytest

from tests.chaos.figures import Figures
from tests.chaos.inside import run_inside
from tests.examples import examples

RUNS, IN_ONE_TEST = examples(64), 8  # 480 by hand: `python -m tests.chaos.harness`


@pytest.mark.parametrize("first", range(0, RUNS, IN_ONE_TEST))
def test_whatever_goes_wrong_on_the_line_every_run_ends_well(first: int, chaos_figures: Figures) -> None:
    """A seed that fails can be run by itself: `python -m tests.chaos.harness --inside 1 --outside 0 --seed SEED`."""
    for seed in range(first, first + IN_ONE_TEST):
        figures, found = run_inside(seed)
        chaos_figures.add(figures)
        assert found == [], f"inside, seed {seed}"
