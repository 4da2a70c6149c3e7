"""--save: a change to one policy's file in the directory, instead of to the remote."""

from __future__ import annotations

from policyctl.cli.console import Console
from policyctl.cli.opening import Place, read_directory
from policyctl.cli.options import Options
from policyctl.cli.policy.options import How
from policyctl.core.change import Change
from policyctl.core.diff import fields_between
from policyctl.errors import InvalidInput, PolicyctlError, UsageError, errors_in
from policyctl.load.files import make_folder, write_atomically
from policyctl.load.homes import Home, Homes
from policyctl.load.write import policy_text, reasons
from policyctl.model.normal import normal_form
from policyctl.model.policy import Policy
from policyctl.report.plain import plain
from policyctl.report.plan_text import change_text


def save_policy(policy: Policy, options: Options, place: Place, console: Console, how: How) -> int:
    """Write a policy to its file, or to a new one. A file that says something else is shown and asked about first."""
    if not place.environment.settings.in_scope(policy.name):
        scope = ", ".join(place.environment.settings.scope or ())
        raise UsageError(f"{policy.name} is outside the scope of environment {place.environment.name} ({scope})")
    home = _home(policy.name, options, place, console)
    text = policy_text(policy.document)
    if not isinstance(text, str):
        raise PolicyctlError(f"{policy.name} cannot be a policy file: {'; '.join(reasons(text))}")
    change = _change(policy, home)
    if change is None:
        console.result(f"No changes: {plain(str(home.path))} says the same.\n")
        return 0
    _show(change, console)
    if how.dry_run:
        return 0
    if home.policy is not None and not console.confirm(f"Write over {home.path}?", yes=how.yes):
        return _declined(console)
    make_folder(options.dir)
    write_atomically(home.path, text, inside=options.dir)
    console.result(f"Wrote {plain(str(home.path))}.\n")
    return 0


def save_removal(name: str, options: Options, place: Place, console: Console, how: How) -> int:
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
    console.result(f"Deleted {plain(str(home.path))}.\n")
    return 0


def _home(name: str, options: Options, place: Place, console: Console) -> Home:
    """The policy's file. Raises InvalidInput for a directory with errors, PolicyctlError for a file not to be rewritten."""
    files, loaded, unread = read_directory(options, place, console)
    if errors_in(loaded.problems):
        raise InvalidInput(loaded.problems)
    home = Homes(options.dir, files, loaded, unread, place.environment).of(name)
    if home.complaint is not None:
        raise PolicyctlError(f"{home.path} {home.complaint}")
    return home


def _change(policy: Policy, home: Home) -> Change | None:
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
