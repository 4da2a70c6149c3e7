"""A project whose pull requests are planned, commented on, merged and applied, as the steps of the workflows do it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.cli.forges import Forge
from tests.conftest import Policyctl, Project, Ran
from tests.git_repo import checked_out, commit, git
from tests.sqlite_rows import live_documents
from tests.workflow_runner import proposed


class Work:
    """A project, its service, and policyctl as a step for a pull request or for main."""

    def __init__(self, project: Project, forge: Forge, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch) -> None:
        self.project, self.forge, self.policyctl, self._patch = project, forge, policyctl, monkeypatch
        self.base: str | None = None  # the commit that pull requests are to be merged into
        self.target = "main"  # the branch that they are for
        self.head: str | None = None  # the newest commit that the service names, where that is not what is checked out

    def plan(self, *args: str) -> Ran:
        for name in ("plan.md", "plan.json"):
            Path(name).unlink(missing_ok=True)
        self.commit()
        base = () if self.base is None else ("--base", self.base)
        return self.policyctl("plan", *base, "--out", "plan.json", "--report", "markdown=plan.md", *args)

    def commit(self) -> str:
        """Commit what the files say, and nothing that plan wrote; steps then run for that commit, unless main has moved on."""
        made = commit(self.project.folder, "policies")
        if self.forge.head == self.forge.commit:
            self.forge.commit = self.forge.head = made
        return made

    def begin(self) -> None:
        """Have the history of main begin with what the files say."""
        shutil.rmtree(self.project.folder / ".git")
        self.settle()

    def settle(self) -> None:
        """Take what the files say for what pull requests are to be merged into."""
        self.base = self.commit()

    def comment(self, number: int = 5, *args: str) -> Ran:
        """Plan what the files say, and show it on a pull request."""
        self.plan(*args)
        with self._patch.context() as step:
            head = self.head or checked_out(self.project.folder)
            self.forge.proposals[number] = (head, self.target)
            event = self.project.folder.parent / f"{self.project.folder.name}.event"
            for name, value in proposed(event, head, self.target).items():
                step.setenv(name, value)
            step.setenv("GITHUB_REF", f"refs/pull/{number}/merge")
            if self.forge.kind == "gitlab":
                step.setenv("CI_MERGE_REQUEST_IID", str(number))
            return self.policyctl("ci", "comment", "plan.md", "--plan", "plan.json")

    def on_main(self, *args: str) -> Ran:
        if git(self.project.folder, "status", "--porcelain", "--untracked-files=all", "policies"):
            self.commit()
        with self._patch.context() as step:
            for name, value in self.forge.branch_environ.items():
                step.setenv(name, value)
            return self.policyctl(*args)

    def apply(self, *args: str) -> Ran:
        """The step of the workflow that applies: what was approved, and nothing else."""
        digest = self.on_main("ci", "approved", "--out", "overrides.json")
        if digest.code:
            return digest  # the shell stops there
        ran = self.on_main("apply", "--yes", "--expect-digest", digest.out.strip(), "--overrides", "overrides.json", *args)
        return Ran(ran.code, ran.out, digest.err + ran.err)

    def add(self, *names: str) -> None:
        for name in names:
            self.project.policy(name)

    def take_away(self, *names: str) -> None:
        for name in names:
            (self.project.policies / f"{name}.yaml").unlink()

    @property
    def live(self) -> set[str]:
        return {name.removeprefix("virtual-policy/") for name in live_documents()}


def hash_in(ran: Ran) -> str:
    """What a person appends to a digest who has read the settings that a run found on no page."""
    found = re.search("start this by hand with DIGEST(@sha256:[0-9a-f]{64})", ran.err)
    assert found is not None, ran.err
    return found[1]
