"""Policies drawn as a mermaid flowchart, which GitHub renders: groups, models, and on each arrow the share of requests."""

from __future__ import annotations

from collections.abc import Sequence

from policyctl.effect.profile import BASIS
from policyctl.model.normal import Document
from policyctl.report.chart import Arrow, Box, chart
from policyctl.report.effect_views import percent
from policyctl.report.plain import plain

_SHAPES = {"policy": ("[", "]"), "group": ("{{", "}}"), "model": ("([", "])")}


def effect_graph(documents: Sequence[Document]) -> str:
    """One chart of all these policies, from left to right.

    A dashed arrow is one that no healthy request takes.
    """
    lines = [_box(part) if isinstance(part, Box) else _arrow(part) for part in chart(documents)]
    return "\n".join(["flowchart LR", f"  %% {BASIS}", *lines]) + "\n"


def _box(box: Box) -> str:
    left, right = _SHAPES[box.kind]
    return f'  {box.key}{left}"{"<br>".join(map(_label, box.lines))}"{right}'


def _arrow(arrow: Arrow) -> str:
    line = f'-- "{percent(arrow.share)}" -->' if arrow.share else '-. "0%" .->'
    return f"  {arrow.start} {line} {arrow.end}"


def _label(text: str) -> str:
    """Text inside a quoted label: nothing in it may end the label, start a tag, an entity, a directive or a formula."""
    escaped = plain(text).replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
    return escaped.replace("`", "#96;").replace("\\", "#92;").replace("%", "#37;").replace("$", "#36;")
