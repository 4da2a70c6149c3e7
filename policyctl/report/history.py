"""The history of policies, for people and for machines. The JSON's schema is `schemas/history.schema.json`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from policyctl.plan.audit import AuditEntry, AuditOrigin, fold, gaps
from policyctl.report.apply_text import LOOKS
from policyctl.report.format import count, escape, json_text
from policyctl.report.plan_text import SYMBOLS
from policyctl.report.plan_view import override_text
from policyctl.report.terminal import Style

FORMAT = "policyctl/history"
VERSION = 1
_UNKNOWN = "not known: the run ended before it told; plan shows what is live"
_GAP = "it was changed before this by somebody who left no entry here"


def history_text(
    entries: Sequence[AuditEntry], wanted: Callable[[AuditEntry], bool], style: Style, *, diff: bool = False
) -> str:
    """Two lines a change, the oldest first: when, what and its outcome; then who, how, and why. `diff` shows what changed."""
    rows = list(_rows(entries, wanted))
    lines = [line for entry, gap in rows for line in (*_lines(entry, gap, style), *(_diff(entry) if diff else ()))]
    return "".join(f"{line}\n" for line in [*lines, *([""] if lines else []), f"{count(len(rows), 'change')}."])


def history_json(entries: Sequence[AuditEntry], wanted: Callable[[AuditEntry], bool], *, diff: bool = False) -> str:
    """The same as JSON text. `gap` says that the policy was changed before by somebody who left no entry."""
    rows = ((entry if diff else replace(entry, fields=None), gap) for entry, gap in _rows(entries, wanted))
    changes = [{**entry.plain(), "gap": gap} for entry, gap in rows]
    return json_text({"format": FORMAT, "version": VERSION, "changes": changes})


def _rows(entries: Sequence[AuditEntry], wanted: Callable[[AuditEntry], bool]) -> Iterator[tuple[AuditEntry, bool]]:
    folded = fold(entries)
    return ((entry, gap) for entry, gap in zip(folded, gaps(folded), strict=True) if wanted(entry))


def _lines(entry: AuditEntry, gap: bool, style: Style) -> Iterator[str]:
    outcome = _UNKNOWN if entry.outcome == "begun" else entry.outcome + (f": {entry.reason}" if entry.reason else "")
    painted = style.paint(escape(outcome), LOOKS.get(entry.outcome, "yellow"))
    when = style.paint(escape(entry.time[:19].replace("T", " ")), "dim")
    yield f"{when}  {escape(entry.environment)}  {SYMBOLS[entry.action]} {escape(entry.name)}  {painted}"
    origin = entry.origin
    yield style.paint(escape(f"    by {origin.who} with {origin.command}{_source(origin)}"), "dim")
    if origin.run is not None:
        yield style.paint(escape(f"    in {origin.run}"), "dim")
    for override in entry.overrides:
        yield style.paint(escape(f"    overriding {override_text(override)}"), "yellow")
    if gap:
        yield f"    {style.paint('note', 'cyan')}  {_GAP}"


def _diff(entry: AuditEntry) -> Iterator[str]:
    """What changed, field by field."""
    from policyctl.report.plan_text import field_lines  # with difflib behind it

    if entry.fields is None:
        yield "    what changed is not in the audit file"
    else:
        yield from field_lines(entry.fields)


def _source(origin: AuditOrigin) -> str:
    if origin.commit is None:
        return f" (no commit: {origin.no_commit})" if origin.no_commit else ""
    changed = ", with changes that are in no commit" if origin.dirty else ""
    return f" at {origin.commit[:12]} ({origin.subject}){changed}"
