"""What a command works on: the policy directory, its configuration, the chosen environment and its remote."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from policyctl.cli.console import Console, Progress
from policyctl.cli.options import Options
from policyctl.errors import InvalidInput, Mark, Problem, Refused, UsageError, errors_in
from policyctl.lint.directory import Linter, idle_include, variable_warnings
from policyctl.load.directory import Files, Loaded
from policyctl.load.discovery import (
    Found,
    UnreadFiles,
    find_config,
    find_files,
    gap_problems,
    load_config,
    missing_config,
    why_nothing,
)
from policyctl.load.environment import Config, Environment
from policyctl.load.kinds import CONFIG_FILE, is_templated
from policyctl.load.source import read_bytes, state_folder
from policyctl.load.urls import LOCAL, SQLITE, is_shared, remote_url_error
from policyctl.plan.settings import Settings
from policyctl.policy.document import digest
from policyctl.remote import Reader
from policyctl.remote.open import Access, open_reader
from policyctl.rules import Chosen

if TYPE_CHECKING:
    from policyctl.load.base_config import BaseCommits, BaseConfig
    from policyctl.load.past import PastDirectory
    from policyctl.reconcile.audit import AuditRecord
    from policyctl.reconcile.drift import Evidence


class OpenedDirectory(NamedTuple):
    """A directory as read for one environment: its files, what they contain, and which files were not read."""

    files: Files
    loaded: Loaded
    unread: UnreadFiles

    def raise_if_errors(self) -> None:
        """Raise InvalidInput when a file has an error. Warnings are left to validate and plan."""
        if errors_in(self.loaded.problems):
            raise InvalidInput(self.loaded.problems)


class DirectoryFiles:
    """The files of a directory, found and read once. What they contain is kept for environments with the same settings.

    Several threads may use it at once.
    """

    def __init__(
        self,
        options: Options,
        config: Config,
        lint: Chosen,
        *,
        lenient: bool,
        deep: bool,
        tests: bool,
        several: bool = False,
        past: PastDirectory | None = None,
        files: Files | None = None,
    ) -> None:
        """`several` keeps what was parsed for other environments. With `past` the files are those of then, without tests. A
        caller who does not have the `files` on the disk gives them."""
        files = past.files(several=several) if past is not None else files
        if files is not None:
            self.found, self.files = Found(), files
        else:
            self.found = find_files(options.dir, may_be_empty=lenient)
            self.found.files = [file for file in self.found.files if not config.is_inventory(file)]
            self.found.problems += _nested(self.found, config)
            self.files = Files(self.found.files, self.found.problems, options.dir, whole=True, tests=tests, several=several)
        self.linter = Linter(self.files, lint.codes(), deep=deep)
        self._several, self._directory, self._config = several, options.dir, config
        self._is_as_committed = False
        self._lock = threading.Lock()
        self._known: dict[str, Loaded] = {}  # by what decides the content, where no problem names the environment
        self._evidence: dict[tuple[int | None, str | None], Evidence] = {}
        self.read: Callable[[Path], bytes] = read_bytes  # what configuration and inventories contain

    def load(self, environment: Environment, progress: Progress) -> Loaded:
        """What the files contain for one environment, with its problems."""
        # On an embedded remote without a scope a policy exists only with a file.
        key = f"{is_shared(environment.remote)} {environment.digest}" if self._several else ""
        with self._lock:
            if (known := self._known.get(key)) is not None:
                return known
            with progress.of("Loading", "file", len(self.files.names)) as step:
                loaded = self.files.load(environment, step)
            with progress.of("Checking", "policy", len(loaded.policies)) as step:
                loaded = self.linter.check(loaded, environment, step)
            if self._several and not loaded.problems:
                self._known[key] = loaded
            return loaded

    def raise_if_converted(self) -> None:
        """Raise Refused for an unedited file whose content on disk differs from what git has. Git is asked once."""
        with self._lock:
            if not self._is_as_committed:
                _refuse_converted(self._directory, self._config, self.files.contents)
            self._is_as_committed = True

    def digest(self, config: Config) -> str:
        """A hash of all files that were read, with those of a configuration, by their paths from the directory."""
        contents = {self.files.relative(file): content for file, content in self.files.contents.items()}
        contents |= {f"{CONFIG_FILE}:{place}": self.read(file) for place, file in enumerate(_files_of(config))}
        return digest({name: hashlib.sha256(content).hexdigest() for name, content in contents.items()})

    def evidence(self, extent: tuple[int | None, str | None], make: Callable[[], Evidence]) -> Evidence:
        """What shows who moved a policy, made once for each extent."""
        with self._lock:
            if extent not in self._evidence:
                self._evidence[extent] = make()
            return self._evidence[extent]

    def raise_if_broken(self, config: Config, names: Iterable[str]) -> None:
        """Raise InvalidInput for errors that these environments have in common, and that no variables or scope could mend."""
        usable = [name for name in names or config.environments if name in config.environments]
        chosen = [config.environments[name] for name in usable] or [config.shared]
        common: list[Problem] | None = None
        for include, models in dict.fromkeys((one.include, one.settings.models) for one in chosen):
            plain = replace(config.shared, include=include, settings=Settings(models=models))
            found = errors_in(self.files.load(plain).problems)
            common = found if common is None else [one for one in common if one in found]
            if not common:
                return
        if broken := [one for one in common or () if not is_templated(self.files.contents.get(one.mark.file, b""))]:
            raise InvalidInput(broken)


def _nested(found: Found, config: Config) -> Iterator[Problem]:
    """A problem for each configuration below the one in use."""
    own = config.path.resolve() if config.path else None
    message = f"plan this directory by itself with --dir, or merge its settings into {config.path or 'the one above'}"
    for path in found.configs:
        if path.resolve() != own:
            yield Problem(Mark(str(path)), "P305", f"a second configuration; {message}")


class Session(NamedTuple):
    """One run of a command: its options and console, the configuration, and the chosen environment with its remote.

    `remote` is as the user wrote it, `url` is complete, and `access` is how to log in. `lint` are the rules that are checked:
    with a base those of the base. `directory` is shared by the sessions of several environments. `past` is the directory as it
    was, for going back to it. `opened` is the remote, if it is open already.
    """

    options: Options
    console: Console
    config: Config
    lint: Chosen
    environment: Environment
    remote: str
    url: str
    access: Access
    directory: DirectoryFiles | None = None
    past: PastDirectory | None = None
    opened: Reader | None = None

    def evidence(self, audit: AuditRecord | None, within: int | None = None, base: BaseCommits | None = None) -> Evidence:
        """What shows who moved a policy; `within` is how many commits of the repository to look at, and `base` has
        the revision that must have them. Environments that share a directory share it."""
        from policyctl.reconcile.drift import Evidence  # with git behind it

        revision = None if base is None else base.revision

        def make() -> Evidence:
            return Evidence(self.options.dir, self.config, audit, within, revision)

        return make() if self.directory is None else self.directory.evidence((within, revision), make)

    @property
    def whole(self) -> Session:
        """The same, with virtual models read whether they are managed or not, and nothing out of scope: as a gateway does."""
        whole = replace(self.environment, settings=self.environment.settings._replace(models=True, scope=None))
        return self._replace(environment=whole, access=self.access._replace(environment=whole))

    def reader(self) -> Reader:
        """The environment's remote, to read only."""
        return open_reader(self.url, self.access) if self.opened is None else self.opened

    def read(
        self, *, lenient: bool = False, deep: bool = False, tests: bool = False, as_committed: bool = False
    ) -> OpenedDirectory:
        """The directory's policies for the chosen environment. Raises InvalidInput with every error, and prints warnings.

        When `lenient`, problems are left to the caller, and the directory may be missing or empty. `deep` adds the warnings of
        the effect engine; with `tests` scenario tests are read, and their problems count. When the directory is compared with
        a revision, `as_committed` raises Refused for a file that git converts on checkout.
        """
        directory = self.options.dir
        own = self.directory or DirectoryFiles(
            self.options, self.config, self.lint, lenient=lenient, deep=deep, tests=tests, past=self.past
        )
        found, files, linter = own.found, own.files, own.linter
        if as_committed and self.past is None:
            own.raise_if_converted()
        loaded = own.load(self.environment, self.console.progress)
        unread = UnreadFiles(directory, found, files, loaded, self.environment)
        more: tuple[Problem, ...] = ()
        if self.past is None:  # a checkout may lack files, and today's `include` is not the one that holds then
            more = (
                *idle_include(self.config, self.environment, files, unread.paths, linter.codes),
                *gap_problems(directory, unread.gaps, linter.codes),
            )
        opened = OpenedDirectory(files, loaded._replace(problems=tuple(sorted((*loaded.problems, *more)))), unread)
        if not lenient:
            self._raise_if_invalid(opened, tests)
        return opened

    def _raise_if_invalid(self, opened: OpenedDirectory, tests: bool) -> None:
        loaded, directory = opened.loaded, self.options.dir
        problems = (*loaded.problems, *(loaded.test_problems if tests else ()))
        if errors_in(problems):
            raise InvalidInput(problems)
        if not loaded.desired:
            nothing = why_nothing(directory, opened.unread.gaps) or "; write one, or widen its include"
            why = f"holds no policy for environment {self.environment.name}{nothing}"
            idle = [problem for problem in problems if problem.code == "P473"]
            raise InvalidInput([Problem(Mark(str(opened.files.root or directory)), "P016", why), *idle])
        # Those of several environments are shown once, by what shares the directory.
        warnings = variable_warnings(self.config) if self.directory is None and self.past is None else []
        self.console.problems((*warnings, *loaded.problems))


