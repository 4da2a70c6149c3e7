"""Several environments at once: what they share is done once, and one report has them all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from policyctl.cli.console import CollectingConsole, Console
from policyctl.cli.environments import Pace, choose
from policyctl.cli.options import Options
from policyctl.cli.review import as_merged, changed_settings, raise_if_unsafe, review_directory
from policyctl.cli.selection import Overrides
from policyctl.cli.session import DirectoryFiles, Session, open_config, session_of
from policyctl.errors import InvalidInput, PolicyctlError, UsageError
from policyctl.lint.directory import variable_warnings
from policyctl.load.environment import EVERY, Config, Environment, EnvironmentFilter
from policyctl.load.urls import is_git, is_http
from policyctl.plan.approval import Terms, of_several, shown_terms
from policyctl.plan.diff import FieldChange
from policyctl.plan.fleet import EnvironmentResult, FleetResult, Marks, WaveOf, marks_of
from policyctl.plan.plan import Selection
from policyctl.plan.safety import Review
from policyctl.policy.memo import Memo
from policyctl.reconcile.fleet import Brakes, EmbeddedRunner, Runner, RunRecord, Task, run_waves
from policyctl.remote.open import shared_hosts
from policyctl.report.fleet import FleetView, changes_text, fleet_csv, fleet_json, fleet_junit, fleet_text, planned
from policyctl.report.format import Style, count, cut

if TYPE_CHECKING:
    from policyctl.load.base_config import BaseCommits, BaseConfig, Held
    from policyctl.load.past import PastDirectory
    from policyctl.reconcile.audit import AuditRecord

_LONGEST_REASON = 500
# A fleet, the command, the id of its run, the digests that may be applied, and whether to stop → where the work is done.
RunnerOf = Callable[["Fleet", str, str, Mapping[str, str] | None, Callable[[], bool]], Runner]


def render_fleet(form: str, view: FleetView, style: Style = Style(), *, verbose: bool = False, quiet: bool = False) -> str:
    """The report of a run: text (of which `quiet` leaves the plans out), json, markdown, html, csv or junit."""
    if form == "markdown":
        from policyctl.report.plan_markdown import fleet_markdown

        return fleet_markdown(view)
    if form == "html":
        from policyctl.report.plan_html import fleet_html  # imports jinja2

        return fleet_html(view)
    renders: dict[str, Callable[[FleetResult], str]] = {"json": fleet_json, "csv": fleet_csv, "junit": fleet_junit}
    return renders[form](view.fleet) if form in renders else fleet_text(view.fleet, style, verbose=verbose, plans=not quiet)


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
