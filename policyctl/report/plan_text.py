"""A plan for people at a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from policyctl.core.change import Action, Change
from policyctl.core.guards import Review
from policyctl.core.plan import Plan
from policyctl.effect.compare import Effect
from policyctl.effect.profile import ASSUMED
from policyctl.report.effect_rows import effect_rows
from policyctl.report.plain import describe, field_line, plain
from policyctl.report.style import Style

SYMBOLS: dict[Action, str] = {"add": "+", "update": "~", "remove": "-"}
_LOOKS: dict[Action, str] = {"add": "green", "update": "yellow", "remove": "red"}
_MOST_ROWS = 8  # of one change's effect, unless all are asked for
_STAYS = {"metadata", "equivalent"}


def plan_text(review: Review, remote: str, style: Style, *, verbose: bool = False) -> str:
    """The whole plan: every change with its fields and its effect, what blocks, what was refused, and one summary line, the
    last.

    `remote` is the remote as the user wrote it. `verbose` shows long values and long effects whole.
    """
    plan, effects = review.plan, review.effects
    blocks = [
        list(_settings_lines(review, style)),
        [style.paint(f"environment {plain(plan.environment)}, remote {plain(remote)}", "dim")],
        [change_text(change, effects.get(change.name), style, verbose) for change in plan.changes],
        [style.paint(ASSUMED, "dim")] if plan.changes else [],
        list(_blocked_lines(plan, style)),
        [f"{style.paint('note', 'cyan')}  {plain(note)}" for note in review.notes],
        [f"{style.paint('stale', 'red', 'bold')}  {plain(why)}" for why in review.stale],
        [f"{style.paint('refused', 'red', 'bold')}  {plain(why)}" for why in review.refusals],
        [_summary_line(review, style)],
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def _settings_lines(review: Review, style: Style) -> Iterator[str]:
    """What the branch changes in the safety settings, whole: they decide what is reached and what may change."""
    if review.settings:
        yield style.paint(
            "Safety settings change in policyctl.yaml; until they are merged the old ones hold:", "bold", "yellow"
        )
        yield from (f"    {field_line(field, longest=None)}" for field in review.settings)


def change_text(change: Change, effect: Effect | None, style: Style, verbose: bool) -> str:
    """One change: its name and file, a line a field, and a line for each thing that it moves in the traffic."""
    look = _LOOKS[change.action]
    source = f"  {style.paint(plain(change.file), 'dim')}" if change.file else ""
    lines = [f"{style.paint(SYMBOLS[change.action], look, 'bold')} {style.paint(plain(change.name), 'bold')}{source}"]
    if change.action == "add" and change.after is not None:
        lines.append(f"    {describe(change.after)}")
    lines += [f"    {field_line(field, longest=None if verbose else 100)}" for field in change.fields]
    if effect is not None:
        lines += [f"      {row}" for row in _effect_lines(effect, style, verbose)]
    return "\n".join(lines)


def _effect_lines(effect: Effect, style: Style, verbose: bool) -> Iterator[str]:
    rows = list(effect_rows(effect))
    shown = rows if verbose or len(rows) <= _MOST_ROWS + 1 else rows[:_MOST_ROWS]
    for row in shown:
        yield style.paint(row, *_looks_of(row))
    if len(shown) < len(rows):
        yield style.paint(f"… and {len(rows) - len(shown)} more (-v)", "dim")


def _looks_of(row: str) -> tuple[str, ...]:
    if row.startswith(("worse:", "the gateway refuses")):
        return ("red",)
    return ("green",) if row.startswith("better:") else ("cyan",)


def _summary_line(review: Review, style: Style) -> str:
    """`Plan: 1 to add, 2 to update, 0 to remove. 5 unchanged, 3 outside the scope.`"""
    plan, rest = review.plan, ", ".join(rest_of(review.plan))
    if plan.changes:
        totals = ", ".join(
            style.paint(f"{number} to {action}", *([_LOOKS[action]] if number else []))
            for action, number in plan.totals.items()
        )
        stays = " Traffic stays as it is: every change is metadata or equivalent." if _traffic_stays(review) else ""
        return f"{style.paint('Plan:', 'bold')} {totals}." + (f" {rest}." if rest else "") + stays
    if plan.blocked:
        return f"{style.paint('Nothing to apply, but not all could be compared.', 'bold', 'yellow')} {rest}."
    nothing = style.paint("No changes.", "bold", "green")
    return f"{nothing} {plain(plan.environment)} is as the files say" + (f": {rest}." if rest else ".")


def _traffic_stays(review: Review) -> bool:
    """Whether the plan has updates only, and none of them is effective."""
    return all(change.name in review.effects and review.effects[change.name].kind in _STAYS for change in review.plan.changes)


def rest_of(plan: Plan) -> Iterator[str]:
    """What there is besides the changes, each with its number."""
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


def _blocked_lines(plan: Plan, style: Style) -> Iterator[str]:
    for block in plan.blocked:
        ids = f" (ids {', '.join(map(plain, block.ids))})" if block.ids else ""
        yield f"{style.paint('blocked', 'red', 'bold')}  {plain(block.name)}: {plain(block.reason)}{ids}"
