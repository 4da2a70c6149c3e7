"""A plan for machines: as JSON, whose schema is `schemas/plan.schema.json`, and as the outputs of a workflow step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from policyctl.effect.analysis import Effect
from policyctl.effect.gateway import PROFILE
from policyctl.plan.consumers import ConsumerUse
from policyctl.plan.diff import FieldChange, unknown_field_notes
from policyctl.plan.drift import Drift
from policyctl.plan.effects import AffectedPolicy
from policyctl.plan.plan import Action, Change
from policyctl.plan.safety import Review
from policyctl.report.effect_json import effect_data, extras_data
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
