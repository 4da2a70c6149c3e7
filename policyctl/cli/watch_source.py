"""What a watch looks at: where its files come from, and whether merged pull requests approved what a look planned.

Files are those of a directory as it is, or of a git mirror, of which nothing is checked out.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from math import inf
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import click

from policyctl.ci import service_at, service_or_why
from policyctl.ci.comments import applied
from policyctl.cli.ci.merges import (
    BY_WATCH,
    REPLACED,
    ApprovalPlace,
    SharedMerges,
    approvals_of,
    difference,
    note_use,
    settings_shown,
    waiting_merges,
    why_not_head,
)
from policyctl.cli.console import Console
from policyctl.cli.environments import choose
from policyctl.cli.fleet import Fleet, open_fleet
from policyctl.cli.options import Options
from policyctl.cli.selection import Overrides
from policyctl.cli.session import DirectoryFiles
from policyctl.errors import PolicyctlError, RemoteError, UsageError
from policyctl.lint.directory import variable_warnings
from policyctl.load.discovery import find_config, load_config, stamp, stamps
from policyctl.load.environment import EnvironmentFilter
from policyctl.load.git import git_folder, repository_top
from policyctl.load.kinds import CONFIG_FILE
from policyctl.load.source import read_bytes
from policyctl.plan.approval import Approval, SettingsMarks, adds_up, begun_at, newest, replaced, standing
from policyctl.plan.plan import Selection
from policyctl.policy.findings import without_userinfo
from policyctl.watch.look import Look, Settled

if TYPE_CHECKING:
    from policyctl.ci.forge import Forge
    from policyctl.load.environment import Environment
    from policyctl.load.git.revision import Revision
    from policyctl.load.past import SettingsHistory
    from policyctl.plan.safety import Review

_SUFFIXES = (".yaml", ".yml", ".json", ".csv")
_TRIES = 3  # to read a directory that does not change meanwhile
_SHORT = 12


class Opened(NamedTuple):
    """The environments and files of a revision: its commit, if it is known, the directory's path in the repository, the branch,
    and how settings changed in it. What is only in a mirror has `then`."""

    fleet: Fleet
    commit: str | None = None
    place: str = ""
    branch: str = ""
    history: SettingsHistory | None = None
    then: Revision | None = None

    @property
    def mirrored(self) -> str | None:
        """The commit, if its files are only in a mirror."""
        return None if self.then is None else self.commit

    @property
    def access_of(self) -> Callable[[Environment], str]:
        """What gives how the remote of an environment is reached, as a hash, as an approval has it."""
        from policyctl.load.base_config import access_at, access_now

        fleet = self.fleet
        if self.then is None:
            return access_now(fleet.options.dir, fleet.config)
        return partial(access_at, self.then, fleet.config)

    @property
    def top(self) -> Path | None:
        """The top of the repository, or of the mirror; None outside of one."""
        return repository_top(self.fleet.options.dir.absolute()) if self.then is None else self.then.top

    @property
    def referred(self) -> list[str]:
        """The paths of the files that settings refer to, from the top of the repository."""
        from policyctl.load.base_config import referred_paths

        return [] if self.top is None else referred_paths(self.top, self.fleet.config)

    def access(self, name: str) -> str:
        """The same of the environment of a name."""
        return self.access_of(self.fleet.config.environments[name])

    def approvals_for(self, name: str) -> ApprovalPlace:
        """What approvals of an environment are for."""
        return ApprovalPlace(name, self.place, self.top, self.referred)

    def shown(self, name: str, since: Iterable[str], approvals: Sequence[Approval], *, way_only: bool = False) -> bool:
        """Whether approved plans showed each change of an environment's settings since one of those commits; see
        `settings_shown`."""
        now = SettingsMarks(self.access(name), self.fleet.config.environments[name].rules)
        return settings_shown(self.history, name, now, since, approvals, way_only=way_only)


class WatchSource(Protocol):
    """Files that are watched. `place` is the path of their directory in the repository."""

    place: str

    def fetch(self, stopped: Callable[[], bool] = lambda: False, /) -> str:
        """The revision that they have now. Raises PolicyctlError, also soon after it was `stopped`."""

    def open(self, revision: str) -> Opened:
        """The files of that revision. Raises PolicyctlError."""

    def is_same(self, opened: Opened, revision: str, /) -> bool:
        """Whether a later revision, which was fetched, is known to change none of the opened files. Raises PolicyctlError."""

    def uncommitted(self, opened: Opened, /) -> str | None:
        """Why the opened files may not be those of a commit; None if they are, or are not in a repository."""


class DirectorySource:
    """A directory of the disk. Its revision is the checked out commit and a hash of the sizes and times of all that is read."""

    def __init__(self, options: Options, chosen: EnvironmentFilter) -> None:
        self._options, self._chosen = options, chosen
        self._mark = self._revision = ""
        self._beside: list[Path] = []  # what policyctl.yaml refers to
        self.place = _place_of(options.dir)

    def fetch(self, _stopped: Callable[[], bool] = lambda: False, /) -> str:  # reading files needs no stop
        from policyctl.load.git.checkout import checked_out  # imports subprocess

        if self._stamped() != self._mark:
            self._beside = self._find_beside()
            self._mark, commits = self._stamped(), checked_out(self._options.dir)
            self._revision = f"{commits[0][:_SHORT]}+{self._mark}" if commits else self._mark
        return self._revision

    def is_same(self, _opened: Opened, _revision: str, /) -> bool:
        return False  # each revision is one of what is read

    def _stamped(self) -> str:
        found, top = [*stamps(self._options.dir, _SUFFIXES)], repository_top(self._options.dir.absolute())
        if top is not None:
            found.append(stamp(str(git_folder(top) / "logs" / "HEAD")))  # which each commit and checkout writes
        found += [stamp(str(path)) for path in self._beside]
        return hashlib.sha256(repr(found).encode()).hexdigest()[:_SHORT]

    def _find_beside(self) -> list[Path]:
        """The inventories, and the files in the repository that settings refer to; none of a configuration that is broken."""
        from policyctl.load.base_config import referred_paths

        try:
            config, top = load_config(find_config(self._options.dir)), repository_top(self._options.dir.absolute())
        except PolicyctlError:
            return []
        return [*config.inventories, *([] if top is None else (top / path for path in referred_paths(top, config)))]

    def open(self, revision: str) -> Opened:
        from policyctl.load.git.checkout import checked_out, default_branch
        from policyctl.load.past import SettingsHistory

        for _ in range(_TRIES):
            fleet = open_fleet(self._options, self._chosen, tests=True, marks=True)
            if (now := self.fetch()) == revision:
                break
            revision = now
        else:
            raise PolicyctlError(
                f"{self._options.dir} changes all the time, so it cannot be read as a whole; it is tried again"
            )
        commits = checked_out(self._options.dir)
        branch = (default_branch(self._options.dir) or "") if commits else ""
        history = SettingsHistory(self._options.dir, commits[0], fleet.config) if commits else None
        return Opened(fleet, commits[0] if commits else None, self.place, branch, history)

    def uncommitted(self, opened: Opened) -> str | None:
        from policyctl.load.git.checkout import is_as_committed, unlike_commit
        from policyctl.load.git.repository import find_repository

        try:
            repository = find_repository(self._options.dir)
        except PolicyctlError as error:
            return str(error)
        if repository is None:
            return None
        if (repository.git_folder / "index.lock").exists():
            return "git is at work there, or was cut off (index.lock)"
        if not is_as_committed(self._options.dir, CONFIG_FILE):
            return "git status shows what differs"
        fleet = opened.fleet
        own = [path for path in (fleet.config.path, *fleet.config.inventories) if path is not None]
        try:
            read = fleet.files.files.contents | {os.path.realpath(path): read_bytes(path) for path in own}
            beside = {os.path.realpath(path): read_bytes(path) for path in self._beside if path.is_file()}
            differ, unknown = unlike_commit(self._options.dir, beside | read)
        except PolicyctlError as error:
            return str(error)
        found = sorted({*differ, *(file for file in unknown if file in read)})  # a secret may well be in no commit
        return f"no commit has {found[0]} as it is" if found else None


def _place_of(directory: Path) -> str:
    from policyctl.cli.console import repository_path

    return repository_path(str(directory))


def source_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --source, --ref and --state, where files may come from a git repository."""
    for option in (
        click.option(
            "--state",
            type=click.Path(path_type=Path, file_okay=False),
            metavar="DIR",
            help="Where to keep the mirror of --source, and what a watch remembers. Default: .policyctl beside the policy "
            "directory, with --source here.",
        ),
        click.option("--ref", default="HEAD", show_default=True, metavar="BRANCH", help="With --source: which branch."),
        click.option(
            "--source",
            metavar="REPOSITORY",
            help="Use a branch of this git repository (a URL or a path) instead of a directory here. It is fetched into a "
            "mirror; nothing is checked out.",
        ),
    ):
        function = option(function)
    return function


