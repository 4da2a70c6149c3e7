"""The embedded remote: a store in one SQLite file, and the lock that lets one apply at a time write to it.

Every write is one transaction in SQLite's rollback journal, so two processes may write at once and a killed one leaves the rows
as they were or as they were to be. Format 1 has the policies; format 2 adds the virtual models; format 3 holds their secrets as
`***` only, and several models of one name where it holds several policies of one name. A file of an earlier format is read as
it is and brought to this one by its first write. Tables of other documents are made when they are first needed.

The lock is the operating system's (flock) on a file beside the database, `<database>.lock`, with one line of JSON: who took it
and when. It is released when its holder dies: a row in the database would outlive its writer, and closing the database file a
second time would drop SQLite's own locks. The file stays; only the lock on it counts. Each write is bound to the version of its
row anyway; the lock keeps two applies from mixing.
"""

# ruff: noqa: S608 - tables and columns are named by this package alone, and values are bound

from __future__ import annotations

import json
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from policyctl.errors import Refused, RemoteError
from policyctl.load.git import repository_top
from policyctl.load.source import STATE_FOLDER, make_state_folder
from policyctl.policy.model_settings import masked
from policyctl.remote.store import UNIQUE_KINDS, Columns, QuotaReached, Store, StoreReader, taken

APPLICATION_ID = 0x706C6379  # "plcy" in the file's header: this is a policyctl database and nothing else
VERSION = 3
BUSY_SECONDS = 10.0
POLL = 0.1  # seconds between two tries to take the lock
_LONGEST_LOCK = 4096  # bytes of the file to read


class SqliteReader(StoreReader):
    """Reads an embedded remote. A missing file reads as empty and is not created."""

    database: SqliteFile

    def __init__(self, path: Path, *, models: bool = False) -> None:
        """With `models` virtual models are rows too, beside policies."""
        super().__init__(SqliteFile(path, writable=False), embedded=True, models=models)


class SqliteRemote(Store):
    """Reads and writes an embedded remote; a missing file or directory is created."""

    database: SqliteFile

    def __init__(
        self,
        path: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        unique_names: bool = True,
        busy_seconds: float = BUSY_SECONDS,
        models: bool = False,
    ) -> None:
        database = SqliteFile(path, writable=True, unique_names=unique_names, busy_seconds=busy_seconds)
        self.path = database.path
        super().__init__(database, now, embedded=True, models=models)


@dataclass(frozen=True, slots=True)
class LockWait:
    """How many seconds to wait for the lock; clocks and sleep can be replaced in tests."""

    seconds: float
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time


