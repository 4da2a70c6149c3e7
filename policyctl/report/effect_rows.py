"""The effect of a change on traffic, and the outages of a policy, as rows of words and as drawings.

Policies are drawn as graphs (for SVG, or as a mermaid flowchart), and outages as a heat map.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple
from unicodedata import east_asian_width

from policyctl.effect.analysis import Cell, Delta, Effect
from policyctl.effect.equivalence import Kind
from policyctl.effect.evaluate import healthy, visit
from policyctl.effect.gateway import BASIS, Answer
from policyctl.effect.outages import (
    FailureClass,
    Outages,
    Row,
    Together,
    describe_failures,
    merged,
    outages,
    served,
    told_apart,
)
from policyctl.effect.tree import NOTHING, DeclaredModels, TargetPath, Tree, Unfit, tree_if_known, unfit_models
from policyctl.errors import NotKnown
from policyctl.plan.effects import weight_of
from policyctl.policy.document import Document
from policyctl.policy.memo import Memo
from policyctl.policy.names import canonical, canonical_model, provider_of, short_model
from policyctl.report.format import escape, name_text, position_name, shortened, value

_MOST_ROWS = 8  # of an effect, unless it is wanted whole


def effect_rows(effect: Effect) -> Iterator[str]:
    """The effect of a change, the gravest row first (see `plan.effects`); a plan shows these below the change."""
    if effect.unknown:
        yield f"not known: {escape(effect.unknown)}"
        return
    if effect.uncounted:
        yield "not certain: live policies here have fields that policyctl does not know and does not count"
    if effect.refused:
        yield f"worse: the gateway refuses this policy, and every request gets 400: {position_name(effect.refused)}"
    if effect.was_refused:
        yield f"better: the gateway refused it before: {position_name(effect.was_refused)}"
    if effect.usual is not None:
        worse = (effect.usual.after or 0) < (effect.usual.before or 0)
        yield f"{'worse' if worse else 'better'}: {usual_row(effect.usual)}"
    yield from _shares(effect)
    yield from (f"worse: {cell_row(cell)}" for cell in informative(effect.worse, effect))
    if effect.together is not None:
        yield f"worse: {together_row(effect.together)}"
    yield from map(describe_unfit, effect.unfit)
    for word, reached in (("newly reachable", effect.added), ("no longer reachable", effect.removed)):
        yield from (" ".join([model(name), word, escape(when)]).rstrip() for name, when in reached)
    yield from (f"better: {cell_row(cell)}" for cell in informative(effect.better, effect))
    yield from _moved_bounds(effect)
    if replace(effect, sure=False, uncounted=False, of_model=False) == Effect(effect.kind):
        yield "metadata only: its calls stay the same" if effect.of_model else _NOTHING_MOVES[effect.kind]


def _shares(effect: Effect) -> Iterator[str]:
    if effect.models:
        yield f"traffic: {moved_shares(effect.models)}"
    if effect.providers and len(effect.providers) < len(effect.models):
        yield f"traffic by provider: {moved_shares(effect.providers)}"
    if effect.shift:
        yield "only weights change: worse only while a model that gains is down, better only while one that loses is"


def moved_shares(shares: Sequence[Delta]) -> str:
    """`openai/gpt-4.1 50% → 80%, google/gemini 50% → 20%`, the largest shift first."""
    falling = sorted(shares, key=lambda one: -abs((one.after or 0) - (one.before or 0)))
    return ", ".join(f"{model(one.name)} {' → '.join(_both(one.before or 0.0, one.after or 0.0))}" for one in falling)


def _both(before: float, after: float) -> tuple[str, str]:
    return percents(before, after) or (percent(before), percent(after))


# An effect is kept with its rows, so that no other one has its id.
_ROWS = Memo[tuple[Effect, list[str]]]()


def first_rows(effect: Effect, *, whole: bool) -> tuple[list[str], int]:
    """The first rows of an effect, or all of them if `whole`, and the number of rows left out."""
    _, rows = _ROWS.of(lambda: id(effect), lambda: (effect, list(effect_rows(effect))))
    shown = rows if whole or len(rows) <= _MOST_ROWS + 1 else rows[:_MOST_ROWS]
    return shown, len(rows) - len(shown)


_NOTHING_MOVES: dict[Kind, str] = {
    "metadata": "metadata only: the gateway gets the same policy",
    "equivalent": "equivalent: the same behaviour, written differently",
    "effective": "no share, outage or bound changes, but the calls on the way may",
    "unknown": "not known",
}


def _moved_bounds(effect: Effect) -> Iterator[str]:
    if effect.calls:
        yield f"most calls per request: {before_after(effect.calls, '{:,.0f}'.format)}"
    if effect.failover and (effect.failover.before or effect.failover.after):
        yield f"most back-off before failover: {before_after(effect.failover, seconds)}"
    elif effect.waits and (effect.waits.before or effect.waits.after):
        yield f"most back-off: {before_after(effect.waits, seconds)}"
    if effect.latency:
        yield f"worst-case latency: {before_after(effect.latency, seconds)}"


def before_after(moved: Delta, text: Callable[[float], str]) -> str:
    """`75% → 100%`; `text` formats each value."""
    return " → ".join("none" if value is None else text(value) for value in (moved.before, moved.after))


def informative(cells: Sequence[Cell], effect: Effect) -> list[Cell]:
    """The cells that add information, the gravest first.

    Left out: a provider whose only effect is already shown for one of its models, partial failures that cost no more than an
    outage that is shown, values that print alike, and everything if provably only weights change, because an outage then
    costs exactly the shares.
    """
    if effect.shift:
        return []
    own = {(provider_of(cell.name), *cell[2:]) for cell in cells if cell.kind == "model"}
    whole: defaultdict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in (cell for cell in cells if cell.share == 1):
        whole[cell[:2]].append(cell)
    found = []
    for cell in cells:
        if cell.share < 1:
            shown = [one.failures for one in whole[cell[:2]] if one.size >= cell.size]
            cell = cell._replace(failures=cell.failures.difference(*shown))
        known = cell.kind == "provider" and cell[1:] in own
        if cell.failures and not known and percents(cell.before, cell.after):
            found.append(cell)
    return sorted(found, key=lambda cell: (-weight_of(cell), cell.share < 1))


def usual_row(moved: Delta) -> str:
    """`served 100% → 80% while nothing fails`."""
    return f"served {' → '.join(_both(moved.before or 0.0, moved.after or 0.0))} while nothing fails"


def cell_row(cell: Cell) -> str:
    """`served 100% → 0% while google/gemini answers 500`, `… while a tenth of the calls to provider openai answer 503`."""
    return f"served {' → '.join(_both(cell.before, cell.after))} while {failing_part(cell)}"


def failing_part(cell: Cell) -> str:
    """`google/gemini is down with 500`, `a tenth of the calls to provider openai fail with 503`."""
    name = model(cell.name) if cell.kind == "model" else f"provider {name_text(cell.name)}"
    how = describe_failures(cell.failures)
    return f"{name} is down with {how}" if cell.share == 1 else f"{_part(cell.share)} of the calls to {name} fail with {how}"


def _part(share: float) -> str:
    return "a tenth" if share == 0.1 else percent(share)


def together_row(together: Together) -> str:
    """`served 100% → 0% while openai/gpt-4o is down with 503 and google/gemini is down with 429`."""
    how = " and ".join(_failing(model(name), answers, together.share) for name, answers in together.failing)
    return f"served {' → '.join(_both(together.before, together.after))} while {how}"


def _failing(name: str, answers: Sequence[Answer], share: float) -> str:
    shown = ["200" if one == 200 else describe_failures([one]) for one in answers]
    if share < 1:
        return f"{_part(share)} of the calls to {name} fail with {' or '.join(shown)}"
    return f"{name} is down with {shown[0]}" if len(shown) == 1 else f"{name} answers now {', now '.join(shown)}"


def outage_rows(
    document: Document, policies: Mapping[str, Document] | None = None, declared: DeclaredModels = NOTHING
) -> list[str]:
    """What a policy serves while a model or a provider is down, or why this is not known."""
    try:
        tree = tree_if_known(document, policies, declared)
    except NotKnown as error:
        return [f"not known: {escape(str(error))}"]
    if tree.untold:
        return [f"not known: {escape(tree.untold)}"]
    return [*map(describe_unfit, unfit_models(tree)), *survived_rows(outages(tree))]


def survived_rows(matrix: Outages) -> Iterator[str]:
    rows = [(model(name), row) for name, row in matrix.models.items()]
    single = {provider_of(name): row for name, row in matrix.models.items()}
    rows += [(f"provider {name_text(name)}", row) for name, row in matrix.providers.items() if single.get(name) != row]
    for name, row in rows:
        yield f"{name} down: {_row(row, matrix.classes)}"


def _row(row: Row, classes: Sequence[FailureClass]) -> str:
    """`40% served with 400, 401; otherwise 100%`: the share for most statuses comes last."""
    alike: defaultdict[float, frozenset[Answer]] = defaultdict(frozenset)
    for lost, failures in zip(row, classes, strict=True):
        alike[lost] |= failures.answers
    *rarer, (most, _) = sorted(alike.items(), key=lambda pair: (len(pair[1]), -pair[0]))
    rows = [f"{percent(served(lost))} served with {describe_failures(failures)}" for lost, failures in rarer]
    return "; ".join([*rows, f"otherwise {percent(served(most))}"]) if rows else f"{percent(served(most))} served"


def percent(chance: float) -> str:
    """`75%`, `33.33%`; never `0%` for something or `100%` for less than everything."""
    text = _rounded(chance, 2)
    if text == "100%" and chance < 1:
        return ">99.99%"
    return "<0.01%" if text == "0%" and chance > 0 else text


def percents(before: float, after: float) -> tuple[str, str] | None:
    """Two chances as percentages with enough digits to differ, and to be neither `0%` for something nor `100%` for less than
    everything; None if twelve digits are not enough to differ."""
    shown = [(_rounded(before, digits), _rounded(after, digits)) for digits in (2, 3, 4, 6, 8, 12)]
    for pair in shown:
        if pair[0] != pair[1] and all(
            text not in ("0%", "100%") or text == last for text, last in zip(pair, shown[-1], strict=True)
        ):
            return pair
    return None


def _rounded(chance: float, digits: int) -> str:
    return f"{chance * 100:.{digits}f}".rstrip("0").rstrip(".") + "%"


def seconds(value: float) -> str:
    """`7 s`, `0.5 s`."""
    return f"{value:,.10g} s"


def model(name: str) -> str:
    """A model's name for people."""
    return shortened(name_text(short_model(name))) or "(the request's own model)"


