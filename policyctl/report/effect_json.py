"""What `effect` shows: as values (views), and as JSON, whose schema is `schemas/effect.schema.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from policyctl.effect.analysis import Analysis, Cell, Delta, Effect, Reached
from policyctl.effect.course import Simulation
from policyctl.effect.evaluate import Cost, Evaluation, rounded
from policyctl.effect.gateway import ASSUMED, PROFILE, Answer, answer_value
from policyctl.effect.outages import FailureClass, Outages, Row, Together, ranges_of, served
from policyctl.effect.tree import Tree, Unfit, unfit_models
from policyctl.effect.usage import Dead, Names, Use
from policyctl.effect.worst_case import Bound
from policyctl.plan.diff import UnknownField
from policyctl.policy.names import short_names
from policyctl.report.format import json_text

Costs = Mapping[int | None, Mapping[Cost, float]]


class AnalysisView(NamedTuple):
    """The analysis of one policy, and the outages that were asked for."""

    name: str
    file: str
    picture: Analysis
    outages: Outages
    dead: tuple[Dead, ...]


class WhatIf(NamedTuple):
    """What one policy does while some models answer as `given` (in the words of the command line)."""

    name: str
    file: str
    given: tuple[str, ...]
    evaluation: Evaluation
    costs: Costs
    tree: Tree


class Trace(NamedTuple):
    """One request, step by step; `seed` determined its random choices."""

    name: str
    file: str
    walk: Simulation
    seed: int
    refused: str | None
    unfit: tuple[Unfit, ...] = ()


@dataclass(frozen=True, slots=True)
class ComparisonView:
    """What one policy's change does; `against` names what it was compared with.

    `unfollowed` are the target policies of either side that cannot be followed or do not exist, each with the reason;
    `extras` the fields of live policies that the format does not know, by the name of the policy or of one that it leads to.
    """

    name: str
    file: str
    against: str
    effect: Effect
    unfollowed: Mapping[str, str]
    extras: Mapping[str, tuple[UnknownField, ...]] = field(default_factory=dict)


class NotKnownView(NamedTuple):
    """One policy whose behaviour is not known, and why."""

    name: str
    file: str
    why: str


View = AnalysisView | WhatIf | Trace | ComparisonView | NotKnownView


FORMAT = "policyctl/effect"
VERSION = 1


def effect_json(views: Sequence[View], assumed: str = ASSUMED) -> str:
    """The views as JSON text. A trace is a single request of one policy, so its keys are at the top, not in a list.

    `assumed` is the assumption behind it all.
    """
    head: dict[str, Any] = {"format": FORMAT, "version": VERSION, "profile": PROFILE, "assumption": assumed}
    traces = [view for view in views if isinstance(view, Trace)]
    body = _trace_data(traces[0]) if traces else {"policies": [view_data(view) for view in views]}
    return json_text({**head, **body})


def view_data(view: View) -> dict[str, Any]:
    """One view as a plain value. Chances and shares are from 0 to 1."""
    match view:
        case AnalysisView():
            return _analysis_data(view)
        case WhatIf():
            return _what_if_data(view)
        case Trace():
            return _trace_data(view)
        case ComparisonView():
            own = {"unknown_fields": extra_data(view.extras[view.name])} if view.name in view.extras else {}
            below = extras_data({name: fields for name, fields in view.extras.items() if name != view.name})
            unknown = {**own, **({"unknown_fields_below": below} if below else {})}
            seen = {"unfollowed": dict(view.unfollowed), **effect_data(view.effect), **unknown}
            return {"name": view.name, "file": view.file, "against": view.against, **seen}
        case NotKnownView():
            return {"name": view.name, "file": view.file, "not_known": view.why}


def extra_data(extras: Sequence[UnknownField]) -> dict[str, list[str]]:
    """The fields of a live policy that the format does not know, without their values, which may be secret."""
    return {word: [one.path for one in extras if one.kept is kept] for word, kept in (("kept", True), ("lost", False))}


def extras_data(extras: Mapping[str, Sequence[UnknownField]]) -> list[dict[str, Any]]:
    """The same for several live policies, by name."""
    return [{"name": name, **extra_data(fields)} for name, fields in sorted(extras.items())]


def effect_data(effect: Effect) -> dict[str, Any]:
    """The effect of a change; keys of what does not change are absent."""
    bounds = ("calls", "waits", "failover", "latency")
    moved = {key: _moved(value) for key in bounds if (value := getattr(effect, key)) is not None}
    data = {
        "models": {one.name: _moved(one) for one in effect.models},
        "providers": {one.name: _moved(one) for one in effect.providers},
        "usual": _moved(effect.usual) if effect.usual else None,
        "traffic_moved": effect.traffic,
        "only_weights": effect.shift,
        "worse": [_cell(cell) for cell in effect.worse],
        "worse_together": _together(effect.together) if effect.together else None,
        "better": [_cell(cell) for cell in effect.better],
        **moved,
        "newly_reachable": [_reached(one) for one in effect.added],
        "no_longer_reachable": [_reached(one) for one in effect.removed],
        "was_refused": effect.was_refused,
        "refused": effect.refused,
        "never_serving": [_unfit(one) for one in effect.unfit],
        "nothing_lost": effect.sure,
        "not_known": effect.unknown,
    }
    return {"class": effect.kind, **{key: value for key, value in data.items() if value}}


def _moved(moved: Delta) -> dict[str, float | None]:
    return {"before": moved.before, "after": moved.after}


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        "down": cell.name,
        "kind": cell.kind,
        "share": cell.share,
        "failures": ranges_of(cell.failures),
        "before": cell.before,
        "after": cell.after,
    }


def _together(together: Together) -> dict[str, Any]:
    return {
        "share": together.share,
        "failing": {name: [str(answer_value(answer)) for answer in answers] for name, answers in together.failing},
        "before": rounded(together.before),
        "after": rounded(together.after),
    }


def _reached(one: Reached) -> dict[str, str]:
    return {"model": one.model, "when": one.when}


def _analysis_data(view: AnalysisView) -> dict[str, Any]:
    seen = view.picture
    names = short_names(seen.tree.models)
    return {
        "name": view.name,
        "file": view.file,
        "refused": seen.tree.refused,
        "shares": {"models": dict(seen.models), "providers": dict(seen.providers)},
        "outages": _outages(view.outages),
        "bounds": {
            "calls": _bound(seen.calls),
            "backoff_seconds": _bound(seen.waits),
            "failover_seconds": _bound(seen.failover),
            "latency_seconds": _bound(seen.latency) if seen.latency else None,
        },
        "reachable": {name: condition.said(names) for name, condition in seen.reach.items()},
        "dead": [{"path": one.path, "model": one.model, "why": one.why} for one in view.dead],
        **_references(seen.tree),
    }


def _references(tree: Tree) -> dict[str, Any]:
    """Targets that are policies: followed, repeated as a whole, missing, or not followed."""
    return {
        "assumed": list(tree.assumed),
        "repeated": {name: repeats for name, repeats in tree.assumed.items() if repeats},
        "missing": list(tree.missing),
        "unfollowed": dict(tree.unfollowed),
        **_never_serving(unfit_models(tree)),
    }


def _outages(matrix: Outages) -> dict[str, Any]:
    def rows(of: Mapping[str, Row]) -> dict[str, Any]:
        return {name: _row(row, matrix.classes) for name, row in of.items()}

    return {"usual": served(matrix.usual), "models": rows(matrix.models), "providers": rows(matrix.providers)}


def _row(row: Row, classes: Sequence[FailureClass]) -> list[dict[str, Any]]:
    """What is served with each set of failures; together the sets are all failing statuses and broken connections."""
    alike: dict[float, frozenset[Answer]] = {}
    for lost, failures in zip(row, classes, strict=True):
        alike[served(lost)] = alike.get(served(lost), frozenset()) | failures.answers
    return [{"failures": ranges_of(answers), "served": chance} for chance, answers in alike.items()]


def _bound(bound: Bound) -> dict[str, Any]:
    path = [{"model": leg.model, "calls": leg.calls, "seconds": leg.seconds, "status": leg.status} for leg in bound.legs]
    return {"value": bound.value, "path": path}


def _what_if_data(view: WhatIf) -> dict[str, Any]:
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
        "cut": seen.cut,
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


def _trace_data(view: Trace) -> dict[str, Any]:
    return {
        "name": view.name,
        "file": view.file,
        "seed": view.seed,
        "refused": view.refused,
        "status": view.walk.status,
        "calls": view.walk.models,
        "cut": view.walk.cut,
        "answers": [answer_value(call.answer) for call in view.walk.calls],
        "waits": [call.wait for call in view.walk.calls],
        **_never_serving(view.unfit),
    }


def _never_serving(unfit: Sequence[Unfit]) -> dict[str, Any]:
    return {"never_serving": [_unfit(one) for one in unfit]} if unfit else {}


def _unfit(one: Unfit) -> dict[str, str]:
    return {"model": one.model, "type": one.type, "policy_type": one.takes}


@dataclass(frozen=True, slots=True)
class Users:
    """The pattern that was asked for, the names that it matches (`wanted`), and their uses by policies, each with its file.

    `beyond` are target policies that cannot be followed, each with the policies that lead to it, which may use the names
    through it. `unknown` are the policies whose uses are not known, each with the reason.
    """

    pattern: str
    wanted: Names
    uses: tuple[Use, ...]
    files: Mapping[str, str]
    beyond: Mapping[str, Sequence[str]]
    unknown: Mapping[str, str]

    @property
    def sorted(self) -> list[Use]:
        """The uses by those with the most traffic first; then those that need the fewest failures, then what is never asked."""
        return sorted(self.uses, key=_weight)


def _weight(use: Use) -> tuple[bool, float, bool, int, str, str]:
    unknown = use.share is None
    return not unknown, -(use.share or 0.0), not use.asked, use.failing, use.policy, use.target


def users_json(users: Users) -> str:
    """The same as JSON text; its schema is `schemas/effect.schema.json`. Shares are from 0 to 1."""
    data = {
        "format": FORMAT,
        "version": VERSION,
        "profile": PROFILE,
        "assumption": ASSUMED,
        "uses": users.pattern,
        "models": list(users.wanted.models),
        "policies": list(users.wanted.policies),
        "looked_at": len(users.files),
        "users": [_use(use, users.files[use.policy]) for use in users.sorted],
        "unfollowed": {name: list(policies) for name, policies in users.beyond.items()},
        "not_known": dict(users.unknown),
    }
    return json_text(data)


def _use(use: Use, file: str) -> dict[str, Any]:
    plain: dict[str, Any] = {"policy": use.policy, "file": file, "target": use.target, "through": list(use.through)}
    if use.why:
        return {**plain, "why": use.why}
    return {**plain, "share": use.share, "when": use.when, "asked": use.asked, "served_without": use.served}
