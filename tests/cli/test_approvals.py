"""What a merge approves: shown in one page, used once, at the head of the branch; and what people let a plan override."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from policyctl.cli.selection import commands_in
from tests.cli.forges import COMMIT, OPENER, forge_of
from tests.cli.pull_requests import Work
from tests.conftest import Policyctl, Project
from tests.git_repo import checked_out, commit, git
from tests.sqlite_rows import live_documents
from tests.workflow_runner import proposed

RIGHTS: dict[str, tuple[str | int, str | int]] = {"github": ("write", "read"), "gitlab": (30, 20)}  # may approve; may not


def two_pull_requests(work: Work) -> None:
    """Each adds a policy, and was planned without the other; both are merged."""
    work.add("web")
    assert work.comment(5).code == 0
    work.take_away("web")
    work.add("api")
    assert work.comment(6).code == 0
    work.add("web")
    work.forge.merge(5)
    work.forge.merge(6)


# One page, one plan


def test_a_page_and_a_plan_that_differ_are_refused_and_the_old_plan_goes(work: Work) -> None:
    work.add("a")
    assert work.comment().code == 0
    page = Path("plan.md").read_text("utf-8")
    work.add("b")
    work.plan()
    Path("plan.md").write_text(page, "utf-8")
    ran = work.policyctl("ci", "comment", "plan.md", "--plan", "plan.json")
    assert ran.code == 1
    assert "plan.md shows sha256:" in ran.err
    assert ", and plan.json is sha256:" in ran.err
    assert "The newest commit has no plan" in work.forge.bodies[0]


@pytest.mark.slow
def test_the_merge_of_a_page_that_lacks_changes_approves_nothing_and_they_are_applied_by_hand(work: Work) -> None:
    names = [f"p-{number}" for number in range(400)]
    work.add(*names)
    assert work.comment().code == 0
    assert "Of 400 changes " in work.forge.bodies[0]
    assert work.forge.bodies[0].endswith("<!-- policyctl none -->\n")
    work.forge.merge(5)
    ran = work.apply()
    assert (ran.code, work.live & set(names)) == (4, set())
    assert "approved no plan: it was refused, its page did not show all of it" in ran.err
    digest = json.loads(Path("plan.json").read_text("utf-8"))["digest"]
    by_hand = work.on_main("ci", "approved", "--digest", digest).out.strip()
    assert work.on_main("apply", "--yes", "--expect-digest", by_hand).code == 0
    assert work.live >= set(names)


def test_a_page_of_another_directory_is_refused(work: Work) -> None:
    work.add("a")
    work.plan()
    ran = work.policyctl("ci", "comment", "plan.md", "--plan", "plan.json", "--dir", "other")
    assert (ran.code, work.forge.bodies) == (1, [])
    assert ran.err.startswith("error: plan.md is not for environment local and directory other; use the same --dir")


@pytest.mark.parametrize(
    ("lacks", "approves"),
    [
        ([], True),
        (["notes.md", "other/q.yaml"], True),
        (["notes.md", "policies/q.yaml"], False),
        (["policyctl.yaml"], False),
        (None, False),
    ],
)
def test_a_plan_of_a_checkout_that_lacks_what_main_has_approves_nothing(
    lacks: list[str] | None, approves: bool, work: Work
) -> None:
    """It shows what was applied since as taken back: where a run is started again, or the branch is behind."""
    work.add("a")
    work.forge.newer = lacks
    assert work.comment().code == 0
    assert ("main has moved on since the branch left it" in work.forge.bodies[0]) != approves
    assert work.forge.bodies[0].endswith("<!-- policyctl none -->\n") != approves


@pytest.mark.parametrize("brought", ["plan.md", "plan.json"])
def test_a_plan_that_the_branch_brought_is_not_shown(brought: str, work: Work) -> None:
    work.add("a")
    work.plan()
    kept = {name: Path(name).read_bytes() for name in ("plan.md", "plan.json")}
    for name in kept.keys() - {brought}:
        Path(name).unlink()
    commit(work.project.folder)
    for name, content in kept.items():
        Path(name).write_bytes(content)
    ran = work.policyctl("ci", "comment", "plan.md", "--plan", "plan.json")
    assert (ran.code, work.forge.bodies) == (1, [])
    assert f"error: {brought} is in the checked-out commit, so it may not be what plan wrote" in ran.err


@pytest.mark.parametrize("option", ["--out", "--report"])
@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_link_in_the_repository_leads_no_plan_out_of_it(
    option: str, kind: str, project: Project, policyctl: Policyctl, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "plan").write_text("precious", "utf-8")
    project.policy("a")
    name = "plan" if kind == "link" else "folder/plan"
    Path(name.partition("/")[0]).symlink_to(outside / "plan" if kind == "link" else outside)
    commit(project.folder)
    ran = policyctl("plan", option, name if option == "--out" else f"text={name}")
    assert ran.code == 1
    assert f"error: {name} cannot be written: a link leads out of the repository {project.folder}; remove it" in ran.err
    assert (outside / "plan").read_text("utf-8") == "precious"


NOT_OURS = {
    "the beginning of a marker": "<!-- policyctl:plan environment=local directory=policies",
    "a marker with more in it": "<!-- policyctl:plan environment=local directory=other --> x directory=policies -->",
    "another environment": "<!-- policyctl:plan environment=prod directory=policies -->",
    "another directory": "<!-- policyctl:plan environment=local directory=other/policies -->",
    "no marker": "### policyctl: 1 to add in `local`",
}


@pytest.mark.parametrize("case", NOT_OURS)
def test_a_comment_without_a_whole_marker_of_this_directory_approves_nothing(case: str, work: Work) -> None:
    """Another workflow of the repository may write as the same user, and repeat what people say."""
    work.forge.write(f"{NOT_OURS[case]}\n\nx\n\n<!-- policyctl sha256:{'f' * 64} -->")
    work.forge.merge(5)
    assert work.on_main("ci", "approved").out == "none\n"
    work.add("a")
    before = work.forge.bodies[0]
    work.forge.merges.clear()
    assert work.comment().code == 0
    assert (work.forge.bodies[0], len(work.forge.bodies)) == (before, 2)


# What approves nothing


def test_a_plan_that_was_refused_approves_nothing(work: Work) -> None:
    work.project.write("policyctl.yaml", "guards: {deny_providers: [evil]}\n")
    work.settle()
    work.project.policy("chat", "virtual-model/evil/m")
    assert work.comment().code == 0
    assert "Merging approves no plan." in work.forge.bodies[0]
    work.forge.merge(5)
    work.project.write("policyctl.yaml", "prune: true\n")  # the merge loosens what refused it
    ran = work.apply()
    assert (ran.code, work.live) == (4, {"base"})
    assert "approved no plan: it was refused" in ran.err


def test_a_scenario_test_that_fails_is_in_the_plan_which_approves_nothing(work: Work) -> None:
    work.add("a")
    work.project.write(
        "a.test.yaml",
        "spec_version: v1\nkind: policy_test\npolicy: a\ntests: [{name: flaky, given: {}, expect: {status: 500}}]\n",
    )
    ran = work.plan("--test")
    assert (ran.code, ran.err.splitlines()[-1]) == (1, "error: 1 scenario test failed; policyctl test shows how")
    assert "Scenario tests fail:\n    policies/a.test.yaml: flaky: status: expected 500, got 200\n" in ran.out
    assert work.comment(5, "--test").code == 0
    assert "in `local`: 1 scenario test fails" in work.forge.bodies[0]
    assert work.forge.bodies[0].endswith("<!-- policyctl none -->\n")
    assert work.plan().code == 0, "without --test they are not run"


def test_the_comment_of_a_merged_pull_request_stays_as_it_was_approved(work: Work) -> None:
    """A run that is started again plans against what is live today."""
    work.add("a")
    assert work.comment().code == 0
    approved = work.forge.bodies[0]
    work.forge.merge(5)
    work.add("b")
    ran = work.comment()
    assert (ran.code, work.forge.bodies) == (0, [approved])
    assert "is already merged" in ran.err


# An approval belongs to a merge


def test_an_approval_is_used_once(work: Work) -> None:
    """What was rolled back since does not come back with a run of then, nor with the next merge."""
    work.add("risky")
    assert work.comment().code == 0
    work.forge.merge(5)
    assert work.apply().code == 0
    assert work.on_main("ci", "applied").code == 0
    assert "Applied by [this run](" in work.forge.bodies[0]
    assert work.live == {"base", "risky"}
    assert work.policyctl("policy", "remove", "--name", "risky", "--yes").code == 0
    again = work.apply()
    assert (again.code, work.live) == (4, {"base"})
    assert "no merged pull request is waiting to be applied" in again.err


def test_main_that_has_moved_on_approves_nothing_for_an_older_commit(work: Work) -> None:
    work.add("risky")
    assert work.comment().code == 0
    work.forge.merge(5)
    work.forge.head = "d" * 40
    ran = work.apply()
    assert (ran.code, work.live) == (4, {"base"})
    assert f"main has moved on to {'d' * 12}, and this run is for {work.forge.commit[:12]}" in ran.err
    digest = json.loads(Path("plan.json").read_text("utf-8"))["digest"]
    assert work.on_main("ci", "approved", "--digest", digest).code == 4, (
        "also for a person: another one may start that run again"
    )


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        (["docs/a.md", "policies.md"], True),
        (["policies/a.yaml"], False),
        (["policyctl.yaml"], False),
        (["rows.csv"], False),
        (["ca.pem"], False),
        ([f"{number}.md" for number in range(300)], False),  # there may be more
    ],
)
def test_a_later_commit_that_changes_none_of_the_policies_changes_nothing(
    changed: list[str], counts: bool, project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that waited for a person, in a repository with much else in it. GitLab has a pipeline for each commit."""
    with forge_of("github") as forge:
        for name, value in forge.environ.items():
            monkeypatch.setenv(name, value)
        work = Work(project, forge, policyctl, monkeypatch)
        fleet = "fleet: [{from: rows.csv, name: '{{ n }}', defaults: {ca_file: ca.pem}}]\n"
        Path("policyctl.yaml").write_text(f"{fleet}environments: {{local: {{}}}}\ndefault: local\n", "utf-8")
        Path("rows.csv").write_text("n\nother\n", "utf-8")
        work.settle()
        work.add("a")
        assert work.comment().code == 0
        forge.merge(5)
        forge.head, forge.changed = "d" * 40, {forge.commit: changed}
        assert (work.apply().code == 0) == counts


