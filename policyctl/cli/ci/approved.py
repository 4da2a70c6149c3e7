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
from policyctl.core.approval import NONE, Approval, adds_up, moved_otherwise, overrides_of, reached, unapproved, waiting
from policyctl.core.plan import Plan, Selection
from policyctl.errors import StalePlan, UsageError
from policyctl.load.config import find_config, load_config
from policyctl.remote.forge import open_forge
from policyctl.report.plain import count

EPILOG = """\b
Example:
  policyctl ci approved --out overrides.json
  policyctl ci approved --digest sha256:… --overrides '--max-removes 12 because the old models are gone'"""

_NAMED = 5  # policies in a message
_NO_PLAN = "it was refused, or it was not made for an environment"
_NEW_ACCESS = (
    "no approved plan shows the remote, auth and ca_file that policyctl.yaml has now, so nothing logs in with them; read them, "
    "then start this by hand with the digest that policyctl plan --format json prints"
)
_NEW_RULES = (
    "no approved plan shows the safety settings that policyctl.yaml has now; read the plan, then start this by hand with its "
    "digest"
)


@click.command("approved", epilog=EPILOG)
@click.option("--digest", default="", help="What a person approved by hand; where it is not empty, it is the answer.")
@click.option("--overrides", "text", default="", metavar="TEXT", help="What that person overrides: OPTIONS because REASON.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the approved overrides to this file, for apply --overrides.",
)
@click.option(
    "--base",
    metavar="REVISION",
    help="What the branch was before the push. It says how the remote was reached where no earlier run noted that.",
)
@with_options(*NAMES)
def command(options: Options, digest: str, text: str, out: Path | None, base: str | None) -> int:
    """Print the digest of the plan that merged pull requests approved, from our comments on them.

    Those count that were merged since the last one whose plan was applied (see ci applied), and whose plan was made for the
    commit that was merged, and for a merge into this branch. Of several the plan of now must be exactly the sum; else
    standard error names what is not applied yet, and how to go on. An approval holds only at the head of the branch, and
    under the safety settings that it shows. Where nothing is approved the digest is `none`, with which apply applies an empty
    plan and nothing else.

    Where the remote, auth or ca_file of the environment is not what was used before, and no approved plan shows the change,
    the exit code is 4 before anything logs in.
    """
    return approved(options, digest, text, out, base)


def approved(options: Options, digest: str, text: str, out: Path | None, base: str | None) -> int:
    console = Console(options)
    if text.strip() and not digest:
        raise UsageError("--overrides is for a plan that a person approved; give its --digest too")
    if text.strip():
        found = _by_hand(options, console, digest, text)
    elif digest:
        found = Approval(digest)
    else:
        found = _merged(options, console, base)
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


def _merged(options: Options, console: Console, base: str | None) -> Approval:
    """What the merges since the last applied one approve; `none`, with the reason told, where that is nothing.

    Raises StalePlan where nobody approved how the remote is reached now: then not even a plan may be made, as that logs in.
    """

    def nothing(why: str) -> Approval:
        console.say(why)
        tell_stop(why, console)
        return Approval(NONE)

    environment = load_config(find_config(options.dir)).environment(options.env)
    found, applied, why = _read(options, environment.name)
    besides = "".join(f"; {_not_approved(one)}" for one in found if one.why)
    if environment.auth is not None:
        before = None if base is None else _access_at(options, base, environment.name)
        if environment.access not in reached(found, applied, before):
            tell_stop(f"{_NEW_ACCESS}{besides}", console)
            raise StalePlan(f"{_NEW_ACCESS}{besides}")
    if why:
        return nothing(why)
    if not found:
        return nothing("no merged pull request waits to be applied; start this by hand with the plan's digest to apply it")
    if len(found) == 1 and found[0].digest == NONE:
        return nothing(f"{_not_approved(found[0])}; start this by hand with the plan's digest to apply it")
    if environment.rules not in {one.terms.rules for one in found if one.terms is not None}:
        return nothing(f"{_NEW_RULES}{besides}")
    if len(found) == 1:
        console.say(f"approved by pull request {found[0].source}")
        return found[0]
    return _summed(found, options, console, nothing)


def _read(options: Options, environment: str) -> tuple[list[Approval], Approval | None, str | None]:
    """What waits, the newest first; the last that was applied; and why none of it counts, where that is so."""
    directory = repository_path(str(options.dir))
    with open_forge(os.environ) as forge:
        if forge is None:
            return [], None, "there is no token, so no approval can be read; start this by hand with the plan's digest"
        found, applied = approvals_of(forge, environment, directory)
        return found, applied, why_not_head(forge, directory)


def _access_at(options: Options, base: str, environment: str) -> str | None:
    """How the remote was reached before a push, as far as that can be known."""
    if not base.strip("0"):  # of a branch's first push services say 000…
        return None
    from policyctl.load.base import access_at  # with git behind it

    return access_at(options.dir, base, environment)


def _not_approved(one: Approval) -> str:
    """Why the merge of a pull request approved nothing."""
    return f"pull request {one.source} approved no plan: {one.why or _NO_PLAN}"


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
    rows += [
        f"pull request {one.source} (approved no plan{f': {one.why}' if one.why else ''})"
        for one in reversed(found)
        if one.digest == NONE
    ]
    said = f"merged and not applied yet: {', '.join(rows) or 'what no pull request showed'}"
    if names := list(unapproved(found, plan)):
        return f"{said}; no approved plan showed the change of {_named(names)}"
    if names := moved_otherwise(found, plan):
        return f"{said}; together they do to the traffic of {_named(names)} what none of their plans showed"
    return f"{said}; the plan is not the sum of theirs"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"