def describe_unfit(one: Unfit) -> str:
    """Why a model never serves."""
    why = f"it is declared as {escape(one.type)}, and this policy takes {escape(one.takes)} requests"
    return f"{model(one.model)} never serves: {why}"


class Box(NamedTuple):
    """A policy, a group or a model, and the lines of text in its box; `key` is a single word."""

    key: str
    kind: Literal["policy", "group", "model"]
    lines: tuple[str, ...]


class Arrow(NamedTuple):
    """An arrow between two boxes, with the share of requests that take it while nothing fails."""

    start: str
    end: str
    share: float


def chart(documents: Sequence[Document]) -> Iterator[Box | Arrow]:
    """The boxes and arrows of these policies, an arrow after both of its boxes. Shared models and policies appear once."""
    drawn = _Chart({document["name"]: f"p{number}" for number, document in enumerate(documents)})
    for document in documents:
        yield from drawn.policy(document)


@dataclass
class _Chart:
    """The keys of the boxes: policies and models by name, groups by position."""

    policies: Mapping[str, str]
    models: dict[str, str] = field(default_factory=dict)

    def policy(self, document: Document) -> Iterator[Box | Arrow]:
        name = document["name"]
        key = self.policies[name]
        try:
            tree = tree_if_known(document)
        except NotKnown as error:
            yield Box(key, "policy", (name, f"not known: {error}"))
            return
        if tree.refused:
            yield Box(key, "policy", (name, f"refused: {tree.refused}"))
            return
        reached = visit(tree, healthy(tree)).reached
        shares = {leaf.path: share for leaf, share in zip(tree.leaves, reached, strict=True)}
        body = document["policy"]
        yield Box(key, "policy", (name, *_what(body)))
        yield from self._arrows(body, key, (), shares)

    def _arrows(self, group: Any, key: str, path: TargetPath, shares: Mapping[TargetPath, float]) -> Iterator[Box | Arrow]:
        for place, target in enumerate(group.get("targets", ()) if "strategy" in group else ()):
            at = (*path, place)
            share = _arriving(target, at, shares)
            if "strategy" in target:
                own = f"{key}_{place}"
                yield Box(own, "group", _what(target))
                yield Arrow(key, own, share)
                yield from self._arrows(target, own, at, shares)
            else:
                yield from self._asked(str(target.get("model_name", "")), key, share)

    def _asked(self, name: str, key: str, share: float) -> Iterator[Box | Arrow]:
        known = self.policies.get(canonical(name)) or self.models.get(canonical_model(name))
        if known is None:
            known = self.models[canonical_model(name)] = f"m{len(self.models)}"
            yield Box(known, "model", (model(name),))
        yield Arrow(key, known, share)


