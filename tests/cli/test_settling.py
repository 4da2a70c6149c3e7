"""What a watch reads of merged pull requests when its environments are in sync: once for all of them, and once more later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from policyctl.ci.comments import approval_in, begun, comment_marker
from policyctl.ci.forge import Comment, Merge
from policyctl.cli import watch_source
from policyctl.cli.ci.merges import ApprovalPlace
from policyctl.cli.watch_source import LookedPlan, Taken, UsedApprovals
from policyctl.errors import RemoteError
from policyctl.plan.approval import APPLIED, Proposal
from policyctl.plan.fleet import EnvironmentResult
from policyctl.watch.look import Look, Settled
from tests.conftest import Project
from tests.git_repo import commit

NAMES = [f"env-{number}" for number in range(20)]
WAITING = f"sha256:{'0' * 64}"
LATE = 61.0  # seconds


class Service:
    """Merged pull requests, each with a comment for every environment, and what was asked of it."""

    branch, commit, link = "main", "c" * 40, ""

    def __init__(self) -> None:
        self.merged: list[Merge] = []
        self.bodies: dict[str, list[str]] = {}
        self.asked = Counter[str]()
        self.fails = False

    def merge(self, number: str, state: str, *names: str) -> None:
        """A newer pull request, whose plans for these environments are applied, or wait."""
        self.merged.insert(0, Merge(number, f"#{number}", datetime.now(UTC), Proposal(number * 40, "main"), number * 40))
        self.bodies[number] = [f"{comment_marker(name, 'policies')}\n\ntext\n\n<!-- policyctl {state} -->\n" for name in names]

    def merges(self, _branch: str) -> Iterator[Merge]:
        self.asked["list"] += 1
        if self.fails:
            raise RemoteError("it does not answer")
        yield from self.merged

    def comments_on(self, merge: Merge) -> list[Comment]:
        self.asked["comments"] += 1
        return [Comment(f"{merge.number}/{place}", body) for place, body in enumerate(self.bodies[merge.number])]

    def head(self, _branch: str) -> str:
        self.asked["head"] += 1
        return self.commit

    def rewrite(self, old: Comment, body: str) -> None:
        number, _, place = old.path.partition("/")
        self.bodies[number][int(place)] = body

    def waits(self, number: str, name: str) -> bool:
        found = approval_in(self.bodies[number], name, "policies")
        return found is not None and found.digest != APPLIED


@pytest.fixture
def service(project: Project, monkeypatch: pytest.MonkeyPatch) -> Service:
    """For a repository, which is the working directory."""
    commit(project.folder)
    found = Service()

    @contextmanager
    def opened(_: object) -> Iterator[Service]:
        yield found

    monkeypatch.setattr(watch_source, "_forge", opened)
    return found


class Watching:
    """The approvals of a watch, with a clock of its own."""

    def __init__(self) -> None:
        self.now, self.shown = 1000.0, True
        self.approvals = UsedApprovals(lambda: self.now)
        self.use()

    def use(self) -> None:
        """Another revision."""
        self.now += 1
        self.approvals.use(dict.fromkeys(NAMES, "files"))
        self.now += 1

    def settle(self, name: str) -> Settled | None:
        place = ApprovalPlace(name, "policies", Path(), ())
        more = {"place": "policies", "referred": (), "commit": "head", "approvals_for": lambda _: place}
        opened = cast("Any", SimpleNamespace(**more, shown=lambda *_: self.shown))
        look = Look(EnvironmentResult(name, "planned"), {}, fingerprint="files", plan=LookedPlan(opened, "known"))
        return self.approvals.settle(look, name)

    def settle_all(self) -> list[str]:
        """As a watch does for environments that are in sync, the second time where it is needed. Returns where."""
        owing = [name for name in NAMES if self.approvals.owes(name)]
        for name in owing:
            self.settle(name)
        return owing


def test_what_was_merged_is_read_once_for_all_environments_of_a_revision(service: Service) -> None:
    watch = Watching()
    service.merge("1", APPLIED, *NAMES)
    service.merge("2", WAITING)  # for none of them
    for times in (1, 2):
        for name in NAMES:
            watch.settle(name)
        assert service.asked == {"list": times, "comments": 2 * times}
        watch.use()


def test_merges_without_a_comment_of_ours_are_not_asked_for_one_at_each_revision(service: Service) -> None:
    watch = Watching()
    service.merge("1", APPLIED, *NAMES)
    for number in "2345678":
        service.merge(number, WAITING)  # by other teams
    service.bodies["5"] = ["a comment of another tool"]
    for asked in (8, 8, 1, 1):
        service.asked.clear()
        for name in NAMES:
            watch.settle(name)
        assert service.asked["comments"] == asked
        watch.use()
    service.merge("9", WAITING, *NAMES)
    for name in NAMES:
        watch.settle(name)
    assert not any(service.waits("9", name) for name in NAMES)


def test_what_waits_is_read_anew_before_it_is_noted_as_applied(service: Service) -> None:
    watch = Watching()
    service.merge("1", APPLIED, *NAMES)
    service.merge("2", WAITING, *NAMES[:2])
    watch.settle(NAMES[5])
    service.bodies["2"][0] = service.bodies["2"][0].replace("text", "a note of another")
    for name in NAMES:
        watch.settle(name)
    assert not any(service.waits("2", name) for name in NAMES)
    assert "a note of another" in service.bodies["2"][0]
    assert service.asked == {"list": 5, "comments": 2 + 2 * 4, "head": 2}  # twice for each of the two


def test_what_the_service_lists_late_is_noted_as_applied_too(service: Service) -> None:
    """Once more for each environment, and once for all of them."""
    watch = Watching()
    service.merge("1", APPLIED, *NAMES)
    for name in NAMES:
        watch.settle(name)
    service.merge("2", WAITING, NAMES[3])  # before the files came into use
    assert watch.settle_all() == []
    watch.now += LATE
    service.asked.clear()
    assert watch.settle_all() == NAMES
    assert not service.waits("2", NAMES[3])
    assert service.asked["list"] == 3
    assert watch.settle_all() == []
    watch.use()
    assert watch.settle_all() == [], "the first look of each revision settles anyway"
    watch.now += LATE
    assert watch.settle_all() == NAMES


def test_what_was_taken_meanwhile_is_not_judged_by_what_was_read_before(service: Service) -> None:
    watch = Watching()
    service.merge("1", APPLIED, *NAMES)
    watch.settle(NAMES[1])
    service.merge("2", WAITING, NAMES[0])
    watch.approvals._taken[NAMES[0]] = Taken("files", frozenset())
    watch.settle(NAMES[0])
    assert not service.waits("2", NAMES[0])


@pytest.mark.parametrize(("commit", "settled"), [("d" * 40, "known"), (Service.commit, "head")])
def test_what_was_taken_at_another_commit_approves_no_settings_that_no_page_shows(
    service: Service, commit: str, settled: str
) -> None:
    """A watch goes on with what it took as long as the files of the environment stay the same; settings may have changed."""
    watch = Watching()
    watch.shown = False
    service.merge("1", WAITING, NAMES[0])
    service.bodies["1"] = [begun(one, "Used.", commit, None) for one in service.bodies["1"]]
    watch.approvals._taken[NAMES[0]] = Taken("files", frozenset({("#1", commit)}))
    assert watch.settle(NAMES[0]) == Settled(settled, changed=True)


def test_what_cannot_be_read_is_owed(service: Service) -> None:
    watch = Watching()
    service.merge("1", WAITING, *NAMES)
    service.fails = True
    for name in NAMES:
        watch.settle(name)
    service.fails = False
    assert watch.settle_all() == NAMES
    assert not any(service.waits("1", name) for name in NAMES)
    assert watch.settle_all() == []
