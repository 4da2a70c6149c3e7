"""policyctl apply: of one environment, with gateways to wait for then; those of several are in fleet.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from policyctl.cli.console import (
    Console,
    first_signal,
    view_of,
    write_outcome_summary,
    write_plan_summary,
    write_stop_summary,
)
from policyctl.cli.environments import Pace, with_environments, with_pace, with_queue
from policyctl.cli.history import resumed, with_audit
from policyctl.cli.options import ALL, NumberRange, Options, with_form, with_options
from policyctl.cli.review import (
    Expectation,
    access_of,
    expectation,
    raise_if_unsafe,
    resolved_base,
    review_directory,
    use_of,
    within_windows,
)
from policyctl.cli.selection import Overrides, read_to, with_past, with_selection
from policyctl.cli.session import Session, open_session
from policyctl.errors import Incomplete, Refused, RemoteError, StalePlan, UsageError
from policyctl.load.environment import EnvironmentFilter
from policyctl.load.source import write_atomically
from policyctl.load.urls import http_url_error
from policyctl.plan.approval import NONE
from policyctl.plan.plan import Outcome, Plan, Selection
from policyctl.plan.safety import Review
from policyctl.policy.document import revision_of
from policyctl.policy.findings import listed
from policyctl.reconcile.apply import LOCK_SECONDS, Applied, ApplyEvents, ApplySettings, apply_plan
from policyctl.reconcile.audit import Audit
from policyctl.reconcile.observe import observe
from policyctl.reconcile.plan import (
    raise_if_stale,
    unmoved,
)
from policyctl.remote.open import require_writable
from policyctl.report.format import Style, count
from policyctl.report.plan_text import apply_json, apply_text, outcome_line, plan_text, problems_text

if TYPE_CHECKING:
    from policyctl.cli.fleet import Fleet
    from policyctl.load.past import PastDirectory
    from policyctl.reconcile.fleet import Run
    from policyctl.remote.http import HttpClient

EPILOG = """\b
Example:
  policyctl apply
  policyctl apply --env prod --yes
  policyctl apply --env prod --to HEAD~1 --only 'chat-*'
  policyctl plan --out plan.json && policyctl apply plan.json --yes
  policyctl plan --all --report json=plans.json && policyctl apply --all --plans plans.json --yes"""


class OutcomeOutput(NamedTuple):
    """Where the outcomes of an apply go: the format on standard output, and a file for JSON."""

    form: str = "text"
    report: Path | None = None

    def write(self, console: Console, review: Review, applied: Applied) -> None:
        """Print and write the outcomes of a plan; as text, none are printed for a plan without changes."""
        found = apply_json(review.plan, applied.outcomes, applied.unverified, applied.tested)
        self.put(console, found)
        if self.form == "text" and review.plan.changes:
            console.result(apply_text(applied.outcomes, applied.unverified, console.out_style, applied.tested))

    def put(self, console: Console, text: str) -> None:
        """Print and write a JSON text, as far as it is wanted."""
        if self.report is not None:
            write_atomically(self.report, text)
        if self.form == "json":
            console.result(text)


def _revision(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    """A revision; CI services give 000… for the first push of a branch, which is none."""
    return None if text is None or not text.strip("0") else text


def with_windows(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --outside-window, in its `overrides`."""

    @click.option(
        "--outside-window",
        "outside",
        metavar="REASON",
        help="Apply although a deny window is open (see watch.windows); the audit has the reason.",
    )
    @wraps(function)
    def wrapper(*args: Any, outside: str | None, overrides: Overrides, **more: Any) -> Any:
        if outside is not None and not outside.strip():
            raise UsageError("--outside-window needs a reason, which the audit keeps")
        overrides.outside = outside or ""
        return function(*args, overrides=overrides, **more)

    return wrapper


def _addresses(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...]:
    found = tuple(one.strip().rstrip("/") for one in (text or "").split(",") if one.strip())
    for url in found:
        if complaint := http_url_error(url):
            raise click.BadParameter(f"{url} {complaint}")
    if text is not None and not found:
        raise click.BadParameter("name at least one gateway: http://127.0.0.1:4400")
    return found


