"""Changing one policy or virtual model, on a remote or with --save in its file: show, confirm, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from policyctl.cli.apply import confirm_and_apply
from policyctl.cli.console import Console
from policyctl.cli.history import with_audit
from policyctl.cli.options import complete_models, complete_policies
from policyctl.cli.review import raise_if_unsafe
from policyctl.cli.selection import UNSEEN
from policyctl.cli.session import OpenedDirectory, Session
from policyctl.effect.tree import NOTHING
from policyctl.errors import InvalidInput, PolicyctlError, UsageError, errors_in
from policyctl.lint.directory import file_warnings
from policyctl.load.adopt import FileLayout, Placement
from policyctl.load.directory import read_contents
from policyctl.load.environment import in_environment
from policyctl.load.source import SUFFIXES, make_folder, read_source, redact_linked, write_atomically
from policyctl.load.write import file_text, unrepresentable_reasons
from policyctl.plan.diff import fields_between
from policyctl.plan.plan import Change, Desired, normal_of
from policyctl.plan.safety import Review
from policyctl.plan.settings import Override, Settings
from policyctl.policy.document import Document, Policy, canonical_text
from policyctl.policy.names import PLURALS, Kind, canonical_name, kind_of, virtual_model
from policyctl.reconcile.apply import ApplySettings
from policyctl.reconcile.audit import Audit
from policyctl.reconcile.observe import with_consumers
from policyctl.reconcile.plan import KnownModels, check_credentials, check_policy, may_remove, plan_removal, plan_write
from policyctl.report.format import count, escape
from policyctl.report.plan_text import change_text, plan_text

CANONICAL: dict[Kind, Callable[[str], str]] = {"policy": canonical_name, "model": virtual_model}
Looked = tuple[Review, str | None]  # a plan of one change, and a note about the next apply


def with_name(kind: Kind) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the name of a policy or model: NAME, or --name like the platform's own command."""
    whole = CANONICAL[kind]
    complete = complete_policies if kind == "policy" else complete_models

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @click.argument("argument", metavar="NAME", required=False, shell_complete=complete)
        @click.option(
            "--name",
            "-n",
            metavar="NAME",
            shell_complete=complete,
            help=f"The {kind}, with or without {whole('')}; the same as NAME.",
        )
        @wraps(function)
        def wrapper(*args: Any, argument: str | None, name: str | None, **more: Any) -> Any:
            if argument is not None and name is not None and whole(argument) != whole(name):
                raise UsageError(f"which {kind}, {argument} or {name}? name one")
            chosen = name if argument is None else argument
            if chosen is None:
                raise UsageError(f"which {kind}? name it: {click.get_current_context().command_path} NAME")
            return function(*args, name=chosen, **more)

        return wrapper

    return decorate


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
        given = click.get_current_context().get_parameter_source("record") is ParameterSource.COMMANDLINE
        if given and (save or dry_run):
            raise UsageError(
                f"--audit records what is written to the remote, and {'--save' if save else '--dry-run'} writes nothing there"
            )
        return function(*args, how=ChangeOptions(dry_run, save, yes, audit), **more)

    return wrapper


def _save(desired: Desired, session: Session, how: ChangeOptions) -> int:
    """Write a policy or model to its file, or to a new one. Before a file that differs is replaced, the change is confirmed."""
    console, environment, name = session.console, session.environment, desired.name
    if not environment.settings.in_scope(name):
        scope = ", ".join(environment.settings.scope or ())
        raise UsageError(f"{name} is outside the scope of environment {environment.name} ({scope})")
    home = _home(name, session)
    text = file_text(desired)
    if not isinstance(text, str):
        raise PolicyctlError(f"{name} cannot be a {kind_of(name)} file: {'; '.join(unrepresentable_reasons(text))}")
    change = _change(desired, home)
    if change is None:
        console.result(f"No changes: {escape(str(home.path))} already matches.\n")
        return 0
    _show(change, console)
    if how.dry_run:
        return 0
    if home.desired is not None and not console.confirm(f"Overwrite {home.path}?", yes=how.yes):
        return _declined(console)
    make_folder(home.path.parent)
    write_atomically(home.path, text, inside=session.options.dir)
    console.result(f"Wrote {escape(str(home.path))}.\n")
    return 0


