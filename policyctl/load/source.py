"""Files: read within bounds, as text and raw documents or one clear problem, and written whole or not at all.

Links, encodings and merge markers are checked first. A link in a checkout may lead to anything on this machine: a token, a key,
git's own directory. So it must stay within its directory or repository, also when it is written to, and no message quotes its
content.

JSON is parsed with `json`, not as YAML: YAML parsers refuse the surrogate pairs that JSON writes for emoji.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import stat
import threading
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from policyctl.errors import InvalidInput, Mark, PolicyctlError, Problem
from policyctl.load.git import repository_top
from policyctl.load.kinds import CONFIG_FILE, MAX_DEPTH, RawDocument, is_test_file
from policyctl.policy.findings import format_path
from policyctl.rules import RULES

if TYPE_CHECKING:
    from policyctl.load.kinds import RawDocument


def link_finding(path: Path, top: Path, what: str = "directory") -> str | None:
    """Why a link may not be followed; `top` is the resolved directory that it must stay in, `what` names it in the message."""
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
    """Why a link in a policy directory is not read: as `link_finding`, and links to directories are never followed."""
    complaint = link_finding(path, top)
    if complaint is None and path.is_dir():
        return "is a link to a directory, which is not followed; copy the directory instead"
    return complaint


def refuse_link(path: Path, outside: Path | None = None) -> None:
    """Raise InvalidInput if the path is, or contains, a link that leads out of its repository or into git's own directory.

    Outside a repository a link must stay in `outside`; without that it may lead anywhere, since the user named it.
    """
    top = repository_top(Path(os.path.abspath(path)).parent)
    within = top or (outside if path.is_symlink() else None)
    if within is not None and (complaint := link_finding(path, within.resolve(), "repository" if top else "directory")):
        raise InvalidInput([Problem(Mark(str(path)), "P008", complaint)])


def redact_linked(problems: Iterable[Problem]) -> list[Problem]:
    """These problems without any content of files that are links: the place stays, and the rule replaces the message."""
    return [_redact(problem) if os.path.islink(problem.mark.file) else problem for problem in problems]


def _redact(problem: Problem) -> Problem:
    if problem.code in ("P001", "P008"):  # these do not quote a file's content
        return problem
    rule = RULES[problem.code].name.replace("-", " ")
    return problem._replace(message=f"{rule} (the file is a link, so what it leads to is not shown)")


MAX_BYTES = 8 * 1024 * 1024
SUFFIXES = (".yaml", ".yml", ".json")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class Source(NamedTuple):
    """A file that was read: its name as given by the user, its text, its documents."""

    file: str
    text: str
    documents: list[RawDocument]


def read_source(path: Path) -> Source:
    """Read one file. Raises InvalidInput when it cannot be read or parsed, or is a link out of its repository."""
    refuse_link(path)
    try:
        return source_of(read_bytes(path), str(path))
    except InvalidInput as error:
        raise InvalidInput(redact_linked(error.problems)) from None


def is_lfs_pointer(content: bytes) -> bool:
    """Whether a file's content is only a pointer of Git LFS."""
    return content.startswith(_LFS_POINTER)


def source_of(content: bytes, file: str) -> Source:
    """A file's content as a source; `file` is its name, which decides about JSON, and about keys that are numbers.

    Raises InvalidInput as `read_source` does.
    """
    from policyctl.load.yaml import read_yaml

    if is_lfs_pointer(content):
        message = "is a pointer of Git LFS, not the file itself; run git lfs pull (actions/checkout: lfs: true)"
        raise InvalidInput([Problem(Mark(file), "P019", message)])
    text = _decode(content, file)
    if "<<<<<<<" in text or ">>>>>>>" in text:
        from policyctl.load.yaml_errors import conflict_in

        if (conflict := conflict_in(text, file)) is not None:
            raise InvalidInput([conflict])
    if file.endswith(".json"):
        return Source(file, text, read_json(text, file))
    return Source(file, text, read_yaml(text, file, number_keys=is_test_file(file)))


def read_bytes(path: Path | str) -> bytes:
    """The content of a file. Raises InvalidInput with one problem when it cannot be read."""
    file = str(path)
    try:
        # Opened without blocking, then checked: a pipe would block, and a device might never end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidInput([Problem(Mark(file), "P001", unreadable(path, error))]) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput([Problem(Mark(file), "P001", "is not a regular file; leave it out of the directory")])
        content = os.read(descriptor, min(status.st_size, MAX_BYTES) + 1)
        if len(content) != status.st_size:  # it is being written, or reports no size
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


def line_at(mark: Mark) -> str | None:
    """The line of a mark; None for a whole file, an unreadable one, a link, and the configuration.

    A line of policyctl.yaml may have a secret by mistake, and a link may lead to one.
    """
    if not mark.line or Path(mark.file).name == CONFIG_FILE or os.path.islink(mark.file):
        return None
    lines = _lines_of(mark.file)
    return lines[mark.line - 1] if mark.line <= len(lines) else None


@lru_cache(maxsize=1)  # problems are sorted by file
def _lines_of(file: str) -> list[str]:
    from policyctl.load.yaml import LINE_END

    try:
        return LINE_END.split(read_bytes(file).decode("utf-8-sig", errors="replace"))
    except InvalidInput:  # such as a file of a git revision
        return []