def with_gateways(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give apply --wait-gateways, as its argument `gateways`. Decorate the function itself with it.

    Raises UsageError with several environments.
    """

    @click.option(
        "--wait-gateways",
        "gateways",
        callback=_addresses,
        metavar="URL,…",
        help="Once all is applied, wait until each of these gateways (policyctl gateway --remote) runs it.",
    )
    @click.option(
        "--wait-seconds",
        "seconds",
        type=NumberRange(min=0),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for the gateways.",
    )
    @wraps(function)
    def wrapper(options: Options, *args: Any, gateways: tuple[str, ...], seconds: float, **given: Any) -> Any:
        if gateways and (given["chosen"].several or given["resume"]):
            raise UsageError("--wait-gateways is for one environment: a gateway runs the policies of one remote")
        return function(options, *args, gateways=AwaitedGateways(gateways, seconds), **given)

    return wrapper


@click.command("apply", epilog=EPILOG)
@click.argument("planfile", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--parallelism",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="Changes at once; of several environments, environments at once.",
)
@click.option(
    "--expect-digest",
    "expected",
    metavar="DIGEST[@ACCESS]",
    callback=expectation,
    help="Apply only if the plan made now has this digest (sha256:…); none: only if it is empty. With @ and the access that "
    "plan --format json prints beside it, nothing logs in to a remote that is reached in another way.",
)
@click.option(
    "--plans",
    "plans_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Apply several environments only if their plans are those in this file (of plan --out FILE or --report json=FILE); "
    "names the environments that differ.",
)
@click.option(
    "--lock-timeout",
    type=NumberRange(min=0),
    default=LOCK_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for another apply on the same embedded remote.",
)
@click.option(
    "--base",
    callback=_revision,
    metavar="REVISION",
    help="Treat a change back to what a policy was where this branch left REVISION as a restoration, if --audit shows that it "
    "was applied last; the guards max_traffic_shift and deny_new accept it.",
)
@with_past
@click.option(
    "--validate-models",
    is_flag=True,
    help="Have the platform test the models that were written, and report the result. It calls each one, which costs money.",
)
@click.option("--resume", metavar="RUN", help="Apply the environments that an interrupted run left; policyctl runs lists runs.")
@with_form("text", "json")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the outcomes as JSON to a file too.",
)
@with_audit
@with_selection
@with_windows
@with_options(*ALL)
@with_environments
@with_pace
@with_queue
@with_gateways
def apply(
    options: Options,
    planfile: Path | None,
    yes: bool,
    parallelism: int,
    expected: Expectation | None,
    plans_file: Path | None,
    lock_timeout: float,
    base: str | None,
    to: str | None,
    validate_models: bool,
    resume: str | None,
    form: str,
    report: Path | None,
    selection: Selection,
    overrides: Overrides,
    audit: Audit | None,
    chosen: EnvironmentFilter,
    pace: Pace,
    gateways: AwaitedGateways,
) -> int:
    """Make the remote match the files: add, update, remove, then read back and verify.

    With a PLANFILE (from plan --out) exactly that plan is applied, or refused when the remote changed since. It can be
    applied again after an interruption.

    --to is for the minutes before a revert is merged: the files in Git are not changed, and the next apply without it makes
    the remote match them again.
    """
    _check_expectation(expected, planfile, None if chosen.several else plans_file)
    output, use = OutcomeOutput(form, report), use_of(options, overrides.uses)
    past = read_to(options, to, base=base, planfile=planfile, resume=resume)
    settings = ApplySettings(parallelism, lock_timeout, audit=audit, test_models=validate_models, begins=use)
    if chosen.several or resume is not None:
        from policyctl.cli.fleet import apply_several, approval_of

        fleet, run = open_several(options, chosen, planfile, resume, selection, overrides, base, past)
        pace, approval = pace._replace(parallelism=parallelism), approval_of(yes, expected, run, plans_file)
        return use.ended(apply_several(fleet, pace, settings, approval, output), fleet.console)
    look = partial(_review_one, options, planfile, selection, overrides, base, past, audit, expected)
    session, review = look()
    _show(session, review, planfile, expected, output, quiet=yes and session.console.quiet)
    settings = within_windows(settings, session.environment, overrides.outside)
    code = use.ended(confirm_and_apply(review, session, settings, output, again=look, yes=yes), session.console)
    return gateways.after(code, session, review.plan)


def _note_untested(session: Session, review: Review, settings: ApplySettings) -> None:
    if settings.test_models and not any(change.kind == "model" and change.after for change in review.plan.changes):
        session.console.say("--validate-models does nothing: the plan adds or updates no model")


def _review_one(
    options: Options,
    planfile: Path | None,
    selection: Selection,
    overrides: Overrides,
    base: str | None,
    past: PastDirectory | None,
    audit: Audit | None,
    expected: Expectation | None,
) -> tuple[Session, Review]:
    """The reviewed plan of one environment: a saved one, or one that is made now."""
    commits, record = resolved_base(base, options, Console(options)), None if audit is None else audit.record
    if planfile is not None:
        from policyctl.cli.plan import read_saved  # builds the models of a saved plan

        return read_saved(options, planfile, selection, overrides, commits, record)
    session = open_session(options, past=past)
    require_writable(session.url)
    if expected is not None:
        expected.raise_if_led_elsewhere(partial(access_of, session))
    return session, review_directory(session, selection, overrides, base=commits, audit=record)


def open_several(
    options: Options,
    chosen: EnvironmentFilter,
    planfile: Path | None,
    resume: str | None,
    selection: Selection,
    overrides: Overrides,
    base: str | None,
    past: PastDirectory | None,
) -> tuple[Fleet, Run | None]:
    """The environments that are chosen, or that a run left, and that run. Raises UsageError with a saved plan, which is for
    one environment."""
    from policyctl.cli.fleet import open_fleet

    if planfile is not None:
        raise UsageError("a saved plan is for one environment; leave out --all, -l, further --env and --resume")
    run = None if resume is None else resumed(options, chosen, selection, resume)
    if run is not None:
        chosen, selection, past = EnvironmentFilter(run.left), run.selection, read_to(options, run.to or None, base=base)
    commits = resolved_base(base, options, Console(options))
    return open_fleet(options, chosen, selection, overrides, base=commits, past=past), run


def _show(
    session: Session, review: Review, planfile: Path | None, expected: Expectation | None, output: OutcomeOutput, *, quiet: bool
) -> None:
    """Print the plan, of which `quiet` leaves the problems. Raises StalePlan for one that the remote has moved on from, or that
    is not the approved one."""
    console = session.console
    if output.form == "text":
        follows = quiet and review.plan.changes and not (review.refusals or review.stale)  # the outcome is the last line
        remote, style = session.remote, console.out_style
        whole = "" if follows else plan_text(review, remote, style, verbose=console.verbose, quiet=quiet)
        console.result(whole or problems_text(review, style))
    if unapproved := _unapproved(review.plan, None if expected is None else expected.digest):
        write_stop_summary(unapproved, console)
    write_plan_summary(view_of(review, session.remote, session.options.dir, console), planfile, console)
    raise_if_stale(review.stale, listed=True)
    if unapproved:
        raise StalePlan(unapproved)


def _unapproved(plan: Plan, expected: str | None) -> str | None:
    """Why a plan is not the approved one; None when it is, or when none is expected."""
    if expected == NONE and plan.changes:
        return (
            "no merged pull request has approved this plan; nothing was written. Read the plan, then approve its digest, "
            f"{plan.digest}"
        )
    if expected not in (None, NONE, plan.digest):
        moved = f", which covers what it does to the traffic of {listed(plan.traffic)}," if plan.traffic else ""
        return (
            f"this is not the plan that was approved: its digest{moved} is {plan.digest}, not {expected}; nothing was "
            "written. Have this plan approved by a new pull request, or start this by hand with its digest"
        )
    return None


def _check_expectation(expected: Expectation | None, planfile: Path | None, plans: Path | None) -> None:
    """Raise UsageError for a digest of a saved plan, and for the plans of several environments where one is applied."""
    if plans is not None:
        raise UsageError("--plans is for several environments that are chosen anew; choose them with --all, -l or --env")
    if expected is not None and planfile is not None:
        raise UsageError("--expect-digest is for a plan made now; a saved plan is applied as it is")


def confirm_and_apply(
    review: Review,
    session: Session,
    settings: ApplySettings = ApplySettings(),
    output: OutcomeOutput = OutcomeOutput(),
    *,
    again: Callable[[], tuple[Session, Review]],
    yes: bool,
) -> int:
    """Ask whether to apply a plan that was printed already, apply it, and return the exit code. Without `yes` it is made
    `again` once that was answered.

    Raises UsageError or Refused before asking when the remote is read-only or the plan is refused, StalePlan when it is another
    one after that, Incomplete when not everything was applied, and otherwise as `apply_plan` does.
    """
    _note_untested(session, review, settings)
    require_writable(session.url)
    if why := session.environment.suspended:
        name = session.environment.name
        raise Refused(f"{name} is suspended, so nothing was written: {why}; remove suspend from it first")
    if review.refusals or not review.plan.changes:
        raise_if_unsafe(review)
        output.write(session.console, review, Applied([], [], []))
        return 0
    settings.admit()  # or the question would be in vain
    changes = count(len(review.plan.changes), "change")
    if not session.console.confirm(f"Apply {changes} to {session.environment.name}?", yes=yes):
        session.console.say("declined; nothing was written")
        return 1
    if not yes:
        session, now = again()
        review = unmoved(review, now)
    command, in_scope = click.get_current_context().command_path, session.environment.settings.in_scope
    settings = replace(settings, command=command, in_scope=in_scope)
    events = ConsoleEvents(session.console, lambda applied: output.write(session.console, review, applied))
    applied = apply_plan(review, session.url, session.access, settings, events)
    if events.signal is not None:
        return 128 + events.signal
    applied.raise_if_incomplete()
    raise_if_unsafe(review)
    return 0


class ConsoleEvents(ApplyEvents):
    """Shows an apply on the console, and lets SIGINT and SIGTERM end it when what was begun is finished."""

    def __init__(self, console: Console, write: Callable[[Applied], None]) -> None:
        self._console, self._write = console, write
        self._step: Callable[[Outcome], None] = lambda _: None
        self.signal: int | None = None

    def message(self, line: str) -> None:
        self._console.say(line)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Catch the first signal; the second one stops at once."""

        def note(number: int) -> None:
            self.signal = self.signal or number

        with first_signal(note):
            yield

    @contextmanager
    def progress(self, label: str, total: int | None) -> Iterator[None]:
        with self._console.progress.of(label, "change", total, stopped=self.stopped) as self._step:
            yield

    def outcome(self, outcome: Outcome) -> None:
        if self._console.draws:
            self._step(outcome)
        elif not self._console.quiet:  # a line for each change; those that failed are in the result too
            self._console.say(outcome_line(outcome, self._console.err_style), painted=True)

    def stopped(self) -> bool:
        return self.signal is not None

    def finished(self, applied: Applied) -> None:
        self._write(applied)
        text = apply_text(applied.outcomes, applied.unverified, Style(), applied.tested)
        write_outcome_summary(text, self._console)


_BETWEEN = 0.25  # seconds between two looks


class AwaitedGateways(NamedTuple):
    """The gateways to wait for, and for how long."""

    urls: tuple[str, ...] = ()
    seconds: float = 0

    def after(self, code: int, session: Session, plan: Plan) -> int:
        """The exit code of an apply: if that is 0, once each runs what is live on the remote of a session now that a plan was
        applied there. Raises Incomplete if one does not in time."""
        if not self.urls or code:
            return code
        with session.whole.reader() as reader:
            observed = observe(reader)
        normals = ({name: one.normal for name, one in found.items()} for found in (observed.policies, observed.models))
        changed = frozenset(change.name for change in plan.changes if change.kind == "model")
        _wait_for(self.urls, Wanted(revision_of(*normals), changed), self.seconds)
        return code


class Wanted(NamedTuple):
    """What gateways are to run: the revision of a remote, and the models that were changed there."""

    revision: str
    models: frozenset[str] = frozenset()


class GatewayState(NamedTuple):
    """What a gateway reports: the revisions that its workers run, why one refused a newer one, and which models files of its
    own have called in another way; or why it cannot be asked."""

    revisions: frozenset[str] = frozenset()
    refused: str = ""
    problem: str = ""
    own: frozenset[str] = frozenset()

    def why_not(self, wanted: Wanted) -> str:
        """Why it does not run what is wanted; empty if it does."""
        if self.problem:
            return self.problem
        if self.revisions == {wanted.revision}:
            own = sorted(self.own & wanted.models)
            return f"calls {listed(own)} as files in its own directory have it; update these" if own else ""
        return f"runs {listed(sorted(self.revisions))}" + (
            f", because it refused what is newer: {self.refused}" if self.refused else ""
        )


def _wait_for(gateways: Sequence[str], wanted: Wanted, seconds: float) -> None:
    """Wait until every gateway runs what is wanted. Raises Incomplete, with each that does not and why, once time is over."""
    from policyctl.remote import Backoff
    from policyctl.remote.http import HttpClient
    from policyctl.remote.redaction import Redactor

    end, left = time.monotonic() + seconds, list(gateways)
    with closing(HttpClient(Redactor(), patience=Backoff(tries=1))) as client:
        while left:
            states = {url: _state_of(url, client) for url in left}
            left = [url for url in left if states[url].why_not(wanted)]
            if left and time.monotonic() >= end:
                shown = "; ".join(f"{url} {states[url].why_not(wanted)}" for url in left)
                runs = f"runs {wanted.revision} after {seconds:g} s"
                raise Incomplete(f"everything is applied, but not every gateway {runs}: {shown}")
            if left:
                time.sleep(_BETWEEN)  # a gateway does not notify: it is asked again


def _state_of(url: str, client: HttpClient) -> GatewayState:
    """What the gateway at a URL reports."""
    from policyctl.remote.http import Request

    try:
        answer = client.send(Request("GET", f"{url}/readyz"))
    except RemoteError as error:
        return GatewayState(problem=f"cannot be asked: {error}")
    found = answer.content
    if not answer.good or not isinstance(found, dict) or not isinstance(found.get("revision"), str):
        return GatewayState(problem="does not answer as a gateway; check the address")
    revisions, own = (
        frozenset(map(str, names)) if isinstance(names := found.get(key), list) else frozenset[str]()
        for key in ("revisions", "own_models")
    )
    return GatewayState(revisions | {found["revision"]}, str(found.get("refused") or ""), own=own)
