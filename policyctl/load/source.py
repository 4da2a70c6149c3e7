"""One file as text and raw documents. Whatever the file is, the outcome is documents or one clear problem."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from policyctl.errors import InvalidInput, Mark, Problem
from policyctl.load.json_text import read_json
from policyctl.load.yaml_text import RawDocument, read_yaml

MAX_BYTES = 8 * 1024 * 1024
SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True)
class Source:
    """A file that was read: its name as the user gave it, its text, its documents."""

    file: str
    text: str
    documents: list[RawDocument]


def read_source(path: Path) -> Source:
    """Read one file. Raises InvalidInput with one problem when it cannot be read or parsed."""
    return source_of(_read_bytes(path), str(path))


def source_of(content: bytes, file: str) -> Source:
    """A file's content as a source; `file` is its name, by which JSON is told. Raises InvalidInput as `read_source` does."""
    text = _decode(content, file)
    return Source(file, text, read_json(text, file) if file.endswith(".json") else read_yaml(text, file))


def _read_bytes(path: Path) -> bytes:
    file = str(path)
    try:
        # A pipe or a device would block or never end; opened without blocking, then asked what it is.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidInput([Problem(Mark(file), "P001", f"cannot be read: {error.strerror}")]) from None
    with open(descriptor, "rb", closefd=True) as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidInput([Problem(Mark(file), "P001", "is not a regular file; leave it out of the directory")])
        try:
            content = stream.read(MAX_BYTES + 1)
        except OSError as error:
            raise InvalidInput([Problem(Mark(file), "P001", f"cannot be read: {error.strerror}")]) from None
    if len(content) > MAX_BYTES:
        limit = MAX_BYTES // (1024 * 1024)
        raise InvalidInput([Problem(Mark(file), "P007", f"has more than {limit} MiB; split it")])
    return content


def _decode(content: bytes, file: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        mark = Mark(file, before.count(b"\n") + 1, len(before[before.rfind(b"\n") + 1 :].decode("utf-8-sig", "replace")) + 1)
        raise InvalidInput([Problem(mark, "P006", "is not UTF-8; save the file as UTF-8")]) from None
