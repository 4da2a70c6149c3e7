"""Notifications, to a receiver that is a real HTTP server."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import get_args

import pytest
from jsonschema import Draft202012Validator

from policyctl.errors import InvalidInput
from policyctl.load.config import ConfigFile
from policyctl.load.discovery import load_config
from policyctl.load.environment import Receiver
from policyctl.load.settings_file import NotifiedState, ReceiverFile
from policyctl.policy.schema import model_schema
from policyctl.watch import Board, State, Transition
from policyctl.watch.memory import StateFolder
from policyctl.watch.notify import FILE, GATHER_SECONDS, KEPT_SECONDS, Notifier
from policyctl.watch.telemetry import ReceiverCollector, WatchMetrics
from tests.conftest import Policyctl, Project
from tests.patience import LONGEST
from tests.watch.boards import status
from tests.watch.receivers import Hook, Watching, receiving

SECRET = "a secret of the receiver"
NOWHERE = "http://127.0.0.1:1/secret-path"  # nothing listens there


@pytest.fixture
def hook() -> Iterator[Hook]:
    with receiving() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / ".policyctl"


def test_many_environments_that_drift_together_are_one_message(hook: Hook, folder: Path) -> None:
    watching = Watching(folder, Receiver("team", hook.url))
    for number in range(500):
        watching.put(f"tenant-{number:03}")
    watching.put("eu", State.FAILED)
    assert watching.after(GATHER_SECONDS - 1) == 1
    assert hook.got == []
    assert watching.after(1) == 60
    (got,) = hook.got
    assert len(got.names) == 501
    assert got.data["summary"] == "1 environment failing; 500 environments drifted"
    assert got.data["environments"][0] == {
        "environment": "eu",
        "state": "failed",
        "before": None,
        "since": "2026-03-02T08:30:00Z",
        "labels": {"ring": "stable"},
        "changes": 2,
        "digest": "sha256:1",
        "reason": "tenant.example:443 answered 503 Service Unavailable",
        "waits_for": None,
    }
    assert watching.notifier.counts() == ({("team", "delivered"): 1}, {"team": 0})


def test_a_state_is_notified_once_for_each_plan(hook: Hook, folder: Path) -> None:
    watching = Watching(folder, Receiver("team", hook.url))
    for state, digest in [
        (State.IN_SYNC, ""),  # it was not known before, so nothing is over
        (State.PENDING, "a"),  # not among the states
        (State.IN_SYNC, ""),
        (State.DRIFTED, "a"),
        (State.DRIFTED, "a"),
        (State.DRIFTED, "b"),
        (State.PENDING, "b"),
        (State.IN_SYNC, ""),  # the drift is over
    ]:
        watching.put("eu", state, digest)
        watching.after()
    found = [(one.data["environments"][0]["state"], one.data["environments"][0]["digest"]) for one in hook.got]
    assert found == [("drifted", "a"), ("drifted", "b"), ("in_sync", None)]


def test_each_receiver_gets_its_own_states(hook: Hook, folder: Path) -> None:
    watching = Watching(folder, Receiver("few", hook.url, states=("failed",)), Receiver("chat", hook.url, "slack"))
    watching.put("eu", State.FAILED)
    watching.put("us<!channel>")
    watching.after()
    few, chat = sorted((one.data for one in hook.got), key=lambda data: "text" in data)
    assert [one["environment"] for one in few["environments"]] == ["eu"]
    assert chat == {
        "text": "policyctl: 1 environment failing: eu (tenant.example:443 answered 503 Service Unavailable)\n"
        "1 environment drifted: us&lt;!channel&gt; (edited on the remote: anygem)"
    }


def test_a_message_is_signed_with_its_time(hook: Hook, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.setenv("HOOK_URL", hook.url)
    watching = Watching(folder, Receiver("team", "env:HOOK_URL", secret="env:HOOK_SECRET"))
    watching.put("eu")
    watching.after()
    (got,) = hook.got
    when = got.headers["X-Policyctl-Timestamp"]
    assert when == str(int(watching.now))
    expected = hmac.new(SECRET.encode(), f"{when}.".encode() + got.body, hashlib.sha256).hexdigest()
    assert got.headers["X-Policyctl-Signature"] == f"v1={expected}"
    assert got.headers["X-Policyctl-Delivery"] == got.data["id"]
    assert SECRET not in (folder / FILE).read_text("utf-8")


def test_a_receiver_that_fails_is_tried_again_ever_later_and_in_order(hook: Hook, folder: Path) -> None:
    watching = Watching(folder, Receiver("team", hook.url))
    hook.answers = [500, 302, 503]
    watching.put("eu")
    assert watching.after() == 5
    assert watching.notifier.broken() == ["team: it answered 500; 1 message waiting"]
    metrics = WatchMetrics(Board())
    metrics.add(ReceiverCollector(watching.notifier.counts))
    assert b'policyctl_notifications_waiting{receiver="team"} 1.0' in metrics.text()
    assert b'policyctl_notifications_total{receiver="team",result="failed"} 1.0' in metrics.text()
    watching.put("us")
    assert watching.after(5) == 5  # the second message is made then
    assert watching.after(5) == 10
    assert len(hook.got) == 2
    assert watching.after(10) == 45
    assert watching.after(45) == 60
    assert [one.names for one in hook.got] == [["eu"], ["eu"], ["eu"], ["eu"], ["us"]]
    assert len({one.data["id"] for one in hook.got}) == 2
    assert watching.notifier.broken() == []


def test_a_receiver_that_is_not_there_is_named_without_its_address(folder: Path) -> None:
    watching = Watching(folder, Receiver("team", NOWHERE), Receiver("other", "env:NOT_SET"))
    watching.put("eu")
    watching.after()
    assert watching.notifier.broken() == [
        "other: notify.url refers to env:NOT_SET, which is not set or empty; 1 message waiting",
        "team: it cannot be reached: Connection refused; 1 message waiting",
    ]


def test_what_cannot_be_delivered_for_a_day_is_dropped(folder: Path) -> None:
    watching = Watching(folder, Receiver("team", NOWHERE))
    watching.put("eu")
    watching.after()
    watching.after(KEPT_SECONDS + 1)
    assert watching.notifier.counts() == ({("team", "failed"): 2, ("team", "dropped"): 1}, {"team": 0})


def test_a_restart_neither_loses_nor_repeats(hook: Hook, folder: Path) -> None:
    hook.answers = [500]
    first = Watching(folder, Receiver("team", hook.url))
    first.put("eu")
    first.after()  # refused, kept
    first.put("us")
    first.after(0)  # gathered and noted, and the watch is killed before it is sent: the file has it neither sent nor known
    second = Watching(folder, Receiver("team", hook.url), now=first.now)
    second.put("eu")
    second.put("us")
    second.after(60)
    assert sorted(name for one in hook.got[1:] for name in one.names) == ["eu", "us"]
    third = Watching(folder, Receiver("team", hook.url), now=second.now)
    third.put("eu")
    third.put("us")
    third.after(60)
    assert len(hook.got) == 3


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"format":"policyctl/notifications","version":1,"known":{},"messages":[1],"gathered":{}}']
)
def test_a_damaged_file_is_left_out_of_account(hook: Hook, folder: Path, content: bytes) -> None:
    folder.mkdir()
    (folder / FILE).write_bytes(content)
    watching = Watching(folder, Receiver("team", hook.url))
    watching.put("eu")
    watching.after()
    assert len(hook.got) == 1


def test_the_thread_delivers_at_the_end_what_was_gathered(hook: Hook, folder: Path) -> None:
    with Notifier([Receiver("team", hook.url)], StateFolder(folder)) as notifier:
        notifier(Transition(None, status("eu", State.DRIFTED)))
    assert [one.names for one in hook.got] == [["eu"]]


def test_the_thread_delivers_meanwhile(hook: Hook, folder: Path) -> None:
    times = count(0.0, 2 * GATHER_SECONDS)
    with Notifier([Receiver("team", hook.url)], StateFolder(folder), clock=lambda: next(times)) as notifier:
        notifier(Transition(None, status("eu", State.DRIFTED)))
        assert hook.arrived.wait(LONGEST)
    assert [one.names for one in hook.got] == [["eu"]]


def test_the_states_of_the_configuration_are_those_that_there_are() -> None:
    assert [*get_args(NotifiedState)] == [*State]
    assert ReceiverFile(name="a", url="env:A").states == Receiver("a", "env:A").states


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{name: a, url: 'https://u:p@h/'}", "url: must be an https:// URL without a password, or a reference"),
        (
            "{name: a, url: hooks.example}",
            "url: must be an https:// URL without a password, or a reference",
        ),
        ("{name: a, url: env:URL, secret: hunter2}", "secret must be a reference, env:NAME or file:PATH"),
        ("{name: a, url: env:URL, states: [broken]}", "states item must be in_sync, pending"),
        ("{name: a}", "2:10: notify item: needs a url with form json [P109]"),
        ("{name: a, form: slack}", "2:10: notify item: needs a url with form slack [P109]"),
        ("{name: a, form: issue, url: env:URL}", "notify item: has form issue, so leave out url and secret: the token shows"),
        ("{name: a, form: issue, secret: env:X}", "notify item: has form issue, so leave out url and secret: the token shows"),
        ("{name: a, form: issue}, {name: b, form: issue}", "notify: has two receivers of form issue; one lists every"),
        ("{name: a, url: env:URL}, {name: a, url: env:URL}", "notify: has two receivers named a; give each its own name"),
    ],
)
def test_a_wrong_receiver_is_a_problem_with_its_place(project: Project, policyctl: Policyctl, text: str, problem: str) -> None:
    project.write("policyctl.yaml", f"environments: {{local: {{}}}}\nnotify: [{text}]\n")
    ran = policyctl("validate")
    assert (ran.code, problem in ran.out) == (1, True), ran.out
    assert "hunter2" not in ran.out
    assert "u:p" not in ran.out


@pytest.mark.parametrize(
    ("receiver", "valid"),
    [
        ({"url": "env:URL"}, True),
        ({"url": "env:URL", "form": "slack", "secret": "env:X"}, True),
        ({"form": "issue"}, True),
        ({"form": "issue", "url": None, "secret": None, "states": ["failed"]}, True),
        ({}, False),
        ({"url": None}, False),
        ({"form": "json"}, False),
        ({"form": "issue", "url": "env:URL"}, False),
        ({"form": "issue", "secret": "env:X"}, False),
    ],
)
def test_the_schema_accepts_the_receivers_that_are_valid(project: Project, receiver: dict[str, object], valid: bool) -> None:
    data = {"environments": {"local": {}}, "notify": [{"name": "a", **receiver}]}
    assert Draft202012Validator(model_schema(ConfigFile, "policyctl.yaml")).is_valid(data) == valid
    path = project.write("policyctl.yaml", json.dumps(data))
    with nullcontext() if valid else pytest.raises(InvalidInput):
        load_config(path)
