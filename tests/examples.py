"""How many random examples a test tries: enough for every run, and more of them when they are asked for.

`TEST_EXAMPLES=10 pytest` tries ten times as many: after a change of what they test, and before a release. The inner loop,
`pytest -m "not slow"`, tries a tenth (tests/conftest.py): what that misses is found in CI.
"""

from __future__ import annotations

import os

USUAL = 50  # of a test that states no number
FEW = "0.1"  # in the inner loop


def examples(count: int) -> int:
    """The number to try where `count` are enough for every run; at least one."""
    return max(1, round(count * float(os.environ.get("TEST_EXAMPLES", "1"))))
