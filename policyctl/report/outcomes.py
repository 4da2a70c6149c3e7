"""The outcomes of an apply, and the history in an audit file, whose JSON schema is `schemas/history.schema.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from policyctl.plan.audit import AuditEntry, AuditOrigin, fold, gaps
from policyctl.plan.plan import GOOD, Action, ModelTest, Outcome, Plan
from policyctl.policy.names import Kind, counted
from policyctl.report.format import Style, count, cut, escape, json_text, position_name
from policyctl.report.plan_text import SYMBOLS, field_lines, sides
from policyctl.report.plan_view import override_text

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
    lines += [_test_line(test, style) for test in tested]
    return "".join(f"{line}\n" for line in [*lines, _summary(outcomes, bool(unverified), style)])


def apply_json(plan: Plan, outcomes: Sequence[Outcome], unverified: Sequence[str], tested: Sequence[ModelTest] = ()) -> str:
    """An outcome for each change, what is not on the remote as it should be, and what was reported of tested models."""
    data = {
        "format": "policyctl/apply",
        "version": VERSION,
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


def _test_line(test: ModelTest, style: Style) -> str:
    """`tested  virtual-model/openai/gpt-4o: passed (3 of 3)`; a report may hold anything, and is cut."""
    looks = {"passed": "green", "failed": "red"}.get(test.status, "yellow")
    detail = f" ({cut(escape(test.detail), _LONGEST_DETAIL)})" if test.detail else ""
    return f"{style.paint('tested', 'cyan')}  {escape(test.name)}: {style.paint(test.status, looks)}{detail}"


def _summary(outcomes: Sequence[Outcome], unverified: bool, style: Style) -> str:
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


FORMAT = "policyctl/history"
VERSION = 1
_UNKNOWN = "not known: the run ended before reporting the outcome; plan shows what is live"
_GAP = "before this, it was changed without an entry here"


def history_text(
    entries: Sequence[AuditEntry], wanted: Callable[[AuditEntry], bool], style: Style, *, diff: bool = False
) -> str:
    """Two lines for each change, the oldest first: when, what and its outcome; then who, how and why. `diff` adds fields."""
    rows = list(_rows(entries, wanted))
    lines = [line for entry, gap in rows for line in (*_lines(entry, gap, style), *(_diff(entry) if diff else ()))]
    return "".join(f"{line}\n" for line in [*lines, *([""] if lines else []), f"{count(len(rows), 'change')}."])


def history_json(entries: Sequence[AuditEntry], wanted: Callable[[AuditEntry], bool], *, diff: bool = False) -> str:
    """The same as JSON text. `gap` marks a policy that was changed before this without an entry."""
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
    """What changed, field by field; of an added or removed policy or model what it contains."""
    if entry.fields is None:
        yield "    what changed is not in the audit file"
    elif entry.action == "update":
        yield from field_lines(entry.fields)
    else:
        for field in entry.fields:
            before, after = sides(field)
            yield f"    {position_name(field.path)}: {before if entry.action == 'remove' else after}"


def _source(origin: AuditOrigin) -> str:
    back = f", back to the files of {origin.to[:12]}" if origin.to else ""
    if origin.commit is None:
        return f" (no commit: {origin.no_commit}){back}" if origin.no_commit else back
    changed = ", with uncommitted changes" if origin.dirty else ""
    return f" at {origin.commit[:12]} ({origin.subject}){changed}{back}"
