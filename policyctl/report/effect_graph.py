"""Policies drawn as a mermaid flowchart, which GitHub renders: groups, models, and on each arrow the share of requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from policyctl.effect.evaluate import healthy, visit
from policyctl.effect.profile import ASSUMED
from policyctl.effect.tree import Path, read_tree
from policyctl.model.names import canonical_name
from policyctl.model.normal import Document
from policyctl.report.effect_views import model, percent
from policyctl.report.plain import plain


def effect_graph(documents: Sequence[Document]) -> str:
    """One chart of all these policies, from left to right. Models and policies that several use are drawn once.

    A dashed arrow is one that no healthy request takes.
    """
    chart = _Chart({document["name"]: f"p{number}" for number, document in enumerate(documents)})
    lines = [line for document in documents for line in chart.policy(document)]
    return "\n".join(["flowchart LR", f"  %% {ASSUMED}", *lines]) + "\n"


@dataclass
class _Chart:
    """Names for the boxes: policies and models by what they are, groups by where they stand."""

    policies: Mapping[str, str]
    models: dict[str, str] = field(default_factory=dict)

    def policy(self, document: Document) -> Iterator[str]:
        name = document["name"]
        box = self.policies[name]
        tree = read_tree(document)
        if tree.refused:
            yield f'  {box}["{_label(name)}<br>refused: {_label(tree.refused)}"]'
            return
        reached = visit(tree, healthy(tree)).reached
        shares = {leaf.path: share for leaf, share in zip(tree.leaves, reached, strict=True)}
        body = document["policy"]
        yield f'  {box}["{_label(name)}<br>{_what(body)}"]'
        yield from self._arrows(body, box, (), shares)

    def _arrows(self, group: Any, box: str, path: Path, shares: Mapping[Path, float]) -> Iterator[str]:
        for place, target in enumerate(group.get("targets", ()) if "strategy" in group else ()):
            at = (*path, place)
            share = _arriving(target, at, shares)
            yield from self._target(target, box, at, share, shares)

    def _target(self, target: Any, box: str, at: Path, share: float, shares: Mapping[Path, float]) -> Iterator[str]:
        arrow = f'-- "{percent(share)}" -->' if share else '-. "0%" .->'
        if "strategy" in target:
            own = f"{box}_{at[-1]}"
            yield f'  {own}{{{{"{_what(target)}"}}}}'
            yield f"  {box} {arrow} {own}"
            yield from self._arrows(target, own, at, shares)
            return
        name = str(target.get("model_name", ""))
        known = self.policies.get(canonical_name(name))
        if known is None and name not in self.models:
            self.models[name] = f"m{len(self.models)}"
            yield f'  {self.models[name]}(["{_label(model(name))}"])'
        yield f"  {box} {arrow} {known or self.models[name]}"


def _arriving(target: Any, at: Path, shares: Mapping[Path, float]) -> float:
    """The share of healthy requests that come to a target: all that is drawn below it, or what its first target gets."""
    if "strategy" not in target:
        return shares.get(at, 0.0)
    places = range(len(target.get("targets", ())))
    below = [_arriving(target["targets"][place], (*at, place), shares) for place in places]
    return sum(below) if target["strategy"]["mode"] == "loadbalance" else max(below, default=0.0)


def _what(group: Any) -> str:
    if "strategy" not in group:
        return "no strategy"
    mode, codes = group["strategy"]["mode"], group["strategy"].get("on_status_codes")
    listed = f" on {', '.join(map(str, codes)) or 'nothing'}" if mode == "fallback" and codes is not None else ""
    retry = group["retry"]["attempts"] if "retry" in group else 0
    return f"{mode}{listed}" + (f"<br>retry × {retry:g}" if retry else "")


def _label(text: str) -> str:
    """Text inside a quoted label: nothing in it may end the label, start a tag, an entity, a directive or a formula."""
    escaped = plain(text).replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
    return escaped.replace("`", "#96;").replace("\\", "#92;").replace("%", "#37;").replace("$", "#36;")
