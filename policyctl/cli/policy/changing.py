"""One change to one policy on a remote: shown, asked about, carried out; and what the directory makes of it later."""

from __future__ import annotations

from collections.abc import Callable
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
from policyctl.effect.declared import NOTHING
from policyctl.errors import InvalidInput, errors_in
from policyctl.load.directory import Loaded
from policyctl.load.unread import Unread
from policyctl.model.normal import Document
from policyctl.model.policy import Policy
from policyctl.reconcile.models import KnownModels
from policyctl.reconcile.plan import check_policy, may_remove, plan_policy
from policyctl.remote.open import open_reader
from policyctl.report.plain import count
from policyctl.report.plan_text import plan_text


def write_policy(policy: Policy, options: Options, place: Place, how: How, *, virtual: bool = False) -> int:
    """Make a policy what it should be: on the remote, or with --save in the directory. Returns the exit code.

    With `virtual` a name without prefix means the virtual model where there is one.
    """
    console = Console(options)
    if how.save:
        return save_policy(policy, options, place, console, how)
    loaded, unread = what_files_say(options, place, console)
    declared = loaded.declared if loaded else NOTHING
    with open_reader(place.url, place.access) as reader, console.progress.of("Listing", "live policy"):
        models = KnownModels(reader, loaded.models if loaded else ())
        review = plan_policy(reader, policy, place.environment, models, declared, virtual=virtual)
        review = check_policy(models, review, policy)
        after = next((change.after for change in review.plan.changes), None) or policy.document
        prunes, spell = may_remove(reader, place.environment.settings), models.speller(review.live)
        note = next_apply(policy.name, after, loaded, options, place, prunes=prunes, unread=unread, spell=spell)
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


def what_files_say(options: Options, place: Place, console: Console) -> tuple[Loaded | None, Unread | None]:
    """What the directory says, and what of it was not read; None when that cannot be told. It need not be there, nor valid."""
    try:
        _, loaded, unread = read_directory(options, place, console)
    except InvalidInput:
        return None, None
    return loaded, unread


def next_apply(
    name: str,
    after: Document | None,
    loaded: Loaded | None,
    options: Options,
    place: Place,
    *,
    prunes: bool,
    unread: Unread | None,
    spell: Callable[[Policy], Policy] = lambda policy: policy,
) -> str | None:
    """What the next apply makes of a policy that is about to be `after` (None: removed), when that is not what it leaves alone.

    `loaded` is what the directory says, as far as that is known, `unread` what of it was not read. `spell` gives a policy with
    its models as the remote spells them.
    """
    if loaded is None:
        return None
    said = next((policy for policy in loaded.policies if policy.name == name), None)
    if said is not None and after is None:
        return f"{said.file} still has it, so the next apply adds it again; to remove it for good, remove it there (--save)"
    if said is not None and after is not None and differ(spell(said).document, after):
        return f"{said.file} says otherwise and wins at the next apply; to change it for good, change it there (--save)"
    if said is None and (errors := errors_in(loaded.problems)):
        return f"{options.dir} has {count(len(errors), 'error')}, so it is not known whether a file of it has this policy"
    if said is None and unread is not None and (elsewhere := unread.where(name)):
        return f"{elsewhere}; so the next apply does not see it"
    if said is None and after is not None and loaded.policies and prunes and place.environment.settings.in_scope(name):
        return f"no file of {options.dir} has it, so the next apply removes it; to keep it, write the file (--save)"
    return None
