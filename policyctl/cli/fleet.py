"""Several environments at once: what they share is done once, and one report has them all.

They are applied in waves, with one approval for all, and a record from which a run can be resumed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from policyctl.cli.console import (
    CollectingConsole,
    Console,
    first_signal,
    fleet_view_of,
    write_fleet_summary,
    write_outcome_summary,
    write_stop_summary,
)
from policyctl.cli.environments import Pace, choose
from policyctl.cli.history import revision_of
from policyctl.cli.options import Options
from policyctl.cli.review import (
    LED_ELSEWHERE,
    Expectation,
    as_merged,
    changed_settings,
    raise_if_unsafe,
    review_directory,
    within_windows,
)
from policyctl.cli.selection import Overrides
from policyctl.cli.session import DirectoryFiles, Session, open_config, session_of
from policyctl.errors import Incomplete, InvalidInput, PolicyctlError, StalePlan, UsageError
from policyctl.lint.directory import variable_warnings
from policyctl.load.environment import EVERY, Config, Environment, EnvironmentFilter, listed_names, parse_selector
from policyctl.load.source import read_bounded, state_folder
from policyctl.load.urls import is_git, is_http
from policyctl.plan.approval import NONE, Terms, of_several, shown_terms
from policyctl.plan.diff import FieldChange
from policyctl.plan.fleet import ApprovedPlans, EnvironmentResult, FleetResult, Marks, WaveOf, marks_of, read_approved, waves_of
from policyctl.plan.plan import Selection
from policyctl.plan.safety import Review
from policyctl.policy.memo import Memo
from policyctl.reconcile.apply import Applied, ApplyEvents, ApplySettings, apply_plan
from policyctl.reconcile.fleet import Brakes, EmbeddedRunner, Run, Runner, RunRecord, Task, run_waves
from policyctl.remote.open import require_writable, shared_hosts
from policyctl.report.fleet import changes_text, fleet_json, fleet_text, planned
from policyctl.report.format import NONE_AFFECTED, Style, count, cut
from policyctl.report.plan_text import apply_text

if TYPE_CHECKING:
    from policyctl.cli.apply import OutcomeOutput
    from policyctl.load.base_config import BaseCommits, BaseConfig, Held
    from policyctl.load.past import PastDirectory
    from policyctl.reconcile.audit import AuditRecord

_LONGEST_REASON = 500
# A fleet, the command, the id of its run, the digests that may be applied, and whether to stop → where the work is done.
RunnerOf = Callable[["Fleet", str, str, Mapping[str, str] | None, Callable[[], bool]], Runner]


@dataclass
class Fleet:
    """The environments of one command line, and what they share. `suspended` is whether suspended ones are looked at too."""

    options: Options
    console: Console
    config: Config
    names: tuple[str, ...]
    selection: Selection
    overrides: Overrides
    files: DirectoryFiles
    base: BaseCommits | None = None
    held: BaseConfig | None = None
    tests: bool = False
    suspended: bool = False
    past: PastDirectory | None = None
    chosen: EnvironmentFilter = EVERY
    marks: bool = False  # whether the results have the hashes of their changes
    referred: Held = field(default_factory=dict)  # the content of files that settings refer to, where they are not on the disk
    audit: AuditRecord | None = None  # the record that apply adds to, which shows who moved what is changed

    def __post_init__(self) -> None:
        self._reviews: dict[str, tuple[int, Review]] = {}  # of the first environment with each kind of plan
        self.messages = CollectingConsole(self.options)
        self._lock = threading.Lock()
        self._idle: dict[str, str] | None = None
        self._places = {name: place for place, name in enumerate(self.names)}
        self.hosts = shared_hosts() if any(is_http(one.remote) for one in self.config.environments.values()) else None

    def session(self, name: str) -> Session:
        """The session of one environment, whose messages are collected."""
        session = session_of(self.options, self.config, name, self.held, self.past)
        access = session.access._replace(hosts=self.hosts)
        if self.referred:
            access = access._replace(held=self.referred)
        return session._replace(console=self.messages, directory=self.files, access=access)

    def review(self, session: Session, audit: AuditRecord | None = None, *, judged: bool = False) -> Review:
        """The reviewed plan of one environment; `judged` and `audit` are as for `review_directory`."""
        review = review_directory(
            session,
            self.selection,
            self.overrides,
            base=self.base,
            tests=self.tests,
            on_idle=self.note_idle,
            audit=audit or self.audit,
            judged=judged,
        )
        if self.held is not None:
            review = as_merged(review, session, self.held, settings=False)
        return review

    @cached_property
    def access_of(self) -> Callable[[Environment], str]:
        from policyctl.load.base_config import access_now  # with git behind it

        return access_now(self.options.dir, self.config)

    def note_idle(self, idle: Mapping[str, str]) -> None:
        """Keep the options that match no policy in any environment so far: one that matches somewhere has its effect there."""
        with self._lock:
            known = self._idle
            self._idle = dict(idle) if known is None else {what: text for what, text in known.items() if what in idle}

    @property
    def idle(self) -> Mapping[str, str] | None:
        """The options that match no policy in any environment so far; None before the first one."""
        return self._idle

    def raise_if_idle(self) -> None:
        """Raise UsageError for the options that match no policy in any environment."""
        if self._idle:
            raise UsageError("; ".join(f"{text}, in any environment" for text in self._idle.values()))

    def task(self, work: Callable[[Session], EnvironmentResult]) -> Task:
        """The work as one that never raises: a failure is a result, and a suspended environment is left as it is."""

        def run(name: str) -> EnvironmentResult:
            found = self.config.environments.get(name)
            remote = "" if found is None else found.remote
            try:
                if found is not None and not self.suspended and (why := found.suspended):
                    return EnvironmentResult(name, "suspended", reason=why, remote=remote, access=self.access_of(found))
                return work(self.session(name))
            except Exception as error:  # noqa: BLE001 - a boundary, as in main: what fails in one environment must not end the others
                return failed_by(EnvironmentResult(name, "failed", remote=remote), error)

        return run

    def keep(self, review: Review, name: str, remote: str) -> EnvironmentResult:
        """The result of a plan. Of each kind of plan only the first environment's review is kept."""
        access = self.access_of(self.config.environments[name])
        marks = marks_of(review.plan) if self.marks else Marks()
        result, place = replace(planned(review, name, remote), access=access, marks=marks), self._places[name]
        with self._lock:
            if result.alike not in self._reviews or place < self._reviews[result.alike][0]:
                self._reviews[result.alike] = place, review
        return result

    def review_kinds(self, results: dict[str, EnvironmentResult]) -> None:
        """Plan one environment of each kind of plan here too: workers report hashes, not what changes. What cannot be shown so
        fails: a merge must not approve what no page has."""
        kinds: dict[str, list[str]] = {}
        for name in self.names:
            if (one := results.get(name)) is not None and one.alike and (one.changes or one.failed):
                kinds.setdefault(one.alike, []).append(name)
        for alike, names in kinds.items():
            here = self.task(partial(plan_one, self))(names[0])
            if here.alike == alike:
                continue
            why = here.reason if here.failed else "it is another one by now; plan again"
            for one in (results[name] for name in names if not results[name].failed):
                reason = f"a worker planned {changes_text(one)}, which cannot be shown here: {why}"
                failed = replace(one, status="failed", code=here.code or 1, reason=reason)
                results[one.name] = replace(failed, alike="", digest="")

    def in_order(self, results: Mapping[str, EnvironmentResult], command: str) -> FleetResult:
        """The results in the order of the environments."""
        gone = () if self.held is None else tuple(name for name in self.held.config.labels if name not in self.config.labels)
        kept = {(self.names[place], alike): review for alike, (place, review) in self._reviews.items()}
        self._reviews.clear()
        ordered = [results[name] for name in self.names if name in results]
        found = tuple(replace(one, review=kept.get((one.name, one.alike))) for one in ordered)
        settings = () if self.held is None else changed_settings(self.held, self.options.dir, self.config)
        return FleetResult(
            command,
            found,
            len(self.config.labels) - len(self.names),
            gone,
            settings,
            self.chosen.text,
            self._terms(settings),
            self.overrides.given,
        )

    def _terms(self, settings: Sequence[FieldChange]) -> Terms | None:
        """How the remotes are reached, where the branch left its base and once it is merged, and the safety settings then; None
        if the `settings` that change do not show that they differ."""
        if self.held is None:
            return None
        from policyctl.load.base_config import access_and_rules, mark_of_several

        then = self.held.start
        found = [mark_of_several(then.config, self.chosen, of) or of_several({}) for of in (then.access, lambda one: one.rules)]
        terms = Terms(found[0], found[1], *access_and_rules(self.options.dir, self.config, self.names))
        return shown_terms(terms, [one.path for one in settings])


