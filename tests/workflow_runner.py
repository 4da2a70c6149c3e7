"""The jobs of our workflows, run here: their own shell text, in a real checkout, with the variables that the services set."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.cli.forges import TOKEN, Forge
from tests.git_repo import git

PROGRAMS = str(Path(sys.executable).parent)
_EXPRESSION = re.compile(r"\$\{\{ (.*?) \}\}")


class Step(NamedTuple):
    """What one step did."""

    name: str
    code: int
    said: str


def proposed(event: Path, head: str, target: str) -> dict[str, str]:
    """The variables that say what a pull request asks for: to merge its newest commit into a branch; and the event's file."""
    event.write_text(json.dumps({"pull_request": {"head": {"sha": head}, "base": {"ref": target}}}), "utf-8")
    return {
        "GITHUB_EVENT_PATH": str(event),
        "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": head,
        "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": target,
    }


@dataclass
class Runner:
    """A checkout, the service around it, and what the repository's settings say."""

    checkout: Path
    forge: Forge
    environment: str = ""  # the variable POLICYCTL_ENV
    fork: bool = False
    digest: str = ""  # what a person gives who starts the workflow by hand
    overrides: str = ""  # and what they override
    audit: str = ""  # the variable POLICYCTL_AUDIT
    before: str = ""  # what main was before the push that a run is for
    pull: int = 5  # the pull request that a run is for
    target: str = "main"  # the branch that the pull request is for
    queue: str = ""  # the base of a merge queue that a run is for
    files: dict[str, Path] = field(default_factory=dict)
    programs: str = field(default_factory=lambda: PROGRAMS)  # where python3, pip and policyctl are found, as in PATH

    def github(self, name: str) -> list[Step]:
        """The steps of a workflow of the checkout, but for the actions of others and the installation."""
        text = (self.checkout / ".github" / "workflows" / f"policyctl-{name}.yml").read_text("utf-8")
        (job,) = yaml.safe_load(text)["jobs"].values()
        done: list[Step] = []
        passed: dict[str, bool] = {}
        shutil.rmtree(self.temporary, ignore_errors=True)  # a runner empties it before each job
        self.temporary.mkdir()
        for step in job["steps"]:
            if "run" not in step or step["name"] == "Install policyctl":
                continue
            if self._runs(step.get("if"), done, passed):
                environ = {**job.get("env", {}), **step.get("env", {}), **self._event(name)}
                done.append(self._run(step["name"], step["run"], {key: self._value(item) for key, item in environ.items()}))
                passed[step.get("id", step["name"])] = done[-1].code == 0
        return done

    def install(self, name: str, package: str) -> Step:
        """The installation of policyctl in a workflow of the checkout, or in every job on GitLab, from another package."""
        self.temporary.mkdir()
        environ = {"POLICYCTL_PACKAGE": package, "PIP_NO_INDEX": "1", "GITHUB_PATH": str(self.checkout.parent / "path")}
        if self.forge.kind == "gitlab":
            config = yaml.safe_load((self.checkout / ".gitlab-ci.yml").read_text("utf-8"))
            make, *rest = config[".policyctl"]["before_script"]
            assert make == 'mkdir "$FILES"'
            return self._run("before_script", "\n".join(rest), {**environ, "FILES": str(self.temporary)})
        text = (self.checkout / ".github" / "workflows" / f"policyctl-{name}.yml").read_text("utf-8")
        (job,) = yaml.safe_load(text)["jobs"].values()
        (step,) = (one for one in job["steps"] if one.get("name") == "Install policyctl")
        folder = {None: self.checkout, "${{ runner.temp }}": self.temporary}[step.get("working-directory")]
        return self._run(step["name"], step["run"], environ, folder)

    @property
    def temporary(self) -> Path:
        """The directory of a run for files that are not the checkout's."""
        return self.checkout.parent / "temporary"

    @staticmethod
    def _runs(condition: str | None, done: list[Step], passed: dict[str, bool]) -> bool:
        if condition is None:
            return all(one.code == 0 for one in done)
        if condition == "${{ !cancelled() }}":
            return True
        assert condition == "${{ !cancelled() && steps.validate.outcome == 'success' }}"
        return passed["validate"]

    def gitlab(self, name: str, base: str, target: str = "") -> list[Step]:
        """The script of a job of the checkout, and what comes after it.

        `base` is the target branch as it is; `target` what it was merged into, where the pipeline is for the result.
        """
        config = yaml.safe_load((self.checkout / ".gitlab-ci.yml").read_text("utf-8"))
        job, shared = config[f"policyctl {name}"], config[".policyctl"]["variables"]
        environ = {
            "POLICYCTL_DIR": str(shared["POLICYCTL_DIR"]),
            "CI_MERGE_REQUEST_TARGET_BRANCH_SHA": target,
            "POLICYCTL_DIGEST": self.digest,
            "POLICYCTL_OVERRIDES": self.overrides,
            "POLICYCTL_ENV": self.environment,
            "CI_COMMIT_BEFORE_SHA": self.before or "0" * 40,
            "FILES": str(self.temporary),
        }
        assert shared["FILES"].endswith("-$CI_JOB_ID")
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir()  # as the job's before_script does, which also installs policyctl
        environ.update({"CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main", **self._event(name)})
        if base:
            git(self.checkout, "update-ref", f"refs/remotes/origin/{environ['CI_MERGE_REQUEST_TARGET_BRANCH_NAME']}", base)
        done = [self._run("script", "\n".join(job["script"]), environ)]
        return [*done, *(self._run("after_script", line, environ) for line in job.get("after_script", ()))]

    def _event(self, name: str) -> dict[str, str]:
        """What shows what a run is for: the pull request, a merge queue with it, or main at the commit that is checked out."""
        if self.queue:
            return {"GITHUB_REF": f"refs/heads/gh-readonly-queue/main/pr-5-{self.queue}"}
        if name == "plan":
            head = self.forge.newest = git(self.checkout, "rev-parse", "HEAD^2").strip()
            return {
                "GITHUB_REF": f"refs/pull/{self.pull}/merge",
                "CI_MERGE_REQUEST_IID": str(self.pull),
                **proposed(self.checkout.parent / "event.json", head, self.target),
            }
        commit = git(self.checkout, "rev-parse", "HEAD").strip()
        branch = {key: item for key, item in self.forge.branch_environ.items() if not key.endswith("_TOKEN")}
        return {**branch, "GITHUB_SHA": commit, "CI_COMMIT_SHA": commit}

    def _run(self, name: str, script: str, environ: dict[str, str], folder: Path | None = None) -> Step:
        bare = {
            key: item for key, item in os.environ.items() if not key.startswith(("POLICYCTL_", "GITHUB_", "CI_", "GITLAB_"))
        }
        service = {key: item for key, item in self.forge.environ.items() if not key.endswith("_TOKEN") or key == "GITLAB_TOKEN"}
        ran = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=folder or self.checkout,
            env={
                **bare,
                **service,
                "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}",
                "GITHUB_WORKFLOW": "policyctl" if self.forge.kind == "github" else "",
                **({"POLICYCTL_AUDIT": self.audit} if self.audit else {}),
                "RUNNER_TEMP": str(self.temporary),
                "GITHUB_STEP_SUMMARY": str(self.checkout.parent / "summary"),
                "GITHUB_OUTPUT": str(self.checkout.parent / "outputs"),
                **environ,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Step(name, ran.returncode, ran.stdout)

    def _value(self, text: Any) -> str:
        return _EXPRESSION.sub(lambda found: self._expression(found[1]), str(text))

    def _expression(self, expression: str) -> str:
        base = self.queue or "HEAD^1"
        values = {
            "vars.POLICYCTL_ENV": self.environment,
            "vars.POLICYCTL_ENV || '*'": self.environment or "*",
            "secrets.WXO_API_KEY": "" if self.fork else "canary-key",
            "github.token": TOKEN,
            "inputs.digest": self.digest,
            "inputs.overrides": self.overrides,
            "github.event.before || 'HEAD^1'": self.before or "HEAD^1",
            "github.event.merge_group.base_sha || 'HEAD^1'": base,
            "(vars.POLICYCTL_ENV == '' || (github.event_name == 'pull_request' && "
            "github.event.pull_request.head.repo.full_name != github.repository)) && "
            "format('git:{0}', github.event.merge_group.base_sha || 'HEAD^1') || ''": (
                f"git:{base}" if self.fork or not self.environment else ""
            ),
        }
        return values[expression]
