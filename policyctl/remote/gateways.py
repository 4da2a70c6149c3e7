"""What gateways report of themselves: which policies they run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NamedTuple

from policyctl.errors import Incomplete, RemoteError
from policyctl.remote.http import HttpClient, Request
from policyctl.remote.protocol import Backoff
from policyctl.remote.redaction import Redactor

_BETWEEN = 0.25  # seconds between two looks


class GatewayState(NamedTuple):
    """What a gateway reports: the revision that it runs, and why it refused a newer one; or why it cannot be asked."""

    revision: str = ""
    refused: str = ""
    problem: str = ""

    def why_not(self, revision: str) -> str:
        """Why it does not run a revision; empty if it does."""
        if self.problem:
            return self.problem
        if self.revision == revision:
            return ""
        return f"runs {self.revision}" + (f", because it refused what is newer: {self.refused}" if self.refused else "")


def wait_for(gateways: Sequence[str], revision: str, seconds: float, sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait until every gateway runs a revision. Raises Incomplete, with each that does not and why, when the time is over."""
    end, left = time.monotonic() + seconds, list(gateways)
    with closing(HttpClient(Redactor(), patience=Backoff(tries=1))) as client:
        while left:
            states = {url: state_of(url, client) for url in left}
            left = [url for url in left if states[url].why_not(revision)]
            if left and time.monotonic() >= end:
                shown = "; ".join(f"{url} {states[url].why_not(revision)}" for url in left)
                raise Incomplete(f"everything is applied, but not every gateway runs {revision} after {seconds:g} s: {shown}")
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
    return GatewayState(found["revision"], str(found.get("refused") or ""))