def open_fleet(
    options: Options,
    chosen: EnvironmentFilter,
    selection: Selection = Selection(),
    overrides: Overrides = Overrides(),
    *,
    base: BaseCommits | None = None,
    held: BaseConfig | None = None,
    tests: bool = False,
    deep: bool = True,
    lenient: bool = False,
    suspended: bool = False,
    past: PastDirectory | None = None,
    marks: bool = False,
) -> Fleet:
    """The chosen environments, and the files that they share. `deep` is as for `Session.read`; `marks` gives the results of
    plans the hashes of their changes. `base` has the commits of `held`, where settings are those that are checked out.

    Raises UsageError when none is chosen, and with any --remote but a git revision, where each environment has its own
    policies; unless `lenient` InvalidInput for files that are broken whatever the environment.
    """
    if options.remote is not None and not is_git(options.remote):
        raise UsageError(
            "--remote is for one environment: several would have one remote; choose one with --env, or compare with a "
            "revision, --remote git:REVISION"
        )
    if past is not None and chosen.affected is not None:
        raise UsageError("--affected compares the files of today, and --to goes back to others; choose with --all, -l or --env")
    config = open_config(options)
    names = choose(options, config, chosen)
    lint = config.lint if held is None else held.config.lint
    files = DirectoryFiles(options, config, lint, lenient=lenient, deep=deep, tests=tests, several=True, past=past)
    if not lenient:
        files.raise_if_broken(config if past is None else past.config, names)
    console = Console(options)
    if past is None:
        console.problems(variable_warnings(config))
    base = base if held is None else held.commits
    return Fleet(
        options, console, config, names, selection, overrides, files, base, held, tests, suspended, past, chosen, marks
    )


