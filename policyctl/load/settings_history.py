"""How the settings of environments changed in the history of a branch, which is that of its head by first parents."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from policyctl.errors import InvalidInput, PolicyctlError
from policyctl.load.base_config import config_at, config_paths, mark_of_several
from policyctl.load.environment import Config
from policyctl.load.git import FULL_ID
from policyctl.load.git.repository import WHOLE_HISTORY
from policyctl.load.git.revision import Revision
from policyctl.load.referred import access_at, referred_paths
from policyctl.load.selector import EnvironmentFilter
from policyctl.plan.approval import SettingsMarks, SettingsStep

_MOST_CHANGES = 500  # commits whose configuration is read


class SettingsHistory:
    """The history of the commit that is in use. Many environments ask for the same, so what was read is kept."""

    def __init__(self, directory: Path, commit: str, now: Config) -> None:
        """`now` is the configuration in use, with its path in this checkout, which names the files that settings refer to."""
        self._directory, self._commit, self._now = directory, commit, now
        self._changes: dict[str | None, tuple[list[str], list[str]]] = {}
        self._configs: dict[str, tuple[Revision, Config | None]] = {}

    def steps(
        self, about: str | EnvironmentFilter, now: SettingsMarks, since: str | None, ends: Collection[str]
    ) -> list[SettingsStep]:
        """The changes of the settings of an environment, or of several, after the commit `since` and up to those of `now`, the
        oldest first; with None, after the first ones that the history has. `ends` are the commits with which pull requests
        were merged. Raises PolicyctlError if that is not known, as in a shallow clone, or if the branch lacks that commit.
        """
        branch, changes = self._changed(since)
        ended, end = dict[str, str](), ""
        for commit in branch:  # the youngest first
            end = commit if commit in ends else end
            ended[commit] = end
        before, found = self._marks(since or branch[-1], about), list[SettingsStep]()
        for commit in reversed(changes):
            after = self._marks(commit, about)
            if before != after and (since is not None or before is not None or found):
                found.append(SettingsStep(ended[commit], before, after))
            before = after
        return found if before == now else [*found, SettingsStep("", before, now)]

    def _changed(self, since: str | None) -> tuple[list[str], list[str]]:
        """The commits after that one, and those of them that changed the settings, the youngest first."""
        if since not in self._changes:
            self._changes[since] = self._read(since)
        return self._changes[since]

    def _read(self, since: str | None) -> tuple[list[str], list[str]]:
        head = Revision(self._directory, self._commit)
        if head.repository.is_shallow:
            raise PolicyctlError(f"the history of the branch is not known here; {WHOLE_HISTORY}")
        if since is not None and not FULL_ID.fullmatch(since):
            raise PolicyctlError("it is not known which settings were approved last")
        after = [] if since is None else [f"^{since}"]
        listed = head.repository.output("rev-list", "--first-parent", "--parents", head.commit, *after).decode().splitlines()
        branch = [line.split() for line in listed]
        if since not in (None, branch[-1][1] if branch and branch[-1][1:] else head.commit):
            raise PolicyctlError(f"the branch does not go back to {since}, whose settings were approved last")
        paths = [*config_paths(head.folder), *referred_paths(head.top, self._now)]
        most = f"--max-count={_MOST_CHANGES + 1}"
        changes = head.repository.output("rev-list", "--first-parent", most, head.commit, *after, "--", *paths).decode().split()
        if len(changes) > _MOST_CHANGES:
            raise PolicyctlError(f"more than {_MOST_CHANGES:,} commits changed the settings")
        return [commit for commit, *_ in branch], changes

    def _marks(self, commit: str, about: str | EnvironmentFilter) -> SettingsMarks | None:
        """The settings at a commit; None if there were none, or the file is not valid: nothing logs in with it."""
        if commit not in self._configs:
            self._configs[commit] = _config_then(Revision(self._directory, commit))
        then, config = self._configs[commit]
        if config is None:
            return None
        if isinstance(about, str):
            one = config.environments.get(about)
            return None if one is None else SettingsMarks(access_at(then, config, one), one.rules)
        access = mark_of_several(config, about, lambda one: access_at(then, config, one))
        rules = mark_of_several(config, about, lambda one: one.rules)
        return None if access is None or rules is None else SettingsMarks(access, rules)


def _config_then(then: Revision) -> tuple[Revision, Config | None]:
    try:
        config = config_at(then)
    except InvalidInput:
        return then, None
    return then, config if config.path is None else config._replace(path=then.top / config.path)
