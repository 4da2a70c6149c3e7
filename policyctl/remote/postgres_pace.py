"""The pace of hosts that several processes ask, by a row a host in the queue's database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import LiteralString

import psycopg

from policyctl.load.urls import Origin
from policyctl.remote.hosts import LONGEST_PAUSE, HostPace
from policyctl.remote.postgres_pool import Connection

TABLE = """
CREATE TABLE policyctl_host (
    origin text COLLATE "C" PRIMARY KEY,
    next timestamptz NOT NULL DEFAULT 'epoch', paused timestamptz NOT NULL DEFAULT 'epoch'
);
"""
# The clock is that of the database, the only one that all processes have in common.
_TAKE = """
INSERT INTO policyctl_host AS host (origin, next) VALUES (%(origin)s, clock_timestamp() + %(seconds)s * interval '1 second')
ON CONFLICT (origin) DO UPDATE
SET next = greatest(host.next, host.paused, clock_timestamp()) + %(seconds)s * interval '1 second'
RETURNING extract(epoch FROM next - clock_timestamp())::float8 - %(seconds)s
"""
_PAUSE = """
INSERT INTO policyctl_host AS host (origin, paused) VALUES (%(origin)s, clock_timestamp() + %(seconds)s * interval '1 second')
ON CONFLICT (origin) DO UPDATE SET paused = greatest(host.paused, excluded.paused)
"""
_PAUSED = "SELECT extract(epoch FROM paused - clock_timestamp())::float8 FROM policyctl_host WHERE origin = %(origin)s"
_TAKEN = 10  # slots at a time, at most, and no more than those of a second
_AWAY = 10.0  # seconds for which a database that did not answer is not asked
_HEARD = 1.0  # seconds between two looks for a pause that another process was asked for


class PaceTable:
    """The rows of all hosts. A database that cannot be reached leaves each process to its own pace."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._away_until = 0.0

    def take(self, origin: Origin, seconds: float) -> float | None:
        """Take so many seconds of a host's time. Returns in how many seconds they begin; None if that is not known."""
        return self._ask(_TAKE, origin, seconds)

    def pause(self, origin: Origin, seconds: float) -> None:
        """Have no process ask a host for so many seconds."""
        self._ask(_PAUSE, origin, seconds)

    def paused(self, origin: Origin) -> float:
        """How many seconds are left of a pause of a host."""
        return max(0.0, self._ask(_PAUSED, origin) or 0.0)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    def _ask(self, statement: LiteralString, origin: Origin, seconds: float = 0.0) -> float | None:
        values = {"origin": str(origin), "seconds": seconds}
        with self._lock, suppress(psycopg.Error):
            if time.monotonic() < self._away_until:
                return None
            self._away_until = time.monotonic() + _AWAY  # unless it answers
            if self._connection is None or self._connection.closed:
                self._connection = self._connect()
            cursor = self._connection.execute(statement, values)
            row = cursor.fetchone() if cursor.description else None
            self._away_until = 0.0
            return None if row is None else float(row[0])
        return None


class SharedHostPace(HostPace):
    """The pace of a host that other processes ask too: together they keep to its rate, and to its pauses."""

    def __init__(self, table: PaceTable, origin: Origin) -> None:
        super().__init__()
        self._table, self._origin = table, origin
        self._heard_at = self._slot = float("-inf")  # the next slot of those that were taken
        self._left = 0

    @property
    def is_free(self) -> bool:
        return False

    def pause(self, now: float, seconds: float) -> None:
        super().pause(now, seconds)
        self._table.pause(self._origin, min(seconds, LONGEST_PAUSE))

    def slot(self, now: float) -> float:
        with self._lock:
            if now - self._heard_at >= _HEARD:
                self._heard_at = now
                self._pause = max(self._pause, now + paused) if (paused := self._table.paused(self._origin)) else self._pause
            own = self._own_slot(now)
            return own if not self._interval else max(own, self._shared_slot(now, own))

    def _shared_slot(self, now: float, own: float) -> float:
        """The next of the slots that were taken, or of new ones. Slots that passed are not made up for."""
        if not self._left or self._slot < now - self._interval:
            number = max(1, min(_TAKEN, int(1 / self._interval)))
            begin = self._table.take(self._origin, number * self._interval)
            if begin is None:
                return own
            self._slot, self._left = now + max(0.0, begin), number
        slot, self._slot, self._left = self._slot, self._slot + self._interval, self._left - 1
        return slot