def plan_fleet(fleet: Fleet, pace: Pace) -> FleetResult:
    """Plan every environment; nothing is written to any remote."""
    result = run_fleet(fleet, "plan", partial(plan_one, fleet), pace)
    fleet.raise_if_idle()
    return result


def plan_one(fleet: Fleet, session: Session) -> EnvironmentResult:
    """The result of the plan of one environment: a failure if it must not be applied."""
    review = fleet.review(session)
    result = fleet.keep(review, session.environment.name, session.remote)
    try:
        raise_if_unsafe(review, listed=False)
    except PolicyctlError as error:
        return replace(result, status="failed", code=error.exit_code, reason=one_line(str(error)))
    if failed := review.branch.failed_tests:
        return replace(result, status="failed", code=1, reason=f"{count(len(failed), 'scenario test')} failed")
    return result


def look_at(fleet: Fleet, command: str, work: Callable[[Session], object]) -> FleetResult:
    """Do what only looks, or what is reported elsewhere, in every environment."""

    def done(session: Session) -> EnvironmentResult:
        work(session)
        return EnvironmentResult(session.environment.name, "done", remote=session.remote)

    return run_fleet(fleet, command, done)


def failed_by(result: EnvironmentResult, error: Exception) -> EnvironmentResult:
    """A result as one that failed with an error, with its exit code and reason. What is not a PolicyctlError is a bug."""
    if isinstance(error, InvalidInput):
        more = f" (and {len(error.problems) - 1:,} more)" if len(error.problems) > 1 else ""
        code, reason = error.exit_code, f"{error.problems[0]}{more}"
    elif isinstance(error, PolicyctlError):
        code, reason = error.exit_code, str(error)
    else:
        code, reason = 1, f"a bug in policyctl: {type(error).__name__}: {error}"
    return replace(result, status="failed", code=code, reason=reason)


def one_line(text: str) -> str:
    """`refused by 2 safety rules: …; …`, of an error with a line for each rule."""
    first, *rest = text.split("\n")
    return cut(" ".join(filter(None, (first, "; ".join(line.strip() for line in rest)))), _LONGEST_REASON)


