"""10,000 policies and 64 clients, with one kill and one start in the middle; `python -m tests.server.soak` is the long form."""

from __future__ import annotations

from pathlib import Path

from tests.server.soak import soak


def test_nothing_is_lost_doubled_or_made_up(tmp_path: Path) -> None:
    """What is stored in the end is what each client was answered last; a write that was cut off happened once or not at all."""
    result = soak(tmp_path, seconds=10)
    assert result.wrong == []
    assert all(0 < before < tally.writes for before, tally in zip(result.before, result.tallies, strict=True))
    assert result.stored > 9_000
