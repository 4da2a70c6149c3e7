"""policyctl pull."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import click

from policyctl.cli.console import Console
from policyctl.cli.environments import with_environments
from policyctl.cli.options import NAMES, Options, with_options
from policyctl.cli.session import DirectoryFiles, OpenedDirectory, Session, open_session
from policyctl.errors import Incomplete
from policyctl.load.adopt import FileLayout, Pull, leave_contradictions, plan_pull
from policyctl.load.directory import Loaded
from policyctl.load.environment import EnvironmentFilter
from policyctl.load.source import make_folder, write_atomically
from policyctl.plan.plan import Plan, Selection
from policyctl.policy.live import LiveRows
from policyctl.policy.names import MODEL_PREFIX, counted, kind_of
from policyctl.reconcile.observe import observe
from policyctl.reconcile.plan import KnownModels, plan_directory
from policyctl.remote.protocol import Reader
from policyctl.report.policies import pull_text

EPILOG = """\b
Example:
  policyctl pull
  policyctl pull --env prod --dir policies --overwrite
  policyctl pull --env dev --env prod"""


@click.command("pull", epilog=EPILOG)
@click.option("--overwrite", is_flag=True, help="Replace files that differ from what is live.")
@with_options(*NAMES)
@with_environments
def pull(options: Options, overwrite: bool, chosen: EnvironmentFilter) -> int:
    """Write every live policy in scope as a file, so that plan has nothing to change.

    Virtual models are written too, below models/, where policyctl.yaml has `manage: [policies, models]`, as init writes it;
    without a policyctl.yaml only policies are. No file holds a secret. A policy or model that is in a file already stays in
    that file, and files of what is not live are left alone. Exit code 5 means that something live does not match a file: it
    cannot be written as one, or its file differs.

    With several environments a file is written once, and only if it would be the same for all of them.
    """
    if chosen.several:
        return _pull_several(options, chosen, overwrite=overwrite)
    session = open_session(options)
    opened = _read(session)
    with session.reader() as reader:
        pulled = _planned(session, opened, reader, overwrite=overwrite)
        _write(pulled.done.writes, options.dir, session.console)
        plan = _plan(session, reader, pulled) if pulled.matters else None
    session.console.result(pull_text(pulled.done, pulled.observed, plan, pulled.unmanaged, session.console.out_style))
    pulled.raise_if_incomplete()
    return 0


class _Planned(NamedTuple):
    """What pulling from one remote comes to. `loaded` is the directory as it was before, and `unmanaged` the number of virtual
    models that it does not manage."""

    done: Pull
    observed: LiveRows
    loaded: Loaded
    unmanaged: int

    @property
    def matters(self) -> bool:
        """Whether there is anything to compare afterwards."""
        return bool(self.done.writes or self.loaded.desired)

    def raise_if_incomplete(self) -> None:
        """Raise Incomplete when something live does not match a file."""
        if missing := (*self.done.kept, *self.done.left):
            raise Incomplete(f"{counted(map(kind_of, missing), 'live ')} not pulled; see above. Read the plan before you apply")


def _planned(session: Session, opened: OpenedDirectory, reader: Reader, *, overwrite: bool) -> _Planned:
    """Decide what to write for an environment. Nothing is written here."""
    settings, loaded = session.environment.settings, opened.loaded
    layout = FileLayout(session.options.dir, *opened, session.environment)
    with session.console.progress.of("Listing", "live policy") as step:
        observed = observe(reader, on_row=step)
    models = KnownModels(reader, loaded.models)
    spell = models.speller({*observed.live, *observed.obstacles(), *loaded.names})
    done = plan_pull(observed, layout, settings, spell, overwrite=overwrite)
    unmanaged = 0 if settings.models else sum(name.startswith(MODEL_PREFIX) for name in models.listed)
    return _Planned(done, observed, loaded, unmanaged)


def _pull_several(options: Options, chosen: EnvironmentFilter, *, overwrite: bool) -> int:
    """Read every environment, then write each file once, then plan every environment from the files as they are by then."""
    from policyctl.cli.fleet import look_at, open_fleet
    from policyctl.report.fleet import folded
    from policyctl.report.format import NONE_AFFECTED

    fleet = open_fleet(options, chosen, deep=False, lenient=True)
    fleet.files.raise_if_broken(fleet.config, fleet.names)
    console = fleet.console
    if not fleet.names:
        console.say(NONE_AFFECTED)
        return 0
    pulled: dict[str, _Planned] = {}
    texts: dict[str, str] = {}

    def read(session: Session) -> None:
        opened = _read(session)
        with session.reader() as reader:
            pulled[session.environment.name] = _planned(session, opened, reader, overwrite=overwrite)

    def prove(session: Session) -> None:
        name = session.environment.name
        one = pulled[name]
        with session.reader() as reader:
            plan = _plan(session, reader, one) if one.matters else None
        texts[name] = pull_text(one.done, one.observed, plan, one.unmanaged, console.out_style)
        one.raise_if_incomplete()

    result = look_at(fleet, "pull", read)
    leave_contradictions({name: pulled[name].done for name in fleet.names if name in pulled})
    writes = {path: (path, text, new) for one in pulled.values() for path, text, new in one.done.writes}
    _write([*writes.values()], options.dir, console)
    files = DirectoryFiles(options, fleet.config, fleet.config.lint, lenient=True, deep=False, tests=False, several=True)
    after = replace(fleet, names=tuple(name for name in fleet.names if name in pulled), files=files)
    proved = {one.name: one for one in look_at(after, "pull", prove).results}
    result = result._replace(results=tuple(proved.get(one.name, one) for one in result.results))
    console.result(folded(result, texts, console.out_style))
    return result.exit_code()


def _read(session: Session) -> OpenedDirectory:
    opened = session.read(lenient=True)
    opened.raise_if_errors()
    return opened


def _write(writes: Sequence[tuple[Path, str, bool]], directory: Path, console: Console) -> None:
    with console.progress.of("Writing", "file", len(writes)) as step:
        for path, text, _ in writes:
            make_folder(path.parent)
            write_atomically(path, text, inside=directory)
            step()


def _plan(session: Session, reader: Reader, pulled: _Planned) -> Plan:
    """The plan from the files as they were written and the remote read again."""
    _, loaded, unread = _read(session)
    environment, desired = session.environment, loaded.desired
    models = KnownModels(reader, pulled.loaded.models)
    with session.console.progress.of("Comparing", "live policy") as step:
        review = plan_directory(
            reader, desired, environment, environment.settings, Selection(), on_row=step, unread=unread, models=models
        )
    return review.plan