def test_where_the_head_cannot_be_known_nothing_is_approved(work: Work) -> None:
    work.add("a")
    assert work.comment().code == 0
    work.forge.merge(5)
    work.forge.head = None
    ran = work.apply()
    assert (ran.code, work.live) == (4, {"base"})
    assert "cannot read whether main is still at this commit" in ran.err
    digest = json.loads(Path("plan.json").read_text("utf-8"))["digest"]
    by_hand = work.on_main("ci", "approved", "--digest", digest)
    assert (by_hand.code, by_hand.out) == (4, ""), "the run may be an old one that is started again"


def test_a_run_that_is_not_for_a_branch_has_no_approval(work: Work) -> None:
    work.add("a")
    assert work.comment().code == 0
    work.forge.merge(5)
    ran = work.policyctl("ci", "approved")
    assert (ran.out, "this run is not for a branch" in ran.err) == ("none\n", True)


# Several pull requests, one run


def test_the_sum_of_what_was_approved_is_applied(work: Work) -> None:
    two_pull_requests(work)
    ran = work.apply()
    assert (ran.code, work.live) == (0, {"base", "web", "api"})
    mark = "#" if work.forge.kind == "github" else "!"
    assert f"approved by 2 pull requests: {mark}5, {mark}6\n" in ran.err
    assert (
        work.on_main("ci", "applied").err == f"noted as applied: pull request {mark}5\nnoted as applied: pull request {mark}6\n"
    )
    assert work.on_main("ci", "approved").out == "none\n"


