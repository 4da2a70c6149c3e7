"""The issue of a watch: on a service that is a real HTTP server, with what a real watch finds."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from policyctl.ci.comments import MARKER, is_in, watch_marker
from policyctl.cli.watch import WatchIssue
from policyctl.load.environment import Receiver
from policyctl.watch import Board, State, notify
from policyctl.watch.memory import StateFolder
from policyctl.watch.notify import GATHER_SECONDS, IssueList, Notifier
from policyctl.watch.telemetry import ReceiverCollector, WatchMetrics
from tests.cli.forges import TOKEN, Forge, forge_of
from tests.conftest import Policyctl, Project, Ran
from tests.patience import LONGEST
from tests.remote.fake_server import Reply, Seen, Silence
from tests.report.github_html import TAGS, Page
from tests.report.traps import TRAPS, acting
from tests.watch.boards import NOW, status
from tests.watch.receivers import dripping, receiving

MINE = watch_marker("policies", "HEAD", "*")
CONFIG = """\
default: dev
environments: {dev: {remote: local}, prod: {remote: "sqlite:///prod.db"}}
notify: [{name: people, form: issue, states: [pending, drifted, conflict, failed]}]
"""


@pytest.fixture(params=["github", pytest.param("gitlab", marks=pytest.mark.slow)])
def forge(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forge]:
    """A service, and the variables that a watch needs for it."""
    with forge_of(request.param) as made:
        assert made.server is not None
        made.knows_me = True  # a token of a user may ask who that is
        names = {"github": ("GITHUB_API_URL", "GITHUB_TOKEN"), "gitlab": ("CI_API_V4_URL", "GITLAB_TOKEN")}[made.kind]
        for name, value in zip(names, (made.server.url, TOKEN), strict=True):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv(*{"github": ("GITHUB_REPOSITORY", "org/repo"), "gitlab": ("CI_PROJECT_ID", "7")}[made.kind])
        yield made


def writes(forge: Forge) -> int:
    """How many requests changed something."""
    assert forge.server is not None
    return sum(one.method != "GET" for one in forge.server.seen)


def opened(forge: Forge) -> list[str]:
    return [text for state, text in forge.issue_texts if state == "open"]


@pytest.fixture
def watched(project: Project) -> Project:
    """Two environments, which do not have the one policy of the files yet."""
    project.policy("chat", "virtual-model/x/a")
    project.write("policyctl.yaml", CONFIG)
    return project


def test_it_is_opened_once_then_updated_then_closed(watched: Project, forge: Forge, policyctl: Policyctl) -> None:
    def watch() -> Ran:
        ran = policyctl("watch", "--once")
        assert ran.code == 0, ran.err
        return ran

    watch()
    (text,) = opened(forge)
    assert text.splitlines()[:2] == [MINE, "**2 environments not applied yet**"]
    for name in ("dev", "prod"):
        assert f"| `{name}` | not applied yet | 20" in text
        assert f"`policyctl apply --env {name}`" in text
    assert "`Git moved: virtual-policy/chat`" in text
    assert forge.issues[0]["title"] == "policyctl watch: environments of policies need attention"
    before = writes(forge)
    watch()
    assert writes(forge) == before, "the list has not changed"
    assert policyctl("apply", "--env", "prod", "--yes").code == 0
    watch()
    (text,) = opened(forge)
    assert ("`dev`" in text, "`prod`" in text, len(forge.issues)) == (True, False, 1)
    assert policyctl("apply", "--env", "dev", "--yes").code == 0
    watch()
    assert (opened(forge), len(forge.issues)) == ([], 1)
    watched.policy("chat", "virtual-model/x/b")
    watch()
    assert (len(opened(forge)), len(forge.issues)) == (1, 2)


def test_a_plan_that_changes_updates_it(watched: Project, forge: Forge, policyctl: Policyctl) -> None:
    policyctl("watch", "--once")
    (before,) = opened(forge)
    watched.policy("more", "virtual-model/x/b")
    policyctl("watch", "--once")
    (after,) = opened(forge)
    digests = [{word for word in text.split() if word.startswith("`sha256:")} for text in (before, after)]
    assert (len(digests[0]), digests[0] & digests[1]) == (2, set())


@pytest.mark.slow
def test_a_watch_that_goes_on_keeps_it_up_to_date(watched: Project, forge: Forge, policyctl: Policyctl) -> None:
    assert forge.server is not None
    answer, changed = forge.server.handler, threading.Event()

    def noticed(seen: Seen) -> Reply | Silence:
        reply = answer(seen)
        if seen.method != "GET":
            changed.set()
        return reply

    forge.server.handler = noticed
    command = [sys.executable, "-m", "policyctl", "watch", "--poll", "1s", "--interval", "1s", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            assert changed.wait(LONGEST)
            changed.clear()
            assert len(opened(forge)) == 1
            for name in ("dev", "prod"):
                assert policyctl("apply", "--env", name, "--yes").code == 0
            while opened(forge):
                assert changed.wait(LONGEST)
                changed.clear()
            process.send_signal(signal.SIGTERM)
            assert process.wait(LONGEST) == 0
        finally:
            process.kill()
    assert len(forge.issues) == 1


def test_every_watch_has_an_issue_of_its_own(watched: Project, forge: Forge, policyctl: Policyctl) -> None:
    """So has `ci drift`; and what another user writes is not an issue of a watch, whatever it looks like."""
    drift = forge._issue({"body": f"{MARKER}environment=dev directory=policies -->\n", "description": "", "labels": []})
    alien = forge._issue({"body": f"{MINE}\nx", "description": f"{MINE}\nx", "labels": []})
    alien |= {"user": {"login": "eve"}, "author": {"username": "eve"}}
    watched.folder.joinpath("other").mkdir()
    for name in ("chat.yaml", "policyctl.yaml"):
        text = (watched.policies / name).read_text("utf-8").replace("prod.db", "other.db")
        (watched.folder / "other" / name).write_text(text, "utf-8")
    for args in ([], ["--dir", "other", "--state", "second"], ["--env", "dev", "--state", "third"]):
        assert policyctl("watch", "--once", *args).code == 0
    found = [text.splitlines()[0] for text in opened(forge)[2:]]
    assert found == [MINE, watch_marker("other", "HEAD", "*"), watch_marker("policies", "HEAD", "dev")]
    before = [dict(drift), dict(alien)]
    assert policyctl("apply", "--env", "dev", "--env", "prod", "--yes").code == 0
    assert policyctl("watch", "--once").code == 0
    assert len(opened(forge)) == 4
    assert [drift, alien] == before
    assert not any(is_in(text, None, "policies") for text in opened(forge)[2:]), "none is a page of a plan"


class Keeping:
    """A board with a notifier that keeps an issue, and whose clock only moves when it is moved."""

    def __init__(self, folder: Path, *more: Receiver, names: tuple[str, ...] = ("eu", "us")) -> None:
        self.now, self.board = 1_000_000.0, Board(lambda transition: self.notifier(transition))
        issue = WatchIssue(self.board, "policies", MINE)
        issue.names = frozenset(names)
        receivers = [Receiver("people", form="issue"), *more]
        state = StateFolder(folder)
        self.notifier = Notifier(receivers, state, issue=issue, clock=lambda: self.now, chance=lambda: 1.0)

    def put(self, **states: State) -> None:
        for name, state in states.items():
            self.board.put(status(name, state))

    def after(self, seconds: float = GATHER_SECONDS) -> float:
        self.notifier.step()
        self.now += seconds
        self.notifier.step()
        assert self.notifier.settle(60)
        return self.notifier.step()


def test_what_happens_within_a_while_is_one_update(forge: Forge, tmp_path: Path) -> None:
    keeping = Keeping(tmp_path / "state", names=tuple(f"t-{number}" for number in range(200)))
    for number in range(200):
        keeping.put(**{f"t-{number}": State.DRIFTED})
        keeping.notifier.step()
    assert writes(forge) == 0
    keeping.after()
    assert writes(forge) == 1
    keeping.put(**{"t-7": State.IN_SYNC})
    keeping.notifier.step()
    keeping.put(**{"t-7": State.DRIFTED})
    keeping.after()
    assert writes(forge) == 1, "it is as it was"


def test_it_is_not_closed_before_every_environment_was_looked_at(forge: Forge, tmp_path: Path) -> None:
    """A watch that lost its state knows of no environment at first; the issue of before may list some of them rightly."""
    first = Keeping(tmp_path / "first")
    first.put(eu=State.DRIFTED, us=State.FAILED)
    first.after()
    second = Keeping(tmp_path / "second")
    second.put(eu=State.IN_SYNC)
    second.after()
    assert len(opened(forge)) == 1
    second.put(us=State.FAILED)
    second.after()
    (text,) = opened(forge)
    assert ("`eu`" in text, "`us`" in text) == (False, True)
    third = Keeping(tmp_path / "third")
    third.put(eu=State.DRIFTED)
    third.after()
    assert "Some environments were not looked at yet." in opened(forge)[0]
    third.put(eu=State.IN_SYNC, us=State.IN_SYNC)
    third.after()
    assert (opened(forge), len(forge.issues)) == ([], 1)


def test_an_environment_that_is_not_watched_any_more_leaves_it(forge: Forge, tmp_path: Path) -> None:
    keeping = Keeping(tmp_path / "state")
    keeping.put(eu=State.DRIFTED, us=State.IN_SYNC)
    keeping.after()
    issue = keeping.notifier._issue
    assert isinstance(issue, WatchIssue)
    issue.names = frozenset({"us"})
    keeping.after()
    assert opened(forge) == []


def test_a_token_without_rights_is_shown_and_stops_no_other_receiver(forge: Forge, tmp_path: Path) -> None:
    with receiving() as hook:
        keeping = Keeping(tmp_path / "state", Receiver("team", hook.url))
        metrics = WatchMetrics(keeping.board)
        metrics.add(ReceiverCollector(keeping.notifier.counts))
        forge.read_only = True
        keeping.put(eu=State.DRIFTED, us=State.IN_SYNC)
        assert keeping.after() == 5
        assert [one.names for one in hook.got] == [["eu"]]
        (why,) = keeping.notifier.broken()
        assert why.startswith("people: 127.0.0.1:")
        assert "403" in why
        assert why.endswith("; its issue is out of date")
        assert TOKEN not in why
        assert b'policyctl_notifications_waiting{receiver="people"} 1.0' in metrics.text()
        assert b'policyctl_notifications_total{receiver="people",result="failed"} 1.0' in metrics.text()
        keeping.put(us=State.DRIFTED)
        assert keeping.after(GATHER_SECONDS) == 15, "it is tried ever later, and what changed meanwhile goes with it"
        forge.read_only = False
        keeping.after(15)
        (text,) = opened(forge)
        assert ("`eu`" in text, "`us`" in text) == (True, True)
        assert keeping.notifier.broken() == []


def test_with_a_token_whose_user_is_not_known_no_issue_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a GitHub App: the issue would not be found again, and each change would open another one. A workflow's own
    token may not ask either, and its user is known."""
    with forge_of("github") as forge:
        for name, value in forge.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("GITHUB_ACTIONS")
        keeping = Keeping(tmp_path / "state")
        keeping.put(eu=State.DRIFTED, us=State.IN_SYNC)
        keeping.after()
        assert "does not name the user of this token" in keeping.notifier.broken()[0]
        assert writes(forge) == 0
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        keeping.after(5)
        assert len(opened(forge)) == 1


