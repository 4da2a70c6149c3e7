"""Whatever a plan file holds, reading it gives a plan that can be shown, judged and applied, or one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policyctl.plan.plan import Plan
from policyctl.plan.safety import review
from policyctl.plan.saved_plan import BadPlan, read_plan, write_plan
from policyctl.plan.settings import Settings
from policyctl.policy.document import digest
from policyctl.policy.live import observe_rows
from policyctl.reconcile.apply import apply_changes
from policyctl.reconcile.plan import stale_changes
from policyctl.remote.sqlite import SqliteRemote
from policyctl.report.format import Style
from policyctl.report.plan_json import plan_json
from policyctl.report.plan_text import plan_text
from tests.builders import plan, policy, row
from tests.examples import examples
from tests.fuzz.mutating import contents, values
from tests.strategies import documents, json_values

ROWS = [row("changed", "virtual-model/x/a"), row("old"), row("same")]
TEXT = write_plan(
    plan([policy("new", "virtual-model/y/b", "old"), policy("changed", "virtual-model/x/c"), policy("same")], ROWS)
)
SAVED = json.loads(TEXT)


def use(text: str, folder: Path) -> None:
    """Read a plan file and do with it what apply does."""
    try:
        found = read_plan(text, "plan.json")
    except BadPlan as error:
        told = str(error)
    else:
        apply(found, folder)
        return
    assert "\n" not in told
    assert told.startswith("plan.json ")


def apply(found: Plan, folder: Path) -> None:
    """Show, judge and carry out a plan."""
    observed = observe_rows(ROWS)
    stale_changes(found, observed)
    reviewed = review(found, observed, Settings())
    plan_text(reviewed, "local", Style(), verbose=True)
    plan_json(reviewed)
    assert read_plan(write_plan(found), "plan.json") == found
    with SqliteRemote(folder / "fuzz.db") as remote:
        apply_changes(found.changes, remote, parallelism=1, on_outcome=lambda _: None, stopped=lambda: False)


def signed(data: Any) -> str:
    """The text of a plan made by a person who knows how checksums are made."""
    if not isinstance(data, dict):
        return json.dumps(data)
    rest = {key: value for key, value in data.items() if key != "checksum"}
    changes = rest.get("changes")
    if isinstance(changes, list) and all(isinstance(change, dict) for change in changes):
        keys = ("action", "name", "id", "before", "after")
        said = [[change.get(key) for key in keys] for change in changes]
        rest["digest"] = digest(
            {**{key: rest.get(key) for key in ("environment", "remote", "config")}, "changes": said, "overrides": []}
        )
    return json.dumps({**rest, "checksum": digest(rest)})


@given(contents(TEXT))
@settings(max_examples=examples(80))
def test_a_text_gone_wrong(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    use(content.decode("utf-8", "replace"), tmp_path_factory.getbasetemp())


@given(values(SAVED, json_values | documents()))
@example({**SAVED, "changes": [{"action": "add", "name": "virtual-policy/x", "after": {}}]})
@example({**SAVED, "changes": [{"action": "remove", "name": "virtual-policy/x", "after": {"name": "x"}}]})
@example({**SAVED, "changes": [SAVED["changes"][0]] * 2})
@settings(max_examples=examples(120))
def test_a_plan_gone_wrong_whose_checksum_is_right(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    use(signed(data), tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("position", range(len(SAVED["changes"])))
@given(st.data())
@settings(max_examples=examples(50))
def test_a_change_gone_wrong(tmp_path_factory: pytest.TempPathFactory, position: int, data: st.DataObject) -> None:
    changes = list(SAVED["changes"])
    changes[position] = data.draw(values(changes[position], json_values))
    use(signed({**SAVED, "changes": changes}), tmp_path_factory.getbasetemp())


def test_one_that_is_whole_is_read() -> None:
    assert len(read_plan(signed(SAVED), "plan.json").changes) == 3


@pytest.mark.parametrize("depth", [150, 900, 100_000])
def test_a_deep_one_is_refused(depth: int) -> None:
    with pytest.raises(BadPlan):
        read_plan(TEXT.replace('"version": 1', '"version": ' + "[" * depth + "]" * depth), "plan.json")
    deep: Any = None
    for _ in range(min(depth, 900)):
        deep = {"a": deep}
    with pytest.raises(BadPlan):
        read_plan(json.dumps({**SAVED, "checksum": "x", "changes": deep}), "plan.json")
