"""An approval is used once: noted before the first write, for one commit, and gone once a newer merge changes the same."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from policyctl.ci.comments import not_begun
from policyctl.ci.forge import Comment, ForgeClient, NotAllowed
from policyctl.ci.github import GitHub
from policyctl.ci.gitlab import GitLab
from policyctl.cli import watch_source, watch_work
from policyctl.cli.ci import merges
from policyctl.cli.ci.merges import NotHead, why_not_head
from policyctl.cli.watch_work import EnvironmentWork
from policyctl.errors import Refused, RemoteError
from policyctl.plan.approval import APPLIED, NONE
from policyctl.reconcile import apply, audit
from policyctl.watch.look import Look
from tests.cli.forges import Forge
from tests.cli.pull_requests import Work, hash_in
from tests.conftest import Policyctl, Project, Ran
from tests.git_repo import git
from tests.patience import LONGEST
from tests.remote.fake_server import Reply, Seen, Silence, standing_in
from tests.remote.fake_tenant import Tenant

A, B, RISKY, EVIL = (f"virtual-model/x/{name}" for name in ("a", "b", "risky", "evil"))
CONFIG = "default: prod\nscope: ['*']\nenvironments: {prod: {remote: 'URL', auth: {type: bearer, token: 'env:KEY'}}}\n"


class TenantOf:
    """A tenant with the policies p and q, which may refuse to write q, and pull requests for it."""

    def __init__(self, work: Work) -> None:
        self.work, self.forge = work, work.forge
        self.rows, self.refuses = Tenant(), True
        self.noted: list[bool] = []  # at each write, whether the approval was noted as used
        self.url, self.watch = "", ""

    def __call__(self, seen: Seen) -> Reply | Silence:
        if seen.method != "GET":
            self.noted.append(any("Used by" in one["body"] for some in self.forge.comments.values() for one in some))
            if self.refuses and (b'"virtual-policy/q"' in seen.body):
                return Reply(422, {"detail": "no"})
        return self.rows(seen)

    def configure(self, approved: str = "true") -> None:
        watch = f"watch: {{apply: on-merge, approved: {approved}, interval: 1s, retry: {{first: 1s, most: 1s}}}}\n"
        self.work.project.write("policyctl.yaml", CONFIG.replace("URL", self.url) + (watch if self.watch else ""))

    def loosen(self) -> None:
        """Change a safety setting."""
        self.work.project.write("policyctl.yaml", CONFIG.replace("URL", self.url) + "limits: {max_removes: 999}\n")

    def write(self, **policies: str) -> None:
        for name, model in policies.items():
            self.work.project.policy(name, model)

    def push(self, **policies: str) -> str:
        """A commit of main."""
        self.write(**policies)
        self.forge.commit = self.forge.head = self.work.commit()
        return self.forge.commit

    def merge(self, number: int, *several: str, **policies: str) -> None:
        """A pull request that was planned, for one environment or for several, and merged."""
        self.write(**policies)
        assert self.work.comment(number, *several).code == 0
        self.forge.merge(number, self.push())

    def apply(self) -> Ran:
        """The steps of the workflow."""
        ran = self.work.apply()
        return ran if ran.code else Ran(self.work.on_main("ci", "applied").code, ran.out, ran.err)

    @property
    def live(self) -> dict[str, str]:
        found = {}
        for row in self.rows.rows.values():
            (target,) = row["policy"]["targets"]
            found[row["name"].removeprefix("virtual-policy/")] = target["model_name"].removeprefix("virtual-model/x/")
        return found


@pytest.fixture
def tenant(project: Project, forge: Forge, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch) -> Iterator[TenantOf]:
    monkeypatch.setenv("KEY", "canary-key")
    found = TenantOf(Work(project, forge, policyctl, monkeypatch))
    found.refuses = False
    with standing_in(found) as server:
        found.url = server.url
        found.configure()
        found.write(p=A, q=A)
        found.work.settle()
        assert policyctl("apply", "--yes").code == 0
        found.refuses, found.noted = True, []
        yield found


def test_what_was_applied_in_part_is_not_applied_again_once_it_was_taken_back(tenant: TenantOf) -> None:
    tenant.merge(5, p=RISKY, q=B)
    assert (tenant.apply().code, tenant.live) == (5, {"p": "risky", "q": "a"})
    tenant.merge(6, p=A)
    assert (tenant.apply().code, tenant.live) == (5, {"p": "a", "q": "a"})
    tenant.push(p=RISKY)  # without a pull request
    ran = tenant.apply()
    assert (ran.code, tenant.live) == (4, {"p": "a", "q": "a"})
    assert "no approved plan showed the change of virtual-policy/p, virtual-policy/q" in ran.err
    assert ran.err.count("(used by an apply of commit ") == 2


@pytest.mark.parametrize("several", [(), ("--all",)])
def test_what_was_taken_back_before_it_was_applied_does_not_come_back(tenant: TenantOf, several: tuple[str, ...]) -> None:
    """The plan of the way back is empty, since nothing was applied yet: what its files change counts."""
    for number, model in ((5, RISKY), (6, A)):
        tenant.write(p=model)
        assert tenant.work.comment(number, *several).code == 0
        tenant.forge.merge(number, tenant.push())
        tenant.work.settle()
    assert "no changes" in tenant.forge.comments[6][0]["body"]
    tenant.push(p=RISKY)  # without a pull request
    ran = tenant.work.on_main("ci", "approved", *several)
    assert (ran.code, ran.out.strip()) == (0, NONE)
    assert "no approved plan showed the change of virtual-policy/p" in ran.err


@pytest.mark.parametrize("held", ["guards: {deny_providers: [evil]}", "protect: [q]"])
@pytest.mark.parametrize("noted", [True, False])
def test_a_push_does_not_free_what_an_approved_change_of_settings_holds_up(tenant: TenantOf, held: str, noted: bool) -> None:
    """Whether or not it is known what the last run was made under."""
    tenant.refuses = False
    tenant.merge(4, p=B)
    if noted:
        assert tenant.apply().code == 0
    tenant.work.settle()
    usual = (tenant.work.project.policies / "policyctl.yaml").read_text("utf-8")
    if "protect" in held:
        tenant.work.take_away("q")
    else:
        tenant.work.project.policy("p", "virtual-model/evil/m")
    tenant.merge(5)
    before = tenant.rows.rows.copy()
    tenant.work.project.write("policyctl.yaml", f"{usual}{held}\n")
    tenant.merge(6)
    assert tenant.work.apply().code != 0
    tenant.work.project.write("policyctl.yaml", usual)
    tenant.push()
    ran = tenant.apply()
    assert (ran.code, tenant.rows.rows) == (4, before)
    assert "a change of the remote or of the safety settings was in no approved plan" in ran.err


def test_a_plan_that_is_empty_by_now_needs_no_approval_and_uses_those_that_wait(tenant: TenantOf) -> None:
    """A person applied it before the run had its turn."""
    tenant.refuses = False
    tenant.merge(5, p=RISKY)
    assert tenant.work.policyctl("apply", "--yes").code == 0
    assert tenant.apply().code == 0
    assert tenant.forge.bodies[0].endswith(f"<!-- policyctl {APPLIED} -->\n")


def test_a_run_of_the_same_commit_goes_on_with_what_is_left(tenant: TenantOf) -> None:
    tenant.merge(5, p=RISKY, q=B)
    assert (tenant.apply().code, tenant.live) == (5, {"p": "risky", "q": "a"})
    tenant.refuses = False
    ran = tenant.apply()
    assert (ran.code, tenant.live) == (0, {"p": "risky", "q": "b"})
    assert "approved by 1 pull request: " in ran.err
    assert tenant.forge.bodies[0].count("Used by [this run](") == 1
    assert tenant.forge.bodies[0].endswith("<!-- policyctl applied -->\n")


@pytest.mark.parametrize("moves", [False, True])
def test_a_run_that_wrote_everything_has_used_its_approval(tenant: TenantOf, moves: bool) -> None:
    """What a person puts back before the run is noted, or started again, is not overwritten."""
    tenant.refuses = False
    tenant.merge(5, p=RISKY, q=B)
    assert (tenant.work.apply().code, tenant.live) == (0, {"p": "risky", "q": "b"})
    if moves:
        (target,) = next(row for row in tenant.rows.rows.values() if row["name"] == "virtual-policy/p")["policy"]["targets"]
        target["model_name"] = A
    ran = tenant.apply()
    assert (ran.code, tenant.live["p"]) == ((4, "a") if moves else (0, "risky"))
    assert ("(used by an apply of commit " in ran.err) is moves
    assert tenant.forge.bodies[0].endswith(f"<!-- policyctl {APPLIED} -->\n") is not moves


def test_what_was_begun_is_used_up_for_the_next_commit(tenant: TenantOf) -> None:
    """Also what was not written: it is not known where a run that was killed ended."""
    tenant.merge(5, p=RISKY, q=B)
    assert tenant.apply().code == 5
    tenant.push()
    tenant.refuses = False
    ran = tenant.apply()
    assert (ran.code, tenant.live) == (4, {"p": "risky", "q": "a"})
    assert "(used by an apply of commit " in ran.err


def test_it_is_noted_before_anything_is_written_and_not_when_nothing_is(tenant: TenantOf) -> None:
    tenant.merge(5, p=RISKY, q=B)
    assert tenant.work.on_main("ci", "approved", "--out", "overrides.json").code == 0
    assert "Used by" not in tenant.forge.bodies[0]
    assert tenant.apply().code == 5
    assert tenant.noted == [True, True]


def test_nothing_is_written_where_it_cannot_be_noted(tenant: TenantOf) -> None:
    tenant.merge(5, p=RISKY)
    tenant.forge.read_only = True
    ran = tenant.apply()
    assert (ran.code, tenant.noted, tenant.live["p"]) == (5, [], "a")
    assert "it cannot be noted that an approval is used: " in ran.out
    tenant.forge.read_only = False
    assert (tenant.apply().code, tenant.live["p"]) == (0, "risky")


def test_an_approval_is_not_used_where_the_change_cannot_be_recorded(tenant: TenantOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is written either, and it counts for the next commit."""
    tenant.refuses = False
    tenant.merge(5, p=B)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as step:
        step.setattr(audit, "entry_line", full)
        assert tenant.work.apply("--audit", "audit.jsonl").code == 5
    assert "Used by" not in tenant.forge.bodies[0]
    tenant.push()
    assert (tenant.apply().code, tenant.live["p"]) == (0, "b")


