"""For machines: plans as JSON and as the outputs of a workflow step, and what `effect` shows, as values (views) and as JSON.

The schemas are `schemas/plan.schema.json` and `schemas/effect.schema.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
from policyctl.plan.consumers import ConsumerUse
from policyctl.plan.diff import FieldChange, UnknownField, unknown_field_notes
from policyctl.plan.drift import Drift
from policyctl.plan.effects import AffectedPolicy
from policyctl.plan.plan import Action, Change
from policyctl.plan.safety import Review
from policyctl.policy.names import short_names
from policyctl.report.format import json_text
from policyctl.report.headline import affected_first, describe_risk, losses_by, plan_summary
from policyctl.report.plan_view import all_notes

FORMAT = "policyctl/plan"
VERSION = 1


def plan_json(review: Review) -> str:
    """The reviewed plan as JSON text."""
    return json_text(plan_data(review))


def plan_data(review: Review) -> dict[str, Any]:
    """The reviewed plan as a plain value."""
    plan = review.plan
    counts = plan.counts
    return {
        "format": FORMAT,
        "version": VERSION,
        "overrides": [one.plain for one in plan.overrides],
        "settings": [_field(field) for field in review.branch.settings],
        "environment": plan.environment,
        "remote": plan.remote,
        **({"to": plan.to} if plan.to else {}),
        "profile": PROFILE,
        "digest": plan.digest,
        **({"access": plan.access} if plan.access else {}),
        "has_changes": bool(plan.changes),
        "summary": {
            **plan.totals,
            "affected": len(review.affected),
            "unchanged": review.unchanged,
            "unselected": counts.unselected,
            "unmanaged": counts.unmanaged,
            "outside_scope": counts.outside_scope,
            "blocked": len(plan.blocked),
            "unreadable": counts.unreadable,
        },
        "verdict": _summary(review),
        "changes": [
            _change(change, review.effects.get(change.name), change.name in review.restored)
            | _moved(review.drifts.get(change.name))
            | _consumers(change.name, change.action, review.effects.get(change.name), review)
            for change in plan.changes
        ],
        "affected": [_affected(one) | _consumers(one.name, "update", one.effect, review) for one in review.affected],
        **({"consumers_unread": unread_data(review.consumers.unread)} if review.consumers is not None else {}),
        "blocked": [{"name": block.name, "ids": list(block.ids), "reason": block.reason} for block in plan.blocked],
        "refusals": list(review.refusals),
        "failed_tests": list(review.branch.failed_tests),
        "warnings": [{**w.mark._asdict(), "code": w.code, "message": w.message} for w in review.branch.warnings],
        "notes": [*all_notes(review), *unknown_field_notes(review.extras), *([review.unchecked] if review.unchecked else [])],
        **({"unknown_fields": extras_data(review.extras)} if review.extras else {}),
    }


def _summary(review: Review) -> dict[str, Any]:
    """The headline, in the same words as in every other format."""
    summary = plan_summary(review)
    return {
        "riskiest": [
            {"name": one.policy, "tier": one.tier.name.lower(), "text": describe_risk(one)}
            for risk in summary.risks
            for one in (risk, *risk.also)
        ],
        "as_bad_or_nearly": summary.more,
        "traffic": None if summary.risks else summary.traffic or None,
        "rules": summary.rules,
        "passed": summary.passed,
    }


def _change(change: Change, effect: Effect | None, restored: bool) -> dict[str, Any]:
    plain: dict[str, Any] = {"action": change.action, "kind": change.kind, "name": change.name}
    if change.file is not None:
        plain["file"] = change.file
    if restored:
        plain["restoration"] = True
    plain["fields"] = [_field(field) for field in change.fields]
    if change.action == "add":
        plain["document"] = change.after
    if effect is not None:
        plain["effect"] = effect_data(effect)
    return plain


def _moved(drift: Drift | None) -> dict[str, Any]:
    """Who moved, if that was looked for."""
    return {} if drift is None else {"moved": {"by": drift.moved, "basis": drift.basis, "why": drift.reason}}


def _consumers(name: str, action: Action, effect: Effect | None, review: Review) -> dict[str, Any]:
    """Who uses a policy or model, if that was read, and what they lose."""
    if review.consumers is None:
        return {}
    lost = losses_by(name, action, effect, review)
    uses = {"consumers": uses_data(affected_first(review.consumers.uses.get(name, ()), lost))}
    if lost is None:
        return uses
    losing = [{"kind": one.kind, "name": one.name} for one in lost.consumers]
    return {**uses, "losses": {"text": lost.text, "consumers": losing}}


def uses_data(uses: Iterable[ConsumerUse]) -> list[dict[str, Any]]:
    """Uses as plain values: direct ones first."""
    return [
        {
            "kind": use.consumer.kind,
            "name": use.consumer.name,
            **({"workspace": use.consumer.workspace} if use.consumer.workspace else {}),
            **({"file": use.consumer.file} if use.consumer.file else {}),
            "field": use.field,
            "through": list(use.through),
        }
        for use in uses
    ]


def unread_data(unread: Mapping[str, str]) -> list[dict[str, str]]:
    """The sources of consumers that could not be read, and why."""
    return [{"source": source, "reason": why} for source, why in unread.items()]


def _affected(one: AffectedPolicy) -> dict[str, Any]:
    return {"name": one.name, "through": list(one.through), "bound": one.bound, "effect": effect_data(one.effect)}


def _field(field: FieldChange) -> dict[str, Any]:
    return {key: item for key, item in field._asdict().items() if item is not None}


def step_outputs(review: Review, plan_file: str | None) -> str:
    """A step's outputs for GitHub Actions: has_changes (true or false), counts, digest, and the saved plan's path, if any."""
    plan = review.plan
    values: dict[str, str] = {
        "has_changes": "true" if plan.changes else "false",
        **{str(action): str(number) for action, number in plan.totals.items()},
        "blocked": str(len(plan.blocked)),
        "refusals": str(len(review.refusals)),
        "settings": str(len(review.branch.settings)),
        "failed_tests": str(len(review.branch.failed_tests)),
        "digest": plan.digest,
    }
    if plan_file is not None:
        values["plan_path"] = plan_file
    return output_lines(values)


def output_lines(values: Mapping[str, str]) -> str:
    """A step's outputs, in the format of GITHUB_OUTPUT."""
    return "".join(_output(name, value) for name, value in values.items())