def test_more_than_the_sum_is_not_applied_and_each_pull_request_is_named(work: Work) -> None:
    two_pull_requests(work)
    work.add("pushed")
    ran = work.apply()
    assert (ran.code, work.live) == (4, {"base"})
    mark = "#" if work.forge.kind == "github" else "!"
    assert (
        f"merged and not applied yet: pull request {mark}5 (1 change), pull request {mark}6 (1 change); "
        "no approved plan showed the change of virtual-policy/pushed; "
        "read the plan, then start this by hand with digest sha256:"
    ) in ran.err


def test_less_than_the_sum_is_not_applied(work: Work) -> None:
    """A pull request's plan is approved as a whole, or what is left of it is nothing."""
    work.add("web", "more")
    assert work.comment(5).code == 0
    work.add("api")
    assert work.comment(6).code == 0
    work.take_away("more")
    work.forge.merge(5)
    work.forge.merge(6)
    ran = work.apply()
    assert (ran.code, work.live) == (4, {"base"})
    assert "the plan is not the sum of theirs" in ran.err


def test_what_one_of_them_left_done_already_does_not_hold_up_the_other(work: Work) -> None:
    """The apply of the first one was carried out, and its note was not."""
    two_pull_requests(work)
    assert work.policyctl("apply", "--yes", "--exclude", "api").code == 0
    ran = work.apply()
    assert (ran.code, work.live) == (0, {"base", "web", "api"})
    assert f"approved by pull request {'#' if work.forge.kind == 'github' else '!'}6\n" in ran.err


def test_one_that_approved_nothing_is_named(work: Work) -> None:
    two_pull_requests(work)
    work.forge.comments[5][0]["body"] = work.forge.bodies[0].rpartition("<!-- policyctl sha256")[0] + "<!-- policyctl none -->"
    ran = work.apply()
    assert (ran.code, work.live) == (4, {"base"})
    assert "(approved no plan)" in ran.err


