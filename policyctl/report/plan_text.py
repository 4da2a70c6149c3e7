"""A plan for people at a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from policyctl.core.change import Action, Change
from policyctl.core.guards import Review
from policyctl.core.plan import Plan
from policyctl.report.plain import describe, field_line, plain
from policyctl.report.style import Style

SYMBOLS: dict[Action, str] = {"add": "+", "update": "~", "remove": "-"}
_LOOKS: dict[Action, str] = {"add": "green", "update": "yellow", "remove": "red"}


def plan_text(review: Review, remote: str, style: Style, *, verbose: bool = False) -> str:
    """The whole plan: every change with its fields, what blocks, what was refused, and one summary line, the last.

    `remote` is the remote as the user wrote it. `verbose` shows long values whole.
    """
    plan = review.plan
    blocks = [
        [style.paint(f"environment {plain(plan.environment)}, remote {plain(remote)}", "dim")],
        [change_text(change, style, verbose) for change in plan.changes],
        list(_blocked_lines(plan, style)),
        [f"{style.paint('note', 'cyan')}  {plain(note)}" for note in review.notes],
        [f"{style.paint('refused', 'red', 'bold')}  {plain(why)}" for why in review.refusals],
        [summary_line(plan, style)],
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def summary_line(plan: Plan, style: Style) -> str:
    """`Plan: 1 to add, 2 to update, 0 to remove. 5 unchanged, 3 outside the scope.`"""
    rest = ", ".join(_rest(plan))
    if plan.changes:
        totals = ", ".join(
            style.paint(f"{number} to {action}", *([_LOOKS[action]] if number else []))
            for action, number in plan.totals.items()
        )
        return f"{style.paint('Plan:', 'bold')} {totals}." + (f" {rest}." if rest else "")
    if plan.blocked:
        return f"{style.paint('Nothing to apply, but not all could be compared.', 'bold', 'yellow')} {rest}.".replace(" .", "")
    nothing = style.paint("No changes.", "bold", "green")
    return f"{nothing} {plain(plan.environment)} is as the files say" + (f": {rest}." if rest else ".")


def _rest(plan: Plan) -> Iterator[str]:
    counts = plan.counts
    if counts.unchanged:
        yield f"{counts.unchanged:,} unchanged"
    if counts.unselected:
        yield f"{counts.unselected:,} not selected"
    if counts.unmanaged:
        yield f"{counts.unmanaged:,} unmanaged (live, in no file, not removed)"
    if counts.outside_scope:
        yield f"{counts.outside_scope:,} outside the scope"
    if plan.blocked:
        yield f"{len(plan.blocked):,} blocked"


def change_text(change: Change, style: Style, verbose: bool) -> str:
    """One change: its name and file, and a line a field."""
    look = _LOOKS[change.action]
    source = f"  {style.paint(plain(change.file), 'dim')}" if change.file else ""
    lines = [f"{style.paint(SYMBOLS[change.action], look, 'bold')} {style.paint(plain(change.name), 'bold')}{source}"]
    if change.action == "add" and change.after is not None:
        lines.append(f"    {describe(change.after)}")
    lines += [f"    {field_line(field, longest=None if verbose else 100)}" for field in change.fields]
    return "\n".join(lines)


def _blocked_lines(plan: Plan, style: Style) -> Iterator[str]:
    for block in plan.blocked:
        ids = f" (ids {', '.join(map(plain, block.ids))})" if block.ids else ""
        yield f"{style.paint('blocked', 'red', 'bold')}  {plain(block.name)}: {plain(block.reason)}{ids}"
