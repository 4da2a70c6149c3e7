"""What apply did, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from policyctl.core.apply import Outcome
from policyctl.report.plain import plain
from policyctl.report.plan_text import SYMBOLS
from policyctl.report.style import Style

_PAST = {"add": "added", "update": "updated", "remove": "removed"}
LOOKS: dict[str, str] = {"applied": "green", "already": "cyan", "failed": "red", "skipped": "yellow"}


def outcome_line(outcome: Outcome, style: Style) -> str:
    """`+ virtual-policy/anygem  applied`, with the reason where it did not take."""
    status = style.paint(outcome.status, LOOKS[outcome.status])
    line = f"{SYMBOLS[outcome.change.action]} {plain(outcome.change.name)}  {status}"
    return f"{line}: {plain(outcome.reason)}" if outcome.reason else line


def apply_text(outcomes: Sequence[Outcome], unverified: Sequence[str], style: Style) -> str:
    """What became of the changes: the ones that did not take by name, then one summary line, the last."""
    bad = [outcome_line(outcome, style) for outcome in outcomes if outcome.status in ("failed", "skipped")]
    lines = [*bad, *(f"{style.paint('not verified', 'red')}  {plain(line)}" for line in unverified)]
    return "".join(f"{line}\n" for line in [*lines, _summary(outcomes, bool(unverified), style)])


def _summary(outcomes: Sequence[Outcome], unverified: bool, style: Style) -> str:
    done = Counter(outcome.change.action for outcome in outcomes if outcome.status == "applied")
    said = [f"{number} {_PAST[action]}" for action, number in done.items()] or ["nothing applied"]
    statuses = Counter(outcome.status for outcome in outcomes)
    said += [f"{statuses[status]} {status}" for status in ("already", "failed", "skipped") if statuses[status]]
    whole = not unverified and not statuses["failed"] and not statuses["skipped"]
    verdict = style.paint("Applied", "green", "bold") if whole else style.paint("Not all applied", "red", "bold")
    return f"{verdict}: {', '.join(said)}" + ("; read back and verified." if whole else ".")
