"""A plan as versioned text and back, without loss, and the rules that a saved plan must pass."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from policyctl.errors import PolicyctlError
from policyctl.plan.diff import FieldChange, fields_written
from policyctl.plan.fleet import DIGESTS
from policyctl.plan.plan import Action, Change, Counts, Desired, Plan, blocked_by_rows, equal, unread_rows
from policyctl.plan.references import ordered, unknown_targets
from policyctl.plan.settings import Override, Settings
from policyctl.policy.document import Document, digest, normal_form, policy_from_file
from policyctl.policy.findings import format_path
from policyctl.policy.live import LiveRows
from policyctl.policy.model_settings import SET
from policyctl.policy.names import canonical_name
from policyctl.policy.schema import PolicyFile, too_big
from policyctl.policy.virtual_model import normal_form as normal_model

FORMAT = "policyctl/saved-plan"
VERSION = 1
MAX_BYTES = 256 * 1024 * 1024  # of a plan's text


class BadPlan(PolicyctlError):
    """A plan file that cannot be used; the message gives the reason and what to do."""


class _Saved(BaseModel):
    """The base of what a saved plan is made of."""

    # Built when first used: a plan that is only printed saves nothing.
    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)


class _SavedFieldChange(_Saved):
    path: str
    before: Any = None
    after: Any = None


class _SavedChange(_Saved):
    action: Action
    name: Annotated[str, Field(min_length=1)]
    id: str | None = None
    before: dict[str, Any] | None = None
    before_digest: str | None = None
    after: dict[str, Any] | None = None
    fields: list[_SavedFieldChange] = []
    moved: list[_SavedFieldChange] = []
    file: str | None = None


class _SavedCounts(_Saved):
    unchanged: int
    outside_scope: int
    unmanaged: int
    unselected: int
    managed: int
    blocked: int = 0
    unreadable: int = 0


class _SavedOverride(_Saved):
    option: str
    value: str
    reason: str = ""
    by: str = ""


class _SavedPlan(_Saved):
    format: Literal["policyctl/saved-plan"]
    version: Literal[1]
    checksum: str
    digest: str
    environment: str
    remote: str
    config: str
    settings: dict[str, Any] = {}
    counts: _SavedCounts
    kept: list[str] = []
    unselected: list[str] = []
    changes: list[_SavedChange]
    overrides: list[_SavedOverride] = []
    traffic: dict[str, str] = {}
    to: Annotated[str, Field(pattern=r"^([0-9a-f]{40}([0-9a-f]{24})?)?$")] = ""
    edited: list[str] | None = None
    access: str = ""
    made: Annotated[str, Field(pattern=r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z)?$")] = ""


def write_plan(plan: Plan) -> str:
    """The text of a plan: JSON, indented, the same bytes for the same plan. It contains no secret: a plan has no auth."""
    saved: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "digest": plan.digest,
        "environment": plan.environment,
        "remote": plan.remote,
        "config": plan.config,
        **({"settings": plan.settings} if plan.settings else {}),
        "counts": plan.counts._asdict(),
        "kept": sorted(plan.kept),
        "unselected": sorted(plan.unselected),
        "changes": [_change_to_plain(change) for change in plan.changes],
        "overrides": [override._asdict() for override in plan.overrides],
        **({"traffic": dict(plan.traffic)} if plan.traffic else {}),
        **({"to": plan.to} if plan.to else {}),
        **({"access": plan.access} if plan.access else {}),
        **({"made": plan.made} if plan.made else {}),
        **({} if plan.edited is None else {"edited": sorted(plan.edited)}),
    }
    return json.dumps({**saved, "checksum": digest(saved)}, indent=2) + "\n"


def read_plan(text: str, file: str) -> Plan:
    """The plan of a text that `write_plan` wrote. Raises BadPlan when it is truncated, edited, or of another version."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise BadPlan(f"{file} is not a plan: incomplete JSON; make it again with plan --out") from None
    if isinstance(data, dict) and data.get("format") == DIGESTS:
        raise BadPlan(
            f"{file} has the digests of several environments, not their plans; apply these with --plans {file} and the options "
            "that chose them, such as --all"
        )
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise BadPlan(f"{file} is not a plan: its format is not {FORMAT}; make one with plan --out")
    if data.get("version") != VERSION:
        message = f"{file} is a plan of version {data.get('version')!r}; this policyctl reads {VERSION}"
        raise BadPlan(f"{message}; make it again with this policyctl")
    try:
        rest = {key: value for key, value in data.items() if key != "checksum"}
        if digest(rest) != data.get("checksum"):
            raise BadPlan(f"{file} was changed after it was made; make it again with plan --out")
        return _plan_from(_SavedPlan.model_validate(data))
    except (ValidationError, ValueError) as error:
        raise BadPlan(f"{file} is not a plan: {str(error).splitlines()[0]}; make it again with plan --out") from None
    except RecursionError:
        raise BadPlan(f"{file} is not a plan: it is nested too deeply; make it again with plan --out") from None


