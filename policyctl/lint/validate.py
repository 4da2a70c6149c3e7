"""Validating files and directories, offline, for every environment that their configuration has."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from policyctl.errors import InvalidInput, Mark, Problem, errors_in
from policyctl.lint.directory import Linter, idle_in_files, idle_include, variable_warnings
from policyctl.load.directory import Files, Loaded
from policyctl.load.discovery import Found, find_config, find_files, gap_problems, gaps_of, load_config, missing_config, shown
from policyctl.load.environment import UNSET, Config, Environment, name_environments
from policyctl.load.kinds import CONFIG_FILE
from policyctl.load.source import refuse_link
from policyctl.load.urls import LOCAL
from policyctl.policy.findings import listed
from policyctl.policy.names import kind_of
from policyctl.rules import LINT_CODES


class Validation(NamedTuple):
    """The problems found, sorted by place, and how much was checked; `tests` are scenario tests, `models` the virtual
    models that are managed.

    `environment` is the only one that was checked, and `environments` are the several that were chosen; None for all.
    """

    problems: tuple[Problem, ...]
    files: int
    policies: int
    tests: int
    skipped: Counter[str]
    environment: str | None = None
    models: int = 0
    environments: tuple[str, ...] | None = None

    @property
    def valid(self) -> bool:
        """Whether there are only warnings."""
        return not errors_in(self.problems)


class _Group:
    """Files that share one configuration, and the arguments that led to them."""

    def __init__(self) -> None:
        self.files: dict[str, None] = {}
        self.roots: set[Path] = set()
        self.found: dict[Path, Found] = {}
        self.problems: list[Problem] = []  # of lint rules, which the configuration may ignore

    def is_whole(self, config: Path | None, directory: Path | None) -> bool:
        """Whether these are all files of the configuration, so that a name which none of them declares is unknown."""
        return all(root.is_dir() and (root == directory or _covers(root, config)) for root in self.roots)

    def root(self, config: Path | None, directory: Path | None) -> Path | None:
        """What the globs of `include` are relative to: the policy directory, as for plan, if the files are in one."""
        if config is None:
            return None
        for root in (*self.found, *([directory] if directory else [])):
            inside = all(os.path.abspath(file).startswith(os.path.join(os.path.abspath(root), "")) for file in self.files)
            if inside and root.resolve().is_relative_to(config.parent.resolve()):
                return root
        return config.parent


Chooser = Callable[[Config], Collection[str]]


class _Wanted:
    """What is to be checked: one environment, those that `choose` names, or all; and by which rules. `names` are the chosen."""

    def __init__(self, only: str | None, choose: Chooser | None, *, infos: bool, deep: bool) -> None:
        self.only = only
        self.choose = choose
        self.infos = infos
        self.deep = deep
        self.names: tuple[str, ...] = ()

    @property
    def everywhere(self) -> bool:
        """Whether all environments are checked."""
        return self.only is None and self.choose is None

    def of(self, config: Config) -> list[Environment]:
        """The environments to check; none if the configuration is invalid. Raises UsageError for an unknown one."""
        if self.choose is not None and config.labels:
            self.names = tuple(self.choose(config))
            return [config.environments[name] for name in self.names if name in config.environments]
        if self.only is None or not config.environments:
            return list(config.environments.values())
        return [config.environment(self.only)]

    def broken(self, config: Config) -> Iterator[Problem]:
        """The problems of environments that cannot be used."""
        for name, problems in config.broken.items():
            if self.choose is None or name in self.names:
                yield from problems


def validate_paths(
    paths: Iterable[Path],
    directory: Path | None = None,
    *,
    environment: str | None = None,
    choose: Chooser | None = None,
    infos: bool = False,
    deep: bool = False,
    on_file: Callable[[], object] = lambda: None,
) -> Validation:
    """Everything that is wrong in these files and directories. Each file has the nearest policyctl.yaml upward.

    `directory` is the one that plan would read. `environment` is the only one to check, None for all; raises UsageError if a
    policyctl.yaml does not have it. `choose` names those to check of a policyctl.yaml, if only some are. `infos` adds findings
    of severity info unless rules are selected, `deep` those of the effect engine. `on_file` is called after each file.
    """
    problems, groups = _collect(paths, directory)
    chosen: dict[str, None] | None = None if choose is None else {}
    files, names, tests, skipped = set[str](), set[str](), set[tuple[str, int, int]](), Counter[str]()
    for above, group in groups.items():
        wanted = _Wanted(environment, choose, infos=infos, deep=deep)
        found, loaded = _validate_group(above, group, directory, wanted, on_file)
        if chosen is not None:
            chosen |= dict.fromkeys(wanted.names)
        problems += found
        files.update(group.files)
        names = names.union(*(one.names for one in loaded))
        suites = [suite for one in loaded for suite in one.suites]
        tests |= {(suite.file, suite.index, place) for suite in suites for place in range(len(suite.scenarios))}
        skipped += loaded[0].skipped if loaded else Counter()
    models = sum(kind_of(name) == "model" for name in names)
    which = None if chosen is None else tuple(chosen)
    found_all = tuple(sorted(set(problems)))
    return Validation(found_all, len(files), len(names) - models, len(tests), skipped, environment, models, which)


def _collect(paths: Iterable[Path], directory: Path | None) -> tuple[list[Problem], dict[Path | None, _Group]]:
    """The problems of finding the files, and the files by configuration."""
    problems: list[Problem] = []
    groups: defaultdict[Path | None, _Group] = defaultdict(_Group)
    above = cache(lambda folder, root: find_config(Path(folder), root))
    for path in dict.fromkeys(paths):
        found = _find(path, directory)
        within = path if path.is_dir() and not _is_below(path, directory) else directory
        if path.is_dir():
            config = above(str(path), within)
            problems += _missing_config(path, config)
            groups[config].found[path] = found
        for problem in found.problems:
            lint = problem.code in LINT_CODES
            (groups[above(os.path.dirname(problem.mark.file), within)].problems if lint else problems).append(problem)
        for file in found.files:
            group = groups[above(os.path.dirname(file), within)]
            group.files[file] = None
            group.roots.add(path)
        for config in found.configs:
            own = above(str(config.parent), within)  # as found from its folder, so that it counts once
            same = own is not None and own.parent.resolve() == config.parent.resolve()
            groups[own if same else config]  # even without files
    return problems, groups


def _find(path: Path, directory: Path | None) -> Found:
    if path.name == CONFIG_FILE:
        return Found(configs=[path])
    try:
        if path == directory or path.is_dir():
            return find_files(path)
        refuse_link(path)
        return Found(files=[str(path)])
    except InvalidInput as error:
        return Found(problems=error.problems)


def _is_below(path: Path, directory: Path | None) -> bool:
    return directory is not None and path.resolve().is_relative_to(directory.resolve())


def _missing_config(directory: Path, config: Path | None) -> Iterator[Problem]:
    if absent := missing_config(directory, config):
        why = f"is in git but not on this disk, so its settings are unknown: {absent.why} ({absent.remedy})"
        yield Problem(Mark(str(absent.file)), "P001", why)


def _covers(folder: Path, config: Path | None) -> bool:
    return config is None or config.parent.resolve().is_relative_to(folder.resolve())


def _validate_group(
    path: Path | None,
    group: _Group,
    directory: Path | None,
    wanted: _Wanted,
    on_file: Callable[[], object],
) -> tuple[list[Problem], list[Loaded]]:
    """What is wrong with the files that share one configuration, and what they contain for each environment."""
    problems: list[Problem] = []
    try:
        config = load_config(path)
        problems += variable_warnings(config)
        group.files = {file: None for file in group.files if not config.is_inventory(file)}
    except InvalidInput as error:
        problems += error.problems
        config = Config(path, {}, None)  # the files are still checked, without variables
    environments = wanted.of(config)
    problems += wanted.broken(config)
    if wanted.choose is not None and config.labels and not wanted.names:
        return [], []
    files = Files(
        group.files,
        group.problems,
        root=group.root(path, directory),
        whole=group.is_whole(path, directory),
        several=True,
    )
    linter = Linter(files, config.lint.codes(infos=wanted.infos), deep=wanted.deep)
    loaded: list[Loaded] = []
    for environment in environments or [Environment(LOCAL)]:
        problems += _left_out(group, config, environment, files, linter.codes)
        loaded.append(linter.check(files.load(environment, lambda: None if loaded else on_file()), environment))
    found = [(*one.problems, *one.test_problems) for one in loaded]
    by_environment = {environment.name: one for environment, one in zip(environments, found, strict=False)}
    problems += _merged(by_environment, config) if by_environment else [p for p in found[0] if p.code != UNSET]
    if wanted.everywhere:  # another environment may need a comment, or match a setting
        problems += linter.comment_problems()
        whole = bool(group.files) and files.whole and not errors_in(problems)
        problems += (
            _idle_settings(config, zip(environments, loaded, strict=True), wanted.infos) if whole and environments else ()
        )
    return problems, loaded


def _left_out(
    group: _Group, config: Config, environment: Environment, files: Files, codes: Collection[str]
) -> Iterator[Problem]:
    """Files that git has and the disk lacks, and globs of `include` without files."""
    gaps = {root: gaps_of(root, found.checkout, files, environment) for root, found in group.found.items()}
    for root, absent in gaps.items():
        yield from gap_problems(root, absent, codes)
    yield from idle_include(config, environment, files, [shown(one.file, root) for root in gaps for one in gaps[root]], codes)


def _idle_settings(config: Config, loaded: Iterable[tuple[Environment, Loaded]], infos: bool) -> Iterator[Problem]:
    named = [(environment, set(one.names)) for environment, one in loaded]
    codes = config.lint.codes(infos=infos)
    yield from (problem for problem in idle_in_files(config, named) if problem.code in codes)


def _merged(by_environment: Mapping[str, Sequence[Problem]], config: Config) -> list[Problem]:
    """Each problem once, with the names of its environments unless all have it; an unset variable always names them."""
    where: defaultdict[Problem, list[str]] = defaultdict(list)
    everywhere = [config.environments[name] for name in by_environment]
    for name, problems in by_environment.items():
        for problem in problems:
            where[name_environments(problem, everywhere) if problem.code == UNSET else problem].append(name)
    return [_named(problem, names, config, len(by_environment)) for problem, names in where.items()]


def _named(problem: Problem, names: list[str], config: Config, most: int) -> Problem:
    if problem.code == UNSET:
        return name_environments(problem, [config.environments[name] for name in names])
    if len(names) == most:
        return problem
    return problem._replace(message=f"{problem.message} (environment {listed(names)})")