def run_fleet(
    fleet: Fleet,
    command: str,
    work: Callable[[Session], EnvironmentResult],
    pace: Pace = Pace(),
    waves: Sequence[WaveOf] | None = None,
    brakes: Brakes | None = None,
    record: RunRecord | None = None,
    shown: Mapping[str, str] | None = None,
) -> FleetResult:
    """Do a command's work for each environment, wave by wave (None: in one), and print the messages. `brakes` are those of the
    pace, unless the command keeps its own. Each result is recorded as it comes. `shown` are the digests of the plans that
    workers may apply (None: any)."""
    waves = [WaveOf(fleet.names, None)] if waves is None else waves
    brakes = brakes or brakes_of(fleet, pace)
    results: dict[str, EnvironmentResult] = {}

    def runner_of(stopped: Callable[[], bool]) -> Runner:
        if pace.runner_of is None:
            return EmbeddedRunner(pace.parallelism, stopped)
        return pace.runner_of(fleet, command, "" if record is None else record.id, shown, stopped)

    with fleet.console.progress.of("Working", "environment", len(fleet.names)) as step:

        def done(result: EnvironmentResult) -> None:
            results[result.name] = result
            if record is not None:
                record.add(result)
            step()

        try:
            with Memo.remembering():
                run_waves(waves, fleet.task(work), brakes, done, runner_of)
                if pace.runner_of is not None and command == "plan":
                    fleet.review_kinds(results)
        finally:
            if fleet.hosts is not None:
                fleet.hosts.close()
    fleet.messages.print_to(fleet.console)
    return fleet.in_order(results, command)


def brakes_of(fleet: Fleet, pace: Pace) -> Brakes:
    """When to begin no further environment."""
    return Brakes(fail_fast=pace.fail_fast, most=pace.most(fleet.names))


_MAX_PLANS = 1 << 28  # bytes of the report of thousands of plans


class FleetEvents(ApplyEvents):
    """An apply of one environment among many: it stops with the run."""

    def __init__(self, fleet: Fleet, stopped: Callable[[], bool]) -> None:
        self._fleet, self._stopped = fleet, stopped

    def message(self, line: str) -> None:
        self._fleet.console.say(line)

    def stopped(self) -> bool:
        return self._stopped()


class FleetApproval(NamedTuple):
    """What a run may write: without being asked (`yes`), plans with one digest (`expected`), these plans (`plans`), or what an
    earlier run left."""

    yes: bool
    expected: Expectation | None = None
    resume: Run | None = None
    plans: ApprovedPlans | None = None


def approval_of(yes: bool, expected: Expectation | None, run: Run | None, file: Path | None) -> FleetApproval:
    """What a run may write. Approved plans in a file count for the digest that they have: it cannot approve what was not.

    Raises PolicyctlError for a file of anything else, and StalePlan if it has another digest than the one expected.
    """
    if file is None:
        return FleetApproval(yes, expected, run)
    try:
        plans = read_approved(read_bounded(file, _MAX_PLANS).decode(), str(file))
    except OSError as error:
        raise PolicyctlError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PolicyctlError(f"{file} is not text") from None
    if expected is not None and expected.digest != plans.digest:
        raise StalePlan(f"the digest of the plans in {file} is {plans.digest}, not {expected.digest}; nothing was written")
    return FleetApproval(yes, expected or Expectation(plans.digest), run, plans)


