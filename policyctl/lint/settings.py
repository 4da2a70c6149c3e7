"""Settings that do nothing: globs of `include` without files, names without policies, placeholders in variables."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from policyctl.errors import Problem
from policyctl.lint.targets import in_variables
from policyctl.load.environment import Config, Environment, dotted
from policyctl.load.source import redact_linked
from policyctl.policy.findings import FieldPath, Finding, closest_name, format_path
from policyctl.policy.names import canonical, matches
from policyctl.rules import finding

if TYPE_CHECKING:
    from policyctl.load.directory import Files


def variable_warnings(config: Config) -> list[Problem]:
    """A warning for each variable that holds a placeholder of another tool."""
    found = [
        complaint
        for name, environment in config.environments.items()
        for complaint in in_variables(("environments", name, "vars"), environment.vars)
    ]
    return _placed(config, found, config.lint.codes())


def idle_include(
    config: Config, environment: Environment, files: Files, unread: Iterable[str], codes: Collection[str]
) -> list[Problem]:
    """A warning at each glob of `include` that matches no file, nor one of the `unread`: those that could not be read.

    Only for whole directories, since a part of one proves nothing.
    """
    if not files.whole or environment.include is None or files.root is None:
        return []
    names = [files.relative(file) for file in (*files.names, *unread)]
    idle = [(n, glob) for n, glob in enumerate(environment.include) if not any(fnmatchcase(name, glob) for name in names)]
    if not idle:
        return []
    path = _path(config, environment, "include")
    found = []
    for position, glob in idle:
        better = _better_glob(glob, names, files.root.name)
        guess = f" (did you mean {better}?)" if better else " (a glob is matched against the whole path from the directory)"
        found.append(finding((*path, position), "P473", f"{format_path(glob)} matches no file of the directory{guess}"))
    return redact_linked(_placed(config, found, codes))


def _better_glob(glob: str, names: Collection[str], directory: str) -> str | None:
    """Another spelling of a glob that matches some of the names: as other tools would read it."""
    return next((better for better in _spellings(glob, directory) if any(fnmatchcase(name, better) for name in names)), None)


def _spellings(glob: str, directory: str) -> Iterator[str]:
    for plain in (glob, glob.removeprefix("/"), glob.removeprefix("./"), glob.removeprefix(f"{directory}/")):
        yield plain
        yield plain.rstrip("/") + "/*"
        yield plain.replace("**/", "").replace("**", "*")
        yield re.sub(r"\{[^{}]*\}", "*", plain)


NamedSetting = tuple[FieldPath, str, str, Callable[[str], bool]]  # its path, its setting, its text, which names it matches


def idle_in_files(config: Config, named: Iterable[tuple[Environment, Collection[str]]]) -> list[Problem]:
    """The entries that match no policy of the files in any of their environments; `named` has each one's policy names."""
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
    """The entries of one environment that match no policy; those of `allow_remove` must match a live one."""
    found = []
    for path, setting, text, means in _entries(config, environment):
        if setting == "allow_remove" and not any(map(means, live)):
            guess = closest_name(text, live) or " (if the removal is done, remove the entry)"
            found.append(finding(path, "P462", f"{setting} has {text}, and no live policy has that name{guess}"))
        elif setting != "allow_remove" and not any(map(means, (*files, *live))):
            guess = closest_name(text, {*files, *live}) or " (correct it, or remove it)"
            message = f"{setting} has {text}, which matches no policy, neither in the files nor on the remote{guess}"
            found.append(finding(path, "P461", message))
    return _placed(config, found)


def _entries(config: Config, environment: Environment) -> Iterator[NamedSetting]:
    settings = environment.settings
    for setting in ("scope", "protect", "allow_key_loss"):
        for place, glob in enumerate(getattr(settings, setting) or ()):
            yield (*_path(config, environment, setting), place), setting, glob, _matching(glob)
    for place, name in enumerate(settings.allow_remove):
        yield (*_path(config, environment, "allow_remove"), place), "allow_remove", name, canonical(name).__eq__
    for place, exception in enumerate(settings.guard_exceptions):
        path = (*_path(config, environment, "guard_exceptions"), place, "policy")
        yield path, "guard_exceptions", exception.policy, exception.covers


def _matching(glob: str) -> Callable[[str], bool]:
    return lambda name: matches(name, (glob,))


def _path(config: Config, environment: Environment, setting: str) -> FieldPath:
    """The path of a setting of an environment: its own, or the shared one."""
    own = dotted("environments", environment.name, setting) in config.written
    return ("environments", environment.name, setting) if own else (setting,)


def _placed(config: Config, found: Iterable[Finding], codes: Collection[str] | None = None) -> list[Problem]:
    """The findings of the chosen rules as problems in policyctl.yaml."""
    codes = config.lint.codes(infos=True) if codes is None else codes
    chosen = [complaint for complaint in found if complaint.code in codes]
    if config.source is None or not chosen:
        return []
    from policyctl.load.locate import to_problems  # imports PyYAML, which a valid file does not need

    return to_problems(config.source, 0, chosen)