def _arriving(target: Any, at: TargetPath, shares: Mapping[TargetPath, float]) -> float:
    """The share of healthy requests that reach a target: the sum below a load balance, else the largest share below."""
    if "strategy" not in target:
        return shares.get(at, 0.0)
    places = range(len(target.get("targets", ())))
    below = [_arriving(target["targets"][place], (*at, place), shares) for place in places]
    return sum(below) if target["strategy"]["mode"] == "loadbalance" else max(below, default=0.0)


def _what(group: Any) -> tuple[str, ...]:
    if "strategy" not in group:
        return ("no strategy",)
    mode, codes = group["strategy"]["mode"], group["strategy"].get("on_status_codes")
    listed = f" on {', '.join(map(str, codes)) or 'nothing'}" if mode == "fallback" and codes is not None else ""
    retry = group["retry"]["attempts"] if "retry" in group else 0
    return (f"{mode}{listed}", *([f"retry × {value(retry)}"] if retry else []))


_LONGEST = 36  # characters of a line; more are cut from its middle
_LETTER, _LINE = 7.3, 16  # the size of a letter in the font for drawings
_PAD, _GAP, _BETWEEN = 10, 14, 116  # inside a box, between boxes of one column, between columns


class DrawnBox(NamedTuple):
    """A box: its corner and size, its lines with their heights, and the whole text if a line was cut."""

    kind: str
    x: int
    y: int
    width: int
    height: int
    lines: tuple[tuple[int, str], ...]
    whole: str | None


