"""Seeded runs of models and policies in one plan, with every fault of the catalogue."""

from __future__ import annotations

import pytest

from tests.chaos.mixed import run_mixed

RUNS = 24


@pytest.mark.parametrize("first", range(0, RUNS, 8))
def test_whatever_goes_wrong_no_policy_is_without_its_models(first: int) -> None:
    for seed in range(first, first + 8):
        assert run_mixed(seed) == [], f"mixed, seed {seed}"
