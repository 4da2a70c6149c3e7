"""One change to one policy, on a remote or with --save in its file: shown, confirmed and carried out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import click
from click.core import ParameterSource

from policyctl.cli.audit import Audit, with_audit
from policyctl.cli.console import Console
from policyctl.cli.execute import confirm_and_apply
from policyctl.cli.options import Options
from policyctl.cli.review import raise_if_unsafe
from policyctl.cli.session import Session, read_directory
from policyctl.effect.context import NOTHING
from policyctl.errors import InvalidInput, PolicyctlError, UsageError, errors_in
from policyctl.load.atomic import make_folder, write_atomically
from policyctl.load.directory import Loaded
from policyctl.load.placement import FileLayout, Placement
from policyctl.load.unread import UnreadFiles
from policyctl.load.write import policy_text, unrepresentable_reasons
from policyctl.plan.change import Change
from policyctl.plan.diff import differs, fields_between
from policyctl.plan.safety import Review
from policyctl.policy.document import Document, Policy, normal_form
from policyctl.policy.names import canonical_name
from policyctl.reconcile.observe import KnownModels
from policyctl.reconcile.plan import check_policy, may_remove, plan_policy
from policyctl.remote.open import open_reader
from policyctl.report.format import count, escape
from policyctl.report.plan_text import change_text, plan_text


def with_name(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command a policy's name: NAME, or --name as the platform's own command has it."""

    @click.argument("policy_name", metavar="NAME", required=False)
    @click.option("--name", "-n", metavar="NAME", help="The policy, with or without virtual-policy/; the same as NAME.")
    @wraps(function)
    def settled(*args: Any, policy_name: str | None, name: str | None, **more: Any) -> Any:
        if policy_name is not None and name is not None and canonical_name(policy_name) != canonical_name(name):
            raise UsageError(f"which policy, {policy_name} or {name}? name one")
        chosen = name if policy_name is None else policy_name
        if chosen is None:
            raise UsageError(f"which policy? name it: {click.get_current_context().command_path} NAME")
        return function(*args, name=chosen, **more)

    return settled


@dataclass(frozen=True, slots=True)
class ChangeOptions:
    """How to carry out a change: only show it, write it to the directory instead of the remote, do not ask, note it."""

    dry_run: bool
    save: bool
    yes: bool
    audit: Audit | None


def with_change_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --dry-run, --save, --yes and --audit, as `how`."""

    @click.option("--dry-run", is_flag=True, help="Show the change and stop.")
    @click.option("--save", is_flag=True, help="Change the policy directory instead of the remote.")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @with_audit
    @wraps(function)
    def settled(*args: Any, dry_run: bool, save: bool, yes: bool, audit: Audit | None, **more: Any) -> Any:
        given = click.get_current_context().get_parameter_source("audit_file") is ParameterSource.COMMANDLINE
        if given and (save or dry_run):
            raise UsageError(
                f"--audit notes what is written to the remote, and {'--save' if save else '--dry-run'} writes nothing there"
            )
        return function(*args, how=ChangeOptions(dry_run, save, yes, audit), **more)

    return settled


def save_policy(policy: Policy, options: Options, place: Session, console: Console, how: ChangeOptions) -> int:
    """Write a policy to its file, or to a new one. A file that says something else is shown and asked about first."""
    if not place.environment.settings.in_scope(policy.name):
        scope = ", ".join(place.environment.settings.scope or ())
        raise UsageError(f"{policy.name} is outside the scope of environment {place.environment.name} ({scope})")
    home = _home(policy.name, options, place, console)
    text = policy_text(policy.document)
    if not isinstance(text, str):
        raise PolicyctlError(f"{policy.name} cannot be a policy file: {'; '.join(unrepresentable_reasons(text))}")
    change = _change(policy, home)
    if change is None:
        console.result(f"No changes: {escape(str(home.path))} says the same.\n")
        return 0
    _show(change, console)
    if how.dry_run:
        return 0
    if home.policy is not None and not console.confirm(f"Write over {home.path}?", yes=how.yes):
        return _declined(console)
    make_folder(options.dir)
    write_atomically(home.path, text, inside=options.dir)
    console.result(f"Wrote {escape(str(home.path))}.\n")
    return 0


def save_removal(name: str, options: Options, place: Session, console: Console, how: ChangeOptions) -> int:
    """Delete the file of a policy."""
    home = _home(name, options, place, console)
    if home.policy is None:
        raise PolicyctlError(f"no file of {options.dir} has the policy {name}")
    _show(Change("remove", name, None, None, None, file=str(home.path)), console)
    if how.dry_run:
        return 0
    if not console.confirm(f"Delete {home.path}?", yes=how.yes):
        return _declined(console)
    try:
        home.path.unlink()
    except OSError as error:
        raise PolicyctlError(f"{home.path} cannot be deleted: {error.strerror}") from None
    console.result(f"Deleted {escape(str(home.path))}.\n")
    return 0


def _home(name: str, options: Options, place: Session, console: Console) -> Placement:
    """The policy's file. Raises InvalidInput for a directory with errors, PolicyctlError for a file not to be rewritten."""
    files, loaded, unread = read_directory(options, place, console)
    if errors_in(loaded.problems):
        raise InvalidInput(loaded.problems)
    home = FileLayout(options.dir, files, loaded, unread, place.environment).of(name)
    if home.complaint is not None:
        raise PolicyctlError(f"{home.path} {home.complaint}")
    return home


