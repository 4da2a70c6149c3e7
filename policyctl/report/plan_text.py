"""A plan as text for a terminal, and as unified YAML; the outcomes of its apply; and the history in an audit record.

The JSON schemas of these are `schemas/apply.schema.json` and `schemas/history.schema.json`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from policyctl.plan.diff import FieldChange, fields_between
from policyctl.plan.plan import GOOD, Action, Change, ModelTest, Outcome, Plan, normal_of
from policyctl.plan.safety import Review
from policyctl.policy.document import Document
from policyctl.policy.names import Kind, counted
from policyctl.report.format import (
    Style,
    count,
    cut,
    describe_texts,
    describe_value,
    diff_lines,
    escape,
    field_values,
    json_text,
    position_name,
)
from policyctl.report.plan_view import (
    ALSO,
    NOT_COMPARED,
    OVERRIDES_TITLE,
    RESTORED,
    TESTS_TITLE,
    UNBOUND,
    all_compared,
    basis_of,
    how_many,
    leads_to,
    managed_text,
    manages_all,
    moved_words,
    notes_of,
    override_text,
    rest_text,
    settings_title,
    target_path,
    used_by,
    why_blocked,
)

if TYPE_CHECKING:
    from policyctl.effect.analysis import Effect
    from policyctl.plan.audit import AuditEntry, AuditOrigin
    from policyctl.plan.effects import AffectedPolicy


_SHORT = 60  # characters of a value that is shown whole
_MOST = 200  # characters of a longer one
_AROUND = 20  # characters shown on each side of what differs
_COMPARED = 500  # words; longer values are only compared from both ends
_WORD = re.compile(r"\w+|\s+|[^\w\s]")


def field_lines(fields: Sequence[FieldChange], *, whole: bool = False) -> Iterator[str]:
    """One line for each field: `path: before → after`. `whole` shortens nothing."""
    for field in fields:
        before, after = sides(field, whole=whole)
        yield f"    {position_name(field.path)}: {before} → {after}"


def sides(field: FieldChange, *, whole: bool = False) -> tuple[str, str]:
    """Both values, shortened to what differs; the two texts are never equal."""
    if whole:
        return field_values(field, longest=None)
    if field.before is None or field.after is None:
        return field_values(field)
    return elided(*field_values(field, longest=None))


def elided(before: str, after: str, most: int | None = _MOST) -> tuple[str, str]:
    """Two texts with `…` in place of long common runs, and of what exceeds `most` characters.

    The first difference is always shown, right after the end of the first common run. Without a limit every difference is, and
    the characters of each run are counted, so that with the text before it is clear what the text after is.
    """
    if max(len(before), len(after)) <= _SHORT:
        return before, after
    counted = most is None
    start = _in_common(before, after)
    old, new = before[start:], after[start:]
    end = _in_common(old[::-1], new[::-1])
    head, tail = _end_of(before[:start], counted), _start_of(old[len(old) - end :], counted)
    left, right = _middles(old[: len(old) - end], new[: len(new) - end], counted)
    before, after = head + left + tail, head + right + tail
    return (before, after) if most is None else (cut(before, most), cut(after, most))


def _in_common(one: str, other: str) -> int:
    """The length of the common beginning of two texts."""
    differ = (at for at, (char, its) in enumerate(zip(one, other, strict=False)) if char != its)
    return next(differ, min(len(one), len(other)))


def _middles(old: str, new: str, counted: bool) -> tuple[str, str]:
    """Two texts that differ at both ends, with the long common runs between shortened."""
    words, others = _WORD.findall(old), _WORD.findall(new)
    if max(len(words), len(others)) > _COMPARED:
        return old, new
    from difflib import SequenceMatcher  # most plans show no long texts

    left = right = ""
    for tag, i, j, k, m in SequenceMatcher(None, words, others, autojunk=False).get_opcodes():
        one, other = "".join(words[i:j]), "".join(others[k:m])
        if tag == "equal" and len(one) > 2 * _AROUND:
            first = _first_words(one)
            one = other = first + " " * one[len(first) :].startswith(" ") + _end_of(one[len(first) :], counted)
        left, right = left + one, right + other
    return left, right


def _end_of(text: str, counted: bool) -> str:
    """`…` and the last words of a text."""
    if len(text) <= _AROUND:
        return text
    last = text[-_AROUND:].partition(" ")[2] or text[-_AROUND:]
    gap, space = len(text) - len(last), " " * (text[-len(last) - 1] == " ")
    return f"{_left_out(gap, counted)}{space}{last}"


def _start_of(text: str, counted: bool) -> str:
    """The first words of a text and `…`."""
    if len(text) <= _AROUND:
        return text
    first = _first_words(text)
    space = " " * text[len(first) :].startswith(" ")
    return f"{first}{space}{_left_out(len(text) - len(first), counted)}"


def _first_words(text: str) -> str:
    return text[:_AROUND].rpartition(" ")[0] or text[:_AROUND]


def _left_out(characters: int, counted: bool) -> str:
    return f"(… {characters:,} characters)" if counted else "…"


SYMBOLS: dict[Action, str] = {"add": "+", "update": "~", "remove": "-"}
_LOOKS: dict[Action, str] = {"add": "green", "update": "yellow", "remove": "red"}


def plan_text(review: Review, remote: str, style: Style, *, verbose: bool = False, quiet: bool = False) -> str:
    """The whole plan: headline, every change with its fields and effect, what blocks, what was refused, and a summary as the
    last line.

    `remote` is the remote as the user wrote it. `verbose` shortens nothing (see `change_text`), `quiet` leaves what is wrong
    and the summary.
    """
    if quiet:
        return f"{problems_text(review, style)}{_summary_line(review, style)}\n"
    plan, effects = review.plan, review.effects
    changes = [
        line for change in plan.changes for line in _change_lines(change, effects.get(change.name), style, verbose, review)
    ]
    affected = [line for one in review.affected for line in _affected_lines(one, style, verbose, review)]
    blocks = [
        list(_listed_lines(OVERRIDES_TITLE, map(override_text, plan.overrides), style, "yellow")),
        list(_settings_lines(review, style)),
        list(_listed_lines(TESTS_TITLE, review.branch.failed_tests, style, "red")),
        [style.paint(f"environment {escape(plan.environment)}, remote {escape(remote)}", "dim")],
        list(_headline_lines(review, style)) if plan.changes else [],
        changes,
        affected,
        list(_blocked_lines(plan, style)),
        [f"{style.paint('warning', 'yellow')}  {escape(f'{w.mark}: {w.coded}')}" for w in review.branch.warnings],
        [f"{style.paint('note', 'cyan')}  {escape(note)}" for note in notes_of(review)],
        [style.paint(one, "dim") for one in basis_of(review)],
        list(_named_lines("stale", review.stale, style)),
        list(_named_lines("refused", review.refusals, style)),
        [_summary_line(review, style)],
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def problems_text(review: Review, style: Style) -> str:
    """What is wrong with a plan, and what it must not be approved without; warnings about files are on standard error."""
    lines = (
        *_settings_lines(review, style),
        *_listed_lines(TESTS_TITLE, review.branch.failed_tests, style, "red"),
        *_blocked_lines(review.plan, style),
        *_named_lines("stale", review.stale, style),
        *_named_lines("refused", review.refusals, style),
    )
    return "".join(f"{line}\n" for line in lines)


def _named_lines(name: str, lines: Iterable[str], style: Style) -> Iterator[str]:
    return (f"{style.paint(name, 'red', 'bold')}  {escape(line)}" for line in lines)


def _listed_lines(title: str, lines: Iterable[str], style: Style, look: str) -> Iterator[str]:
    listed = [f"    {escape(line)}" for line in lines]
    if listed:
        yield from (style.paint(title, "bold", look), *listed)


def _settings_lines(review: Review, style: Style) -> Iterator[str]:
    """The safety settings that the branch changes, never shortened: they decide what is contacted and what may change."""
    if review.branch.settings:
        yield style.paint(settings_title(review.branch.settings), "bold", "yellow")
        yield from field_lines(review.branch.settings, whole=True)


def change_text(change: Change, effect: Effect | None, style: Style, verbose: bool) -> str:
    """One change: its name and file, a line for each field, and a line for each effect on traffic.

    `verbose` shows values and effects in full, and for an update also the resulting policy.
    """
    return "\n".join(_change_lines(change, effect, style, verbose, None))


def _change_lines(change: Change, effect: Effect | None, style: Style, verbose: bool, review: Review | None) -> Iterator[str]:
    restored = review is not None and change.name in review.restored
    look = _LOOKS[change.action]
    source = f"  {style.paint(escape(change.file), 'dim')}" if change.file else ""
    yield f"{style.paint(SYMBOLS[change.action], look, 'bold')} {style.paint(escape(change.name), 'bold')}{source}"
    if restored:
        yield f"    {style.paint(RESTORED, 'green')}"
    if review is not None and (words := moved_words(change, review)):
        yield f"    {style.paint(escape(words), 'dim' if review.drifts[change.name].moved == 'git' else 'yellow')}"
    shown = change.before if change.action == "remove" else change.after if verbose or change.action == "add" else None
    if shown is not None:
        yield f"    {describe_value(shown)}"
    if change.action == "add" and change.after is not None:
        further = leads_to(change.after, review) if review is not None else None
        yield from (f"    {text}" for text in (*([further] if further else []), *describe_texts(change.after)))
    if change.fields:
        yield from field_lines(change.fields, whole=verbose)
    if review is not None:
        yield from _consumer_lines(change.name, change.action, effect, review, style)
    rows = _effect_lines(effect, style, verbose) if effect is not None else _new_outages(change, verbose, review)
    yield from (f"      {row}" for row in rows)


def _consumer_lines(name: str, action: Action, effect: Effect | None, review: Review, style: Style) -> Iterator[str]:
    """What consumers lose, and who uses a changed or affected policy or model."""
    if review.consumers is None:
        return
    from policyctl.report.headline import losses_text  # imports the effect engine

    if lost := losses_text(name, action, effect, review):
        yield f"    {style.paint(escape(lost), 'red')}"
    if users := used_by(name, review, removed=action == "remove"):
        yield f"    {escape(users)}"


def _new_outages(change: Change, verbose: bool, review: Review | None) -> Iterable[str]:
    """What a new policy serves during outages."""
    if change.action != "add" or change.after is None or not verbose:
        return ()
    from policyctl.report.effect_rows import outage_rows

    return outage_rows(change.after, *((review.policies, review.declared) if review else ()))


def _affected_lines(one: AffectedPolicy, style: Style, verbose: bool, review: Review) -> Iterator[str]:
    """An unchanged policy that a change affects, with the policies that lead to the change."""
    who = f"{style.paint(escape(one.name), 'bold')}, {target_path(one.through)}"
    free = "" if one.bound else style.paint(f"  {UNBOUND}", "dim")
    yield f"{style.paint(ALSO, 'yellow')}: {who}{free}"
    yield from _consumer_lines(one.name, "update", one.effect, review, style)
    yield from (f"      {row}" for row in _effect_lines(one.effect, style, verbose))


def _effect_lines(effect: Effect, style: Style, verbose: bool) -> Iterator[str]:
    from policyctl.report.effect_rows import first_rows  # imports the effect engine

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
    """The headline: counts, the riskiest changes, and what the rules found; the reasons are at the end of the plan."""
    from policyctl.report.headline import headline, plan_summary  # imports the effect engine

    summary = plan_summary(review)
    yield f"changes   {summary.counts}"
    title = "riskiest  "
    for names, words in headline(summary):
        yield f"{title}{style.paint(', '.join(map(escape, names)), 'bold')}: {style.paint('; '.join(words), 'yellow')}"
        title = " " * len(title)
    if summary.more:
        yield f"{title}and {summary.more:,} more as bad, or nearly"
    if not summary.risks and summary.traffic:
        yield f"traffic   {style.paint(summary.traffic, 'green')}"
    yield f"rules     {style.paint(summary.rules, 'green' if summary.passed else 'red')}"


def _summary_line(review: Review, style: Style) -> str:
    """`Plan: 1 to add, 2 to update, 0 to remove. 5 unchanged, 3 outside the scope.`"""
    plan, rest = review.plan, rest_text(review)
    if plan.changes:
        totals = ", ".join(
            style.paint(f"{how_many(plan, action)} to {action}", *([_LOOKS[action]] if number else []))
            for action, number in plan.totals.items()
        )
        return f"{style.paint('Plan:', 'bold')} {totals}." + (f" {rest}." if rest else "")
    if not all_compared(review):
        return f"{style.paint(f'{NOT_COMPARED}.', 'bold', 'yellow')} {rest}."
    if plan.counts.unselected:
        return f"{style.paint('No changes selected.', 'bold')} {rest}."
    where = escape(plan.environment)
    match = f"{where} matches the files" if manages_all(review) else f"{managed_text(review)} in {where} match"
    return f"{style.paint('No changes.', 'bold', 'green')} {match}" + (f": {rest}." if rest else ".")


def _blocked_lines(plan: Plan, style: Style) -> Iterator[str]:
    for block in plan.blocked:
        yield f"{style.paint('blocked', 'red', 'bold')}  {escape(block.name)}: {escape(why_blocked(block))}"


_LONGEST_DETAIL = 500  # characters of what is reported of a test
_PAST = {"add": "added", "update": "updated", "remove": "removed"}
LOOKS: dict[str, str] = {"applied": "green", "already": "cyan", "failed": "red", "skipped": "yellow"}


def outcome_line(outcome: Outcome, style: Style) -> str:
    """`+ virtual-policy/anygem  applied`, with the reason if it was not applied."""
    status = style.paint(outcome.status, LOOKS[outcome.status])
    line = f"{SYMBOLS[outcome.change.action]} {escape(outcome.change.name)}  {status}"
    return f"{line}: {escape(outcome.reason)}" if outcome.reason else line


def apply_text(outcomes: Sequence[Outcome], unverified: Sequence[str], style: Style, tested: Sequence[ModelTest] = ()) -> str:
    """The changes that were not applied or not verified, what was reported of tested models, and a summary as the last line."""
    bad = [outcome_line(outcome, style) for outcome in outcomes if outcome.status in ("failed", "skipped")]
    lines = [*bad, *(f"{style.paint('not verified', 'red')}  {escape(line)}" for line in unverified)]
    lines += [_tested_line(test, style) for test in tested]
    return "".join(f"{line}\n" for line in [*lines, _outcome_summary(outcomes, bool(unverified), style)])


def apply_json(plan: Plan, outcomes: Sequence[Outcome], unverified: Sequence[str], tested: Sequence[ModelTest] = ()) -> str:
    """An outcome for each change, what is not on the remote as it should be, and what was reported of tested models."""
    data = {
        "format": "policyctl/apply",
        "version": 1,
        "environment": plan.environment,
        "remote": plan.remote,
        "digest": plan.digest,
        "complete": not unverified and all(outcome.status in GOOD for outcome in outcomes),
        "outcomes": [
            {
                "action": outcome.change.action,
                "kind": outcome.change.kind,
                "name": outcome.change.name,
                "id": outcome.id or outcome.change.id,
                "status": outcome.status,
                "reason": outcome.reason,
            }
            for outcome in outcomes
        ],
        "not_verified": list(unverified),
        "tested_models": [test._asdict() for test in tested],
    }
    return json_text(data)


def _tested_line(test: ModelTest, style: Style) -> str:
    """`tested  virtual-model/openai/gpt-4o: passed (3 of 3)`; a report may hold anything, and is cut."""
    looks = {"passed": "green", "failed": "red"}.get(test.status, "yellow")
    detail = f" ({cut(escape(test.detail), _LONGEST_DETAIL)})" if test.detail else ""
    return f"{style.paint('tested', 'cyan')}  {escape(test.name)}: {style.paint(test.status, looks)}{detail}"


def _outcome_summary(outcomes: Sequence[Outcome], unverified: bool, style: Style) -> str:
    done: dict[Action, list[Kind]] = {}
    for outcome in outcomes:
        if outcome.status == "applied":
            done.setdefault(outcome.change.action, []).append(outcome.change.kind)
    models = any(outcome.change.kind == "model" for outcome in outcomes)
    counts = [f"{counted(kinds) if models else f'{len(kinds)}'} {_PAST[action]}" for action, kinds in done.items()]
    counts = counts or ["nothing applied"]
    statuses = Counter(outcome.status for outcome in outcomes)
    counts += [f"{statuses[status]} {status}" for status in ("already", "failed", "skipped") if statuses[status]]
    whole = not unverified and not statuses["failed"] and not statuses["skipped"]
    verdict = style.paint("Applied", "green", "bold") if whole else style.paint("Not all applied", "red", "bold")
    return f"{verdict}: {', '.join(counts)}" + ("; read back and verified." if whole else ".")


_UNKNOWN = "not known: the run ended before reporting the outcome; plan shows what is live"
_GAP = "before this, it was changed without an entry here"


def history_text(
    entries: Sequence[AuditEntry], wanted: Callable[[AuditEntry], bool], style: Style, *, diff: bool = False
) -> str:
    """Two lines for each change, the oldest first: when, what and its outcome; then who, how and why. `diff` adds fields."""
    rows = list(_history_rows(entries, wanted))
    lines = [line for entry, gap in rows for line in (*_entry_lines(entry, gap, style), *(_entry_diff(entry) if diff else ()))]
    return "".join(f"{line}\n" for line in [*lines, *([""] if lines else []), f"{count(len(rows), 'change')}."])


def history_json(entries: Sequence[AuditEntry], wanted: Callable[[AuditEntry], bool], *, diff: bool = False) -> str:
    """The same as JSON text. `gap` marks a policy that was changed before this without an entry."""
    rows = ((entry if diff else replace(entry, fields=None), gap) for entry, gap in _history_rows(entries, wanted))
    changes = [{**entry.plain(), "gap": gap} for entry, gap in rows]
    return json_text({"format": "policyctl/history", "version": 1, "changes": changes})


def _history_rows(entries: Sequence[AuditEntry], wanted: Callable[[AuditEntry], bool]) -> Iterator[tuple[AuditEntry, bool]]:
    from policyctl.plan.audit import fold, gaps

    folded = fold(entries)
    return ((entry, gap) for entry, gap in zip(folded, gaps(folded), strict=True) if wanted(entry))


def _entry_lines(entry: AuditEntry, gap: bool, style: Style) -> Iterator[str]:
    outcome = _UNKNOWN if entry.outcome == "begun" else entry.outcome + (f": {entry.reason}" if entry.reason else "")
    painted = style.paint(escape(outcome), LOOKS.get(entry.outcome, "yellow"))
    when = style.paint(escape(entry.time[:19].replace("T", " ")), "dim")
    yield f"{when}  {escape(entry.environment)}  {SYMBOLS[entry.action]} {escape(entry.name)}  {painted}"
    origin = entry.origin
    yield style.paint(escape(f"    by {origin.who} with {origin.command}{_origin_text(origin)}"), "dim")
    if origin.run is not None:
        yield style.paint(escape(f"    in {origin.run}"), "dim")
    for override in entry.overrides:
        yield style.paint(escape(f"    overriding {override_text(override)}"), "yellow")
    if gap:
        yield f"    {style.paint('note', 'cyan')}  {_GAP}"


def _entry_diff(entry: AuditEntry) -> Iterator[str]:
    """What changed, field by field; of an added or removed policy or model what it contains."""
    if entry.fields is None:
        yield "    what changed is not in the audit file"
    elif entry.action == "update":
        yield from field_lines(entry.fields)
    else:
        for field in entry.fields:
            before, after = sides(field)
            yield f"    {position_name(field.path)}: {before if entry.action == 'remove' else after}"


def _origin_text(origin: AuditOrigin) -> str:
    back = f", back to the files of {origin.to[:12]}" if origin.to else ""
    if origin.commit is None:
        return f" (no commit: {origin.no_commit}){back}" if origin.no_commit else back
    changed = ", with uncommitted changes" if origin.dirty else ""
    return f" at {origin.commit[:12]} ({origin.subject}){changed}{back}"


_NOTHING = "/dev/null"


def plan_diff(changes: Iterable[Change], style: Style) -> str:
    """What is live and what the files want of each changed policy and model; empty without changes.

    Both sides are in normal form, which has no secrets; what changes besides comes after it. Lines are escaped,
    so that a policy's text controls no terminal.
    """
    return "".join(f"{line}\n" for change in changes for line in _yaml_change_lines(change, style))


def _yaml_change_lines(change: Change, style: Style) -> Iterator[str]:
    after = None if change.after is None else normal_of(change.after)
    old, new = _yaml_sides(change.before, after)
    names = (
        _NOTHING if change.before is None else f"live/{change.name}",
        _NOTHING if after is None else change.file or change.name,
    )
    yield from diff_lines(old, new, names, style)
    if change.before is not None and change.after is not None:
        shown = fields_between(change.before, change.after)
        for line in field_lines([one for one in change.fields if one not in shown], whole=True):
            yield f"# and{escape(line[3:])}"


def _yaml_sides(before: Document | None, after: Document | None) -> tuple[list[str], list[str]]:
    """The lines of both sides: YAML, or JSON where YAML cannot hold one of them or would show no difference."""
    old, new = _yaml(before), _yaml(after)
    if old is None or new is None or old == new:
        old, new = ("" if one is None else json_text(one) for one in (before, after))
    return _lines_of(old), _lines_of(new)


def _yaml(document: Document | None) -> str | None:
    from policyctl.load.write import normal_text  # which imports what writes files

    return "" if document is None else normal_text(document)


def _lines_of(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n") if text else []