def _output(name: str, value: str) -> str:
    """`name=value`; several lines are enclosed in a delimiter that the value does not contain."""
    if "\n" not in value and "\r" not in value:
        return f"{name}={value}\n"
    delimiter = "END"
    while delimiter in value:
        delimiter += "_"
    return f"{name}<<{delimiter}\n{value}\n{delimiter}\n"


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


EFFECT_FORMAT = "policyctl/effect"
EFFECT_VERSION = 1


def effect_json(views: Sequence[View], assumed: str = ASSUMED) -> str:
    """The views as JSON text. A trace is a single request of one policy, so its keys are at the top, not in a list.

    `assumed` is the assumption behind it all.
    """
    head: dict[str, Any] = {"format": EFFECT_FORMAT, "version": EFFECT_VERSION, "profile": PROFILE, "assumption": assumed}
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
    moved = {key: _effect_moved(value) for key in bounds if (value := getattr(effect, key)) is not None}
    data = {
        "models": {one.name: _effect_moved(one) for one in effect.models},
        "providers": {one.name: _effect_moved(one) for one in effect.providers},
        "usual": _effect_moved(effect.usual) if effect.usual else None,
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


def _effect_moved(moved: Delta) -> dict[str, float | None]:
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
        "format": EFFECT_FORMAT,
        "version": EFFECT_VERSION,
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
