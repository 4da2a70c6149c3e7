"""Reading files within bounds, and writing them whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from policyctl.errors import PolicyctlError
from policyctl.load.git import repository_top

STATE_FOLDER = ".policyctl"  # beside the policy directory: the embedded remotes of its environments

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def write_atomically(path: Path, content: str | bytes, *, inside: Path | None = None, private: bool = False) -> None:
    """Write a file so that a reader sees either the old or the new content, also after a crash.

    The path may be a link, but in a repository, where a branch may have brought it, it must not lead out of that repository.
    `inside` is the directory that a path chosen by policyctl must stay in. A `private` file is for its owner alone; any other
    keeps its mode, or gets the usual one. Raises PolicyctlError when it cannot be written; the old file is then unchanged.
    """
    try:
        target = _target(path, inside)
        with temporary_beside(target.parent, f".{target.name[:100]}.") as (stream, temporary):
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            if not private:
                os.fchmod(stream.fileno(), target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
            os.fsync(stream.fileno())
            os.replace(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise PolicyctlError(f"{path} cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def temporary_beside(folder: Path, prefix: str) -> Iterator[tuple[BinaryIO, str]]:
    """A new file of mode 0600 in a folder, open for writing, and its path. It is removed at the end unless it was renamed.

    Signals are deferred meanwhile, so that a process that they end leaves no file behind. Raises OSError.
    """
    import tempfile  # imports six modules, which only writing needs

    with _deferred_signals():
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=prefix)
        try:
            with open(descriptor, "wb") as stream:
                yield stream, temporary
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


@contextlib.contextmanager
def _deferred_signals() -> Iterator[None]:
    """Defer signals that end the process until the end. Python only handles signals in the main thread."""
    caught: list[int] = []
    mine = threading.current_thread() is threading.main_thread()
    handled = [number for number in _ENDING if mine and signal.getsignal(number) not in (None, signal.SIG_IGN)]
    previous = {number: signal.signal(number, lambda came, _: caught.append(came)) for number in handled}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for came in caught:
            signal.raise_signal(came)


def read_bounded(path: Path, most: int) -> bytes:
    """A file's content. Raises OSError also for more than `most` bytes, so that a device cannot fill the memory."""
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "a file name cannot contain a null byte")
    with open(path, "rb") as stream:
        return bounded(stream.read(most + 1), most)


def bounded(content: bytes, most: int) -> bytes:
    """The content itself. Raises OSError for more than `most` bytes."""
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes")
    return content


def raise_if_led_out(path: Path) -> None:
    """Raise PolicyctlError if a link in the path leads out of the repository that it is in: a commit may have brought it."""
    absolute = path.absolute()
    top = repository_top(Path(os.path.normpath(absolute)).parent)
    if top is not None and not absolute.resolve().is_relative_to(top.resolve()):
        raise PolicyctlError(f"{path} cannot be written: a link leads out of the repository {top}; remove it")


def make_folder(path: Path) -> None:
    """Create a directory and its missing parents. Raises PolicyctlError on failure."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PolicyctlError(f"{path} cannot be created: {error.strerror}") from None


def state_folder(directory: Path) -> Path:
    """Where policyctl keeps what is not in Git: beside the policy directory. See `make_state_folder`."""
    return Path(os.path.abspath(directory)).parent / STATE_FOLDER


def make_state_folder(path: Path) -> None:
    """Create the directory of an embedded remote. The default one gets a .gitignore for all its files."""
    is_new = path.name == STATE_FOLDER and not path.exists()
    make_folder(path)
    if is_new:
        write_atomically(path / ".gitignore", "*\n")


def _target(path: Path, inside: Path | None) -> Path:
    """The file to write, with allowed links followed."""
    try:
        target = path.resolve() if inside is not None or path.is_symlink() else path
        top = None if inside is None else inside.resolve()
    except RuntimeError:  # Python before 3.13 refuses to resolve a link that leads back to itself
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
    if top is None:
        raise_if_led_out(path)
    elif not target.is_relative_to(top):
        raise PolicyctlError(f"{path} cannot be written: a link leads out of {inside}; remove it")
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        raise PolicyctlError(f"{path} cannot be written: it is not a regular file; choose another")
    return target


def _sync_folder(folder: Path) -> None:
    """Flush a directory's entries to the disk; file systems that do not support this do it themselves."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