@contextmanager
def apply_lock(database: Path, command: str, waiting: LockWait, status: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a database, for `command`. While waiting, `status` is called once with the current holder.

    Raises Refused if the lock is not free in time, RemoteError if its file cannot be created.
    """
    descriptor = _open_lock(database)
    try:
        _wait_for_lock(descriptor, database, waiting, status)
        _sign(descriptor, command, waiting.now())
        yield
    finally:
        os.close(descriptor)  # releases the lock, as the end of the process does


def _wait_for_lock(descriptor: int, database: Path, waiting: LockWait, status: Callable[[str], None]) -> None:
    end, shown = waiting.clock() + waiting.seconds, False
    while not _lock(descriptor):
        if waiting.clock() >= end:
            raise Refused(
                f"{database} is being written by {_holder(descriptor, waiting.now())}; nothing was written, "
                "try again when that is done, or wait longer with apply --lock-timeout"
            )
        waiting.sleep(POLL)
        if not shown:  # after the first wait, so that a new holder has signed the file
            status(f"waiting up to {waiting.seconds:g} s for {_holder(descriptor, waiting.now())}")
            shown = True


def _lock(descriptor: int) -> bool:
    import fcntl  # imported where a lock is taken, as is what follows: a plan takes none

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise RemoteError(
            f"the lock of apply cannot be taken: {error.strerror} (does the file system support locking?)"
        ) from None
    return True


def _open_lock(database: Path) -> int:
    path = settled(database)  # one lock for all paths of the file
    path = path.with_name(f"{path.name}.lock")
    make_state_folder(path.parent)
    try:
        # Without blocking, and only a regular file: opening a pipe would block.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        raise RemoteError(f"{path}, the lock of apply, cannot be created: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RemoteError(f"{path}, the lock of apply, is not a regular file; remove it")
    return descriptor


def _sign(descriptor: int, command: str, now: float) -> None:
    """Write the holder into the file; on a full disk the lock is held without it."""
    import socket

    owner = {"owner": user_name(), "host": socket.gethostname(), "pid": os.getpid(), "command": command, "since": now}
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode() + b"\n", 0)


def _holder(descriptor: int, now: float) -> str:
    """`user@host, pid 123 (policyctl apply, begun 12 s ago)`, if the file has it in printable text."""
    try:
        found = json.loads(os.pread(descriptor, _LONGEST_LOCK, 0))
        age = max(0, now - found["since"])
        holder = f"{found['owner']}@{found['host']}, pid {found['pid']} ({found['command']}, begun {age:.0f} s ago)"
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError, OSError):
        return "another policyctl"
    return holder if holder.isprintable() else "another policyctl"


def user_name() -> str:
    """The name of the user who runs this program."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # an id without a name, as containers have
        return f"uid {os.getuid()}"


_JOURNALS = ("-journal", "-wal", "-shm")
_IN_ONE_QUERY = 500

# Whether names are unique is decided when a file is created, and recorded by this constraint.
_TABLE = """
CREATE TABLE IF NOT EXISTS {kind} (
    id         TEXT PRIMARY KEY,
    {column}   TEXT NOT NULL {unique},
    document   TEXT NOT NULL,
    created_on TEXT NOT NULL,
    updated_at TEXT NOT NULL
) WITHOUT ROWID
"""


class SqliteFile:
    """One connection to one file, used by one thread at a time. Only the first write creates a missing file.

    `path` is resolved. `unique_names` makes a new file refuse a second policy of one name; an existing file keeps its rule.
    """

    def __init__(self, path: Path, *, writable: bool, unique_names: bool = True, busy_seconds: float = BUSY_SECONDS) -> None:
        self.path = settled(path)
        self.identity = f"sqlite:///{self.path}"
        self._busy_seconds = busy_seconds
        self._writable = writable
        self._unique_names = unique_names
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    @contextmanager
    def reading(self) -> Iterator[SqliteRows | None]:
        """The rows, to read; None without a file or in an empty one.

        A writer reads through its own connection, so that it sees its writes.
        """
        with self._lock, self._plain_errors():
            if self._connection is None and self._is_there():
                self._connection = self._open("rw") if self._writable else self._open("rw", "PRAGMA query_only = ON")
            connection = self._connection
            yield None if connection is None or _is_blank(connection) else SqliteRows(connection)

    @contextmanager
    def writing(self) -> Iterator[SqliteRows]:
        """One transaction: whole or not at all, whatever happens to this process."""
        if not self._writable:
            raise RemoteError(f"{self.path} was opened for reading")
        with self._lock, self._plain_errors():
            if self._connection is None:
                if not self._is_there():
                    self._make_file()
                self._connection = self._open("rw")
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._bring_up_to_date(connection)
                yield SqliteRows(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def names_are_unique(self) -> bool:
        """Whether this file (or the one that would be created) refuses a second policy of one name."""
        with self.reading() as rows:
            return self._unique_names if rows is None else _refuses_twins(rows.connection)

    def prepare(self) -> None:
        """Nothing: the first write makes the file."""

    def check(self) -> None:
        """Raise RemoteError unless the file can be read."""
        with self.reading():
            pass

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self, mode: str, *pragmas: str) -> sqlite3.Connection:
        """Connect and check whose database this is.

        Reading opens read-write with `query_only`: a file that a killed writer left in mid-write must be rolled back
        before it can be read. Where the file cannot be opened so (read-only disk), it is opened read-only.
        """
        try:
            connection = self._connect(mode)
        except sqlite3.OperationalError:
            if mode != "rw":
                raise
            connection = self._connect("ro")
        for pragma in pragmas:
            connection.execute(pragma)
        self._check(connection)
        return connection

    def _connect(self, mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode={mode}",
            uri=True,
            timeout=self._busy_seconds,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA schema_version")  # the first actual read of the file
        return connection

    def _check(self, connection: sqlite3.Connection) -> None:
        # In this order: a file that another process creates gets its tables and its mark at once.
        if not _is_blank(connection) and connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise RemoteError(f"{self.path} is a database of another program; choose another file")
        if (version := _version(connection)) > VERSION:
            raise RemoteError(f"{self.path} is from a newer policyctl (format {version}); update policyctl")

    def _bring_up_to_date(self, connection: sqlite3.Connection) -> None:
        if _is_blank(connection):
            make_table(connection, "policy", "canonical", unique=self._unique_names)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        version = _version(connection)
        if version == 2:
            connection.execute("ALTER TABLE model RENAME TO model_of_format_2")
        if version < VERSION:
            make_table(connection, "model", "name", unique=_refuses_twins(connection))
            connection.execute(f"PRAGMA user_version = {VERSION}")
        if version == 2:
            _move_models(connection)

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        """SQLite's errors in plain words."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise RemoteError(f"{self.path}: {_explain(error)}") from None

    def _is_there(self) -> bool:
        """Whether the file exists. SQLite would wait for a pipe for ever, and treat a device as an empty database."""
        try:
            there = self.path.exists()
        except OSError as error:
            raise RemoteError(f"{self.path}: {error.strerror}") from None
        if there and not self.path.is_file():
            raise RemoteError(f"{self.path} is not a regular file; choose another")
        return there

    def _make_file(self) -> None:
        """Create an empty file for its owner alone, since models have provider settings; the journal gets its mode."""
        make_state_folder(self.path.parent)
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            if not self._is_there():  # a read-only file fails at its first write
                raise RemoteError(f"{self.path} cannot be created: {error.strerror}") from None


class SqliteRows:
    """The rows of all tables of a file, within one read or one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def select(self, kind: str, by: Literal["id", "name"] | None = None, values: Collection[str] = ()) -> list[Columns]:
        """See `Rows`."""
        if not self._has_table(kind):
            return []
        name = _name_column(kind)
        query = f"SELECT id, document, created_on, updated_at, {name}, updated_at FROM {kind}"
        # Fetched at once: a query left unfinished, because a row cannot be read, would keep the file locked.
        if by is None:
            return [Columns(*row) for row in self.connection.execute(f"{query} ORDER BY {name}").fetchall()]
        column, ordered, found = "id" if by == "id" else name, sorted(values), list[Columns]()
        for start in range(0, len(ordered), _IN_ONE_QUERY):
            some = ordered[start : start + _IN_ONE_QUERY]
            where = f"WHERE {column} IN ({','.join('?' * len(some))}) ORDER BY {name}"
            found += [Columns(*row) for row in self.connection.execute(f"{query} {where}", some).fetchall()]
        return found

    def count(self, kind: str) -> int:
        """See `Rows`."""
        if not self._has_table(kind):
            return 0
        return int(self.connection.execute(f"SELECT count(*) FROM {kind}").fetchone()[0])

    def insert(self, kind: str, row: Columns, most: int | None = None) -> Columns:
        """See `Rows`."""
        if kind not in ("policy", "model"):
            make_table(self.connection, kind, "name", unique=kind in UNIQUE_KINDS)
        if most is not None and (stored := self.count(kind)) >= most:
            raise QuotaReached(stored)
        columns = f"id, document, created_on, updated_at, {_name_column(kind)}"
        try:
            self.connection.execute(f"INSERT INTO {kind} ({columns}) VALUES (?, ?, ?, ?, ?)", row[:5])
        except sqlite3.IntegrityError:
            raise taken(kind, row.name) from None
        return row._replace(version=row.updated_at)

    def update(self, kind: str, stored: Columns, row: Columns) -> Columns:
        """See `Rows`. No other writer can be there first: it would wait for this transaction."""
        query = f"UPDATE {kind} SET {_name_column(kind)} = ?, document = ?, updated_at = ? WHERE id = ?"
        try:
            self.connection.execute(query, (row.name, row.document, row.updated_at, stored.id))
        except sqlite3.IntegrityError:
            raise taken(kind, row.name) from None
        return row._replace(version=row.updated_at)

    def delete(self, kind: str, stored: Columns) -> bool:
        """See `Rows`."""
        self.connection.execute(f"DELETE FROM {kind} WHERE id = ?", (stored.id,))
        return True

    def _has_table(self, name: str) -> bool:
        """Whether the file has that table: an earlier format has fewer, and some are made when they are first needed."""
        query = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?"
        return bool(self.connection.execute(query, (name,)).fetchone()[0])


def _name_column(kind: str) -> str:
    return "canonical" if kind == "policy" else "name"


def make_table(connection: sqlite3.Connection, kind: str, column: str, *, unique: bool) -> None:
    """Make a table unless there is one: its rows have an id, a document, two times, and a name in that column."""
    connection.execute(_TABLE.format(kind=kind, column=column, unique="UNIQUE" if unique else ""))
    if not unique:
        connection.execute(f"CREATE INDEX IF NOT EXISTS {kind}_{column} ON {kind} ({column})")


def _refuses_twins(connection: sqlite3.Connection) -> bool:
    """Whether the file refuses a second policy of one name."""
    found = connection.execute("SELECT count(*) FROM pragma_index_list('policy') WHERE \"unique\" AND origin = 'u'")
    return bool(found.fetchone()[0])


def _move_models(connection: sqlite3.Connection) -> None:
    """Move the models of format 2, without the secrets that it kept; what their pages held is overwritten."""
    connection.execute("PRAGMA secure_delete = ON")
    for identifier, name, document, *times in connection.execute("SELECT * FROM model_of_format_2").fetchall():
        try:
            hidden = json.dumps(masked(json.loads(document)))
        except (ValueError, TypeError, RecursionError):  # not a document of policyctl's: kept, and read as a name alone
            hidden = document
        connection.execute("INSERT INTO model VALUES (?, ?, ?, ?, ?)", (identifier, name, hidden, *times))
    connection.execute("DELETE FROM model_of_format_2")
    connection.execute("DROP TABLE model_of_format_2")


def settled(path: Path) -> Path:
    """The file that a path leads to, links followed.

    Links in a repository are refused: a commit may have brought them, and its author would choose which database is written.
    Raises RemoteError for such a link, and for a journal of the database that is a link or in git, since SQLite applies a
    journal before it reads.
    """
    named = Path(os.path.abspath(path))
    real = Path(os.path.realpath(named))
    if os.path.islink(real):
        raise RemoteError(f"{path} is a link that leads back to itself; remove it")
    top = _top(named)
    if top is not None and real != top.resolve() / named.relative_to(top):
        raise RemoteError(f"{path} is a link, or below one, in the repository {top}; remove the link, or choose another file")
    for journal in (real.with_name(f"{real.name}{end}") for end in _JOURNALS):
        if os.path.islink(journal) or (top is not None and os.path.lexists(journal) and _is_in_git(top.resolve(), journal)):
            raise RemoteError(f"{journal} is a link, or in git, which a database journal must not be; remove it")
    return real


def _top(path: Path) -> Path | None:
    """The top of the repository around a path as written. A link in another repository is not a top of its own."""
    folder = path.parent.parent if path.parent.name == STATE_FOLDER else path.parent
    top = repository_top(folder)
    while top is not None and top.is_symlink() and (above := repository_top(top.parent)) is not None:
        top = above
    return top


def _is_in_git(top: Path, file: Path) -> bool:
    from policyctl.load.git.repository import find_repository  # imports subprocess

    repository = find_repository(top)
    return repository is not None and bool(repository.output("ls-files", "-z", "--", file.relative_to(top).as_posix()))


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _is_blank(connection: sqlite3.Connection) -> bool:
    """Whether the file has no table yet."""
    return bool(connection.execute("SELECT count(*) = 0 FROM sqlite_schema").fetchone()[0])


def _explain(error: sqlite3.DatabaseError) -> str:
    text = str(error)
    if "locked" in text:
        return "the database is still locked by another program; try again later"
    if "readonly" in text:
        return "the database is read-only; make it writable, or choose another remote"
    if "malformed" in text or "not a database" in text:
        return "this is not an intact SQLite database; restore it from a backup, or move it away to start afresh"
    if "unable to open" in text or "disk I/O" in text:
        return f"the database cannot be opened or used ({text}); check the path, its permissions and the disk"
    return f"the database failed: {text}"
