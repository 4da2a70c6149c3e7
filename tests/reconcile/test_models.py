"""Virtual models are reconciled beside policies: after an apply the plan is empty, and a policy is never without its model."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from policyctl.plan.plan import Desired, Outcome, Plan, make_plan
from policyctl.plan.settings import Settings
from policyctl.policy.document import Policy, policy_from_file
from policyctl.policy.live import LiveRows
from policyctl.policy.model_schema import read_model
from policyctl.policy.names import MODEL_PREFIX
from policyctl.policy.virtual_model import VirtualModel
from policyctl.reconcile.apply import apply_changes
from policyctl.reconcile.observe import observe, verify
from policyctl.remote import Backoff
from tests.reconcile.faulty import FAULTS, FaultyRemote

HEAD = {"spec_version": "v1", "kind": "model"}
MODELS = ["openai/a", "openai/b", "anthropic/c"]


def model(name: str, **keys: Any) -> VirtualModel:
    found, problems = read_model({**HEAD, "name": name, **keys}, f"{name}.yaml")
    assert found is not None, problems
    return found


def policy_over(name: str, *models: str) -> Policy:
    targets = [{"model_name": MODEL_PREFIX + one} for one in models]
    return policy_from_file({"name": name, "policy": {"strategy": {"mode": "fallback"}, "targets": targets}}, f"{name}.yaml")


def planned(desired: Sequence[Desired], observed: LiveRows) -> Plan:
    return make_plan(
        environment="dev",
        remote="x",
        config="x",
        desired=desired,
        observed=observed,
        settings=Settings(),
        removes=True,
    )


def applied(writer: FaultyRemote, desired: Sequence[Desired]) -> list[Outcome]:
    """Apply; at any wait the remote catches up with what it answered before it was done."""
    plan = planned(desired, observe(writer))
    patience = Backoff(clock=lambda: 0.0, sleep=lambda _: writer.catch_up())
    outcomes = apply_changes(
        plan.changes, writer, parallelism=1, on_outcome=lambda _: None, stopped=lambda: False, patience=patience
    )
    assert _every_policy_has_its_models(writer)
    return outcomes


def _every_policy_has_its_models(writer: FaultyRemote) -> bool:
    live = observe(writer)
    used = {target["model_name"] for row in live.policies.values() for target in row.document["policy"]["targets"]}
    return used <= live.models.keys()


def remote(folder: str, fault: str = "none", only: str = "") -> FaultyRemote:
    """A remote on which one thing, or everything, goes wrong."""
    return FaultyRemote(Path(folder) / "remote.db", lambda name: fault if only in name else "none", models=True)


def test_models_come_before_the_policies_that_target_them_and_go_after_them(tmp_path: Path) -> None:
    with remote(str(tmp_path)) as writer:
        both: list[Desired] = [policy_over("p", "openai/a"), model("openai/a")]
        assert [o.change.name for o in applied(writer, both)] == ["virtual-model/openai/a", "virtual-policy/p"]
        assert [o.change.name for o in applied(writer, [])] == ["virtual-policy/p", "virtual-model/openai/a"]


def test_a_model_is_added_before_a_policy_moves_to_it_and_the_old_one_goes_last(tmp_path: Path) -> None:
    with remote(str(tmp_path)) as writer:
        applied(writer, [policy_over("p", "openai/a"), model("openai/a")])
        outcomes = applied(writer, [policy_over("p", "openai/b"), model("openai/b")])
        assert [(o.change.action, o.change.name) for o in outcomes] == [
            ("add", "virtual-model/openai/b"),
            ("update", "virtual-policy/p"),
            ("remove", "virtual-model/openai/a"),
        ]


def test_a_policy_waits_until_its_model_is_seen(tmp_path: Path) -> None:
    both: list[Desired] = [policy_over("p", "openai/a"), model("openai/a")]
    with remote(str(tmp_path), "late", "openai/a") as writer:
        assert [outcome.status for outcome in applied(writer, both)] == ["applied", "applied"]
    with remote(str(tmp_path), "late", "policy/p") as writer:
        assert [outcome.status for outcome in applied(writer, [])] == ["applied", "applied"]


def test_what_needs_a_change_that_was_only_answered_is_not_made(tmp_path: Path) -> None:
    both: list[Desired] = [policy_over("p", "openai/a"), model("openai/a")]
    with remote(str(tmp_path), "only answered", "openai/a") as writer:
        outcomes = applied(writer, both)
        assert [(one.change.name, one.status) for one in outcomes][1] == ("virtual-policy/p", "failed")
        assert outcomes[1].reason == "virtual-model/openai/a was added, and the remote does not show it"
        assert observe(writer).live == {}
    with remote(str(tmp_path)) as writer:
        applied(writer, both)
    moved: list[Desired] = [policy_over("p", "openai/b"), model("openai/b")]
    for desired in (moved, []):  # the policy is updated, or removed
        with remote(str(tmp_path), "only answered", "policy/p") as writer:
            outcome = next(one for one in applied(writer, desired) if one.change.name == "virtual-model/openai/a")
            assert outcome.status == "failed"
            assert "virtual-policy/p was changed, and on the remote it still targets virtual-model/openai/a" in outcome.reason


def test_what_a_file_no_longer_has_is_cleared(tmp_path: Path) -> None:
    with remote(str(tmp_path)) as writer:
        applied(
            writer, [model("openai/a", app_id="creds", config={"top_p": 1}, tags=["x"], provider_config={"custom_host": "h"})]
        )
        outcomes = applied(writer, [model("openai/a")])
        assert verify(outcomes, writer, lambda _: None) == []
        row = observe(writer).models["virtual-model/openai/a"]
        assert not row.normal.keys() & {"app_id", "config", "tags", "provider_config"}


keys = st.fixed_dictionaries(
    {},
    optional={
        "app_id": st.sampled_from(["one", "two"]),
        "config": st.dictionaries(st.sampled_from(["top_p", "max_tokens"]), st.integers(1, 2)),
        "tags": st.lists(st.sampled_from("ab"), max_size=2),
        "provider_config": st.dictionaries(st.sampled_from(["custom_host", "url_to_fetch"]), st.sampled_from("xy")),
        "description": st.sampled_from("xy"),
    },
)
tenants = st.dictionaries(st.sampled_from(MODELS), keys, min_size=1).flatmap(
    lambda models: st.tuples(
        st.just(models),
        st.dictionaries(st.sampled_from("pq"), st.lists(st.sampled_from(sorted(models)), min_size=1, unique=True)),
    )
)


def everything(tenant: tuple[dict[str, Any], dict[str, list[str]]]) -> list[Desired]:
    models, policies = tenant
    return [
        *(policy_over(name, *targets) for name, targets in policies.items()),
        *(model(name, **given_keys) for name, given_keys in models.items()),
    ]


@given(tenants, tenants, st.sampled_from(FAULTS))
def test_any_tenant_becomes_any_other_whatever_goes_wrong_meanwhile(before: Any, after: Any, fault: str) -> None:
    with tempfile.TemporaryDirectory() as folder, remote(folder) as writer:
        applied(writer, everything(before))
        writer.fault_of = lambda _: fault
        applied(writer, everything(after))
        writer.fault_of = lambda _: "none"
        outcomes = applied(writer, everything(after))
        assert verify(outcomes, writer, lambda _: None) == []
        assert not planned(everything(after), observe(writer)).changes
