"""Changing one policy, on a remote or with --save in its file: show, confirm, write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import click
from click.core import ParameterSource

from policyctl.cli.apply import confirm_and_apply
from policyctl.cli.console import Console
from policyctl.cli.options import with_audit
from policyctl.cli.review import raise_if_unsafe
from policyctl.cli.session import OpenedDirectory, Session
from policyctl.effect.context import NOTHING
from policyctl.errors import InvalidInput, PolicyctlError, UsageError, errors_in
from policyctl.load.atomic import make_folder, write_atomically
from policyctl.load.placement import FileLayout, Placement
from policyctl.load.write import policy_text, unrepresentable_reasons
from policyctl.plan.change import Change
from policyctl.plan.diff import differs, fields_between
from policyctl.plan.safety import Review
from policyctl.policy.document import Document, Policy, normal_form
from policyctl.policy.names import canonical_name
from policyctl.reconcile.apply import ApplySettings
from policyctl.reconcile.audit import Audit
from policyctl.reconcile.models import KnownModels, check_policy
from policyctl.reconcile.plan import may_remove, plan_policy
from policyctl.report.format import count, escape
from policyctl.report.plan_text import change_text, plan_text


def with_name(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command a policy's name: NAME, or --name like the platform's own command."""

    @click.argument("policy_name", metavar="NAME", required=False)
    @click.option("--name", "-n", metavar="NAME", help="The policy, with or without virtual-policy/; the same as NAME.")
    @wraps(function)
    def wrapper(*args: Any, policy_name: str | None, name: str | None, **more: Any) -> Any:
        if policy_name is not None and name is not None and canonical_name(policy_name) != canonical_name(name):
            raise UsageError(f"which policy, {policy_name} or {name}? name one")
        chosen = name if policy_name is None else policy_name
        if chosen is None:
            raise UsageError(f"which policy? name it: {click.get_current_context().command_path} NAME")
        return function(*args, name=chosen, **more)

    return wrapper


@dataclass(frozen=True, slots=True)
class ChangeOptions:
    """How to carry out a change: only show it, write it to the directory instead of the remote, do not ask, record it."""

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
    def wrapper(*args: Any, dry_run: bool, save: bool, yes: bool, audit: Audit | None, **more: Any) -> Any:
        given = click.get_current_context().get_parameter_source("audit_file") is ParameterSource.COMMANDLINE
        if given and (save or dry_run):
            raise UsageError(
                f"--audit records what is written to the remote, and {'--save' if save else '--dry-run'} writes nothing there"
            )
        return function(*args, how=ChangeOptions(dry_run, save, yes, audit), **more)

    return wrapper


def save_policy(policy: Policy, session: Session, how: ChangeOptions) -> int:
    """Write a policy to its file, or to a new one. Before a file that differs is replaced, the change is confirmed."""
    console, environment = session.console, session.environment
    if not environment.settings.in_scope(policy.name):
        scope = ", ".join(environment.settings.scope or ())
        raise UsageError(f"{policy.name} is outside the scope of environment {environment.name} ({scope})")
    home = _home(policy.name, session)
    text = policy_text(policy.document)
    if not isinstance(text, str):
        raise PolicyctlError(f"{policy.name} cannot be a policy file: {'; '.join(unrepresentable_reasons(text))}")
    change = _change(policy, home)
    if change is None:
        console.result(f"No changes: {escape(str(home.path))} already matches.\n")
        return 0
    _show(change, console)
    if how.dry_run:
        return 0
    if home.desired is not None and not console.confirm(f"Overwrite {home.path}?", yes=how.yes):
        return _declined(console)
    make_folder(session.options.dir)
    write_atomically(home.path, text, inside=session.options.dir)
    console.result(f"Wrote {escape(str(home.path))}.\n")
    return 0


def save_removal(name: str, session: Session, how: ChangeOptions) -> int:
    """Delete the file of a policy."""
    console, home = session.console, _home(name, session)
    if home.desired is None:
        raise PolicyctlError(f"no file of {session.options.dir} has the policy {name}")
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


