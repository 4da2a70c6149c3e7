"""--wait-gateways: an apply that ends once every gateway runs what is live then."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple

import click

from policyctl.cli.options import NumberRange, Options
from policyctl.errors import Incomplete, RemoteError, UsageError
from policyctl.load.urls import http_url_error
from policyctl.policy.document import revision_of_policies

_BETWEEN = 0.25  # seconds between two looks


def _addresses(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...]:
    found = tuple(one.strip().rstrip("/") for one in (text or "").split(",") if one.strip())
    for url in found:
        if complaint := http_url_error(url):
            raise click.BadParameter(f"{url} {complaint}")
    if text is not None and not found:
        raise click.BadParameter("name at least one gateway: http://127.0.0.1:4400")
    return found


def with_gateways(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give apply --wait-gateways. Decorate the function itself with it.

    Raises UsageError with several environments, and Incomplete when a gateway does not run in time what was applied.
    """

    @click.option(
        "--wait-gateways",
        "gateways",
        callback=_addresses,
        metavar="URL,…",
        help="Once all is applied, wait until each of these gateways (policyctl gateway --remote) runs it.",
    )
    @click.option(
        "--wait-seconds",
        "seconds",
        type=NumberRange(min=0),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for the gateways.",
    )
    @wraps(function)
    def wrapper(options: Options, *args: Any, gateways: tuple[str, ...], seconds: float, **given: Any) -> Any:
        if gateways and (given["chosen"].several or given["resume"]):
            raise UsageError("--wait-gateways is for one environment: a gateway runs the policies of one remote")
        code = function(options, *args, **given)
        if gateways and code == 0:
            wait_for(gateways, _live_revision(options), seconds)
        return code

    return wrapper


def _live_revision(options: Options) -> str:
    """The revision that a gateway on the environment's remote should run."""
    from policyctl.cli.session import open_session
    from policyctl.reconcile.observe import observe

    with open_session(options).reader() as reader:
        return revision_of_policies({name: live.normal for name, live in observe(reader).policies.items()})


class GatewayState(NamedTuple):
    """What a gateway reports of itself: the revision that it runs, and why it refused a newer one."""

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
    end = time.monotonic() + seconds
    left = {url: GatewayState() for url in gateways}
    while True:
        left = {url: state for url in left if (state := state_of(url)).why_not(revision)}
        if not left:
            return
        if time.monotonic() >= end:
            shown = "; ".join(f"{url} {state.why_not(revision)}" for url, state in left.items())
            raise Incomplete(f"everything is applied, but not every gateway runs {revision} after {seconds:g} s: {shown}")
        sleep(_BETWEEN)


def state_of(url: str) -> GatewayState:
    """What the gateway at a URL reports; a state with a problem if it cannot be asked."""
    from policyctl.remote.http import HttpClient, Request
    from policyctl.remote.protocol import Backoff
    from policyctl.remote.redaction import Redactor

    client = HttpClient(Redactor(), patience=Backoff(tries=1))
    try:
        answer = client.send(Request("GET", f"{url}/readyz"))
        found = answer.content
        if answer.good and isinstance(found, dict) and isinstance(found.get("revision"), str):
            return GatewayState(found["revision"], str(found.get("refused") or ""))
        return GatewayState(problem="does not answer as a gateway; check the address")
    except (RemoteError, json.JSONDecodeError) as error:
        return GatewayState(problem=f"cannot be asked: {error}")
    finally:
        client.close()
