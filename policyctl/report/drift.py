"""Who moved what, as text and as JSON: of one environment or of many."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import unified_diff
from pathlib import Path
from typing import Any

from policyctl.load.adopt import Adoption
from policyctl.plan.diff import FieldChange
from policyctl.plan.drift import MOVED, Drift, DriftReport, Moved, MovedField
from policyctl.plan.fleet import EnvironmentResult, FleetResult
from policyctl.policy.names import bare_name
from policyctl.report.fleet import fleet_text, names_of
from policyctl.report.format import Style, count, describe_value, escape, field_values, json_text, position_name
from policyctl.report.markdown import SUMMARY_BYTES, code, naming, prose, row, strings_in
from policyctl.report.plan_items import Room, named
from policyctl.report.plan_text import SYMBOLS

FORMAT = "policyctl/drift"
VERSION = 1
_FRAME = 64 * 1024  # bytes of a summary for everything but the policies
_MOST_FAILED = 100
_LOOKS: dict[Moved, str] = {"git": "cyan", "remote": "yellow", "both": "red", "unknown": "dim"}
_NOUNS: dict[Moved, str] = {
    "git": "moved in Git",
    "remote": "moved on the remote",
    "both": "moved on both sides",
    "unknown": "not known",
}
_BASES = {"audit": "the audit record", "history": "Git history", "nothing": "nothing"}


def drift_text(report: DriftReport, remote: str, style: Style) -> str:
    """Each difference with who moved and its fields, what this rests on, and a summary as the last line.

    `remote` is the remote as the user wrote it.
    """
    blocks = [
        [style.paint(f"environment {escape(report.environment)}, remote {escape(remote)}", "dim")],
        list(_drift_lines(report.drifts, style)),
        [f"{style.paint('blocked', 'red', 'bold')}  {escape(name)}: {escape(why)}" for name, why in report.blocked],
        [style.paint(line, "dim") for line in _basis_lines(report)],
        [f"{style.paint('Drift:', 'bold')} {_summary(report, style)}."],
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def _drift_lines(drifts: Iterable[Drift], style: Style) -> Iterator[str]:
    for one in drifts:
        change = one.change
        source = f"  {style.paint(escape(change.file), 'dim')}" if change.file else ""
        yield f"{SYMBOLS[change.action]} {style.paint(escape(change.name), 'bold')}{source}"
        yield f"    {style.paint(escape(one.words), _LOOKS[one.moved])}"
        if one.commit is not None:
            yield f"    {'live is as in' if one.moved == 'git' else 'compared with'} commit {one.commit[:12]}"
        if change.action != "update":
            yield f"    {'live' if change.after is None else 'files'}: {describe_value(change.after or change.before or {})}"
        yield from (f"    {field_text(field, three=one.moved == 'both')}" for field in one.fields)


def field_text(field: MovedField, *, three: bool) -> str:
    """`policy.retry.attempts: files 1, live 5`, and on `three` sides also what it was and who moved it."""
    files, live = field_values(FieldChange(field.path, field.files, field.live))
    label = position_name(field.path)
    if not three:
        return f"{label}: files {files}, live {live}"
    was, _ = field_values(FieldChange(field.path, field.was, field.live))
    who = "conflict" if field.moved == "both" else MOVED[field.moved]
    return f"{label}: was {was}, files {files}, live {live}  ({who})"


def _basis_lines(report: DriftReport) -> Iterator[str]:
    """What the answers rest on, and what would make them certain."""
    for basis, name in _BASES.items():
        found = [one for one in report.drifts if one.basis == basis]
        if found and basis != "nothing":
            more = f" ({report.audit})" if basis == "audit" else ""
            if basis == "history" and report.commits is not None:
                more = f" ({count(report.commits, 'commit')} that changed the directory)"
            yield f"{count(len(found), 'answer')} from {name}{escape(more)}"
    if report.gap is not None:
        yield f"history is not whole: {escape(report.gap)}"


def _summary(report: DriftReport, style: Style) -> str:
    found = [style.paint(f"{number:,} {_NOUNS[moved]}", _LOOKS[moved]) for moved, number in report.totals.items() if number]
    found = found or [style.paint("none", "green", "bold")]
    rest = f"{report.in_sync:,} in sync" + (f", {report.unmanaged:,} unmanaged" if report.unmanaged else "")
    return f"{', '.join(found)}, {rest}"


def drifts_text(fleet: FleetResult, reports: dict[str, DriftReport], style: Style, *, verbose: bool = False) -> str:
    """Several environments: those with the same drift once, then what was left as it is, failures by reason, and a summary."""
    blocks = []
    for group in _groups(fleet.results, reports):
        report = reports[group[0].name]
        same = f", the same in {count(len(group), 'environment')}" if len(group) > 1 else ""
        lines = [
            *_drift_lines(map(without_writer, report.drifts), style),
            *(style.paint(line, "dim") for line in _basis_lines(report)),
        ]
        head = style.paint(f"{escape(names_of(group))}: {_summary(report, Style())}{same}", "bold")
        blocks.append("".join(f"{line}\n" for line in (head, *(f"  {line}" for line in lines))))
    return "\n".join([*blocks, fleet_text(fleet, style, verbose=verbose, plans=False)])


def _groups(results: Sequence[EnvironmentResult], reports: Mapping[str, DriftReport]) -> list[list[EnvironmentResult]]:
    """The environments that differ from the files, those with equal drift together, the most first."""
    groups: dict[str, list[EnvironmentResult]] = {}
    for one in results:
        if one.name in reports and reports[one.name].drifts:
            groups.setdefault(one.alike, []).append(one)
    return sorted(groups.values(), key=len, reverse=True)


def without_writer(one: Drift) -> Drift:
    """A difference without who wrote it last, which is not the same in every environment."""
    return replace(one, written="")


def drift_json(results: Sequence[EnvironmentResult], reports: dict[str, DriftReport], left_out: int = 0) -> str:
    """The drift of one or more environments as JSON text; its schema is `schemas/drift.schema.json`."""
    return json_text(
        {
            "format": FORMAT,
            "version": VERSION,
            "not_selected": left_out,
            "environments": [_environment(one, reports.get(one.name)) for one in results],
        }
    )


def _environment(result: EnvironmentResult, report: DriftReport | None) -> dict[str, Any]:
    head = {"name": result.name, "status": result.status, "exit_code": result.code, "reason": result.reason}
    if report is None:
        return {**head, "remote": result.remote}
    return {
        **head,
        "remote": report.remote,
        "summary": {**report.totals, "in_sync": report.in_sync, "unmanaged": report.unmanaged, "blocked": len(report.blocked)},
        "history": {"commits": report.commits, "gap": report.gap},
        "audit": report.audit,
        "drifts": [drift_data(one) for one in report.drifts],
        "blocked": [{"name": name, "reason": why} for name, why in report.blocked],
    }


def drift_data(one: Drift) -> dict[str, Any]:
    """One difference as a plain value."""
    change = one.change
    return {
        "name": change.name,
        "kind": change.kind,
        "action": change.action,
        **({"file": change.file} if change.file is not None else {}),
        "moved": one.moved,
        "basis": one.basis,
        "why": one.reason,
        **({"commit": one.commit} if one.commit is not None else {}),
        "fields": [{key: item for key, item in field._asdict().items() if item is not None} for field in one.fields],
        "conflicts": list(one.conflicts),
    }


def adoption_text(done: Adoption, style: Style) -> str:
    """What was taken over into the files, and what was not and why; empty for nothing at all."""
    lines = []
    for path, (before, after) in done.files.items():
        how = "new" if before is None else "deleted" if after is None else "written anew" if path in done.whole else "edited"
        lines.append(f"{style.paint(how, 'green')}  {escape(str(path))}")
    lines += [f"{style.paint('adopted', 'green', 'bold')}  {escape(name)}" for name in done.adopted]
    lines += [f"{style.paint('left', 'yellow', 'bold')}  {escape(name)}: {escape(why)}" for name, why in done.left]
    return "".join(f"{line}\n" for line in lines)


def adoption_markdown(report: DriftReport, done: Adoption, page: str, digest: str | None) -> str:
    """The text of a pull request that adopts edits: each policy on three sides, what is left, and what the adoption does.

    `page` is the plan from the files as they are to what they become, `digest` that of the empty plan which is left after the
    merge; None if it is not empty.
    """
    shown = [one for one in report.drifts if one.change.name in done.documents]
    where = code(report.environment)
    about = f"These edits were made on the remote of {where}, and merging this takes them over into the files."
    parts = [f"{about} The remote has them already. Git cannot show who made them.\n\n", *map(_three_way_table, shown)]
    if done.left:
        parts.append("Not taken over:\n\n" + "".join(f"- {code(name)}: {prose(why)}\n" for name, why in done.left) + "\n")
    after = "After the merge the plan has only what is not taken over, and what only Git moved."
    if digest is not None:
        after = f"After the merge there is nothing left to apply: the plan is empty, with the digest `{digest}`."
    parts += [f"{after}\n\n", "What this changes, compared with the files as they are:\n\n", page]
    return "".join(parts)


def _three_way_table(one: Drift) -> str:
    """A policy's fields as they were, in the files and on the remote."""
    head = f"{code(bare_name(one.change.name))}: {prose(one.words)}.\n\n"
    rows = []
    for field in one.fields:
        files, live = field_values(FieldChange(field.path, field.files, field.live))
        was, _ = field_values(FieldChange(field.path, field.was, field.live))
        known = code(was) if one.base is not None else "not known"
        rows.append(row((code(position_name(field.path)), known, code(files), code(live), prose(MOVED[field.moved]))))
    table = row(("field", "was", "files", "remote", "who moved")) + row(["---"] * 5) + "".join(rows)
    return f"{head}{table}\n" if rows else head


