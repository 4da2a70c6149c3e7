"""One file as text and raw documents. Whatever the file is, the outcome is documents or one clear problem."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from policyctl.errors import InvalidInput, Mark, Problem
from policyctl.load.conflicts import conflict_in
from policyctl.load.links import discreet, refuse_link

if TYPE_CHECKING:
    from policyctl.load.yaml_text import RawDocument

MAX_BYTES = 8 * 1024 * 1024
SUFFIXES = (".yaml", ".yml", ".json")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class Source(NamedTuple):
    """A file that was read: its name as the user gave it, its text, its documents."""

    file: str
    text: str
    documents: list[RawDocument]


def read_source(path: Path) -> Source:
    """Read one file. Raises InvalidInput with one problem when it cannot be read or parsed, or is a link that leads out of
    its repository."""
    refuse_link(path)
    try:
        return source_of(read_bytes(path), str(path))
    except InvalidInput as error:
        raise InvalidInput(discreet(error.problems)) from None


def source_of(content: bytes, file: str) -> Source:
    """A file's content as a source; `file` is its name, by which JSON is told. Raises InvalidInput as `read_source` does."""
    from policyctl.load.json_text import read_json  # with PyYAML behind it
    from policyctl.load.yaml_text import read_yaml

    if content.startswith(_LFS_POINTER):
        message = "is a pointer of Git LFS, not the file itself; run git lfs pull (actions/checkout: lfs: true)"
        raise InvalidInput([Problem(Mark(file), "P019", message)])
    text = _decode(content, file)
    if (conflict := conflict_in(text, file)) is not None:
        raise InvalidInput([conflict])
    return Source(file, text, read_json(text, file) if file.endswith(".json") else read_yaml(text, file))


def read_bytes(path: Path | str) -> bytes:
    """What a file holds. Raises InvalidInput with one problem when it cannot be read."""
    file = str(path)
    try:
        # A pipe or a device would block or never end; opened without blocking, then asked what it is.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidInput([Problem(Mark(file), "P001", unreadable(path, error))]) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput([Problem(Mark(file), "P001", "is not a regular file; leave it out of the directory")])
        content = os.read(descriptor, min(status.st_size, MAX_BYTES) + 1)
        if len(content) != status.st_size:  # it is being written, or tells no size
            with open(descriptor, "rb", closefd=False) as stream:
                content += stream.read(MAX_BYTES + 1 - len(content))
    except OSError as error:
        raise InvalidInput([Problem(Mark(file), "P001", unreadable(path, error))]) from None
    finally:
        os.close(descriptor)
    if len(content) > MAX_BYTES:
        limit = MAX_BYTES // (1024 * 1024)
        raise InvalidInput([Problem(Mark(file), "P007", f"has more than {limit} MiB; split it")])
    return content


def unreadable(path: Path | str, error: OSError) -> str:
    """Why a file or directory cannot be read, and what to do."""
    if error.errno == errno.ENOENT:
        return "is a link that leads nowhere; delete it" if os.path.islink(path) else "there is no such file; correct the path"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"cannot be read: {error.strerror}; change its permissions, or move it elsewhere"
    return f"cannot be read: {error.strerror}; move it elsewhere"


def _decode(content: bytes, file: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        which = "UTF-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "not UTF-8"
        mark = Mark(file, before.count(b"\n") + 1, len(before[before.rfind(b"\n") + 1 :].decode("utf-8-sig", "replace")) + 1)
        raise InvalidInput([Problem(mark, "P006", f"is {which}; save the file as UTF-8")]) from None
