"""A merge approves the plan of what was merged: that commit, into that branch, with the settings that the plan shows."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.forges import Forge
from tests.cli.pull_requests import Work, hash_in
from tests.conftest import Policyctl, Project, Ran
from tests.git_repo import git
from tests.remote.fake_server import StandIn, standing_in
from tests.remote.fake_tenant import Tenant


@pytest.fixture
def work(work: Work) -> Work:
    """A pull request that adds a policy."""
    work.add("new")
    return work


def commented(work: Work) -> None:
    assert work.comment().code == 0


def a_later_commit(work: Work) -> None:
    """Its run was cancelled, or its message says [skip ci]."""
    commented(work)
    work.forge.proposals[5] = ("d" * 40, "main")


def another_branch(work: Work) -> None:
    """The pull request was for a branch of its author's, until it was for main."""
    work.target = "other"
    commented(work)
    head, _ = work.forge.proposals[5]
    work.forge.proposals[5] = (head, "main")


def an_old_comment(work: Work) -> None:
    commented(work)
    (row,) = work.forge.comments[5]
    row["body"] = re.sub(r"<!-- policyctl:data .* -->\n", "", row["body"])


def without_a_base(work: Work) -> None:
    work.base = None
    commented(work)


def another_checkout(work: Work) -> None:
    """A workflow that checks out something else than what it was started for."""
    work.head = "e" * 40
    commented(work)


NOT_APPROVED: dict[str, tuple[Callable[[Work], None], str]] = {
    "a later commit": (a_later_commit, ": its plan was made for commit [0-9a-f]{12}, and what was merged is dddddddddddd; "),
    "another branch": (another_branch, ": its plan was made for a merge into other, and it was merged into main; "),
    "an old comment": (an_old_comment, ": its comment does not name the commit and settings that the plan was made for: "),
    "without a base": (without_a_base, "approved no plan: "),
    "another checkout": (another_checkout, "approved no plan: "),
}


@pytest.mark.parametrize("case", NOT_APPROVED)
def test_a_plan_that_was_not_made_for_what_was_merged_approves_nothing(case: str, work: Work) -> None:
    arrange, said = NOT_APPROVED[case]
    arrange(work)
    work.forge.merge(5)
    ran = work.apply()
    assert (ran.code, work.live) == (4, {"base"})
    assert re.search(f"pull request [#!]5 approved no plan{said.removeprefix('approved no plan')}", ran.err), ran.err
    assert "start this by hand with the plan's digest" in ran.err


@pytest.mark.parametrize(
    ("arrange", "said"),
    [
        (
            without_a_base,
            "Merging approves no plan: the plan was made without --base, so it does not show which settings change.",
        ),
        (
            another_checkout,
            f"Merging approves no plan: the checkout is neither the pull request's commit {'e' * 12} nor a merge of it.",
        ),
    ],
)
def test_the_comment_shows_why_a_merge_would_approve_nothing(arrange: Callable[[Work], None], said: str, work: Work) -> None:
    arrange(work)
    assert said in work.forge.bodies[0]


def test_one_plan_that_does_not_count_does_not_spoil_what_is_newer_unless_it_is_part_of_it(work: Work) -> None:
    commented(work)
    work.take_away("new")
    work.add("other")
    assert work.comment(6).code == 0
    work.add("new")
    work.forge.proposals[6] = ("d" * 40, "main")
    work.forge.merge(6)
    work.forge.merge(5)
    ran = work.apply()
    assert (ran.code, work.live) == (4, {"base"})
    assert "(approved no plan: its plan was made for commit " in ran.err
    assert "no approved plan showed the change of virtual-policy/other" in ran.err
    work.take_away("other")
    assert (work.apply().code, work.live) == (0, {"base", "new"})


