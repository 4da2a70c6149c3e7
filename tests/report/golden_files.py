"""Texts that are kept as files, and held against what is printed."""

from __future__ import annotations

import os
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"
WRITE = os.environ.pop("POLICYCTL_WRITE_GOLDEN", "") == "1"


def same(name: str | Path, text: str) -> None:
    """Hold a text against its file, or write the file anew where that is asked for."""
    path = GOLDEN / name
    if WRITE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")