def _home(name: str, session: Session) -> Placement:
    """The policy's file. Raises InvalidInput for a directory with errors, PolicyctlError for a file not to be rewritten."""
    opened = session.read(lenient=True)
    opened.raise_if_errors()
    home = FileLayout(session.options.dir, *opened, session.environment).of(name)
    if home.complaint is not None:
        raise PolicyctlError(f"{home.path} {home.complaint}")
    return home


def _change(policy: Policy, home: Placement) -> Change | None:
    if home.desired is None:
        return Change("add", policy.name, None, None, policy.document, file=str(home.path))
    fields = fields_between(home.desired.document, policy.document)
    before = normal_form(home.desired.document)
    return Change("update", policy.name, None, before, policy.document, fields, str(home.path)) if fields else None


def _show(change: Change, console: Console) -> None:
    console.result(change_text(change, None, console.out_style, console.verbose) + "\n")


def _declined(console: Console) -> int:
    console.say("declined; nothing was written")
    return 1


def write_policy(policy: Policy, session: Session, how: ChangeOptions, *, virtual: bool = False) -> int:
    """Add or update a policy: on the remote, or with --save in the directory. Returns the exit code.

    With `virtual` a name without a prefix means the virtual model of that name, if there is one.
    """
    if how.save:
        return save_policy(policy, session, how)
    opened = directory_if_readable(session)
    loaded = opened.loaded if opened else None
    declared = loaded.declared if loaded else NOTHING
    with session.reader() as reader, session.console.progress.of("Listing", "live policy"):
        models = KnownModels(reader, loaded.models if loaded else ())
        review = plan_policy(reader, policy, session.environment, models, declared, virtual=virtual)
        review = check_policy(models, review, policy)
        after = next((change.after for change in review.plan.changes), None) or policy.document
        prunes, spell = may_remove(reader, session.environment.settings), models.speller(review.live)
        note = next_apply(policy.name, after, session, opened, prunes=prunes, spell=spell)
    return show_and_change(review, note, session, how)


def show_and_change(review: Review, note: str | None, session: Session, how: ChangeOptions) -> int:
    """Print a plan of one change with the note about the next apply, and apply it. Returns the exit code."""
    console = session.console
    if not review.plan.changes and not review.plan.blocked:
        console.result("No changes: the live policy already matches.\n")
        if note:
            console.say(f"note  {note}")
        return 0
    if note and review.plan.changes:
        review = replace(review, notes=(*review.notes, note))
    console.result(plan_text(review, session.remote, console.out_style, verbose=console.verbose))
    if how.dry_run or review.plan.blocked:
        raise_if_unsafe(review)
        return 0
    return confirm_and_apply(review, session, ApplySettings(audit=how.audit), yes=how.yes)


def directory_if_readable(session: Session) -> OpenedDirectory | None:
    """The directory as far as it can be read; it may be missing or have problems. None when git or the disk prevents it."""
    try:
        return session.read(lenient=True)
    except InvalidInput:
        return None


def next_apply(
    name: str,
    after: Document | None,
    session: Session,
    opened: OpenedDirectory | None,
    *,
    prunes: bool,
    spell: Callable[[Policy], Policy] = lambda policy: policy,
) -> str | None:
    """What the next apply will do to a policy that is about to become `after` (None: removed); None when it leaves it alone.

    `opened` is the directory, as far as it can be read. `spell` gives a policy with its models as the remote spells them.
    """
    if opened is None:
        return None
    _, loaded, unread = opened
    directory = session.options.dir
    own = next((policy for policy in loaded.policies if policy.name == name), None)
    if own is not None and after is None:
        return f"{own.file} still has it, so the next apply adds it again; to remove it for good, remove it there (--save)"
    if own is not None:
        differing = after is not None and differs(spell(own).document, after)
        there = f"{own.file} differs and wins at the next apply; to change it for good, change it there (--save)"
        return there if differing else None
    if errors := errors_in(loaded.problems):
        return f"{directory} has {count(len(errors), 'error')}, so it is not known whether one of its files has this policy"
    if elsewhere := unread.where(name):
        return f"{elsewhere}; so the next apply does not see it"
    if after is not None and loaded.policies and prunes and session.environment.settings.in_scope(name):
        return f"no file of {directory} has it, so the next apply removes it; to keep it, write the file (--save)"
    return None