def apply_several(fleet: Fleet, pace: Pace, settings: ApplySettings, approval: FleetApproval, output: OutcomeOutput) -> int:
    """Plan and apply every environment, in waves, print the report and return the exit code.

    Without `yes`, or with an `expected` digest, all are planned first, and an environment whose plan is another one by then is
    not applied. With `yes` a resumed run does what was approved when it began. Raises StalePlan if the digest of all plans is
    not the expected one, and UsageError for a run that is resumed with other files than it began with.
    """
    fleet.audit = None if settings.audit is None else settings.audit.record
    if approval.resume is not None:
        _raise_if_edited(fleet, approval.resume)
        _withdraw(fleet, pace, approval.resume)
    if not fleet.names:
        fleet.console.say(NONE_AFFECTED)
        return 0
    _raise_if_led_elsewhere(fleet, approval)
    shown = None if approval.resume is None else approval.resume.shown
    if not approval.yes or approval.expected is not None:
        before = plan_fleet(fleet, Pace(pace.parallelism))
        if output.form == "text":
            plans = not (fleet.console.quiet and approval.yes)  # a question is about what was shown
            fleet.console.result(fleet_text(before, fleet.console.out_style, verbose=fleet.console.verbose, plans=plans))
        _report_plans(fleet, before, approval)
        targets = sum(bool(one.changes) and not one.failed for one in before.results)
        if not targets:
            output.put(fleet.console, fleet_json(before))
            return before.exit_code()
        if not fleet.console.confirm(f"Apply to {count(targets, 'environment')}?", yes=approval.yes):
            fleet.console.say("declined; nothing was written")
            return 1
        shown = {one.name: one.digest for one in before.results if one.digest and not one.failed}
    result, number = _apply_all(fleet, pace, settings, approval.resume, shown)
    output.put(fleet.console, fleet_json(result))
    write_outcome_summary(fleet_text(result, Style(), plans=False), fleet.console)
    if output.form == "text":
        style, verbose = fleet.console.out_style, fleet.console.verbose
        fleet.console.result(fleet_text(result, style, verbose=verbose, plans=shown is None and not fleet.console.quiet))
    fleet.raise_if_idle()
    return result.exit_code() if number is None else 128 + number


def _apply_all(
    fleet: Fleet, pace: Pace, settings: ApplySettings, resume: Run | None, shown: Mapping[str, str] | None
) -> tuple[FleetResult, int | None]:
    """The results, and the signal that ended the run early. `shown` are the digests that may be applied (None: any)."""
    brakes = brakes_of(fleet, pace)
    directory = fleet.options.dir
    to = "" if fleet.past is None else fleet.past.then.commit
    files = fleet.files.digest(fleet.config)
    run = resume or Run("", "apply", "", revision_of(directory), fleet.names, {}, fleet.selection, shown, to, files, pace.place)
    record = RunRecord(state_folder(directory), run)
    if not fleet.console.quiet:
        queue = "" if pace.place == "here" else " --on queue"
        fleet.console.say(f"run {record.id}; if it is interrupted: policyctl apply --resume {record.id}{queue}")

    def work(session: Session) -> EnvironmentResult:
        events = FleetEvents(fleet, lambda: brakes.signal is not None)
        return apply_one(fleet, session, settings, events, shown)

    try:
        if pace.place != "here":  # workers write
            settings.begins()
        with first_signal(brakes.interrupt):
            result = run_fleet(fleet, "apply", work, pace, fleet_waves(fleet), brakes, record, shown)
    finally:
        record.close()
    return result, brakes.signal


def apply_one(
    fleet: Fleet,
    session: Session,
    settings: ApplySettings,
    events: FleetEvents,
    shown: Mapping[str, str] | None,
    why_not: Callable[[Environment], str | None] | None = None,
) -> EnvironmentResult:
    """Plan and apply one environment, if its plan is one of those that were `shown` (None: whatever it is). For a watch
    `why_not` is asked directly before that; for a person it is a deny window, unless there is a reason."""
    require_writable(session.url)
    review = fleet.review(session)
    name = session.environment.name
    result = fleet.keep(review, name, session.remote)
    raise_if_unsafe(review)
    if not review.plan.changes:  # also of what a run that was killed wrote before it could record that
        return replace(result, status="applied")
    if shown is not None and shown.get(name) != review.plan.digest:
        why = "its plan is not the one that was shown any more; nothing was written, plan again"
        return replace(result, status="failed", code=StalePlan.exit_code, reason=why)
    if why_not is not None and (unwanted := why_not(session.environment)) is not None:
        return replace(result, status="not begun", reason=unwanted)
    own = within_windows(settings, session.environment, fleet.overrides.outside if why_not is None else None)
    own = replace(own, command="policyctl apply", in_scope=session.environment.settings.in_scope)
    applied = apply_plan(review, session.url, session.access, own, events)
    return with_outcome(result, applied)


def with_outcome(result: EnvironmentResult, applied: Applied) -> EnvironmentResult:
    text = apply_text(applied.outcomes, applied.unverified, Style(), applied.tested).rstrip("\n")
    try:
        applied.raise_if_incomplete()
    except Incomplete as error:
        reason = str(error) if applied.is_verified else text.partition("\n")[0]
        return replace(result, status="failed", code=error.exit_code, reason=reason, outcome=text)
    return replace(result, status="applied", outcome=text)


