"""Symbolic links: where one may lead, and what may be said of a file that one led to.

A link in a checkout may lead to anything that this machine holds: a token, a key, git's own directory. So it must stay in
its directory or repository, and no message quotes what it leads to.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from policyctl.errors import InvalidInput, Mark, Problem
from policyctl.lint.catalogue import RULES
from policyctl.load.git.place import top_of


def link_complaint(path: Path, top: Path, what: str = "directory") -> str | None:
    """Why a link may not be followed; `top` is the directory, all links resolved, that it must stay in, `what` its name."""
    try:
        target = path.resolve()
    except RuntimeError:  # Python before 3.13 refuses to resolve it
        return "is a link that leads back to itself; delete it"
    if not target.is_relative_to(top):
        return f"is a link that leads out of the {what}; copy the file instead"
    if ".git" in target.relative_to(top).parts:
        return "is a link into git's own directory; delete it"
    return None


def link_in_directory_complaint(path: Path, top: Path) -> str | None:
    """The same for a link that was found in a policy directory: there those to directories are not followed."""
    complaint = link_complaint(path, top)
    if complaint is None and path.is_dir():
        return "is a link to a directory, which is not followed; copy the directory instead"
    return complaint


def refuse_link(path: Path, outside: Path | None = None) -> None:
    """Raise InvalidInput for a path that a link, itself or on its way, leads out of the repository that it lies in, or into
    git's own directory.

    Outside a repository a link must stay in `outside`; without that it may lead anywhere, since a person named it.
    """
    top = top_of(Path(os.path.abspath(path)).parent)
    within = top or (outside if path.is_symlink() else None)
    if within is not None and (complaint := link_complaint(path, within.resolve(), "repository" if top else "directory")):
        raise InvalidInput([Problem(Mark(str(path)), "P008", complaint)])


def discreet(problems: Iterable[Problem]) -> list[Problem]:
    """These problems, without a word of the files that are links; each keeps its place, and its rule is named instead."""
    return [_discreet(problem) if os.path.islink(problem.mark.file) else problem for problem in problems]


def _discreet(problem: Problem) -> Problem:
    if problem.code in ("P001", "P008"):  # say nothing of what a file holds
        return problem
    rule = RULES[problem.code].name.replace("-", " ")
    return problem._replace(message=f"{rule} (the file is a link, so what it leads to is not shown)")