class Branch:
    """The commits of main, and two pull requests: 5, which shows a new policy, and 7 of a branch that goes on from there, whose
    plan did not run."""

    def __init__(self, work: Work) -> None:
        self.work, self.forge, self.folder = work, work.forge, work.project.folder
        commented(work)
        self.head = work.forge.proposals[5][0]
        self.git("switch", "--quiet", "--create=further")
        self.later = work.commit()
        self.forge.proposals[7] = (self.later, "main")
        self.git("switch", "--quiet", "main")
        self.git("reset", "--quiet", "--hard", f"{work.base}")

    def git(self, *args: str) -> str:
        return git(self.folder, *args)

    def merge(self, commit: str, *how: str) -> None:
        """A step of main, by a merge commit if it is not shown `how`."""
        self.git("merge", "--quiet", *(how or ("--no-ff", "--message=x")), commit)
        self.forge.commit = self.forge.head = self.git("rev-parse", "HEAD").strip()

    def note(self, *numbers: int, fast: bool = False) -> None:
        """The service marks pull requests as merged, all in one second, with the head of main or each with its own commit."""
        for number in numbers:
            self.forge.merge(number, self.forge.proposals[number][0] if fast else "")
            self.forge.now -= 1
        self.forge.now += 1


def with_the_later(*seconds: tuple[int, ...]) -> Callable[[Branch], None]:
    """The later commit is merged, and the service marks these pull requests as merged, second by second."""

    def came(main: Branch) -> None:
        main.merge(main.later)
        for numbers in seconds:
            main.note(*numbers)

    return came


def without_merge_commits(main: Branch) -> None:
    main.merge(main.later, "--ff-only")
    main.note(7, 5, fast=True)


def in_a_merge_that_another_one_brings(main: Branch) -> None:
    """Its author made that merge, in the branch of the other pull request, which is fast-forwarded. The service finds it in the
    branch as what brought the commit, and names it as the merge."""
    main.git("switch", "--quiet", "--detach")
    main.merge(main.head)
    made = main.git("rev-parse", "HEAD").strip()
    main.git("commit", "--quiet", "--allow-empty", "--message=x")
    main.forge.proposals[7] = (main.git("rev-parse", "HEAD").strip(), "main")
    main.git("switch", "--quiet", "main")
    main.merge(main.forge.proposals[7][0], "--ff-only")
    main.note(7, fast=True)
    main.forge.merge(5, made)


def of_the_same_commit(main: Branch) -> None:
    main.forge.proposals[7] = main.forge.proposals[5]
    main.merge(main.head)
    main.note(7, 5)


def for_itself(main: Branch) -> None:
    main.merge(main.head)
    main.note(5)


def for_itself_and_then_another(main: Branch) -> None:
    main.forge.files[7] = ["README.md"]
    for_itself(main)
    main.merge(main.later)
    main.note(7)


def without_merge_commits_for_itself(main: Branch) -> None:
    main.forge.files[7] = ["README.md"]
    main.merge(main.head, "--ff-only")
    main.note(5, fast=True)
    main.merge(main.later, "--ff-only")
    main.note(7, fast=True)


def in_a_branch_that_is_pushed(main: Branch) -> None:
    """As it is: the merge into that branch is then one of main's commits, and it is not what the service names."""
    main.merge(main.head)
    main.git("commit", "--quiet", "--allow-empty", "--message=x")
    main.forge.commit = main.forge.head = main.git("rev-parse", "HEAD").strip()
    main.note(5)


def squashed(main: Branch) -> None:
    main.merge(main.head, "--squash")
    main.git("commit", "--quiet", "--message=squashed")
    main.forge.commit = main.forge.head = main.git("rev-parse", "HEAD").strip()
    main.note(5)


def squashed_before_another_on_it(main: Branch) -> None:
    """The merge of a branch that was stacked on it brings its commit, too."""
    main.forge.files[7] = ["README.md"]
    squashed(main)
    main.merge(main.later)
    main.note(7)


def with_another_that_shows_it(main: Branch) -> None:
    main.git("switch", "--quiet", "further")
    assert main.work.comment(7).code == 0
    main.git("switch", "--quiet", "main")
    main.merge(main.forge.proposals[7][0])
    main.note(7, 5)


def with_another_after_a_fork(main: Branch) -> None:
    """A person takes a fork's commit into a branch of their own, where its plan may be made."""
    main.forge.comments[5].clear()
    with_another_that_shows_it(main)


CAME: dict[Callable[[Branch], None], bool] = {
    with_the_later((7,), (5,)): False,
    with_the_later((7, 5)): False,
    with_the_later((5,), (7,)): False,
    with_the_later((5,)): False,  # with a push
    without_merge_commits: False,
    in_a_merge_that_another_one_brings: False,
    of_the_same_commit: False,
    in_a_branch_that_is_pushed: False,
    for_itself: True,
    for_itself_and_then_another: True,
    without_merge_commits_for_itself: True,
    squashed: True,
    squashed_before_another_on_it: True,
    with_another_that_shows_it: True,
    with_another_after_a_fork: True,
}