def _change_to_plain(change: Change) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "action": change.action,
        "name": change.name,
        "id": change.id,
        "file": change.file,
        "before_digest": change.before_digest(),
        "before": change.before,
        "after": change.after,
        "fields": [field._asdict() for field in change.fields],
        "moved": [field._asdict() for field in change.moved],
    }
    return {key: value for key, value in plain.items() if value is not None and value != []}


def _plan_from(saved: _SavedPlan) -> Plan:
    changes = tuple(map(_change_from, saved.changes))
    if len({change.name for change in changes}) < len(changes):
        raise ValueError("a policy is changed twice")
    if ordered(changes) != changes:
        raise ValueError("its changes are not in the order in which they are applied")
    if saved.settings and digest(saved.settings) != saved.config:
        raise ValueError("its settings are not those of its configuration")
    plan = Plan(
        saved.environment,
        saved.remote,
        saved.config,
        changes,
        Counts(**saved.counts.model_dump()),
        kept=frozenset(saved.kept),
        unselected=frozenset(saved.unselected),
        settings=saved.settings,
        overrides=tuple(Override(**override.model_dump()) for override in saved.overrides),
        traffic=saved.traffic,
        to=saved.to,
        made=saved.made,
        edited=None if saved.edited is None else frozenset(saved.edited),
        access=saved.access,
    )
    if plan.digest != saved.digest:
        raise ValueError("its digest is not that of its changes")
    return plan


def _change_from(saved: _SavedChange) -> Change:
    """The change, with everything that follows from its two versions found again; raises ValueError where the file differs."""
    moved = tuple(FieldChange(**field.model_dump()) for field in saved.moved)
    change = Change(saved.action, saved.name, saved.id, saved.before, saved.after, (), saved.file, moved)
    _check(change)
    if saved.before_digest != change.before_digest():
        raise ValueError(f"the digest of what {format_path(change.name)} is to replace is wrong")
    if change.before is not None and change.after is not None:
        change = change._replace(fields=fields_written(change.before, change.after))
        if not change.fields:
            raise ValueError(f"the update of {format_path(change.name)} changes nothing")
    change = change._replace(fields=(*change.fields, *moved))
    if [field.model_dump() for field in saved.fields] != [field._asdict() for field in change.fields]:
        raise ValueError(f"the fields that it shows for {format_path(change.name)} are not those that change")
    return change


def _check(change: Change) -> None:
    """Raise ValueError for a change that `plan` could not have written: only policies are ever applied."""
    has = (change.before is not None, change.id is not None, change.after is not None)
    if has != {"add": (False, False, True), "update": (True, True, True), "remove": (True, True, False)}[change.action]:
        raise ValueError(f"the {change.action} of {format_path(change.name)} lacks what it replaces, or what it writes")
    if change.moved and (change.kind == "model" or change.action != "update"):
        raise ValueError(f"the {change.action} of {format_path(change.name)} cannot move any field")
    if change.kind == "model":
        _check_model(change)
        return
    if change.name != canonical_name(change.name):
        raise ValueError(f"{format_path(change.name)} is not the whole name of a policy")
    if change.after is not None:
        _check_after(change.name, change.after)
    if change.before is not None:
        named = isinstance(change.before.get("name"), str) and canonical_name(change.before["name"]) == change.name
        if not named or not isinstance(change.before.get("policy"), dict) or normal_form(change.before) != change.before:
            raise ValueError(f"what {format_path(change.name)} is to replace is not a live policy")


