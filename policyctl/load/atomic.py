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
from policyctl.load.git.place import repository_top

STATE_FOLDER = ".policyctl"  # beside the policy directory: the embedded remotes of its environments

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def write_atomically(path: Path, content: str | bytes, *, inside: Path | None = None, private: bool = False) -> None:
    """Write a file so that a reader sees the old or the new content, never half, and the disk keeps one of them.

    A file that the user named may be a link, but one that lies in a repository, and so may have come with a branch, does not
    lead out of it. With `inside` the path is one that policyctl found or made up, and
    no link may lead it out of that directory. A `private` file is for its owner alone; any other keeps its mode, or gets
    the one that the umask leaves. Raises PolicyctlError when it cannot be written; then the old file is as it was.
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
        _keep_name(target.parent)
    except OSError as error:
        raise PolicyctlError(f"{path} cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def temporary_beside(folder: Path, prefix: str) -> Iterator[tuple[BinaryIO, str]]:
    """A new file of mode 0600 in a folder, open to be written, and its path. It is removed unless it was renamed meanwhile.

    A signal that comes meanwhile is put off, so that whatever ends the process leaves nothing behind. Raises OSError.
    """
    import tempfile  # with half a dozen modules behind it, which a run that writes nothing does not need

    with _signals_put_off():
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=prefix)
        try:
            with open(descriptor, "wb") as stream:
                yield stream, temporary
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


@contextlib.contextmanager
def _signals_put_off() -> Iterator[None]:
    """Let signals that end a process do so when this is over. Elsewhere than in the main thread, Python handles none."""
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
    """A file's content. Raises OSError also for more than `most` bytes, so that neither a device nor a mistake fills memory."""
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "no file has such a name")
    with open(path, "rb") as stream:
        return bounded(stream.read(most + 1), most)


def bounded(content: bytes, most: int) -> bytes:
    """What a file holds. Raises OSError for more than `most` bytes."""
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes")
    return content


def raise_if_led_out(path: Path) -> None:
    """Raise PolicyctlError where a link on the way to a file leads out of the repository that the path is in: a commit may
    have brought it."""
    absolute = path.absolute()
    top = repository_top(Path(os.path.normpath(absolute)).parent)
    if top is not None and not absolute.resolve().is_relative_to(top.resolve()):
        raise PolicyctlError(f"{path} cannot be written: a link leads out of the repository {top}; remove it")


def make_folder(path: Path) -> None:
    """Make a directory and those above it where they are missing. Raises PolicyctlError when it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PolicyctlError(f"{path} cannot be made: {error.strerror}") from None


def make_state_folder(path: Path) -> None:
    """Make the directory of an embedded remote. The one that policyctl made up tells Git that nothing in it is to be kept."""
    is_new = path.name == STATE_FOLDER and not path.exists()
    make_folder(path)
    if is_new:
        write_atomically(path / ".gitignore", "*\n")


def _target(path: Path, inside: Path | None) -> Path:
    """The file that is written, with links followed as far as they may be."""
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
        raise PolicyctlError(f"{path} cannot be written: it is there and is no regular file; choose another")
    return target


def _keep_name(folder: Path) -> None:
    """Ask the disk to keep what a directory's names lead to; file systems that cannot be asked do it by themselves."""
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