def drift_markdown(results: Sequence[EnvironmentResult], reports: Mapping[str, DriftReport]) -> str:
    """The drift of one or more environments for a step's summary: what differs on three sides, equal drift once, and failures.

    What does not fit is counted.
    """
    room = Room(SUMMARY_BYTES - _FRAME)
    parts = [(group, one) for group in _groups(results, reports) for one in reports[group[0].name].drifts]
    shown = [*room.take(_part_markdown(group, one) for group, one in parts)]
    taken = [text for text in shown if text is not None]
    more = f"and {len(parts) - len(taken):,} more, which `policyctl drift` prints\n\n" if len(taken) < len(parts) else ""
    totals = Counter[Moved]()
    for report in reports.values():
        totals.update(report.totals)
    counts = ", ".join(f"{number:,} {_NOUNS[moved]}" for moved, number in totals.items() if number) or "none"
    where = code(results[0].name) if len(results) == 1 else count(len(results), "environment")
    failed = [f"- {code(one.name)}: {prose(one.reason)}\n" for one in results if one.failed]
    some = f"Not compared, or not as a whole:\n\n{''.join(failed[:_MOST_FAILED])}\n" if failed else ""
    rest = f"and {len(failed) - _MOST_FAILED:,} more\n" if len(failed) > _MOST_FAILED else ""
    gaps = dict.fromkeys(report.gap for report in reports.values() if report.gap is not None)
    notes = "".join(f"History is not whole: {prose(gap)}.\n\n" for gap in gaps)
    return f"### policyctl: drift in {where}: {counts}\n\n{''.join(taken)}{more}{some}{rest}{notes}"


