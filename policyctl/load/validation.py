"""Validating files and directories, offline, for every environment that their configuration has."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from policyctl.errors import InvalidInput, Problem, errors_in
from policyctl.load.config import Config, Environment, find_config, load_config
from policyctl.load.directory import Files, Found, find_files
from policyctl.load.kinds import CONFIG_FILE


@dataclass(frozen=True, slots=True)
class Validation:
    """What was looked at and everything that was found, sorted by place."""

    problems: tuple[Problem, ...]
    files: int
    policies: int
    skipped: Counter[str]

    @property
    def valid(self) -> bool:
        """Whether there is no error; warnings do not count."""
        return not errors_in(self.problems)


def validate_paths(paths: Iterable[Path]) -> Validation:
    """Everything that is wrong in these files and directories. Each file answers to the nearest policyctl.yaml upward."""
    found = Found()
    for path in dict.fromkeys(paths):
        _collect(path, found)
    groups: defaultdict[Path | None, list[Path]] = defaultdict(list)
    config_above = cache(find_config)
    for file in dict.fromkeys(found.files):
        groups[config_above(file.parent)].append(file)
    for config in found.configs:
        groups.setdefault(config, [])
    problems, names, skipped = list(found.problems), set[str](), Counter[str]()
    for above, files in groups.items():
        group_problems, group_names, group_skipped = _validate_group(above, files)
        problems += group_problems
        names |= group_names
        skipped += group_skipped
    return Validation(tuple(sorted(set(problems))), len(set(found.files)), len(names), skipped)


def _collect(path: Path, found: Found) -> None:
    if path.name == CONFIG_FILE:
        found.configs.append(path)
    elif not path.is_dir():
        found.files.append(path)
    else:
        try:
            below = find_files(path)
        except InvalidInput as error:
            found.problems += error.problems
        else:
            found.files += below.files
            found.configs += below.configs
            found.problems += below.problems


def _validate_group(path: Path | None, paths: list[Path]) -> tuple[list[Problem], set[str], Counter[str]]:
    """The problems, the policies' names and what was skipped, of the files that share one configuration."""
    problems: list[Problem] = []
    try:
        config = load_config(path)
    except InvalidInput as error:
        problems += error.problems
        config = Config(path, {}, None)  # the files are still checked, as far as that goes without variables
    files = Files(paths, root=path.parent if path else None)
    environments = list(config.environments.values())
    loaded = [files.load(environment) for environment in environments or [Environment("local")]]
    by_environment = {environment.name: one.problems for environment, one in zip(environments, loaded, strict=False)}
    problems += _merged(by_environment) if by_environment else [p for p in loaded[0].problems if p.code != "P015"]
    return problems, {policy.name for one in loaded for policy in one.policies}, loaded[0].skipped


def _merged(by_environment: Mapping[str, Sequence[Problem]]) -> list[Problem]:
    """Each problem once; one that not every environment has says which do."""
    where: defaultdict[Problem, list[str]] = defaultdict(list)
    for name, problems in by_environment.items():
        for problem in problems:
            where[problem].append(name)
    return [
        problem
        if len(names) == len(by_environment)
        else Problem(problem.mark, problem.code, f"{problem.message} (environment {', '.join(names)})", problem.severity)
        for problem, names in where.items()
    ]