def _save_removal(name: str, session: Session, how: ChangeOptions) -> int:
    """Delete the file of a policy or model."""
    console, home = session.console, _home(name, session)
    if home.desired is None:
        raise PolicyctlError(f"no file of {session.options.dir} has the {kind_of(name)} {name}")
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
    """The file of a policy or model.

    Raises InvalidInput for a directory with errors, PolicyctlError for a file not to be rewritten.
    """
    opened = session.read(lenient=True)
    opened.raise_if_errors()
    home = FileLayout(session.options.dir, *opened, session.environment).of(name)
    if home.complaint is not None:
        raise PolicyctlError(f"{home.path} {home.complaint}")
    return home


def _change(desired: Desired, home: Placement) -> Change | None:
    if home.desired is None:
        return Change("add", desired.name, None, None, desired.document, file=str(home.path))
    fields = fields_between(home.desired.document, desired.document)
    before = normal_of(home.desired.document)
    return Change("update", desired.name, None, before, desired.document, fields, str(home.path)) if fields else None


def _show(change: Change, console: Console) -> None:
    console.result(change_text(change, None, console.out_style, console.verbose) + "\n")


def _declined(console: Console) -> int:
    console.say("declined; nothing was written")
    return 1


def write(
    desired: Desired, session: Session, how: ChangeOptions, *, virtual: bool = False, overrides: tuple[Override, ...] = ()
) -> int:
    """Add or update a policy or model: on the remote, or with --save in the directory. Returns the exit code.

    With `virtual` a target without a prefix means the virtual model of that name, if there is one. `overrides` allow that a
    key is lost that the remote may hide.
    """
    if how.save and overrides:
        raise UsageError(f"{overrides[0].option} is for the remote, and --save changes the directory alone; leave one out")
    if how.save:
        return _save(desired, session, how)
    return _show_and_change(desired.name, partial(_look_to_write, desired, session, overrides, virtual=virtual), session, how)


def _look_to_write(desired: Desired, session: Session, overrides: tuple[Override, ...], *, virtual: bool) -> Looked:
    opened = _directory_if_readable(session)
    loaded = opened.loaded if opened else None
    declared = loaded.declared if loaded else NOTHING
    with session.reader() as reader, session.console.progress.of("Listing", f"live {kind_of(desired.name)}"):
        models = KnownModels(reader, loaded.models if loaded else ())
        review = plan_write(reader, desired, session.environment, models, declared, virtual=virtual)
        spell: Callable[[Policy], Policy] = _as_it_is
        if isinstance(desired, Policy):
            review = check_policy(models, review, desired)
            spell = models.speller(review.live)
        else:
            allowed = (*session.environment.settings.allow_key_loss, *(one.value for one in overrides))
            review = check_credentials(reader, review, allowed)
            review = review._replace(plan=review.plan._replace(overrides=overrides))
        after = next((change.after for change in review.plan.changes), None) or desired.document
        prunes = may_remove(reader, session.environment.settings)
        return review, _next_apply(desired.name, after, session, opened, prunes=prunes, spell=spell)


def _as_it_is(policy: Policy) -> Policy:
    return policy