def _check_model(change: Change) -> None:
    """The same for a virtual model. What is written has no secret in it but the mark of one that the remote has."""
    for document in (change.before, change.after):
        if document is not None and (document.get("name") != change.name or too_big(document) is not None):
            raise ValueError(f"a version of {format_path(change.name)} is not a virtual model")
    if change.before is not None and normal_model(change.before) != change.before:
        raise ValueError(f"what {format_path(change.name)} is to replace is not a live model")
    if change.after is None:
        return
    from policyctl.policy.model_schema import fault_in_written  # few plans write a model

    if fault := fault_in_written(change.after):
        raise ValueError(f"what {format_path(change.name)} is to be is not a model as plan writes it: {fault}")
    if not _marks(change.after) <= _marks(change.before or {}):
        raise ValueError(f"{format_path(change.name)} is to keep a secret that it does not have")


def _marks(document: Document) -> frozenset[str]:
    """The settings of a model that stand for a secret which is set."""
    config = document.get("provider_config") or {}
    return frozenset(key for key, value in config.items() if value == SET)


def _check_after(name: str, after: Document) -> None:
    if (deep := too_big(after)) is not None:
        raise ValueError(deep.message)
    PolicyFile.model_validate({"spec_version": "v1", "kind": "model", **after})
    if policy_from_file(after, "").document != after or after["name"] != name:
        raise ValueError(f"what {format_path(name)} is to be is not a policy as plan writes it")


def with_recomputed_counts(
    plan: Plan, files: Mapping[str, Desired], observed: LiveRows, settings: Settings, *, removes: bool
) -> Plan:
    """The plan with its counts, what blocks it, and its files as they are now, not as the plan file has them.

    `files` are the directory's policies by canonical name, as far as they can be read; `removes` as for `make_plan`.
    """
    changed = {change.name for change in plan.changes}
    named = files.keys() | {change.name for change in plan.changes if change.after is not None}
    live = observed.live
    inside = {name for name in live if settings.in_scope(name)}
    unnamed = inside - named - changed
    blocked = blocked_by_rows(named, observed, settings)
    left = changed.union(block.name for block in blocked)
    others = [policy for name, policy in files.items() if name not in left]
    unchanged = {policy.name for policy in others if policy.name in live and equal(policy, live[policy.name])}
    # Guards hold for the directory's own policies. A name more than those only makes them stricter.
    own = (files.keys() | plan.kept | plan.unselected) - changed - unchanged
    counts = Counts(
        unchanged=len(unchanged),
        outside_scope=len(live.keys() - inside - changed),
        unmanaged=0 if removes else len(unnamed),
        unselected=len(others) - len(unchanged) + (len(unnamed) if removes else 0),
        managed=len(inside if removes else inside & named),
        blocked=len(blocked),
        unreadable=unread_rows(named, observed, settings),
    )
    changes = tuple(change._replace(file=files[change.name].file if change.name in files else None) for change in plan.changes)
    kept, unselected = frozenset(unchanged), frozenset(own)
    return plan._replace(changes=changes, counts=counts, blocked=blocked, kept=kept, unselected=unselected)


def rule_violations(plan: Plan, settings: Settings, *, removes: bool) -> Iterator[str]:
    """The changes that no plan under these settings could have: outside the scope, or a removal where none is allowed."""
    for change in plan.changes:
        if not settings.in_scope(change.name):
            yield f"{change.name} is outside the scope of {plan.environment}; plan again"
        elif change.action == "remove" and not removes:
            why = "prune is false" if not settings.prune else "no scope is written"
            yield f"{change.name} would be removed, but nothing may be removed from {plan.environment}: {why}; plan again"


def bad_targets(plan: Plan, known: frozenset[str], models: frozenset[str]) -> Iterator[str]:
    """The targets of what the plan writes that are neither a model nor a policy.

    `known` are all policies that will be there. Where no model is known, targets are not looked up.
    """
    for change in plan.policies:
        if change.after is None:
            continue
        for complaint in unknown_targets(change.after, models, known) if models else ():
            yield f"{change.name}: {complaint.message}"
