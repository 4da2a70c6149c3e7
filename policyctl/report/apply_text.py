"""What apply and pull did, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from policyctl.load.placement import Pull
from policyctl.plan.change import unknown_field_notes, unknown_fields
from policyctl.plan.outcome import Outcome
from policyctl.plan.plan import Plan
from policyctl.policy.live import LiveRows
from policyctl.report.format import count, escape, position_name
from policyctl.report.plan_text import SYMBOLS
from policyctl.report.terminal import Style

_PAST = {"add": "added", "update": "updated", "remove": "removed"}
LOOKS: dict[str, str] = {"applied": "green", "already": "cyan", "failed": "red", "skipped": "yellow"}


def outcome_line(outcome: Outcome, style: Style) -> str:
    """`+ virtual-policy/anygem  applied`, with the reason where it did not take."""
    status = style.paint(outcome.status, LOOKS[outcome.status])
    line = f"{SYMBOLS[outcome.change.action]} {escape(outcome.change.name)}  {status}"
    return f"{line}: {escape(outcome.reason)}" if outcome.reason else line


def apply_text(outcomes: Sequence[Outcome], unverified: Sequence[str], style: Style) -> str:
    """What became of the changes: the ones that did not take by name, then one summary line, the last."""
    bad = [outcome_line(outcome, style) for outcome in outcomes if outcome.status in ("failed", "skipped")]
    lines = [*bad, *(f"{style.paint('not verified', 'red')}  {escape(line)}" for line in unverified)]
    return "".join(f"{line}\n" for line in [*lines, _summary(outcomes, bool(unverified), style)])


def _summary(outcomes: Sequence[Outcome], unverified: bool, style: Style) -> str:
    done = Counter(outcome.change.action for outcome in outcomes if outcome.status == "applied")
    said = [f"{number} {_PAST[action]}" for action, number in done.items()] or ["nothing applied"]
    statuses = Counter(outcome.status for outcome in outcomes)
    said += [f"{statuses[status]} {status}" for status in ("already", "failed", "skipped") if statuses[status]]
    whole = not unverified and not statuses["failed"] and not statuses["skipped"]
    verdict = style.paint("Applied", "green", "bold") if whole else style.paint("Not all applied", "red", "bold")
    return f"{verdict}: {', '.join(said)}" + ("; read back and verified." if whole else ".")


def pull_text(pull: Pull, observed: LiveRows, plan: Plan | None, style: Style) -> str:
    """Every file that was written, what was not pulled and why, and one summary line, the last. `plan` is the one after it."""
    wrote = [f"{_sign(is_new, style)} {escape(str(path))}" for path, _, is_new in pull.writes]
    blocks = [wrote, [*_rest(pull, observed, style), *_notes(pull, observed, style)], [_pull_summary(pull, plan, style)]]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def _sign(is_new: bool, style: Style) -> str:
    return style.paint("+", "green", "bold") if is_new else style.paint("~", "yellow", "bold")


def _rest(pull: Pull, observed: LiveRows, style: Style) -> Iterator[str]:
    for why in pull.kept:
        yield f"{style.paint('kept', 'yellow', 'bold')}  {escape(why)}"
    for why in pull.left:
        yield f"{style.paint('not pulled', 'red', 'bold')}  {escape(why)}"
    for row in observed.unreadable:
        yield f"{style.paint('note', 'cyan')}  a row of the remote is left alone: {escape(f'{row.reason} ({row.which})')}"


def _notes(pull: Pull, observed: LiveRows, style: Style) -> Iterator[str]:
    """What live policies have that their files cannot say."""
    said = {name: fields for name in pull.names if (fields := unknown_fields(observed.live[name].document))}
    for note in unknown_field_notes(said, position_name):
        yield f"{style.paint('note', 'cyan')}  {escape(note)}"


def _pull_summary(pull: Pull, plan: Plan | None, style: Style) -> str:
    said = f"{count(len(pull.writes), 'file')} written, {pull.unchanged:,} as before"
    if plan is None:
        return f"{style.paint('Nothing to pull.', 'bold')} The remote has no policy in scope."
    if not plan.changes:
        return f"{style.paint('Pulled', 'green', 'bold')}: {said}; the plan is empty."
    totals = ", ".join(f"{number} to {action}" for action, number in plan.totals.items() if number)
    return f"{style.paint('Pulled', 'yellow', 'bold')}: {said}; the plan is not empty: {totals}."
