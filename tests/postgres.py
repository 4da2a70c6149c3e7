"""A PostgreSQL server of the tests' own, on a free port of this machine: started, crashed and started again."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psycopg

from tests.patience import LONGEST

_READY = "database system is ready to accept connections"
_TRIES = 60  # to start
# Every role is let in without a password, except one.
GUARDED, PASSWORD = "guarded", "correct-horse"
_ACCESS = f"host all {GUARDED} 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"


@cache
def programs() -> Path | None:
    """The folder of PostgreSQL's programs; None where they are not installed."""
    if (config := shutil.which("pg_config")) is not None:
        folder = Path(subprocess.run([config, "--bindir"], capture_output=True, text=True, check=True).stdout.strip())
        if (folder / "postgres").exists():
            return folder
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    return found[-1].parent if found else None


class PostgresServer:
    """A server and its data directory. It answers once `start` has returned."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        """`durable` has it wait for its disk, so that it can be crashed; otherwise it is quick."""
        self._data = folder / "data"
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "100",
            "fsync": "on" if durable else "off",
            "synchronous_commit": "on" if durable else "off",
            "full_page_writes": "on" if durable else "off",
            "autovacuum": "on" if durable else "off",
        }
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            user = next(user for user in pwd.getpwall() if user.pw_name in ("postgres", "nobody"))
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()}
            os.chown(folder, user.pw_uid, user.pw_gid)
        self._process: subprocess.Popen[str] | None = None
        self._numbers = itertools.count(1)
        self._held = socket.socket()  # keeps the port while nothing runs there: another process might be given it
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL does, so that it may listen there
        self._held.bind(("127.0.0.1", 0))
        self.port = self._held.getsockname()[1]
        self._run("initdb", "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", self._data)
        (self._data / "pg_hba.conf").write_text(_ACCESS)

    def url(self, database: str = "postgres", *, user: str = "postgres") -> str:
        """The URL of a database."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The name of a new, empty database."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} STRATEGY file_copy")
        return name

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """What a statement returns, sent behind policyctl's back."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start it, once what an earlier one left behind is gone."""
        settings = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._program("postgres")), "-D", str(self._data), "-p", str(self.port), *settings]
        if setpriv := shutil.which("setpriv"):  # not to outlive tests that are killed
            command = [setpriv, "--pdeathsig", "QUIT", *command]
        for _ in range(_TRIES):
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/", **self._as
            )
            ready, ended = Event(), Event()
            lines: list[str] = []
            Thread(target=self._listen, args=(process, lines, ready, ended), daemon=True).start()
            ready.wait(LONGEST)
            if not ended.is_set():
                self._process = process
                return
            process.wait()
            Event().wait(0.2)  # its children end when they notice; until then their memory is in use
        raise AssertionError("".join(lines))

    @staticmethod
    def _listen(process: subprocess.Popen[str], lines: list[str], ready: Event, ended: Event) -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                lines.append(line)
                if _READY in line:
                    ready.set()
        ended.set()
        ready.set()

    def crash(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it without a checkpoint, as a machine that fails does; SIGTERM would wait for its clients."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(LONGEST)
        self._process = None

    def close(self) -> None:
        """End it if it runs, and give its port back."""
        if self._process is not None:
            self.crash(signal.SIGINT)
        self._held.close()

    def _program(self, name: str) -> Path:
        folder = programs()
        assert folder is not None
        return folder / name

    def _run(self, name: str, *arguments: object) -> None:
        command = [str(self._program(name)), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **self._as)
        assert done.returncode == 0, done.stderr


@contextmanager
def running_postgres(*, durable: bool = False) -> Iterator[PostgresServer]:
    """A server for one test or more; its data is deleted afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="postgres-") as folder,  # not pytest's, which is closed to other users
        closing(PostgresServer(Path(folder), durable=durable)) as server,
    ):
        server.start()
        yield server
