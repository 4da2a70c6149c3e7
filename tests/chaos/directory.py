"""A policy directory on the disk, and policyctl as a process of its own in it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.invariants import Told
from tests.patience import LONGEST

_OUTCOME = re.compile(r"^[+~-] (?P<name>virtual-policy/.+?)  (?P<status>applied|already|failed|skipped)(?:: (?P<reason>.*))?$")
KEY = "CHAOS_KEY"


@dataclass
class Ran:
    """What a process did."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> dict[str, Told]:
        """What it reported of every change, as far as it came: the last word on each counts."""
        found = map(_OUTCOME.match, [*self.err.splitlines(), *self.out.splitlines()])
        return {one["name"]: Told(one["status"], one["reason"] or "") for one in found if one}  # type: ignore[arg-type]  # by the pattern


@dataclass
class Directory:
    """`policies/` in a folder, with one environment, whose login takes the key in $CHAOS_KEY."""

    folder: Path
    key: str = ""
    ran: list[Ran] = field(default_factory=list)

    def write(self, remote: str, documents: Iterable[dict[str, Any]], scope: Sequence[str]) -> None:
        """Say what is desired, and where."""
        policies = self.folder / "policies"
        policies.mkdir(parents=True, exist_ok=True)
        login = {"auth": {"type": "ibm_iam", "api_key": f"env:{KEY}", "url": remote}} if self.key else {}
        config = {
            "environments": {"chaos": {"remote": remote, **login}},
            "scope": list(scope),
            "limits": {"max_removes": 1000, "max_change_percent": 100},
        }
        (policies / "policyctl.yaml").write_text(json.dumps(config), "utf-8")
        for number, document in enumerate(documents):
            text = json.dumps({"spec_version": "v1", "kind": "model", **document})
            (policies / f"{number:03}.json").write_text(text, "utf-8")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """policyctl, under way; its temporary files are made in the folder."""
        temporary = self.folder / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "policyctl", *arguments],
            cwd=self.folder,
            env={**os.environ, KEY: self.key, "TMPDIR": str(temporary)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> Ran:
        """Wait for its end."""
        out, err = process.communicate(timeout=LONGEST)
        self.ran.append(Ran(process.returncode, out, err))
        return self.ran[-1]

    def run(self, *arguments: str, meanwhile: Callable[[subprocess.Popen[str]], None] = lambda process: None) -> Ran:
        process = self.start(*arguments)
        meanwhile(process)
        return self.finish(process)

    def left_behind(self) -> Iterable[bytes]:
        """Everything that was printed and every file that is there."""
        yield from (f"{ran.out}\n{ran.err}".encode() for ran in self.ran)
        yield from (path.read_bytes() for path in self.folder.rglob("*") if path.is_file())
