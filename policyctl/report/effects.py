"""What `effect` shows of one environment or of several: what is the same is shown once, with the environments it is for.

With the gateway's records, it is the predicted and observed figures of policies side by side.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from policyctl.effect.evaluate import Calibration, Estimate
from policyctl.effect.gateway import ASSUMED
from policyctl.plan.fleet import EnvironmentResult, FleetResult
from policyctl.policy.document import Document, digest
from policyctl.policy.names import bare_name
from policyctl.report.effect_json import Users, View, effect_json, users_json
from policyctl.report.effect_rows import model, percent
from policyctl.report.effect_text import effect_markdown, effect_text, sections, users_markdown, users_text
from policyctl.report.fleet import ending, names_of, same_text, side_by_side, side_by_side_markdown
from policyctl.report.format import Style, columns, count, cut, escape, json_text, padded
from policyctl.report.markdown import code, prose, row

Part = View | Users | str  # the view of a policy, who uses something, or a drawing
FORMAT = "policyctl/effects"
VERSION = 1
_COLUMNS, _ROWS, _CELL = 6, 50, 80  # of the table: kinds of environments, policies, and characters of a cell


class Answer(NamedTuple):
    """The answer to a question about policies, in parts; `known` are the policies that it may name, `assumed` is the assumption
    behind it."""

    parts: tuple[Part, ...]
    known: tuple[Document, ...] = ()
    assumed: str = ASSUMED


def render_answer(form: str, answer: Answer, style: Style = Style()) -> str:
    """The answer as text, json or markdown; a drawing is never JSON."""
    views: list[View] = []
    for part in answer.parts:
        if isinstance(part, str):
            return f"```mermaid\n{part}```\n" if form == "markdown" else part
        if isinstance(part, Users):
            return _users(form, part, style)
        views.append(part)
    if form == "json":
        return effect_json(views, answer.assumed)
    if form == "markdown":
        return effect_markdown(views, answer.known, answer.assumed)
    return effect_text(views, style, answer.assumed)


def _users(form: str, users: Users, style: Style) -> str:
    if form == "json":
        return users_json(users)
    return users_markdown(users) if form == "markdown" else users_text(users, style)


class Marked(NamedTuple):
    """An answer with a hash of each part: equal parts have equal hashes, whatever environment they are from."""

    answer: Answer
    marks: tuple[str, ...]


def marked(answer: Answer) -> Marked:
    """The answer with the hashes of its parts: of all that is shown of them."""
    return Marked(answer, tuple(_mark(answer._replace(parts=(part,))) for part in answer.parts))


def _mark(one: Answer) -> str:
    forms = ("text",) if isinstance(one.parts[0], str) else ("text", "json")
    return digest([render_answer(form, one) for form in forms])


class _Block(NamedTuple):
    """Parts that the same environments have."""

    results: list[EnvironmentResult]
    answer: Answer


def _blocks(fleet: FleetResult, answers: Mapping[str, Marked]) -> list[_Block]:
    """Every part once, with all environments that have it; what most of them have comes first."""
    having: defaultdict[str, dict[str, None]] = defaultdict(dict)
    parts: dict[str, tuple[Part, Answer]] = {}
    for name, (answer, marks) in ((one.name, answers[one.name]) for one in fleet.results if one.name in answers):
        for mark, part in zip(marks, answer.parts, strict=True):
            having[mark][name] = None
            parts.setdefault(mark, (part, answer))
    together: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for mark, names in having.items():
        together[tuple(names)].append(mark)
    by_name = {one.name: one for one in fleet.results}
    blocks = [
        _Block([by_name[name] for name in names], parts[marks[0]][1]._replace(parts=tuple(parts[mark][0] for mark in marks)))
        for names, marks in together.items()
    ]
    return sorted(blocks, key=lambda block: -len(block.results))


def effects_report(form: str, fleet: FleetResult, answers: Mapping[str, Marked], style: Style = Style()) -> str:
    """The answers of several environments by name, as text, json or markdown; `fleet` has what became of each environment."""
    blocks = _blocks(fleet, answers)
    if form == "json":
        return _json(fleet, blocks)
    heads, rows = _table(fleet, answers)
    if form == "markdown":
        pages = [_page(block) for block in blocks]
        return "\n".join([*pages, *side_by_side_markdown(heads, rows), *ending(fleet, style, markdown=True)])
    texts = [_text(block, style) for block in blocks]
    return "\n".join(text for text in [*texts, side_by_side(heads, rows, style), *ending(fleet, style)] if text)


def _text(block: _Block, style: Style) -> str:
    head = style.paint(f"{escape(names_of(block.results))}{same_text(block.results)}", "bold")
    lines = render_answer("text", block.answer, style).rstrip("\n").split("\n")
    return f"{head}\n\n" + "".join(f"  {line}\n" if line else "\n" for line in lines)


def _page(block: _Block) -> str:
    return f"## {code(names_of(block.results))}{same_text(block.results)}\n\n{render_answer('markdown', block.answer)}"


def _json(fleet: FleetResult, blocks: Iterable[_Block]) -> str:
    data = {
        "format": FORMAT,
        "version": VERSION,
        "not_selected": fleet.left_out,
        "environments": [
            {"name": one.name, "status": one.status, "exit_code": one.code, "reason": one.reason} for one in fleet.results
        ],
        "effects": [
            {"environments": [one.name for one in block.results], "effect": json.loads(render_answer("json", block.answer))}
            for block in blocks
        ],
    }
    return json_text(data)


def _table(fleet: FleetResult, answers: Mapping[str, Marked]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """What differs, side by side: a column for each kind of answer, a row for each policy that not all of them show alike."""
    kinds: dict[tuple[str, ...], list[EnvironmentResult]] = {}
    for one in fleet.results:
        if one.name in answers:
            kinds.setdefault(answers[one.name].marks, []).append(one)
    columns = sorted(kinds.values(), key=len, reverse=True)[:_COLUMNS]
    views = [dict(_views(answers[column[0].name].answer)) for column in columns]
    rows = []
    for name in dict.fromkeys(name for found in views for name in found):
        cells = list(_cells([found.get(name) for found in views]))
        if len(set(cells)) > 1:
            rows.append((bare_name(name), cells))
    return [names_of(column, 2) for column in columns], rows[:_ROWS]


def _views(answer: Answer) -> Iterator[tuple[str, View]]:
    return ((part.name, part) for part in answer.parts if not isinstance(part, (Users, str)))


def _cells(views: Sequence[View | None]) -> Iterator[str]:
    """For each view the first section that is not the same in all of them, in one line; `–` where there is none."""
    found = [{} if view is None else dict(sections(view)) for view in views]
    titles = dict.fromkeys(title for one in found for title in one)
    differs = next((title for title in titles if len({one.get(title) for one in found}) > 1), None)
    for one in found:
        rows = () if differs is None else one.get(differs, ())
        yield cut("; ".join(" ".join(row.split()) for row in rows), _CELL) or "–"


CalibrationRow = tuple[str, str, str, str]
HEADINGS: CalibrationRow = ("", "predicted", "observed", "95% interval")
CALIBRATION_NOTE = "predicted: what the policy makes of the answers that its models gave"


def calibration_report(form: str, found: Sequence[Calibration], unread: int) -> str:
    """The report; `unread` is how many lines were not records."""
    if form == "json":
        head = {"format": "policyctl/calibration", "version": 1}
        return json_text({**head, "policies": [_value(one) for one in found], "unread_lines": unread})
    parts = [(_calibrated(one), list(_calibration_rows(one))) for one in found]
    text = _calibration_page(parts) if form == "markdown" else _calibration_text(parts)
    return text + (f"\n{count(unread, 'line')} could not be read\n" if unread else "")


def _calibrated(one: Calibration) -> str:
    more = [f"{one.left} left early"] if one.left else []
    more += [f"{one.others} of other versions"] if one.others else []
    return f"{escape(bare_name(one.policy))}: {count(one.requests, 'request')}{''.join(f', {text}' for text in more)}"


def _calibration_rows(one: Calibration) -> Iterator[CalibrationRow]:
    if one.served is not None:
        yield _calibration_row("served", one.served)
    for name, estimate in one.shares.items():
        yield _calibration_row(f"by {model(name)}", estimate)
    if one.wait is not None:
        yield _calibration_row("mean wait", one.wait, seconds=True)


def _calibration_row(name: str, estimate: Estimate, *, seconds: bool = False) -> CalibrationRow:
    def shown(value: float) -> str:
        return f"{value:.2f} s" if seconds else percent(value)

    differs = "" if estimate.agrees else ", differs"
    interval = f"{shown(estimate.low)} to {shown(estimate.high)}{differs}"
    return name, shown(estimate.predicted), shown(estimate.observed), interval


def _calibration_text(parts: Sequence[tuple[str, list[CalibrationRow]]]) -> str:
    every = [HEADINGS, *(cells for _, rows in parts for cells in rows)]
    widths = [max(map(columns, column)) for column in zip(*every, strict=True)]

    def line(cells: CalibrationRow) -> str:
        return "  " + "  ".join(map(padded, cells, widths)).rstrip()

    lines = []
    for title, rows in parts:
        lines += [title, *map(line, (HEADINGS, *rows) if rows else ()), ""]
    return "\n".join([*lines, CALIBRATION_NOTE, ""])


def _calibration_page(parts: Sequence[tuple[str, list[CalibrationRow]]]) -> str:
    blocks = []
    for title, rows in parts:
        blocks.append(f"#### {prose(title)}\n")
        if rows:
            head = row(HEADINGS) + "|---|---|---|---|\n"
            blocks.append(head + "".join(row((prose(name), *figures)) for name, *figures in rows))
    return "\n".join([*blocks, f"{CALIBRATION_NOTE}\n"])


def _value(one: Calibration) -> dict[str, Any]:
    return {
        "policy": one.policy,
        "version": one.version,
        "requests": one.requests,
        "left": one.left,
        "other_versions": one.others,
        "served": _estimate(one.served),
        "served_by": {model: _estimate(estimate) for model, estimate in one.shares.items()},
        "mean_wait_seconds": _estimate(one.wait),
    }


def _estimate(one: Estimate | None) -> dict[str, Any] | None:
    return None if one is None else {**one._asdict(), "agrees": one.agrees}
