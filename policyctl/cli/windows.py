"""Windows in which a person applies only with a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import wraps
from typing import Any

import click

from policyctl.cli.selection import Overrides
from policyctl.errors import Refused, UsageError
from policyctl.load.environment import Environment
from policyctl.load.windows import writing_by_hand
from policyctl.plan.settings import Override
from policyctl.reconcile.apply import ApplySettings


def with_windows(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --outside-window, in its `overrides`."""

    @click.option(
        "--outside-window",
        "outside",
        metavar="REASON",
        help="Apply although a deny window is open (see watch.windows); the audit has the reason.",
    )
    @wraps(function)
    def wrapper(*args: Any, outside: str | None, overrides: Overrides, **more: Any) -> Any:
        if outside is not None and not outside.strip():
            raise UsageError("--outside-window needs a reason, which the audit keeps")
        overrides.outside = outside or ""
        return function(*args, overrides=overrides, **more)

    return wrapper


def outside_windows(environment: Environment, settings: ApplySettings, reason: str) -> ApplySettings:
    """The settings of an apply by a person, whose audit has the `reason` if a deny window is open.

    Raises Refused in such a window without a reason, PolicyctlError if windows cannot be judged.
    """
    writing = writing_by_hand(environment.watch.windows, datetime.now(UTC))
    if writing.allowed:
        return settings
    if not reason:
        remedy = "wait, or give a reason with --outside-window REASON"
        raise Refused(f"nothing was written to {environment.name}: {writing.why}; {remedy}")
    override = Override("--outside-window", "", reason)
    return replace(settings, audit=settings.audit and replace(settings.audit, overrides=(override,)))