def open_session(
    options: Options, environment: str | None = None, base: BaseConfig | None = None, past: PastDirectory | None = None
) -> Session:
    """Choose the environment (the one named, else --env, else the default) and the remote.

    With a `base`, everything of the environment but its variables and `include` is as it is there; with a `past`, only those
    are, and the files. Raises Refused when the checkout lacks the policyctl.yaml in use: its safety settings would be ignored.
    """
    config = open_config(options)
    return session_of(options, config, environment or options.environment, base, past)


def open_config(options: Options) -> Config:
    """The configuration of the policy directory. Raises Refused when git has one that the checkout lacks."""
    path = find_config(options.dir)
    if absent := missing_config(options.dir, path):
        raise Refused(
            f"{absent.file} is in git but not on this disk, so its settings are unknown: {absent.why}; {absent.remedy}"
        )
    return load_config(path)


def session_of(
    options: Options,
    config: Config,
    environment: str | None,
    base: BaseConfig | None = None,
    past: PastDirectory | None = None,
) -> Session:
    """The session of an environment of a configuration (None: the default one); see `open_session`."""
    source = config
    if base is None:
        chosen = config.environment(environment)
    else:
        _refuse_links(config)
        chosen = base.holds_for(base.choose(environment, config), own_remote=options.remote is None)
        source = base.config
    if past is not None:
        chosen = past.environment(chosen)
    if options.remote is not None and (complaint := remote_url_error(options.remote)):
        raise UsageError(f"--remote {complaint}")
    folder = Path() if source.path is None else source.path.parent
    start = Path() if options.remote is not None else folder
    remote = options.remote or chosen.remote
    url = _remote_url(remote, chosen.name, options.dir, start)
    held = {} if base is None else base.held
    access = Access(chosen.auth, chosen.ca_file, folder, options.dir, chosen, held).for_remote(url, chosen.remote)
    return Session(options, Console(options), config, source.lint, chosen, remote, url, access, past=past)


