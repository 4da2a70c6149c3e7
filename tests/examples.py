"""How many random examples a test tries: enough for every run, and more of them when they are asked for.

`TEST_EXAMPLES=10 pytest` tries ten times as many: after a change of what they test, and before a release. The inner loop,
`pytest -m "not slow"`, tries a tenth (tests/conftest.py): what that misses is found in CI.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest

USUAL = 50  # of a test that states no number
FEW = "0.1"  # in the inner loop


def examples(count: int) -> int:
    """The number to try where `count` are enough for every run; at least one."""
    return max(1, round(count * float(os.environ.get("TEST_EXAMPLES", "1"))))


def crossed(*values: Iterable[Any]) -> list[Any]:
    """Every combination of these values, as parameters of a test. The inner loop tries each value once, in the order in which
    they are; CI tries all combinations."""
    every = [list(some) for some in values]
    once = range(max(map(len, every)))
    chosen = {tuple(number % len(some) for some in every) for number in once}
    return [
        pytest.param(*(one for _, one in combined), marks=() if tuple(at for at, _ in combined) in chosen else pytest.mark.slow)
        for combined in product(*map(enumerate, every))
    ]