def test_where_nothing_is_left_to_do_nothing_needs_to_be_approved(work: Work) -> None:
    two_pull_requests(work)
    assert work.policyctl("apply", "--yes").code == 0
    assert work.apply().code == 0


def test_a_merge_queue_has_no_comment_and_that_is_not_an_error(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    work.add("a")
    work.plan()
    monkeypatch.setenv("GITHUB_REF", f"refs/heads/gh-readonly-queue/main/pr-5-{COMMIT}")
    monkeypatch.setenv("CI_MERGE_REQUEST_EVENT_TYPE", "merge_train")
    ran = work.policyctl("ci", "comment", "plan.md", "--plan", "plan.json")
    assert (ran.code, work.forge.bodies) == (0, [])
    assert "no pull request to comment on: this run is for a merge queue" in ran.err


# What people let a plan override

ALLOW = "fine with me\n\n/policyctl allow --max-removes 12 --allow-guard max_calls=chat because the old models are gone\n"


def overrides(work: Work) -> list[dict[str, str]]:
    ran = work.policyctl("ci", "overrides", "--out", "overrides.json")
    assert ran.code == 0
    found: list[dict[str, str]] = json.loads(Path("overrides.json").read_text("utf-8"))["overrides"]
    return found


def test_what_a_person_allows_who_may_approve_is_overridden(work: Work) -> None:
    work.forge.rights["ana"] = RIGHTS[work.forge.kind][0]
    work.forge.write(ALLOW, "ana")
    why = {"reason": "the old models are gone", "by": "ana"}
    assert overrides(work) == [
        {"option": "--max-removes", "value": "12", **why},
        {"option": "--allow-guard", "value": "max_calls=chat", **why},
    ]


@pytest.mark.parametrize(
    ("comment", "found"),
    [
        ("/policyctl allow a\n/policyctl allow b", ["a", "b"]),
        ("```\n/policyctl allow a\n```\n/policyctl allow b", ["b"]),
        ("  ~~~~ text\n/policyctl allow a\n~~~\n/policyctl allow b", []),
        ("<!-- copy this:\n/policyctl allow a\n-->", []),
        ("<!-- never closed\n/policyctl allow a", []),
        ("> /policyctl allow a\n`/policyctl allow b`", []),
        ("well\n\n/policyctl allow a\r\n/policyctl allow b \r\n\r\nthanks", ["a", "b"]),
        ("> I would say\n/policyctl allow a", []),
        ("so\n/policyctl allow a", []),
        ("[x]: /url 'title\n/policyctl allow a\n'", []),
        ("[x](/url 'title\n/policyctl allow a\n')", []),
        ("``\n/policyctl allow a\n``", []),
        ("<a title='\n\n/policyctl allow a\n\n'>x</a>", []),
        ("<![CDATA[\n\n/policyctl allow a\n\n]]>", []),
        ("<?x\n\n/policyctl allow a\n\n?>", []),
        ("<!X\n\n/policyctl allow a\n\n>", []),
        ("<pre>\n\n/policyctl allow a\n\n</pre>", []),
        ("<details>\n\n/policyctl allow a\n\n</details>", []),
        ("/policyctl allow a\n\n<!-- and\n\n/policyctl allow b\n\n-->", ["a"]),
        ("/policyctl allow a <b>", []),
        ("```\nx\n``` x\n\n/policyctl allow a", []),
        ("````\n```\n\n/policyctl allow a", []),
        ("```\nx\n~~~\n\n/policyctl allow a", []),
        ("- x\n\n      /policyctl allow a", []),
        ("/policyctl allow a\n===", []),
        ("when 2 < 3\n\n/policyctl allow a", ["a"]),
    ],
)
def test_what_is_quoted_or_not_seen_allows_nothing(comment: str, found: list[str]) -> None:
    assert commands_in(comment) == found


def test_a_command_that_does_not_count_is_reported(work: Work) -> None:
    work.forge.rights["ana"] = RIGHTS[work.forge.kind][0]
    work.forge.write("fine\n/policyctl allow --max-removes 1 because it is not used", "ana")
    ran = work.policyctl("ci", "overrides", "--out", "overrides.json")
    assert (ran.code, json.loads(Path("overrides.json").read_text("utf-8"))["overrides"]) == (0, [])
    assert "what ana writes of /policyctl allow does not count: such a line needs a paragraph of its own" in ran.err


@pytest.mark.parametrize("value", ["nan", "NaN", "inf", "-inf", "-1", "1e400"])
@pytest.mark.parametrize(
    "command", [("plan", "--max-change-percent"), ("plan", "--partial"), ("apply", "--yes", "--lock-timeout")]
)
def test_a_number_that_nothing_is_more_than_is_no_limit(
    command: tuple[str, ...], value: str, project: Project, policyctl: Policyctl
) -> None:
    project.policy("a")
    ran = policyctl(*command, value)
    assert (ran.code, ran.out, ran.err.count("\n")) == (64, "", 1)
    assert f"invalid value for '{command[-1]}'" in ran.err


def test_names_that_end_like_numbers_are_overridden_as_they_are_written(work: Work) -> None:
    work.forge.rights["ana"] = RIGHTS[work.forge.kind][0]
    work.forge.write(
        "/policyctl allow --allow-remove v1.0 --allow-guard max_calls=gpt-4.0 --max-change-percent 12.0 because x", "ana"
    )
    assert sorted(one["value"] for one in overrides(work)) == ["12", "max_calls=gpt-4.0", "v1.0"]


def test_a_reason_begins_after_the_first_because_that_is_not_in_quotes(work: Work) -> None:
    work.forge.rights["ana"] = RIGHTS[work.forge.kind][0]
    work.forge.write("/policyctl allow --allow-guard 'max_calls=x because y' because 'it is' because z", "ana")
    assert [(one["value"], one["reason"]) for one in overrides(work)] == [("max_calls=x because y", "'it is' because z")]


@pytest.mark.parametrize("who", ["a stranger", "a reader", "the one who opened it", "ourselves"])
def test_what_others_allow_does_not_count(who: str, work: Work) -> None:
    may, may_not = RIGHTS[work.forge.kind]
    work.forge.rights.update({"reader": may_not, OPENER: may})
    name = {"a stranger": "mallory", "a reader": "reader", "the one who opened it": OPENER, "ourselves": None}[who]
    work.forge.write(ALLOW, name)
    assert overrides(work) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("--max-removes 12", "gives no reason; write: OPTIONS because REASON"),
        ("--max-removes twelve because x", "'twelve' is not a valid integer range"),
        ("--max-removes -1 because x", "-1 is not in the range x>=0"),
        ("--max-change-percent nan because x", "nan is not a finite number"),
        ("--allow-guard max_cals because x", "unknown guard max_cals"),
        ("--yes because x", "No such option"),
        ("--remote https://x.example because x", "No such option"),
        ("nothing because x", "unexpected extra argument"),
        ("--max-removes 'a because x", "No closing quotation"),
        (f"--max-removes 12 because {'x' * 301}", "has 301 characters"),
    ],
)
def test_what_is_not_an_override_is_reported_and_overrides_nothing(text: str, said: str, work: Work) -> None:
    work.forge.rights["ana"] = RIGHTS[work.forge.kind][0]
    work.forge.write(f"/policyctl allow {text}", "ana")
    ran = work.policyctl("ci", "overrides", "--out", "overrides.json")
    assert (ran.code, json.loads(Path("overrides.json").read_text("utf-8"))["overrides"]) == (0, [])
    assert "what ana allows does not count: " in ran.err
    assert said in ran.err


