"""policyctl apply."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from policyctl.cli.audit import Audit, with_audit
from policyctl.cli.console import Console
from policyctl.cli.execute import LOCK_SECONDS, confirm_and_apply, raise_if_stale
from policyctl.cli.github_actions import subject_of, write_plan_summary, write_stop_summary
from policyctl.cli.options import NAMES, Options, with_options
from policyctl.cli.review import Before, review_directory, with_idle_settings
from policyctl.cli.selection import Overrides, raise_if_idle, with_selection
from policyctl.cli.session import Session, open_session, read_directory
from policyctl.errors import StalePlan, UsageError
from policyctl.load.atomic import read_bounded
from policyctl.load.environment import Environment, leaves
from policyctl.load.unread import listed
from policyctl.plan.approval import NONE
from policyctl.plan.plan import Plan, Selection
from policyctl.plan.safety import Review
from policyctl.plan.saved_plan import MAX_BYTES, BadPlan, read_plan
from policyctl.reconcile.saved_plan import review_saved
from policyctl.remote.open import open_reader, require_writable
from policyctl.report.format import escape, value
from policyctl.report.plan_text import elided, plan_text

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

EPILOG = """\b
Example:
  policyctl apply
  policyctl apply --env prod --yes
  policyctl plan --out plan.json && policyctl apply plan.json --yes"""


@click.command("apply", epilog=EPILOG)
@click.argument("planfile", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--parallelism", type=click.IntRange(1, 64), default=4, show_default=True, help="Changes at once.")
@click.option(
    "--expect-digest",
    metavar="DIGEST",
    help="Apply only if the plan made now has this digest (sha256:…); none: only if it is empty.",
)
@click.option(
    "--lock-timeout",
    type=click.FloatRange(min=0),
    default=LOCK_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for another apply on the same embedded remote.",
)
@click.option(
    "--base",
    metavar="REVISION",
    help="Take the way back to what a policy was where this branch left REVISION for a restoration, which the guards "
    "max_traffic_shift and deny_new let pass.",
)
@with_audit
@with_selection
@with_options(*NAMES)
def command(
    options: Options,
    planfile: Path | None,
    yes: bool,
    parallelism: int,
    expect_digest: str | None,
    lock_timeout: float,
    base: str | None,
    selection: Selection,
    overrides: Overrides,
    audit: Audit | None,
) -> int:
    """Make the remote what the files say: add, update, remove, then read back and verify.

    With a PLANFILE (from plan --out) exactly that plan is applied, or refused when the remote moved since. It can be
    applied again after it was interrupted.
    """
    return apply(options, planfile, yes, parallelism, expect_digest, lock_timeout, base, selection, overrides, audit)


def apply(
    options: Options,
    planfile: Path | None,
    yes: bool,
    parallelism: int,
    expect_digest: str | None,
    lock_timeout: float,
    base: str | None,
    selection: Selection,
    overrides: Overrides,
    audit: Audit | None,
) -> int:
    console = Console(options)
    _check_expectation(expect_digest, planfile)
    base = None if base is None or not base.strip("0") else base  # of a branch's first push services say 000…
    if planfile is None:
        place = open_session(options)
        require_writable(place.url)
        reviewed = review_directory(options, place, console, selection, overrides, base=base)
    else:
        place, reviewed = _read_saved(options, console, planfile, selection, overrides, base)
    console.result(plan_text(reviewed, place.remote, console.out_style, verbose=console.verbose))
    if unapproved := _unapproved(reviewed.plan, expect_digest):
        write_stop_summary(unapproved, console)
    write_plan_summary(subject_of(reviewed, place.remote, options.dir, console), planfile, console)
    raise_if_stale(reviewed.stale, listed=True)
    if unapproved:
        raise StalePlan(unapproved)
    return confirm_and_apply(reviewed, place, console, yes=yes, parallelism=parallelism, lock_seconds=lock_timeout, audit=audit)


def _unapproved(plan: Plan, expected: str | None) -> str | None:
    """Why a plan is not the one that was approved, where one was to be."""
    if expected == NONE and plan.changes:
        return (
            "no merged pull request has approved this plan; nothing was written. Read the plan, then approve its digest, "
            f"{plan.digest}"
        )
    if expected not in (None, NONE, plan.digest):
        moved = f", which covers what it does to the traffic of {listed(plan.traffic)}," if plan.traffic else ""
        return (
            f"this is not the plan that was approved: its digest{moved} is {plan.digest}, not {expected}; nothing was "
            "written, have this plan approved: by a new pull request, or start this by hand with its digest"
        )
    return None


def _check_expectation(digest: str | None, planfile: Path | None) -> None:
    """Raise UsageError for an expected digest that none can be; an empty one too, lest a missing output reads as consent."""
    if digest is None:
        return
    if planfile is not None:
        raise UsageError("--expect-digest is for a plan made now; a saved plan is applied as it is")
    if digest != NONE and not _DIGEST.fullmatch(digest):
        raise UsageError("--expect-digest takes sha256: and 64 hexadecimal digits, as plan --format json prints them, or none")


def _read_saved(
    options: Options, console: Console, planfile: Path, selection: Selection, overrides: Overrides, base: str | None
) -> tuple[Session, Review]:
    """A saved plan, held against the environment it is for, the remote as it is now, and the safety rules."""
    if selection != Selection():
        raise UsageError("--only and --exclude belong to plan; a saved plan is applied as it is")
    plan = _read_plan(planfile)
    if options.env is not None and options.env != plan.environment:
        raise BadPlan(f"{planfile} is a plan for environment {plan.environment}, not for {options.env}")
    place = open_session(options, plan.environment)
    require_writable(plan.remote)
    require_writable(place.url)
    with open_reader(place.url, place.access) as reader:
        if reader.identity != plan.remote:
            raise BadPlan(f"{planfile} is a plan for {plan.remote}, not for {reader.identity}")
        if place.environment.digest != plan.config:
            said = f"policyctl.yaml changed what holds for {plan.environment} since the plan was made; plan again"
            raise StalePlan("\n  ".join([said, *_moved_settings(plan, place.environment)]))
        _, loaded, _ = read_directory(options, place, console)
        with console.progress.of("Comparing", "live policy") as step:
            plan = replace(plan, overrides=overrides.given)  # what lifts a rule is what is given now, whatever the file says
            before = Before(options, place, console, base)
            loaded = loaded._replace(declared=replace(loaded.declared, before=before.declared))
            reviewed = review_saved(reader, plan, loaded, overrides.on(place.environment.settings), step, before.documents)
    names = loaded.names | {change.name for change in plan.changes}
    raise_if_idle(selection, overrides, names, reviewed.live | names)  # what is done already was live
    return place, with_idle_settings(reviewed, place, names, overrides)


def _moved_settings(plan: Plan, now: Environment) -> Iterator[str]:
    """Which settings changed since a plan was made, from what to what; none where the plan does not hold them."""
    before, after = dict(leaves(plan.settings)), dict(leaves(now.decides))
    for path in dict.fromkeys([*before, *after]) if before else ():
        if before.get(path) != after.get(path):
            old, new = (_describe(path, values.get(path)) for values in (before, after))
            yield "{}: {} → {}".format(path, *elided(old, new))


def _describe(path: str, item: Any) -> str:
    """A setting's value; that of a variable is text already."""
    return escape(item) if path.startswith("vars.") and item is not None else value(item, longest=None)


def _read_plan(path: Path) -> Plan:
    try:
        text = read_bounded(path, MAX_BYTES).decode()
    except OSError as error:
        raise BadPlan(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadPlan(f"{path} is no plan: it is not text; make one with plan --out") from None
    return read_plan(text, str(path))
