"""Random histories of a repository and its remote: the audit record is always right, and history alone raises no alarm."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from tests.conftest import Policyctl, Project
from tests.examples import examples
from tests.git_repo import commit
from tests.sqlite_rows import drop, edit, live_documents, put

NAMES = [f"p{number}" for number in range(7)]
AUDIT = Path("audit.jsonl")
SEEDS = 3


class World:
    """Files, a remote and what policyctl wrote last: three versions of each policy, each a description (None: not there)."""

    def __init__(self, project: Project, policyctl: Policyctl, random: Random) -> None:
        self.project, self.policyctl, self.random = project, policyctl, random
        self.files: dict[str, str | None] = {}
        self.live: dict[str, str | None] = {}
        self.written: dict[str, str | None] = {}
        self.past: dict[str, list[str]] = {name: [] for name in NAMES}
        self.number = 0
        project.write("policyctl.yaml", "limits: {max_removes: 100, max_change_percent: 100}\n")
        project.policy("keep")

    def new(self) -> str:
        self.number += 1
        return f"version {self.number}"

    def git(self, name: str) -> None:
        """A commit that edits, adds, deletes or brings back a policy."""
        kind = self.random.random()
        text = None if kind < 0.25 and self.files.get(name) else self.new()
        if kind > 0.85 and self.past[name]:
            text = self.random.choice(self.past[name])
        path = self.project.policies / f"{name}.yaml"
        if text is None:
            path.unlink()
        else:
            self.project.policy(name)
            path.write_text(f"{path.read_text('utf-8')}description: {text}\n", "utf-8")
            self.past[name].append(text)
        self.files[name] = text
        commit(self.project.folder, "policies")

    def hand(self, name: str) -> None:
        """An edit, an addition, a removal, or the return of an old version, by hand."""
        kind, here = self.random.random(), self.live.get(name)
        text: str | None = self.new()
        if kind < 0.3 and here is not None:
            text = None
        elif kind < 0.6 and self.past[name]:
            text = self.random.choice(self.past[name])
        document = {**live_documents()["virtual-policy/keep"], "name": f"virtual-policy/{name}", "description": text}
        if here is not None and text is None:
            drop(name)
        elif here is not None:
            edit(name, lambda found: found.update(description=text))
        elif text is not None:
            put([{**document, "display_name": f"virtual-policy/{name}"}])
        self.live[name] = text

    def apply(self) -> None:
        removed = [name for name in NAMES if self.live.get(name) is not None and self.files.get(name) is None]
        allowed = [word for name in removed for word in ("--allow-remove", name)]
        ran = self.policyctl("apply", "--yes", "--audit", AUDIT, *allowed)
        assert ran.code == 0, ran
        for name in NAMES:
            if self.files.get(name) != self.live.get(name):
                self.written[name] = self.files.get(name)
            self.live[name] = self.files.get(name)

    def truth(self, name: str) -> str | None:
        """Who moved, by what this world remembers."""
        files, live, written = self.files.get(name), self.live.get(name), self.written.get(name)
        if files == live:
            return None
        return "git" if live == written else "remote" if files == written else "both"

    def answers(self, *args: str | Path) -> dict[str, str]:
        found = json.loads(self.policyctl("drift", "--format", "json", *args).out)["environments"][0]["drifts"]
        return {one["name"].removeprefix("virtual-policy/"): one["moved"] for one in found}

    def step(self) -> None:
        name, kind = self.random.choice(NAMES), self.random.random()
        if kind < 0.45:
            self.git(name)
        elif kind < 0.8:
            self.hand(name)
        else:
            self.apply()

    def check(self) -> int:
        """Compare the answers with the truth; how many there were."""
        truth = {name: moved for name in NAMES if (moved := self.truth(name))}
        by_audit, by_history = self.answers("--audit", AUDIT), self.answers()
        assert set(by_audit) == set(by_history) == set(truth)
        # What policyctl never wrote is not in the audit record.
        assert {name: by_audit[name] for name in truth if name in self.written} == {
            name: moved for name, moved in truth.items() if name in self.written
        }
        assert [name for name, moved in truth.items() if moved == "git" and by_history[name] != "git"] == []
        return len(truth)


@pytest.mark.parametrize("seed", range(examples(SEEDS)))
def test_random_histories(seed: int, project: Project, policyctl: Policyctl) -> None:
    world = World(project, policyctl, Random(seed))
    for name in NAMES[:5]:
        world.git(name)
    world.apply()
    checked = 0
    for _ in range(4):
        for _ in range(4):
            world.step()
        checked += world.check()
    assert checked
