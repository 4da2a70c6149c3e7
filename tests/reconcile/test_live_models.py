"""Models that others wrote, in any way: an apply leaves an empty plan, or its report names exactly what is left."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.load.environment import Environment
from policyctl.plan.plan import GOOD, Desired, Outcome, Plan, Selection
from policyctl.plan.safety import Review
from policyctl.plan.settings import Settings
from policyctl.policy.document import canonical_text
from policyctl.policy.model_settings import SECRETS
from policyctl.policy.names import canonical, kind_of, virtual_model
from policyctl.reconcile.apply import apply_changes
from policyctl.reconcile.observe import verify
from policyctl.reconcile.plan import plan_directory
from policyctl.remote import Writer
from policyctl.remote.sqlite import SqliteRemote
from tests.examples import examples
from tests.reconcile.model_tenants import CANARY, ELSEWHERE, row_sets, tenants
from tests.remote.http_helpers import Clock
from tests.remote.model_tenant import ModelTenant
from tests.sqlite_rows import put_models

HERE = Environment("dev")
FAULTS = (None, None, "refused", "lost before", "lost after")


def review_of(
    writer: Writer,
    desired: list[Desired],
    given: Settings = Settings(scope=("*",), models=True),
    selection: Selection = Selection(),
) -> Review:
    return plan_directory(writer, desired, HERE, given, selection)


def apply(writer: Writer, plan: Plan) -> list[Outcome]:
    return apply_changes(
        plan.changes,
        writer,
        parallelism=1,
        on_outcome=lambda _: None,
        stopped=lambda: False,
        patience=Clock().patience(),
    )


def applied(writer: Writer, desired: list[Desired]) -> tuple[Review, list[Outcome], list[str]]:
    """Plan, apply and verify, as the command does; nothing of it shows a secret."""
    review = review_of(writer, desired)
    outcomes = apply(writer, review.plan)
    unverified = verify(outcomes, writer, lambda _: None, review.live, documents=review.policies_before)
    assert CANARY not in repr([review, outcomes, unverified])
    return review, outcomes, unverified


def check_the_law(writer: Writer, desired: list[Desired], review: Review, outcomes: list[Outcome], lines: list[str]) -> None:
    """What a second plan has left is what the apply reported. Only a mask of a secret keeps a change from being made."""
    reasons = {outcome.change.name: outcome.reason for outcome in outcomes if outcome.status not in GOOD}
    reported = {change.name for change in review.plan.changes if any(f"{change.name} " in line for line in lines)}
    left = {change.name for change in review_of(writer, desired).plan.changes}
    assert left == reasons.keys() | reported, (outcomes, lines)
    assert all("mask" in reason or "did not work" in reason for reason in reasons.values()), reasons


@settings(max_examples=examples(60))
@given(row_sets(), tenants(), st.booleans(), st.booleans())
def test_an_apply_leaves_an_empty_plan_or_names_what_is_left(
    rows: list[Any], desired: list[Desired], merges: bool, camel_case: bool
) -> None:
    before = list(rows)
    tenant = ModelTenant(models=rows, merges=merges, camel_case=camel_case)
    with tenant.reach() as writer:
        review, outcomes, unverified = applied(writer, desired)
        check_the_law(writer, desired, review, outcomes, unverified)
        assert merges or not unverified
        check_what_survives(before, rows, review.plan)


@settings(max_examples=examples(60))
@given(row_sets(), tenants(), tenants(), st.lists(st.sampled_from(FAULTS), max_size=30), st.booleans())
def test_whatever_goes_wrong_every_policy_has_its_models_and_a_second_apply_finishes(
    rows: list[Any], first: list[Desired], second: list[Desired], faults: list[str | None], merges: bool
) -> None:
    coming = iter(faults)
    tenant = ModelTenant(models=rows, merges=merges, fault=lambda: next(coming, None))
    with tenant.reach() as writer:
        for desired in (first, second):
            review, outcomes, _ = applied(writer, desired)
            has = {virtual_model(row["name"]) for row in rows if isinstance(row, dict) and isinstance(row.get("name"), str)}
            for outcome in outcomes:
                if outcome.change.kind == "policy" and outcome.status == "applied":
                    needed = {name for name in outcome.change.comes_after if kind_of(name) == "model"}
                    assert needed <= has | {ELSEWHERE}
        tenant.fault = lambda: None
        review, outcomes, unverified = applied(writer, second)
        check_the_law(writer, second, review, outcomes, unverified)
        assert len({canonical(row["name"]) for row in tenant.policies}) == len(tenant.policies)


@given(row_sets(), tenants())
def test_an_embedded_remote_too(rows: list[Any], desired: list[Desired]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "remote.db"
        put_models((row for row in rows if isinstance(row, dict) and isinstance(row["name"], str) and row["id"]), path)
        with SqliteRemote(path, models=True) as writer:
            review, outcomes, unverified = applied(writer, desired)
            check_the_law(writer, desired, review, outcomes, unverified)
            assert not unverified


def check_what_survives(before: list[Any], after: list[Any], plan: Plan) -> None:
    """Rows that the plan does not change are as they were; of those that it updates, everything that no file can hold is."""
    updated = {change.id: change for change in plan.changes if change.action == "update"}
    removed = {change.id for change in plan.changes if change.action == "remove"}
    now = {row["id"]: row for row in after if isinstance(row, dict) and row.get("id") is not None}
    for row in before:
        identifier = row.get("id") if isinstance(row, dict) else None
        if identifier not in updated and identifier not in removed:
            assert row in after
        if identifier in updated:
            for key in ("limits", "name"):
                assert canonical_text(now[identifier].get(key)) == canonical_text(row.get(key))
            assert lost_settings(row, now[identifier]) == []


def lost_settings(row: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The settings that the format does not know, and the row's own secrets unless a connection took their place."""
    config = row.get("provider_config")
    config = config if isinstance(config, dict) else {}
    names = {"newKey": "new_key", "region": "region"}
    if now.get("connection_id") == row.get("connection_id") and "connection_id" in row:
        names |= {key: key for key in SECRETS if config.get(key)}
    has = now["provider_config"]
    lost = [old for old, new in names.items() if config.get(old) is not None and not {old, new} & has.keys()]
    return lost + [old for old, new in names.items() if new in has and canonical_text(has[new]) != canonical_text(config[old])]