@pytest.mark.parametrize("came", CAME)
def test_a_pull_request_that_was_not_merged_for_itself_approves_nothing(came: Callable[[Branch], None], work: Work) -> None:
    """A service marks each one as merged whose commit is in the branch."""
    came(Branch(work))
    ran = work.apply()
    assert (ran.code, work.live) == ((0, {"base", "new"}) if CAME[came] else (4, {"base"})), ran.err
    assert ("approved no plan: its commit came into the branch with another merge or a push" in ran.err) is (
        not CAME[came] and came is not of_the_same_commit
    )


def test_a_pull_request_of_a_commit_that_another_one_has_too_replaces_what_is_older(work: Work) -> None:
    """Everyone may open one who can read the commit: here of the one that takes back what was merged and not applied yet."""
    commented(work)
    work.forge.merge(5, work.commit())
    work.settle()
    work.take_away("new")
    assert work.comment(6).code == 0
    work.forge.proposals[7] = work.forge.proposals[6]
    end = work.commit()
    for number in (6, 7):
        work.forge.merge(number, end)
        work.forge.now -= 1  # both in one second
    work.add("new")  # pushed
    ran = work.apply()
    assert (ran.code, work.live) == (4, {"base"})
    assert "another pull request of the same commit was merged, so it is not known which of them was read" in ran.err


def test_a_later_merge_approves_nothing_in_an_older_run_that_is_started_again(work: Work) -> None:
    """How it came into the branch is not known there: here with another pull request, which changes no policy."""
    main = Branch(work)
    work.add("new")
    pushed = work.forge.commit = work.forge.head = work.commit()
    work.settle()
    assert work.apply().code == 4
    main.git("switch", "--quiet", "--create=one")
    main.git("commit", "--quiet", "--allow-empty", "--message=x")
    assert work.comment(8).code == 0
    assert "1 to add" in work.forge.comments[8][0]["body"]
    main.git("switch", "--quiet", "main")
    main.merge(work.forge.proposals[8][0])
    work.forge.head = main.git("rev-parse", "HEAD").strip()
    work.forge.merge(8)
    main.git("checkout", "--quiet", "--detach", pushed)
    work.forge.commit, work.forge.changed = pushed, {pushed: ["README.md"]}
    ran = work.apply()
    assert (ran.code, work.live) == (4, {"base"})
    later = "it was merged after the commit that is checked out" in ran.err
    assert later == (work.forge.kind == "github"), "GitLab has a pipeline for each commit, so none counts at an older one"


def test_a_clone_that_lacks_history_approves_nothing(work: Work) -> None:
    for_itself(Branch(work))
    (work.project.folder / ".git" / "shallow").write_text(f"{work.base}\n", "ascii")
    ran = work.apply()
    assert (ran.code, work.live) == (4, {"base"})
    assert "the history of the branch is not known here, which shows what was merged; fetch the whole history" in ran.err


def test_several_plans_approve_nothing_under_settings_that_none_of_them_shows(work: Work) -> None:
    commented(work)
    work.take_away("new")
    work.add("other")
    assert work.comment(6).code == 0
    work.add("new")
    work.forge.merge(5)
    work.forge.merge(6)
    work.project.write("policyctl.yaml", "limits: {max_removes: 99}\n")  # pushed by a person who is not known
    ran = work.apply()
    assert (ran.code, work.live) == (4, {"base"})
    assert "a change of the remote or of the safety settings was in no approved plan" in ran.err


# How the remote is reached

SECRET = "canary-key"
CONFIG = (
    "default: prod\nscope: ['*']\nenvironments: {{prod: {{remote: '{}', auth: {{type: bearer, token: 'env:WXO_API_KEY'}}}}}}\n"
)


class Tenants:
    """The remote of an environment, and another server that would like to be it."""

    def __init__(self, work: Work, own: StandIn, other: StandIn) -> None:
        self.work, self.own, self.other = work, own, other

    def lead_to(self, server: StandIn) -> None:
        self.work.project.write("policyctl.yaml", CONFIG.format(server.url))

    def merged(self, number: int = 5) -> Ran:
        self.work.forge.merge(number)
        return self.work.apply()


