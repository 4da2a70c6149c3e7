"""The globs of `include` in policyctl.yaml: what was probably meant by one that matches no file, and where it stands."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from policyctl.errors import Problem
from policyctl.lint.catalogue import finding
from policyctl.load.links import discreet
from policyctl.model.complaints import show

if TYPE_CHECKING:
    from policyctl.load.directory import Files
    from policyctl.load.environment import Config, Environment


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
        finding((*path, position), "P473", f"{show(glob)} matches no file of the directory{_guess(better)}")
        for position, glob, better in idle
    ]
    return discreet(problem for problem in to_problems(source, 0, complaints) if problem.code in files.codes)


def _guess(better: str | None) -> str:
    return f" (did you mean {better}?)" if better else " (a glob is matched against the whole path from the directory)"


def _spellings(glob: str, directory: str) -> Iterator[str]:
    for plain in (glob, glob.removeprefix("/"), glob.removeprefix("./"), glob.removeprefix(f"{directory}/")):
        yield plain
        yield plain.rstrip("/") + "/*"
        yield plain.replace("**/", "").replace("**", "*")
        yield re.sub(r"\{[^{}]*\}", "*", plain)
