"""What `effect` shows, as text for a terminal and as markdown: of one environment, or of several.

What is the same in several environments is shown once, with the environments it is for. With the gateway's records, it is the
predicted and observed figures of policies side by side.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from policyctl.effect.analysis import Analysis
from policyctl.effect.evaluate import Calibration, Cost, Estimate
from policyctl.effect.gateway import ASSUMED, answer_text
from policyctl.effect.tree import Tree, Unfit, unfit_models
from policyctl.effect.usage import Names, Use
from policyctl.effect.worst_case import Bound
from policyctl.plan.diff import unknown_field_notes
from policyctl.plan.fleet import EnvironmentResult, FleetResult
from policyctl.policy.document import Document, digest
from policyctl.policy.names import bare_name, short_names
from policyctl.report.effect_rows import describe_unfit, effect_rows, model, percent, seconds, survived_rows
from policyctl.report.fleet import ending, names_of, same_text, side_by_side, side_by_side_markdown
from policyctl.report.format import Style, columns, count, cut, escape, json_text, name_text, padded, position_name
from policyctl.report.markdown import code, naming, prose, row, strings_in
from policyctl.report.plan_json import (
    AnalysisView,
    ComparisonView,
    NotKnownView,
    Trace,
    Users,
    View,
    WhatIf,
    effect_json,
    users_json,
)

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


_MOST_COSTS = 8  # rows of one status


class Section(NamedTuple):
    """Rows under a title."""

    title: str
    rows: tuple[str, ...]


def sections(view: View) -> list[Section]:
    """All sections of a view; those without rows are left out."""
    match view:
        case AnalysisView():
            found = list(_analysis_sections(view))
        case WhatIf():
            found = list(_what_if_sections(view))
        case Trace():
            found = list(_trace_sections(view))
        case ComparisonView():
            effect, uncounted = effect_rows(view.effect), map(escape, unknown_field_notes(view.extras, position_name))
            found = [Section("effect", tuple(effect)), _unfollowed(view), Section("not counted", tuple(uncounted))]
        case NotKnownView():
            found = [Section("not known", (escape(view.why),))]
    return [section for section in found if section.rows]


def _analysis_sections(view: AnalysisView) -> Iterator[Section]:
    seen = view.picture
    if seen.tree.refused:
        yield Section("refused", (f"every request gets 400: {position_name(seen.tree.refused)}",))
        return
    yield Section("traffic", tuple(_traffic(seen)))
    yield Section("providers", tuple(f"{percent(share):>6}  {name_text(name)}" for name, share in _falling(seen.providers)))
    yield _unfit(unfit_models(seen.tree))
    yield Section("outages", tuple(survived_rows(view.outages)))
    yield Section("worst case", tuple(_worst(view)))
    yield Section(
        "dead",
        tuple(f"{position_name(one.path)}{f' ({model(one.model)})' if one.model else ''}: {one.why}" for one in view.dead),
    )
    yield from _references(seen.tree)


def _references(tree: Tree) -> Iterator[Section]:
    """What is assumed about targets that are policies, and which of them do not exist or cannot be followed."""
    yield Section("assumed", tuple(_assumed(name, repeats) for name, repeats in tree.assumed.items()))
    yield Section(
        "missing", tuple(f"{escape(name)} does not exist; no request that reaches it is served" for name in tree.missing)
    )
    unfollowed = tree.unfollowed.items()
    yield Section("not followed", tuple(f"{escape(name)}: {escape(why)}; {_NOT_FOLLOWED}" for name, why in unfollowed))


def _unfollowed(view: ComparisonView) -> Section:
    """The same for a comparison, which makes no claims if it depends on something that cannot be followed."""
    counted = "" if view.effect.unknown else f"; {_NOT_FOLLOWED}"
    return Section("not followed", tuple(f"{escape(name)}: {escape(why)}{counted}" for name, why in view.unfollowed.items()))


_NOT_FOLLOWED = "requests that reach it do not count as served, and its own calls and waits are not counted"


def _assumed(name: str, repeats: int) -> str:
    text = f"{escape(name)} does what its own policy does"
    if not repeats:
        return text
    return f"{text}; a retry around it may repeat it {count(repeats, 'time')}, which counts in the worst case only"


def _unfit(models: Sequence[Unfit]) -> Section:
    return Section("types", tuple(map(describe_unfit, models)))


def _falling(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(shares.items(), key=lambda pair: -pair[1])


def _traffic(seen: Analysis) -> Iterator[str]:
    names = short_names(seen.tree.models)
    for name, share in _falling(seen.models):
        when = seen.reach[name].said(names) if name in seen.reach else "never called"
        unknown = "  (not followed, see below)" if name in seen.tree.unfollowed else ""
        yield f"{percent(share):>6}  {model(name)}{f'  {escape(when)}' if when else ''}{unknown}"


def _worst(view: AnalysisView) -> Iterator[str]:
    seen = view.picture
    yield f"{count(int(seen.calls.value), 'call')}{_legs(seen.calls)}"
    if seen.waits.value:
        yield f"{seconds(seen.waits.value)} of back-off{_legs(seen.waits)}"
    if seen.failover.value:
        yield f"{seconds(seen.failover.value)} of it before the last failover{_legs(seen.failover)}"
    if seen.latency:
        yield f"{seconds(seen.latency.value)} in all, when every call takes its whole timeout{_legs(seen.latency)}"


def _legs(bound: Bound) -> str:
    return f": {', '.join(f'{model(leg.model)} × {leg.calls}' for leg in bound.legs)}" if bound.legs else ""


def _what_if_sections(view: WhatIf) -> Iterator[Section]:
    seen = view.evaluation
    yield Section("supposed", tuple(map(escape, view.given)))
    yield _unfit(unfit_models(view.tree))
    yield Section("served", (percent(seen.served) + (f"; {percent(seen.cut)} get a broken stream" if seen.cut else ""),))
    yield Section("answers", tuple(_answers(view)))
    yield Section(
        "models",
        tuple(
            f"{model(name)}: serves {percent(seen.serves[name])}, is called by {percent(reached)} of requests, "
            f"{seen.calls[name]:.4g} calls per request"
            for name, reached in seen.reached.items()
        ),
    )
    yield from _references(view.tree)


def _answers(view: WhatIf) -> Iterator[str]:
    for status, chance in sorted(view.evaluation.statuses.items(), key=lambda pair: -pair[1]):
        yield f"{percent(chance):>6}  {_status(status)}"
        spread = sorted(view.costs.get(status, {}).items(), key=lambda pair: -pair[1])
        for cost, share in spread[:_MOST_COSTS]:
            yield f"        {percent(share)} after {_cost(cost)}"
        if len(spread) > _MOST_COSTS:
            yield f"        … and {count(len(spread) - _MOST_COSTS, 'rarer way')}"


def _cost(cost: Cost) -> str:
    return count(cost.calls, "call") + (f" and {seconds(cost.seconds)} of back-off" if cost.seconds else "")


def _status(status: int | None) -> str:
    return "no answer at all" if status is None else str(status)


def _trace_sections(view: Trace) -> Iterator[Section]:
    walk = view.walk
    if view.refused:
        yield Section("refused", (f"the gateway calls no model: {position_name(view.refused)}",))
    yield _unfit(view.unfit)
    yield Section("calls", tuple(_calls(view)))
    ending = f"{_status(walk.status)}{' with a broken stream' if walk.cut else ''} after {count(len(walk.calls), 'call')}"
    yield Section("answer", (ending + (f" and {seconds(walk.waited)} of back-off" if walk.waited else ""),))


def _calls(view: Trace) -> Iterator[str]:
    for number, call in enumerate(view.walk.calls, 1):
        wait = f" (after {seconds(call.wait)})" if call.wait else ""
        yield f"{number}. {model(call.model)}: {answer_text(call.answer)}{wait}"


def effect_text(views: Sequence[View], style: Style, assumed: str = ASSUMED) -> str:
    """A block for each policy; the last line is the assumption behind it all (`assumed`)."""
    blocks = []
    for view in views:
        against = f"  {style.paint(f'against {escape(view.against)}', 'dim')}" if isinstance(view, ComparisonView) else ""
        lines = [f"{style.paint(escape(view.name), 'bold')}  {style.paint(escape(view.file), 'dim')}{against}"]
        for title, rows in sections(view):
            lines += [f"  {style.paint(title, 'cyan')}", *(f"    {row}" for row in rows)]
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, style.paint(assumed, "dim")]) + "\n"


def effect_markdown(views: Sequence[View], documents: Iterable[Document], assumed: str = ASSUMED) -> str:
    """The same as markdown: a heading for each policy, a list for each section. `documents` are the policies it may name."""
    with naming(strings_in(documents)):
        return _view_page(views, assumed)


def _view_page(views: Sequence[View], assumed: str) -> str:
    blocks = []
    for view in views:
        against = f" against {code(view.against)}" if isinstance(view, ComparisonView) else ""
        lines = [f"### {code(view.name)}{against}"]
        for title, rows in sections(view):
            lines += ["", f"**{title}**", "", *(f"- {prose(row)}" for row in rows)]
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, f"_{prose(assumed)}_"]) + "\n"


_HEADS = ("traffic", "without it", "policy", "uses")


def users_text(users: Users, style: Style) -> str:
    """A line with the result, and a line for each use."""
    lines = [style.paint(_found(users), "bold")]
    if users.uses:
        rows = [_view_cells(use) for use in users.sorted]
        widths = [max(map(columns, column)) for column in zip(_HEADS, *(cells[:4] for cells in rows), strict=True)]
        lines += ["", f"  {style.paint(_aligned(_HEADS, widths).rstrip(), 'dim')}"]
        for use, cells in zip(users.sorted, rows, strict=True):
            file = style.paint(f"  {escape(users.files[use.policy])}", "dim")
            lines.append(f"  {_aligned(cells, widths)}  {cells[4]}{file}")
        lines += ["", style.paint(_without(users.wanted), "dim")]
    notes = _notes(users)
    lines += ["", *(style.paint("note  ", "cyan") + note for note in notes)] if notes else []
    return "\n".join([*lines, "", style.paint(ASSUMED, "dim")]) + "\n"


def users_markdown(users: Users) -> str:
    """The same as markdown: a table."""
    parts = [f"### {prose(_found(users))}\n"]
    if users.uses:
        head = row((*_HEADS, "how", "file")) + "|--:|--:|---|---|---|---|\n"
        rows = [(*cells[:2], code(cells[2]), code(cells[3]), prose(cells[4])) for cells in map(_view_cells, users.sorted)]
        files = [code(users.files[use.policy]) for use in users.sorted]
        parts += [
            head + "".join(row((*cells, file)) for cells, file in zip(rows, files, strict=True)),
            f"_{_without(users.wanted)}_\n",
        ]
    notes = _notes(users)
    parts += ["".join(f"- {prose(note)}\n" for note in notes)] if notes else []
    return "\n".join([*parts, f"_{prose(ASSUMED)}_\n"])


def _without(wanted: Names) -> str:
    """What the column "without it" assumes."""
    models, policies = bool(wanted.models), bool(wanted.policies)
    gone = [*(["it answers every call with 404"] if models else []), *(["the policy does not exist"] if policies else [])]
    return f"without it: the requests that are still served while {' or '.join(gone)}"


def _found(users: Users) -> str:
    """`openai/gpt-4o: used by 2 of 6 policies`."""
    names = [*map(model, users.wanted.models), *map(escape, users.wanted.policies)]
    what = names[0] if len(names) == 1 else f"{escape(users.pattern)} ({', '.join(names)})"
    policies = len({use.policy for use in users.uses})
    looked = count(len(users.files), "policy") + (", as far as is known" if users.beyond or users.unknown else "")
    return f"{what}: used by {policies:,} of {looked}" if policies else f"{what}: used by none of {looked}"


def _view_cells(use: Use) -> tuple[str, str, str, str, str]:
    """The cells of a use: traffic, what is served without it, the policy, the target, and how."""
    numbers = [("?" if share is None else percent(share)) for share in (use.share, use.served)]
    return numbers[0], numbers[1], escape(bare_name(use.policy)), model(use.target), _how(use)


def _how(use: Use) -> str:
    way = f", through {', '.join(escape(bare_name(name)) for name in use.through)}" if use.through else ""
    if use.why:
        return f"not known: {escape(use.why)}{way}"
    if not use.asked:
        return f"named, but never called{way}"
    if use.when:
        return f"only {escape(use.when)}{way}"
    if not use.share:
        return f"called, but its answers are never used{way}"
    return f"{'first choice' if use.share == 1 else 'a share of the requests'}{way}"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """A line of cells: numbers aligned to the right, names to the left."""
    traffic, without, *names = (cell for cell, _ in zip(cells, widths, strict=False))
    numbers = [f"{cell:>{width}}" for cell, width in zip((traffic, without), widths, strict=False)]
    return "  ".join([*numbers, *(padded(name, width) for name, width in zip(names, widths[2:], strict=True))])


def _notes(users: Users) -> list[str]:
    beyond = [
        f"{escape(name)} is not known here, so it is not known whether {', '.join(map(escape, map(bare_name, policies)))} "
        f"{'uses' if len(policies) == 1 else 'use'} {escape(users.pattern)} through it"
        for name, policies in users.beyond.items()
    ]
    pattern = escape(users.pattern)
    return beyond + [
        f"it is not known whether {escape(bare_name(name))} uses {pattern}: {escape(why)}"
        for name, why in users.unknown.items()
    ]
