"""What the real gateway was recorded doing, by case."""

from __future__ import annotations

import json
from pathlib import Path

DATA = Path(__file__).parent / "data"
CASES, SHARES, BACKOFF = (
    {case["id"]: case for case in json.loads((DATA / f"{name}.json").read_text("utf-8"))}
    for name in ("cases", "shares", "backoff")
)