def _change(policy: Policy, home: Placement) -> Change | None:
    if home.policy is None:
        return Change("add", policy.name, None, None, policy.document, file=str(home.path))
    fields = fields_between(home.policy.document, policy.document)
    before = normal_form(home.policy.document)
    return Change("update", policy.name, None, before, policy.document, fields, str(home.path)) if fields else None


def _show(change: Change, console: Console) -> None:
    console.result(change_text(change, None, console.out_style, console.verbose) + "\n")


def _declined(console: Console) -> int:
    console.say("declined; nothing was written")
    return 1


def write_policy(policy: Policy, options: Options, place: Session, how: ChangeOptions, *, virtual: bool = False) -> int:
    """Make a policy what it should be: on the remote, or with --save in the directory. Returns the exit code.

    With `virtual` a name without prefix means the virtual model where there is one.
    """
    console = Console(options)
    if how.save:
        return save_policy(policy, options, place, console, how)
    loaded, unread = directory_policy(options, place, console)
    declared = loaded.declared if loaded else NOTHING
    with open_reader(place.url, place.access) as reader, console.progress.of("Listing", "live policy"):
        models = KnownModels(reader, loaded.models if loaded else ())
        review = plan_policy(reader, policy, place.environment, models, declared, virtual=virtual)
        review = check_policy(models, review, policy)
        after = next((change.after for change in review.plan.changes), None) or policy.document
        prunes, spell = may_remove(reader, place.environment.settings), models.speller(review.live)
        note = next_apply(policy.name, after, loaded, options, place, prunes=prunes, unread=unread, spell=spell)
    return show_and_change(review, note, place, console, how)


def show_and_change(review: Review, note: str | None, place: Session, console: Console, how: ChangeOptions) -> int:
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
    return confirm_and_apply(review, place, console, yes=how.yes, audit=how.audit)


def directory_policy(options: Options, place: Session, console: Console) -> tuple[Loaded | None, UnreadFiles | None]:
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
    place: Session,
    *,
    prunes: bool,
    unread: UnreadFiles | None,
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
    if said is not None and after is not None and differs(spell(said).document, after):
        return f"{said.file} says otherwise and wins at the next apply; to change it for good, change it there (--save)"
    if said is None and (errors := errors_in(loaded.problems)):
        return f"{options.dir} has {count(len(errors), 'error')}, so it is not known whether a file of it has this policy"
    if said is None and unread is not None and (elsewhere := unread.where(name)):
        return f"{elsewhere}; so the next apply does not see it"
    if said is None and after is not None and loaded.policies and prunes and place.environment.settings.in_scope(name):
        return f"no file of {options.dir} has it, so the next apply removes it; to keep it, write the file (--save)"
    return None
