"""How long tests wait for what must come. It only has what hangs fail with its own message: nothing takes that long."""

from __future__ import annotations

LONGEST = 240.0  # seconds; the limit of a whole test, in pyproject.toml, is longer
