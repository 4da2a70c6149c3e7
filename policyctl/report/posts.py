"""A plan's text where a pull request is discussed: found again by its first line, its digest in its last."""

from __future__ import annotations

import re

from policyctl.core.plan import Plan
from policyctl.load.urls import is_git

NONE = "none"  # no digest that anybody approved
_LAST = re.compile(r"<!-- policyctl (?P<environment>\S+) (?P<digest>sha256:[0-9a-f]{64}|none) -->")


def post(page: str, plan: Plan, link: str, longest: int) -> str:
    """A plan's page as a comment or an issue of at most so many characters, with a link to the run that has all of it.

    The digest in its last line is what a merge approves; a plan against a git revision, which cannot be applied, has none.
    """
    last = _last(plan.environment, NONE if is_git(plan.remote) else plan.digest)
    text = _ended(page, link, last)
    short = f"{_first(page)}\nThe plan is too long to be shown here."
    return text if len(text) <= longest else _ended(short, link, last)


def outdated(old: str, link: str) -> str:
    """What stands in the place of a plan when the newest commit has none."""
    found = _found(old)
    environment = found["environment"] if found else NONE
    said = f"{_first(old)}\nThere is no plan for the newest commit: see why in the run."
    return _ended(said, link, _last(environment, NONE))


def is_of(body: str, page: str) -> bool:
    """Whether a comment or an issue shows what a page is the new version of."""
    return _found(body) is not None and _first(body) == _first(page)


def is_ours(body: str) -> bool:
    """Whether a comment shows a plan, of whichever environment."""
    return _found(body) is not None


def approved_in(bodies: list[str], environment: str) -> str:
    """The digest of an environment's plan in the last of these comments that has one, else `none`."""
    found = [match for body in bodies if (match := _found(body)) and match["environment"] == environment]
    return found[-1]["digest"] if found else NONE


def _found(body: str) -> re.Match[str] | None:
    """Nothing but the last line counts: what is above shows names and values that others chose."""
    return _LAST.fullmatch(body.rstrip().rpartition("\n")[2].strip())


def _first(text: str) -> str:
    return text.partition("\n")[0].strip()


def _last(environment: str, digest: str) -> str:
    return f"<!-- policyctl {environment} {digest} -->"


def _ended(text: str, link: str, last: str) -> str:
    return f"{text.rstrip()}\n\n[The run]({link}) has the whole plan.\n\n{last}\n"
