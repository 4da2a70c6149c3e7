"""From a saved plan to its reviewed plan, and policyctl show.

A saved plan is input, so everything in it that can be computed again is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from policyctl.cli.apply_options import LED_ELSEWHERE
from policyctl.cli.console import Console
from policyctl.cli.github_actions import view_of
from policyctl.cli.options import Options, with_form, with_options
from policyctl.cli.plan import OF_ONE, Form, render_plan
from policyctl.cli.review import Before, access_of, gone_back, read_consumers_of, with_idle_settings, without_edited
from policyctl.cli.selection import Overrides, raise_if_idle
from policyctl.cli.session import Session, open_session
from policyctl.errors import StalePlan, UsageError
from policyctl.load.environment import Environment, leaves
from policyctl.load.source import read_bounded
from policyctl.plan.effects import Comparison, effects_of, policies_around
from policyctl.plan.plan import Plan, Selection
from policyctl.plan.safety import Review
from policyctl.plan.saved_plan import MAX_BYTES, BadPlan, read_plan
from policyctl.policy.findings import listed
from policyctl.policy.live import observe_rows
from policyctl.policy.virtual_model import VirtualModelRow
from policyctl.reconcile.plan import KnownModels, review_saved
from policyctl.remote.open import require_writable
from policyctl.report.format import escape, value
from policyctl.report.plan_text import elided

if TYPE_CHECKING:
    from policyctl.load.base_config import BaseCommits
    from policyctl.reconcile.audit import AuditRecord


def read_saved(
    options: Options,
    planfile: Path,
    selection: Selection,
    overrides: Overrides,
    base: BaseCommits | None,
    audit: AuditRecord | None = None,
) -> tuple[Session, Review]:
    """A saved plan, checked against its environment, the remote as it is now, and the safety rules."""
    if selection != Selection():
        raise UsageError("--only and --exclude belong to plan; a saved plan is applied as it is")
    plan = _read_plan(planfile)
    if options.environment is not None and options.environment != plan.environment:
        raise BadPlan(f"{planfile} is a plan for environment {plan.environment}, not for {options.environment}")
    past = None
    if plan.to:
        from policyctl.load.past import read_past  # imports subprocess

        past = read_past(options.dir, plan.to)
    session = open_session(options, plan.environment, past=past)
    require_writable(plan.remote)
    require_writable(session.url)
    with session.reader() as reader:
        if reader.identity != plan.remote:
            raise BadPlan(f"{planfile} is a plan for {plan.remote}, not for {reader.identity}")
        if session.environment.digest != plan.config:
            why = f"policyctl.yaml changed the settings of {plan.environment} since the plan was made; plan again"
            raise StalePlan("\n  ".join([why, *_moved_settings(plan, session.environment)]))
        if plan.access not in ("", access_of(session)):
            raise StalePlan(f"{LED_ELSEWHERE} since the plan of {plan.environment} was made; plan again")
        loaded = session.read(lenient=True).loaded
        with session.console.progress.of("Comparing", "live policy") as step:
            plan = plan._replace(overrides=overrides.given)  # only overrides that are given now count
            before = Before(session, base, audit)
            loaded = loaded._replace(declared=loaded.declared._replace(before=before.declared))
            settings = overrides.on(session.environment.settings)
            models = KnownModels(reader, loaded.models)
            review = review_saved(reader, plan, loaded, settings, step, before.documents)
            review = without_edited(review, session, settings, models.speller(review.live | loaded.names), audit, base)
        review = read_consumers_of(review, reader, loaded, settings, session, overrides)
    if past is not None:
        review = gone_back(review, past)
    names = loaded.names | {change.name for change in plan.changes}
    raise_if_idle(selection, overrides, names, review.live | names)  # policies that were removed already were live
    return session, with_idle_settings(review, session, names, overrides)


def _moved_settings(plan: Plan, now: Environment) -> Iterator[str]:
    """The settings that changed since a plan was made, from what to what; none when the plan does not have them."""
    before, after = dict(leaves(plan.settings)), dict(leaves(now.decides))
    for path in dict.fromkeys([*before, *after]) if before else ():
        if before.get(path) != after.get(path):
            old, new = (_describe(path, values.get(path)) for values in (before, after))
            yield "{}: {} → {}".format(path, *elided(old, new))


def _describe(path: str, item: Any) -> str:
    """A setting's value as text; that of a variable is text already."""
    return escape(item) if path.startswith("vars.") and item is not None else value(item, longest=None)


def _read_plan(path: Path) -> Plan:
    try:
        text = read_bounded(path, MAX_BYTES).decode()
    except OSError as error:
        raise BadPlan(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadPlan(f"{path} is not a plan: it is not text; make one with plan --out") from None
    return read_plan(text, str(path))


SHOW_EPILOG = """\b
Example:
  policyctl plan --out plan.json
  policyctl show plan.json
  policyctl show plan.json --format html > plan.html"""


@click.command("show", epilog=SHOW_EPILOG)
@click.argument("planfile", type=click.Path(path_type=Path, dir_okay=False))
@with_form(*OF_ONE)
@with_options("color", "verbose")
def show(options: Options, planfile: Path, form: Form) -> int:
    """Show a plan that plan --out saved, offline: what it changes, and what these changes do to traffic by themselves.

    The file is checked as apply checks it, but neither the remote nor the files of the directory are read. So whether the
    safety rules allow it, whether the remote changed since, and which other policies it affects is left to apply, and a page
    that is made like this approves nothing.
    """
    plan, console = _read_plan(planfile), Console(options)
    console.result(render_plan(form, view_of(_alone(plan), plan.remote, options.dir, console), console.out_style))
    return 0


def _alone(plan: Plan) -> Review:
    """The review of a saved plan from nothing but the plan."""
    observed = observe_rows(_rows_before(plan))._replace(whole=False)
    before, after = policies_around(plan, observed)
    effects = effects_of(plan, observed, Comparison(before, after, live=observed.live))
    when = f"made at {plan.made[:19].replace('T', ' ')} UTC" if plan.made else "which does not say when it was made"
    offline = f"this is a saved plan, {when}; the remote was not looked at, and may have changed since"
    others = sorted(plan.traffic.keys() - {change.name for change in plan.changes})
    notes = [f"it also moves the traffic of {listed(others)}, by way of what it changes"] if others else []
    notes += [f"this goes back to the files of {plan.to[:12]}"] if plan.to else []
    return Review(
        plan,
        notes=tuple(notes),
        live=frozenset(observed.live),
        effects=effects,
        policies=after,
        policies_before=before,
        models_before=observed.models,
        all_read=False,
        models=plan.has_models,
        offline=offline,
    )


def _rows_before(plan: Plan) -> Iterator[dict[str, Any]]:
    """What the plan replaces, as rows of a remote."""
    for change in plan.changes:
        if change.before is not None:
            row = {**change.before, "id": change.id}
            yield VirtualModelRow(row) if change.kind == "model" else row
