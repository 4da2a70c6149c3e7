"""The effect engine's own cases, over real HTTP: what the simulator says of a request is what the gateway does with it.

The odd answers that a client can see are among them: 205, 304 and 600 become 500, 407 counts as refused, a 421 is sent twice, a
listed 204 is a failure.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from random import Random
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from policyctl.effect.course import Simulation, simulate
from policyctl.effect.tree import read_tree
from policyctl.gateway import pool, relay
from policyctl.gateway.table import PolicySnapshot, RouteTable, Upstream
from tests.effect.policies import MODELS, bodies, document, scripts
from tests.effect.rules import FALLS, NOT_WHOLE, RETRY, WAITS, single
from tests.examples import examples
from tests.gateway.live import Running, running
from tests.gateway.scripted_port import Script, ScriptedPort, ScriptedUpstreams

UNHEARD = ("refused", "hang")  # the model does not notice
# The gateway does not know of a 200 that its stream will be cut, so a list that has 200 holds for it too; the manual has this.
DIFFERENT = {
    "a cut stream is not asked again with 200 listed": (200, "aa"),
    "a cut stream does not fall with 200 listed": (200, "ab"),
}


class Driven(NamedTuple):
    """The gateway, and the port that all its models are at."""

    gateway: Running
    port: ScriptedPort

    def send(self, body: Any, script: Script, seed: int = 0) -> httpx.Response:
        """Send one request through a policy."""
        models = [*"abcd", *MODELS]
        upstreams = {model: Upstream(model, model, self.port.base) for model in models}
        self.gateway.app.table = RouteTable(PolicySnapshot({"virtual-policy/p": document(body)}, upstreams))
        self.gateway.waits.clear()
        self.port.play(script)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(relay, "random", Random(seed))
            return self.gateway.chat()

    def check(self, body: Any, script: Script, seed: int = 0) -> Simulation:
        """Send one request through a policy; all that shows must be as simulated, which is returned."""
        answer = self.send(body, script, seed)
        walked = simulate(read_tree(document(body)), script, Random(seed).random)
        last = walked.calls[-1].model if walked.calls else ""
        shown = (answer.headers["x-policyctl-attempts"], answer.headers["x-policyctl-served-by"])
        assert answer.status_code == (503 if walked.status is None else walked.status)
        assert shown == (str(len(walked.calls)), last)
        assert self.port.calls == [call.model for call in walked.calls if call.answer not in UNHEARD]
        assert self.gateway.waits == [wait for wait in (*(call.wait for call in walked.calls), walked.wait) if wait]
        assert ('"upstream_cut"' in answer.text) == walked.cut
        return walked


@pytest.fixture(scope="module")
def driven() -> Iterator[Driven]:
    port = ScriptedPort()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "CONNECT_SECONDS", 0.6)
        with running(connect=lambda: ScriptedUpstreams(port)) as gateway:
            yield Driven(gateway, port)
            gateway.loop.call_soon_threadsafe(port.close)


@pytest.mark.parametrize("rule", [rule for rule in RETRY if rule not in DIFFERENT])
def test_what_is_asked_again(driven: Driven, rule: str) -> None:
    body, answers, (status, calls) = RETRY[rule]
    walked = driven.check(body, {"a": answers})
    assert (walked.status, "".join(walked.models)) == (status, calls)


@pytest.mark.parametrize("rule", [rule for rule in FALLS if rule not in DIFFERENT])
def test_what_moves_a_fallback_on(driven: Driven, rule: str) -> None:
    body, answer, (status, calls) = FALLS[rule]
    walked = driven.check(body, {"a": [answer]})
    assert (walked.status, "".join(walked.models)) == (status, calls)


@pytest.mark.parametrize("rule", DIFFERENT)
def test_a_listed_200_holds_for_a_stream(driven: Driven, rule: str) -> None:
    if rule in RETRY:
        body, answers, _ = RETRY[rule]
    else:
        body, answer, _ = FALLS[rule]
        answers = [answer]
    status, calls = DIFFERENT[rule]
    assert driven.send(body, {"a": answers}).status_code == status
    assert "".join(driven.port.calls) == calls


@pytest.mark.parametrize("case", NOT_WHOLE)
def test_what_is_not_whole_calls_no_model(driven: Driven, case: str) -> None:
    body, status = NOT_WHOLE[case]
    assert driven.check(body, {}) == Simulation(status, ())


@pytest.mark.parametrize("rule", WAITS)
def test_a_retry_after_is_waited_for(driven: Driven, rule: str) -> None:
    retry, answers, before_calls, together = WAITS[rule]
    switch = {} if rule.startswith("not without") else {"use_retry_after_header": True}
    walked = driven.check(single(**retry, **switch), {"a": answers})
    assert ([call.wait for call in walked.calls], walked.waited) == (before_calls, together)


@pytest.mark.slow
@settings(max_examples=examples(100), suppress_health_check=[HealthCheck.too_slow])
@given(body=bodies, script=scripts, seed=st.integers(0, 1000))
def test_any_policy_and_any_answers(driven: Driven, body: dict[str, Any], script: Script, seed: int) -> None:
    """Draws are the same, since both take their points from the same sequence."""
    assume(not ("cut-stream" in chain(*script.values()) and any(200 in codes for codes in _lists(body))))  # see DIFFERENT
    driven.check(body, script, seed)


def _lists(part: Any) -> Iterator[list[int]]:
    """The lists of codes in a body."""
    if isinstance(part, dict):
        yield part.get("on_status_codes", [])
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _lists(inner)
