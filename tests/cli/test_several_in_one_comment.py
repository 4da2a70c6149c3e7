"""The plans of several environments in one comment: one digest approves all of them or nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from policyctl.load.environment import EnvironmentFilter
from policyctl.policy.document import digest
from tests.cli.forges import Forge
from tests.cli.pull_requests import Work, hash_in
from tests.conftest import Policyctl, Project
from tests.sqlite_rows import live_documents

CONFIG = "environments: {dev: {vars: {share: 0.5}}, prod: {vars: {share: 0.1}}}\nscope: ['*']\n"
SPLIT = """
kind: model
spec_version: v1
name: NAME
policy:
  strategy: {mode: loadbalance}
  targets:
    - {model_name: virtual-model/google/flash, weight: "{{ share }}"}
    - {model_name: virtual-model/google/pro, weight: "{{ 1 - share }}"}
"""


@pytest.fixture
def both(project: Project, forge: Forge, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch) -> Work:
    """A pull request for dev and prod, on which one policy is applied."""
    monkeypatch.setenv("POLICYCTL_ENV", "*")
    work = Work(project, forge, policyctl, monkeypatch)
    project.write("policyctl.yaml", CONFIG)
    work.add("base")
    work.settle()
    assert policyctl("apply", "--yes").code == 0
    return work


def live(name: str) -> set[str]:
    return {one.removeprefix("virtual-policy/") for one in live_documents(Path(f".policyctl/{name}.db"))}


def everywhere(*names: str) -> bool:
    return all(live(one) == {"base", *names} for one in ("dev", "prod"))


def approves(body: str) -> str:
    return body.rstrip().rpartition("<!-- policyctl ")[2].removesuffix(" -->")


def test_one_comment_shows_all_and_its_merge_is_applied_everywhere_once(both: Work) -> None:
    both.project.write("split.yaml", SPLIT.replace("NAME", "split"))
    assert both.comment().code == 0
    both.add("web")
    assert both.comment().code == 0
    (body,) = both.forge.bodies
    assert body.startswith("<!-- policyctl:plan environment=%2A directory=policies -->\n<!-- policyctl:shows sha256:")
    assert "### policyctl: 2 to add in `dev`, 2 to add in `prod`\n" in body
    assert "| `split` `targets[google/flash].weight` | `0.5` | `0.1` |\n" in body
    assert (
        body.count("<b>add</b> <code>web</code> in <code>policies/web.yaml</code> · <code>dev</code>, <code>prod</code>") == 1
    )
    assert body.count("<b>add</b> <code>split</code>") == 2, "they differ"
    both.forge.merge(5)
    assert both.apply().code == 0
    assert everywhere("split", "web")
    assert both.on_main("plan", "--detailed-exitcode").code == 0
    assert both.on_main("ci", "applied").code == 0
    assert "Applied by [this run](" in both.forge.bodies[0]
    both.take_away("web")
    ran = both.apply()
    assert (ran.code, everywhere("split", "web")) == (4, True), "an approval is used once"


def test_a_page_and_plans_that_differ_are_refused_and_the_old_plan_goes(both: Work) -> None:
    both.add("a")
    assert both.comment().code == 0
    page = Path("plan.md").read_text("utf-8")
    both.add("b")
    both.plan()
    Path("plan.md").write_text(page, "utf-8")
    ran = both.policyctl("ci", "comment", "plan.md", "--plan", "plan.json")
    assert ran.code == 1
    assert re.search(r"plan\.md shows sha256:\w+, and plan\.json is sha256:\w+; write both in one run", ran.err)
    assert "The newest commit has no plan" in both.forge.bodies[0]


@pytest.mark.parametrize("edit", ["digest", "checksum", "status", "prints"])
def test_plans_that_were_edited_are_refused(edit: str, both: Work) -> None:
    """Whoever can write a checksum can still not change what the digest covers."""
    both.add("a")
    both.plan()
    data = json.loads(Path("plan.json").read_text("utf-8"))
    dev = data["environments"]["dev"]
    if edit == "checksum":
        data["checksum"] = digest({})
    elif edit == "prints":
        dev["prints"] = ["0" * 40]  # without a new checksum
    else:
        dev.update({"digest": digest({})} if edit == "digest" else {"status": "unheard of"})
        data["checksum"] = digest({key: value for key, value in data.items() if key != "checksum"})
    Path("plan.json").write_text(json.dumps(data), "utf-8")
    ran = both.policyctl("ci", "comment", "plan.md", "--plan", "plan.json")
    assert ran.code == 1
    assert [one.splitlines()[1] for one in both.forge.bodies] == ["The newest commit has no plan; the run shows why."]
    assert "plan.json was changed after it was made; make it again with plan --out\n" in ran.err


def test_the_digests_of_several_are_not_a_plan_to_apply(both: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    both.add("a")
    both.plan()
    monkeypatch.delenv("POLICYCTL_ENV")
    ran = both.policyctl("apply", "plan.json", "--yes")
    assert (ran.code, everywhere()) == (1, True)
    why = "plan.json has the digests of several environments, not their plans; apply these with --plans plan.json and"
    assert why in ran.err
    assert both.policyctl("apply", "--all", "--plans", "plan.json", "--yes").code == 0
    assert everywhere("a")


def test_where_one_environment_fails_nothing_is_approved_and_the_comment_says_so(both: Work) -> None:
    both.add("a")
    both.project.write("policyctl.yaml", CONFIG + "guards: {deny_providers: [evil]}\n")
    both.settle()
    database = Path(".policyctl/prod.db")
    held = database.read_bytes()
    database.write_text("this is not a database, and it is longer than a header of one would be " * 9, "utf-8")
    both.add("b")
    assert both.comment().code == 0
    (body,) = both.forge.bodies
    assert "### policyctl: 1 of 2 environments failed; 2 to add in `dev`\n" in body
    assert "> Merging this approves no plan, because not every environment has one that may be applied:\n>\n> - `prod`:" in body
    assert approves(body) == "none"
    database.write_bytes(held)
    both.forge.merge(5)
    assert both.apply().code == 4
    assert everywhere()


def test_a_plan_that_a_rule_refuses_in_one_environment_approves_nothing_in_the_other(both: Work) -> None:
    prod = "prod: {vars: {share: 0.1}, protect: [virtual-policy/base]}"
    both.project.write("policyctl.yaml", CONFIG.replace("prod: {vars: {share: 0.1}}", prod))
    both.settle()
    both.take_away("base")
    both.add("other")
    assert both.comment().code == 0
    body = both.forge.bodies[0]
    assert "> - `prod`: refused by 1 safety rule\n" in body
    assert "> Refused by the safety rules:\n>\n> - `prod`: `virtual-policy/base` is protected" in body
    assert approves(body) == "none"
    both.forge.merge(5)
    assert both.apply().code == 4
    assert everywhere()


def test_several_merges_are_applied_together_if_they_add_up_in_every_environment(both: Work) -> None:
    for number, name, other in ((5, "web", "api"), (6, "api", "web")):
        both.take_away(*(one for one in (other,) if (both.project.policies / f"{one}.yaml").exists()))
        both.add(name)
        assert both.comment(number).code == 0
    both.add("web")
    both.forge.merge(5)
    both.forge.merge(6)
    ran = both.apply()
    assert "approved by 2 pull requests: " in ran.err
    assert (ran.code, everywhere("api", "web")) == (0, True)


@pytest.mark.parametrize("begun", [True, False])
def test_what_is_left_in_some_environments_is_approved_only_for_the_run_that_began_with_all(begun: bool, both: Work) -> None:
    """A push may have taken the change back in the others, and no page showed it without them."""
    both.project.write("split.yaml", SPLIT.replace("NAME", "split"))
    both.add("web")
    assert both.comment().code == 0
    both.forge.merge(5)
    if begun:
        assert both.on_main("ci", "approved").code == 0  # without a file it is noted now
    assert both.policyctl("apply", "--env", "dev", "--yes").code == 0
    ran = both.apply()
    assert (ran.code, live("prod")) == ((0, {"base", "split", "web"}) if begun else (4, {"base"}))
    assert ("approved by 1 pull request: " in ran.err) is begun
    assert both.apply().code == ran.code, "nothing is left"


def test_a_part_of_what_was_approved_in_an_environment_is_not_approved_alone(both: Work) -> None:
    both.add("api", "web")
    assert both.comment().code == 0
    both.forge.merge(5)
    assert both.policyctl("apply", "--env", "dev", "--only", "web", "--yes").code == 0
    ran = both.apply()
    assert (ran.code, live("prod"), live("dev")) == (4, {"base"}, {"base", "web"})


def test_what_no_merge_showed_in_one_environment_is_named_with_it(both: Work) -> None:
    for number, name, other in ((5, "web", "api"), (6, "api", "web")):
        both.take_away(*(one for one in (other,) if (both.project.policies / f"{one}.yaml").exists()))
        both.add(name)
        assert both.comment(number).code == 0
    both.add("web")
    both.forge.merge(5)
    both.forge.merge(6)
    both.project.write("more.yaml", SPLIT.replace("NAME", "more"))
    ran = both.apply()
    assert (ran.code, everywhere()) == (4, True)
    assert "no approved plan showed the change of virtual-policy/more in dev, virtual-policy/more in prod" in ran.err


def test_a_comment_of_one_environment_or_of_other_ones_approves_nothing_for_all(
    both: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    both.add("a")
    for chosen in ("prod", "p*", "prod dev"):
        monkeypatch.setenv("POLICYCTL_ENV", chosen)
        assert both.comment().code == 0
    assert len(both.forge.bodies) == 3, "each selection has a comment of its own"
    both.forge.merge(5)
    monkeypatch.setenv("POLICYCTL_ENV", "*")
    assert both.on_main("ci", "approved").out == "none\n"
    monkeypatch.setenv("POLICYCTL_ENV", "dev prod")
    assert both.on_main("ci", "approved").out.startswith("sha256:"), "in any order"


@pytest.mark.slow
def test_content_that_is_cut_approves_nothing(both: Work) -> None:
    both.add(*(f"p-{number}" for number in range(400)))
    assert both.comment().code == 0
    assert "Of 400 changes " in both.forge.bodies[0]
    assert approves(both.forge.bodies[0]) == "none"


def test_a_way_in_that_no_plan_showed_is_not_used_for_any_of_them(both: Work) -> None:
    elsewhere = 'remote: "https://gateway.example", auth: {type: bearer, token: "env:CANARY"}'
    both.project.write("policyctl.yaml", CONFIG.replace("prod: {", f"prod: {{{elsewhere}, "))
    ran = both.on_main("ci", "approved")
    assert (ran.code, ran.out) == (4, "")
    assert "so nothing logs in with them" in ran.err


def test_an_approver_may_let_through_what_only_one_environment_has(both: Work) -> None:
    prod = "prod: {vars: {share: 0.1}, protect: [virtual-policy/old]}"
    both.project.write("policyctl.yaml", CONFIG.replace("prod: {vars: {share: 0.1}}", prod))
    assert both.comment(4).code == 0
    both.forge.merge(4)
    both.add("old")
    both.policyctl("apply", "--env", "prod", "--yes")
    both.take_away("old")
    both.settle()
    both.add("new")
    both.plan()
    assert "`prod`: refused by 1 safety rule" in Path("plan.md").read_text("utf-8")
    allowed = ("--allow-remove", "old", "--reason", "nothing uses it")
    assert both.comment(5, *allowed).code == 0
    assert "> - `--allow-remove old`: nothing uses it\n" in both.forge.bodies[0]
    both.forge.merge(5)
    assert both.apply().code == 0
    assert everywhere("new")
    ran = both.policyctl("plan", "--allow-remove", "odl")
    assert (ran.code, ran.out) == (64, "")
    assert "--allow-remove odl matches no live policy" in ran.err


def test_a_person_approves_all_by_hand_with_overrides(both: Work) -> None:
    both.project.write("policyctl.yaml", CONFIG + "limits: {max_removes: 0}\n")
    both.take_away("base")
    both.add("new")
    both.settle()
    refused = both.apply()
    assert refused.code == 4
    result = json.loads(both.on_main("plan", "--format", "json", "--max-removes", "1").out)
    given = result["digest"] + hash_in(refused)
    approved = both.on_main("ci", "approved", "--digest", given, "--out", "overrides.json")
    assert approved.out.strip() == result["digest"]
    options = ("--expect-digest", result["digest"], "--max-removes", "1")
    assert both.on_main("apply", "--yes", *options).code == 0
    assert live("dev") == live("prod") == {"new"}


def test_one_issue_is_open_while_any_environment_does_not_match(both: Work) -> None:
    both.policyctl("policy", "remove", "--name", "base", "--env", "prod", "--yes")

    def drift() -> list[tuple[str, str]]:
        both.commit()
        both.policyctl("plan", "--out", "plan.json", "--report", "markdown=plan.md")
        assert both.on_main("ci", "drift", "plan.md", "--plan", "plan.json").code == 0
        return both.forge.issue_texts

    ((state, text),) = drift()
    assert state in ("open", "opened")
    assert "1 to add in `prod`" in text
    assert "policyctl: 1 environment does not match the files" in both.forge.issues[0]["title"]
    both.project.write("policyctl.yaml", CONFIG.replace("0.1}", "0.1}, suspend: {reason: x}"))
    assert [state for state, _ in drift()] == [state], "what does not match may be where nothing was compared"
    both.project.write("policyctl.yaml", CONFIG)
    assert both.policyctl("apply", "--yes").code == 0
    assert [state for state, _ in drift()] == ["closed"]


def test_what_chooses_other_environments_in_each_run_is_not_approved(both: Work) -> None:
    for command in ("approved", "applied"):
        ran = both.on_main("ci", command, "--affected", "HEAD")
        assert ran.code == 64
        assert "--affected means other environments in each run, so it cannot be approved; leave it out" in ran.err


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        (EnvironmentFilter(), "*"),
        (EnvironmentFilter(("*",)), "*"),
        (EnvironmentFilter(("prod", "dev")), "dev prod"),
        (EnvironmentFilter(("prod-*",), ("tier=gold",), ("prod-x",)), "prod-* -l tier=gold !prod-x"),
        (EnvironmentFilter(affected="main"), "affected"),
    ],
)
def test_a_selection_has_one_text_whatever_the_order(chosen: EnvironmentFilter, text: str) -> None:
    assert chosen.text == text


def test_one_name_of_a_list_is_not_the_comment_of_that_environment_alone(
    project: Project, policyctl: Policyctl, tmp_path: Path
) -> None:
    """Which has another digest: each would replace the other one."""
    project.write("policyctl.yaml", "environments: {one: {remote: local}, two: {remote: 'sqlite:///two.db'}}\n")
    project.policy("chat")
    names = tmp_path / "names"
    names.write_text("one\n", "utf-8")
    markers = []
    for option, value in (("--env", "one"), ("--env-from", names)):
        assert policyctl("plan", option, value, "--report", "markdown=page.md").code == 0
        markers.append(Path("page.md").read_text("utf-8").partition("\n")[0])
    assert markers == [
        "<!-- policyctl:plan environment=one directory=policies -->",
        "<!-- policyctl:plan environment=only%20one directory=policies -->",
    ]
    assert {EnvironmentFilter((one,)).text for one in ("*", "t-*")} == {"*", "t-*"}


def test_a_long_selection_is_named_by_its_hash() -> None:
    names = tuple(f"t-{number}" for number in range(100))
    text = EnvironmentFilter(names).text
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", text)
    assert text != EnvironmentFilter(names[1:]).text
