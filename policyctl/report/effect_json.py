"""What `effect` shows, for machines: one object, versioned. Its schema is `schemas/effect.schema.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from policyctl.effect.bounds import Bound
from policyctl.effect.compare import Cell, Effect, Moved, Reached
from policyctl.effect.costs import Cost
from policyctl.effect.evaluate import rounded
from policyctl.effect.outages import Row
from policyctl.effect.profile import ASSUMED, FAILURES, PROFILE
from policyctl.effect.reach import short_names
from policyctl.effect.tree import Tree
from policyctl.report.effect_views import Compared, Costs, Pictured, Supposed, Traced, View
from policyctl.report.plain import json_text

FORMAT = "policyctl/effect"
VERSION = 1


def effect_json(views: Sequence[View]) -> str:
    """The views as JSON text. A trace is one request of one policy, so it stands at the top, not in a list."""
    head: dict[str, Any] = {"format": FORMAT, "version": VERSION, "profile": PROFILE, "assumption": ASSUMED}
    traces = [view for view in views if isinstance(view, Traced)]
    body = _traced(traces[0]) if traces else {"policies": [view_data(view) for view in views]}
    return json_text({**head, **body})


def view_data(view: View) -> dict[str, Any]:
    """One view as a plain value. Chances and shares are from 0 to 1."""
    match view:
        case Pictured():
            return _pictured(view)
        case Supposed():
            return _supposed(view)
        case Traced():
            return _traced(view)
        case Compared():
            return {"name": view.name, "file": view.file, "against": view.against, **effect_data(view.effect)}


def effect_data(effect: Effect) -> dict[str, Any]:
    """What a change moves; keys of what did not are absent."""
    moved = {key: _moved(value) for key in ("calls", "failover", "latency") if (value := getattr(effect, key)) is not None}
    data = {
        "models": {one.name: _moved(one) for one in effect.models},
        "providers": {one.name: _moved(one) for one in effect.providers},
        "traffic_moved": effect.traffic,
        "worse": [_cell(cell) for cell in effect.worse],
        "better": [_cell(cell) for cell in effect.better],
        **moved,
        "newly_reachable": [_reached(one) for one in effect.added],
        "no_longer_reachable": [_reached(one) for one in effect.removed],
        "was_refused": effect.was_refused,
        "refused": effect.refused,
    }
    return {"class": effect.kind, **{key: value for key, value in data.items() if value}}


def _moved(moved: Moved) -> dict[str, float | None]:
    return {"before": moved.before, "after": moved.after}


def _cell(cell: Cell) -> dict[str, Any]:
    return {"down": cell.name, "kind": cell.kind, "failures": list(cell.failures), "before": cell.before, "after": cell.after}


def _reached(one: Reached) -> dict[str, str]:
    return {"model": one.model, "when": one.when}


def _pictured(view: Pictured) -> dict[str, Any]:
    seen = view.picture
    names = short_names(seen.tree.models)
    return {
        "name": view.name,
        "file": view.file,
        "refused": seen.tree.refused,
        "shares": {"models": dict(seen.models), "providers": dict(seen.providers)},
        "outages": {
            "usual": seen.outages.usual,
            "models": {name: _row(row) for name, row in seen.outages.models.items()},
            "providers": {name: _row(row) for name, row in seen.outages.providers.items()},
        },
        "bounds": {
            "calls": _bound(seen.calls),
            "backoff_seconds": _bound(view.waits),
            "failover_seconds": _bound(seen.failover),
            "latency_seconds": _bound(seen.latency) if seen.latency else None,
        },
        "reachable": {name: condition.said(names) for name, condition in seen.reach.items()},
        "dead": [{"path": one.path, "model": one.model, "why": one.why} for one in view.dead],
        **_references(seen.tree),
    }


def _references(tree: Tree) -> dict[str, Any]:
    """Targets that are policies: those followed, those repeated as a whole, those that do not exist or cannot be followed."""
    return {
        "assumed": list(tree.assumed),
        "repeated": {name: repeats for name, repeats in tree.assumed.items() if repeats},
        "missing": list(tree.missing),
        "unknown": dict(tree.unknown),
    }


def _row(row: Row) -> dict[str, float]:
    return {str(failure): chance for failure, chance in zip(FAILURES, row, strict=True)}


def _bound(bound: Bound) -> dict[str, Any]:
    path = [{"model": leg.model, "calls": leg.calls, "seconds": leg.seconds, "status": leg.status} for leg in bound.legs]
    return {"value": bound.value, "path": path}


def _supposed(view: Supposed) -> dict[str, Any]:
    seen = view.evaluation
    models = {
        name: {"serves": rounded(seen.serves[name]), "reached": rounded(reached), "calls": rounded(seen.calls[name])}
        for name, reached in seen.reached.items()
    }
    return {
        "name": view.name,
        "file": view.file,
        "supposed": list(view.given),
        "served": seen.served,
        "statuses": _statuses(seen.statuses, view.costs),
        "models": models,
        **_references(view.tree),
    }


def _statuses(statuses: Mapping[int | None, float], costs: Costs) -> list[dict[str, Any]]:
    return [
        {"status": status, "chance": rounded(chance), "costs": [_cost(*one) for one in costs[status].items()]}
        for status, chance in statuses.items()
    ]


def _cost(cost: Cost, chance: float) -> dict[str, Any]:
    return {"calls": cost.calls, "seconds": cost.seconds, "chance": rounded(chance)}


def _traced(view: Traced) -> dict[str, Any]:
    return {
        "name": view.name,
        "file": view.file,
        "seed": view.seed,
        "refused": view.refused,
        "status": view.walk.status,
        "calls": view.walk.models,
        "answers": [call.answer for call in view.walk.calls],
        "waits": [call.wait for call in view.walk.calls],
    }
