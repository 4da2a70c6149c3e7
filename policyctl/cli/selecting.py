"""The options that plan and apply share: which policies, and which limit or guard to override."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import wraps
from typing import Any

import click

from policyctl.core.plan import Selection
from policyctl.core.settings import GUARDS, GuardException, Settings
from policyctl.errors import UsageError
from policyctl.model.complaints import did_you_mean, near_name
from policyctl.model.names import canonical_name, matches


class Overrides:
    """The limits and guards that the command line overrides by name."""

    def __init__(
        self,
        max_removes: int | None,
        max_change_percent: float | None,
        allow_remove: tuple[str, ...],
        allow_guard: tuple[GuardException, ...],
        partial: float | None,
    ) -> None:
        self._values = (max_removes, max_change_percent, allow_remove, allow_guard, partial)
        self.allow_remove = allow_remove
        self.allow_guard = allow_guard

    def on(self, settings: Settings) -> Settings:
        """The environment's settings with the overrides."""
        return settings.overridden(*self._values)


def raise_if_idle(selection: Selection, overrides: Overrides, files: Collection[str], live: Collection[str]) -> None:
    """Raise UsageError for what the command line selects or allows and no policy matches: it is most often misspelled.

    `files` are the names of the policies that are planned, `live` those on the remote, where what is to be removed must be.
    """
    known = {*files, *live}
    asked = [("--only", glob, known) for glob in selection.only]
    asked += [("--exclude", glob, known) for glob in selection.exclude]
    asked += [("--allow-remove", name, {*live}) for name in overrides.allow_remove]
    asked += [(f"--allow-guard {one.guard}=", one.policy, known) for one in overrides.allow_guard if one.policy != "*"]
    idle = []
    for option, text, names in asked:
        exactly = option == "--allow-remove"
        if canonical_name(text) not in names and (exactly or not any(matches(name, (text,)) for name in names)):
            where = "no live policy" if exactly else "no policy, neither in the files nor on the remote"
            space = "" if option.endswith("=") else " "
            idle.append(f"{option}{space}{text} matches {where}{near_name(text, names)}")
    if idle:
        raise UsageError("; ".join(idle))


def _allowed_guards(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[GuardException, ...]:
    return tuple(map(_allowed_guard, values))


def _allowed_guard(text: str) -> GuardException:
    """`max_calls` passes the guard over for every policy, `max_calls=NAME` for those of that name or glob."""
    word, equals, policy = text.partition("=")
    guard = next((guard for guard in GUARDS if guard == word), None)
    if guard is None:
        raise click.BadParameter(f"there is no guard {word}{did_you_mean(word, GUARDS)}; known: {', '.join(GUARDS)}")
    if equals and not policy:
        raise click.BadParameter(f"write {guard} alone, or {guard}=NAME")
    return GuardException(guard, policy or "*", f"--allow-guard {text}")


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
    @click.option(
        "--allow-guard",
        multiple=True,
        callback=_allowed_guards,
        metavar="GUARD[=NAME]",
        help="Pass over this guard once, for one policy or for all; repeatable.",
    )
    @click.option(
        "--partial",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        metavar="SHARE",
        help="The share of calls that fail in partial failures, such as 0.1.",
    )
    @wraps(function)
    def settled(
        *args: Any,
        only: tuple[str, ...],
        exclude: tuple[str, ...],
        max_removes: int | None,
        max_change_percent: float | None,
        allow_remove: tuple[str, ...],
        allow_guard: tuple[GuardException, ...],
        partial: float | None,
        **more: Any,
    ) -> Any:
        overrides = Overrides(max_removes, max_change_percent, allow_remove, allow_guard, partial)
        return function(*args, selection=Selection(only, exclude), overrides=overrides, **more)

    return settled
