"""What gateways report of themselves: which policies they run, with which models."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NamedTuple

from policyctl.errors import Incomplete, RemoteError
from policyctl.policy.findings import listed
from policyctl.remote.http import HttpClient, Request
from policyctl.remote.protocol import Backoff
from policyctl.remote.redaction import Redactor

_BETWEEN = 0.25  # seconds between two looks


class Wanted(NamedTuple):
    """What gateways are to run: the revision of a remote, and the models that were changed there."""

    revision: str
    models: frozenset[str] = frozenset()


class GatewayState(NamedTuple):
    """What a gateway reports: the revision that it runs, why it refused a newer one, and which models files of its own have
    called in another way; or why it cannot be asked."""

    revision: str = ""
    refused: str = ""
    problem: str = ""
    own: frozenset[str] = frozenset()

    def why_not(self, wanted: Wanted) -> str:
        """Why it does not run what is wanted; empty if it does."""
        if self.problem:
            return self.problem
        if self.revision == wanted.revision:
            own = sorted(self.own & wanted.models)
            return f"calls {listed(own)} as files in its own directory have it; update these" if own else ""
        return f"runs {self.revision}" + (f", because it refused what is newer: {self.refused}" if self.refused else "")


def wait_for(gateways: Sequence[str], wanted: Wanted, seconds: float, sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait until every gateway runs what is wanted. Raises Incomplete, with each that does not and why, once time is over."""
    end, left = time.monotonic() + seconds, list(gateways)
    with closing(HttpClient(Redactor(), patience=Backoff(tries=1))) as client:
        while left:
            states = {url: state_of(url, client) for url in left}
            left = [url for url in left if states[url].why_not(wanted)]
            if left and time.monotonic() >= end:
                shown = "; ".join(f"{url} {states[url].why_not(wanted)}" for url in left)
                runs = f"runs {wanted.revision} after {seconds:g} s"
                raise Incomplete(f"everything is applied, but not every gateway {runs}: {shown}")
            if left:
                sleep(_BETWEEN)


def state_of(url: str, client: HttpClient) -> GatewayState:
    """What the gateway at a URL reports."""
    try:
        answer = client.send(Request("GET", f"{url}/readyz"))
    except RemoteError as error:
        return GatewayState(problem=f"cannot be asked: {error}")
    found = answer.content
    if not answer.good or not isinstance(found, dict) or not isinstance(found.get("revision"), str):
        return GatewayState(problem="does not answer as a gateway; check the address")
    own = found.get("own_models")
    names = frozenset(map(str, own)) if isinstance(own, list) else frozenset()
    return GatewayState(found["revision"], str(found.get("refused") or ""), own=names)
