"""Deliveries to receivers that are slow without end: they hold up no other receiver, and not the end of the watch."""

from __future__ import annotations

import json
import time
from itertools import count
from pathlib import Path

import pytest

from policyctl.errors import RemoteError
from policyctl.load.environment import Receiver
from policyctl.remote.http import post_once
from policyctl.watch import State, Transition, notify
from policyctl.watch.memory import StateFolder
from policyctl.watch.notify import FILE, GATHER_SECONDS, Notifier
from tests.patience import LONGEST
from tests.remote.fake_server import Reply, certificates, standing_in
from tests.watch.boards import status
from tests.watch.receivers import Watching, dripping, receiving

BODY = b"{}"
BEGINS = [b"", b"H", b"HTTP/1.1 200 O", b"HTTP/1.1 200 OK\r\nX-Long: "]
WHOLE = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize("begins", BEGINS)
def test_a_delivery_ends_at_its_deadline_however_the_answer_drips(begins: bytes) -> None:
    began = time.monotonic()
    with dripping(begins) as drip, pytest.raises(RemoteError, match="it did not answer in time"):
        post_once(drip.url, BODY, {}, 0.3)
    assert time.monotonic() - began < LONGEST


@pytest.mark.slow
def test_what_is_answered_is_delivered_whatever_follows() -> None:
    began = time.monotonic()
    with dripping(WHOLE) as drip:
        assert post_once(drip.url, BODY, {}, 2.0) == 200
    assert time.monotonic() - began < LONGEST


def test_a_certificate_that_is_not_trusted_is_named_without_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    with standing_in(lambda _: Reply(200), tls=True) as server:
        with pytest.raises(RemoteError) as raised:
            post_once(server.url, BODY, {}, 30)
        assert str(raised.value) == "it cannot be reached: its certificate is not trusted"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates() / "ca.pem"))
        assert post_once(server.url, BODY, {"X-One": "1"}, 30) == 200
    (seen,) = server.seen
    assert (seen.body, seen.headers["x-one"], seen.headers["content-type"]) == (BODY, "1", "application/json")


@pytest.mark.slow
def test_a_receiver_that_drips_is_broken_and_is_sent_the_same_message_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "DELIVERY_SECONDS", 1.0)
    with dripping() as drip:
        watching = Watching(tmp_path / "state", Receiver("slow", drip.url))
        watching.put("eu")
        watching.after()
        assert watching.notifier.broken() == ["slow: it did not answer in time; 1 message waiting"]
        assert watching.notifier.counts() == ({("slow", "failed"): 1}, {"slow": 1})
        watching.after(5)
        assert drip.until(2)
        assert len(set(drip.ids)) == 1


def test_a_receiver_that_drips_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes first by its name and in the configuration, and is dripping all the time."""
    monkeypatch.setattr(notify, "LAST_SECONDS", 0.2)
    times = count(0.0, 2 * GATHER_SECONDS)
    with dripping() as drip, receiving() as hook:
        receivers = [Receiver("aaa", drip.url), Receiver("bbb", hook.url)]
        with Notifier(receivers, StateFolder(tmp_path / "state"), clock=lambda: next(times)) as notifier:
            for number in range(3):
                hook.arrived.clear()
                notifier(Transition(None, status(f"eu-{number}", State.DRIFTED)))
                assert hook.arrived.wait(LONGEST)
            assert drip.until(1)
            assert not drip.left
            assert [one.names for one in hook.got] == [["eu-0"], ["eu-1"], ["eu-2"]]


@pytest.mark.slow
def test_the_end_waits_for_no_receiver_and_loses_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that was maybe delivered is sent again by the next watch, with the same id; others were sent at the end."""
    monkeypatch.setattr(notify, "LAST_SECONDS", 5.0)  # enough for the other receiver on a busy machine
    times, folder = count(0.0, 2 * GATHER_SECONDS), tmp_path / "state"
    began = time.monotonic()
    with dripping() as drip, receiving() as hook:
        receivers = [Receiver("aaa", drip.url), Receiver("bbb", hook.url)]
        with Notifier(receivers, StateFolder(folder), clock=lambda: next(times)) as notifier:
            notifier(Transition(None, status("eu", State.DRIFTED)))
            assert drip.until(1)
            assert hook.arrived.wait(LONGEST)
            notifier(Transition(None, status("us", State.DRIFTED)))
        assert time.monotonic() - began < LONGEST
        assert len(drip.got) == 1, "what is on its way is not sent a second time"
        assert [one.names for one in hook.got] == [["eu"], ["us"]]
        assert [one["id"] for one in json.loads((folder / FILE).read_bytes())["messages"]][:1] == drip.ids
    with receiving() as hook:
        again = Watching(folder, Receiver("aaa", hook.url), Receiver("bbb", hook.url), now=1e12)
        again.after(0)
        assert [one.names for one in hook.got] == [["eu"], ["us"]]
        assert hook.got[0].headers["X-Policyctl-Delivery"] == drip.ids[0]


@pytest.mark.slow
def test_a_receiver_that_drips_at_the_last_try_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "LAST_SECONDS", 2.0)
    began, folder = time.monotonic(), tmp_path / "state"
    with dripping() as drip:
        with Notifier([Receiver("slow", drip.url)], StateFolder(folder)) as notifier:
            notifier(Transition(None, status("eu", State.DRIFTED)))
        assert time.monotonic() - began < LONGEST
        assert drip.until(1, left=1), "it was tried once, until the end"
        assert len(drip.got) == 1
    assert [one["id"] for one in json.loads((folder / FILE).read_bytes())["messages"]] == drip.ids