def with_removal_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --allow-remove, --allow-unseen-consumers and --reason, and the other options of a change."""
    allow = "Allow the removal of this one, though it is protected or used; repeatable."
    unseen = "Allow it though it could not be read who uses it."
    reason = "Why something protected or used is removed; the audit shows it."
    wrapped = click.option("--reason", default="", metavar="TEXT", help=reason)(with_change_options(function))
    wrapped = click.option(UNSEEN, "unseen", is_flag=True, help=unseen)(wrapped)
    return click.option("--allow-remove", multiple=True, metavar="NAME", help=allow)(wrapped)


def remove(name: str, session: Session, how: ChangeOptions, allow_remove: tuple[str, ...], reason: str, *, unseen: bool) -> int:
    """Remove the policy or model of a canonical name: from the remote, or with --save its file. Returns the exit code."""
    kind = kind_of(name)
    if reason and not (allow_remove or unseen):
        raise UsageError("--reason is for --allow-remove, which is not given; add it, or leave the reason out")
    if idle := [other for other in allow_remove if CANONICAL[kind](other) != name]:
        raise UsageError(f"--allow-remove {idle[0]} is not the {kind} to remove, {name}; correct it or leave it out")
    if how.save and (allow_remove or unseen):
        option = "--allow-remove" if allow_remove else UNSEEN
        raise UsageError(f"{option} is for the remote, and --save changes the directory alone; leave one out")
    if how.save:
        return _save_removal(name, session, how)
    overrides = [Override("--allow-remove", one, reason) for one in allow_remove]
    overrides += [Override(UNSEEN, "", reason)] if unseen else []
    settings = session.environment.settings.overridden(None, None, tuple(map(CANONICAL[kind], allow_remove)))
    look = partial(_look_to_remove, name, session, settings, tuple(overrides), unseen=unseen)
    return _show_and_change(name, look, session, how)


def _look_to_remove(
    name: str, session: Session, settings: Settings, overrides: tuple[Override, ...], *, unseen: bool
) -> Looked:
    opened = _directory_if_readable(session)
    with session.reader() as reader, session.console.progress.of("Listing", f"live {kind_of(name)}"):
        review = plan_removal(reader, name, session.environment, settings)
        review = with_consumers(review, reader, opened.loaded if opened else None, settings, unseen=unseen)
    review = review._replace(plan=review.plan._replace(overrides=overrides))
    return review, _next_apply(name, None, session, opened, prunes=False)


def _show_and_change(name: str, look: Callable[[], Looked], session: Session, how: ChangeOptions) -> int:
    """Print a plan of one change with the note about the next apply, and apply it. Returns the exit code."""
    (review, note), console = look(), session.console
    if not review.plan.changes and not review.plan.blocked:
        console.result(f"No changes: the live {kind_of(name)} already matches.\n")
        if note:
            console.say(f"note  {note}")
        return 0
    if note and review.plan.changes:
        review = review._replace(notes=(*review.notes, note))
    console.result(plan_text(review, session.remote, console.out_style, verbose=console.verbose))
    if how.dry_run or review.plan.blocked:
        raise_if_unsafe(review)
        return 0
    return confirm_and_apply(review, session, ApplySettings(audit=how.audit), again=lambda: (session, look()[0]), yes=how.yes)


def read_one(file: Path, kind: Kind, session: Session) -> Desired:
    """The one policy or model of a file, with the environment's vars. Raises InvalidInput with every error, and prints
    warnings."""
    if file.suffix not in SUFFIXES:
        why = f"; Python is not run here, write the {kind} as YAML" if file.suffix == ".py" else ""
        raise UsageError(f"--file: {file} must end in {', '.join(SUFFIXES)}{why}")
    source = read_source(file)
    contents = read_contents(source, session.environment.vars, models=kind == "model")
    found = [*contents.problems, *file_warnings(source, contents)]
    problems = redact_linked(in_environment(found, session.environment))
    if errors_in(problems):
        raise InvalidInput(problems)
    those: Sequence[Desired] = contents.virtual_models if kind == "model" else contents.policies
    if len(those) != 1:
        raise UsageError(f"--file: {file} holds {len(those) or 'no'} {PLURALS[kind]}; one is imported at a time")
    session.console.problems(problems)
    return those[0]


def _directory_if_readable(session: Session) -> OpenedDirectory | None:
    """The directory as far as it can be read; it may be missing or have problems. None when git or the disk prevents it."""
    try:
        return session.read(lenient=True)
    except InvalidInput:
        return None


def _next_apply(
    name: str,
    after: Document | None,
    session: Session,
    opened: OpenedDirectory | None,
    *,
    prunes: bool,
    spell: Callable[[Policy], Policy] = _as_it_is,
) -> str | None:
    """What the next apply will do to a policy or model that is about to become `after` (None: removed); None when it leaves it
    alone.

    `opened` is the directory, as far as it can be read. `spell` gives a policy with its models as the remote spells them.
    """
    kind = kind_of(name)
    # The session manages models for this command; the directory may not.
    manages = kind == "policy" or session.config.environment(session.environment.name).settings.models
    if opened is None or not manages:
        return None
    _, loaded, unread = opened
    directory = session.options.dir
    own = next((one for one in loaded.desired if one.name == name), None)
    if own is not None and after is None:
        return f"{own.file} still has it, so the next apply adds it again; to remove it for good, remove it there (--save)"
    if own is not None:
        wanted = spell(own) if isinstance(own, Policy) else own
        differing = after is not None and canonical_text(normal_of(wanted.document)) != canonical_text(normal_of(after))
        there = f"{own.file} differs and wins at the next apply; to change it for good, change it there (--save)"
        return there if differing else None
    if errors := errors_in(loaded.problems):
        return f"{directory} has {count(len(errors), 'error')}, so it is not known whether one of its files has this {kind}"
    if elsewhere := unread.where(name):
        return f"{elsewhere}; so the next apply does not see it"
    if after is not None and loaded.desired and prunes and session.environment.settings.in_scope(name):
        return f"no file of {directory} has it, so the next apply removes it; to keep it, write the file (--save)"
    return None