class Drawing(NamedTuple):
    """A whole drawing; `text` describes it in words.

    `busy` and `idle` are the SVG paths of the arrows that healthy requests take and do not take; `shares` are at their middles.
    """

    width: int
    height: int
    text: str
    nodes: tuple[DrawnBox, ...]
    busy: str
    idle: str
    shares: tuple[tuple[int, int, str], ...]


def drawing(document: Document) -> Drawing:
    """A policy's boxes in columns: the policy, its targets, their targets. A model that several groups call appears once."""
    parts = list(chart([document]))
    boxes = {part.key: part for part in parts if isinstance(part, Box)}
    arrows = [part for part in parts if isinstance(part, Arrow)]
    nodes = _nodes(boxes, [arrow for arrow in arrows if boxes[arrow.end].kind != "policy"])  # a live policy may target itself
    edges = [(arrow.share, *_edge(nodes[arrow.start], nodes[arrow.end])) for arrow in arrows]
    text = "; ".join(f"{boxes[one.start].lines[0]} to {boxes[one.end].lines[0]} {percent(one.share)}" for one in arrows)
    return Drawing(
        width=max(node.x + node.width for node in nodes.values()) + 1,
        height=max(node.y + node.height for node in nodes.values()) + 1,
        text=escape(text),
        nodes=tuple(nodes.values()),
        busy="".join(path for share, path, _, _ in edges if share),
        idle="".join(path for share, path, _, _ in edges if not share),
        shares=tuple((x, y, percent(share)) for share, _, x, y in edges),
    )


