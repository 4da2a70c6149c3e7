"""Which file of a directory is a policy's own: the one that says it, or the one that a new policy would get."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from policyctl.errors import errors_in
from policyctl.load.directory import Files, Loaded
from policyctl.load.environment import Environment
from policyctl.load.file_names import file_names
from policyctl.load.markers import is_template
from policyctl.load.policies import read_contents
from policyctl.load.unread import Unread
from policyctl.model.policy import Policy


@dataclass(frozen=True, slots=True)
class Home:
    """The file of one policy: its path, what it says now (None: there is no file yet), and why it cannot be rewritten."""

    path: Path
    policy: Policy | None = None
    complaint: str | None = None


class Homes:
    """The files of a directory, asked by policy. A file that was handed out for a new policy is not handed out again."""

    def __init__(self, directory: Path, files: Files, loaded: Loaded, unread: Unread, environment: Environment) -> None:
        self._directory = directory
        self._files = files
        self._unread = unread
        self._environment = environment
        self._said = {policy.name: policy for policy in loaded.policies}
        # Case-folded, because some file systems hold `A.yaml` and `a.yaml` for one file.
        self._taken = {entry.casefold() for entry in os.listdir(directory)} if directory.is_dir() else set()

    def of(self, name: str) -> Home:
        """The home of the policy with that canonical name."""
        policy = self._said.get(name)
        if policy is not None:
            return Home(Path(policy.file), policy, self._why_not(policy))
        if elsewhere := self._unread.where(name) or self._unread.maybe:
            return Home(self._directory / file_names(name)[0], complaint=f"is not written: {elsewhere}")
        free = next((file for file in file_names(name) if file.casefold() not in self._taken), None)
        if free is None:
            path = self._directory / file_names(name)[-1]
            return Home(path, complaint="exists already and says something else; move it away")
        self._taken.add(free.casefold())
        path = self._directory / free
        if not self._files.includes(str(path), self._environment):
            return Home(path, complaint=f"is not among the files that environment {self._environment.name} includes")
        return Home(path)

    def _why_not(self, policy: Policy) -> str | None:
        source = self._files.source(policy.file)
        if policy.file.endswith(".json"):
            return "is JSON, and policyctl writes YAML; edit it by hand"
        if sum(document.data is not None for document in source.documents) > 1:
            return "holds more than this policy; edit it by hand"
        if is_template(source.text) and errors_in(read_contents(source, {}).problems):
            return "depends on the environment's vars; edit it by hand"
        return None
