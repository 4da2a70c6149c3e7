"""What a watch must still know after a restart: since when each environment is in its state, and how often it was healed."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from policyctl.load.atomic import make_state_folder, read_bounded, write_atomically
from policyctl.watch.status import State, Transition

FILE = "watch.json"
FORMAT = "policyctl/watch-state"
VERSION = 1
_MAX_BYTES = 64 << 20


class Memory:
    """A small file in the state folder, written whole when something in it changed."""

    def __init__(self, folder: Path | None) -> None:
        """Read what an earlier watch wrote; a file that is damaged is left out of account. No folder keeps nothing."""
        self._folder = folder
        self._known: dict[str, dict[str, Any]] = {}
        self._changed = False
        if folder is not None:
            self._known = _read(folder / FILE)

    def heals(self, name: str) -> int:
        """How many times in a row an environment was healed and had drifted again by the next look."""
        return int(self._known.get(name, {}).get("heals", 0))

    def set_heals(self, name: str, times: int) -> None:
        if self.heals(name) != times:
            self._known.setdefault(name, {})["heals"] = times
            self._changed = True

    def since(self, name: str, state: State, now: datetime) -> datetime:
        """When an environment came into the state that it is in now."""
        known = self._known.get(name, {})
        try:
            if known.get("state") == state:
                return datetime.fromisoformat(known["since"])
        except (KeyError, TypeError, ValueError):
            pass
        return now

    def is_new(self, transition: Transition) -> bool:
        """Note a transition; whether it was not noted before, by this process or an earlier one."""
        now = transition.now
        known = self._known.setdefault(now.name, {})
        if (known.get("state"), known.get("digest", "")) == (now.state, now.digest):
            return False
        first = not known.get("state")
        known |= {"state": now.state.value, "digest": now.digest, "since": now.since.astimezone(UTC).isoformat()}
        self._changed = True
        return not (first and now.state is State.IN_SYNC)

    def keep(self, names: Collection[str]) -> None:
        """Forget the environments that are not among these any more."""
        if self._known.keys() - set(names):
            self._known = {name: one for name, one in self._known.items() if name in names}
            self._changed = True

    def save(self) -> None:
        """Write what changed since the last time."""
        if not self._changed or self._folder is None:
            return
        make_state_folder(self._folder)
        data = {"format": FORMAT, "version": VERSION, "environments": self._known}
        write_atomically(self._folder / FILE, json.dumps(data), inside=self._folder)
        self._changed = False


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        data = json.loads(read_bounded(path, _MAX_BYTES))
        if data["format"] == FORMAT and data["version"] == VERSION:
            return {str(name): dict(one) for name, one in data["environments"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return {}
