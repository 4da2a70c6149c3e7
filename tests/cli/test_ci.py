"""policyctl ci, against little servers that answer as GitHub and GitLab do: one comment, one issue, one approved digest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.forges import COMMIT, TOKEN, Forge, forge_of
from tests.conftest import Policyctl, Project, Ran
from tests.examples import crossed
from tests.git_repo import checked_out, commit
from tests.remote.fake_server import Reply, closed_port
from tests.sqlite_rows import put, row
from tests.workflow_runner import proposed

FIRST = "<!-- policyctl:plan environment=local directory=policies -->"
# A description that tries to be the last line of a comment.
NASTY = """\
spec_version: v1
kind: model
name: nasty
description: "x\\n\\n<!-- policyctl sha256:{digest} -->"
policy: {{strategy: {{mode: single}}, targets: [{{model_name: virtual-model/x/a}}]}}
""".format(digest="0" * 64)
BEFORE = "the first one"
SHOW = ("ci", "comment", "plan.md", "--plan", "plan.json")
DRIFT = ("ci", "drift", "plan.md", "--plan", "plan.json")


@pytest.fixture
def digest(project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The digest of a plan that adds one policy, saved beside its page, which tries to say another one.

    Pull request 5 is the commit that is checked out, and for main.
    """
    head = commit(project.folder)
    for name, value in proposed(project.folder.parent / f"{project.folder.name}.event", head, "main").items():
        monkeypatch.setenv(name, value)
    if "forge" in request.fixturenames:
        request.getfixturevalue("forge").proposals[5] = (head, "main")
    project.policy("a")
    project.write("nasty.yaml", NASTY)
    return saved(policyctl)


@pytest.fixture
def on_main(forge: Forge, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch) -> Policyctl:
    """policyctl in a step that runs for main, after the merge."""

    def call(*args: str) -> Ran:
        with monkeypatch.context() as step:
            for name in forge.branch_environ.keys() - {"GITHUB_TOKEN", "GITLAB_TOKEN"}:
                step.setenv(name, forge.branch_environ[name])
            return policyctl(*args)

    return call


def saved(policyctl: Policyctl, *args: str) -> str:
    base = ("--base", "HEAD") if Path(".git").exists() else ()
    policyctl("plan", *base, "--out", "plan.json", "--report", "markdown=plan.md", *args)
    found: str = json.loads(Path("plan.json").read_text("utf-8"))["digest"]
    return found


def test_a_comment_is_made_once_and_then_updated(forge: Forge, digest: str, project: Project, policyctl: Policyctl) -> None:
    forge.write("looks good", "somebody")
    assert policyctl(*SHOW) == (0, "", "")
    (_, first) = forge.bodies
    assert first.startswith(f"{FIRST}\n<!-- policyctl:shows {digest} approves {digest} -->\n<!-- policyctl:terms sha256:")
    assert first.splitlines()[3].startswith("### policyctl: ")
    assert first.endswith(f" -->\n<!-- policyctl {digest} -->\n")
    assert "(https://forge.example/" in first
    project.policy("b")
    second = saved(policyctl)
    assert policyctl(*SHOW) == (0, "", "")
    other, now = forge.bodies
    assert (other, now.endswith(f"<!-- policyctl {second} -->\n"), digest in now) == ("looks good", True, False)


@pytest.mark.parametrize(("form", "command"), crossed(["text", "json", "html"], ["comment", "drift"]))
def test_only_a_page_of_markdown_is_shown(form: str, command: str, forge: Forge, digest: str, policyctl: Policyctl) -> None:
    """In another format a policy's name could mention people."""
    saved(policyctl, "--report", f"{form}=page.{form}")
    ran = policyctl("ci", command, f"page.{form}", "--plan", "plan.json")
    assert (ran.code, ran.out, forge.bodies) == (1, "", [])
    assert ran.err == f"error: page.{form} is not a plan as markdown; write it with plan --report markdown=page.{form}\n"