def _refuse_links(config: Config) -> None:
    """Raise Refused for a configuration, or an inventory of it, that a branch has as a link: once merged, no later branch could
    be compared with it."""
    for file in _files_of(config):
        if file.is_symlink():
            raise Refused(f"{file} is a link, which is not followed at a git revision; put the file itself in its place")


def _files_of(config: Config) -> tuple[Path, ...]:
    """The files that a configuration was read from."""
    return (() if config.path is None else (config.path,)) + config.inventories


def _refuse_converted(directory: Path, config: Config, contents: dict[str, bytes]) -> None:
    """Raise Refused for an unedited file whose content on disk differs from what git has."""
    from policyctl.load.git.checkout import converted  # imports subprocess

    own = {str(file): read_bytes(file) for file in _files_of(config)}
    if found := converted(directory, contents | own):
        raise Refused(
            f"{found.file} differs on this disk from git: {found.why}; so it cannot be compared with a revision. "
            "Let git store it unconverted, and check it out again"
        )


def _remote_url(remote: str, environment: str, directory: Path, base: Path) -> str:
    """The complete URL: `local` is a database beside the directory, and a relative database path starts from `base`."""
    if remote == LOCAL:
        return _sqlite_url(state_folder(directory) / f"{environment}.db")
    if remote.startswith(SQLITE):
        return _sqlite_url(base / unquote(remote.removeprefix(SQLITE)))
    return remote


def _sqlite_url(path: Path) -> str:
    """The URL of a database; a % of its path, or of the working directory's, is not taken for the beginning of an escape."""
    return f"{SQLITE}{str(path).replace('%', '%25')}"