def test_two_runs_do_not_use_one_approval(tenant: TenantOf) -> None:
    """Another run used it between the two steps of this one."""
    tenant.merge(5, p=RISKY)
    digest = tenant.work.on_main("ci", "approved", "--out", "overrides.json").out.strip()
    assert tenant.work.on_main("ci", "applied").code == 0
    ran = tenant.work.on_main("apply", "--yes", "--expect-digest", digest, "--overrides", "overrides.json")
    assert (ran.code, tenant.noted, tenant.live["p"]) == (5, [], "a")
    assert "another run used the approval of pull request " in ran.out


def test_the_newest_of_two_that_change_the_same_counts(tenant: TenantOf) -> None:
    """None of them was applied yet: what the older one shows of other policies still counts."""
    tenant.refuses = False
    tenant.merge(5, p=RISKY, q=B)
    tenant.write(q=A)
    tenant.merge(6, p=B)  # whose plan was made without the other
    tenant.push(q=B)
    ran = tenant.apply()
    assert (ran.code, tenant.live) == (0, {"p": "b", "q": "b"})
    assert "approved by 2 pull requests: " in ran.err


def test_what_was_taken_back_before_it_was_applied_does_not_count_again(tenant: TenantOf) -> None:
    tenant.merge(5, p=RISKY)
    tenant.merge(6, p=B)
    tenant.push(p=RISKY)
    ran = tenant.apply()
    assert (ran.code, tenant.live["p"]) == (4, "a")


WITHOUT_A_PLAN: dict[str, tuple[list[str] | None, bool]] = {
    "a policy": (["policies/p.yaml"], False),
    "the configuration above": (["README.md", "policyctl.yaml"], False),
    "more files than are listed": (None, False),
    "something else": (["README.md", "other/p.yaml", "policies.md"], True),
    "nothing": ([], True),
}