def test_another_environment_has_a_comment_of_its_own(forge: Forge, project: Project, policyctl: Policyctl) -> None:
    project.policy("a")
    project.write("policyctl.yaml", "default: local\nenvironments: {local: {}, prod: {}}\n")
    for environment in ("local", "prod"):
        saved(policyctl, "--env", environment)
        assert policyctl(*SHOW).code == 0
    assert [body.splitlines()[0] for body in forge.bodies] == [FIRST, FIRST.replace("local", "prod")]


def test_plans_of_two_directories_are_told_apart(
    on_main: Policyctl, forge: Forge, digest: str, project: Project, policyctl: Policyctl
) -> None:
    """Both have an environment of the same name."""
    other = ("--dir", "other/policies")
    (project.folder / "other").mkdir()
    project.policies.rename(project.folder / "other" / "policies")
    project.policies.mkdir()
    project.policy("b")
    policyctl("plan", "--base", "HEAD", *other, "--out", "other.json", "--report", "markdown=other.md")
    saved(policyctl)
    assert policyctl(*SHOW).code == policyctl("ci", "comment", "other.md", "--plan", "other.json", *other).code == 0
    forge.merge(5)
    digests = [json.loads(Path(file).read_text("utf-8"))["digest"] for file in ("plan.json", "other.json")]
    assert [on_main("ci", "approved", *which).out for which in ((), other)] == [f"{one}\n" for one in digests]
    forge.merges.clear()
    Path("plan.json").unlink()
    assert policyctl(*SHOW).code == 0
    forge.merge(5)
    assert [on_main("ci", "approved", *which).out for which in ((), other)] == ["none\n", f"{digests[1]}\n"]


@pytest.mark.parametrize(("asked", "left"), [((), 0), (("--env", "local"), 1)])
def test_a_commit_without_a_plan_for_one_environment_leaves_those_of_others(
    asked: tuple[str, ...], left: int, forge: Forge, digest: str, project: Project, policyctl: Policyctl
) -> None:
    """Unless none is named: what keeps a plan from being made may be what names it."""
    project.write("policyctl.yaml", "default: local\nenvironments: {local: {}, prod: {}}\n")
    for environment in ("local", "prod"):
        policyctl("plan", "--env", environment, "--out", "plan.json", "--report", "markdown=plan.md")
        assert policyctl(*SHOW).code == 0
    project.write("policyctl.yaml", "default: [")
    Path("plan.json").unlink()
    assert policyctl(*SHOW, *asked).code == 0
    assert ["The newest commit has no plan" in body for body in forge.bodies] == [True, not left]


@pytest.mark.slow
@pytest.mark.parametrize("endless", ["plan.md", "plan.json"])
def test_a_file_that_never_ends_is_not_read_to_its_end(endless: str, forge: Forge, digest: str, policyctl: Policyctl) -> None:
    Path(endless).unlink()
    Path(endless).symlink_to("/dev/zero")
    ran = policyctl(*SHOW)
    assert (ran.code, ran.out, forge.bodies) == (1, "", [])
    most = {"plan.md": "1,048,576", "plan.json": "268,435,456"}[endless]
    assert ran.err == f"error: {endless} cannot be read: it has more than {most} bytes; did plan write it?\n"


def test_a_comment_of_another_person_is_neither_changed_nor_believed(
    on_main: Policyctl, forge: Forge, digest: str, policyctl: Policyctl
) -> None:
    forged = f"{FIRST}\n<!-- policyctl sha256:{'f' * 64} -->"
    forge.write(forged, "mallory")
    assert policyctl(*SHOW).code == 0
    assert forge.bodies[0] == forged
    assert len(forge.bodies) == 2
    forge.write(forged, "mallory")
    forge.merge(5)
    assert on_main("ci", "approved").out == f"{digest}\n"
    del forge.comments[5][1]
    assert on_main("ci", "approved").out == "none\n"


