"""One policy drawn from left to right: where each box and each arrow stands, in pixels, and what is written on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from unicodedata import east_asian_width

from policyctl.model.normal import Document
from policyctl.report.chart import Arrow, Box, chart
from policyctl.report.effect_views import percent
from policyctl.report.plain import plain

_LONGEST = 36  # characters of a line; the rest is cut out of its middle
_LETTER, _LINE = 7.3, 16  # the width of a letter and the height of a line, in the page's font for drawings
_PAD, _GAP, _BETWEEN = 10, 14, 116  # inside a box, between boxes of one column, between columns


class Node(NamedTuple):
    """A box: its corner and size, its lines with the middle of each, and the whole text where a line was cut."""

    kind: str
    x: int
    y: int
    width: int
    height: int
    lines: tuple[tuple[int, str], ...]
    whole: str | None


class Drawing(NamedTuple):
    """All of it; `said` is the same in words.

    `busy` and `idle` are the paths of the arrows that healthy requests take and do not take; `shares` stand at their middles.
    """

    width: int
    height: int
    said: str
    nodes: tuple[Node, ...]
    busy: str
    idle: str
    shares: tuple[tuple[int, int, str], ...]


def drawing(document: Document) -> Drawing:
    """A policy's boxes in columns: it, what it asks, what those ask. A model that several groups ask is there once."""
    parts = list(chart([document]))
    boxes = {part.key: part for part in parts if isinstance(part, Box)}
    arrows = [part for part in parts if isinstance(part, Arrow)]
    nodes = _nodes(boxes, [arrow for arrow in arrows if boxes[arrow.end].kind != "policy"])  # a live policy may ask itself
    edges = [(arrow.share, *_edge(nodes[arrow.start], nodes[arrow.end])) for arrow in arrows]
    said = "; ".join(f"{boxes[one.start].lines[0]} to {boxes[one.end].lines[0]} {percent(one.share)}" for one in arrows)
    return Drawing(
        width=max(node.x + node.width for node in nodes.values()) + 1,
        height=max(node.y + node.height for node in nodes.values()) + 1,
        said=plain(said),
        nodes=tuple(nodes.values()),
        busy="".join(path for share, path, _, _ in edges if share),
        idle="".join(path for share, path, _, _ in edges if not share),
        shares=tuple((x, y, percent(share)) for share, _, x, y in edges),
    )


def as_one(before: Drawing, after: Drawing) -> Drawing | None:
    """Both in one drawing, with the shares that moved, where nothing else differs; None where something does."""
    if (before.width, before.nodes) != (after.width, after.nodes) or len(before.shares) != len(after.shares):
        return None
    shares = []
    for (x, y, old), (to_x, to_y, new) in zip(before.shares, after.shares, strict=True):
        if (x, y) != (to_x, to_y):
            return None
        shares.append((x, y, new if old == new else f"{old} → {new}"))
    return after._replace(shares=tuple(shares), said=f"before: {before.said}; after: {after.said}")


def _nodes(boxes: dict[str, Box], arrows: Sequence[Arrow]) -> dict[str, Node]:
    columns = _columns(boxes, arrows)
    middles = _middles(boxes, arrows, columns)
    lefts, widths = _lefts(boxes, columns)
    return {key: _node(box, lefts[columns[key]], middles[key], widths[columns[key]]) for key, box in boxes.items()}


def _columns(boxes: Mapping[str, Box], arrows: Sequence[Arrow]) -> dict[str, int]:
    """How many arrows lead to each box, at most. A box's own arrows come after those that lead to it, but for models."""
    columns = dict.fromkeys(boxes, 0)
    for arrow in arrows:
        columns[arrow.end] = max(columns[arrow.end], columns[arrow.start] + 1)
    return columns


def _middles(boxes: dict[str, Box], arrows: Sequence[Arrow], columns: Mapping[str, int]) -> dict[str, float]:
    """The height at which each box has its middle: one below the other, and what asks in the middle of what it asks."""
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
    """Move down what would lie on another box of its column."""
    feet: defaultdict[int, float] = defaultdict(float)
    for key in sorted(boxes, key=lambda key: middles[key]):
        half = _height(boxes[key]) / 2
        middles[key] = max(middles[key], feet[columns[key]] + half)
        feet[columns[key]] = middles[key] + half + _GAP


def _lefts(boxes: Mapping[str, Box], columns: Mapping[str, int]) -> tuple[dict[int, int], dict[int, int]]:
    """Where each column begins, and how wide its boxes are."""
    widths: defaultdict[int, int] = defaultdict(int)
    for key, box in boxes.items():
        longest = max(_letters(_cut(line)) for line in box.lines)
        widths[columns[key]] = max(widths[columns[key]], round(longest * _LETTER) + 2 * _PAD)
    lefts, left = {}, 1
    for column in sorted(widths):
        lefts[column] = left
        left += widths[column] + _BETWEEN
    return lefts, widths


def _node(box: Box, left: int, middle: float, width: int) -> Node:
    top = round(middle - _height(box) / 2) + 1
    cut = [_cut(line) for line in box.lines]
    whole = [plain(line) for line in box.lines]
    lines = tuple((top + _PAD // 2 + round(_LINE * (place + 0.75)), line) for place, line in enumerate(cut))
    return Node(box.kind, left, top, width, _height(box), lines, None if cut == whole else " · ".join(whole))


def _height(box: Box) -> int:
    return len(box.lines) * _LINE + _PAD


def _edge(start: Node, end: Node) -> tuple[str, int, int]:
    """From one box's right side to another's left, and where a share is written on the way."""
    x, y = start.x + start.width, start.y + start.height // 2
    to_x, to_y = end.x, end.y + end.height // 2
    middle = (x + to_x) // 2
    return f"M{x} {y}C{middle} {y} {middle} {to_y} {to_x} {to_y}", middle, (y + to_y) // 2 + 4


def _cut(line: str) -> str:
    """A line that is not too long; the ends of a name tell more than its middle."""
    line = plain(line)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2 - 3]}…{line[-(_LONGEST // 2 + 2) :]}"


def _letters(line: str) -> int:
    """How many letters wide a line is."""
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in line)
