"""The rows that the benchmarks end with, and where they are written down."""

from __future__ import annotations

import os
import platform
from typing import NamedTuple

from tests.readme_blocks import EVIDENCE


class Row(NamedTuple):
    """A line of the table: the work, what is asked of it in words, what was measured in words, and whether that is met.

    `met` is None where the machine does not allow to see it.
    """

    work: str
    goal: str
    measured: str
    met: bool | None
    seconds: float | None = None
    megabytes: float | None = None

    @property
    def verdict(self) -> str:
        """The cell of the column `met`."""
        return "cannot be seen here" if self.met is None else "yes" if self.met else "**no**"


def machine() -> dict[str, str | int | None]:
    """What the figures depend on."""
    return {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def described(found: dict[str, str | int | None]) -> str:
    """A machine in a few words."""
    return f"{found['cores']} cores ({found['processor']}, {found['system']}), Python {found['python']}"


def replaced(page: str, mark: str, text: str) -> str:
    """A page with this text between `<!-- mark -->` and `<!-- /mark -->`. Raises ValueError if it does not have both once."""
    begin, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}{text}\n{end}{after}"


def write_evidence(mark: str, text: str) -> None:
    """Put a benchmark's table into the manual's page. Raises ValueError if its marks are not there."""
    EVIDENCE.write_text(replaced(EVIDENCE.read_text("utf-8"), mark, text), "utf-8")
