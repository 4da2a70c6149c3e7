"""A plan as text and back, without loss. The text is versioned, and one that was edited is noticed."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from policyctl.core.change import Action, Change
from policyctl.core.diff import Field as DiffField
from policyctl.core.plan import Counts, Plan
from policyctl.errors import PolicyctlError
from policyctl.model.normal import digest

FORMAT = "policyctl/saved-plan"
VERSION = 1


class BadPlan(PolicyctlError):
    """A plan file that cannot be used; the message says why and what to do."""


class _SavedField(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    path: str
    before: Any = None
    after: Any = None


class _SavedChange(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    action: Action
    name: Annotated[str, Field(min_length=1)]
    id: str | None = None
    before: dict[str, Any] | None = None
    before_digest: str | None = None
    after: dict[str, Any] | None = None
    fields: list[_SavedField] = []
    file: str | None = None


class _SavedPlan(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    format: Literal["policyctl/saved-plan"]
    version: Literal[1]
    checksum: str
    digest: str
    environment: str
    remote: str
    config: str
    counts: dict[str, int]
    changes: list[_SavedChange]


def write_plan(plan: Plan) -> str:
    """The text of a plan: JSON, indented, the same bytes for the same plan. It holds no secret: auth is no part of a plan."""
    saved: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "digest": plan.digest,
        "environment": plan.environment,
        "remote": plan.remote,
        "config": plan.config,
        "counts": {name: getattr(plan.counts, name) for name in Counts.__dataclass_fields__},
        "changes": [_change_to_plain(change) for change in plan.changes],
    }
    return json.dumps({**saved, "checksum": digest(saved)}, indent=2) + "\n"


def read_plan(text: str, file: str) -> Plan:
    """The plan of a text that `write_plan` wrote. Raises BadPlan when it is truncated, edited, or of another version."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise BadPlan(f"{file} is no plan: it is not whole JSON; make it again with plan --out") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise BadPlan(f"{file} is no plan: it does not say {FORMAT}; make one with plan --out")
    if data.get("version") != VERSION:
        message = f"{file} is a plan of version {data.get('version')!r}; this policyctl reads {VERSION}"
        raise BadPlan(f"{message}; make it again with this policyctl")
    rest = {key: value for key, value in data.items() if key != "checksum"}
    if digest(rest) != data.get("checksum"):
        raise BadPlan(f"{file} was changed after it was made; make it again with plan --out")
    try:
        return _plan_from(_SavedPlan.model_validate(data))
    except (ValidationError, TypeError) as error:
        raise BadPlan(f"{file} is no plan: {str(error).splitlines()[0]}; make it again with plan --out") from None


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
    }
    return {key: value for key, value in plain.items() if value is not None and value != []}


def _plan_from(saved: _SavedPlan) -> Plan:
    changes = tuple(
        Change(
            change.action,
            change.name,
            change.id,
            change.before,
            change.after,
            tuple(DiffField(field.path, field.before, field.after) for field in change.fields),
            change.file,
        )
        for change in saved.changes
    )
    return Plan(saved.environment, saved.remote, saved.config, changes, Counts(**saved.counts))
