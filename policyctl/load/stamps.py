"""What shows cheaply that files changed: their sizes and times."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from policyctl.load.kinds import CONFIG_FILE
from policyctl.load.source import SUFFIXES

Stamp = tuple[str, int, int, int]


def stamps(directory: Path, suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[Stamp]:
    """The stamps of the files below a directory, and of the configuration above it."""
    pending = [str(directory)]
    while pending:
        folder = pending.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=True) and not entry.name.startswith("."):
                pending.append(entry.path)
            elif entry.name.endswith(suffixes):
                yield stamp(entry.path)
    for above in (directory.absolute(), *directory.absolute().parents):
        yield stamp(str(above / CONFIG_FILE))


def stamp(path: str) -> Stamp:
    """The time, size and number of a file; zeros if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return path, 0, 0, 0
    return path, found.st_mtime_ns, found.st_size, found.st_ino
