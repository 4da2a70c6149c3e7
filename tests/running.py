"""The jobs of our workflows, run here: their own shell text, in a real checkout, with the variables that the services set."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.cli.forges import TOKEN, Forge

_EXPRESSION = re.compile(r"\$\{\{ (.*?) \}\}")


class Step(NamedTuple):
    """What one step did."""

    name: str
    code: int
    said: str


@dataclass
class Runner:
    """A checkout, the service around it, and what the repository's settings say."""

    checkout: Path
    forge: Forge
    environment: str = ""  # the variable POLICYCTL_ENV
    fork: bool = False
    digest: str = ""  # what a person gives who starts the workflow by hand
    files: dict[str, Path] = field(default_factory=dict)

    def github(self, name: str) -> list[Step]:
        """The steps of a workflow of the checkout, but for the actions of others and the installation."""
        text = (self.checkout / ".github" / "workflows" / f"policyctl-{name}.yml").read_text("utf-8")
        (job,) = yaml.safe_load(text)["jobs"].values()
        done: list[Step] = []
        for step in job["steps"]:
            if "run" not in step or step["name"] == "Install policyctl":
                continue
            always = "if" in step
            assert step.get("if") in (None, "${{ !cancelled() }}")
            if always or all(one.code == 0 for one in done):
                environ = {**job.get("env", {}), **step.get("env", {})}
                done.append(self._run(step["name"], step["run"], {key: self._value(item) for key, item in environ.items()}))
        return done

    def gitlab(self, name: str, base: str, target: str = "") -> list[Step]:
        """The script of a job of the checkout, and what comes after it.

        `base` is where the branch left its target; `target` what it was merged into, where the pipeline is for the result.
        """
        config = yaml.safe_load((self.checkout / ".gitlab-ci.yml").read_text("utf-8"))
        job, shared = config[f"policyctl {name}"], config[".policyctl"]["variables"]
        environ = {
            "POLICYCTL_DIR": str(shared["POLICYCTL_DIR"]),
            "CI_MERGE_REQUEST_DIFF_BASE_SHA": base,
            "CI_MERGE_REQUEST_TARGET_BRANCH_SHA": target,
            "POLICYCTL_DIGEST": self.digest,
            "POLICYCTL_ENV": self.environment,
        }
        done = [self._run("script", "\n".join(job["script"]), environ)]
        return [*done, *(self._run("after_script", line, environ) for line in job.get("after_script", ()))]

    def _run(self, name: str, script: str, environ: dict[str, str]) -> Step:
        bare = {
            key: item for key, item in os.environ.items() if not key.startswith(("POLICYCTL_", "GITHUB_", "CI_", "GITLAB_"))
        }
        service = {key: item for key, item in self.forge.environ.items() if not key.endswith("_TOKEN") or key == "GITLAB_TOKEN"}
        ran = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=self.checkout,
            env={
                **bare,
                **service,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "GITHUB_WORKFLOW": "policyctl" if self.forge.kind == "github" else "",
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
        values = {
            "vars.POLICYCTL_ENV": self.environment,
            "secrets.WXO_API_KEY": "" if self.fork else "canary-key",
            "github.token": TOKEN,
            "inputs.digest": self.digest,
            "(env.POLICYCTL_ENV == '' || github.event.pull_request.head.repo.full_name != github.repository) "
            "&& 'git:HEAD^1' || ''": "git:HEAD^1" if self.fork or not self.environment else "",
        }
        return values[expression]