def _part_markdown(group: Sequence[EnvironmentResult], one: Drift) -> str:
    change, where = one.change, named([result.name for result in group])
    one = without_writer(one) if len(group) > 1 else one
    documents = [document for document in (change.before, change.after, one.base) if document is not None]
    with naming((change.name, bare_name(change.name), *strings_in(documents))):
        value = "" if change.action == "update" else f"{code(describe_value(change.after or change.before or {}))}\n\n"
        return f"{where}: {change.action} {_three_way_table(one)}{value}"


def patch_text(files: Mapping[Path, tuple[str | None, str | None]], top: Path) -> str:
    """Changed files as a patch for `git apply`, with paths from the top of the repository."""
    return "".join(_file_patch(os.path.relpath(os.path.abspath(path), top), *texts) for path, texts in files.items())


def _file_patch(path: str, before: str | None, after: str | None) -> str:
    old, new = (_patch_name(side, path) for side in "ab")
    head = f"diff --git {old} {new}\n"
    head += "new file mode 100644\n" if before is None else "deleted file mode 100644\n" if after is None else ""
    names = ("/dev/null" if before is None else old, "/dev/null" if after is None else new)
    lines = unified_diff(_with_ends(before or ""), _with_ends(after or ""), *names)
    return head + "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _with_ends(text: str) -> list[str]:
    """The lines of a text as git counts them, with their line feeds."""
    lines = text.split("\n")
    return [*(f"{line}\n" for line in lines[:-1]), *([lines[-1]] if lines[-1] else [])]


def _patch_name(side: str, path: str) -> str:
    """`a/policies/chat.yaml`; in quotes where git would read it otherwise."""
    name = f"{side}/{path}"
    return json.dumps(name, ensure_ascii=False) if any(char in '"\\' or not char.isprintable() for char in name) else name
