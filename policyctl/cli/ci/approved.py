"""policyctl ci approved."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import click

from policyctl.cli.ci.merged import approvals_of, why_not_head
from policyctl.cli.console import Console
from policyctl.cli.github import repository_path, tell_stop
from policyctl.cli.opening import find_place
from policyctl.cli.options import NAMES, Options, with_options
from policyctl.cli.overriding import parse_overrides, write_overrides
from policyctl.cli.reviewing import review_directory
from policyctl.cli.selecting import Overrides
from policyctl.core.approval import NONE, Approval, adds_up, overrides_of, unapproved, waiting
from policyctl.core.plan import Plan, Selection
from policyctl.errors import UsageError
from policyctl.load.config import find_config, load_config
from policyctl.remote.forge import open_forge
from policyctl.report.plain import count

EPILOG = """\b
Example:
  policyctl ci approved --out overrides.json
  policyctl ci approved --digest sha256:… --overrides '--max-removes 12 because the old models are gone'"""

_NAMED = 5  # policies in a message


@click.command("approved", epilog=EPILOG)
@click.option("--digest", default="", help="What a person approved by hand; where it is not empty, it is the answer.")
@click.option("--overrides", "text", default="", metavar="TEXT", help="What that person overrides: OPTIONS because REASON.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the approved overrides to this file, for apply --overrides.",
)
@with_options(*NAMES)
def command(options: Options, digest: str, text: str, out: Path | None) -> int:
    """Print the digest of the plan that merged pull requests approved, from our comments on them.

    Those count that were merged since the last one whose plan was applied (see ci applied). Of several the plan of now must
    be exactly the sum; else standard error names what is not applied yet, and how to go on. An approval holds only at the
    head of the branch. Where nothing is approved the digest is `none`, with which apply applies an empty plan and nothing
    else.
    """
    return approved(options, digest, text, out)


def approved(options: Options, digest: str, text: str, out: Path | None) -> int:
    console = Console(options)
    if text.strip() and not digest:
        raise UsageError("--overrides is for a plan that a person approved; give its --digest too")
    if text.strip():
        found = _by_hand(options, console, digest, text)
    elif digest:
        found = Approval(digest)
    else:
        found = _merged(options, console)
    if out is not None:
        write_overrides(out, found.overrides)
    console.result(f"{found.digest}\n")
    return 0


def _by_hand(options: Options, console: Console, digest: str, text: str) -> Approval:
    """What a person approves with overrides. The digest may be that of the plan without them, which is the one that the red
    run showed: both were given at once, by one person."""
    by = os.environ.get("GITHUB_ACTOR") or os.environ.get("GITLAB_USER_LOGIN") or ""
    overrides = parse_overrides(text, by)
    plan = review_directory(options, find_place(options), console, Selection(), Overrides()).plan
    return Approval(replace(plan, overrides=overrides).digest if digest == plan.digest else digest, overrides=overrides)


def _merged(options: Options, console: Console) -> Approval:
    """What the merges since the last applied one approve; `none`, with the reason told, where that is nothing."""

    def nothing(why: str) -> Approval:
        console.say(why)
        tell_stop(why, console)
        return Approval(NONE)

    environment = load_config(find_config(options.dir)).environment(options.env).name
    directory = repository_path(str(options.dir))
    with open_forge(os.environ) as forge:
        if forge is None:
            return nothing("there is no token, so no approval can be read; start this by hand with the plan's digest")
        found = approvals_of(forge, environment, directory)
        if why := why_not_head(forge, directory):
            return nothing(why)
    if not found:
        return nothing("no merged pull request waits to be applied; start this by hand with the plan's digest to apply it")
    if len(found) == 1:
        (one,) = found
        if one.digest == NONE:
            return nothing(f"pull request {one.source} approved no plan: it was refused, or it was not made for an environment")
        console.say(f"approved by pull request {one.source}")
        return one
    return _summed(found, options, console, nothing)


def _summed(found: Sequence[Approval], options: Options, console: Console, nothing: Callable[[str], Approval]) -> Approval:
    """What several merges approve together: the plan of now, where it is one of theirs or exactly their sum."""
    plan = review_directory(options, find_place(options), console, Selection(), Overrides()).plan
    left = [one for one, _ in waiting(found, plan)]
    whole = replace(plan, overrides=overrides_of(left))
    names = ", ".join(one.source for one in reversed(left))
    if not plan.changes:
        return Approval(NONE)
    if adds_up(found, plan) or any(one.digest == whole.digest for one in found):
        console.say(f"approved by {count(len(left), 'pull request')} together: {names}")
        return Approval(whole.digest, names, whole.overrides)
    return nothing(f"{_difference(found, plan)}; read the plan, then start this by hand with digest {plan.digest}")


def _difference(found: Sequence[Approval], plan: Plan) -> str:
    """Which merged pull requests are not applied yet, and what the plan has besides."""
    rows = [f"pull request {one.source} ({count(number, 'change')})" for one, number in reversed(waiting(found, plan))]
    rows += [f"pull request {one.source} (approved no plan)" for one in reversed(found) if one.digest == NONE]
    said = f"merged and not applied yet: {', '.join(rows) or 'what no pull request showed'}"
    names = list(unapproved(found, plan))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    besides = f"; no approved plan showed the change of {', '.join(names[:_NAMED])}{more}" if names else ""
    return f"{said}{besides or '; the plan is not the sum of theirs'}"
