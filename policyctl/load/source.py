"""One file as text and raw documents, or one clear problem: links, merge markers and encodings are checked first.

A link in a checkout may lead to anything that this machine holds: a token, a key, git's own directory. So it must stay in
its directory or repository, and no message quotes what it leads to.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from policyctl.errors import InvalidInput, Mark, Problem
from policyctl.load.git.place import repository_top
from policyctl.rules.catalogue import RULES

if TYPE_CHECKING:
    from policyctl.load.yaml import RawDocument


# Valid text can hold `=======` as a line, at the most; the other two say enough by themselves.
_ENDS = re.compile(r"^(?:<{7}|>{7})(?: .*)?\r?$", re.MULTILINE)
_ANY = re.compile(r"^(?:<{7}|>{7}|\|{7}|={7})(?: .*)?\r?$", re.MULTILINE)


def conflict_in(text: str, file: str) -> Problem | None:
    """The first conflict that a merge left in a text, or None. Also found where the text happens to be valid."""
    if "<<<<<<<" not in text and ">>>>>>>" not in text:
        return None
    first = _ENDS.search(text)
    if first is None:
        return None
    if first[0].startswith(">"):
        return _left_over(text, first, file)
    line = _line(text, first.start())
    end = next((found for found in _ENDS.finditer(text, first.end()) if found[0].startswith(">")), None)
    where = f"lines {line} to {_line(text, end.start())}" if end else f"line {line}"
    message = f"the merge conflict on {where} is not resolved; finish the merge: keep the right lines and delete the markers"
    return Problem(Mark(file, line, 1), "P002", message)


def left_over_marker(text: str, file: str) -> Problem | None:
    """A lone line of a merge conflict in a text that cannot be parsed, or None."""
    found = _ANY.search(text)
    return _left_over(text, found, file) if found else None


def _left_over(text: str, found: re.Match[str], file: str) -> Problem:
    marker = found[0][:7]
    message = f"this line, {marker}, is left over from a merge conflict; finish the merge: delete it"
    return Problem(Mark(file, _line(text, found.start()), 1), "P002", message)


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def link_finding(path: Path, top: Path, what: str = "directory") -> str | None:
    """Why a link may not be followed; `top` is the directory, all links resolved, that it must stay in, `what` its name."""
    try:
        target = path.resolve()
    except RuntimeError:  # Python before 3.13 refuses to resolve it
        return "is a link that leads back to itself; delete it"
    if not target.is_relative_to(top):
        return f"is a link that leads out of the {what}; copy the file instead"
    if ".git" in target.relative_to(top).parts:
        return "is a link into git's own directory; delete it"
    return None


def link_in_directory_finding(path: Path, top: Path) -> str | None:
    """The same for a link that was found in a policy directory: there those to directories are not followed."""
    complaint = link_finding(path, top)
    if complaint is None and path.is_dir():
        return "is a link to a directory, which is not followed; copy the directory instead"
    return complaint


def refuse_link(path: Path, outside: Path | None = None) -> None:
    """Raise InvalidInput for a path that a link, itself or on its way, leads out of the repository that it lies in, or into
    git's own directory.

    Outside a repository a link must stay in `outside`; without that it may lead anywhere, since a person named it.
    """
    top = repository_top(Path(os.path.abspath(path)).parent)
    within = top or (outside if path.is_symlink() else None)
    if within is not None and (complaint := link_finding(path, within.resolve(), "repository" if top else "directory")):
        raise InvalidInput([Problem(Mark(str(path)), "P008", complaint)])


def redact_linked(problems: Iterable[Problem]) -> list[Problem]:
    """These problems, without a word of the files that are links; each keeps its place, and its rule is named instead."""
    return [_redact(problem) if os.path.islink(problem.mark.file) else problem for problem in problems]


def _redact(problem: Problem) -> Problem:
    if problem.code in ("P001", "P008"):  # say nothing of what a file holds
        return problem
    rule = RULES[problem.code].name.replace("-", " ")
    return problem._replace(message=f"{rule} (the file is a link, so what it leads to is not shown)")


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
        raise InvalidInput(redact_linked(error.problems)) from None


def source_of(content: bytes, file: str) -> Source:
    """A file's content as a source; `file` is its name, by which JSON is told. Raises InvalidInput as `read_source` does."""
    from policyctl.load.json import read_json  # with PyYAML behind it
    from policyctl.load.yaml import read_yaml

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