@pytest.fixture
def tenants(project: Project, forge: Forge, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tenants]:
    monkeypatch.setenv("WXO_API_KEY", SECRET)
    work = Work(project, forge, policyctl, monkeypatch)
    rows = Tenant()
    with standing_in(rows) as own, standing_in(rows) as other:
        found = Tenants(work, own, other)
        found.lead_to(own)
        work.add("base")
        work.settle()
        assert policyctl("apply", "--yes").code == 0
        work.add("new")
        yield found


UNSHOWN_WAY = (
    "error: no approved plan shows how remote, auth and ca_file came to be what they are now, so nothing logs in with them"
)


def test_a_login_that_no_plan_shows_sends_no_secret(tenants: Tenants) -> None:
    """The plan was made for one commit, and the next one leads elsewhere."""
    commented(tenants.work)
    tenants.lead_to(tenants.other)
    tenants.work.forge.proposals[5] = ("d" * 40, "main")
    ran = tenants.merged()
    assert (ran.code, ran.out, tenants.other.seen) == (4, "", [])
    assert UNSHOWN_WAY in ran.err
    assert "approved no plan: its plan was made for commit " in ran.err


def test_a_login_that_was_shown_and_approved_is_used(tenants: Tenants) -> None:
    tenants.lead_to(tenants.other)
    commented(tenants.work)
    assert tenants.other.seen == [], "while it is reviewed, the old one holds"
    assert "environments.prod.remote" in tenants.work.forge.bodies[0]
    tenants.work.settle()
    # The plan is one for the old remote, so that it is not the one of now; but the person who approved it has seen the new one.
    ran = tenants.merged()
    assert ran.code == 4
    assert "no approved plan showed the change of virtual-policy/" in ran.err
    assert {seen.authorization for seen in tenants.other.seen} == {f"Bearer {SECRET}"}


@pytest.mark.parametrize("noted", [True, False])
def test_a_push_does_not_lead_back_to_where_an_approved_change_led_away_from(tenants: Tenants, noted: bool) -> None:
    if noted:
        commented(tenants.work)
        assert tenants.merged().code == 0
        assert tenants.work.on_main("ci", "applied").code == 0
        tenants.work.settle()
    tenants.lead_to(tenants.other)
    assert tenants.work.comment(6).code == 0
    tenants.work.settle()
    tenants.merged(6)
    assert tenants.other.seen
    tenants.lead_to(tenants.own)
    tenants.own.seen.clear()
    ran = tenants.work.apply()
    assert (ran.code, tenants.own.seen) == (4, [])
    assert UNSHOWN_WAY in ran.err


def test_a_push_that_leads_elsewhere_sends_no_secret_now_and_later(tenants: Tenants) -> None:
    """Not even once it is what the next push and the next plan start from: a run has noted what was used before."""
    commented(tenants.work)
    assert tenants.merged().code == 0
    assert tenants.work.on_main("ci", "applied").code == 0
    tenants.lead_to(tenants.other)
    for number in (6, 7):
        ran = tenants.work.apply()
        assert (ran.code, tenants.other.seen) == (4, [])
        assert UNSHOWN_WAY in ran.err
        tenants.work.settle()
        tenants.work.add(f"more-{number}")
        tenants.work.comment(number)  # whose reader logs in: what is on main holds for plans
        tenants.other.seen.clear()
        ran = tenants.merged(number)
        assert (ran.code, tenants.other.seen) == (4, [])
    tenants.lead_to(tenants.own)
    assert UNSHOWN_WAY in tenants.work.apply().err, "until a person read both pushes"


@pytest.mark.parametrize(("noted", "several"), [(True, ()), (False, ()), (False, ("--all",))])
def test_a_push_that_leads_to_another_database_server_gives_it_no_password(
    noted: bool, several: tuple[str, ...], work: Work
) -> None:
    """PostgreSQL's client finds a password by itself, so an environment without `auth` logs in too."""
    work.project.write("policyctl.yaml", "environments: {local: {remote: local}}\n")
    work.settle()
    commented(work)
    if noted:
        work.forge.merge(5)
        assert work.apply().code == 0
        assert work.on_main("ci", "applied").code == 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        config = f"environments: {{local: {{remote: 'postgresql://user@127.0.0.1:{port}/x'}}}}\n"
        work.project.write("policyctl.yaml", config)
        ran = work.on_main("ci", "approved", *several)
        assert (ran.code, ran.out, UNSHOWN_WAY in ran.err) == (4, "", True)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_push_that_leads_nowhere_else_is_planned_for_a_person_to_read(tenants: Tenants) -> None:
    ran = tenants.work.apply()
    assert ran.code == 4
    assert "no merged pull request has approved this plan" in ran.err


