"""policyctl policy remove."""

from __future__ import annotations

from dataclasses import replace

import click

from policyctl.cli.console import Console
from policyctl.cli.options import NAMES, Options, with_options
from policyctl.cli.policy.change import (
    ChangeOptions,
    directory_policy,
    next_apply,
    save_removal,
    show_and_change,
    with_change_options,
    with_name,
)
from policyctl.cli.session import open_session
from policyctl.errors import UsageError
from policyctl.plan.settings import Override
from policyctl.policy.names import canonical_name
from policyctl.reconcile.plan import plan_removal
from policyctl.remote.open import open_reader

EPILOG = """\b
Example:
  policyctl policy remove anygem
  policyctl policy remove prod-old --allow-remove prod-old --yes"""


@click.command("remove", epilog=EPILOG)
@with_name
@click.option("--allow-remove", multiple=True, metavar="NAME", help="Allow this protected policy's removal; repeatable.")
@click.option("--reason", default="", metavar="TEXT", help="Why a protected policy is removed; the audit shows it.")
@with_change_options
@with_options(*NAMES)
def command(options: Options, how: ChangeOptions, name: str, allow_remove: tuple[str, ...], reason: str) -> int:
    """Remove the policy NAME. One that is protected, or that another live policy targets, is not removed."""
    return remove(options, how, canonical_name(name), allow_remove, reason)


def remove(options: Options, how: ChangeOptions, name: str, allow_remove: tuple[str, ...], reason: str) -> int:
    console = Console(options)
    if reason and not allow_remove:
        raise UsageError("--reason is for --allow-remove, which is not given; add it, or leave the reason out")
    place = open_session(options)
    if idle := [other for other in allow_remove if canonical_name(other) != name]:
        raise UsageError(f"--allow-remove {idle[0]} is not the policy to remove, {name}; correct it or leave it out")
    if how.save and allow_remove:
        raise UsageError("--allow-remove is for the remote, and --save changes the directory alone; leave one out")
    if how.save:
        return save_removal(name, options, place, console, how)
    settings = place.environment.settings.overridden(None, None, allow_remove)
    with open_reader(place.url, place.access) as reader, console.progress.of("Listing", "live policy"):
        review = plan_removal(reader, name, place.environment, settings)
    overrides = tuple(Override("--allow-remove", one, reason) for one in allow_remove)
    review = replace(review, plan=replace(review.plan, overrides=overrides))
    loaded, unread = directory_policy(options, place, console)
    note = next_apply(name, None, loaded, options, place, prunes=False, unread=unread)
    return show_and_change(review, note, place, console, how)
