"""What was found out about a file's content, kept for the next run. It may be deleted at any time.

An entry is asked for by a digest of everything that decides it: the content, and what it was read with. Entries lie in 256
files, so that a run over three files reads three small ones. Each begins with a digest of this program's own state and of
the rest of the file: what another version wrote, or somebody else, or half, is not there. Whatever fails here fails
silently: the work is done without.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from policyctl import __version__

MAX_BYTES = 1024 * 1024  # of one file; what this run did not use is left out of one that would be larger
_PACKAGE = Path(__file__).parent.parent


class Cache:
    """Entries by key: plain values, as JSON has them. Without a folder it knows nothing and keeps nothing."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._state = "" if folder is None else program_state()
        self._parts: dict[str, dict[str, Any]] = {}
        self._used: set[str] = set()
        self._new: set[str] = set()  # parts that have entries which no file has

    def get(self, key: str) -> Any:
        """The entry of that key (hexadecimal digits); None when there is none."""
        if self._folder is None:
            return None
        part = self._parts.get(key[:2])
        if part is None:
            part = self._parts[key[:2]] = self._read(self._folder / key[:2])
        self._used.add(key)
        return part.get(key)

    def put(self, key: str, entry: Any) -> None:
        """Remember an entry that `get` did not have."""
        if self._folder is not None:
            self._parts[key[:2]][key] = entry
            self._new.add(key[:2])

    def save(self) -> None:
        """Write what is new, where that is possible."""
        if self._folder is None or not self._new:
            return
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _is_ours(self._folder):
                for name in self._new:
                    self._write(self._folder / name, self._parts[name])
        self._new.clear()

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            head, _, body = path.read_bytes().partition(b"\n")
            if head == self._head(body):
                entries: dict[str, Any] = json.loads(body)
                return entries
        except (OSError, ValueError, RecursionError):
            pass
        return {}

    def _write(self, path: Path, part: Mapping[str, Any]) -> None:
        """Replace a file in one step. It need not reach the disk: a cache that is lost is no loss."""
        body = json.dumps(part).encode()
        if len(body) > MAX_BYTES:
            body = json.dumps({key: entry for key, entry in part.items() if key in self._used}).encode()
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
        try:
            with open(descriptor, "wb") as stream:
                stream.write(self._head(body) + b"\n" + body)
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def _head(self, body: bytes) -> bytes:
        return hashlib.blake2b(self._state.encode() + body).hexdigest().encode()


def cache_folder(environ: Mapping[str, str]) -> Path | None:
    """Where the user's caches lie: never in the directory that is checked, which may be anybody's, or read-only."""
    base = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME", ""), ".cache")
    return Path(base, "policyctl") if os.path.isabs(base) else None


def program_state() -> str:
    """A text that changes with this program, its libraries and its Python."""
    return repr((__version__, sys.version, list(_installed()), list(_modules(_PACKAGE))))


def _installed() -> Iterator[tuple[str, int]]:
    """The directories that packages are installed in: each changes when one is."""
    for entry in sys.path:
        if entry.endswith("-packages"):
            with contextlib.suppress(OSError):
                yield entry, os.stat(entry).st_mtime_ns


def _modules(folder: str | Path) -> Iterator[tuple[str, int, int]]:
    for entry in os.scandir(folder):
        if entry.name.endswith(".py"):
            state = entry.stat()
            yield entry.path, state.st_mtime_ns, state.st_size
        elif entry.is_dir() and entry.name != "__pycache__":
            yield from _modules(entry.path)


def _is_ours(folder: Path) -> bool:
    """Whether nobody else can have written there."""
    state = folder.stat()
    return state.st_uid == os.geteuid() and not stat.S_IMODE(state.st_mode) & 0o022
