"""Policies as boxes and arrows, from which a mermaid chart and a drawing are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from policyctl.effect.evaluate import healthy, visit
from policyctl.effect.tree import Path, known_tree
from policyctl.errors import NotKnown
from policyctl.model.names import canonical_model, canonical_name
from policyctl.model.normal import Document
from policyctl.report.effect_views import model


class Box(NamedTuple):
    """A policy, a group in it or a model, and the lines that stand in its box; `key` is one word."""

    key: str
    kind: Literal["policy", "group", "model"]
    lines: tuple[str, ...]


class Arrow(NamedTuple):
    """From one box to another, with the share of healthy requests that go this way."""

    start: str
    end: str
    share: float


def chart(documents: Sequence[Document]) -> Iterator[Box | Arrow]:
    """All these policies; an arrow comes after both its boxes. Models and policies that several use are there once."""
    drawn = _Chart({document["name"]: f"p{number}" for number, document in enumerate(documents)})
    for document in documents:
        yield from drawn.policy(document)


@dataclass
class _Chart:
    """Keys for the boxes: policies and models by what they are, groups by where they stand."""

    policies: Mapping[str, str]
    models: dict[str, str] = field(default_factory=dict)

    def policy(self, document: Document) -> Iterator[Box | Arrow]:
        name = document["name"]
        key = self.policies[name]
        try:
            tree = known_tree(document)
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

    def _arrows(self, group: Any, key: str, path: Path, shares: Mapping[Path, float]) -> Iterator[Box | Arrow]:
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


def _arriving(target: Any, at: Path, shares: Mapping[Path, float]) -> float:
    """The share of healthy requests that come to a target: all that is drawn below it, or what its first target gets."""
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
