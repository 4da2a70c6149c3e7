"""What the text of a plan begins with, ends with and leaves out."""

from __future__ import annotations

from policyctl.core.guards import Review, review
from policyctl.core.settings import Settings
from policyctl.model.live import observe_rows
from policyctl.model.policy import policy_from_file
from policyctl.report.plan_text import plan_text
from policyctl.report.style import Style
from tests.builders import body, plan, policy, row


def reviewed(desired: list[object], rows: list[object], settings: Settings = Settings()) -> Review:
    return review(plan(desired, rows, settings), observe_rows(rows), settings)


def test_a_plan_of_more_than_a_screen_begins_with_its_verdict_and_ends_with_its_counts() -> None:
    changes = reviewed([policy("p", "b"), *(policy(f"new-{number:02}") for number in range(20))], [row("p"), row("old")])
    lines = plan_text(changes, "local", Style()).splitlines()
    assert lines[:6] == [
        "environment dev, remote local",
        "",
        "changes   20 to add, 1 to update, 1 to remove",
        "riskiest  virtual-policy/old: removed; requests that name it fail",
        "rules     safety rules and guards passed",
        "",
    ]
    assert lines[-1] == "Plan: 20 to add, 1 to update, 1 to remove."


def test_a_long_plan_that_is_refused_says_so_first_and_why_at_its_end() -> None:
    changes = reviewed([policy("p")], [row(f"r{number:02}") for number in range(50)])
    lines = plan_text(changes, "local", Style()).splitlines()
    assert lines[4] == "rules     refused by 2 safety rules"
    assert [line.partition("  ")[0] for line in lines[-4:]] == ["refused", "refused", "", lines[-1]]


def test_a_plan_that_fits_on_a_screen_begins_with_its_changes() -> None:
    lines = plan_text(reviewed([policy(f"new-{number:02}") for number in range(20)], []), "local", Style()).splitlines()
    assert lines[:3] == ["environment dev, remote local", "", "+ virtual-policy/new-00  policies/new-00.yaml"]


def test_verbose_shows_values_whole_every_row_of_an_effect_and_what_the_policy_will_be() -> None:
    models = [f"x/m{number:02}" for number in range(12)]
    others = [f"y/m{number:02}" for number in range(12)]
    before, after = f"{'It was so. ' * 20}Once.", f"{'It was so. ' * 20}Twice."
    desired = policy_from_file({"name": "p", "description": after, "policy": body(*others)}, "policies/p.yaml")
    changed = reviewed([desired], [{**row("p", *models), "description": before}])
    short, whole = (plan_text(changed, "local", Style(), verbose=verbose) for verbose in (False, True))
    assert '    description: … was so. It was so. Once." → … was so. It was so. Twice."\n' in short
    assert f'    description: "{before}" → "{after}"\n' in whole
    assert f"    fallback of {', '.join(others)}\n" in whole
    assert "    fallback of" not in short
    assert "more (-v)" in short
    assert "…" not in whole
