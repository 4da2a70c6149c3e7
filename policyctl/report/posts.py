"""A plan's text where a pull request is discussed: found again by its first line, its digest in its last."""

from __future__ import annotations

import re
from urllib.parse import quote

from policyctl.core.plan import Plan
from policyctl.load.urls import is_git

NONE = "none"  # no digest that anybody approved
MARKER = "<!-- policyctl:plan "  # with which a page begins, and nothing else does
_LAST = re.compile(r"<!-- policyctl (sha256:[0-9a-f]{64}|none) -->")


def marker(environment: str, directory: str) -> str:
    """A page's first line, the same for every plan of one environment and directory. It is not shown."""
    return f"{MARKER}{_environment(environment)} {_directory(directory)}"


def post(page: str, plan: Plan, link: str, longest: int) -> str:
    """A plan's page as a comment or an issue of at most so many characters, with a link to the run that has all of it.

    The digest in its last line is what a merge approves; a plan against a git revision, which cannot be applied, has none.
    """
    last = _last(NONE if is_git(plan.remote) else plan.digest)
    text = _ended(page, link, last)
    short = f"{_first(page)}\nThe plan is too long to be shown here."
    return text if len(text) <= longest else _ended(short, link, last)


def outdated(old: str, link: str) -> str:
    """What stands in the place of a plan when the newest commit has none."""
    said = f"{_first(old)}\nThere is no plan for the newest commit: see why in the run."
    return _ended(said, link, _last(NONE))


def is_of(body: str, page: str) -> bool:
    """Whether a comment or an issue shows what a page is the new version of."""
    return _digest(body) is not None and _first(body) == _first(page)


def is_in(body: str, environment: str | None, directory: str) -> bool:
    """Whether a comment shows a plan of a directory and an environment (None: of whichever)."""
    first, begins = _first(body), MARKER if environment is None else f"{MARKER}{_environment(environment)} "
    return _digest(body) is not None and first.startswith(begins) and first.endswith(f" {_directory(directory)}")


def approved_in(bodies: list[str], environment: str, directory: str) -> str:
    """The digest in the last of these comments that shows a plan of this environment and directory, else `none`."""
    found = [digest for body in bodies if is_in(body, environment, directory) and (digest := _digest(body))]
    return found[-1] if found else NONE


def _digest(body: str) -> str | None:
    """The digest in a comment's last line, None when it is no plan of ours. Nothing above counts: that shows names and values
    that others chose."""
    found = _LAST.fullmatch(body.rstrip().rpartition("\n")[2].strip())
    return found[1] if found else None


def _environment(name: str) -> str:
    return f"environment={_marked(name)}"


def _directory(path: str) -> str:
    return f"directory={_marked(path)} -->"


def _marked(text: str) -> str:
    """A text in a marker, in percent encoding, so that nothing in it ends the marker, or a word of it."""
    return quote(text, errors="backslashreplace")


def _first(text: str) -> str:
    return text.partition("\n")[0].strip()


def _last(digest: str) -> str:
    return f"<!-- policyctl {digest} -->"


def _ended(text: str, link: str, last: str) -> str:
    return f"{text.rstrip()}\n\n[The run]({link}) has the whole plan.\n\n{last}\n"
