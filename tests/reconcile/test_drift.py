"""Random histories of a repository and its remote: the audit record is always right, and history alone raises no alarm.

Branches are applied, merged, squashed and left; the directory and the environment are renamed, the remote is spelled in another
way, and a variable changes, also together; and some configurations of the past are refused today.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from subprocess import CalledProcessError

import pytest

from tests.conftest import Policyctl, Project
from tests.examples import examples
from tests.git_repo import commit, git
from tests.sqlite_rows import drop, edit, live_documents, put

NAMES = [f"p{number}" for number in range(7)]
AUDIT = Path("audit.jsonl")
LIVE = Path("live.db")
SEEDS = 8
SPELLINGS = ["sqlite:///../live.db", "sqlite:///./../live.db", "sqlite:///../%6Cive.db", "sqlite:///..//live.db"]
CONFIG = """\
{version}limits: {{max_removes: 100, max_change_percent: 100}}
scope: ["virtual-policy/*"]
environments: {{{name}: {{remote: "{remote}", vars: {{mark: {mark}}}}}}}
"""


class World:
    """Files, a remote and what policyctl wrote last: three versions of each policy, each a description (None: not there)."""

    def __init__(self, project: Project, policyctl: Policyctl, random: Random, *, outdates: bool) -> None:
        """With `outdates` some configurations will be refused later."""
        self.project, self.policyctl, self.random, self.outdates = project, policyctl, random, outdates
        self.live: dict[str, str | None] = {}
        self.written: dict[str, str | None] = {}
        self.past: dict[str, list[str]] = {name: [] for name in NAMES}
        self.number = 0
        self.directory, self.environment, self.mark = "policies", "prod", "x"
        self.remote, self.outdated = SPELLINGS[0], False
        self.configure()
        project.policy("keep")
        commit(project.folder, "policies")

    @property
    def folder(self) -> Path:
        return self.project.folder / self.directory

    @property
    def files(self) -> dict[str, str]:
        """What the files have now, with the variable of now."""
        texts = {name: path.read_text("utf-8") for name in NAMES if (path := self.folder / f"{name}.yaml").exists()}
        marks = (self.folder / "policyctl.yaml").read_text("utf-8").partition("mark: ")[2].partition("}")[0]
        return {name: text.partition("description: ")[2].strip().replace("{{ mark }}", marks) for name, text in texts.items()}

    def new(self) -> str:
        self.number += 1
        return f"version {self.number}" + self.random.choice(["", " {{ mark }}"])

    def configure(self, version: str = "") -> None:
        text = CONFIG.format(name=self.environment, mark=self.mark, remote=self.remote, version=version)
        (self.folder / "policyctl.yaml").write_text(text, "utf-8")

    def git(self, name: str) -> None:
        """A commit that edits, adds, deletes or brings back a policy."""
        kind, path = self.random.random(), self.folder / f"{name}.yaml"
        text = None if kind < 0.25 and path.exists() else self.new()
        if kind > 0.85 and self.past[name]:
            text = self.random.choice(self.past[name])
        if text is None:
            path.unlink()
        else:
            plain = (self.folder / "keep.yaml").read_text("utf-8").replace("name: keep", f"name: {name}")
            path.write_text(f"{plain}description: {text}\n", "utf-8")
            self.past[name].append(text)
        commit(self.project.folder, self.directory)

    def rename(self) -> None:
        """The directory gets another name, or the environment, or the variable another value, or the remote another spelling,
        or several of that; sometimes with an edit in the same commit."""
        chosen = [self.random.random() < 0.4 for _ in range(4)]
        self.number += 1
        if chosen[0]:
            old, self.directory = self.directory, f"rules{self.number}"
            git(self.project.folder, "mv", old, self.directory)
        if chosen[1]:
            self.environment = f"prod{self.number}"
        if chosen[2]:
            self.remote = self.random.choice(SPELLINGS)
        if chosen[3] or not any(chosen):
            self.mark = f"x{self.number}"
        self.configure()
        if self.random.random() < 0.4:
            self.git(self.random.choice(NAMES))
        commit(self.project.folder, self.directory)

    def update(self) -> None:
        """What was applied is committed with a configuration that only an older policyctl reads; then all is renamed."""
        self.mark = f"x{self.number}"
        self.number += 1
        self.configure()
        self.apply()
        self.configure('required_version: "<0.1"\n')
        commit(self.project.folder, self.directory)
        self.outdated = True
        self.rename()

    def branch(self) -> None:
        """A branch with some edits, of which some may be applied, is merged, squashed, or left; and is there, or deleted."""
        folder, name = self.project.folder, f"branch{self.number}"
        before = self.directory, self.environment, self.mark, self.remote
        git(folder, "checkout", "--quiet", "-b", name)
        for _ in range(self.random.randint(1, 3)):
            self.random.choice([lambda: self.git(self.random.choice(NAMES)), self.rename])()
            if self.random.random() < 0.5:
                self.apply()
        after = self.directory, self.environment, self.mark, self.remote
        git(folder, "checkout", "--quiet", "main")
        self.directory, self.environment, self.mark, self.remote = before
        if self.random.random() < 0.3:
            self.git(self.random.choice(NAMES))
        kind = self.random.randrange(4)
        if kind:
            try:
                git(folder, "merge", "--quiet", *(["--squash"] if kind == 1 else ["--no-ff", "-m", "x"]), name)
                self.directory, self.environment, self.mark, self.remote = after
                commit(folder, self.directory)
            except CalledProcessError:  # a conflict: the branch is left
                git(folder, "reset", "--quiet", "--hard", "main")
                self.directory, self.environment, self.mark, self.remote = before
        if self.random.random() < 0.5:
            git(folder, "branch", "--quiet", "-D", name)

    def hand(self, name: str) -> None:
        """An edit, an addition, a removal, or the return of an old version, by hand."""
        kind, here = self.random.random(), self.live.get(name)
        text: str | None = self.new()
        if kind < 0.3 and here is not None:
            text = None
        elif kind < 0.6 and self.past[name]:
            text = self.random.choice(self.past[name])
        text = None if text is None else text.replace("{{ mark }}", self.mark)
        document = {**live_documents(LIVE)["virtual-policy/keep"], "name": f"virtual-policy/{name}", "description": text}
        if here is not None and text is None:
            drop(name, LIVE)
        elif here is not None:
            edit(name, lambda found: found.update(description=text), LIVE)
        elif text is not None:
            put([{**document, "display_name": f"virtual-policy/{name}"}], LIVE)
        self.live[name] = text

    def apply(self) -> None:
        files = self.files
        removed = [name for name in NAMES if self.live.get(name) is not None and files.get(name) is None]
        allowed = [word for name in removed for word in ("--allow-remove", name)]
        ran = self.policyctl("apply", "--yes", "--audit", AUDIT, "--dir", self.directory, *allowed)
        assert ran.code == 0, ran
        for name in NAMES:
            if files.get(name) != self.live.get(name):
                self.written[name] = files.get(name)
            self.live[name] = files.get(name)

    def truth(self, name: str) -> str | None:
        """Who moved, by what this world remembers."""
        files, live, written = self.files.get(name), self.live.get(name), self.written.get(name)
        if files == live:
            return None
        return "git" if live == written else "remote" if files == written else "both"

    def answers(self, *args: str | Path) -> dict[str, str]:
        found = json.loads(self.policyctl("drift", "--format", "json", "--dir", self.directory, *args).out)
        found = found["environments"][0]["drifts"]
        return {one["name"].removeprefix("virtual-policy/"): one["moved"] for one in found}

    def step(self) -> None:
        name, kind = self.random.choice(NAMES), self.random.random()
        if kind < 0.3:
            self.git(name)
        elif kind < 0.5:
            self.hand(name)
        elif kind < 0.65:
            self.rename()
        elif kind < 0.75:
            self.branch()
        elif kind < 0.85 and self.outdates:
            self.update()
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
        alike = {"git", "unknown"} if self.outdated else {"git"}
        assert {
            name: by_history[name] for name, moved in truth.items() if moved == "git" and by_history[name] not in alike
        } == {}
        assert self.outdated or "unknown" not in by_history.values()
        return len(truth)


@pytest.mark.parametrize("seed", range(examples(SEEDS)))
def test_random_histories(seed: int, project: Project, policyctl: Policyctl) -> None:
    world = World(project, policyctl, Random(seed), outdates=seed % 2 == 1)
    for name in NAMES[:5]:
        world.git(name)
    world.apply()
    checked = 0
    for _ in range(4):
        for _ in range(4):
            world.step()
        checked += world.check()
    assert checked
