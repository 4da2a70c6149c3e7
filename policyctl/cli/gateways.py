"""--wait-gateways: an apply that ends once every gateway runs what is live then."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from policyctl.cli.options import NumberRange, Options
from policyctl.errors import UsageError
from policyctl.load.urls import http_url_error
from policyctl.policy.document import revision_of_policies


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
            from policyctl.remote.gateways import wait_for

            wait_for(gateways, _live_revision(options), seconds)
        return code

    return wrapper


def _live_revision(options: Options) -> str:
    """The revision that a gateway on the environment's remote should run."""
    from policyctl.cli.session import open_session
    from policyctl.reconcile.observe import observe

    with open_session(options).reader() as reader:
        return revision_of_policies({name: live.normal for name, live in observe(reader).policies.items()})
