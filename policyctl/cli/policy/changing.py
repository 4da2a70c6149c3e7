"""One change to one policy on a remote: shown, asked about, carried out; and what the directory makes of it later."""

from __future__ import annotations

from dataclasses import replace

from policyctl.cli.carrying import ask_and_carry_out
from policyctl.cli.console import Console
from policyctl.cli.opening import Place, read_directory
from policyctl.cli.options import Options
from policyctl.cli.policy.options import How
from policyctl.cli.policy.saving import save_policy
from policyctl.cli.reviewing import raise_if_unsafe
from policyctl.core.diff import differ
from policyctl.core.guards import Review
from policyctl.errors import InvalidInput, errors_in
from policyctl.model.normal import Document
from policyctl.model.policy import Policy
from policyctl.reconcile.plan import check_policy, may_remove, plan_policy
from policyctl.remote.open import open_reader
from policyctl.report.plain import count
from policyctl.report.plan_text import plan_text


def write_policy(policy: Policy, options: Options, place: Place, how: How) -> int:
    """Make a policy what it should be: on the remote, or with --save in the directory. Returns the exit code."""
    console = Console(options)
    if how.save:
        return save_policy(policy, options, place, console, how)
    with open_reader(place.url, place.access) as reader, console.progress.of("Listing", "live policy"):
        review = check_policy(reader, plan_policy(reader, policy, place.environment), policy)
        prunes = may_remove(reader, place.environment.settings)
    note = next_apply(policy.name, policy.document, options, place, console, prunes=prunes)
    return show_and_change(review, note, place, console, how)


def show_and_change(review: Review, note: str | None, place: Place, console: Console, how: How) -> int:
    """Print a plan of one change with the note about the next apply, and carry it out. Returns the exit code."""
    if not review.plan.changes and not review.plan.blocked:
        console.result("No changes: the live policy says the same.\n")
        if note:
            console.say(f"note  {note}")
        return 0
    if note and review.plan.changes:
        review = replace(review, notes=(*review.notes, note))
    console.result(plan_text(review, place.remote, console.out_style, verbose=console.verbose))
    if how.dry_run or review.plan.blocked:
        raise_if_unsafe(review)
        return 0
    return ask_and_carry_out(review, place, console, yes=how.yes, audit=how.audit)


def next_apply(
    name: str, after: Document | None, options: Options, place: Place, console: Console, *, prunes: bool
) -> str | None:
    """What the next apply makes of a policy that is about to be `after` (None: removed), when that is not what it leaves alone.

    The directory need not be there, nor valid: this only informs.
    """
    try:
        _, loaded, unread = read_directory(options, place, console)
    except InvalidInput:
        return None
    said = next((policy for policy in loaded.policies if policy.name == name), None)
    if said is not None and after is None:
        return f"{said.file} still has it, so the next apply adds it again; to remove it for good, remove it there (--save)"
    if said is not None and after is not None and differ(said.document, after):
        return f"{said.file} says otherwise and wins at the next apply; to change it for good, change it there (--save)"
    if said is None and (errors := errors_in(loaded.problems)):
        return f"{options.dir} has {count(len(errors), 'error')}, so it is not known whether a file of it has this policy"
    if said is None and (elsewhere := unread.where(name)):
        return f"{elsewhere}; so the next apply does not see it"
    if said is None and after is not None and loaded.policies and prunes and place.environment.settings.in_scope(name):
        return f"no file of {options.dir} has it, so the next apply removes it; to keep it, write the file (--save)"
    return None
