"""What a watch must still know after a restart: what was announced of each environment, and what was healed.

Lines of JSON, in a file of the state folder or in a database. Each line adds to what is known of one environment, in one write,
before the thing that it notes is announced: so nothing is announced twice, wherever the process ends. At the start all of them
are written anew.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from policyctl.errors import PolicyctlError
from policyctl.load.source import make_state_folder, read_bounded, write_atomically
from policyctl.watch import FAILING, EnvironmentStatus, State
from policyctl.watch.look import Heals, Look, Synced, Watched

FILE = "watch.jsonl"
FORMAT = "policyctl/watch"
VERSION = 1
_MAX_BYTES = 256 << 20
_SPARE = 1000  # lines beyond those that are needed, before the file is written anew


class StateFiles(Protocol):
    """Where a watch keeps what it remembers, by name. Each method raises PolicyctlError where that cannot be done."""

    def read(self, name: str) -> bytes | None:
        """What was written under a name; None if nothing was."""

    def write(self, name: str, content: bytes) -> None:
        """Replace what is under a name, all of it or nothing."""

    def append(self, name: str, content: bytes) -> None:
        """Add to what is under a name, which is there."""


class StateFolder:
    """`StateFiles` in a folder, which is made if it does not exist."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes | None:
        path = self._folder / name
        try:
            content = read_bounded(path, _MAX_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise PolicyctlError(f"{path} cannot be read: {error.strerror}") from None
        from policyctl.load.git.checkout import is_committed  # imports subprocess

        # Reading it as empty would forget what holds back plans until they are approved.
        if is_committed(path):
            raise PolicyctlError(f"{path} is in the checked-out commit, so a branch may have written it; remove it from Git")
        return content

    def write(self, name: str, content: bytes) -> None:
        make_state_folder(self._folder)
        write_atomically(self._folder / name, content.decode(), inside=self._folder, private=True)

    def append(self, name: str, content: bytes) -> None:
        try:
            descriptor = os.open(self._folder / name, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.write(descriptor, content)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise PolicyctlError(f"{self._folder / name} cannot be written: {error.strerror}") from None


class Memory:
    """What is known, and the lines that have it; without a place for them nothing outlives the process. For one thread, but for
    `begin`."""

    def __init__(self, state: StateFiles | None) -> None:
        """Read what an earlier watch wrote; lines that are damaged are left out of account. Raises PolicyctlError for a state
        that cannot be read or written."""
        self._state = state
        self._known: dict[str, dict[str, Any]] = {}
        self._remotes: set[str] = set()  # those that are only written with approvals
        self._revision = ""
        self._lines = 0
        self._lock = threading.RLock()
        if state is not None:
            for line in _lines_of(state.read(FILE) or b""):
                self._fold(line)
            self._rewrite()

    @property
    def revision(self) -> str:
        """The revision that was in use last."""
        return self._revision

    def set_revision(self, revision: str) -> None:
        if revision != self._revision:
            self._add({"revision": revision})

    def statuses(self) -> Iterator[EnvironmentStatus]:
        """What was announced last of each environment."""
        for name, one in self._known.items():
            try:
                since = datetime.fromisoformat(one["since"]).astimezone(UTC)
                digest, changes, reason = str(one["digest"]), int(one["changes"]), str(one["reason"])
                status = EnvironmentStatus(name, State(one["state"]), since, {}, changes, digest, reason)
                # Of the other states only the beginning is known; they may have succeeded many times since.
                fails = status.state in FAILING and one.get("succeeded")
                yield (
                    replace(status, succeeded_at=datetime.fromisoformat(one["succeeded"]).astimezone(UTC)) if fails else status
                )
            except (KeyError, TypeError, ValueError):
                continue

    def announce(self, status: EnvironmentStatus) -> None:
        """Note a state that is about to be announced."""
        found = {"state": status.state.value, "digest": status.digest, "since": status.since.astimezone(UTC).isoformat()}
        succeeded = None if status.succeeded_at is None else status.succeeded_at.astimezone(UTC).isoformat()
        more = {"changes": status.changes, "reason": status.reason, "succeeded": succeeded}
        self._add({"environment": status.name, **found, **more})

    def heals(self, name: str) -> Heals:
        """How often an environment was healed in a row, and when last."""
        known = self._known.get(name, {})
        return Heals(int(_number(known.get("heals"))), _number(known.get("healed_at")))

    def set_heals(self, name: str, heals: Heals) -> None:
        if self.heals(name) != heals:
            self._add({"environment": name, "heals": heals.times, "healed_at": heals.at})

    def held(self, found: Mapping[str, Watched], commit: str) -> dict[str, Watched]:
        """The environments of a revision as they may be used. Once plans of one need approvals, a `commit` does not decide by
        itself that they do not any more, neither for it nor for one that comes later or has its remote, nor how the remote of
        any is reached. Until then that is what the revision has. The settings of all that are watched when that begins count as
        approved at that commit; of one that comes later none do."""
        begins = not self._needs_approvals
        named = {name for name, one in found.items() if one.settings.approved or self._approved(name)}
        named |= set() if begins else found.keys() - self._known.keys()
        remotes = self._remotes | {found[name].remote for name in named}
        approved = named | {name for name, one in found.items() if one.remote and one.remote in remotes}
        for name, one in found.items():
            self._known.setdefault(name, {})
            known = self.synced(name)
            follows = bool(named) if begins else not (known.commit or name in approved)
            settled = commit if follows else known.commit
            is_other = begins and one.access != known.access  # of which it is not known what was in sync
            self.set_synced(name, **(Synced(access=one.access)._asdict() if is_other else {}) | {"commit": settled})
        for name in sorted(named):
            self._need_approvals(name, found[name].remote, True)
        return {name: one._replace(settings=one.settings._replace(approved=name in approved)) for name, one in found.items()}

    def released(self, name: str, found: Mapping[str, Watched], commit: str) -> dict[str, Watched]:
        """The same once the settings of one of them, which need no approvals, are approved. That releases no remote that needs
        them for another one."""
        if self._approved(name):
            self._need_approvals(name, found[name].remote, False)
        return self.held(found, commit)

    def _need_approvals(self, name: str, remote: str, needed: bool) -> None:
        if self._approved(name) is not needed:
            self._add({"environment": name, "approved": needed})
        if remote and (remote in self._remotes) is not needed:
            self._add({"remote": remote, "approved": needed})

    def _approved(self, name: str) -> bool:
        return self._known.get(name, {}).get("approved") is True

    @property
    def _needs_approvals(self) -> bool:
        return bool(self._remotes) or any(map(self._approved, self._known))

    def begin(self, name: str, look: Look) -> None:
        """Note what policies of an environment are, and may be from now on, before the plan of a look is applied. Once one is
        not as it was, a list as before shows that it was put back by hand."""
        if look.was:
            rows = {} if look.was == self.synced(name).base else {"rows": ""}
            self.set_synced(name, base=look.was, begun=look.begun, **rows)

    def synced(self, name: str) -> Synced:
        """How an environment was when it was last seen in sync."""
        known = self._known.get(name, {})
        return Synced(*(str(known.get(key, "")) for key in Synced._fields))

    def set_synced(self, name: str, **found: str) -> None:
        """Note some of the fields of `Synced`; a thread may note others meanwhile."""
        if self.synced(name)._replace(**found) != self.synced(name):
            self._add({"environment": name, **found})

    def see_in_sync(self, name: str, files: str, rows: str, base: str) -> None:
        """Note that an environment is in sync."""
        self.set_synced(name, files=files, rows=rows, base=base, begun="")

    def keep(self, names: Collection[str]) -> None:
        """Forget the environments that are not among these any more, but for those that need approvals: that they do. One that
        comes back is new: others may have had its remote since, with stricter settings."""
        gone = self._known.keys() - set(names)
        held: dict[str, dict[str, Any]] = {name: {"approved": True} for name in gone if self._approved(name)}
        if any(self._known[name] != held.get(name) for name in gone):
            with self._lock:
                self._known = {name: one for name, one in self._known.items() if name not in gone} | held
                self._rewrite()

    def _fold(self, line: Mapping[str, Any]) -> None:
        if isinstance(name := line.get("environment"), str):
            self._known.setdefault(name, {}).update({key: value for key, value in line.items() if key != "environment"})
        elif isinstance(revision := line.get("revision"), str):
            self._revision = revision
        elif isinstance(remote := line.get("remote"), str):
            (self._remotes.add if line.get("approved") else self._remotes.discard)(remote)

    def _add(self, line: Mapping[str, Any]) -> None:
        with self._lock:
            self._fold(line)
            if self._state is None:
                return
            if self._lines > 2 * len(self._known) + _SPARE:
                self._rewrite()
                return
            self._lines += 1
            self._state.append(FILE, _text(line))

    def _rewrite(self) -> None:
        if self._state is None:
            return
        lines: list[Mapping[str, Any]] = [{"format": FORMAT, "version": VERSION}, {"revision": self._revision}]
        lines += ({"environment": name, **one} for name, one in self._known.items())
        lines += ({"remote": remote, "approved": True} for remote in sorted(self._remotes))
        self._state.write(FILE, b"".join(map(_text, lines)))
        self._lines = len(lines)


def _text(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"


def _number(value: object) -> float:
    return value if isinstance(value, int | float) else 0


def _lines_of(content: bytes) -> Iterator[Mapping[str, Any]]:
    """The lines of a state of this version."""
    found = []
    for line in content.splitlines():
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):  # a killed process leaves an unfinished line
            continue
        if isinstance(data, dict):
            found.append(data)
    if found and (found[0].get("format"), found[0].get("version")) == (FORMAT, VERSION):
        yield from found
