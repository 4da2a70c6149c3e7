"""Settings that match nothing: globs of `include` without files, and names in safety settings without policies."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from policyctl.errors import Problem
from policyctl.load.environment import Config, Environment
from policyctl.load.source import redact_linked
from policyctl.policy.findings import FieldPath, Finding, closest_name, format_path
from policyctl.policy.names import canonical_name, matches
from policyctl.rules.catalogue import finding

if TYPE_CHECKING:
    from policyctl.load.directory import Files


def better_glob(glob: str, names: Collection[str], directory: str) -> str | None:
    """Another spelling of a glob that matches some of the names: as other tools would read it."""
    return next((better for better in _spellings(glob, directory) if any(fnmatchcase(name, better) for name in names)), None)


def idle_include(config: Config, environment: Environment, files: Files, unread: Collection[str] = ()) -> list[Problem]:
    """A warning at each glob of `include` that matches no file, nor one of those that could not be read."""
    idle = files.idle_globs(environment, unread)
    if not idle or config.path is None:
        return []
    from policyctl.load.locate import to_problems  # with PyYAML behind it
    from policyctl.load.source import read_source

    source = read_source(config.path)
    own = (source.documents[0].data.get("environments") or {}).get(environment.name) or {}
    path = ("environments", environment.name, "include") if "include" in own else ("include",)
    complaints = [
        finding((*path, position), "P473", f"{format_path(glob)} matches no file of the directory{_guess(better)}")
        for position, glob, better in idle
    ]
    return redact_linked(problem for problem in to_problems(source, 0, complaints) if problem.code in files.codes)


def _guess(better: str | None) -> str:
    return f" (did you mean {better}?)" if better else " (a glob is matched against the whole path from the directory)"


def _spellings(glob: str, directory: str) -> Iterator[str]:
    for plain in (glob, glob.removeprefix("/"), glob.removeprefix("./"), glob.removeprefix(f"{directory}/")):
        yield plain
        yield plain.rstrip("/") + "/*"
        yield plain.replace("**/", "").replace("**", "*")
        yield re.sub(r"\{[^{}]*\}", "*", plain)


NamedSetting = tuple[
    FieldPath, str, str, Callable[[str], bool]
]  # where it stands, its setting, as it is written, which names it means


def idle_in_files(config: Config, named: Iterable[tuple[Environment, Collection[str]]]) -> list[Problem]:
    """The entries that match no policy of the files in any environment that they hold for; with each its policies' names."""
    seen: dict[FieldPath, Finding | None] = {}
    for environment, names in named:
        for path, setting, text, means in _entries(config, environment):
            idle = not any(map(means, names)) and seen.get(path, True)
            if not idle:
                seen[path] = None
                continue
            code = "P462" if setting == "allow_remove" else "P461"
            guess = closest_name(text, names) or " (correct it; if only a live policy has the name, plan can see that)"
            seen[path] = finding(path, code, f"{setting} has {text}, which matches no policy of the files{guess}")
    return _placed(config, (complaint for complaint in seen.values() if complaint is not None))


def idle_anywhere(config: Config, environment: Environment, files: Collection[str], live: Collection[str]) -> list[Problem]:
    """The entries of one environment that match no policy; for `allow_remove`, which is about live ones, no live policy."""
    found = []
    for path, setting, text, means in _entries(config, environment):
        if setting == "allow_remove" and not any(map(means, live)):
            guess = closest_name(text, live) or " (once it has done its work, take it out)"
            found.append(finding(path, "P462", f"{setting} has {text}, and no live policy has that name{guess}"))
        elif setting != "allow_remove" and not any(map(means, (*files, *live))):
            guess = closest_name(text, {*files, *live}) or " (correct it, or take it out)"
            message = f"{setting} has {text}, which matches no policy, neither in the files nor on the remote{guess}"
            found.append(finding(path, "P461", message))
    return _placed(config, found)


def _entries(config: Config, environment: Environment) -> Iterator[NamedSetting]:
    settings = environment.settings
    for setting in ("scope", "protect"):
        for place, glob in enumerate(getattr(settings, setting) or ()):
            yield (*_path(config, environment, setting), place), setting, glob, _matching(glob)
    for place, name in enumerate(settings.allow_remove):
        yield (*_path(config, environment, "allow_remove"), place), "allow_remove", name, canonical_name(name).__eq__
    for place, exception in enumerate(settings.guard_exceptions):
        path = (*_path(config, environment, "guard_exceptions"), place, "policy")
        yield path, "guard_exceptions", exception.policy, exception.covers


def _matching(glob: str) -> Callable[[str], bool]:
    return lambda name: matches(name, (glob,))


def _path(config: Config, environment: Environment, setting: str) -> FieldPath:
    """Where a setting that holds for an environment is written: in it, or for all."""
    own = f"environments.{environment.name}.{setting}" in config.written
    return ("environments", environment.name, setting) if own else (setting,)


def _placed(config: Config, found: Iterable[Finding]) -> list[Problem]:
    chosen = [complaint for complaint in found if complaint.code in config.lint.codes(infos=True)]
    if config.source is None or not chosen:
        return []
    from policyctl.load.locate import to_problems  # with PyYAML behind it, which a good file does not need

    return to_problems(config.source, 0, chosen)
