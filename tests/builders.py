"""Short ways to write a policy, a virtual model, a live row, a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from policyctl.plan.plan import Desired, Plan, Selection, make_plan
from policyctl.plan.settings import Settings
from policyctl.policy.document import Policy, policy_from_file
from policyctl.policy.live import LivePolicy, LiveRows, observe_rows, read_row
from policyctl.policy.virtual_model import VirtualModel, VirtualModelRow, model_from_file


def body(*targets: str, mode: str = "fallback") -> dict[str, Any]:
    """A policy body over these models."""
    return {"strategy": {"mode": mode}, "targets": [{"model_name": target} for target in targets or ("virtual-model/x/a",)]}


def policy(name: str, *targets: str, **more: Any) -> Policy:
    """A desired policy over these models."""
    return policy_from_file({"name": name, "policy": {**body(*targets), **more}}, f"policies/{name}.yaml")


def row(name: str, *targets: str, **more: Any) -> dict[str, Any]:
    """A remote's row, whose id is made of its name."""
    return {"id": f"id-{name}", "name": name, "policy": {**body(*targets), **more}}


def model(name: str, **more: Any) -> VirtualModel:
    """A desired virtual model; `name` is in the spelling of files, without the prefix."""
    return model_from_file({"name": name, **more}, f"policies/{name.replace('/', '-')}.yaml")


def model_row(name: str, **more: Any) -> VirtualModelRow:
    """A remote's row of a virtual model, whose id is made of its name."""
    return VirtualModelRow({"id": f"id-{name}", "name": f"virtual-model/{name}", **more})


def live(name: str, *targets: str, **more: Any) -> LivePolicy:
    """A live policy."""
    found = read_row(row(name, *targets, **more))
    assert isinstance(found, LivePolicy)
    return found


def plan(
    desired: Sequence[Desired],
    rows: Sequence[Any] | LiveRows,
    settings: Settings = Settings(),
    *,
    removes: bool = True,
    selection: Selection = Selection(),
) -> Plan:
    """The plan for these policies and models against these rows."""
    observed = rows if isinstance(rows, LiveRows) else observe_rows(rows)
    return make_plan(
        environment="dev",
        remote="sqlite:///x.db",
        config="sha256:0",
        desired=desired,
        observed=observed,
        settings=settings,
        removes=removes,
        selection=selection,
    )


def names(plan: Plan) -> list[str]:
    """`+ name`, `~ name`, `- name`, in the plan's order."""
    symbols = {"add": "+", "update": "~", "remove": "-"}
    return [f"{symbols[change.action]} {change.name.removeprefix('virtual-policy/')}" for change in plan.changes]
