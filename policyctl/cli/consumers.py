"""policyctl consumers."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import click

from policyctl.cli.options import NAMES, Options, complete_names, with_form, with_options
from policyctl.cli.session import open_session
from policyctl.errors import Incomplete, PolicyctlError, errors_in
from policyctl.load.directory import Loaded
from policyctl.plan.consumers import Consumers
from policyctl.policy.findings import did_you_mean
from policyctl.policy.live import LiveRows
from policyctl.policy.names import MODEL_PREFIX, canonical_name, kind_of, virtual_model
from policyctl.reconcile.observe import observe, read_consumers, uses_with_lines
from policyctl.report.format import count
from policyctl.report.policies import Usage, UsedName, usage_json, usage_text

EPILOG = """\b
Example:
  policyctl consumers
  policyctl consumers anygem --env prod
  policyctl consumers virtual-model/openai/gpt-4o --format json"""


@click.command("consumers", epilog=EPILOG)
@click.argument("name", required=False, shell_complete=complete_names)
@with_form("text", "json")
@with_options(*NAMES)
def consumers(options: Options, name: str | None, form: str) -> int:
    """Show who uses each policy and model, or the one called NAME: agents, flows, knowledge bases, controls, the tenant's
    settings and other policies, directly or through others.

    Files of agents, flows, knowledge bases and controls in the policy directory count too. Exit code 5 means that some list
    could not be read, so who uses what is not known as a whole.
    """
    session = open_session(options)
    loaded = session.read(lenient=True).loaded
    with session.reader() as reader, session.console.progress.of("Reading who uses what", "list"):
        observed, models = observe(reader), reader.models()
        in_files = {policy.name: policy.document for policy in loaded.policies}
        found = read_consumers(reader, loaded, in_files | {one.name: one.document for one in observed.policies.values()})
    names = _names(observed, models, loaded, found)
    chosen = sorted(names) if name is None else _chosen(name, names)
    uses = uses_with_lines(found, sorted(chosen, key=lambda one: (kind_of(one) == "model", one)), loaded)
    used = tuple(UsedName(one, _exists(one, observed, models), by) for one, by in uses.items())
    notes = [*found.notes, *_broken(loaded)]
    usage = Usage(session.environment.name, session.remote, used, found.unread, tuple(notes))
    session.console.result(usage_json(usage) if form == "json" else usage_text(usage, session.console.out_style))
    if found.unread:
        raise Incomplete(f"{count(len(found.unread), 'source')} could not be read, so it is not known who uses what")
    return 0


def _names(observed: LiveRows, models: Collection[str], loaded: Loaded, found: Consumers) -> frozenset[str]:
    """Every policy and virtual model that is live, declared in a file, or named with its prefix by a consumer."""
    virtual = (name for name in models if name.startswith(MODEL_PREFIX))
    return frozenset((*observed.live, *virtual, *loaded.names, *map(virtual_model, loaded.models), *found.named))


def _chosen(name: str, names: Collection[str]) -> list[str]:
    """The policy and the model of that name, in either spelling. Raises PolicyctlError when there is neither."""
    found = [one for one in dict.fromkeys((name, canonical_name(name), virtual_model(name))) if one in names]
    if not found:
        guess = did_you_mean(name, sorted(names)) or did_you_mean(canonical_name(name), sorted(names))
        raise PolicyctlError(f"no policy or model {name} is known{guess}; policyctl consumers lists all")
    return found


def _exists(name: str, observed: LiveRows, models: Collection[str]) -> bool | None:
    """Whether the remote has it; None where that is not known, as of models that it does not list."""
    if name in observed.live or name in models or any(twins.name == name for twins in observed.twins):
        return True
    known = bool(models) if kind_of(name) == "model" else observed.whole and not observed.unreadable
    return False if known else None


def _broken(loaded: Loaded) -> Iterator[str]:
    if number := len({problem.mark.file for problem in errors_in(loaded.problems)}):
        yield f"{count(number, 'file')} with errors could not be read as a whole; policyctl validate shows why"