@pytest.mark.parametrize("seconds", [1, 3_600])
def test_a_comment_that_was_edited_allows_nothing(seconds: int, work: Work) -> None:
    """People who may write to a repository may edit what others wrote there, also the person who opened the pull request."""
    work.forge.rights["ana"] = RIGHTS[work.forge.kind][0]
    row = work.forge.write("I will look at it tomorrow.", "ana")
    written = datetime.fromisoformat(row["created_at"])
    row |= {"body": ALLOW, "updated_at": (written + timedelta(seconds=seconds)).isoformat()}
    ran = work.policyctl("ci", "overrides", "--out", "overrides.json")
    assert "what ana allows does not count: the comment was edited, maybe by others (on GitLab" in ran.err
    assert overrides(work) == []
    work.forge.write(ALLOW, "ana")
    assert len(overrides(work)) == 2


def test_overrides_come_first_are_approved_with_the_plan_and_used_by_apply(work: Work) -> None:
    work.project.write("policyctl.yaml", "limits: {max_removes: 0}\n")
    work.add("a")
    work.begin()
    assert work.policyctl("apply", "--yes").code == 0
    work.take_away("a")
    assert work.comment().code == 0
    assert "refused by 1 safety rule" in work.forge.bodies[0]
    work.forge.rights["ana"] = RIGHTS[work.forge.kind][0]
    work.forge.write("/policyctl allow --max-removes 1 because it is not used", "ana")
    overrides(work)
    assert work.comment(5, "--overrides", "overrides.json").code == 0
    shown = next(body for body in work.forge.bodies if "policyctl:plan" in body)
    assert shown.index("Overridden for this plan, and approved with it:") < shown.index("### policyctl: ")
    assert "- `--max-removes` 1: it is not used (allowed by ana)" in shown
    assert "allowed by 1 override" in shown.lower()
    assert "rules passed" not in shown.lower()
    work.forge.merge(5)
    work.forge.write("/policyctl allow --max-removes 99 because later", "ana")  # after the merge: it changes nothing
    ran = work.apply("--audit", "audit.jsonl")
    assert (ran.code, work.live) == (0, {"base"})
    noted = [json.loads(line)["overrides"] for line in Path("audit.jsonl").read_text("utf-8").splitlines()]
    assert noted == [[{"option": "--max-removes", "value": "1", "reason": "it is not used", "by": "ana"}]] * 2