def mirror_of(options: Options, chosen: EnvironmentFilter, source: str | None, ref: str, state: Path) -> MirrorSource | None:
    """The mirror of a --source; None without one. Raises UsageError for a --ref without one, and as MirrorSource does."""
    if source is None and ref != "HEAD":
        raise UsageError("--ref is for --source; a directory is read as it is")
    return None if source is None else MirrorSource(options, chosen, source, ref, state)


def _content(then: Revision, path: Path) -> bytes:
    """The content of a file in a mirror; empty if it is not there."""
    entries = then.entries([path.relative_to(then.top).as_posix()])
    return next(iter(then.contents(entries).values()), b"")


class MirrorSource:
    """A branch of a git repository, fetched into a bare mirror in the state folder."""

    def __init__(self, options: Options, chosen: EnvironmentFilter, url: str, ref: str, state: Path) -> None:
        """Raises UsageError for a source with a password in it, and for a directory that is not a path in the repository."""
        if without_userinfo(url) != url:
            raise UsageError("--source has a user or password in it; let git ask a credential helper, or use an SSH key")
        if url.startswith("-") or "::" in url:
            raise UsageError(f"--source {url} is not the URL or path of a repository")
        directory = options.dir if "dir" in options.given else Path("policies")
        if directory.is_absolute() or ".." in directory.parts:
            raise UsageError(f"with --source, --dir is a path in the repository, and {directory} is not one")
        self._url = str(Path(url).absolute()) if Path(url).is_dir() else url
        name = hashlib.sha256(self._url.encode()).hexdigest()[:8]
        self._top, self._ref, self._chosen = state.absolute() / f"mirror-{name}", ref, chosen
        self.place = directory.as_posix()
        self._options = options._replace(dir=self._top / directory)

    def fetch(self, stopped: Callable[[], bool] = lambda: False) -> str:
        from policyctl.load.git.repository import fetch_mirror
        from policyctl.load.source import make_folder

        make_folder(self._top)
        return fetch_mirror(self._top, self._url, self._ref, stopped)

    def has(self, revision: str) -> bool:
        """Whether the branch has that commit, as it was fetched last: one that was taken back is still in the mirror. Raises
        UsageError for a commit that is not even there, and PolicyctlError if git cannot tell."""
        from policyctl.load.git.revision import Revision

        return Revision(self._options.dir, revision).is_behind_head()

    def is_same(self, opened: Opened, revision: str) -> bool:
        from policyctl.load.base_config import config_paths
        from policyctl.load.git.revision import Revision

        then = opened.then
        if then is None or not then.folder:
            return False
        paths = [then.folder, *config_paths(then.folder), *opened.referred]
        return then.entries(paths) == Revision(self._options.dir, revision).entries(paths)

    def uncommitted(self, _opened: Opened, /) -> str | None:  # whatever it is, it is of a commit
        return None

    def open(self, revision: str, selection: Selection = Selection(), overrides: Overrides = Overrides()) -> Opened:
        """As `WatchSource.open`, for some of the policies."""
        from policyctl.load.base_config import config_at, held_at, in_checkout
        from policyctl.load.git.revision import Revision
        from policyctl.load.past import SettingsHistory, files_at

        then = Revision(self._options.dir, revision)
        config = config_at(then)
        is_inventory, config = config.is_inventory, in_checkout(config, then)
        names = choose(self._options, config, self._chosen)
        files = files_at(then, is_inventory=is_inventory, several=True, tests=True)
        if not files.names:
            where = "the repository" if self.place == "." else self.place
            raise PolicyctlError(f"{where} has no policy file at {revision[:_SHORT]}; see --dir")
        own = DirectoryFiles(
            self._options, config, config.lint, lenient=False, deep=True, tests=True, several=True, files=files
        )
        own.read = partial(_content, then)
        own.raise_if_broken(config, names)
        console = Console(self._options)
        console.problems(variable_warnings(config))
        fleet = Fleet(self._options, console, config, names, selection, overrides, own, tests=True, marks=True)
        fleet.chosen = self._chosen
        branch = self._ref.removeprefix("refs/heads/")
        fleet.referred = held_at(then, config)
        history = SettingsHistory(self._options.dir, revision, config)
        return Opened(fleet, revision, self.place, "" if branch == "HEAD" else branch, history, then)