def as_one(before: Drawing, after: Drawing) -> Drawing | None:
    """One drawing with both shares on the arrows, if nothing else differs; else None."""
    if (before.width, before.nodes) != (after.width, after.nodes) or len(before.shares) != len(after.shares):
        return None
    shares = []
    for (x, y, old), (to_x, to_y, new) in zip(before.shares, after.shares, strict=True):
        if (x, y) != (to_x, to_y):
            return None
        shares.append((x, y, new if old == new else f"{old} → {new}"))
    return after._replace(shares=tuple(shares), text=f"before: {before.text}; after: {after.text}")


def _nodes(boxes: dict[str, Box], arrows: Sequence[Arrow]) -> dict[str, DrawnBox]:
    columns = _columns(boxes, arrows)
    middles = _middles(boxes, arrows, columns)
    lefts, widths = _lefts(boxes, columns)
    return {key: _node(box, lefts[columns[key]], middles[key], widths[columns[key]]) for key, box in boxes.items()}


def _columns(boxes: Mapping[str, Box], arrows: Sequence[Arrow]) -> dict[str, int]:
    """The column of each box: the largest number of arrows that lead to it. Boxes come before the boxes they point to."""
    columns = dict.fromkeys(boxes, 0)
    for arrow in arrows:
        columns[arrow.end] = max(columns[arrow.end], columns[arrow.start] + 1)
    return columns


def _middles(boxes: dict[str, Box], arrows: Sequence[Arrow], columns: Mapping[str, int]) -> dict[str, float]:
    """The vertical middle of each box: leaves from top to bottom, and every other box centred on its targets."""
    below = defaultdict(list)
    for arrow in arrows:
        below[arrow.start].append(arrow.end)
    middles: dict[str, float] = {}
    foot = 0.0
    for key, box in boxes.items():
        if not below[key]:
            middles[key] = foot + _height(box) / 2
            foot += _height(box) + _GAP
    for key in reversed(boxes):  # inner groups first
        if below[key]:
            middles[key] = (middles[below[key][0]] + middles[below[key][-1]]) / 2
    _drawn_part(boxes, columns, middles)
    return middles


def _drawn_part(boxes: Mapping[str, Box], columns: Mapping[str, int], middles: dict[str, float]) -> None:
    """Move down boxes that would overlap another one of their column."""
    feet: defaultdict[int, float] = defaultdict(float)
    for key in sorted(boxes, key=lambda key: middles[key]):
        half = _height(boxes[key]) / 2
        middles[key] = max(middles[key], feet[columns[key]] + half)
        feet[columns[key]] = middles[key] + half + _GAP


def _lefts(boxes: Mapping[str, Box], columns: Mapping[str, int]) -> tuple[dict[int, int], dict[int, int]]:
    """The left edge of each column, and the width of its boxes."""
    widths: defaultdict[int, int] = defaultdict(int)
    for key, box in boxes.items():
        longest = max(_letters(_cut(line)) for line in box.lines)
        widths[columns[key]] = max(widths[columns[key]], round(longest * _LETTER) + 2 * _PAD)
    lefts, left = {}, 1
    for column in sorted(widths):
        lefts[column] = left
        left += widths[column] + _BETWEEN
    return lefts, widths


