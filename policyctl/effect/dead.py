"""Dead configuration: what stands in a policy and does nothing, each with the field that makes it so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from policyctl.effect.draw import weighted_choice
from policyctl.effect.gateway import NEVER_AN_OUTCOME
from policyctl.effect.routes import Routes
from policyctl.effect.tree import TargetPath, read_tree
from policyctl.policy.document import Document


class Dead(NamedTuple):
    """Something that does nothing: where (as in `policy.targets[1].weight`), its model if it is one, and why."""

    path: str
    model: str | None
    why: str


def dead_configuration(document: Document) -> tuple[Dead, ...]:
    """Everything in a policy document that does nothing, in the order written. Of a refused policy nothing is said."""
    tree = read_tree(document)
    if tree.refused:
        return ()
    asked = [leaf.path for leaf in Routes(tree).reached]
    return tuple(_group(document["policy"], (), _Asked(_above(asked), _above(leaf.path for leaf in tree.leaves))))


class _Asked(NamedTuple):
    """The places below which somebody is asked, and those below which somebody could be, if requests came there."""

    asked: frozenset[TargetPath]
    asking: frozenset[TargetPath]


def _above(paths: Iterable[TargetPath]) -> frozenset[TargetPath]:
    return frozenset(path[:end] for path in paths for end in range(len(path) + 1))


def _group(group: Any, path: TargetPath, who: _Asked) -> Iterator[Dead]:
    """What is dead in a place that requests come to."""
    if "strategy" not in group or not group.get("targets"):
        return
    mode, codes = group["strategy"]["mode"], group["strategy"].get("on_status_codes")
    if codes is not None:
        yield from _codes(mode, codes, path)
    for place, (target, why) in enumerate(zip(group["targets"], _reasons(group, mode, codes, path, who), strict=True)):
        at = (*path, place)
        if why:
            model = target.get("model_name")
            yield Dead(_where(at), model if isinstance(model, str) else None, why)
            continue
        if mode != "loadbalance" and target.get("weight", 1) != 1:
            yield Dead(f"{_where(at)}.weight", None, f"{mode} does not look at weights")
        yield from _group(target, at, who)


def _codes(mode: str, codes: list[float], path: TargetPath) -> Iterator[Dead]:
    field = f"{_where(path)}.strategy.on_status_codes"
    if mode != "fallback":
        yield Dead(field, None, f"{mode} does not look at status codes")
    elif never := [str(code) for code in codes if not 200 <= code <= 599 or code in NEVER_AN_OUTCOME]:
        yield Dead(field, None, f"no target ends with {', '.join(never)}")


def _reasons(group: Any, mode: str, codes: Any, path: TargetPath, who: _Asked) -> Iterator[str | None]:
    """For each target why no request comes to it, or None."""
    parts = weighted_choice([target.get("weight", 1) for target in group["targets"]]).parts
    stuck = 0
    for place, part in enumerate(parts):
        if mode == "single":
            yield "single asks its first target only" if place else None
        elif mode == "loadbalance":
            yield None if part else "its weight is never drawn"
        elif (*path, place) in who.asked:
            stuck = place
            yield None
        elif (*path, place) not in who.asking:
            stuck = place
            yield "it asks nobody"
        elif codes == []:
            yield "the empty code list of the fallback moves on from nothing"
        else:
            yield f"no outcome moves the fallback on from targets[{stuck}]"


def _where(path: TargetPath) -> str:
    return "".join(["policy", *(f".targets[{place}]" for place in path)])