_LATE_SECONDS = 60.0  # after this a service lists each merge that was in the files when they came into use
_WHOSE = "an approval"
_NEW_SETTINGS = (
    "a change of the remote or of the safety settings was in no plan of a merged pull request; policyctl help watch shows how "
    "a person approves it, or start the watch with another --state"
)


class LookedPlan(NamedTuple):
    """What a look planned, the revision that it looked at, and the last commit whose settings were approved before."""

    opened: Opened
    commit: str = ""
    review: Review | None = None


def looked(look: Look) -> tuple[Opened, Review]:
    """The revision and the plan of a look that has one."""
    opened, _, review = cast("LookedPlan", look.plan)
    assert review is not None  # noqa: S101 - without one nothing differs, so neither an apply nor an approval is asked for
    return opened, review


class Taken(NamedTuple):
    """What a watch began to apply of an environment: the hash of its files then (see `Watched`), and of the approvals the pull
    request and the commit that is noted on it."""

    fingerprint: str
    begun: frozenset[tuple[str, str]]


class UsedApprovals:
    """The approvals that a watch takes. Each is noted on its pull request as used directly before the first write, by the
    process that writes, so none counts for another commit, wherever that ends; this process goes on with what it took as long
    as the files of the environment stay the same. Several threads may use it, each for environments of its own."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock, self._used_at, self._again_at = clock, 0.0, inf
        self._shared: SharedMerges | None = None
        self._reading = Lock()
        self._settled: set[str] = set()  # environments of which was noted what a late reading found
        self._taken: dict[str, Taken] = {}  # by environment
        self._files: Mapping[str, str] = {}
        self._lock = Lock()
        self._owing: set[str] = set()  # environments that are in sync, which could not be noted
        self._holds: dict[str, tuple[Look, list[Approval]]] = {}  # by environment, what approved a plan

    def use(self, files: Mapping[str, str]) -> None:
        """Note that other files are in use, by environment a hash of each: what was taken for those of before is used up."""
        with self._lock:
            self._used_at, self._settled = self._clock(), set()
            self._again_at = self._used_at + _LATE_SECONDS
            self._files = files
            self._taken = {name: one for name, one in self._taken.items() if files.get(name) == one.fingerprint}

    def unapproved(self, look: Look, name: str) -> str | None:
        """Why no merged pull request approved this plan of an environment, as what it waits for; None if one did, which an
        apply of it `uses`.

        An approval counts if the plan is its own, or the sum of what counts of several (see `standing`), and approved plans
        showed each change of the settings. What only puts back what was in sync needs none, as long as no settings changed
        since any were approved. Raises PolicyctlError when the service cannot be asked.
        """
        opened, review = looked(look)
        plan, commit = review.plan, cast("LookedPlan", look.plan).commit
        if look.restores and opened.shown(name, [commit], ()):
            return None
        with _forge(opened) as forge:
            if isinstance(forge, str):
                return f"{_WHOSE}, which cannot be read: {forge}"
            found, last = self._found(forge, opened, name)
            if not_head := why_not_head(forge, opened.place, opened.referred):
                return f"{_WHOSE}: {not_head.why}"
            if not opened.shown(name, _since(commit, last), found):
                return f"{_WHOSE}: {_NEW_SETTINGS}"
            access = opened.access(name)
            top = newest(found, forge.commit)
            parts = [one for one in standing(found, forge.commit) if one.terms is not None and one.terms.access == access]
            if not ((top is not None and top.digest == plan.digest) or (parts and adds_up(parts, plan))):
                why = f"{difference(found, parts, forge.commit, plan)} ({plan.digest})"
                return f"{_WHOSE}: {why}; policyctl apply by hand, or a new pull request"
            self._holds[name] = (look, [one for one in found if one.holds(forge.commit)])
        return None

    def uses(self, look: Look, name: str) -> tuple[str, ...]:
        """The pull requests on which an apply of the plan of a look notes, directly before it writes, that it uses them."""
        return tuple(one.source for one in self._holding(look, name) if not one.begun)

    def begin(self, look: Look, name: str) -> None:
        """Note that on these. Raises PolicyctlError if it cannot be: then nothing must be written."""
        opened = looked(look)[0]
        note_use(service_at(os.environ, opened.commit, opened.branch), name, opened.place, self.uses(look, name), BY_WATCH)
        self.take(look, name)

    def take(self, look: Look, name: str) -> None:
        """Go on with what approved the plan of a look, as long as the files stay the same."""
        holding, commit = self._holding(look, name), looked(look)[0].commit or ""
        commits = self._commits(name) | dict.fromkeys(self.uses(look, name), commit)
        with self._lock:
            if holding and self._files.get(name) == look.fingerprint:
                begun = frozenset((one.source, commits.get(one.source, one.begun)) for one in holding)
                self._taken[name] = Taken(look.fingerprint, begun)

    def _holding(self, look: Look, name: str) -> Sequence[Approval]:
        """What approved the plan of a look; nothing if that needed no approval."""
        approved, holding = self._holds.get(name, (None, ()))
        return holding if approved is look else ()

    def _commits(self, name: str) -> dict[str, str]:
        """The commits that are noted on the pull requests that this process goes on with."""
        taken = self._taken.get(name)
        return {} if taken is None else dict(taken.begun)

    def _found(self, forge: Forge, opened: Opened, name: str) -> tuple[list[Approval], Approval | None]:
        """What waits, the newest first, and the last that was applied; what this process goes on with counts as begun by the
        commit of now."""
        mine = self._commits(name).items()
        found, last = approvals_of(forge, opened.approvals_for(name))
        return [one._replace(begun=forge.commit) if (one.source, one.begun) in mine else one for one in found], last

    def owes(self, name: str) -> bool:
        """Whether something could not be noted yet, or the service may have listed a merge too late for that."""
        return name in self._owing or (self._clock() >= self._again_at and name not in self._settled)

    def settle(self, look: Look, name: str) -> Settled | None:
        """Note that an environment has what the files want, so that nothing is approved for it any more. Returns which settings
        are approved from now on; None if that is not known."""
        try:
            settled = self._use_up(look, name)
        except Exception:  # noqa: BLE001 - whatever the service answers, the environment is in sync
            self._owing.add(name)
            return None
        self._owing.discard(name)
        return settled

    def _use_up(self, look: Look, name: str) -> Settled:
        """Note on the pull requests that wait that they are applied. Raises PolicyctlError if that cannot be done."""
        opened, known, _ = cast("LookedPlan", look.plan)
        with _forge(opened) as forge:
            if isinstance(forge, str):
                raise RemoteError(forge)
            began, waits, last = self._read_once(forge, opened, name)
            found = list[Approval]()
            if waits:
                found, last = approvals_of(forge, opened.approvals_for(name))
                if not_head := why_not_head(forge, opened.place, opened.referred):
                    raise RemoteError(not_head.why)
            since = _since(known, last)
            is_shown = begun_at(found, forge.commit) or opened.shown(name, since, found)
            commit = (opened.commit or "") if is_shown else next(iter(since), "")
            seen, old = {one.source for one in found}, replaced(found)  # what was merged since is not in these files
            for merge, comments in reversed(waiting_merges(forge, name, opened.place)[0]) if found else ():
                for one in comments if merge.name in seen else ():
                    sentence = REPLACED if merge.name in old else "Applied, as policyctl watch found, or taken back before."
                    forge.rewrite(one, applied(one.body, sentence, commit))
            self._taken.pop(name, None)
            self._note_settled(name, began)
            return Settled(commit, changed=not opened.shown(name, [known], ()))

    def _read_once(self, forge: Forge, opened: Opened, name: str) -> tuple[float, bool, Approval | None]:
        """Whether anything waits for an environment, and the last that was applied, by what was read once for all of them while
        these files are in use, and once more later; and when that was read. What this process took itself may be newer."""
        if name in self._taken:
            return self._clock(), True, None
        with self._reading:
            now = self._clock()
            shared, since = self._shared, self._again_at if now >= self._again_at else self._used_at
            if shared is None or shared.began <= since:
                shared = self._shared = SharedMerges(forge, now, shared)
        return shared.began, *shared.wait(forge, name, opened.place)

    def _note_settled(self, name: str, began: float) -> None:
        with self._lock:
            if began >= self._again_at:
                self._settled.add(name)


def unapproved_access(opened: Opened, name: str, access: str, commit: str) -> str | None:
    """Why this way to the remote of an environment (see `access_at`) is not approved: the plans of merged pull requests do not
    show each change of it since this `commit`, or since the last one that an apply noted. None if they do. Raises RemoteError
    when the service cannot be asked."""
    if opened.access(name) != access:
        return "other files are in use by now"
    with _forge(opened) as forge:
        if isinstance(forge, str):
            raise RemoteError(f"no approval can be read: {forge}")
        found, last = approvals_of(forge, opened.approvals_for(name))
        if not_head := why_not_head(forge, opened.place, opened.referred):
            return not_head.why
    if opened.shown(name, _since(commit, last), found, way_only=True):
        return None
    why = "no merged pull request shows it; read it, then start the watch with another --state"
    by_hand = "or apply by hand the first pull request with a page for it, and note that with policyctl ci applied --digest"
    return why if commit else f"{why}, {by_hand}"


def _since(commit: str, last: Approval | None) -> list[str]:
    """The commits whose settings are approved: that which a watch knows of, and that which the last apply noted. What is
    further back than merges are read counts as applied, but nothing noted that."""
    return [one for one in (commit, last.commit if last is not None and last.source else "") if one]


def _forge(opened: Opened) -> AbstractContextManager[Forge | str]:
    """The service that has the approvals, or why it cannot be asked."""
    return service_or_why(service_at(os.environ, opened.commit, opened.branch))
