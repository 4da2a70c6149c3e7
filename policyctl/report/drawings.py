"""Drawings: policies as graphs (for SVG, or as a mermaid flowchart), and outages as a heat map."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from unicodedata import east_asian_width

from policyctl.effect.evaluate import healthy, visit
from policyctl.effect.gateway import BASIS
from policyctl.effect.outages import Outages, Row, describe_failures, merged, outages, served, told_apart
from policyctl.effect.tree import TargetPath, Tree, tree_if_known
from policyctl.errors import NotKnown
from policyctl.policy.document import Document
from policyctl.policy.names import canonical_model, canonical_name, provider_of
from policyctl.report.effect_rows import model, percent
from policyctl.report.format import escape


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
        known = self.policies.get(canonical_name(name)) or self.models.get(canonical_model(name))
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
    return (f"{mode}{listed}", *([f"retry × {retry:g}"] if retry else []))


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
    _part(boxes, columns, middles)
    return middles


def _part(boxes: Mapping[str, Box], columns: Mapping[str, int], middles: dict[str, float]) -> None:
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