def test_the_digest_covers_what_is_overridden_and_not_why(work: Work) -> None:
    work.add("a")
    digests = []
    for more in ((), ("--max-removes", "9"), ("--max-removes", "9", "--reason", "x"), ("--max-removes", "8")):
        work.plan(*more)
        digests.append(json.loads(Path("plan.json").read_text("utf-8"))["digest"])
    assert digests[1] == digests[2]
    assert len(set(digests)) == 3


def test_a_person_who_starts_the_workflow_gives_overrides_beside_the_digest(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest is that of the plan as they read it, or that of the plan with the overrides."""
    monkeypatch.setenv("GITHUB_ACTOR", "ana")
    digests = []
    for more in ((), ("--max-removes", "9")):
        work.plan(*more)
        digests.append(json.loads(Path("plan.json").read_text("utf-8"))["digest"])
    for digest, settled in ((digests[0], digests[1]), (digests[1], digests[1]), ("sha256:x", "sha256:x")):
        by_hand = ("ci", "approved", "--digest", digest, "--out", "overrides.json", "--overrides")
        assert work.on_main(*by_hand, "--max-removes 9 because I say so").out == f"{settled}\n"
    assert json.loads(Path("overrides.json").read_text("utf-8"))["overrides"] == [
        {"option": "--max-removes", "value": "9", "reason": "I say so", "by": "ana"}
    ]
    assert work.on_main(*by_hand, "").code == 0
    assert json.loads(Path("overrides.json").read_text("utf-8"))["overrides"] == []
    ran = work.on_main("ci", "approved", "--overrides", "--max-removes 9 because x")
    assert (ran.code, "give its --digest too" in ran.err) == (64, True)


def test_an_override_is_for_the_commit_that_was_the_newest_when_it_was_given(work: Work) -> None:
    work.forge.rights["ana"] = RIGHTS[work.forge.kind][0]
    work.forge.write("/policyctl allow --max-removes 1 because it is not used", "ana")
    assert [one["value"] for one in overrides(work)] == ["1"]
    work.forge.push()
    ran = work.policyctl("ci", "overrides", "--out", "overrides.json")
    assert (ran.code, json.loads(Path("overrides.json").read_text("utf-8"))["overrides"]) == (0, [])
    said = (
        "what ana allows does not count: '--max-removes 1 because it is not used' was given for an earlier commit; repeat it\n"
    )
    assert said in ran.err
    work.forge.write("/policyctl allow --max-removes 2 because these are not used", "ana")
    assert [one["value"] for one in overrides(work)] == ["2"]


def test_where_it_is_not_known_what_a_comment_is_about_nothing_is_overridden(work: Work) -> None:
    """A run for a commit that is not the newest any more; on GitHub a token that may not read runs."""
    work.forge.rights["ana"] = RIGHTS[work.forge.kind][0]
    work.forge.write("/policyctl allow --max-removes 1 because it is not used", "ana")
    work.forge.newest = None
    ran = work.policyctl("ci", "overrides", "--out", "overrides.json")
    assert (ran.code, json.loads(Path("overrides.json").read_text("utf-8"))["overrides"]) == (0, [])
    said = {"github": "the job needs the permissions actions: read", "gitlab": "not known to be the newest commit"}
    assert said[work.forge.kind] in ran.err


def test_a_run_for_an_older_commit_takes_no_override_that_was_given_since(
    work: Work, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Started again it has its first time, and the comment is about the commit that came later."""
    old = "a" * 40
    for name, item in proposed(tmp_path / "event.json", old, "main").items():
        monkeypatch.setenv(name, item)
    work.forge.rights["ana"] = RIGHTS[work.forge.kind][0]
    work.forge.write("/policyctl allow --max-removes 1 because it is not used", "ana")
    for newest, given in ((old, ["1"]), ("b" * 40, [])):
        work.forge.newest = newest
        assert [one["value"] for one in overrides(work)] == given


def test_an_override_does_not_count_for_a_commit_to_which_the_branch_came_back_since(work: Work) -> None:
    """The first run of that commit, started again, has its first time."""
    work.forge.rights["ana"] = RIGHTS[work.forge.kind][0]
    work.forge.push()
    first = work.forge.created
    work.forge.push()  # another commit, which the comment is about
    work.forge.write("/policyctl allow --max-removes 1 because it is not used", "ana")
    work.forge.push()  # the first one again
    work.forge.created = first
    assert overrides(work) == []
    work.forge.write("/policyctl allow --max-removes 2 because these are not used", "ana")
    assert [one["value"] for one in overrides(work)] == ["2"]


@pytest.mark.parametrize("created", [0, 2])
def test_an_override_counts_once_both_the_commit_and_the_run_are_older(created: int, work: Work) -> None:
    """A run that is not for a push, as for another target branch, has a time of its own."""
    work.forge.rights["ana"] = RIGHTS[work.forge.kind][0]
    work.forge.write("/policyctl allow --max-removes 1 because it is not used", "ana")  # at 1
    work.forge.created = created
    assert [one["value"] for one in overrides(work)] == (["1"] if created == 0 or work.forge.kind == "gitlab" else [])


def test_it_is_asked_once_for_each_person_and_for_few_whether_they_may_approve(work: Work) -> None:
    """Anyone may comment, as often as they like."""
    assert work.forge.server is not None
    work.forge.rights["ana"] = RIGHTS[work.forge.kind][0]
    for who in ("bob", "ana", "bob", "bob", "ana"):
        work.forge.write("/policyctl allow --max-removes 1 because it is not used", who)
    before = len(work.forge.server.seen)
    assert [one["value"] for one in overrides(work)] == ["1"]
    asked = [one for one in work.forge.server.seen[before:] if "/permission" in one.path or "/members/" in one.path]
    assert len(asked) == 2
    for number in range(50):
        work.forge.write("/policyctl allow --max-removes 1 because it is not used", f"person-{number}")
    ran = work.policyctl("ci", "overrides", "--out", "overrides.json")
    assert (ran.code, ran.err.count("does not count: 50 others allow something; delete what is not meant")) == (0, 2)


def test_a_merge_queue_takes_the_overrides_that_the_plan_of_the_pull_request_shows(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.forge.rights["ana"] = RIGHTS[work.forge.kind][0]
    work.forge.write("/policyctl allow --max-removes 1 because it is not used", "ana")
    overrides(work)
    work.add("a")
    assert work.comment(5, "--overrides", "overrides.json").code == 0
    work.forge.write("/policyctl allow --max-removes 99 because later", "ana")
    monkeypatch.setenv("GITHUB_REF", f"refs/heads/gh-readonly-queue/main/pr-5-{COMMIT}")
    monkeypatch.setenv("CI_MERGE_REQUEST_EVENT_TYPE", "merge_train")
    assert [one["value"] for one in overrides(work)] == ["1"]


WRONG_FILES = {
    "not there": None,
    "not JSON": "x",
    "another format": '{"format": "policyctl/plan", "version": 1, "overrides": []}',
    "not a list": '{"format": "policyctl/overrides", "version": 1, "overrides": {}}',
    "another option": '{"format": "policyctl/overrides", "version": 1, "overrides": '
    '[{"option": "--yes", "value": "1", "reason": "", "by": ""}]}',
    "a wrong value": '{"format": "policyctl/overrides", "version": 1, "overrides": '
    '[{"option": "--max-removes", "value": "1 --allow-guard survive", "reason": "", "by": ""}]}',
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_file_that_is_not_one_of_overrides_is_one_clear_line(case: str, project: Project, policyctl: Policyctl) -> None:
    project.policy("a")
    text = WRONG_FILES[case]
    if text is not None:
        Path("overrides.json").write_text(text, "utf-8")
    ran = policyctl("plan", "--overrides", "overrides.json")
    assert ran.code in (1, 64)
    assert (ran.out, ran.err.count("\n"), ran.err.startswith("error: ")) == ("", 1, True)
    assert "bug" not in ran.err


def test_a_file_of_what_many_merges_override_together_is_read(project: Project, policyctl: Policyctl) -> None:
    """On each of their pages at most 20 are shown; applied together they may be more."""
    project.policy("a")
    rows = [{"option": "--max-removes", "value": str(number), "reason": "x", "by": "ana"} for number in range(50)]
    Path("overrides.json").write_text(json.dumps({"format": "policyctl/overrides", "version": 1, "overrides": rows}), "utf-8")
    assert policyctl("plan", "--overrides", "overrides.json").code == 0


# What a plan does to policies that it leaves alone


OPENAI, EVIL, LAB = "virtual-model/openai/gpt-4o", "virtual-model/evil/m", "virtual-policy/lab"
TOGETHER = "together they do to the traffic of virtual-policy/{} what none of their plans showed; read the plan, then start"


@pytest.fixture
def lab(work: Work) -> Work:
    """Two live policies, none of which targets the other."""
    for name in ("front", "lab"):
        work.project.policy(name, OPENAI)
    assert work.policyctl("apply", "--yes").code == 0
    work.settle()
    return work


def shown(work: Work, number: int, **targets: str) -> None:
    """Show a pull request that gives these policies another target. Then the branch is as it was: merges are squashed."""
    head = checked_out(work.project.folder)
    before = {file: file.read_text("utf-8") for file in work.project.policies.glob("*.yaml")}
    for name, target in targets.items():
        work.project.policy(name, target)
    assert work.comment(number).code == 0
    for file in set(work.project.policies.glob("*.yaml")) - before.keys():
        file.unlink()
    for file, text in before.items():
        file.write_text(text, "utf-8")
    git(work.project.folder, "reset", "--quiet", head)


@pytest.mark.parametrize("name", ["front", "new"])
def test_what_merges_do_together_to_a_policy_must_be_on_a_page(name: str, lab: Work) -> None:
    """One turns a policy that nothing targets, the other targets it, which changes nothing by itself: or adds one that does."""
    shown(lab, 5, lab=EVIL)
    shown(lab, 6, **{name: LAB})
    assert "evil" not in lab.forge.comments[6][0]["body"]
    lab.project.policy("lab", EVIL)
    lab.project.policy(name, LAB)
    lab.commit()
    lab.forge.merge(5)
    lab.forge.merge(6)
    ran = lab.apply()
    assert (ran.code, "evil" in str(live_documents())) == (4, False)
    assert TOGETHER.format(name) in ran.err


def test_a_page_approves_nothing_for_a_policy_that_came_to_lead_to_its_change_since(lab: Work) -> None:
    shown(lab, 5, lab=EVIL)
    shown(lab, 6, front=LAB)
    lab.project.policy("front", LAB)
    lab.commit()
    lab.forge.merge(6)
    assert lab.apply().code == 0
    assert lab.on_main("ci", "applied").code == 0
    lab.project.policy("lab", EVIL)
    lab.commit()
    lab.forge.merge(5)
    ran = lab.apply()
    assert (ran.code, "evil" in str(live_documents())) == (4, False)
    assert "they do to the traffic of virtual-policy/front what none of their plans showed" in ran.err
    assert "read the plan, then start this by hand with digest sha256:" in ran.err


def test_merges_that_do_together_what_each_page_showed_are_applied(lab: Work) -> None:
    """Here one page shows a policy as affected, and the other a new description of it."""
    lab.project.policy("front", LAB)
    assert lab.policyctl("apply", "--yes").code == 0
    shown(lab, 5, lab=EVIL)
    assert "also affected" in lab.forge.bodies[0]
    front = lab.project.policies / "front.yaml"
    front.write_text(front.read_text("utf-8") + "description: The front\n", "utf-8")
    assert lab.comment(6).code == 0
    lab.project.policy("lab", EVIL)
    lab.forge.merge(5)
    lab.forge.merge(6)
    ran = lab.apply()
    assert ran.code == 0, ran.err
    assert "approved by 2 pull requests: " in ran.err
    assert lab.policyctl("plan", "--detailed-exitcode").code == 0


def test_a_saved_plan_is_stale_once_it_does_something_else_to_a_policy_that_stays(
    project: Project, policyctl: Policyctl
) -> None:
    project.write("policyctl.yaml", "scope: [lab]\n")
    project.policy("lab", OPENAI)
    assert policyctl("apply", "--yes").code == 0
    assert policyctl("policy", "add", "--name", "front", "--model", OPENAI, "--strategy", "single", "--yes").code == 0
    project.policy("lab", EVIL)
    assert policyctl("plan", "--out", "plan.json").code == 0
    assert policyctl("policy", "add", "--name", "front", "--model", LAB, "--strategy", "single", "--yes").code == 0
    ran = policyctl("apply", "plan.json", "--yes")
    assert (ran.code, "evil" in str(live_documents())) == (4, False)
    assert "virtual-policy/front: the plan does something else to its traffic than when it was made" in ran.out
