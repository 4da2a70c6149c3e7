"""What the environments of one run share of a host: its pauses, its rate, its connections, and tokens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from policyctl.errors import RemoteError
from policyctl.load.settings_file import AuthFile
from policyctl.load.urls import origin
from policyctl.remote import Backoff
from policyctl.remote.hosts import HostPace, Hosts
from policyctl.remote.http import HttpClient, Request
from policyctl.remote.login import LoginSession
from policyctl.remote.redaction import Credentials, Redactor
from tests.conftest import Policyctl, Project
from tests.patience import LONGEST
from tests.remote.fake_server import Reply, Seen, StandIn, standing_in
from tests.remote.http_helpers import Clock, row

ENVIRONMENTS = 40
PAUSE = 30.0
BUSY = Reply(429, None, {"Retry-After": str(int(PAUSE))})


@dataclass
class CommonClock:
    """A clock of several threads: it moves, to the first that is to wake, once all of them sleep."""

    threads: int
    time: float = 1000.0
    wakes: list[float] = field(default_factory=list)
    moved: threading.Condition = field(default_factory=threading.Condition)
    slept: threading.Event = field(default_factory=threading.Event)

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        with self.moved:
            wake = self.time + seconds
            self.wakes.append(wake)
            self.slept.set()
            self._move()
            assert self.moved.wait_for(lambda: self.time >= wake, LONGEST)
            self.wakes.remove(wake)

    def leave(self) -> None:
        """A thread is done."""
        with self.moved:
            self.threads -= 1
            self._move()

    def _move(self) -> None:
        if self.wakes and len(self.wakes) == self.threads:
            self.time = max(self.time, min(self.wakes))
            self.moved.notify_all()


def patience(clock: Clock | CommonClock) -> Backoff:
    return Backoff(sleep=clock.sleep, clock=clock.now, chance=lambda: 0.0)


@contextmanager
def shared(clock: Clock | CommonClock) -> Iterator[Hosts]:
    hosts = Hosts(patience(clock))
    try:
        yield hosts
    finally:
        hosts.close()


def ask(hosts: Hosts, url: str) -> Any:
    """What an environment of its own is answered."""
    return HttpClient(Redactor(), hosts=hosts).send(Request("GET", url)).content


@dataclass
class Busy:
    """A service that answers the first requests with what they are refused with; it notes when it was asked."""

    clock: Clock | CommonClock
    refusals: list[Reply] = field(default_factory=lambda: [BUSY])
    times: list[float] = field(default_factory=list)

    def __call__(self, seen: Seen) -> Reply:
        self.times.append(self.clock.now())
        return self.refusals.pop() if self.refusals else Reply(200, seen.path)


@pytest.mark.parametrize("refusal", [BUSY, replace(BUSY, status=503)], ids=["429", "503"])
@pytest.mark.slow
def test_while_a_host_asks_to_be_left_alone_none_of_its_environments_asks_it(refusal: Reply) -> None:
    clock = CommonClock(ENVIRONMENTS)
    service = Busy(clock, [refusal])

    def environment(number: int) -> Any:
        if number:  # the others begin once the first one waits
            assert clock.slept.wait(LONGEST)
        try:
            return ask(hosts, f"{server.url}/{number}")
        finally:
            clock.leave()

    with standing_in(service) as server, shared(clock) as hosts, ThreadPoolExecutor(ENVIRONMENTS) as pool:
        answers = list(pool.map(environment, range(ENVIRONMENTS)))
    assert answers == [f"/{number}" for number in range(ENVIRONMENTS)]
    refused, *others = service.times
    assert len(others) == ENVIRONMENTS
    assert min(others) >= refused + PAUSE


def test_two_hosts_do_not_hold_each_other_up() -> None:
    clock = Clock()
    with standing_in(Busy(clock)) as busy, standing_in(Busy(clock, [])) as idle, shared(clock) as hosts:
        began = clock.time
        hosts.pace(origin(busy.url)).pause(began, PAUSE)
        hosts.pace(origin(busy.url)).limit(0.001)
        assert [ask(hosts, f"{idle.url}/{number}") for number in range(3)] == ["/0", "/1", "/2"]
        assert clock.slept == []
        ask(hosts, busy.url)
        assert clock.time >= began + PAUSE


def test_a_pause_that_is_too_long_to_wait_for_is_one_clear_line_at_once() -> None:
    clock = Clock()
    refusal = replace(BUSY, headers={"Retry-After": "86400"})
    with standing_in(Busy(clock, [refusal])) as server, shared(clock) as hosts:
        with pytest.raises(RemoteError, match=r"429 Too Many Requests \(asks to wait 86400 s\)"):
            ask(hosts, server.url)
        why = "asked to be left alone for longer than the 90 s that a request waits; try again later$"
        for _ in range(3):
            with pytest.raises(RemoteError, match=why):
                ask(hosts, server.url)
        assert len(server.seen) == 1
        assert clock.slept == []


def test_a_429_without_a_time_holds_for_the_host_as_long_as_for_its_request() -> None:
    clock = Clock()
    hosts = Hosts(clock.patience())
    with standing_in(Busy(clock, [Reply(429)])) as server:
        ask(hosts, server.url)
        assert clock.slept == [0.5]
        assert hosts.pace(origin(server.url)).pause_left(clock.time - 0.5) == 0.5
        hosts.close()


def test_environments_of_a_host_share_the_lowest_of_their_rates() -> None:
    clock = Clock()
    service = Busy(clock, [])
    with standing_in(service) as server, shared(clock) as hosts:
        for rate in (10.0, 2.0, None, 5.0):
            hosts.pace(origin(server.url)).limit(rate)
        for number in range(5):
            ask(hosts, f"{server.url}/{number}")
    began = service.times[0]
    assert [time - began for time in service.times] == [0.0, 0.5, 1.0, 1.5, 2.0]


def test_a_rate_holds_whatever_the_number_of_threads_and_after_a_pause() -> None:
    pace = HostPace()
    pace.limit(4.0)
    assert [pace.slot(100.0) for _ in range(4)] == [100.0, 100.25, 100.5, 100.75]
    assert pace.slot(200.0) == 200.0  # what was not used before is not made up for
    pace.pause(200.0, 100.0)
    assert [pace.slot(200.0) for _ in range(3)] == [300.0, 300.25, 300.5]


def test_the_time_that_a_rate_takes_is_not_time_of_the_request() -> None:
    """A slow rate must not make requests fail that wait in a long line."""
    clock = Clock()
    with standing_in(Busy(clock, [BUSY])) as server, shared(clock) as hosts:
        hosts.pace(origin(server.url)).limit(0.01)
        ask(hosts, server.url)
        assert ask(hosts, f"{server.url}/again") == "/again"
    assert clock.slept == pytest.approx([PAUSE, 70, 100])


def test_a_connection_serves_one_environment_after_another() -> None:
    clock = Clock()
    with standing_in(Busy(clock, [])) as server, shared(clock) as hosts:
        for number in range(10):
            wire = HttpClient(Redactor(), hosts=hosts)
            wire.send(Request("GET", f"{server.url}/{number}"))
            wire.close()
        assert server.connections == 1


@dataclass
class Logins:
    """A service that issues a token for each key, and the login of an environment there."""

    clock: Clock
    server: StandIn | None = None

    def __call__(self, seen: Seen) -> Reply:
        if seen.path == "/identity/token":
            key = seen.form["apikey"]
            return Reply(200, {"access_token": f"token-of-{key}-{len(self.asked())}", "expires_in": 3600})
        if seen.query == [("echo", "")]:
            return Reply(400, {"detail": f"not with {seen.authorization}"})
        return Reply(200, seen.authorization)

    def asked(self) -> list[Seen]:
        assert self.server is not None
        return [seen for seen in self.server.seen if seen.path == "/identity/token"]

    def session(self, hosts: Hosts, key: str = "first-key", base: str | None = None, path: str = "/i/1") -> LoginSession:
        assert self.server is not None
        auth = AuthFile.model_validate({"type": "ibm_iam", "api_key": "env:KEY", "url": self.server.url})
        scrub = Redactor()
        wire = HttpClient(scrub, hosts=hosts)
        credentials = Credentials(auth, scrub, environ={"KEY": key})
        return LoginSession(wire, auth, (base or self.server.url) + path, credentials, self.clock.now)


@pytest.fixture
def logins() -> Iterator[Logins]:
    service = Logins(Clock())
    with standing_in(service) as server:
        service.server = server
        yield service


def test_environments_that_log_in_alike_ask_for_one_token(logins: Logins) -> None:
    assert logins.server is not None
    with shared(logins.clock) as hosts:
        sessions = [logins.session(hosts, path=f"/i/{number}") for number in range(ENVIRONMENTS)]

        def sent(session: LoginSession) -> Any:
            assert logins.server is not None
            return session.send(Request("GET", f"{logins.server.url}/rows")).content

        with ThreadPoolExecutor(8) as pool:
            headers = set(pool.map(sent, sessions))
        assert headers == {"Bearer token-of-first-key-1"}
        assert len(logins.asked()) == 1
        logins.clock.time += 3600  # and for one more when that ended
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(sent, sessions)) == {"Bearer token-of-first-key-2"}
    assert len(logins.asked()) == 2


DIFFERENT: list[Callable[[Logins, Hosts, str], LoginSession]] = [
    lambda logins, hosts, _: logins.session(hosts, key="second-key"),
    lambda logins, hosts, other: logins.session(hosts, base=other),
]


@pytest.mark.parametrize("second", DIFFERENT, ids=["another key", "another origin"])
def test_a_token_is_never_sent_for_other_credentials_or_to_another_origin(
    logins: Logins, second: Callable[[Logins, Hosts, str], LoginSession]
) -> None:
    assert logins.server is not None
    with standing_in(logins) as other, shared(logins.clock) as hosts:
        one = logins.session(hosts).send(Request("GET", f"{logins.server.url}/rows")).content
        session = second(logins, hosts, other.url)
        two = session.send(Request("GET", f"{session._remote}/rows")).content
        assert (one, len(logins.asked())) == ("Bearer token-of-first-key-1", 2)
        assert two != one
        assert all(seen.authorization != one for seen in other.seen)


def test_no_message_of_any_environment_shows_a_token_that_another_one_fetched(logins: Logins) -> None:
    assert logins.server is not None
    with shared(logins.clock) as hosts:
        logins.session(hosts).log_in()
        session = logins.session(hosts)
        answer = session.send(Request("GET", f"{logins.server.url}/rows", (("echo", ""),)))
        assert "Bearer token-of-first-key-1" in answer.response.text
        assert "token-of" not in session._wire.scrub(answer.response.text)


CONFIG = """
scope: ["virtual-policy/*"]
requests_per_second: 1000
templates:
  one: {{remote: "{url}/instances/{{{{ tenant }}}}", auth: {{type: ibm_iam, url: "{url}", api_key: "env:KEY"}}}}