def test_the_first_push_of_a_new_way_in_waits_for_a_person(tenants: Tenants) -> None:
    tenants.lead_to(tenants.other)
    ran = tenants.work.apply()
    assert (ran.code, tenants.other.seen) == (4, [])
    hashed = hash_in(ran)
    digest = f"sha256:{'0' * 64}"
    overrides = ("--overrides", "--max-removes 12 because they are gone")
    for given, more, code in (
        (digest, (), 4),  # what was read before the push
        (digest, overrides, 4),
        (f"{digest}@{digest}", (), 4),
        (f"{digest}{hashed}", (), 0),  # who has read the way in decides
    ):
        by_hand = tenants.work.on_main("ci", "approved", "--digest", given, *more)
        assert (by_hand.code, by_hand.out, tenants.other.seen) == (code, "" if code else f"{digest}\n", [])
    tenants.lead_to(tenants.own)
    tenants.own.seen.clear()
    by_hand = tenants.work.on_main("ci", "approved", "--digest", f"{digest}{hashed}")
    assert (by_hand.code, tenants.own.seen) == (4, []), "a later push leads elsewhere"


def test_a_push_that_leads_elsewhere_sends_no_secret_where_no_run_has_noted_the_way_in(tenants: Tenants) -> None:
    """A repository whose plans were never applied, or whose last note lies too far back. The next pull request starts from
    where the push led, so that its plan shows no change of it; and so does the next push."""
    tenants.lead_to(tenants.other)
    assert tenants.work.apply().code == 4
    tenants.work.settle()
    commented(tenants.work)
    tenants.other.seen.clear()  # the plan's reader logs in: what is on main holds for plans
    for ran in (tenants.work.apply(), tenants.merged(), tenants.work.apply()):
        assert (ran.code, tenants.other.seen) == (4, [])
        assert UNSHOWN_WAY in ran.err


def test_a_clone_that_lacks_history_knows_no_way_in(tenants: Tenants) -> None:
    commented(tenants.work)
    (tenants.work.project.folder / ".git/shallow").write_text(f"{tenants.work.commit()}\n", "ascii")
    tenants.own.seen.clear()
    ran = tenants.merged()
    assert (ran.code, tenants.own.seen) == (4, [])
    assert UNSHOWN_WAY in ran.err


WITH_FILE = CONFIG.replace("}}}}}}\n", "}}, ca_file: ca.pem}}}}\n")


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize("kind", ["edited", "made a link", "taken away"])
def test_what_is_in_a_file_that_the_way_in_refers_to_counts(kind: str, noted: bool, tenants: Tenants) -> None:
    """The settings name only the path of the authorities to trust; a merge without a plan changed the file at that path."""
    work, file = tenants.work, tenants.work.project.policies / "ca.pem"
    work.project.write("policyctl.yaml", WITH_FILE.format(tenants.own.url))
    file.write_text("one", "ascii")
    work.begin()  # so that no commit led elsewhere
    if noted:
        commented(work)
        (row,) = work.forge.comments[5]
        work.forge.merge(5)
        assert work.on_main("ci", "applied").code == 0
        assert "policyctl applied" in str(row["body"])
    assert UNSHOWN_WAY not in work.apply().err
    file.unlink()
    if kind == "edited":
        file.write_text("two", "ascii")
    elif kind == "made a link":
        (work.project.policies / "other.pem").write_text("one", "ascii")
        file.symlink_to("other.pem")
    tenants.own.seen.clear()
    ran = work.apply()
    assert (ran.code, tenants.own.seen) == (4, [])
    assert UNSHOWN_WAY in ran.err


