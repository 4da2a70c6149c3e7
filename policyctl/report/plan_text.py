"""A plan for people at a terminal, and the fields of a change as aligned lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from policyctl.plan.change import Action, Change
from policyctl.plan.diff import FieldChange
from policyctl.plan.plan import Plan
from policyctl.plan.safety import Review
from policyctl.report.format import Style, cut, describe_texts, describe_value, escape, field_values, position_name
from policyctl.report.plan_view import (
    ALSO,
    NOT_COMPARED,
    OVERRIDES_TOLD,
    RESTORED,
    SETTINGS_TOLD,
    TESTS_TOLD,
    UNBOUND,
    all_compared,
    basis_of,
    leads_to,
    manages_all,
    notes_of,
    override_text,
    rest_text,
    target_path,
    why_blocked,
)

if TYPE_CHECKING:
    from policyctl.effect.analysis import Effect
    from policyctl.plan.effects import AffectedPolicy


_SHORT = 60  # characters of a value that is shown whole
_MOST = 200  # characters of one that is not
_AROUND = 20  # characters shown on each side of what differs
_COMPARED = 500  # words of one value; a longer one is compared from both ends only
_WORD = re.compile(r"\w+|\s+|[^\w\s]")


def field_lines(fields: Sequence[FieldChange], *, whole: bool = False) -> Iterator[str]:
    """`path: before → after`, a line a field. `whole` leaves nothing out."""
    for field in fields:
        before, after = sides(field, whole=whole)
        yield f"    {position_name(field.path)}: {before} → {after}"


def sides(field: FieldChange, *, whole: bool = False) -> tuple[str, str]:
    """Both values as text that shows how they differ: never the same text twice."""
    if whole:
        return field_values(field, longest=None)
    if field.before is None or field.after is None:
        return field_values(field)
    return elided(*field_values(field, longest=None))


def elided(before: str, after: str) -> tuple[str, str]:
    """Two texts with `…` for the long runs that both have, and for what is more than can be shown.

    The first difference is always shown: it stands right behind what is left of the first common run.
    """
    if max(len(before), len(after)) <= _SHORT:
        return before, after
    start = _in_common(before, after)
    old, new = before[start:], after[start:]
    end = _in_common(old[::-1], new[::-1])
    head, tail = _end_of(before[:start]), _start_of(old[len(old) - end :])
    left, right = _middles(old[: len(old) - end], new[: len(new) - end])
    return cut(head + left + tail, _MOST), cut(head + right + tail, _MOST)


def _in_common(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    differ = (at for at, (char, its) in enumerate(zip(one, other, strict=False)) if char != its)
    return next(differ, min(len(one), len(other)))


def _middles(old: str, new: str) -> tuple[str, str]:
    """Two texts that differ at both ends, without the long runs between."""
    words, others = _WORD.findall(old), _WORD.findall(new)
    if max(len(words), len(others)) > _COMPARED:
        return old, new
    left = right = ""
    for tag, i, j, k, m in SequenceMatcher(None, words, others, autojunk=False).get_opcodes():
        one, other = "".join(words[i:j]), "".join(others[k:m])
        if tag == "equal" and len(one) > 2 * _AROUND:
            one = other = _start_of(one).removesuffix("…") + _end_of(one)
        left, right = left + one, right + other
    return left, right


def _end_of(text: str) -> str:
    """`…` and the last words of a text."""
    if len(text) <= _AROUND:
        return text
    kept = text[-_AROUND:]
    words = kept.partition(" ")[2]
    return f"… {words}" if words else f"…{kept}"


def _start_of(text: str) -> str:
    """The first words of a text and `…`."""
    if len(text) <= _AROUND:
        return text
    kept = text[:_AROUND]
    words = kept.rpartition(" ")[0]
    return f"{words} …" if words else f"{kept}…"


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
        list(_listed_lines(TESTS_TOLD, review.branch.failed_tests, style, "red")),
        [style.paint(f"environment {escape(plan.environment)}, remote {escape(remote)}", "dim")],
        list(_headline_lines(review, style)) if plan.changes else [],
        changes,
        affected,
        list(_blocked_lines(plan, style)),
        [f"{style.paint('warning', 'yellow')}  {escape(f'{w.mark}: {w.code} {w.message}')}" for w in review.branch.warnings],
        [f"{style.paint('note', 'cyan')}  {escape(note)}" for note in notes_of(review)],
        [style.paint(one, "dim") for one in basis_of(review)],
        [f"{style.paint('stale', 'red', 'bold')}  {escape(why)}" for why in review.stale],
        [f"{style.paint('refused', 'red', 'bold')}  {escape(why)}" for why in review.refusals],
        [_summary_line(review, style)],
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def _listed_lines(title: str, lines: Iterable[str], style: Style, look: str) -> Iterator[str]:
    listed = [f"    {escape(line)}" for line in lines]
    if listed:
        yield from (style.paint(title, "bold", look), *listed)


def _settings_lines(review: Review, style: Style) -> Iterator[str]:
    """What the branch changes in the safety settings, whole: they decide what is reached and what may change."""
    if review.branch.settings:
        yield style.paint(SETTINGS_TOLD, "bold", "yellow")
        yield from field_lines(review.branch.settings, whole=True)


def change_text(change: Change, effect: Effect | None, style: Style, verbose: bool) -> str:
    """One change: its name and file, a line a field, and a line for each thing that it moves in the traffic.

    `verbose` shows values and effects whole, and of an update what the policy will be.
    """
    return "\n".join(_change_lines(change, effect, style, verbose, None))


def _change_lines(change: Change, effect: Effect | None, style: Style, verbose: bool, review: Review | None) -> Iterator[str]:
    restored = review is not None and change.name in review.restored
    look = _LOOKS[change.action]
    source = f"  {style.paint(escape(change.file), 'dim')}" if change.file else ""
    yield f"{style.paint(SYMBOLS[change.action], look, 'bold')} {style.paint(escape(change.name), 'bold')}{source}"
    if restored:
        yield f"    {style.paint(RESTORED, 'green')}"
    shown = change.before if change.action == "remove" else change.after if verbose or change.action == "add" else None
    if shown is not None:
        yield f"    {describe_value(shown)}"
    if change.action == "add" and change.after is not None:
        further = leads_to(change.after, review) if review is not None else None
        yield from (f"    {text}" for text in (*([further] if further else []), *describe_texts(change.after)))
    if change.fields:
        yield from field_lines(change.fields, whole=verbose)
    rows = _effect_lines(effect, style, verbose) if effect is not None else _new_outages(change, verbose, review)
    yield from (f"      {row}" for row in rows)


def _new_outages(change: Change, verbose: bool, review: Review | None) -> Iterable[str]:
    """What a new policy serves while something is down."""
    if change.action != "add" or change.after is None or not verbose:
        return ()
    from policyctl.report.effect_rows import outage_rows

    return outage_rows(change.after, *((review.policies, review.declared) if review else ()))


def _affected_lines(one: AffectedPolicy, style: Style, verbose: bool) -> Iterator[str]:
    """A policy that stays but does something else, and the way to the change that makes it so."""
    who = f"{style.paint(escape(one.name), 'bold')}, {target_path(one.through)}"
    free = "" if one.bound else style.paint(f"  {UNBOUND}", "dim")
    yield f"{style.paint(ALSO, 'yellow')}: {who}{free}"
    yield from (f"      {row}" for row in _effect_lines(one.effect, style, verbose))


def _effect_lines(effect: Effect, style: Style, verbose: bool) -> Iterator[str]:
    from policyctl.report.effect_rows import first_rows  # with the effect engine behind it

    rows, more = first_rows(effect, whole=verbose)
    for row in rows:
        yield style.paint(row, *_styles_of(row))
    if more:
        yield style.paint(f"… and {more} more (-v)", "dim")


def _styles_of(row: str) -> tuple[str, ...]:
    if row.startswith("worse:"):
        return ("red",)
    return ("green",) if row.startswith("better:") else ("cyan",)


def _headline_lines(review: Review, style: Style) -> Iterator[str]:
    """What to know first: the riskiest of what changes, and what the rules found; the reasons follow at the end."""
    from policyctl.report.headline import headline, plan_summary  # with the effect engine behind it

    said = plan_summary(review)
    yield f"changes   {said.counts}"
    title = "riskiest  "
    for names, words in headline(said):
        yield f"{title}{style.paint(', '.join(map(escape, names)), 'bold')}: {style.paint('; '.join(words), 'yellow')}"
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
    where = escape(plan.environment)
    said = f"{where} is as the files say" if manages_all(review) else f"What the files manage in {where} is as they say"
    return f"{style.paint('No changes.', 'bold', 'green')} {said}" + (f": {rest}." if rest else ".")


def _blocked_lines(plan: Plan, style: Style) -> Iterator[str]:
    for block in plan.blocked:
        yield f"{style.paint('blocked', 'red', 'bold')}  {escape(block.name)}: {escape(why_blocked(block))}"