@pytest.mark.parametrize("case", WITHOUT_A_PLAN)
def test_a_merge_that_shows_no_plan_replaces_what_is_older_if_it_changed_the_files(case: str, tenant: TenantOf) -> None:
    """As one of a fork does, or one whose run was skipped."""
    tenant.refuses = False
    tenant.merge(5, p=RISKY)
    files, counts = WITHOUT_A_PLAN[case]
    tenant.forge.files[6] = files
    tenant.forge.merge(6, tenant.push(**({} if counts else {"p": A})))
    tenant.push(p=RISKY)  # without a pull request
    ran = tenant.apply()
    assert (ran.code, tenant.live["p"]) == ((0, "risky") if counts else (4, "a")), ran.err
    said = f"pull request {'#' if tenant.forge.kind == 'github' else '!'}6 (approved no plan: no comment shows what it changes)"
    assert (said in ran.err) is not counts


def test_where_it_may_not_be_read_what_a_merge_changed_it_replaces_what_is_older(
    tenant: TenantOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise NotAllowed("no")

    for kind in (GitHub, GitLab):
        monkeypatch.setattr(kind, "files", refused)
    tenant.merge(5, p=RISKY)
    tenant.forge.merge(6)
    assert (tenant.apply().code, tenant.live["p"]) == (4, "a")


def test_a_watch_does_not_count_what_a_merge_without_a_plan_may_have_taken_back(watched: TenantOf) -> None:
    watched.merge(5, p=RISKY)
    watched.forge.merge(6, watched.push(p=A))
    watched.push(p=RISKY)
    ran = watched.work.policyctl("watch", "--once")
    assert "waits for an approval" in ran.out
    assert watched.live["p"] == "a"


@pytest.mark.parametrize("refused", [False, True])
def test_a_merge_of_a_later_commit_than_its_comment_shows_replaces_all_that_is_older(refused: bool, tenant: TenantOf) -> None:
    """What the later commit changes is not known."""
    tenant.refuses = False
    if refused:
        tenant.work.project.write("policyctl.yaml", f"{CONFIG.replace('URL', tenant.url)}guards: {{deny_providers: [evil]}}\n")
        tenant.work.settle()
    tenant.merge(5, p=RISKY)
    tenant.write(p=A, q="virtual-model/evil/m" if refused else B)  # its branch does not have the other one
    assert tenant.work.comment(6).code == 0
    later = tenant.push(p=A, q=A)
    tenant.forge.proposals[6] = (later, "main")
    tenant.forge.merge(6, later)
    tenant.push(p=RISKY)  # without a pull request
    assert (tenant.apply().code, tenant.live) == (4, {"p": "a", "q": "a"})


def test_a_comment_that_is_replaced_once_it_was_merged_approves_nothing(
    tenant: TenantOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that began before the merge ends after it, and shows what was not read."""
    tenant.refuses = False
    tenant.write(p=RISKY)
    assert tenant.work.comment(5).code == 0
    tenant.work.project.policy("new", B)
    comment = ForgeClient.comment

    def late(client: ForgeClient, body: str, old: Comment | None) -> None:
        tenant.forge.merge(5, tenant.push())
        comment(client, body, old)

    with monkeypatch.context() as merging:
        merging.setattr(ForgeClient, "comment", late)
        assert tenant.work.comment(5).code == 0
    assert "`new`" in tenant.forge.bodies[0]
    ran = tenant.apply()
    assert (ran.code, tenant.live) == (4, {"p": "a", "q": "a"})
    assert " approved no plan: its comment was changed at the time of the merge or since" in ran.err


@pytest.mark.parametrize("noted", [True, False])
def test_a_pull_request_does_not_approve_the_safety_settings_that_a_push_brought(tenant: TenantOf, noted: bool) -> None:
    """They are in the base of its plan, so its page does not show them."""
    tenant.refuses = False
    tenant.merge(5, p=B)
    if noted:
        assert tenant.apply().code == 0
    tenant.loosen()
    tenant.push()
    tenant.work.settle()
    tenant.merge(6, q=B)
    assert "max_removes" not in tenant.forge.comments[6][0]["body"]
    ran = tenant.apply()
    assert (ran.code, tenant.live["q"]) == (4, "a")
    assert "a change of the remote or of the safety settings was in no approved plan" in ran.err
    assert by_hand(tenant.work).code == 0
    tenant.work.settle()
    tenant.merge(7, q=A)  # what a person applied is in use
    assert (tenant.apply().code, tenant.live["q"]) == (0, "a")


@pytest.mark.parametrize("several", [(), ("--all",)])
@pytest.mark.parametrize("noted", [False, True])
def test_settings_that_a_push_brought_before_any_were_noted_are_not_approved(
    noted: bool, several: tuple[str, ...], tenant: TenantOf
) -> None:
    """They are in the base of every plan, so that a guard is gone shows in the history of policyctl.yaml alone: also where a
    run noted that a merge had nothing to do under them."""
    settings = CONFIG.replace("URL", tenant.url)
    for guards in ("guards: {deny_providers: [evil]}\n", ""):
        tenant.work.project.write("policyctl.yaml", settings + guards)
        tenant.push()
    tenant.work.settle()
    if noted:
        tenant.merge(5, *several)
        assert tenant.work.on_main("ci", "applied", *several).code == 0
        assert tenant.forge.bodies[0].endswith(f"<!-- policyctl {APPLIED} -->\n")
        tenant.work.settle()
    tenant.merge(6, *several, q="virtual-model/evil/m")
    page = tenant.forge.comments[6][0]["body"]
    assert ("1 to update" in page, "deny_providers" in page) == (True, False)
    ran = tenant.work.on_main("ci", "approved", *several)
    assert (ran.code, ran.out.strip()) == (0, NONE)
    assert "a change of the remote or of the safety settings was in no approved plan" in ran.err


@pytest.mark.parametrize("shown", [True, False])
def test_settings_that_approved_plans_show_need_no_note(shown: bool, tenant: TenantOf) -> None:
    tenant.refuses = False
    settings = CONFIG.replace("URL", tenant.url)
    tenant.work.project.write("policyctl.yaml", f"{settings}limits: {{max_removes: 999}}\n")
    if not shown:
        tenant.push()
        tenant.work.settle()
    tenant.merge(5, p=B)
    assert ("max_removes" in tenant.forge.bodies[0]) == shown
    ran = tenant.apply()
    assert (ran.code, tenant.live["p"]) == ((0, "b") if shown else (4, "a"))


def test_what_was_shown_before_settings_were_changed_does_not_count_after_that(tenant: TenantOf) -> None:
    """Its merge took the settings away under which its page showed a removal, and a later one brings them back."""
    tenant.refuses = False
    settings = CONFIG.replace("URL", tenant.url)
    (tenant.work.project.policies / "p.yaml").unlink()
    tenant.work.project.write("policyctl.yaml", f"{settings}prune: false\n")
    tenant.merge(5)
    assert "1 to remove" in tenant.forge.bodies[0]
    tenant.work.settle()
    tenant.work.project.write("policyctl.yaml", settings)
    tenant.merge(6, q=B)
    assert "1 to update" in tenant.forge.comments[6][0]["body"]
    ran = tenant.apply()
    assert (ran.code, tenant.live) == (4, {"p": "a", "q": "a"})
    assert re.search("pull request .5 \\(a later one changed the settings\\)", ran.err)


def test_settings_are_not_shown_by_the_page_of_another_pull_request_of_the_same_commit(tenant: TenantOf) -> None:
    """The one that was merged has no page, and the other one was read by no person."""
    tenant.refuses = False
    tenant.loosen()
    assert tenant.work.comment(5).code == 0
    assert "max_removes" in tenant.forge.bodies[0]
    tenant.forge.proposals[4] = tenant.forge.proposals[5]
    end = tenant.push()
    for number in (4, 5):
        tenant.forge.merge(number, end)
        tenant.forge.now -= 1  # both in one second
    tenant.forge.now += 1
    tenant.work.settle()
    tenant.merge(6, q=B)
    ran = tenant.apply()
    assert (ran.code, tenant.live["q"]) == (4, "a")
    assert "a change of the remote or of the safety settings was in no approved plan" in ran.err


@pytest.mark.parametrize("pushed", [False, True])
def test_settings_that_were_noted_further_back_than_merges_are_read_need_a_person(pushed: bool, tenant: TenantOf) -> None:
    """Among so many others could be one that changed the settings, and that was on no page."""
    tenant.refuses = False
    tenant.work.project.write("policyctl.yaml", CONFIG.replace("URL", tenant.url) + "limits: {max_removes: 3}\n")
    tenant.merge(5, p=B)
    assert tenant.apply().code == 0
    if pushed:
        tenant.loosen()
        tenant.push()
    tenant.work.settle()
    for number in range(1000, 1100):
        tenant.forge.merge(number)
    tenant.merge(6, q=B)
    ran = tenant.apply()
    assert (ran.code, tenant.live["q"]) == (4, "a")
    assert "what was noted further back than the last 100 merged pull requests is not read" in ran.err
    assert by_hand(tenant.work).code == 0
    assert tenant.live["q"] == "b"


def test_what_a_push_brought_is_not_noted_as_in_use_where_nothing_was_written(tenant: TenantOf) -> None:
    tenant.refuses = False
    tenant.merge(5, p=B)
    assert tenant.apply().code == 0
    tenant.work.settle()
    tenant.merge(6)  # whose plan is empty
    tenant.loosen()
    tenant.push()
    assert tenant.apply().code == 0
    assert tenant.forge.comments[6][0]["body"].endswith(f"<!-- policyctl {APPLIED} -->\n")
    tenant.work.settle()
    tenant.merge(7, q=B)
    ran = tenant.apply()
    assert (ran.code, tenant.live["q"]) == (4, "a")
    assert "a change of the remote or of the safety settings was in no approved plan" in ran.err


def by_hand(work: Work, digest: str | None = None) -> Ran:
    """The steps of the workflow that a person starts with the digest of the plan."""
    digest = digest or json.loads(work.on_main("plan", "--format", "json").out)["digest"]
    given = work.on_main("ci", "approved", "--digest", digest, "--out", "overrides.json")
    if given.code == 4:  # settings that are on no page, which this person reads
        digest += hash_in(given)
        given = work.on_main("ci", "approved", "--digest", digest, "--out", "overrides.json")
    ran = work.on_main("apply", "--yes", "--expect-digest", given.out.strip(), "--overrides", "overrides.json")
    return ran if given.code or ran.code else work.on_main("ci", "applied", "--digest", digest)


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("writes", [True, False])
def test_settings_that_a_person_approved_are_noted_where_nothing_waits_or_is_written(
    waits: bool, writes: bool, tenant: TenantOf
) -> None:
    tenant.refuses = False
    tenant.merge(5, p=B)
    assert tenant.apply().code == 0
    tenant.work.settle()
    if waits:
        tenant.merge(6)
    tenant.loosen()
    tenant.push(**({"q": RISKY} if writes else {}))
    ran = by_hand(tenant.work)
    assert (ran.code, "nothing is noted" in ran.err) == (0, False)
    tenant.work.settle()
    tenant.merge(7, q=B)
    assert (tenant.apply().code, tenant.live["q"]) == (0, "b")


@pytest.mark.parametrize(
    "pushed",
    [
        "limits: {max_removes: 9}",
        "watch: {apply: on-merge, heal: always}",
        CONFIG.splitlines()[-1].replace("}}}", "}, suspend: {reason: x, until: 2020-01-01}}}"),
    ],
)
def test_a_person_approves_exactly_the_settings_that_they_read(pushed: str, tenant: TenantOf) -> None:
    """Some of them do not change the plan, so its digest alone does not cover them."""
    tenant.merge(5, p=B)
    tenant.loosen()
    tenant.push()
    digest = json.loads(tenant.work.on_main("plan", "--format", "json").out)["digest"]
    read = hash_in(tenant.work.on_main("ci", "approved"))
    assert tenant.work.on_main("ci", "approved", "--digest", digest + read).code == 0
    settings = (tenant.work.project.policies / "policyctl.yaml").read_text("utf-8").splitlines()
    key = pushed.partition(":")[0]
    kept = [line for line in settings if not line.startswith(f"{key}:")]
    tenant.work.project.write("policyctl.yaml", "\n".join([*kept, pushed.replace("URL", tenant.url), ""]))
    tenant.push()
    for given in (digest, digest + read):
        ran = tenant.work.on_main("ci", "approved", "--digest", given)
        assert (ran.code, ran.out, read in ran.err) == (4, "", False)
        assert hash_in(ran) != read


def test_the_first_apply_of_an_environment_is_noted_on_a_merge_without_a_page_for_it(tenant: TenantOf) -> None:
    """Only the way to it is new, and no other environment is affected."""
    tenant.refuses = False
    tenant.forge.merge(4, tenant.push())
    ran = by_hand(tenant.work)
    assert "noted on pull request " in ran.err
    (note,) = tenant.forge.comments[4]
    assert note["body"].startswith("<!-- policyctl:plan environment=prod ")
    assert "A person approved the settings of prod at " in note["body"]
    assert "none that waits to be applied has a comment for prod" in by_hand(tenant.work).err
    assert len(tenant.forge.comments[4]) == 1
    tenant.work.settle()
    tenant.merge(5, p=B)
    assert (tenant.apply().code, tenant.live["p"]) == (0, "b")


def test_the_first_settings_that_a_push_brought_are_not_noted_as_approved_by_a_run_without_changes(work: Work) -> None:
    """Their environment needs no login, and live is as the files already."""
    work.project.write("policyctl.yaml", "default: local\nenvironments: {local: {}}\n")
    work.settle()
    prod = "default: prod\nenvironments: {local: {}, prod: {limits: {max_removes: 999}}}\n"
    work.project.write("policyctl.yaml", prod)
    work.settle()
    assert work.policyctl("apply", "--yes").code == 0
    assert work.comment(5).code == 0
    work.forge.merge(5)
    assert (work.apply().code, work.on_main("ci", "applied").code) == (0, 0)
    work.settle()
    work.add("new")
    assert work.comment(6).code == 0
    assert "max_removes" not in work.forge.comments[6][0]["body"]
    work.forge.merge(6, work.commit())
    ran = work.apply()
    assert (ran.code, "new" in work.live) == (4, False)
    assert "a change of the remote or of the safety settings was in no approved plan" in ran.err


def test_a_start_by_hand_for_an_empty_plan_only_approves_no_settings(tenant: TenantOf) -> None:
    tenant.refuses = False
    tenant.merge(5, p=B)
    assert tenant.apply().code == 0
    tenant.loosen()
    tenant.push()
    assert "none that waits to be applied has a comment for prod" in by_hand(tenant.work, NONE).err
    tenant.work.settle()
    tenant.merge(7, q=B)
    assert tenant.apply().code == 4


def test_what_a_person_starts_by_hand_uses_what_waits(tenant: TenantOf) -> None:
    tenant.merge(5, p=RISKY, q=B)
    digest = json.loads(tenant.work.on_main("plan", "--format", "json").out)["digest"]
    by_hand = tenant.work.on_main("ci", "approved", "--digest", digest, "--out", "overrides.json").out.strip()
    assert by_hand == digest
    assert "Used by" not in tenant.forge.bodies[0]
    ran = tenant.work.on_main("apply", "--yes", "--expect-digest", digest, "--overrides", "overrides.json")
    assert (ran.code, tenant.noted) == (5, [True, True])
    tenant.refuses = False
    tenant.push(p=A)
    tenant.push(p=RISKY)
    assert tenant.work.on_main("ci", "approved").out.strip() == NONE


@pytest.mark.parametrize("back", [True, False])
def test_what_a_person_approved_is_not_applied_again_by_starting_the_old_run_again(back: bool, tenant: TenantOf) -> None:
    """A service keeps what a run was given: the digest, and what it overrides. Others may start it again, also when the files
    are back to what they were then."""
    tenant.refuses = False
    old = tenant.push(p=RISKY)
    digest = json.loads(tenant.work.on_main("plan", "--format", "json").out)["digest"]
    by_hand = "ci", "approved", "--digest", digest, "--out", "overrides.json"
    assert tenant.work.on_main(*by_hand).code == 0
    ran = tenant.work.on_main("apply", "--yes", "--expect-digest", digest, "--overrides", "overrides.json")
    assert (ran.code, tenant.live["p"]) == (0, "risky")
    tenant.work.settle()
    tenant.merge(6, p=A)
    assert (tenant.apply().code, tenant.live["p"]) == (0, "a")
    if back:
        tenant.push(p=RISKY)
        tenant.forge.changed = {old: []}
    git(tenant.work.project.folder, "checkout", "--quiet", "--force", old)
    tenant.forge.commit = old
    again = tenant.work.on_main(*by_hand)
    assert (again.code, again.out) == (4, "")
    assert "main has moved on to " in again.err


def test_what_a_person_gives_by_hand_counts_in_the_first_attempt_of_a_run(
    tenant: TenantOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an emergency the policy was put back, and another person starts the run again. GitLab does not show that to a job."""
    tenant.push(p=RISKY)
    monkeypatch.setenv("GITHUB_RUN_ATTEMPT", "2")
    digest = json.loads(tenant.work.on_main("plan", "--format", "json").out)["digest"]
    ran = tenant.work.on_main("ci", "approved", "--digest", digest)
    if tenant.forge.kind == "github":
        assert (ran.code, ran.out, "this run was started again; start a new one" in ran.err) == (4, "", True)
    else:
        assert ran.code == 0


def test_what_a_person_began_by_hand_and_did_not_finish_is_no_obstacle_for_the_next_one(tenant: TenantOf) -> None:
    """Here a pull request whose plan was made for an earlier commit waits, which both use."""
    tenant.write(p=B)
    assert tenant.work.comment(5).code == 0
    tenant.forge.proposals[5] = ("d" * 40, "main")
    tenant.forge.merge(5, tenant.push())
    digest = json.loads(tenant.work.on_main("plan", "--format", "json").out)["digest"]
    assert tenant.work.on_main("ci", "approved", "--digest", digest).code == 0  # notes it, and ends
    assert "Used by" in tenant.forge.bodies[0]
    tenant.refuses = False
    tenant.push(q=B)
    assert (by_hand(tenant.work).code, tenant.live) == (0, {"p": "b", "q": "b"})


def test_nothing_is_noted_as_applied_where_all_is_suspended(tenant: TenantOf) -> None:
    tenant.refuses = False
    tenant.merge(5, "--all", p=B)
    text = (tenant.work.project.policies / "policyctl.yaml").read_text("utf-8")
    tenant.work.project.write("policyctl.yaml", text.replace("}}}", "}, suspend: {reason: x}}}"))
    tenant.push()
    ran = tenant.work.on_main("ci", "applied", "--all")
    assert "is suspended" in ran.err
    assert not tenant.forge.bodies[0].endswith(f"<!-- policyctl {APPLIED} -->\n")


@pytest.mark.parametrize("noted", [0, -1])
def test_merges_count_in_the_order_of_the_branch(noted: int, tenant: TenantOf) -> None:
    """A queue merges several at once, whatever their numbers are, and the service notes each in its own time: here the first
    one in the same second, or later. What was planned before the settings changed is older."""
    folder = tenant.work.project.folder
    git(folder, "switch", "--quiet", "--create=settings")
    tenant.loosen()
    assert tenant.work.comment(20).code == 0
    git(folder, "switch", "--quiet", "main")
    tenant.write(p=RISKY)
    assert tenant.work.comment(21).code == 0
    planned = tenant.push()
    git(folder, "merge", "--quiet", "--no-ff", "--message=x", "settings")
    tenant.forge.commit = tenant.forge.head = git(folder, "rev-parse", "HEAD").strip()
    tenant.forge.merge(20)
    tenant.forge.now -= 1 + noted
    tenant.forge.merge(21, planned)
    ran = tenant.apply()
    assert (ran.code, tenant.live["p"]) == (4, "a")
    assert re.search("pull request .21 \\(a later one changed the settings\\)", ran.err)


@pytest.mark.parametrize("taken_back", ["by the branch", "with a page", "without one"])
@pytest.mark.parametrize("settings", [False, True])
def test_what_a_fast_forwarded_branch_had_taken_in_approves_nothing(taken_back: str, settings: bool, tenant: TenantOf) -> None:
    """By first parents the commits of the main branch are not in its line any more. The branch, or another one before it, took
    back what the page of an older one showed."""
    tenant.refuses = False
    folder, config = tenant.work.project.folder, CONFIG.replace("URL", tenant.url)
    git(folder, "branch", "later")

    def change(back: bool) -> None:
        if settings:
            tenant.work.project.write("policyctl.yaml", config + ("" if back else "prune: false\n"))
            (tenant.work.project.policies / "p.yaml").unlink(missing_ok=True)
        else:
            tenant.write(p=A if back else RISKY)

    def merged(number: int, *how: str) -> None:
        git(folder, "switch", "--quiet", "main")
        git(folder, "merge", "--quiet", *how)
        tenant.forge.merge(number, tenant.push())
        tenant.work.settle()

    git(folder, "switch", "--quiet", "--create=squashed")
    git(folder, "commit", "--quiet", "--allow-empty", "--message=x")
    change(back=False)
    assert tenant.work.comment(4).code == 0
    merged(4, "--squash", "squashed")
    if taken_back == "without one":
        git(folder, "branch", "--force", "later")  # so the older merge is still in the line
    if taken_back != "by the branch":
        git(folder, "switch", "--quiet", "--create=forwarded")
        change(back=True)
        tenant.forge.proposals[5] = (tenant.work.commit(), "main")
        assert taken_back == "without one" or tenant.work.comment(5).code == 0
        merged(5, "--ff-only", "forwarded")
    git(folder, "switch", "--quiet", "later")
    git(folder, "commit", "--quiet", "--allow-empty", "--message=y")
    git(folder, "merge", "--quiet", "--no-ff", "--no-commit", "main")
    change(back=True)
    if taken_back != "by the branch":  # it changes nothing here, and has no page
        tenant.forge.proposals[7], tenant.forge.files[7] = (tenant.work.commit(), "main"), ["README.md"]
    else:
        assert tenant.work.comment(7).code == 0
    merged(7, "--ff-only", "later")
    tenant.push(**({} if settings else {"p": RISKY}))
    ran = tenant.apply()
    assert (ran.code, tenant.live["p"]) == (4, "a")
    assert re.search("approved no plan: the branch was fast-forwarded", ran.err)


def test_what_came_along_with_a_merge_replaces_nothing_whatever_the_service_names(tenant: TenantOf) -> None:
    """A pull request that another one was made on top of: the service may name its own commit as what it was merged with."""
    tenant.refuses = False
    folder = tenant.work.project.folder
    git(folder, "switch", "--quiet", "--create=below")
    git(folder, "commit", "--quiet", "--allow-empty", "--message=x")
    assert tenant.work.comment(5).code == 0
    git(folder, "switch", "--quiet", "--create=above")
    tenant.write(p=B)
    assert tenant.work.comment(6).code == 0
    git(folder, "switch", "--quiet", "main")
    tenant.merge(4, q=B)
    git(folder, "merge", "--quiet", "--no-ff", "--message=x", "above")
    tenant.forge.commit = tenant.forge.head = git(folder, "rev-parse", "HEAD").strip()
    tenant.forge.merge(6)
    tenant.forge.merge(5, tenant.forge.proposals[5][0])
    ran = tenant.apply()
    assert (ran.code, tenant.live) == (0, {"p": "b", "q": "b"}), ran.err


def test_settings_are_not_shown_by_what_a_merge_without_a_page_may_have_brought(tenant: TenantOf) -> None:
    """Without merge commits, GitLab may note it as merged a moment before the one that brought it."""
    tenant.refuses = False
    folder = tenant.work.project.folder
    git(folder, "switch", "--quiet", "--create=further")
    tenant.loosen()
    assert tenant.work.comment(5).code == 0
    git(folder, "commit", "--quiet", "--allow-empty", "--message=x")
    tenant.forge.proposals[7] = (git(folder, "rev-parse", "HEAD").strip(), "main")
    git(folder, "switch", "--quiet", "main")
    git(folder, "merge", "--quiet", "--ff-only", "further")
    for number in (5, 7):
        tenant.forge.commit = tenant.forge.head = tenant.forge.proposals[7][0]
        tenant.forge.merge(number, tenant.forge.proposals[number][0])
    tenant.work.settle()
    tenant.merge(8, q=B)
    assert "max_removes" not in tenant.forge.comments[8][0]["body"]
    assert (tenant.apply().code, tenant.live["q"]) == (4, "a")


def test_what_is_older_is_noted_as_applied_first(tenant: TenantOf, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant.refuses = False
    tenant.merge(5, p=B)
    tenant.merge(6, q=B)
    assert tenant.work.apply().code == 0
    rewrite, noted = ForgeClient.rewrite, list[str]()

    def once(client: ForgeClient, old: Comment, body: str) -> None:
        if noted:
            raise NotAllowed("slow down")
        noted.append(body)
        rewrite(client, old, body)

    monkeypatch.setattr(ForgeClient, "rewrite", once)
    ran = tenant.work.on_main("ci", "applied")
    assert (ran.code, noted) == (0, [tenant.forge.comments[5][0]["body"]])
    assert "not every merged pull request could be noted as applied: slow down" in ran.err


def test_notes_that_the_token_may_not_read_do_not_hide_those_after_them(tenant: TenantOf) -> None:
    """GitLab takes them out of a page, which is shorter then and not the last one."""
    tenant.refuses = False
    for _ in range(100):
        tenant.forge.write("mentioned elsewhere", "stranger")["unreadable"] = True
    tenant.merge(5, p=B)
    assert (tenant.apply().code, tenant.live["p"]) == (0, "b")


def test_remarks_on_older_pull_requests_do_not_hide_the_last_one_that_was_applied(tenant: TenantOf) -> None:
    """The service lists them as they were last updated, a hundred at a time."""
    tenant.refuses = False
    tenant.merge(5, p=RISKY)
    waiting = dict(tenant.forge.comments[5][0])
    assert tenant.apply().code == 0
    tenant.work.settle()
    tenant.merge(6, p=A)
    assert (tenant.apply().code, tenant.live["p"]) == (0, "a")
    tenant.forge.comments[5][0].update(waiting)  # as if noting it had failed
    for number in range(1000, 1150):
        tenant.forge.merges.insert(0, {**tenant.forge.merges[0], "number": number, "iid": number})
    for one in tenant.forge.merges[:-1]:
        one["updated_at"] = "2026-02-01T00:00:00Z"
    tenant.push(p=RISKY)  # without a pull request
    assert tenant.work.on_main("ci", "approved").out.strip() == NONE


# A watch


@contextmanager
def watching() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "policyctl", "watch", "--poll", "1s", "--interval", "1s", "--port", "0"]
    environ = {name: one for name, one in os.environ.items() if not name.startswith("PYTEST")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ) as process:
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(LONGEST) == 0
        finally:
            process.kill()


def line_with(process: subprocess.Popen[str], text: str) -> str:
    """The next line of output with a text."""
    assert process.stdout is not None
    return next(line for line in process.stdout if text in line)


@pytest.fixture
def watched(tenant: TenantOf) -> TenantOf:
    tenant.watch = "yes"
    tenant.configure()
    tenant.push()
    tenant.work.settle()
    return tenant


@pytest.mark.parametrize("what", ["the way in", "no approvals"])
def test_a_watch_takes_nothing_as_approved_because_many_others_were_merged_since(
    what: str, watched: TenantOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is older than the merges that are read counts as applied, but this watch knows what was approved."""
    monkeypatch.setattr(merges, "LOOKED", 2)
    watched.refuses = False
    watched.merge(5, p=B)
    assert "applied: Git moved" in watched.work.policyctl("watch", "--once").out
    seen = list[str | None]()
    with standing_in(lambda one: seen.append(one.authorization) or Reply(404)) as other:
        if what == "the way in":
            watched.work.project.write("policyctl.yaml", CONFIG.replace("URL", other.url))
        else:
            watched.configure(approved="false")
        watched.push()
        for number in (6, 7, 8):
            watched.forge.files[number] = ["README.md"]
            watched.forge.merge(number, watched.push())
        watched.work.policyctl("watch", "--once")
        watched.push(q=EVIL)
        watched.work.policyctl("watch", "--once")
    assert (seen, watched.live) == ([], {"p": "b", "q": "a"})


@pytest.mark.slow
def test_a_watch_does_not_use_an_approval_twice_while_something_fails(watched: TenantOf) -> None:
    with watching() as process:
        watched.merge(5, p=RISKY, q=B)
        line_with(process, "prod  failed ")
        assert watched.live == {"p": "risky", "q": "a"}
        watched.merge(6, p=A)
        while watched.live["p"] != "a":
            line_with(process, "prod  ")
        watched.push(p=RISKY)  # without a pull request
        assert "virtual-policy/p, virtual-policy/q; waits for an approval: merged" in line_with(
            process, "(used by an apply of "
        )
    assert watched.live == {"p": "a", "q": "a"}
    assert watched.noted
    assert all(watched.noted)


@pytest.mark.slow
def test_a_watch_goes_on_after_a_commit_that_changes_none_of_its_files(watched: TenantOf) -> None:
    with watching() as process:
        watched.merge(5, p=RISKY, q=B)
        line_with(process, "prod  failed ")
        watched.push()
        watched.refuses = False
        line_with(process, "prod  in_sync ")
    assert watched.live == {"p": "risky", "q": "b"}


@pytest.mark.parametrize("moved", [False, True])
def test_a_watch_that_begins_anew_goes_on_at_the_same_commit_only(moved: bool, watched: TenantOf) -> None:
    """Where a watch that was killed ended is not known."""
    watched.merge(5, p=RISKY, q=B)
    assert watched.work.policyctl("watch", "--once").code == 1
    assert watched.live == {"p": "risky", "q": "a"}
    watched.refuses = False
    if moved:
        watched.push()
    ran = watched.work.policyctl("watch", "--once")
    assert (("waits for an approval: merged and not applied yet: " in ran.out), watched.live["q"]) == (
        (True, "a") if moved else (False, "b")
    )


def test_an_apply_in_part_does_not_release_what_needs_approvals(watched: TenantOf) -> None:
    """The settings that a push brings were not approved by what was."""
    watched.merge(5, p=B, q=B)
    assert watched.work.policyctl("watch", "--once").code == 1
    watched.configure(approved="false")
    watched.push(q=A)
    assert "in_sync" in watched.work.policyctl("watch", "--once").out
    watched.push(p=EVIL)
    assert (
        "waits for an approval: a change of the remote or of the safety settings was in no plan of a merged pull request"
        in watched.work.policyctl("watch", "--once").out
    )
    assert watched.live == {"p": "b", "q": "a"}


@pytest.mark.parametrize("seen", [False, True])
def test_what_people_applied_and_took_back_is_used_up_at_the_first_look(seen: bool, watched: TenantOf) -> None:
    """Although nothing moved when the watch looks, whether it was here before or not."""
    if seen:
        assert watched.work.policyctl("watch", "--once").code == 0
    watched.refuses = False
    watched.merge(5, p=RISKY)
    assert watched.work.policyctl("apply", "--yes").code == 0
    watched.push(p=A)
    assert watched.work.policyctl("apply", "--yes").code == 0
    assert watched.work.policyctl("watch", "--once").code == 0
    assert watched.forge.bodies[0].endswith("<!-- policyctl applied -->\n")
    watched.push(p=RISKY)
    assert "waits for an approval" in watched.work.policyctl("watch", "--once").out
    assert watched.live["p"] == "a"


@contextmanager
def kept_from_writing(how: str) -> Iterator[None]:
    """A watch that does not write what it decided to apply."""
    decided, stopped = EnvironmentWork.unapproved, threading.Event()

    def ended(work: EnvironmentWork, name: str, look: Look) -> str | None:
        why = decided(work, name, look)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.wait(LONGEST)
        return why

    def stop(work: EnvironmentWork) -> None:
        work.stopped = True
        stopped.set()

    with pytest.MonkeyPatch.context() as patched:
        if how == "withdrawn":
            patched.setattr(EnvironmentWork, "_applied", lambda *_: None)
        elif how == "the lock is held":
            patched.setattr(watch_work, "apply_plan", raising(Refused("another apply holds the lock")))
        elif how == "the look before the write fails":
            patched.setattr(apply, "look_up", raising(RemoteError("away")))
        else:
            patched.setattr(EnvironmentWork, "unapproved", ended)
            patched.setattr(EnvironmentWork, "stop", stop)
        yield


def raising(error: Exception) -> Callable[..., None]:
    def asked(*_: object) -> None:
        raise error

    return asked


@pytest.mark.parametrize("how", ["withdrawn", "stopped", "the lock is held", "the look before the write fails"])
def test_what_wrote_nothing_uses_no_approval(how: str, watched: TenantOf) -> None:
    """Whatever kept it from that; what is merged next is applied with it."""
    watched.refuses = False
    watched.merge(5, p=RISKY, q=B)
    approved = watched.forge.bodies[0]
    with kept_from_writing(how):
        watched.work.policyctl("watch", "--once")
    assert (watched.forge.bodies[0], watched.noted) == (approved, [])
    watched.work.project.policy("p", A)
    watched.work.project.policy("q", A)
    watched.merge(6, web=B)  # planned without the other
    watched.push(p=RISKY, q=B)
    assert watched.work.policyctl("watch", "--once").code == 0
    assert watched.live == {"p": "risky", "q": "b", "web": "b"}
    assert watched.noted
    assert all(watched.noted)


@pytest.mark.parametrize("lost", [False, True], ids=["refused", "the answer is lost"])
def test_approvals_of_which_one_cannot_be_noted_are_all_unused(
    lost: bool, watched: TenantOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.refuses = False
    watched.merge(5, p=RISKY)
    watched.work.settle()
    watched.merge(6, q=B)
    rewrite, wrote = ForgeClient.rewrite, list[str]()

    def fails(client: ForgeClient, old: Comment, body: str) -> None:
        wrote.append(old.path)
        if len(wrote) != 2 or lost:
            rewrite(client, old, body)
        if len(wrote) == 2:
            raise RemoteError("away")

    with monkeypatch.context() as failing:
        failing.setattr(ForgeClient, "rewrite", fails)
        assert "it cannot be noted that an approval is used: away" in watched.work.policyctl("watch", "--once").out
    bodies = [one["body"] for number in (5, 6) for one in watched.forge.comments[number]]
    assert ([found for found in bodies if "Used by" in found], watched.noted) == ([], [])
    watched.work.settle()
    watched.merge(7, web=B)
    assert watched.work.policyctl("watch", "--once").code == 0
    assert watched.live == {"p": "risky", "q": "b", "web": "b"}


@pytest.mark.parametrize("by", ["the workflow", "a watch"])
def test_what_was_replaced_before_it_was_applied_is_not_noted_as_applied(by: str, watched: TenantOf) -> None:
    watched.refuses = False
    watched.merge(5, p=RISKY)
    watched.work.settle()
    watched.merge(6, p=A)
    watched.work.settle()
    watched.merge(7, q=B)
    assert watched.work.policyctl("apply", "--yes").code == 0
    noting = watched.work.on_main("ci", "applied") if by == "the workflow" else watched.work.policyctl("watch", "--once")
    assert noting.code == 0
    assert watched.live == {"p": "a", "q": "b"}
    notes = [watched.forge.comments[number][-1]["body"].split("\n\n")[-2] for number in (5, 6, 7)]
    assert [note.startswith("Applied") for note in notes] == [False, True, True]
    assert notes[0] == "Replaced by what was merged later."


def test_what_was_noted_by_another_meanwhile_stays() -> None:
    body = f"<!-- x -->\n\nUsed by it.\n\nApplied.\n\n<!-- policyctl {APPLIED} -->\n"
    assert not_begun(body, "Used by it.") == body


def test_what_is_merged_while_a_watch_settles_is_not_noted_as_applied(
    watched: TenantOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.refuses = False
    watched.merge(5, p=B)
    watched.write(p=RISKY)
    assert watched.work.comment(6).code == 0
    asked = why_not_head

    def merged(*args: Any) -> NotHead | None:
        why = asked(*args)
        if watched.live["p"] == "b" and len(watched.forge.merges) == 1:
            watched.forge.merge(6, "d" * 40)
        return why

    monkeypatch.setattr(watch_source, "why_not_head", merged)
    watched.push(p=B)
    assert watched.work.policyctl("watch", "--once").code == 0
    assert len(watched.forge.merges) == 2
    assert watched.forge.comments[5][0]["body"].endswith(f"<!-- policyctl {APPLIED} -->\n")
    assert "<!-- policyctl sha256:" in watched.forge.comments[6][0]["body"]
