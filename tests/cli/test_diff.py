"""policyctl diff: what is live and what the files want, as unified YAML."""

from __future__ import annotations

import json

import pytest

from tests.conftest import ANYGEM, Policyctl, Project
from tests.git_repo import commit
from tests.sqlite_rows import put, put_models, row

SECRET = "sk-hunter2-hunter2"


@pytest.fixture
def applied(project: Project, policyctl: Policyctl) -> Project:
    """anygem and chat, applied and committed."""
    project.write("anygem.yaml")
    project.policy("chat", "virtual-model/a/one", "virtual-model/b/two")
    commit(project.folder)
    assert policyctl("apply", "--yes").code == 0
    return project


CHANGED = """\
--- live/virtual-policy/anygem
+++ policies/anygem.yaml
@@ -11,6 +11,6 @@
     on_status_codes: [503]
   targets:
     - model_name: virtual-model/google/gemini-2.0-flash
-      weight: 0.75
+      weight: 0.6
     - model_name: virtual-model/google/gemini-2.0-flash-lite
-      weight: 0.25
+      weight: 0.4
"""
OTHER = ANYGEM.replace("0.75", "0.6").replace("0.25", "0.4")


def test_a_change_is_shown_as_git_shows_one(applied: Project, policyctl: Policyctl) -> None:
    assert policyctl("diff") == (0, "", "")
    assert policyctl("diff", "--detailed-exitcode").code == 0
    applied.write("anygem.yaml", OTHER)
    assert policyctl("diff") == (0, CHANGED, "")
    assert policyctl("diff", "--detailed-exitcode") == (2, CHANGED, "")


def test_what_yaml_cannot_show_of_an_update_comes_after_it(project: Project, policyctl: Policyctl) -> None:
    """A word that is written over a secret, and an unknown field that goes with its part."""
    project.write("policyctl.yaml", "manage: [policies, models]\nscope: ['*', 'virtual-model/*']\n")
    secret = {"provider": "ollama", "api_key": "***", "custom_host": "http://h"}
    put_models([{"id": "m", "name": "virtual-model/ollama/m", "provider_config": secret}])
    config = "provider_config: {api_key: dummy, custom_host: 'http://h'}"
    project.write("m.yaml", f"spec_version: v1\nkind: model\nname: ollama/m\ndescription: new\n{config}\n")
    target = {"model_name": "virtual-model/x/a", "override_params": {"n": 1}}
    put([row("chat", policy={"strategy": {"mode": "single"}, "targets": [target]})])
    project.policy("chat", "virtual-model/x/b")
    commit(project.folder)
    shown = policyctl("diff").out
    assert "\n# and provider_config.api_key: (set) → dummy\n" in shown
    assert "\n# and policy.targets[x/a].override_params: {n: 1} → absent\n" in shown


def test_what_is_only_on_one_side_is_compared_with_nothing(applied: Project, policyctl: Policyctl) -> None:
    applied.policy("new", "virtual-model/c/three")
    (applied.policies / "chat.yaml").unlink()
    commit(applied.folder)
    shown = policyctl("diff").out
    assert "--- /dev/null\n+++ policies/new.yaml\n@@ -0,0 +1," in shown
    assert "+    - model_name: virtual-model/c/three\n" in shown
    assert "--- live/virtual-policy/chat\n+++ /dev/null\n@@ -1," in shown
    assert "-    - model_name: virtual-model/a/one\n" in shown
    assert "anygem" not in shown


def test_order_and_spelling_that_mean_nothing_make_no_line(applied: Project, policyctl: Policyctl) -> None:
    """The targets of a load balance in another order, and beside them a description that does differ."""
    head, targets = ANYGEM.split("  targets:\n")
    first, second = targets.split("\n    - ")
    text = f"{head}  targets:\n    - {second.rstrip()}\n{first}\n".replace("name: anygem", "name: virtual-policy/anygem", 1)
    applied.write("anygem.yaml", text.replace("Balances requests", "Spreads requests"))
    lines = [line for line in policyctl("diff").out.splitlines()[2:] if line[0] in "+-"]
    assert lines == [
        "-description: Balances requests between 2 Gemini models",
        "+description: Spreads requests between 2 Gemini models",
    ]


NAMED: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "by the short name": (("chat",), {"chat"}),
    "by the whole name": (("virtual-policy/anygem",), {"anygem"}),
    "several": (("chat", "anygem"), {"anygem", "chat"}),
    "a glob": (("any*",), {"anygem"}),
}


