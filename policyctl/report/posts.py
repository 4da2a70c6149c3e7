"""A plan's text where a pull request is discussed: found again by its first line, what a merge approves in its last two.

Everything between them shows names and values that others chose, so nothing there counts.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from urllib.parse import quote

from policyctl.core.approval import APPLIED, NONE, Approval
from policyctl.core.guards import Review
from policyctl.core.plan import Plan
from policyctl.core.settings import Override
from policyctl.load.urls import is_git

MARKER = "<!-- policyctl:plan "  # with which a page begins, and nothing else does
_DIGEST = r"sha256:[0-9a-f]{64}"
_FIRST = re.compile(r"<!-- policyctl:plan environment=(\S+) directory=(\S+) -->")
_SHOWS = re.compile(rf"<!-- policyctl:shows ({_DIGEST}) approves ({_DIGEST}|{NONE}) -->")
_DATA = re.compile(r"<!-- policyctl:data ([A-Za-z0-9+/=]+) -->")
_LAST = re.compile(rf"<!-- policyctl ({_DIGEST}|{NONE}|{APPLIED}) -->")


def marker(environment: str, directory: str) -> str:
    """The first line of every page of one environment and directory."""
    return f"<!-- policyctl:plan environment={_marked(environment)} directory={_marked(directory)} -->"


def opening(review: Review, directory: str) -> str:
    """A page's first two lines, which are not shown: whose page it is, which plan it shows, and what a merge approves.

    A merge approves nothing where the plan was refused,
    where a scenario test failed, and where the plan is against a git revision, which cannot be applied.
    """
    plan = review.plan
    stopped = review.refusals or review.stale or review.failed_tests or is_git(plan.remote)
    return (
        f"{marker(plan.environment, directory)}\n"
        f"<!-- policyctl:shows {plan.digest} approves {NONE if stopped else plan.digest} -->\n"
    )


def shown_in(page: str) -> tuple[str, str] | None:
    """The digest of the plan that a page shows, and what a merge approves; None when it is not a page of ours."""
    first, second = (*page.split("\n", 2), "", "")[:2]
    found = _SHOWS.fullmatch(second.strip())
    return (found[1], found[2]) if found and _FIRST.fullmatch(first.strip()) else None


def post(page: str, plan: Plan, link: str, longest: int) -> str:
    """A plan's page as a comment or an issue of at most so many characters, with a link to the run that has all of it.

    Its last two lines are what a merge approves. The hashes of the changes are left out where there is no room for them.
    """
    approved = (shown_in(page) or (NONE, NONE))[1]
    whole, bare = (_data(approved, plan.overrides, prints) for prints in (plan.prints, ()))
    short = f"{_first(page)}\nThe plan is too long to be shown here."
    tries = ((page, whole), (page, bare), (short, whole), (short, bare))
    texts = [_ended(text, link, approved, data) for text, data in tries]
    return next((text for text in texts if len(text) <= longest), texts[-1])


def outdated(old: str, link: str) -> str:
    """What stands in the place of a plan when the newest commit has none."""
    said = f"{_first(old)}\nThere is no plan for the newest commit: see why in the run."
    return _ended(said, link, NONE)


def applied(old: str, link: str) -> str:
    """A comment whose plan was applied, by the run of this link: its approval has done its work and holds no more."""
    lines = old.rstrip().split("\n")[:-1]
    text = "\n".join(lines[:-1] if _DATA.fullmatch(lines[-1].strip()) else lines)
    return f"{text.rstrip()}\n\nApplied by [this run]({link}).\n\n<!-- policyctl {APPLIED} -->\n"


def is_of(body: str, page: str) -> bool:
    """Whether a comment or an issue shows what a page is the new version of."""
    return _is_ours(body) and _first(body) == _first(page)


def is_in(body: str, environment: str | None, directory: str) -> bool:
    """Whether a comment shows a plan of a directory and an environment (None: of whichever). Its first line must be a whole
    marker, and its last one too."""
    found = _FIRST.fullmatch(_first(body))
    if found is None or not _is_ours(body):
        return False
    return found[2] == _marked(directory) and (environment is None or found[1] == _marked(environment))


def approval_in(bodies: list[str], environment: str, directory: str, source: str = "") -> Approval | None:
    """What the last of these comments that shows a plan of this environment and directory approves; None without one."""
    ours = [body for body in bodies if is_in(body, environment, directory)]
    if not ours:
        return None
    *_, data, last = ["", *ours[-1].rstrip().split("\n")]
    found = _LAST.fullmatch(last.strip())
    return None if found is None else Approval(found[1], source, *_read(data.strip()))


def _is_ours(body: str) -> bool:
    last = body.rstrip().rpartition("\n")[2].strip()
    return _FIRST.fullmatch(_first(body)) is not None and _LAST.fullmatch(last) is not None


def _data(approved: str, overrides: tuple[Override, ...], prints: tuple[str, ...]) -> str:
    """The last line but one: what the plan rests on, in an alphabet that nothing in it can end; empty where that is nothing."""
    if approved == NONE or not (overrides or prints):
        return ""
    data = {"overrides": [override._asdict() for override in overrides], "changes": list(prints)}
    return f"<!-- policyctl:data {b64encode(json.dumps(data).encode()).decode()} -->\n"


def _read(line: str) -> tuple[tuple[Override, ...], tuple[str, ...]]:
    """What a line of data says; nothing for any other line, or for one that was edited."""
    found = _DATA.fullmatch(line)
    try:
        data = json.loads(b64decode(found[1])) if found else {}
        return tuple(Override(**one) for one in data.get("overrides", ())), tuple(map(str, data.get("changes", ())))
    except (ValueError, TypeError, AttributeError):
        return (), ()


def _marked(text: str) -> str:
    """A text in a marker, in percent encoding, so that nothing in it ends the marker, or a word of it."""
    return quote(text, errors="backslashreplace")


def _first(text: str) -> str:
    return text.partition("\n")[0].strip()


def _ended(text: str, link: str, approved: str, data: str = "") -> str:
    nothing = " Merging approves no plan." if approved == NONE else ""
    return f"{text.rstrip()}\n\n[The run]({link}) has the whole plan.{nothing}\n\n{data}<!-- policyctl {approved} -->\n"
