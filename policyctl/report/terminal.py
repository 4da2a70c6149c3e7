"""How text looks on one stream: its colours, and how wide it may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from policyctl.errors import Severity

SEVERITIES: dict[Severity, str] = {"error": "red", "warning": "yellow", "info": "cyan"}  # the worst first
_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Style(NamedTuple):
    """Paints text, or leaves it alone. `width` is the terminal's, in columns; None where there is none.

    Only excerpts of files are cut to that width. Everything else is left for the terminal to wrap.
    """

    on: bool = False
    width: int | None = None

    def paint(self, text: str, *looks: str) -> str:
        """The text in these looks (see `_CODES`); unchanged when colour is off."""
        if not self.on or not looks:
            return text
        return f"\x1b[{';'.join(_CODES[look] for look in looks)}m{text}\x1b[0m"


def wants_colour(choice: str, is_terminal: bool, environ: Mapping[str, str]) -> bool:
    """Whether to colour one stream: the user's choice, then NO_COLOR, FORCE_COLOR, TERM=dumb, then whether it is a terminal."""
    if choice != "auto":
        return choice == "always"
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR") or environ.get("CLICOLOR_FORCE"):
        return True
    return is_terminal and environ.get("TERM") != "dumb" and environ.get("CLICOLOR") != "0"
