"""A plan for people at a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from policyctl.core.change import Action, Change
from policyctl.core.guards import Review
from policyctl.core.plan import Plan
from policyctl.report.plain import describe, describe_texts, plain
from policyctl.report.style import Style
from policyctl.report.subject import (
    ALSO,
    NOT_COMPARED,
    OVERRIDES_TOLD,
    RESTORED,
    SETTINGS_TOLD,
    TESTS_TOLD,
    UNBOUND,
    all_compared,
    basis_of,
    manages_all,
    notes_of,
    override_text,
    rest_text,
    way,
    why_blocked,
)

if TYPE_CHECKING:
    from policyctl.core.effects import Affected
    from policyctl.effect.compare import Effect

SYMBOLS: dict[Action, str] = {"add": "+", "update": "~", "remove": "-"}
_LOOKS: dict[Action, str] = {"add": "green", "update": "yellow", "remove": "red"}


def plan_text(review: Review, remote: str, style: Style, *, verbose: bool = False) -> str:
    """The whole plan: its verdict, every change with its fields and its effect, what blocks, what was refused, and one summary
    line, the last.

    `remote` is the remote as the user wrote it. `verbose` leaves nothing out (see `change_text`).
    """
    plan, effects = review.plan, review.effects
    changes = [
        line for change in plan.changes for line in _change_lines(change, effects.get(change.name), style, verbose, review)
    ]
    affected = [line for one in review.affected for line in _affected_lines(one, style, verbose)]
    blocks = [
        list(_listed_lines(OVERRIDES_TOLD, map(override_text, plan.overrides), style, "yellow")),
        list(_settings_lines(review, style)),
        list(_listed_lines(TESTS_TOLD, review.failed_tests, style, "red")),
        [style.paint(f"environment {plain(plan.environment)}, remote {plain(remote)}", "dim")],
        list(_verdict_lines(review, style)) if plan.changes else [],
        changes,
        affected,
        list(_blocked_lines(plan, style)),
        [f"{style.paint('warning', 'yellow')}  {plain(f'{w.mark}: {w.code} {w.message}')}" for w in review.warnings],
        [f"{style.paint('note', 'cyan')}  {plain(note)}" for note in notes_of(review)],
        [style.paint(one, "dim") for one in basis_of(review)],
        [f"{style.paint('stale', 'red', 'bold')}  {plain(why)}" for why in review.stale],
        [f"{style.paint('refused', 'red', 'bold')}  {plain(why)}" for why in review.refusals],
        [_summary_line(review, style)],
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def _listed_lines(title: str, lines: Iterable[str], style: Style, look: str) -> Iterator[str]:
    listed = [f"    {plain(line)}" for line in lines]
    if listed:
        yield from (style.paint(title, "bold", look), *listed)


def _settings_lines(review: Review, style: Style) -> Iterator[str]:
    """What the branch changes in the safety settings, whole: they decide what is reached and what may change."""
    if review.settings:
        from policyctl.report.fields import field_lines  # with difflib behind it

        yield style.paint(SETTINGS_TOLD, "bold", "yellow")
        yield from field_lines(review.settings, whole=True)


def change_text(change: Change, effect: Effect | None, style: Style, verbose: bool) -> str:
    """One change: its name and file, a line a field, and a line for each thing that it moves in the traffic.

    `verbose` shows values and effects whole, and of an update what the policy will be.
    """
    return "\n".join(_change_lines(change, effect, style, verbose, None))


def _change_lines(change: Change, effect: Effect | None, style: Style, verbose: bool, review: Review | None) -> Iterator[str]:
    restored = review is not None and change.name in review.restored
    look = _LOOKS[change.action]
    source = f"  {style.paint(plain(change.file), 'dim')}" if change.file else ""
    yield f"{style.paint(SYMBOLS[change.action], look, 'bold')} {style.paint(plain(change.name), 'bold')}{source}"
    if restored:
        yield f"    {style.paint(RESTORED, 'green')}"
    shown = change.before if change.action == "remove" else change.after if verbose or change.action == "add" else None
    if shown is not None:
        yield f"    {describe(shown)}"
    if change.action == "add" and change.after is not None:
        yield from (f"    {text}" for text in describe_texts(change.after))
    if change.fields:
        from policyctl.report.fields import field_lines  # with difflib behind it

        yield from field_lines(change.fields, whole=verbose)
    rows = _effect_lines(effect, style, verbose) if effect is not None else _new_outages(change, verbose, review)
    yield from (f"      {row}" for row in rows)


def _new_outages(change: Change, verbose: bool, review: Review | None) -> Iterable[str]:
    """What a new policy serves while something is down."""
    if change.action != "add" or change.after is None or not verbose:
        return ()
    from policyctl.report.effect_rows import outage_rows

    return outage_rows(change.after, *((review.policies, review.declared) if review else ()))


def _affected_lines(one: Affected, style: Style, verbose: bool) -> Iterator[str]:
    """A policy that stays but does something else, and the way to the change that makes it so."""
    who = f"{style.paint(plain(one.name), 'bold')}, {way(one.through)}"
    free = "" if one.bound else style.paint(f"  {UNBOUND}", "dim")
    yield f"{style.paint(ALSO, 'yellow')}: {who}{free}"
    yield from (f"      {row}" for row in _effect_lines(one.effect, style, verbose))


def _effect_lines(effect: Effect, style: Style, verbose: bool) -> Iterator[str]:
    from policyctl.report.effect_rows import first_rows  # with the effect engine behind it

    rows, more = first_rows(effect, whole=verbose)
    for row in rows:
        yield style.paint(row, *_looks_of(row))
    if more:
        yield style.paint(f"… and {more} more (-v)", "dim")


def _looks_of(row: str) -> tuple[str, ...]:
    if row.startswith("worse:"):
        return ("red",)
    return ("green",) if row.startswith("better:") else ("cyan",)


def _verdict_lines(review: Review, style: Style) -> Iterator[str]:
    """What to know first: the riskiest of what changes, and what the rules found; the reasons follow at the end."""
    from policyctl.report.verdict import headline, verdict  # with the effect engine behind it

    said = verdict(review)
    yield f"changes   {said.counts}"
    title = "riskiest  "
    for names, words in headline(said):
        yield f"{title}{style.paint(', '.join(map(plain, names)), 'bold')}: {style.paint('; '.join(words), 'yellow')}"
        title = " " * len(title)
    if said.more:
        yield f"{title}and {said.more:,} more as bad or nearly"
    if not said.risks and said.traffic:
        yield f"traffic   {style.paint(said.traffic, 'green')}"
    yield f"rules     {style.paint(said.rules, 'green' if said.passed else 'red')}"


def _summary_line(review: Review, style: Style) -> str:
    """`Plan: 1 to add, 2 to update, 0 to remove. 5 unchanged, 3 outside the scope.`"""
    plan, rest = review.plan, rest_text(review)
    if plan.changes:
        totals = ", ".join(
            style.paint(f"{number} to {action}", *([_LOOKS[action]] if number else []))
            for action, number in plan.totals.items()
        )
        return f"{style.paint('Plan:', 'bold')} {totals}." + (f" {rest}." if rest else "")
    if not all_compared(review):
        return f"{style.paint(f'{NOT_COMPARED}.', 'bold', 'yellow')} {rest}."
    if plan.counts.unselected:
        return f"{style.paint('No changes selected.', 'bold')} {rest}."
    where = plain(plan.environment)
    said = f"{where} is as the files say" if manages_all(review) else f"What the files manage in {where} is as they say"
    return f"{style.paint('No changes.', 'bold', 'green')} {said}" + (f": {rest}." if rest else ".")


def _blocked_lines(plan: Plan, style: Style) -> Iterator[str]:
    for block in plan.blocked:
        yield f"{style.paint('blocked', 'red', 'bold')}  {plain(block.name)}: {plain(why_blocked(block))}"
