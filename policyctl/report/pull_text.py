"""What pull wrote, for people."""

from __future__ import annotations

from collections.abc import Iterator

from policyctl.core.extra import extra_notes, extras
from policyctl.core.plan import Plan
from policyctl.load.pulling import Pull
from policyctl.model.live import Observed
from policyctl.report.plain import count, place, plain
from policyctl.report.style import Style


def pull_text(pull: Pull, observed: Observed, plan: Plan | None, style: Style) -> str:
    """Every file that was written, what was not pulled and why, and one summary line, the last. `plan` is the one after it."""
    wrote = [f"{_sign(is_new, style)} {plain(str(path))}" for path, _, is_new in pull.writes]
    blocks = [wrote, [*_rest(pull, observed, style), *_notes(pull, observed, style)], [_summary(pull, plan, style)]]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def _sign(is_new: bool, style: Style) -> str:
    return style.paint("+", "green", "bold") if is_new else style.paint("~", "yellow", "bold")


def _rest(pull: Pull, observed: Observed, style: Style) -> Iterator[str]:
    for why in pull.kept:
        yield f"{style.paint('kept', 'yellow', 'bold')}  {plain(why)}"
    for why in pull.left:
        yield f"{style.paint('not pulled', 'red', 'bold')}  {plain(why)}"
    for row in observed.unreadable:
        yield f"{style.paint('note', 'cyan')}  a row of the remote is left alone: {plain(f'{row.reason} ({row.which})')}"


def _notes(pull: Pull, observed: Observed, style: Style) -> Iterator[str]:
    """What live policies have that their files cannot say."""
    said = {name: fields for name in pull.names if (fields := extras(observed.live[name].document))}
    for note in extra_notes(said, place):
        yield f"{style.paint('note', 'cyan')}  {plain(note)}"


def _summary(pull: Pull, plan: Plan | None, style: Style) -> str:
    said = f"{count(len(pull.writes), 'file')} written, {pull.unchanged:,} as before"
    if plan is None:
        return f"{style.paint('Nothing to pull.', 'bold')} The remote has no policy in scope."
    if not plan.changes:
        return f"{style.paint('Pulled', 'green', 'bold')}: {said}; the plan is empty."
    totals = ", ".join(f"{number} to {action}" for action, number in plan.totals.items() if number)
    return f"{style.paint('Pulled', 'yellow', 'bold')}: {said}; the plan is not empty: {totals}."