@pytest.mark.parametrize("missing", ["TOKEN", "REPOSITORY"])
def test_what_is_missing_in_the_environment_is_named(
    forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    name = {"TOKEN": "GITHUB_TOKEN", "REPOSITORY": "GITHUB_REPOSITORY"}[missing]
    if forge.kind == "gitlab":
        name = {"TOKEN": "GITLAB_TOKEN", "REPOSITORY": "CI_PROJECT_ID"}[missing]
    monkeypatch.delenv(name)
    keeping = Keeping(tmp_path / "state")
    keeping.put(eu=State.IN_SYNC, us=State.IN_SYNC)
    keeping.after()
    (why,) = keeping.notifier.broken()
    assert (why.startswith("people: set "), name in why) == (True, True)


def test_an_answer_that_was_lost_makes_no_second_issue(forge: Forge, tmp_path: Path) -> None:
    """What the issue shows is not known then, so it is written again, also when the environments are as they were before."""
    assert forge.server is not None
    answer, lost = forge.server.handler, [True]

    def losing(seen: Seen) -> Reply | Silence:
        reply = answer(seen)
        return Silence.RESET if seen.method != "GET" and lost.pop() else reply

    forge.server.handler = losing
    keeping = Keeping(tmp_path / "state")
    keeping.put(eu=State.DRIFTED, us=State.IN_SYNC)
    assert keeping.after() == 5
    lost.append(False)
    keeping.after(5)
    assert (len(forge.issues), len(opened(forge)), keeping.notifier.broken()) == (1, 1, [])
    lost.append(True)
    keeping.put(us=State.FAILED)
    keeping.after()  # it lists both, which is not known
    keeping.put(us=State.IN_SYNC)
    lost.append(False)
    again = restarted(keeping, tmp_path / "state")
    again.after()
    assert again.notifier.broken() == []
    (text,) = opened(forge)
    assert "`us`" not in text


def restarted(keeping: Keeping, folder: Path) -> Keeping:
    again = Keeping(folder)
    again.now = keeping.now
    for one in keeping.board.environments():
        again.board.restore(one)
    return again


def test_two_issues_of_one_watch_become_one(forge: Forge, tmp_path: Path) -> None:
    for _ in range(2):
        forge._issue({"body": f"{MINE}\nx", "description": f"{MINE}\nx", "labels": []})
    keeping = Keeping(tmp_path / "state")
    keeping.put(eu=State.DRIFTED, us=State.IN_SYNC)
    keeping.after()
    (text,) = opened(forge)
    assert "`eu`" in text


@pytest.mark.slow
def test_a_service_that_drips_holds_up_neither_others_nor_the_end(
    forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "DELIVERY_SECONDS", 2.0)
    began = time.monotonic()
    with dripping() as drip, receiving() as hook:
        monkeypatch.setenv("GITHUB_API_URL" if forge.kind == "github" else "CI_API_V4_URL", drip.url.rstrip("/"))
        keeping = Keeping(tmp_path / "state", Receiver("team", hook.url))
        keeping.put(eu=State.DRIFTED, us=State.IN_SYNC)
        keeping.after()
        assert [one.names for one in hook.got] == [["eu"]]
        assert "did not answer in time" in keeping.notifier.broken()[0]
        assert len(drip.got) == 1, "it is not asked again within a delivery"
    assert time.monotonic() - began < LONGEST


def listing(*environments: tuple[str, State, str]) -> IssueList:
    found = tuple(status(name, state, reason=why, waits_for=why, digest=why) for name, state, why in environments)
    return IssueList(watch_marker(environments[0][2], "main", "*"), "title", found, complete=True)


@pytest.mark.parametrize("trap", TRAPS)
def test_no_text_of_others_acts_in_it(trap: str) -> None:
    text = listing((trap, State.DRIFTED, trap), ("eu", State.FAILED, f"x {trap}")).text(65_536)
    page = Page(text)
    assert {element.tag for element in page.elements} <= TAGS - {"a"}
    assert (acting(text), page.magic, page.wrong, len(page.comments)) == ([], [], [], 1)
    assert len([one for one in page.elements if one.tag == "tr"]) == 3
    text.encode()


def test_no_word_of_others_is_outside_code() -> None:
    page = Page(listing(("zebra", State.CONFLICT, "zebra walks"), ("eu", State.FIGHTING, "1. zebra")).text(65_536))
    assert "zebra" not in " ".join(page.prose)


@pytest.mark.parametrize("longest", [6_000, 65_536, 1_000_000])
def test_it_is_as_long_as_the_service_takes_and_counts_the_rest(longest: int) -> None:
    many = [(f"tenant-{number:04}", State.FAILED if number == 1999 else State.DRIFTED, "|`" * 400) for number in range(2000)]
    text = listing(*many).text(longest)
    assert len(text) <= longest
    shown = text.count("| drifted |") + text.count("| failing |")
    assert f"And {2000 - shown:,} more" in text
    assert "`tenant-1999`" in text.splitlines()[5], "the gravest is first"
    assert "1 environment failing; 1,999 environments drifted" in text


def test_a_short_list_is_shown_whole() -> None:
    text = listing(("eu", State.DRIFTED, "why"), ("us", State.REFUSED, "why")).text(65_536)
    assert " more" not in text
    assert f"| `us` | refused | {NOW:%Y-%m-%d} 08:30 UTC |" in text