def _node(box: Box, left: int, middle: float, width: int) -> DrawnBox:
    top = round(middle - _height(box) / 2) + 1
    cut = [_cut(line) for line in box.lines]
    whole = [escape(line) for line in box.lines]
    lines = tuple((top + _PAD // 2 + round(_LINE * (place + 0.75)), line) for place, line in enumerate(cut))
    return DrawnBox(box.kind, left, top, width, _height(box), lines, None if cut == whole else " · ".join(whole))


def _height(box: Box) -> int:
    return len(box.lines) * _LINE + _PAD


def _edge(start: DrawnBox, end: DrawnBox) -> tuple[str, int, int]:
    """The path from one box's right side to another's left, and the position of the share."""
    x, y = start.x + start.width, start.y + start.height // 2
    to_x, to_y = end.x, end.y + end.height // 2
    middle = (x + to_x) // 2
    return f"M{x} {y}C{middle} {y} {middle} {to_y} {to_x} {to_y}", middle, (y + to_y) // 2 + 4


def _cut(line: str) -> str:
    """A line with its middle cut if it is too long; the ends of a name are more informative."""
    line = escape(line)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2 - 3]}…{line[-(_LONGEST // 2 + 2) :]}"


def _letters(line: str) -> int:
    """The width of a line in letters."""
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in line)


_SHAPES = {"policy": ("[", "]"), "group": ("{{", "}}"), "model": ("([", "])")}


def effect_graph(documents: Sequence[Document]) -> str:
    """A mermaid flowchart of these policies, from left to right. No healthy request takes a dashed arrow."""
    lines = [_box(part) if isinstance(part, Box) else _arrow(part) for part in chart(documents)]
    return "\n".join(["flowchart LR", f"  %% {BASIS}", *lines]) + "\n"


def _box(box: Box) -> str:
    left, right = _SHAPES[box.kind]
    return f'  {box.key}{left}"{"<br>".join(map(_label, box.lines))}"{right}'


def _arrow(arrow: Arrow) -> str:
    line = f'-- "{percent(arrow.share)}" -->' if arrow.share else '-. "0%" .->'
    return f"  {arrow.start} {line} {arrow.end}"


def _label(text: str) -> str:
    """Text for a quoted label, in which nothing ends the label or starts a tag, an entity, a directive or a formula."""
    escaped = escape(text).replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
    return escaped.replace("`", "#96;").replace("\\", "#92;").replace("%", "#37;").replace("$", "#36;")


_STEPS = (1.0, 0.75, 0.5, 0.25)  # the lower limits of the first steps; then come "some" and "nothing"


class Heat(NamedTuple):
    """A cell: what is served before and after (only after if equal), and its step of colour, from 0 (all) to 5 (nothing)."""

    step: int
    after: str
    before: str | None = None
    turn: str = ""  # "better" or "worse"


class HeatMap(NamedTuple):
    """The failures above each column, and for each row what is down and the cells."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Heat, ...]], ...]


def heat_map(before: Tree | None, after: Tree | None) -> HeatMap:
    """The outage matrix of a change. One of the sides may be None."""
    trees = [tree for tree in (before, after) if tree is not None]
    classes = told_apart(trees)
    old, new = outages(trees[0], classes), outages(trees[-1], classes)
    found = list(_outage_pairs(old, new))
    columns = _heat_columns([pair for _, pair in found], len(classes))
    heads = tuple(describe_failures(merged([classes[place] for place in places]).answers) for places in columns)
    rows = tuple((name, tuple(_heat(one[places[0]], other[places[0]]) for places in columns)) for name, (one, other) in found)
    return HeatMap(heads, rows)


def _outage_pairs(before: Outages, after: Outages) -> Iterator[tuple[str, tuple[Row, Row]]]:
    """What may be down, with its rows. A provider of one model has no row besides the model's."""
    models = dict.fromkeys([*after.models, *before.models])
    for name in models:
        yield model(name), (before.row("model", name), after.row("model", name))
    providers = [provider_of(name) for name in models]
    for provider in dict.fromkeys([*after.providers, *before.providers]):
        if providers.count(provider) > 1:
            yield f"all of {model(provider)}", (before.row("provider", provider), after.row("provider", provider))


def _heat_columns(pairs: Sequence[tuple[Row, Row]], classes: int) -> list[list[int]]:
    """The indices of the failure classes, grouped if equal in every row; the smallest groups first."""
    alike: dict[tuple[tuple[float, float], ...], list[int]] = {}
    for place in range(classes):
        alike.setdefault(tuple((old[place], new[place]) for old, new in pairs), []).append(place)
    return sorted(alike.values(), key=len)


def _heat(lost_before: float, lost_after: float) -> Heat:
    before, after = served(lost_before), served(lost_after)
    step = next((number for number, least in enumerate(_STEPS) if after >= least), 4 if after > 0 else 5)
    if percent(before) == percent(after):
        return Heat(step, percent(after))
    return Heat(step, percent(after), percent(before), "worse" if after < before else "better")
