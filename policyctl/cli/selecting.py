"""The options that plan and apply share: which policies, and which limit to override."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from policyctl.core.plan import Selection
from policyctl.core.settings import Settings


class Overrides:
    """The limits that the command line overrides by name."""

    def __init__(self, max_removes: int | None, max_change_percent: float | None, allow_remove: tuple[str, ...]) -> None:
        self._values = (max_removes, max_change_percent, allow_remove)

    def on(self, settings: Settings) -> Settings:
        """The environment's settings with the overrides."""
        return settings.overridden(*self._values)


def with_selection(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --only and --exclude (as `selection`) and the limits' overrides (as `overrides`)."""

    @click.option("--only", multiple=True, metavar="GLOB", help="Only policies whose name matches; repeatable.")
    @click.option("--exclude", multiple=True, metavar="GLOB", help="Not the policies whose name matches; repeatable.")
    @click.option("--max-removes", type=click.IntRange(min=0), metavar="N", help="Allow that many removals this once.")
    @click.option(
        "--max-change-percent",
        type=click.FloatRange(0, 100),
        metavar="P",
        help="Allow that share of the live policies to change this once.",
    )
    @click.option("--allow-remove", multiple=True, metavar="NAME", help="Allow this protected policy's removal; repeatable.")
    @wraps(function)
    def settled(
        *args: Any,
        only: tuple[str, ...],
        exclude: tuple[str, ...],
        max_removes: int | None,
        max_change_percent: float | None,
        allow_remove: tuple[str, ...],
        **more: Any,
    ) -> Any:
        overrides = Overrides(max_removes, max_change_percent, allow_remove)
        return function(*args, selection=Selection(only, exclude), overrides=overrides, **more)

    return settled
