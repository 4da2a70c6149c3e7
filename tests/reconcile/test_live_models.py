"""Models that others wrote, in any way: an apply leaves an empty plan, or its report names exactly what is left."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.load.environment import Environment
from policyctl.plan.change import GOOD, Desired, Outcome
from policyctl.plan.plan import Plan, Selection
from policyctl.plan.safety import Review
from policyctl.plan.settings import Settings
from policyctl.policy.document import Policy, canonical_text, policy_from_file
from policyctl.policy.model_schema import read_model
from policyctl.policy.model_settings import ALIASES, SECRETS, SETTINGS, alias_of
from policyctl.policy.names import canonical, kind_of, virtual_model
from policyctl.policy.virtual_model import VirtualModel
from policyctl.reconcile.apply import apply_changes
from policyctl.reconcile.plan import plan_directory
from policyctl.reconcile.verify import verify
from policyctl.remote.protocol import Writer
from policyctl.remote.sqlite import SqliteRemote
from tests.examples import examples
from tests.remote.http_helpers import Clock
from tests.remote.model_tenant import CONNECTIONS, ModelTenant
from tests.sqlite_rows import put_models
from tests.strategies import json_values

# Names that a URL, a query or a pattern could misread.
NAMES = ["openai/a", "openai/a&b=c", "x/a#1", "x/a+b", "x/%41", "anthropic/claude: 3 x", "x/A", "a21/a/b"]
ELSEWHERE = "virtual-model/else/where"
CANARY = "zqCANARYMODELqz"
HERE = Environment("dev")
FAULTS = (None, None, "refused", "lost before", "lost after")

_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": st.sampled_from(["", "x", "https://h.example/v1"]),
    "number": st.integers(0, 3),
    "switch": st.booleans(),
    "texts": st.lists(st.sampled_from(["x-a", "x-b"]), max_size=2),
    "mapping": st.dictionaries(st.sampled_from("ab"), st.integers(0, 2), max_size=2),
    "mappings": st.lists(st.dictionaries(st.sampled_from("ab"), st.integers(0, 2), max_size=1), max_size=2),
}


def _settings(keys: Iterable[str], *, loose: bool) -> st.SearchStrategy[dict[str, Any]]:
    def one(key: str) -> st.SearchStrategy[tuple[str, Any]]:
        value = _VALUES[SETTINGS[key].type]
        if loose:
            value = st.sampled_from([f"sk-{CANARY}", "***", "", None, {"k": CANARY}]) if key in SECRETS else value | json_values
        return st.tuples(st.sampled_from([key, alias_of(key) or key]), value)

    pairs = st.sampled_from(sorted(keys)).flatmap(one)
    return st.lists(pairs, max_size=4, unique_by=lambda pair: ALIASES.get(pair[0], pair[0])).map(dict)


def _optional(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keys)


def _merged(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(*parts).map(lambda dicts: {key: value for one in dicts for key, value in one.items()})


texts = st.sampled_from(["", "One", "a: b"])
files = _optional(
    display_name=texts,
    description=texts,
    provider_config=_settings(SETTINGS.keys() - SECRETS - {"forward_headers"}, loose=False),
    config=_optional(temperature=st.floats(0, 1), max_tokens=st.sampled_from([1, 4096]), stop=st.lists(texts, max_size=1)),
    tags=st.lists(st.sampled_from(["a", "b", "default"]), max_size=3),
    model_type=st.sampled_from(["chat", "embedding"]),
    app_id=st.sampled_from(sorted(CONNECTIONS)),
)
_loose_settings = _merged(
    _settings(SETTINGS.keys(), loose=True),
    _optional(provider=st.sampled_from(["openai", 5]), newKey=json_values, region=json_values),
)
loose_rows = _optional(
    display_name=texts | json_values,
    description=texts | json_values,
    provider_config=_loose_settings | json_values,
    config=st.dictionaries(st.sampled_from(["temperature", "max_tokens", "top"]), st.sampled_from([1, 4096, None]))
    | json_values,
    tags=st.lists(st.sampled_from(["a", "b", None, 3])) | json_values,
    model_type=st.sampled_from(["chat", "embedding"]) | json_values,
    connection_id=st.sampled_from([*CONNECTIONS.values(), "gone", ""]) | json_values,
    app_id=json_values,
    limits=json_values,
    title=json_values,
)
some_names = st.sampled_from(NAMES)
live_names = some_names.flatmap(lambda name: st.sampled_from([name, f"virtual-model/{name}"])) | st.sampled_from([None, 5, ""])


@st.composite
def row_sets(draw: st.DrawFn) -> list[Any]:
    """A list of models: most rows are usable, some have no id, no name, share a name, or are no objects at all."""
    found: list[Any] = []
    for number in range(draw(st.integers(0, 5))):
        row = {"id": f"m {number}/{number}#", "name": draw(live_names), **draw(loose_rows)}
        if draw(st.integers(0, 9)) == 0:
            row = draw(st.sampled_from([{**row, "id": None}, 5, None, "row", [row]]))
        found.append(row)
    return found


@st.composite
def tenants(draw: st.DrawFn) -> list[Desired]:
    """What a directory wants: models, and policies over some of them."""
    found: dict[str, Desired] = {}
    for name in draw(st.lists(some_names, max_size=5, unique=True)):
        model = wanted_model(name, **draw(files))
        found[model.name] = model
    targets = st.sampled_from(sorted(found) or [ELSEWHERE])
    for name in draw(st.lists(st.sampled_from("pqr"), max_size=3, unique=True)):
        policy = policy_over(name, draw(st.lists(targets, min_size=1, max_size=2, unique=True)))
        found[policy.name] = policy
    return list(found.values())


def wanted_model(name: str, **keys: Any) -> VirtualModel:
    model, found = read_model({"spec_version": "v1", "kind": "model", "name": name, **keys}, "m.yaml")
    assert model is not None, found
    return model


def policy_over(name: str, models: list[str]) -> Policy:
    targets = [{"model_name": model} for model in models]
    return policy_from_file({"name": name, "policy": {"strategy": {"mode": "fallback"}, "targets": targets}}, f"{name}.yaml")


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
        parallelism=3,
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
    reported = {change.name for change in review.plan.changes if any(change.name in line for line in lines)}
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
@given(row_sets(), tenants(), tenants(), st.randoms(use_true_random=False), st.booleans())
def test_whatever_goes_wrong_every_policy_has_its_models_and_a_second_apply_finishes(
    rows: list[Any], first: list[Desired], second: list[Desired], rng: random.Random, merges: bool
) -> None:
    tenant = ModelTenant(models=rows, merges=merges, fault=lambda: rng.choice(FAULTS))
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
