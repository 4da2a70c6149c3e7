"""What was found out about a file's content, kept for the next run. It may be deleted at any time.

An entry is asked for by a digest of everything that decides it: the content, and what it was read with. Entries lie in 256
files, so that a run over three files reads three small ones. Each begins with a digest of this program's own state and of
the rest of the file: what another version wrote, or somebody else, or half, is not there. Whatever fails here fails
silently: the work is done without.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from policyctl import __version__
from policyctl.load.files import beside

ROOM = 65_536  # bytes of one file for what this run did not use; or three times what it did use, if that is more
_PACKAGE = Path(__file__).parent.parent


class Cache:
    """Entries by key, each one line of ASCII. Without a folder it knows nothing and keeps nothing."""

    def __init__(self, folder: Path | None = None) -> None:
        state = program_state() if folder is not None and _is_ours(folder) else None
        self._folder = None if state is None else folder
        self._state = state or ""
        self._parts: dict[str, dict[str, str]] = {}
        self._used: set[str] = set()
        self._new: set[str] = set()  # parts that have entries which no file has

    def get(self, key: str) -> str | None:
        """The entry of that key (hexadecimal digits); None when there is none."""
        if self._folder is None:
            return None
        part = self._parts.get(key[:2])
        if part is None:
            part = self._parts[key[:2]] = self._read(self._folder / key[:2])
        self._used.add(key)
        return part.get(key)

    def put(self, key: str, entry: str) -> None:
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
            for name in self._new:
                self._write(self._folder / name, self._parts[name])
        self._new.clear()

    def _read(self, path: Path) -> dict[str, str]:
        try:
            head, _, body = path.read_bytes().partition(b"\n")
            if head == self._head(body):
                lines = (line.partition(" ") for line in body.decode("ascii").splitlines())
                return {key: entry for key, _, entry in lines}
        except (OSError, ValueError):
            pass
        return {}

    def _write(self, path: Path, part: Mapping[str, str]) -> None:
        """Replace a file in one step. It need not reach the disk: a cache that is lost is no loss."""
        body = _body(part.items())
        if len(body) > ROOM:
            used = _body((key, entry) for key, entry in part.items() if key in self._used)
            body = used if len(body) - len(used) > max(ROOM, 3 * len(used)) else body
        with beside(path.parent, ".") as (stream, temporary):
            stream.write(self._head(body) + b"\n" + body)
            stream.flush()
            os.replace(temporary, path)

    def _head(self, body: bytes) -> bytes:
        return hashlib.blake2b(self._state.encode() + body).hexdigest().encode()


def _body(entries: Iterable[tuple[str, str]]) -> bytes:
    return "".join(f"{key} {entry}\n" for key, entry in entries).encode("ascii")


def cache_folder(environ: Mapping[str, str]) -> Path | None:
    """Where the user's caches lie: never in the directory that is checked, which may be anybody's, or read-only."""
    base = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME", ""), ".cache")
    return Path(base, "policyctl") if os.path.isabs(base) else None


def program_state(package: Path = _PACKAGE) -> str | None:
    """A text that changes with this program, its libraries and its Python; None where its files cannot be looked at."""
    try:
        return repr((__version__, sys.version, list(_installed()), list(_modules(package))))
    except OSError:
        return None


def _installed() -> Iterator[tuple[str, int]]:
    """The directories that packages are installed in: each changes when one is."""
    for entry in sys.path:
        if entry.endswith("-packages"):
            with contextlib.suppress(OSError):
                yield entry, os.stat(entry).st_mtime_ns


def _modules(folder: str | Path) -> Iterator[tuple[str, int, int]]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.endswith(".py"):
            state = entry.stat()
            yield entry.path, state.st_mtime_ns, state.st_size
        elif entry.is_dir() and entry.name != "__pycache__":
            yield from _modules(entry.path)


def _is_ours(folder: Path) -> bool:
    """Whether nobody else can have written there, or could: it is this user's own, or still to be made."""
    try:
        state = folder.stat()
    except OSError:
        return True
    return state.st_uid == os.geteuid() and not stat.S_IMODE(state.st_mode) & 0o022
