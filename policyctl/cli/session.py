"""From the global options to a directory's policies, its environment and its remote."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from policyctl.cli.console import Console
from policyctl.cli.options import Options
from policyctl.errors import Incomplete, InvalidInput, Mark, PolicyctlError, Problem, Refused, UsageError, errors_in
from policyctl.load.atomic import STATE_FOLDER
from policyctl.load.config import find_config, load_config
from policyctl.load.directory import Files, Found, Loaded, find_files
from policyctl.load.environment import Config, Environment
from policyctl.load.idle import idle_include
from policyctl.load.source import read_bytes
from policyctl.load.unread import UnreadFiles, gap_problems, missing_config, why_nothing
from policyctl.load.urls import LOCAL, SQLITE, remote_url_error
from policyctl.policy.live import LivePolicy
from policyctl.reconcile.observe import look_up
from policyctl.remote.open import Access
from policyctl.remote.protocol import Reader
from policyctl.rules.catalogue import Chosen

if TYPE_CHECKING:
    from policyctl.load.base_config import BaseConfig


@dataclass(frozen=True, slots=True)
class Session:
    """Where a command works: the configuration, the chosen environment, and its remote: as written, its URL, how to get in.

    `lint` are the rules that are looked at: with a base those of the base.
    """

    config: Config
    lint: Chosen
    environment: Environment
    remote: str
    url: str
    access: Access = field(default_factory=Access)


def open_session(options: Options, environment: str | None = None, base: BaseConfig | None = None) -> Session:
    """Settle the environment (the one named, else --env, else the default) and the remote's URL.

    With a `base`, everything of the environment but its variables and `include` is as it is there. Raises Refused where the
    checkout leaves out the policyctl.yaml that holds: the safety settings in it would be gone.
    """
    path = find_config(options.dir)
    if absent := missing_config(options.dir, path):
        raise Refused(f"{absent.file} is in git and not on this disk, so no setting is known: {absent.why}; {absent.remedy}")
    config = settled = load_config(path)
    if base is None:
        chosen = config.environment(environment or options.env)
    else:
        chosen = base.holds_for(base.choose(environment or options.env, config), own_remote=options.remote is None)
        settled = base.config
    if options.remote is not None and (complaint := remote_url_error(options.remote)):
        raise UsageError(f"--remote {complaint}")
    folder = Path() if settled.path is None else settled.path.parent
    start = Path() if options.remote is not None else folder
    remote = options.remote or chosen.remote
    url = _remote_url(remote, chosen.name, options.dir, start)
    held = {} if base is None else base.held
    access = Access(chosen.auth, chosen.ca_file, folder, options.dir, chosen, held).for_remote(url, chosen.remote)
    return Session(config, settled.lint, chosen, remote, url, access)


class OpenedDirectory(NamedTuple):
    """A directory that was read for an environment: its files, what they say, and what was not read."""

    files: Files
    loaded: Loaded
    unread: UnreadFiles


def load_policies(
    options: Options, place: Session, console: Console, *, deep: bool = False, tests: bool = False, as_committed: bool = False
) -> OpenedDirectory:
    """The directory's policies for the chosen environment. Raises InvalidInput with every error; warnings are printed.

    `deep` asks for the warnings of the effect engine too; with `tests` scenario tests are read, and their problems count.
    Where it is read to be compared with a revision, `as_committed` raises Refused for a file that git converts on checkout.
    """
    opened = _load(options, place, find_files(options.dir), console, deep=deep, tests=tests, as_committed=as_committed)
    loaded = opened.loaded
    problems = (*loaded.problems, *(loaded.test_problems if tests else ()))
    if errors_in(problems):
        raise InvalidInput(problems)
    if not loaded.policies:
        nothing = why_nothing(options.dir, opened.unread.gaps) or "; write one, or widen its include"
        why = f"holds no policy for environment {place.environment.name}{nothing}"
        idle = [problem for problem in problems if problem.code == "P473"]
        raise InvalidInput([Problem(Mark(str(options.dir)), "P016", why), *idle])
    console.problems((*place.config.problems, *loaded.problems))
    return opened


def read_directory(options: Options, place: Session, console: Console) -> OpenedDirectory:
    """The directory's policies, problems and all, without tests. A directory that is missing or empty says nothing."""
    return _load(options, place, find_files(options.dir, may_be_empty=True), console)