def _raise_if_led_elsewhere(fleet: Fleet, approval: FleetApproval) -> None:
    """Raise StalePlan, before anything logs in, unless each remote is reached in the way that was approved."""
    if (expected := approval.expected) is not None:
        from policyctl.load.base_config import access_and_rules  # imports subprocess

        expected.raise_if_led_elsewhere(lambda: access_and_rules(fleet.options.dir, fleet.config, fleet.names)[0])
    if approval.plans is None:
        return
    parts = approval.plans.parts
    found = [one for name in fleet.names if (one := fleet.config.environments.get(name)) is not None and one.logs_in]
    if led := [one.name for one in found if one.name not in parts or fleet.access_of(one) != parts[one.name][1]]:
        names = listed_names(led)
        raise StalePlan(
            f"{LED_ELSEWHERE} than in the approved plans, or not in them, so nothing logged in: {names}; plan again"
        )


def _report_plans(fleet: Fleet, before: FleetResult, approval: FleetApproval) -> None:
    """Write the plans to the step summary. Raises StalePlan unless they are what was approved."""
    expected = None if approval.expected is None else approval.expected.digest
    why = _why_unapproved(before, expected, approval.plans)
    if why is not None:
        write_stop_summary(why, fleet.console)
    write_fleet_summary(fleet_view_of(before, fleet.options.dir), None, fleet.console)
    if why is not None:
        raise StalePlan(why)


def _why_unapproved(before: FleetResult, expected: str | None, plans: ApprovedPlans | None) -> str | None:
    """Why these are not the plans that were approved; `none` approves plans without changes only. With the approved `plans` it
    names the environments that differ.

    The digest of all is `none` as well where a plan failed, which approves nothing of the others.
    """
    changed = [one.name for one in before.results if one.changes]
    if expected is None or (not changed if expected == NONE else before.digest == expected):
        return None
    if expected == NONE:
        why = f"no merged pull request has approved the plans of {listed_names(changed)}"
        then = f"Read them, then approve the digest of all, {before.digest}"
        if before.digest == NONE:
            then = "Correct what failed, then plan again"
        return f"{why}; nothing was written. {then}"
    where = "" if plans is None else f" ({'; '.join(plans.differences(before))})"
    hint = "" if plans is not None else ". --plans FILE, with the report of the approved plans, would name the environments"
    return (
        f"these are not the plans that were approved{where}: the digest of all is {before.digest}, not {expected}; nothing was "
        f"written. Have them approved by a new pull request, or start this by hand with that digest{hint}"
    )


def fleet_waves(fleet: Fleet) -> list[WaveOf]:
    """The environments of this run in the configured waves, or in those by default."""
    labels = fleet.config.labels

    def taking(selector: str | None) -> Callable[[str], bool]:
        wanted = () if selector is None else parse_selector(selector)
        return lambda name: all(one.fits(labels[name]) for one in wanted)

    waves = [(taking(wave.label), wave.max_failures) for wave in fleet.config.waves]
    return waves_of(fleet.names, waves, by_default=True)


def _raise_if_edited(fleet: Fleet, run: Run) -> None:
    """Raise UsageError if files were edited since a run began: the environments would be applied from two states of them."""
    if run.files and run.files != fleet.files.digest(fleet.config):
        edited = f"files in {fleet.options.dir}, or its policyctl.yaml, were edited since run {run.id} began"
        raise UsageError(f"{edited}; undo that (git status shows it), or start a new apply")


def _withdraw(fleet: Fleet, pace: Pace, run: Run) -> None:
    """Withdraw what a run left in a queue. Raises UsageError for a run that is resumed in another place than it began in: what
    it left there would be applied too; and Refused for one that another process is at work on."""
    RunRecord(state_folder(fleet.options.dir), run).close()
    if run.on != pace.place:
        how = "with" if run.on == "queue" else "without"
        raise UsageError(f"run {run.id} began {how} --on queue, so resume it {how} --on queue")
    if pace.withdraw is not None:
        pace.withdraw(run.id, fleet.console.say)