def test_a_file_that_no_repository_has_is_not_part_of_the_way_in(tenants: Tenants) -> None:
    """What a CI service writes for a run may be new in each, and may be a secret."""
    text = CONFIG.replace("env:WXO_API_KEY", "file:../key.txt")
    tenants.work.project.write("policyctl.yaml", text.format(tenants.own.url))
    found = []
    for secret in ("one-secret", "another-secret"):
        (tenants.work.project.folder / "key.txt").write_text(secret, "ascii")  # only what is in `policies` is committed
        tenants.work.settle()
        tenants.work.plan()
        page = Path("plan.md").read_text("utf-8")
        found.append(re.findall(r"policyctl:terms .*", page))
    assert found[0] == found[1] != []


@pytest.mark.parametrize(
    "change",
    [
        "auth: {type: bearer, token: 'env:OTHER'}",
        "auth: {type: mcsp, api_key: 'env:WXO_API_KEY', url: 'https://login.example'}",
        "auth: {type: bearer, token: 'env:WXO_API_KEY'}, ca_file: other.pem",
    ],
)
def test_every_part_of_the_way_in_counts(change: str, tenants: Tenants) -> None:
    text = CONFIG.replace("auth: {{type: bearer, token: 'env:WXO_API_KEY'}}", change.replace("{", "{{").replace("}", "}}"))
    tenants.work.project.write("policyctl.yaml", text.format(tenants.own.url))
    tenants.own.seen.clear()
    ran = tenants.work.apply()
    assert (ran.code, tenants.own.seen) == (4, [])
    assert UNSHOWN_WAY in ran.err


def test_no_secret_is_in_what_is_compared(tenants: Tenants) -> None:
    commented(tenants.work)
    before = tenants.work.forge.bodies[0]
    page = Path("plan.md").read_text("utf-8")
    terms = re.search(r"<!-- policyctl:terms (.*) -->", page)
    assert terms is not None
    assert re.fullmatch(r"(sha256:[0-9a-f]{64} ?){4}", terms[1])
    with pytest.MonkeyPatch.context() as other:
        other.setenv("WXO_API_KEY", "another")
        tenants.work.plan()
    assert terms[0] in Path("plan.md").read_text("utf-8"), "it stays the same with another secret"
    assert SECRET not in before


# Branches that began at an older commit of main, and are planned as they are, as pipelines of branches do on GitLab

UNSHOWN = "a change of the remote or of the safety settings was in no approved plan"
GUARDED = CONFIG.rstrip("\n") + "\nguards: {{deny_providers: [evil]}}\n"


class Branches:
    """Main and others, with `policyctl.yaml` at the top: the nearest one counts, so a branch may add one to the policies."""

    def __init__(self, tenants: Tenants) -> None:
        self.work, self.top = tenants.work, tenants.work.project.folder
        (self.work.project.policies / "policyctl.yaml").unlink()

    def begin(self, text: str) -> str:
        (self.top / "policyctl.yaml").write_text(text, "utf-8")
        shutil.rmtree(self.top / ".git")
        self.work.commit()
        return self.on_main()

    def on_main(self) -> str:
        """A commit of main."""
        self.work.base = self.work.forge.commit = self.work.forge.head = self.commit()
        return str(self.work.base)

    def commit(self) -> str:
        git(self.top, "add", "--all", "--force", "--", "policyctl.yaml", "policies")
        git(self.top, "commit", "--quiet", "--allow-empty", "--message=x")
        return git(self.top, "rev-parse", "HEAD").strip()

    def propose(self, number: int) -> None:
        """Show what is checked out on a pull request."""
        self.commit()
        assert self.work.comment(number).code == 0

    def merge(self, number: int, branch: str) -> None:
        git(self.top, "checkout", "--quiet", "main")
        git(self.top, "merge", "--quiet", "--no-ff", "--no-edit", branch)
        end = git(self.top, "rev-parse", "HEAD").strip()
        self.on_main()
        self.work.forge.merge(number, end)


