"""--wait-gateways: an apply that ends once every gateway runs what is live then."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from policyctl.cli.options import NumberRange, Options
from policyctl.errors import UsageError
from policyctl.load.urls import http_url_error
from policyctl.policy.document import revision_of

if TYPE_CHECKING:
    from policyctl.cli.session import Session
    from policyctl.plan.plan import Plan


def _addresses(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...]:
    found = tuple(one.strip().rstrip("/") for one in (text or "").split(",") if one.strip())
    for url in found:
        if complaint := http_url_error(url):
            raise click.BadParameter(f"{url} {complaint}")
    if text is not None and not found:
        raise click.BadParameter("name at least one gateway: http://127.0.0.1:4400")
    return found


def with_gateways(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give apply --wait-gateways, as its argument `gateways`. Decorate the function itself with it.

    Raises UsageError with several environments.
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
        return function(options, *args, gateways=AwaitedGateways(gateways, seconds), **given)

    return wrapper


class AwaitedGateways(NamedTuple):
    """The gateways to wait for, and for how long."""

    urls: tuple[str, ...] = ()
    seconds: float = 0

    def after(self, code: int, session: Session, plan: Plan) -> int:
        """The exit code of an apply: if that is 0, once each runs what is live on the remote of a session now that a plan was
        applied there. Raises Incomplete if one does not in time."""
        if not self.urls or code:
            return code
        from policyctl.reconcile.observe import observe
        from policyctl.remote.gateways import Wanted, wait_for

        with session.whole.reader() as reader:
            observed = observe(reader)
        normals = ({name: one.normal for name, one in found.items()} for found in (observed.policies, observed.models))
        changed = frozenset(change.name for change in plan.changes if change.kind == "model")
        wait_for(self.urls, Wanted(revision_of(*normals), changed), self.seconds)
        return code