@pytest.mark.parametrize("case", NAMED)
def test_names_select(case: str, applied: Project, policyctl: Policyctl) -> None:
    names, expected = NAMED[case]
    applied.write("anygem.yaml", OTHER)
    applied.policy("chat", "virtual-model/b/two", "virtual-model/a/one")
    found = {line.rpartition("/")[2] for line in policyctl("diff", *names).out.splitlines() if line.startswith("--- ")}
    assert found == expected


def test_a_name_that_matches_nothing_is_an_error(applied: Project, policyctl: Policyctl) -> None:
    expected = "error: chta matches no policy, neither in the files nor on the remote (did you mean chat?)\n"
    assert policyctl("diff", "chta") == (64, "", expected)


def test_a_live_policy_that_no_file_may_be_is_shown_all_the_same(project: Project, policyctl: Policyctl) -> None:
    """A weight above 1, a missing strategy, and text that YAML cannot hold; nothing in it controls the terminal."""
    names = ("heavy", "without", "broken")
    bad = {"targets": [{"model_name": "virtual-model/x/a", "weight": 250}]}
    put(
        [
            row("heavy", id="1", policy={"strategy": {"mode": "loadbalance"}, **bad}),
            row("without", id="2", policy=bad),
            row("broken", id="3", description="half \ud800 of a pair"),
            row("loud", id="4", description="a\n::error::b\x1b[2J\n"),
        ]
    )
    for name in (*names, "loud"):
        project.policy(name, "virtual-model/x/a")
    ran = policyctl("diff")
    assert ran.code == 0
    assert ran.out.count("--- live/") == 4
    assert "-      weight: 250\n" in ran.out
    assert '-  "description": "half \\ud800 of a pair",\n' in ran.out
    assert "\x1b" not in ran.out
    assert "-::error" not in ran.out


def test_secrets_of_live_models_never_appear(project: Project, policyctl: Policyctl) -> None:
    """Known and unknown settings, headers and URLs, whether the model changes or goes."""
    project.write("policyctl.yaml", "manage: [policies, models]\n")
    document = {"spec_version": "v1", "kind": "model", "name": "openai/a", "tags": ["new"]}
    project.write("models/a.json", json.dumps(document))
    commit(project.folder)
    hidden = {
        "provider_config": {
            "api_key": SECRET,
            "custom_host": f"https://me:{SECRET}@host.example/v1",
            "forward_headers": [f"X-Key: {SECRET}"],
            "anything": SECRET,
        },
        "config": {"nested": {"access_token": SECRET}, "temperature": 0.2},
    }
    put_models([{"id": str(n), "name": f"virtual-model/openai/{name}", **hidden} for n, name in enumerate("ab")])
    ran = policyctl("diff")
    assert ran.code == 0
    assert "--- live/virtual-model/openai/a\n+++ policies/models/a.json\n" in ran.out
    assert "--- live/virtual-model/openai/b\n+++ /dev/null\n" in ran.out
    assert "+tags: [new]\n" in ran.out
    assert "-  api_key: (set)\n" in ran.out
    assert "hunter2" not in ran.out + ran.err


def test_lines_are_coloured_where_that_is_wanted(applied: Project, policyctl: Policyctl) -> None:
    applied.write("anygem.yaml", OTHER)
    lines = policyctl("diff", "--color", "always").out.splitlines()
    assert "\x1b[31m-      weight: 0.75\x1b[0m" in lines
    assert "\x1b[32m+      weight: 0.6\x1b[0m" in lines
    assert "\x1b[1m--- live/virtual-policy/anygem\x1b[0m" in lines
    assert "\x1b" not in policyctl("diff").out


def test_a_revision_can_be_compared(applied: Project, policyctl: Policyctl) -> None:
    applied.write("anygem.yaml", OTHER)
    assert policyctl("diff", "--remote", "git:HEAD").out == CHANGED


def test_rows_that_were_not_compared_are_not_passed_over(applied: Project, policyctl: Policyctl) -> None:
    put([row("anygem", id="1"), row("anygem", id="2", canonical="anygem")], applied.folder / "twins.db")
    ran = policyctl("diff", "--remote", "sqlite:///twins.db")
    assert (ran.code, "rows on the remote block virtual-policy/anygem" in ran.err) == (5, True)


def test_what_plan_refuses_is_shown_and_noted(applied: Project, policyctl: Policyctl) -> None:
    applied.write("policyctl.yaml", "limits: {max_removes: 0}\n")
    (applied.policies / "chat.yaml").unlink()
    commit(applied.folder)
    ran = policyctl("diff")
    assert (ran.code, "+++ /dev/null" in ran.out) == (0, True)
    assert ran.err == "note  plan refuses this by 1 safety rule; policyctl plan shows why\n"