def _load(
    options: Options,
    place: Session,
    found: Found,
    console: Console,
    *,
    deep: bool = False,
    tests: bool = False,
    as_committed: bool = False,
) -> OpenedDirectory:
    own = place.config.path.resolve() if place.config.path else None
    nested = [path for path in found.configs if path.resolve() != own]
    message = f"plan this directory by itself with --dir, or merge its settings into {place.config.path or 'the one above'}"
    found.problems += [Problem(Mark(str(path)), "P305", f"a second configuration; {message}") for path in nested]
    contents: dict[str, bytes] = {}
    with console.progress.of("Loading", "file", len(found.files)) as step:
        files = Files(
            found.files,
            found.problems,
            options.dir,
            codes=place.lint.codes(),
            whole=True,
            deep=deep,
            tests=tests,
            read=partial(_read_into, contents),
            on_file=step,
        )
    if as_committed:
        _refuse_converted(options.dir, place.config.path, contents)
    with console.progress.of("Checking", "file", len(found.files)) as step:
        loaded = files.load(place.environment, step)
    unread = UnreadFiles(options.dir, found, files, loaded, place.environment)
    more = (
        *idle_include(place.config, place.environment, files, unread.paths),
        *gap_problems(options.dir, unread.gaps, files.codes),
    )
    return OpenedDirectory(files, loaded._replace(problems=tuple(sorted((*loaded.problems, *more)))), unread)


def _read_into(contents: dict[str, bytes], file: str) -> bytes:
    contents[file] = read_bytes(file)
    return contents[file]


def _refuse_converted(directory: Path, config: Path | None, contents: dict[str, bytes]) -> None:
    """Raise Refused for an unedited file whose content on the disk is not what git holds."""
    from policyctl.load.git.checkout import converted  # with what runs programs behind it

    if config is not None:
        _read_into(contents, str(config))
    if found := converted(directory, contents):
        raise Refused(
            f"{found.file} has other content on this disk than in git: {found.why}; so it cannot be compared with a revision. "
            "Let git store it as it is to be read, and check it out anew"
        )


def _remote_url(remote: str, environment: str, directory: Path, base: Path) -> str:
    """The URL behind `local`, and relative database paths made relative to where they were written."""
    if remote == LOCAL:
        return f"{SQLITE}{Path(os.path.abspath(directory)).parent / STATE_FOLDER / environment}.db"
    if remote.startswith(SQLITE):
        return f"{SQLITE}{base / remote.removeprefix(SQLITE)}"
    return remote


def find_live(reader: Reader, name: str, environment: str) -> LivePolicy:
    """The live policy of a canonical name. Raises PolicyctlError for none, and as `find_those` does."""
    found = find_those(reader, {name})
    if name not in found:
        raise PolicyctlError(f"there is no policy {name} on {environment}; see policyctl policy list")
    return found[name]


def find_those(reader: Reader, names: Collection[str]) -> Mapping[str, LivePolicy]:
    """Which of these policies are live, by canonical name. Raises Incomplete for several of one name or an unreadable row."""
    observed = look_up(reader, names)
    for twins in observed.twins:
        raise Incomplete(f"{twins.name}: {twins.reason} (ids {', '.join(twins.ids)})")
    for row in observed.unreadable:
        raise Incomplete(f"{row.name} cannot be read: {row.reason} (id {row.id or 'unknown'}); repair it on the remote")
    return observed.live