def unreadable(path: Path | str, error: OSError) -> str:
    """Why a file or directory cannot be read, and what to do."""
    if error.errno == errno.ENOENT:
        return (
            "is a link that leads nowhere; delete it" if os.path.islink(path) else "the file does not exist; correct the path"
        )
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


MAX_DUPLICATES = 100  # duplicate keys to locate, each by a search of the whole text; the others are counted


def read_json(text: str, file: str) -> list[RawDocument]:
    """The document of a JSON text. Raises InvalidInput with one problem when the text cannot be parsed."""
    twice: list[str] = []
    constants: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in items:
            if key in mapping:
                twice.append(key)
            mapping.setdefault(key, value)
        return mapping

    try:
        data = json.loads(text, object_pairs_hook=pairs, parse_constant=constants.append)  # NaN and Infinity become null
    except json.JSONDecodeError as error:
        raise InvalidInput([json_problem(error, file)]) from None
    except RecursionError:
        raise InvalidInput([_too_deep(file)]) from None
    except ValueError:  # an integer of more digits than Python converts
        raise InvalidInput([Problem(Mark(file, 1, 1), "P004", "a number has too many digits; shorten it")]) from None
    if _is_deep(data):
        raise InvalidInput([_too_deep(file)])
    problems = _duplicates(twice, text, file)
    problems += [
        Problem(_path_of(text, text.find(name), file), "P004", f"{name} is not a number in JSON; write one")
        for name in dict.fromkeys(constants)
    ]
    return [RawDocument(data, Mark(file, 1, 1), problems)]


def _is_deep(data: Any) -> bool:
    """Whether mappings and lists are nested more than `MAX_DEPTH` deep. Iterative, since recursion has its own limit."""
    level = [data]
    for _ in range(MAX_DEPTH + 1):
        level = [child for item in level for child in _children(item) if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _children(item: Any) -> Any:
    return item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()


def _too_deep(file: str) -> Problem:
    return Problem(Mark(file, 1, 1), "P005", f"nested more than {MAX_DEPTH} deep; flatten it")


def _duplicates(keys: list[str], text: str, file: str) -> list[Problem]:
    found = [
        Problem(_second(text, key, file), "P003", f"duplicate key {format_path(key)}; keep one")
        for key in keys[:MAX_DUPLICATES]
    ]
    if len(keys) > MAX_DUPLICATES:
        found.append(Problem(Mark(file, 1, 1), "P003", f"{len(keys) - MAX_DUPLICATES:,} more duplicate keys"))
    return found


def _second(text: str, key: str, file: str) -> Mark:
    """The second place of a duplicate key (the first if the two are spelled differently)."""
    written = json.dumps(key)
    first = text.find(written)
    second = text.find(written, first + 1)
    return _path_of(text, second if second >= 0 else max(first, 0), file)


def _path_of(text: str, position: int, file: str) -> Mark:
    position = max(position, 0)
    return Mark(file, text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position))


_WORDS = {"True": "true", "False": "false", "None": "null", "undefined": "null", "yes": "true", "no": "false"}
_SEPARATORS = {"Expecting ',' delimiter": "comma", "Expecting ':' delimiter": "colon"}


def json_problem(error: json.JSONDecodeError, file: str) -> Problem:
    """An error of the JSON parser as a problem."""
    position, message = _slip(error)
    return Problem(error_position(error.doc, position, file), "P002", message)


def error_position(text: str, position: int, file: str) -> Mark:
    """The mark of a position in a text."""
    position = max(position, 0)
    return Mark(file, text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position))


def _slip(error: json.JSONDecodeError) -> tuple[int, str]:
    text, at = error.doc, error.pos
    here, before = text[at : at + 1], text[:at].rstrip()
    if "trailing comma" in error.msg or (here in ("}", "]") and before.endswith(",")):  # Python 3.13 has its own message
        comma = at if here == "," else len(before) - 1
        return comma, "a comma is not allowed after the last item; remove it"
    if not text[at:].strip() and not error.msg.startswith("Unterminated"):
        return at, "the text ends too early; add the closing brackets and braces"
    if here == "\n" and error.msg.startswith("Invalid control character"):
        return text.rfind('"', 0, at), 'this " is not closed on its line; add the closing "'
    if here == "'":
        return at, 'JSON texts are in double quotes; write "'
    if here == "#" or text[at : at + 2] in ("//", "/*"):
        return at, "JSON has no comments; remove this one, or make the file YAML"
    return at, _message(error, text[at:])


def _message(error: json.JSONDecodeError, rest: str) -> str:
    if error.msg in _SEPARATORS:
        return f"a {_SEPARATORS[error.msg]} is missing before this; add it"
    if error.msg.startswith("Unterminated string"):
        return 'this " is never closed; add the closing "'
    if error.msg.startswith("Invalid control character"):
        return "a text cannot hold a control character; write a tab as \\t"
    if error.msg.startswith("Invalid \\"):
        return f"{rest[:2]} is not a JSON escape; write \\{rest[:2]}"
    if error.msg == "Extra data":
        return "the document ends above this; remove what follows, or move it to a file of its own"
    if error.msg.startswith("Expecting property name"):
        return "a JSON key must be in double quotes; quote it"
    word = next((word for word in _WORDS if rest.startswith(word)), None)
    if word:
        return f"{word} is not a value in JSON (write {_WORDS[word]})"
    return "this is not a value in JSON; write a number, a text in double quotes, true, false or null"


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
