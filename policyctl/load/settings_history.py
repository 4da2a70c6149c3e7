"""How the settings of environments changed in the history of a branch, which is that of its head by first parents."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from policyctl.errors import InvalidInput, PolicyctlError
from policyctl.load.base_config import access_at, config_at, config_paths, in_checkout, mark_of_several, referred_paths
from policyctl.load.environment import Config, EnvironmentFilter
from policyctl.load.git import FULL_ID
from policyctl.load.git.repository import WHOLE_HISTORY
from policyctl.load.git.revision import Revision
from policyctl.load.kinds import CONFIG_FILE
from policyctl.plan.approval import SettingsMarks, SettingsStep

_MOST_CHANGES = 500  # commits whose configuration is read
_SEVERAL = "the history of the branch has more than one first configuration"
_MOVED = f"there was a {CONFIG_FILE} elsewhere before the first one of this directory"
_ROUNDS = 5  # of files that settings referred to, each of which may have been named in a file of before


class SettingsHistory:
    """The history of the commit that is in use. Many environments ask for the same, so what was read is kept."""

    def __init__(self, directory: Path, commit: str, now: Config) -> None:
        """`now` is the configuration in use, with its path in this checkout, which names the files that settings refer to."""
        self._directory, self._commit, self._now = directory, commit, now
        self._changes: dict[str | None, tuple[list[str], list[str]]] = {}
        self._configs: dict[str, tuple[Revision, Config | None]] = {}
        self._found: dict[tuple[str, str], SettingsMarks | None] = {}

    def steps(
        self, about: str | EnvironmentFilter, now: SettingsMarks, since: str | None, ends: Collection[str]
    ) -> list[SettingsStep]:
        """The changes of the settings of an environment, or of several, after the commit `since` and up to those of `now`, the
        oldest first; with None, after the first configuration that the history has. `ends` are the commits with which pull
        requests were merged. Raises PolicyctlError if that is not known, as in a shallow clone, or if the branch lacks that
        commit.
        """
        branch, changes = self._changed(since)
        ended, end = dict[str, str](), ""
        for commit in branch:  # the youngest first
            end = commit if commit in ends else end
            ended[commit] = end
        start = since or self._first(branch, changes, ends)
        before, found = None if start is None else self._marks(start, about), list[SettingsStep]()
        for commit in reversed(changes[: changes.index(start)] if start in changes else changes):
            after = self._marks(commit, about)
            if before != after:
                found.append(SettingsStep(ended[commit], before, after))
            before = after
        return found if before == now else [*found, SettingsStep("", before, now)]

    def why_unknown(self, since: str | None) -> str:
        """Why it is not known how the settings changed since that commit, or the first configuration; empty if it is."""
        try:
            branch, changes = self._changed(since)
            return "" if since or self._first(branch, changes, ()) else _MOVED
        except PolicyctlError as error:
            return str(error)

    def _first(self, branch: Sequence[str], changes: Sequence[str], ends: Collection[str]) -> str | None:
        """The commit of the first configuration, or the first commit if there never was any. None if a pull request was merged
        before, which nothing of it was shown for, or if there was one in another place. Raises PolicyctlError if another one
        was merged in from elsewhere: which of them was the first is chosen by what is merged into which."""
        found = next((one for one in reversed(changes) if self._has_config(one)), None)
        if found is None:
            return branch[-1]
        head, before = self._config(branch[0])[0], branch[branch.index(found) + 1 :]
        rest = [f"^{one}" for one in before[:1]]
        paths, along = config_paths(head.folder), head.repository.output("rev-list", found, *rest).decode().split()
        every = head.repository.output("rev-list", "--full-history", head.commit, "--", *paths).decode().split()
        if not {*every} <= {*along, *_after(head, found)}:
            raise PolicyctlError(_SEVERAL)
        return None if any(one in ends for one in before) or (before and _has_had_config(head, before[0])) else found

    def _changed(self, since: str | None) -> tuple[list[str], list[str]]:
        """The commits of the branch after that one, and those of them that changed the settings, the youngest first."""
        if since not in self._changes:
            self._changes[since] = self._read(since)
        return self._changes[since]

    def _read(self, since: str | None) -> tuple[list[str], list[str]]:
        head = Revision(self._directory, self._commit)
        repository = head.repository
        if repository.is_shallow:
            raise PolicyctlError(f"the history of the branch is not known here; {WHOLE_HISTORY}")
        if since is not None and not FULL_ID.fullmatch(since):
            raise PolicyctlError("it is not known which settings were approved last")
        line = ("rev-list", "--first-parent", head.commit, *(() if since is None else (f"^{since}",)))
        branch = repository.output(*line).decode().split()
        if since is not None and since != head.commit:
            after = _after(head, since)
            branch = [one for one in branch if one in after]
            if not branch:
                raise PolicyctlError(f"the branch does not go back to {since}, whose settings were approved last")
        # A branch into which main was merged may be what main is now: its first commit with `since` in it is the next one.
        changes, paths = {*branch[-1:]}, dict[str, None]()
        for _ in range(_ROUNDS):
            configs = (self._config(one)[1] for one in (*changes, *(() if since is None else (since,))))
            known = [one for config in configs if config is not None for one in referred_paths(head.top, config)]
            wanted = dict.fromkeys((*config_paths(head.folder), *referred_paths(head.top, self._now), *known))
            if wanted.keys() <= paths.keys():
                break
            paths |= wanted
            changes |= {*repository.output(*line, f"--max-count={_MOST_CHANGES + 1}", "--", *paths).decode().split()}
        if len(changes) > _MOST_CHANGES:
            raise PolicyctlError(f"more than {_MOST_CHANGES:,} commits changed the settings")
        return branch, [one for one in branch if one in changes]

    def _has_config(self, commit: str) -> bool:
        """Whether there was a valid configuration at a commit."""
        _, config = self._config(commit)
        return config is not None and config.path is not None

    def _config(self, commit: str) -> tuple[Revision, Config | None]:
        if commit not in self._configs:
            self._configs[commit] = _config_then(Revision(self._directory, commit))
        return self._configs[commit]

    def _marks(self, commit: str, about: str | EnvironmentFilter) -> SettingsMarks | None:
        """The settings at a commit; None if there were none, or the file is not valid: nothing logs in with it."""
        key = commit, about if isinstance(about, str) else about.text
        if key not in self._found:
            self._found[key] = _marks_of(*self._config(commit), about)
        return self._found[key]


def _has_had_config(head: Revision, commit: str) -> bool:
    """Whether there was a configuration anywhere up to a commit: that of a directory may have moved."""
    anywhere = "--no-literal-pathspecs", "rev-list", "--full-history", "--max-count=1", commit, "--", f":(glob)**/{CONFIG_FILE}"
    return bool(head.repository.output(*anywhere))


def _after(head: Revision, commit: str) -> set[str]:
    """The commits up to the head that contain another one."""
    return {*head.repository.output("rev-list", "--ancestry-path", f"{commit}..{head.commit}").decode().split()}


def _marks_of(then: Revision, config: Config | None, about: str | EnvironmentFilter) -> SettingsMarks | None:
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
        return then, in_checkout(config_at(then), then)
    except InvalidInput:
        return then, None
