"""What a command works on: the policy directory, its configuration, the chosen environment and its remote."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from policyctl.cli.console import Console
from policyctl.cli.options import Options
from policyctl.errors import InvalidInput, Mark, Problem, Refused, UsageError, errors_in
from policyctl.lint.directory import Linter
from policyctl.lint.settings import idle_include, variable_warnings
from policyctl.load.atomic import STATE_FOLDER
from policyctl.load.directory import Files, Loaded
from policyctl.load.discovery import Found, find_config, find_files, load_config
from policyctl.load.environment import Config, Environment
from policyctl.load.source import read_bytes
from policyctl.load.unread import UnreadFiles, gap_problems, missing_config, why_nothing
from policyctl.load.urls import LOCAL, SQLITE, remote_url_error
from policyctl.remote.open import Access, open_reader
from policyctl.remote.protocol import Reader
from policyctl.rules import Chosen

if TYPE_CHECKING:
    from policyctl.load.base_config import BaseConfig


class OpenedDirectory(NamedTuple):
    """A directory as read for one environment: its files, what they contain, and which files were not read."""

    files: Files
    loaded: Loaded
    unread: UnreadFiles

    def raise_if_errors(self) -> None:
        """Raise InvalidInput when a file has an error. Warnings are left to validate and plan."""
        if errors_in(self.loaded.problems):
            raise InvalidInput(self.loaded.problems)


@dataclass(frozen=True, slots=True)
class Session:
    """One run of a command: its options and console, the configuration, and the chosen environment with its remote.

    `remote` is as the user wrote it, `url` is complete, and `access` is how to log in. `lint` are the rules that are checked:
    with a base those of the base.
    """

    options: Options
    console: Console
    config: Config
    lint: Chosen
    environment: Environment
    remote: str
    url: str
    access: Access

    def reader(self) -> Reader:
        """The environment's remote, to read only."""
        return open_reader(self.url, self.access)

    def read(
        self, *, lenient: bool = False, deep: bool = False, tests: bool = False, as_committed: bool = False
    ) -> OpenedDirectory:
        """The directory's policies for the chosen environment. Raises InvalidInput with every error, and prints warnings.

        When `lenient`, problems are left to the caller, and the directory may be missing or empty. `deep` adds the warnings of
        the effect engine; with `tests` scenario tests are read, and their problems count. When the directory is compared with
        a revision, `as_committed` raises Refused for a file that git converts on checkout.
        """
        directory, progress = self.options.dir, self.console.progress
        found = find_files(directory, may_be_empty=lenient)
        found.files = [file for file in found.files if not self.config.is_inventory(file)]
        self._report_nested(found)
        files = Files(found.files, found.problems, directory, whole=True, tests=tests)
        if as_committed:
            _refuse_converted(directory, self.config.path, files.contents)
        with progress.of("Loading", "file", len(found.files)) as step:
            loaded = files.load(self.environment, step)
        linter = Linter(files, self.lint.codes(), deep=deep)
        with progress.of("Checking", "policy", len(loaded.policies)) as step:
            loaded = linter.check(loaded, self.environment, step)
        unread = UnreadFiles(directory, found, files, loaded, self.environment)
        more = (
            *idle_include(self.config, self.environment, files, unread.paths, linter.codes),
            *gap_problems(directory, unread.gaps, linter.codes),
        )
        opened = OpenedDirectory(files, loaded._replace(problems=tuple(sorted((*loaded.problems, *more)))), unread)
        if not lenient:
            self._raise_if_invalid(opened, tests)
        return opened

    def _report_nested(self, found: Found) -> None:
        """Add a problem for each configuration below the one in use."""
        own = self.config.path.resolve() if self.config.path else None
        message = f"plan this directory by itself with --dir, or merge its settings into {self.config.path or 'the one above'}"
        nested = [path for path in found.configs if path.resolve() != own]
        found.problems += [Problem(Mark(str(path)), "P305", f"a second configuration; {message}") for path in nested]

    def _raise_if_invalid(self, opened: OpenedDirectory, tests: bool) -> None:
        loaded, directory = opened.loaded, self.options.dir
        problems = (*loaded.problems, *(loaded.test_problems if tests else ()))
        if errors_in(problems):
            raise InvalidInput(problems)
        if not loaded.desired:
            nothing = why_nothing(directory, opened.unread.gaps) or "; write one, or widen its include"
            why = f"holds no policy for environment {self.environment.name}{nothing}"
            idle = [problem for problem in problems if problem.code == "P473"]
            raise InvalidInput([Problem(Mark(str(directory)), "P016", why), *idle])
        self.console.problems((*variable_warnings(self.config), *loaded.problems))


def open_session(options: Options, environment: str | None = None, base: BaseConfig | None = None) -> Session:
    """Choose the environment (the one named, else --env, else the default) and the remote.

    With a `base`, everything of the environment but its variables and `include` is as it is there. Raises Refused when the
    checkout lacks the policyctl.yaml in use: its safety settings would be ignored.
    """
    path = find_config(options.dir)
    if absent := missing_config(options.dir, path):
        raise Refused(
            f"{absent.file} is in git but not on this disk, so its settings are unknown: {absent.why}; {absent.remedy}"
        )
    config = source = load_config(path)
    if base is None:
        chosen = config.environment(environment or options.environment)
    else:
        _refuse_link(path)
        chosen = base.holds_for(base.choose(environment or options.environment, config), own_remote=options.remote is None)
        source = base.config
    if options.remote is not None and (complaint := remote_url_error(options.remote)):
        raise UsageError(f"--remote {complaint}")
    folder = Path() if source.path is None else source.path.parent
    start = Path() if options.remote is not None else folder
    remote = options.remote or chosen.remote
    url = _remote_url(remote, chosen.name, options.dir, start)
    held = {} if base is None else base.held
    access = Access(chosen.auth, chosen.ca_file, folder, options.dir, chosen, held).for_remote(url, chosen.remote)
    return Session(options, Console(options), config, source.lint, chosen, remote, url, access)


def _refuse_link(config: Path | None) -> None:
    """Raise Refused for a configuration that a branch has as a link: once merged, no later branch could be compared with it."""
    if config is not None and config.is_symlink():
        raise Refused(f"{config} is a link, which is not followed at a git revision; put the file itself in its place")


def _refuse_converted(directory: Path, config: Path | None, contents: dict[str, bytes]) -> None:
    """Raise Refused for an unedited file whose content on disk differs from what git has."""
    from policyctl.load.git.checkout import converted  # imports subprocess

    own = {} if config is None else {str(config): read_bytes(config)}
    if found := converted(directory, contents | own):
        raise Refused(
            f"{found.file} differs on this disk from git: {found.why}; so it cannot be compared with a revision. "
            "Let git store it unconverted, and check it out again"
        )


def _remote_url(remote: str, environment: str, directory: Path, base: Path) -> str:
    """The complete URL: `local` is a database beside the directory, and a relative database path starts from `base`."""
    if remote == LOCAL:
        return f"{SQLITE}{Path(os.path.abspath(directory)).parent / STATE_FOLDER / environment}.db"
    if remote.startswith(SQLITE):
        return f"{SQLITE}{base / remote.removeprefix(SQLITE)}"
    return remote