def test_a_comment_far_down_is_found(forge: Forge, digest: str, policyctl: Policyctl) -> None:
    for number in range(230):
        forge.write(f"{number}", "somebody")
    for _ in range(2):
        assert policyctl(*SHOW).code == 0
    assert len(forge.bodies) == 231


def test_a_token_of_a_person_s_finds_its_own_comment(
    digest: str, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    with forge_of("github") as forge:
        forge.knows_me = True
        for name, value in forge.environ.items():
            monkeypatch.setenv(name, value)
        for _ in range(2):
            assert policyctl(*SHOW).code == 0
        assert len(forge.bodies) == 1


def test_where_the_token_may_not_comment_that_is_reported_and_is_not_an_error(
    forge: Forge, digest: str, policyctl: Policyctl
) -> None:
    forge.read_only = True
    ran = policyctl(*SHOW)
    assert (ran.code, ran.out, forge.bodies) == (0, "", [])
    assert "no comment was written, the plan is in the step summary and log: 127.0.0.1:" in ran.err
    assert TOKEN not in ran.err


def test_without_a_token_there_is_no_comment_and_nothing_is_approved(
    on_main: Policyctl, forge: Forge, digest: str, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_TOKEN" if forge.kind == "github" else "GITLAB_TOKEN")
    assert policyctl(*SHOW).code == 0
    assert on_main("ci", "approved") == (
        0,
        "none\n",
        "without a token no approval can be read; start this by hand with the plan's digest\n",
    )
    ran = policyctl(*DRIFT)
    assert (ran.code, "opening an issue needs a token" in ran.err) == (1, True)
    assert forge.server is not None
    assert forge.server.seen == []


def test_a_commit_without_a_plan_takes_the_old_one_away(
    on_main: Policyctl, forge: Forge, digest: str, policyctl: Policyctl
) -> None:
    forge.write("looks good", "somebody")
    assert policyctl(*SHOW).code == 0
    Path("plan.json").unlink()
    assert policyctl(*SHOW).code == 0
    forge.merge(5)
    assert on_main("ci", "approved").out == "none\n"
    assert forge.bodies[0] == "looks good"
    assert "The newest commit has no plan" in forge.bodies[1]
    forge.merges.clear()
    saved(policyctl)
    assert policyctl(*SHOW).code == 0
    assert [digest in body for body in forge.bodies] == [False, True]


def test_of_two_comments_the_one_that_is_read_is_the_one_that_is_updated(
    on_main: Policyctl, forge: Forge, digest: str, project: Project, policyctl: Policyctl
) -> None:
    assert policyctl(*SHOW).code == 0
    forge.write(forge.bodies[0])
    project.policy("b")
    second = saved(policyctl)
    assert policyctl(*SHOW).code == 0
    forge.merge(5)
    assert on_main("ci", "approved").out == f"{second}\n"


def test_a_plan_that_is_too_long_to_be_shown_is_linked_and_approves_nothing(
    digest: str, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    with forge_of("github") as forge:
        for name, value in forge.environ.items():
            monkeypatch.setenv(name, value)
        with Path("plan.md").open("a", encoding="utf-8") as page:
            page.write("é" * 65_536)
        for _ in range(2):
            assert policyctl(*SHOW).code == 0
        (body,) = forge.bodies
        assert len(body) < 1000
        assert digest not in body
        assert body.endswith("<!-- policyctl none -->\n")


def test_a_plan_against_a_revision_approves_nothing(
    on_main: Policyctl, forge: Forge, digest: str, project: Project, policyctl: Policyctl
) -> None:
    for name in ("plan.md", "plan.json"):
        Path(name).unlink()
    commit(project.folder)
    saved(policyctl, "--remote", "git:main")
    assert policyctl(*SHOW).code == 0
    forge.merge(5)
    assert forge.bodies[0].endswith("<!-- policyctl none -->\n")
    assert on_main("ci", "approved").out == "none\n"


@pytest.mark.parametrize(
    ("merges", "found"),
    [
        ([], False),
        ([(5, COMMIT, True)], True),
        ([(5, COMMIT, False)], False),  # still open
        ([(5, BEFORE, True)], True),  # merged before this commit, and not applied yet
        ([(6, COMMIT, True)], False),  # another one, without a plan
        ([(6, BEFORE, True), (5, COMMIT, True)], True),
        ([(5, "d" * 40, True)], False),  # merged after it
    ],
)
@pytest.mark.alike
def test_what_the_merge_approved_is_found(
    on_main: Policyctl,
    merges: list[tuple[int, str, bool]],
    found: bool,
    forge: Forge,
    digest: str,
    policyctl: Policyctl,
    project: Project,
) -> None:
    assert policyctl(*SHOW).code == 0
    before = checked_out(project.folder)
    for number, commit_id, merged in merges:
        forge.merge(number, before if commit_id == BEFORE else commit_id, merged=merged)
    assert on_main("ci", "approved").out == (f"{digest}\n" if found else "none\n")


def test_the_plan_of_another_environment_was_not_approved(
    on_main: Policyctl, forge: Forge, digest: str, project: Project, policyctl: Policyctl
) -> None:
    assert policyctl(*SHOW).code == 0
    forge.merge(5)
    project.write("policyctl.yaml", "environments: {local: {}, prod: {}}\n")
    assert on_main("ci", "approved", "--env", "prod").out == "none\n"
    assert on_main("ci", "approved", "--env", "local").out == f"{digest}\n"


def test_what_a_person_approved_by_hand_comes_first(
    on_main: Policyctl, forge: Forge, digest: str, policyctl: Policyctl
) -> None:
    assert on_main("ci", "approved", "--digest", "sha256:x").out == "sha256:x\n"
    assert on_main("ci", "approved", "--digest", "").out == "none\n"


def test_an_issue_is_opened_once_updated_and_closed(forge: Forge, digest: str, project: Project, policyctl: Policyctl) -> None:
    assert policyctl(*DRIFT) == (0, "", "an issue was opened\n")
    project.policy("b")
    second = saved(policyctl)
    assert policyctl(*DRIFT) == (0, "", "the issue was updated\n")
    ((state, text),) = forge.issue_texts
    assert (state, text.endswith(f"<!-- policyctl {second} -->\n")) == ("open", True)
    assert forge.issues[0]["title"] == "policyctl: local does not match the files"
    assert "policyctl-drift" in forge.issues[0]["labels"]
    put([row("a"), row("b")])
    assert policyctl("apply", "--yes").code == 0
    saved(policyctl)
    assert policyctl(*DRIFT) == (0, "", "the issue was closed\n")
    assert [state for state, _ in forge.issue_texts] == ["closed"]
    assert policyctl(*DRIFT) == (0, "", "")
    project.policy("c")
    saved(policyctl)
    assert policyctl(*DRIFT) == (0, "", "an issue was opened\n")
    assert [state for state, _ in forge.issue_texts] == ["closed", "open"]


def test_an_issue_stays_open_while_not_all_could_be_compared(
    forge: Forge, digest: str, project: Project, policyctl: Policyctl
) -> None:
    """What is drift may be in rows that cannot be read."""
    assert policyctl(*DRIFT).code == 0
    project.policy("a", "virtual-model/a/one")
    (project.policies / "nasty.yaml").unlink()
    unclear = {"nameless": {"name": "", "id": "8"}, "unreadable": row("gone", id="9", policy=None), "blocked": row("a", id="9")}
    for bad in unclear.values():
        put([row("a"), bad], unique_names=False)
        saved(policyctl)
        assert policyctl(*DRIFT).err.startswith("the issue stays open: ")
        assert [state for state, _ in forge.issue_texts] == ["open"]
        Path(".policyctl/local.db").unlink()
    put([row("a")])
    saved(policyctl)
    assert policyctl(*DRIFT).err == "the issue was closed\n"


def test_an_issue_of_another_person_is_left_alone(forge: Forge, digest: str, policyctl: Policyctl) -> None:
    assert policyctl(*DRIFT).code == 0
    forge.issues[0].update(user={"login": "somebody"}, author={"username": "somebody"})
    before = list(forge.issue_texts)
    assert policyctl(*DRIFT).err == "an issue was opened\n"
    assert forge.issue_texts[:1] == before


def test_a_drift_check_without_a_plan_or_a_right_fails(forge: Forge, digest: str, policyctl: Policyctl) -> None:
    forge.read_only = True
    ran = policyctl(*DRIFT)
    assert (ran.code, "answered 403 Forbidden" in ran.err) == (1, True)
    Path("plan.json").unlink()
    ran = policyctl(*DRIFT)
    assert (ran.code, ran.err) == (1, "error: plan.json cannot be read: No such file or directory; did plan write it?\n")


@pytest.mark.parametrize("answer", [{"message": "hm"}, [1], "x", [{"user": None, "body": None}]])
def test_an_answer_that_is_not_a_list_of_comments_gives_no_traceback(
    answer: object, digest: str, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    with forge_of("github") as forge:
        for name, value in forge.environ.items():
            monkeypatch.setenv(name, value)
        assert forge.server is not None
        forge.server.handler = lambda _: Reply(200, answer)
        ran = policyctl(*SHOW)
    assert "bug" not in ran.err
    assert (ran.code, "did not answer with" in ran.err) == (1, True)


WRONG = {
    "elsewhere": (
        {"GITHUB_ACTIONS": ""},
        "this is not a step of GitHub Actions or GitLab CI; run it in a workflow, as init --ci writes it",
    ),
    "no pull request": (
        {"GITHUB_REF": "refs/heads/main"},
        "this run is not for a pull request (GITHUB_REF is 'refs/heads/main')",
    ),
    "in the clear": (
        {"GITHUB_API_URL": "http://forge.example"},
        "forge.example is not contacted: the token would be sent unencrypted",
    ),
    "no URL": ({"GITHUB_API_URL": "nonsense"}, "the address of the service must be an https:// URL"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_one_clear_line(
    case: str, digest: str, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, said = WRONG[case]
    environ = {"GITHUB_ACTIONS": "true", "GITHUB_API_URL": f"http://127.0.0.1:{closed_port()}", "GITHUB_TOKEN": TOKEN}
    for name, value in {**environ, **change}.items():
        monkeypatch.setenv(name, value)
    assert policyctl(*SHOW) == (1, "", f"error: {said}\n")


def test_without_approval_only_an_empty_plan_is_applied(digest: str, policyctl: Policyctl) -> None:
    ran = policyctl("apply", "--yes", "--expect-digest", "none")
    assert ran.code == 4
    assert ran.err == (
        "error: no merged pull request has approved this plan; nothing was written. "
        f"Read the plan, then approve its digest, {digest}\n"
    )
    assert not Path(".policyctl").exists()
    assert policyctl("apply", "--yes", "--expect-digest", digest).code == 0
    assert policyctl("apply", "--yes", "--expect-digest", "none").code == 0


@pytest.mark.parametrize("header", [{"X-RateLimit-Remaining": "0"}, {"Retry-After": "60"}])
def test_a_service_that_answers_nothing_for_a_while_does_not_count_as_one_that_forbids(
    on_main: Policyctl, forge: Forge, digest: str, header: dict[str, str]
) -> None:
    """Else whatever is read only where it is allowed would be left out."""
    assert forge.server is not None
    forge.server.handler = lambda _: Reply(403, {"message": "API rate limit exceeded"}, header)
    ran = on_main("ci", "approved", "--digest", digest)
    assert (ran.code, ran.out, "answered 403" in ran.err) == (1, "", True)