allow_origins: ["{url}"]
fleet:
  - {{from: tenants.csv, name: "t-{{{{ tenant }}}}", extends: one}}
"""


def test_a_plan_of_many_environments_logs_in_once_and_keeps_its_connections(
    project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def service(seen: Seen) -> Reply:
        if seen.path == "/identity/token":
            return Reply(200, {"access_token": "token-of-all", "expires_in": 3600})
        rows = [row("virtual-policy/one")] if seen.path.endswith("/model_policy") else []
        return Reply(200 if seen.authorization == "Bearer token-of-all" else 401, rows)

    monkeypatch.setenv("KEY", "the-key-of-all")
    with standing_in(service) as server:
        project.write("tenants.csv", "tenant\n" + "".join(f"a{number}\n" for number in range(ENVIRONMENTS)))
        project.write("policyctl.yaml", CONFIG.format(url=server.url))
        project.write("one.yaml", ONE)
        found = policyctl("plan", "--all", "--parallelism", "4")
        assert found.code == 0, found
        assert f"{ENVIRONMENTS} environments" in found.out
        assert server.asked("POST") == ["POST /identity/token"]
        assert server.connections <= 4


ONE = """
kind: model
spec_version: v1
name: one
description: virtual-policy/one
policy: {strategy: {mode: single}, targets: [{model_name: virtual-model/x/a}]}
"""


def test_what_only_reads_ends_soon_after_it_was_stopped() -> None:
    """A host that does not answer, or asks for a pause, does not keep a process from ending."""
    asked, released = threading.Event(), threading.Event()

    def slow(_: Seen) -> Reply:
        asked.set()
        released.wait(LONGEST)
        return Reply(200, [])

    for handler in (slow, lambda _: (asked.set(), BUSY)[1]):
        asked.clear()
        stopped = threading.Event()

        def look(url: str, stopped: threading.Event = stopped) -> None:
            hosts = Hosts()
            try:
                with hosts.deadline.until(stopped.is_set), pytest.raises(RemoteError, match="it was stopped"):
                    ask(hosts, url)
            finally:
                hosts.close()

        with standing_in(handler) as server, ThreadPoolExecutor(1) as pool:
            done = pool.submit(look, server.url)
            assert asked.wait(LONGEST)
            stopped.set()
            done.result(LONGEST)
            released.set()


def test_a_pause_of_years_is_one_of_a_quarter_of_an_hour() -> None:
    """One tenant of a host must not stop all others for good."""
    pace = HostPace()
    pace.pause(100.0, 9_999_999.0)
    assert pace.slot(100.0) == 1000.0
