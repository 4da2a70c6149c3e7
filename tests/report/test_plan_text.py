"""What the text of a plan begins with, ends with and leaves out."""

from __future__ import annotations

from typing import Any

from policyctl.plan.safety import Review, review
from policyctl.plan.settings import Settings
from policyctl.policy.document import Policy, policy_from_file
from policyctl.policy.live import observe_rows
from policyctl.report.format import Style
from policyctl.report.plan_markdown import plan_markdown
from policyctl.report.plan_text import plan_text
from policyctl.report.plan_view import PlanView
from tests.builders import body, plan, policy, row


def reviewed(desired: list[Policy], rows: list[dict[str, Any]], settings: Settings = Settings()) -> Review:
    return review(plan(desired, rows, settings), observe_rows(rows), settings)


def test_a_plan_begins_with_its_verdict_and_ends_with_its_counts() -> None:
    changes = reviewed([policy("p", "b"), *(policy(f"new-{number:02}") for number in range(20))], [row("p"), row("old")])
    lines = plan_text(changes, "local", Style()).splitlines()
    assert lines[:6] == [
        "environment dev, remote local",
        "",
        "changes   20 to add, 1 to update, 1 to remove",
        "riskiest  p: b 0% → 100%, x/a 100% → 0%",
        "rules     safety rules passed, no guards configured",
        "",
    ]
    assert lines[-1] == "Plan: 20 to add, 1 to update, 1 to remove."


def test_a_long_plan_that_is_refused_says_so_first_and_why_at_its_end() -> None:
    changes = reviewed([policy("p")], [row(f"r{number:02}") for number in range(50)])
    lines = plan_text(changes, "local", Style()).splitlines()
    assert lines[2:6] == [
        "changes   1 to add, 50 to remove",
        "riskiest  r00, r01, r02: removed; no policy targets it",
        "          and 47 more as bad, or nearly",
        "rules     refused by 2 safety rules",
    ]
    assert [line.partition("  ")[0] for line in lines[-4:]] == ["refused", "refused", "", lines[-1]]


def test_a_plan_without_changes_has_nothing_to_judge() -> None:
    lines = plan_text(reviewed([policy("p")], [row("p")]), "local", Style()).splitlines()
    assert lines == ["environment dev, remote local", "", "No changes. dev matches the files: 1 unchanged."]


def test_verbose_shows_values_whole_every_row_of_an_effect_and_what_the_policy_will_be() -> None:
    models = [f"x/m{number:02}" for number in range(12)]
    others = [f"y/m{number:02}" for number in range(12)]
    before, after = f"{'It was so. ' * 20}Once.", f"{'It was so. ' * 20}Twice."
    desired = policy_from_file({"name": "p", "description": after, "policy": body(*others)}, "policies/p.yaml")
    changed = reviewed([desired], [{**row("p", *models), "description": before}])
    short, whole = (plan_text(changed, "local", Style(), verbose=verbose) for verbose in (False, True))
    assert '    description: … was so. It was so. Once." → … was so. It was so. Twice."\n' in short
    assert f'    description: "{before}" → "{after}"\n' in whole
    assert f"    fallback of {', then '.join(others)}\n" in whole
    assert "    fallback of" not in short
    assert "more (-v)" in short
    assert "…" not in whole


def test_a_name_that_reads_as_several_entries_is_in_quotes() -> None:
    """In text nothing else shows where it ends."""
    name = "evil/x 100% → 0%, openai/gpt-4o"
    text = plan_text(reviewed([policy("chat", name)], [row("chat", "openai/gpt-4o")]), "local", Style())
    assert f'traffic: "{name}" 0% → 100%, openai/gpt-4o 100% → 0%' in text
    said = [line for line in text.replace(f'"{name}"', "").splitlines() if "policy.targets[" not in line]
    assert all(name not in line for line in said)


def test_a_new_policy_that_targets_others_shows_which_models_it_leads_to() -> None:
    """Also where that is a live policy of someone else, which the plan does not name."""
    rows = [row("lab", "virtual-policy/inner"), row("inner", "evil/x")]
    review = reviewed([policy("front", "virtual-policy/lab")], rows, Settings(scope=("front",)))
    said = "leads to evil/x 100% while nothing fails"
    assert f"\n    {said}\n" in plan_text(review, "local", Style())
    assert "leads to `evil/x` 100% while nothing fails" in plan_markdown(PlanView(review, "local"))
    assert "leads to" not in plan_text(reviewed([policy("front", "evil/x")], []), "local", Style())
