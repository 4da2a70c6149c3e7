"""A plan as a comment: its first line identifies it, its last two lines hold what a merge approves.

The text between them contains names and values that others chose, so it is never parsed.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import quote

from policyctl.load.urls import is_git
from policyctl.plan.approval import APPLIED, NONE, PRINT, Approvable, Approval, Proposal, Terms
from policyctl.plan.fleet import FleetResult
from policyctl.plan.safety import Review
from policyctl.plan.settings import Override

MARKER = "<!-- policyctl:plan "  # only our pages begin with this
_NOTED = 600  # characters that `begun` adds, at most
_UNSEEN = "split it into smaller ones, or start apply by hand with the digest that the run shows"
_DIGEST = r"sha256:[0-9a-f]{64}"
_FIRST = re.compile(r"<!-- policyctl:plan environment=(\S+) directory=(\S+) -->")
_SHOWS = re.compile(rf"<!-- policyctl:shows ({_DIGEST}) approves ({_DIGEST}|{NONE}) -->")
_TERMS = re.compile(rf"<!-- policyctl:terms ({_DIGEST}) ({_DIGEST}) ({_DIGEST}) ({_DIGEST}) -->")
_DATA = re.compile(r"<!-- policyctl:data ([A-Za-z0-9+/=]+) -->")
_LAST = re.compile(rf"<!-- policyctl ({_DIGEST}|{NONE}|{APPLIED}) -->")


def comment_marker(environment: str, directory: str) -> str:
    """The first line of every page for one environment, or one selection of several, and one directory."""
    return f"<!-- policyctl:plan environment={_marked(environment)} directory={_marked(directory)} -->"


def watch_marker(directory: str, branch: str, environments: str) -> str:
    """The first line of the issue of a watch, which names what it watches."""
    return (
        f"<!-- policyctl:watch directory={_marked(directory)} branch={_marked(branch)} environments={_marked(environments)} -->"
    )


_ADOPTS = re.compile(r"<!-- policyctl:adopts sha256:[0-9a-f]{64}((?: [0-9a-f]+)*) -->")


def edits_marker(environment: str, directory: str, fingerprint: str = "", edits: Iterable[str] = ()) -> str:
    """The first lines of a pull request that adopts the edits of an environment; the second one has their fingerprint, and a
    hash of each of these `edits`."""
    first = f"<!-- policyctl:edits environment={_marked(environment)} directory={_marked(directory)} -->\n"
    return f"{first}<!-- policyctl:adopts {' '.join([fingerprint, *edits])} -->\n" if fingerprint else first


def edits_in(body: str) -> frozenset[str]:
    """The hashes of the edits that a pull request of ours adopts."""
    found = _ADOPTS.match("".join(body.splitlines()[1:2]))
    return frozenset(found[1].split()) if found else frozenset()


class ShownPlan(NamedTuple):
    """The digest of the plan on a page, what a merge approves, and the hashes of the settings if the plan has a base."""

    digest: str
    approves: str
    terms: Terms | None


def opening(review: Review, directory: str, *, unseen: bool = False) -> str:
    """The hidden first lines of a page: its environment and directory, the plan's digest, what a merge approves, and the
    hashes of the settings if the plan has a base.

    A merge approves nothing if the plan was refused, if a scenario test failed, if the page leaves out changes or safety
    settings (`unseen`), if the plan is against a git revision, which cannot be applied, or if it is a saved one that was only
    shown.
    """
    plan = review.plan
    stopped = unseen or review.refusals or review.stale or review.branch.failed_tests or is_git(plan.remote) or review.offline
    return _opening(comment_marker(plan.environment, directory), plan.digest, review.branch.terms, stopped=bool(stopped))


def opening_of_several(fleet: FleetResult, directory: str, *, unseen: bool = False) -> str:
    """The same for the plans of several environments: a merge approves all of them or none. So it approves nothing if one of
    them could not be made, or must not be applied."""
    marker, stopped = comment_marker(fleet.selection, directory), unseen or why_none_approved(fleet) is not None
    return _opening(marker, fleet.shown, fleet.terms, stopped=stopped)


def why_none_approved(fleet: FleetResult) -> str | None:
    """Why a merge approves none of these plans, whatever a page shows of them; None if it approves all."""
    if not fleet.results:
        return "nothing was planned"
    if fleet.digest == NONE:
        return "not every environment has a plan that may be applied"
    if any(is_git(one.remote) for one in fleet.results):
        return "a plan against a git revision cannot be applied"
    return None


def _opening(marker: str, shown: str, terms: Terms | None, *, stopped: bool) -> str:
    last = f"<!-- policyctl:terms {' '.join(terms)} -->\n" if terms else ""
    return f"{marker}\n<!-- policyctl:shows {shown} approves {NONE if stopped else shown} -->\n{last}"


def shown_in(page: str) -> ShownPlan | None:
    """Read the first lines of a page; None if it is not ours."""
    first, second, third = (line.strip() for line in (*page.split("\n", 3), "", "", "")[:3])
    found, terms = _SHOWS.fullmatch(second), _TERMS.fullmatch(third)
    if found is None or not _FIRST.fullmatch(first):
        return None
    return ShownPlan(found[1], found[2], Terms(*terms.groups()) if terms else None)


def comment_text(page: str, plan: Approvable, link: str, longest: int, proposal: Proposal | None = None, why: str = "") -> str:
    """A plan's page as a comment or an issue of at most `longest` characters, with a link to the run that has the whole plan.

    Its last two lines are what a merge approves: nothing if there is a reason `why` not. `proposal` is the commit and branch
    that the plan was made for. The hashes of the changes are omitted if they do not fit, with room for what is noted later.
    """
    shown = shown_in(page)
    approved = NONE if shown is None or why else shown.approves
    terms, made = None if shown is None else shown.terms, None if why else proposal
    whole, bare = (_data(approved, plan.overrides, marks, made, terms) for marks in (_marks(plan), {}))
    texts = (_ended(page, link, approved, data, why) for data in (whole, bare))
    fitting = next((text for text in texts if len(text) + _NOTED <= longest), None)
    return fitting or _ended(f"{_first(page)}\nThe plan is too long to show here.", link, NONE, "", why or _UNSEEN)


def outdated(old: str, link: str) -> str:
    """The text that replaces a plan when the newest commit has none."""
    text = f"{_first(old)}\nThe newest commit has no plan; the run shows why."
    return _ended(text, link, NONE)


def applied(old: str, sentence: str, commit: str) -> str:
    """A comment whose plan was applied, as a `sentence` shows: its approval is used up.

    It keeps the last `commit` whose settings were approved: what changes them from there on must have been shown."""
    return f"{_tail(old)[0]}\n\n{_applied(sentence, commit)}"


def applied_by_hand(environment: str, directory: str, sentence: str, commit: str) -> str:
    """A comment of its own that has nothing but this, where no plan is shown."""
    return f"{comment_marker(environment, directory)}\n{_applied(sentence, commit)}"


def _applied(sentence: str, commit: str) -> str:
    return f"{sentence}\n\n{_encoded({'commit': commit})}<!-- policyctl {APPLIED} -->\n"


def begun(old: str, sentence: str, commit: str, changed: datetime | None) -> str:
    """A comment whose plan an apply of a commit begins to write, as a `sentence` shows. It approves nothing for another one.
    It keeps when it was last `changed` before."""
    text, data, last = _tail(old)
    found = {**({"shown": changed.isoformat()} if changed else {}), **_decoded(data), "begun": commit}
    return f"{text}\n\n{sentence}\n\n{_encoded(found)}{last}\n"


def finished(old: str) -> str:
    """A comment that was noted as begun, once all of what it approves was written: nothing of it is left to do."""
    text, data, last = _tail(old)
    return f"{text}\n\n{_encoded({**_decoded(data), 'finished': True})}{last}\n"


def not_begun(old: str, sentence: str) -> str:
    """A comment as it was before it was noted with a `sentence` that an apply begins; any other one as it is."""
    text, data, last = _tail(old)
    if not text.endswith(sentence):
        return old
    found = {key: one for key, one in _decoded(data).items() if key != "begun"}
    return f"{text.removesuffix(sentence).rstrip()}\n\n{_encoded(found)}{last}\n"


def _tail(body: str) -> tuple[str, str, str]:
    """A comment without its last two lines, these being the data, empty if there is none, and the last one."""
    *lines, last = body.rstrip().split("\n")
    data = lines.pop().strip() if lines and _DATA.fullmatch(lines[-1].strip()) else ""
    return "\n".join(lines).rstrip(), data, last.strip()


def is_of(body: str, page: str) -> bool:
    """Whether a comment or an issue is an older version of a page."""
    return _is_ours(body) and _first(body) == _first(page)


def begins_with(body: str, marker: str) -> bool:
    """Whether the first line of a text is a marker."""
    return _first(body) == marker


def is_in(body: str, environment: str | None, directory: str) -> bool:
    """Whether a comment shows a plan of a directory and an environment (None: any). Its first and last lines must be complete
    markers."""
    found = _FIRST.fullmatch(_first(body))
    if found is None or not _is_ours(body):
        return False
    return found[2] == _marked(directory) and (environment is None or found[1] == _marked(environment))


def ends_of(body: str) -> str:
    """The lines of a comment that show what it is about, and whether that was applied, and how."""
    _, data, last = _tail(body)
    found = _LAST.fullmatch(last)
    return f"{_first(body)}\n{data if found is not None and found[1] == APPLIED else ''}\n{last}"


def approval_in(bodies: list[str], environment: str | None, directory: str, source: str = "") -> Approval | None:
    """What the last comment with a plan of this environment and directory approves; None without one."""
    ours = [body for body in bodies if is_in(body, environment, directory)]
    if not ours:
        return None
    _, data, last = _tail(ours[-1])
    found = _LAST.fullmatch(last)
    return None if found is None else _read(data, Approval(found[1], source))


def _is_ours(body: str) -> bool:
    last = body.rstrip().rpartition("\n")[2].strip()
    return _FIRST.fullmatch(_first(body)) is not None and _LAST.fullmatch(last) is not None


def _marks(plan: Approvable) -> dict[str, Any]:
    """The hashes by which the plans of several merges can be added up."""
    marks = {"changes": list(plan.prints), "traffic": dict(plan.traffic)}
    marks |= {} if plan.replaces is None else {"replaces": list(plan.replaces)}
    return marks | ({"environments": dict(plan.environments)} if plan.environments else {})


def _data(
    approved: str,
    overrides: tuple[Override, ...],
    marks: Mapping[str, Any],
    proposal: Proposal | None,
    terms: Terms | None,
) -> str:
    """The last line but one: what the approval is based on. If nothing is approved, what the commit changes: that replaces what
    older merges approved for the same."""
    data: dict[str, Any] = dict(marks)
    if approved != NONE:
        data["overrides"] = [override._asdict() for override in overrides]
    if proposal is not None and terms is not None:
        data["proposal"] = proposal._asdict()
        data |= {"terms": terms._asdict()} if approved != NONE else {}
    return _encoded(data) if data else ""


def _encoded(data: Mapping[str, Any]) -> str:
    """A line of data, encoded so that nothing in it can end the comment."""
    return f"<!-- policyctl:data {b64encode(json.dumps(data).encode()).decode()} -->\n"


def _decoded(line: str) -> dict[str, Any]:
    """The values of a line of data; none for any other line. Raises ValueError for one that was edited."""
    found = _DATA.fullmatch(line)
    return dict(json.loads(b64decode(found[1]))) if found else {}


def _read(line: str, approval: Approval) -> Approval:
    """The approval with the values from a line of data; unchanged for any other line, or one that was edited."""
    try:
        data = _decoded(line)
        return approval._replace(
            overrides=tuple(Override(**one) for one in data.get("overrides", ())),
            prints=tuple(map(str, data.get("changes", ()))),
            traffic=dict(data.get("traffic", {})),
            proposal=Proposal(**data["proposal"]) if "proposal" in data else None,
            terms=Terms(**data["terms"]) if "terms" in data else None,
            commit=str(data.get("commit", "")),
            environments={str(name): int(number) for name, number in data.get("environments", {}).items()},
            begun=str(data.get("begun", "")),
            finished=bool(data.get("finished")),
            shown=str(data.get("shown", "")),
            replaces=frozenset(map(str, data.get("replaces", ()))),
            known={"changes", "replaces"} <= data.keys() and all(len(mark) == PRINT for mark in data["changes"]),
        )
    except (ValueError, TypeError, AttributeError):
        return approval


def _marked(text: str) -> str:
    """A text for a marker, percent-encoded so that nothing in it ends the marker or a word of it."""
    return quote(text, errors="backslashreplace")


def _first(text: str) -> str:
    return text.partition("\n")[0].strip()


def _ended(text: str, link: str, approved: str, data: str = "", why: str = "") -> str:
    nothing = f" Merging approves no plan{f': {why}' if why else ''}." if approved == NONE else ""
    return f"{text.rstrip()}\n\n[The run]({link}) has the whole plan.{nothing}\n\n{data}<!-- policyctl {approved} -->\n"
