"""The law: after apply, plan is empty; and whatever goes wrong, nothing is lost, doubled, or told otherwise than it is."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.load.environment import Environment
from policyctl.plan.plan import GOOD, Outcome, Plan, Selection
from policyctl.plan.settings import Settings
from policyctl.policy.document import Policy, canonical_text, normal_form, policy_from_file
from policyctl.policy.live import observe_rows
from policyctl.policy.names import Kind
from policyctl.reconcile.apply import apply_changes
from policyctl.reconcile.observe import WAITS, observe, verify
from policyctl.reconcile.plan import plan_directory, stale_changes
from policyctl.remote.sqlite import SqliteRemote
from tests.builders import policy
from tests.examples import examples
from tests.reconcile.faulty import FAULTS, FaultyRemote
from tests.remote.http_helpers import Clock
from tests.strategies import documents, loose_documents

HERE = Environment("dev")


@contextmanager
def remote(fault_of: Callable[[str], str] = lambda name: "none") -> Iterator[FaultyRemote]:
    with tempfile.TemporaryDirectory() as folder, FaultyRemote(Path(folder) / "remote.db", fault_of) as made:
        yield made


def plan_for(writer: SqliteRemote, desired: list[Policy]) -> Plan:
    return plan_directory(writer, desired, HERE, Settings(), Selection()).plan


def apply(writer: SqliteRemote, plan: Plan, stopped: Callable[[], bool] = lambda: False) -> list[Outcome]:
    patience = Clock().patience()
    return apply_changes(
        plan.changes, writer, parallelism=4, on_outcome=lambda outcome: None, stopped=stopped, patience=patience
    )


def held(writer: SqliteRemote) -> dict[str, str]:
    observed = observe_rows(writer.rows())
    assert observed.twins == ()
    return {name: live.text for name, live in observed.live.items()}


def wanted(desired: list[Policy]) -> dict[str, str]:
    return {one.name: canonical_text(normal_form(one.document)) for one in desired}


some_names = st.sampled_from([f"p{number}" for number in range(12)])
policy_sets = st.lists(documents(some_names), max_size=8).map(
    lambda found: list({one.name: one for one in (policy_from_file(data, "f.yaml") for data in found)}.values())
)
row_sets = st.lists(loose_documents, max_size=6)


@pytest.mark.slow
@settings(max_examples=examples(40))
@given(row_sets, policy_sets)
def test_after_apply_plan_is_empty(rows: list[dict[str, Any]], desired: list[Policy]) -> None:
    with remote() as writer:
        for number, row in enumerate(rows):
            writer.add({**row, "name": f"p{number}"})
        outcomes = apply(writer, plan_for(writer, desired))
        assert {outcome.status for outcome in outcomes} <= {"applied"}
        assert verify(outcomes, writer, lambda seconds: None) == []
        again = plan_for(writer, desired)
        assert again.changes == ()
        assert again.counts.unchanged == len(desired)
        assert held(writer) == wanted(desired)


@pytest.mark.slow
@settings(max_examples=examples(40))
@given(policy_sets, policy_sets, st.randoms(), st.booleans())
def test_whatever_goes_wrong_the_report_is_true_and_a_second_apply_finishes(
    before: list[Policy], desired: list[Policy], rng: random.Random, lasting: bool
) -> None:
    faults: dict[str, str] = {}

    def fault_of(name: str) -> str:
        fault = faults.setdefault(name, rng.choice(FAULTS))
        if not lasting and fault.startswith("lost"):
            faults[name] = "none"  # an answer is lost once, then the line is good again
        return fault

    with remote(lambda name: fault_of(name) if faulty else "none") as writer:
        faulty = False
        apply(writer, plan_for(writer, before))
        start = held(writer)
        faulty = True
        outcomes = apply(writer, plan_for(writer, desired))
        now, goal = held(writer), wanted(desired)
        for outcome in outcomes:
            name = outcome.change.name
            assert now.get(name) in (start.get(name), goal.get(name))
            if outcome.status in GOOD:
                assert now.get(name) == goal.get(name)
            elif "lost" not in outcome.reason:
                assert now.get(name) == start.get(name)
        faulty = False
        apply(writer, plan_for(writer, desired))
        assert held(writer) == goal


def test_a_lost_answer_of_a_write_that_was_carried_out_is_found_by_looking() -> None:
    lost = iter(["lost after"])
    with remote(lambda name: next(lost, "none")) as writer:
        (outcome,) = apply(writer, plan_for(writer, [policy("a")]))
        assert (outcome.status, len(list(writer.rows())), writer.looks) == ("applied", 1, 2)


def test_a_write_that_was_not_carried_out_is_tried_again_a_few_times_only() -> None:
    writes: list[str] = []
    with remote(lambda name: writes.append(name) or "lost before") as writer:
        (outcome,) = apply(writer, plan_for(writer, [policy("a")]))
        reason = "lost by the script (sent 3 times, and never seen on the remote)"
        assert (outcome.status, outcome.reason, writes) == ("failed", reason, ["virtual-policy/a"] * 3)
        assert list(writer.rows()) == []


def test_a_policy_that_moved_between_plan_and_write_is_not_overwritten() -> None:
    with remote() as writer:
        apply(writer, plan_for(writer, [policy("a", "one"), policy("b", "one")]))
        plan = plan_for(writer, [policy("a", "two"), policy("b", "two")])
        other = next(row for row in writer.rows() if row["name"] == "virtual-policy/a")
        writer.update(other["id"], {"name": "virtual-policy/a", "policy": policy("a", "theirs").document["policy"]})
        outcomes = {outcome.change.name: outcome for outcome in apply(writer, plan)}
        assert outcomes["virtual-policy/b"].status == "applied"
        moved = outcomes["virtual-policy/a"]
        assert moved.status == "failed"
        assert moved.reason == (
            "changed since the plan was made (policy.targets[one]: {model_name: one, weight: 1} → absent, "
            "policy.targets[theirs]: absent → {model_name: theirs, weight: 1}); plan again"
        )
        assert held(writer)["virtual-policy/a"] == wanted([policy("a", "theirs")])["virtual-policy/a"]


def test_a_policy_that_moved_makes_a_plan_stale() -> None:
    with remote() as writer:
        plan = plan_for(writer, [policy("a"), policy("b")])
        assert stale_changes(plan, observe(writer)) == ()
        writer.add({"name": "a", "policy": {}})
        assert stale_changes(plan, observe(writer)) == ("virtual-policy/a: policy: absent → live",)


def test_once_stopped_nothing_new_is_begun_and_the_rest_is_reported_as_skipped() -> None:
    begun: list[str] = []
    with remote(lambda name: begun.append(name) or "none") as writer:
        desired = [policy(f"p{number:03}") for number in range(100)]
        outcomes = apply(writer, plan_for(writer, desired), stopped=lambda: len(begun) >= 10)
        statuses = [outcome.status for outcome in outcomes]
        assert statuses.count("applied") == len(begun) == len(list(writer.rows()))
        assert statuses.count("applied") + statuses.count("skipped") == 100
        assert 10 <= len(begun) <= 13
        assert {outcome.reason for outcome in outcomes if outcome.status == "skipped"} == {"interrupted"}


def test_look_ups_are_batched() -> None:
    with remote() as writer:
        apply(writer, plan_for(writer, [policy(f"p{number:03}") for number in range(130)]))
        assert writer.looks == 3


def test_what_did_not_take_is_reported_after_a_few_bounded_looks() -> None:
    with remote() as writer:
        outcomes = apply(writer, plan_for(writer, [policy("a"), policy("b")]))
        first = next(row for row in writer.rows() if row["name"] == "virtual-policy/a")
        writer.update(first["id"], {"policy": policy("a", "merged").document["policy"], "name": "virtual-policy/a"})
        waited: list[float] = []
        assert verify(outcomes, writer, waited.append) == [
            "virtual-policy/a was not applied: policy.targets[merged], policy.targets[x/a]"
        ]
        assert tuple(waited) == WAITS


class Forgetful(SqliteRemote):
    """A remote that stores only the fields it knows, and takes a second policy along with each that is removed."""

    def update(self, identifier: str, document: dict[str, Any], version: str | None = None, kind: Kind = "policy") -> None:
        known = {key: document["policy"][key] for key in ("strategy", "targets", "retry") if key in document["policy"]}
        super().update(identifier, {"name": document["name"], "policy": known}, version, kind)

    def remove(self, identifier: str, version: str | None = None, kind: Kind = "policy") -> None:
        super().remove(identifier, version, kind)
        for row in self.rows():
            if row["name"] == "virtual-policy/foreign":
                super().remove(row["id"])


def test_what_an_update_keeps_and_what_it_leaves_alone_is_read_back(tmp_path: Path) -> None:
    """Neither a field that the format does not know may be lost, nor a policy that is not in the plan."""
    with Forgetful(tmp_path / "forgetful.db") as writer:
        live = policy("a", "one").document
        writer.add({**live, "policy": {**live["policy"], "hooks": ["h"]}})
        writer.add(policy("old").document)
        writer.add(policy("foreign").document)
        before = {row["name"] for row in writer.rows()}
        plan = plan_directory(writer, [policy("a", "two")], HERE, Settings(scope=("a", "old")), Selection()).plan
        outcomes = apply(writer, plan)
        assert verify(outcomes, writer, lambda seconds: None, before) == [
            "virtual-policy/a did not keep policy.hooks, which was written and which policyctl does not know",
            "virtual-policy/foreign is gone, and this apply did not remove it: another client or the remote itself did",
        ]


class Overwriting(SqliteRemote):
    """A remote that writes an update into two other policies, too."""

    def update(self, identifier: str, document: dict[str, Any], version: str | None = None, kind: Kind = "policy") -> None:
        for row in self.rows():
            super().update(row["id"], {"name": row["name"], "policy": document["policy"]})


def test_a_policy_that_an_update_of_another_one_rewrites_is_noticed(tmp_path: Path) -> None:
    """Of the directory's scope: what is outside it others may write at any time."""
    with Overwriting(tmp_path / "overwriting.db") as writer:
        for name in ("a", "kept", "foreign"):
            writer.add(policy(name).document)
        scope = Settings(scope=("a", "kept"))
        review = plan_directory(writer, [policy("a", "two"), policy("kept")], HERE, scope, Selection())
        outcomes = apply(writer, review.plan)
        assert verify(outcomes, writer, lambda seconds: None, review.live, scope.in_scope, review.policies_before) == [
            "virtual-policy/kept changed without being in the plan: another client or the remote itself did that; plan again"
        ]


@pytest.mark.parametrize("desired", [[policy("a", "two")], []], ids=["update", "remove"])
def test_a_policy_that_is_there_twice_is_never_verified(desired: list[Policy], tmp_path: Path) -> None:
    """As when an add that timed out was carried out late, on a remote that takes a second policy of one name."""
    with SqliteRemote(tmp_path / "twins.db", unique_names=False) as writer:
        writer.add(policy("a").document)
        outcomes = apply(writer, plan_for(writer, desired))
        for _ in range(2):
            writer.add(policy("a").document)
        (line,) = verify(outcomes, writer, lambda seconds: None)
        assert line.startswith(f"virtual-policy/a is there {len(list(writer.rows()))} times (ids ")
        assert all(row["id"] in line for row in writer.rows())