@pytest.mark.parametrize("what", ["a guard", "the way in"])
def test_a_branch_that_began_before_settings_were_approved_does_not_take_them_back_unseen(what: str, tenants: Tenants) -> None:
    """Its page shows what it changes since it began, which is nothing."""
    branches, (old, new) = Branches(tenants), (CONFIG.format(tenants.own.url), GUARDED.format(tenants.own.url))
    if what == "the way in":
        old, new = CONFIG.format(tenants.other.url), CONFIG.format(tenants.own.url)
    branches.begin(old)
    git(branches.top, "branch", "feature")
    (branches.top / "policyctl.yaml").write_text(new, "utf-8")
    branches.propose(5)
    branches.on_main()
    tenants.work.forge.merge(5)
    assert UNSHOWN_WAY not in tenants.work.apply().err
    git(branches.top, "checkout", "--quiet", "feature")
    (tenants.work.project.policies / "policyctl.yaml").write_text(old, "utf-8")
    tenants.work.add("more")
    branches.propose(6)
    assert "environments.prod" not in tenants.work.forge.comments[6][0]["body"]
    branches.merge(6, "feature")
    tenants.other.seen.clear()
    ran = tenants.work.apply()
    assert (ran.code, tenants.other.seen) == (4, [])
    assert (
        "a change of the remote or of the safety settings was in no approved plan" if what == "a guard" else UNSHOWN_WAY
    ) in ran.err


def test_a_branch_from_within_a_merged_one_does_not_bring_back_what_that_had_for_a_while(
    tenants: Tenants,
) -> None:
    branches, (own, other) = Branches(tenants), (CONFIG.format(one.url) for one in (tenants.own, tenants.other))
    branches.begin(own)
    git(branches.top, "checkout", "--quiet", "-b", "first")
    (branches.top / "policyctl.yaml").write_text(other, "utf-8")
    between = branches.commit()
    (branches.top / "policyctl.yaml").write_text(own, "utf-8")
    branches.propose(5)
    branches.merge(5, "first")
    assert tenants.work.apply().code == 0
    git(branches.top, "checkout", "--quiet", "-b", "second", between)
    (tenants.work.project.policies / "policyctl.yaml").write_text(other, "utf-8")
    tenants.work.add("more")
    branches.propose(6)
    branches.merge(6, "second")
    tenants.other.seen.clear()
    ran = tenants.work.apply()
    assert (ran.code, tenants.other.seen) == (4, [])
    assert UNSHOWN_WAY in ran.err


def test_a_branch_that_changes_only_policies_is_approved_though_others_changed_settings_meanwhile(tenants: Tenants) -> None:
    branches = Branches(tenants)
    branches.begin(CONFIG.format(tenants.own.url))
    git(branches.top, "branch", "feature")
    (branches.top / "policyctl.yaml").write_text(GUARDED.format(tenants.own.url), "utf-8")
    branches.propose(5)
    branches.on_main()
    tenants.work.forge.merge(5)
    assert tenants.work.apply().code == 0
    git(branches.top, "checkout", "--quiet", "feature")
    tenants.work.add("more")
    branches.propose(6)
    branches.merge(6, "feature")
    assert tenants.work.apply().code == 0


@pytest.mark.parametrize("noted", [True, False])
def test_an_environment_that_a_push_renames_is_first_reached_once_a_person_read_that(noted: bool, tenants: Tenants) -> None:
    commented(tenants.work)
    tenants.work.forge.merge(5)
    if noted:
        assert tenants.work.apply().code == 0
        assert tenants.work.on_main("ci", "applied").code == 0
    tenants.work.project.write("policyctl.yaml", CONFIG.format(tenants.other.url).replace("prod", "renamed"))
    ran = tenants.work.apply()
    assert (ran.code, tenants.other.seen) == (4, [])
    assert UNSHOWN_WAY in ran.err


def test_what_a_person_applied_is_noted_where_merges_approved_nothing(tenants: Tenants) -> None:
    """The merge without an approved plan was read by a person too, and the next one needs none."""
    work = tenants.work
    work.project.write("policyctl.yaml", GUARDED.format(tenants.own.url))  # pushed
    work.settle()
    work.add("refused")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "head", "e" * 40)  # its newest commit has no plan
        commented(work)
    work.forge.merge(5)
    ran = work.apply()
    assert UNSHOWN in ran.err
    digest = json.loads(work.on_main("plan", "--format", "json").out)["digest"] + hash_in(ran)
    assert work.on_main("ci", "approved", "--digest", digest, "--out", "overrides.json").code == 0
    digest = digest.partition("@")[0]
    assert work.on_main("apply", "--yes", "--expect-digest", digest, "--overrides", "overrides.json").code == 0
    assert work.on_main("ci", "applied").code == 0
    work.settle()
    work.add("more")
    assert work.comment(6).code == 0
    work.forge.merge(6)
    assert work.apply().code == 0
