"""The lines of files that problems are in, to show them."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path

from policyctl.errors import InvalidInput, Mark
from policyctl.load.kinds import CONFIG_FILE
from policyctl.load.source import read_bytes

_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # as YAML counts lines


def line_at(mark: Mark) -> str | None:
    """The line that a mark is in; None for a whole file, for one that cannot be read, for a link, and for the configuration.

    A line of policyctl.yaml may hold a secret that was written there by mistake, and a link may lead to one.
    """
    if not mark.line or Path(mark.file).name == CONFIG_FILE or os.path.islink(mark.file):
        return None
    lines = _lines(mark.file)
    return lines[mark.line - 1] if mark.line <= len(lines) else None


@lru_cache(maxsize=1)  # problems are sorted by file
def _lines(file: str) -> list[str]:
    try:
        return _LINE_END.split(read_bytes(file).decode("utf-8-sig", errors="replace"))
    except InvalidInput:  # such as a file of a git revision
        return []
