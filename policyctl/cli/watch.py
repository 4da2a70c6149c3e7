"""policyctl watch."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from policyctl.cli.console import CollectingConsole, Console, first_signal
from policyctl.cli.environments import with_environments_or_all
from policyctl.cli.fleet import Fleet, open_fleet
from policyctl.cli.fleet_apply import fleet_waves, with_outcome
from policyctl.cli.history import with_audit
from policyctl.cli.options import NAMES, NumberRange, Options, with_options
from policyctl.cli.review import raise_if_unsafe
from policyctl.cli.watch_outputs import OutputOptions, Outputs, with_outputs
from policyctl.errors import InvalidInput, LoginRefused, PolicyctlError, Refused, StalePlan, Unreachable
from policyctl.load.atomic import state_folder
from policyctl.load.environment import Environment
from policyctl.load.selector import EnvironmentFilter
from policyctl.load.stamps import stamps
from policyctl.load.urls import is_http, origin
from policyctl.plan.fleet import EnvironmentResult
from policyctl.policy.memo import Memo
from policyctl.reconcile.apply import ApplyEvents, ApplySettings, apply_plan
from policyctl.report.fleet import planned
from policyctl.report.format import count, escape
from policyctl.watch.decide import Look, Problem, state_of
from policyctl.watch.loop import Watch, Watched
from policyctl.watch.memory import Memory
from policyctl.watch.status import Transition

if TYPE_CHECKING:
    from policyctl.plan.safety import Review
    from policyctl.reconcile.audit import Audit

EPILOG = """\b
Example:
  policyctl watch
  policyctl watch -l ring=canary --audit audit.jsonl
  policyctl watch --once --detailed-exitcode"""

_NEEDS = ("croniter", "prometheus_client")
_LONGEST_REASON = 500


@click.command("watch", epilog=EPILOG)
@click.option(
    "--poll",
    type=NumberRange(min=0.1),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look for changes of the files.",
)
@click.option("--parallelism", type=click.IntRange(1, 64), default=4, show_default=True, help="Environments at once.")
@click.option("--once", is_flag=True, help="Look at each environment once, then end.")
@click.option(
    "--detailed-exitcode", is_flag=True, help="With --once: exit with 2 when something differs, 5 when something failed."
)
@with_outputs
@with_audit
@with_options(*NAMES)
@with_environments_or_all
def watch(
    options: Options,
    poll: float,
    parallelism: int,
    once: bool,
    detailed_exitcode: bool,
    audit: Audit | None,
    chosen: EnvironmentFilter,
    given: OutputOptions,
) -> int:
    """Look at environments again and again, show what moved, and apply what their settings allow: see policyctl help watch.

    Without settings nothing is ever written. In policyctl.yaml, `watch: {apply: on-merge}` applies what Git moved, and
    `watch: {heal: always}` puts back what was edited on the remote. What a safety rule refuses waits for a person.
    """
    if missing := [name for name in _NEEDS if find_spec(name) is None]:
        raise PolicyctlError(f"watch needs {' and '.join(missing)}; install it with: pip install 'policyctl[watch]'")
    console = Console(options)
    memory = Memory(state_folder(options.dir))
    outputs = Outputs(given, options, Announcer(console, memory))
    work = EnvironmentWork(options, chosen, audit, console, outputs)
    found = Watch(work, outputs.board, memory, poll=poll, parallelism=parallelism, reports=[outputs])

    def stop(_: int) -> None:
        outputs.stopping()
        found.stop()

    with work, outputs.around(found, once=once, console=console), first_signal(stop):
        found.run(once=once)
    if not (once and detailed_exitcode):
        return 0
    states = {one.state for one in outputs.board.environments()}
    return 5 if states & {"failed", "refused"} else 2 if states - {"in_sync", "suspended"} else 0


class Announcer:
    """Prints each transition once, also over restarts."""

    def __init__(self, console: Console, memory: Memory) -> None:
        self._console, self._memory = console, memory

    def __call__(self, transition: Transition) -> None:
        if not self._memory.is_new(transition):
            return
        now = transition.now
        waits = f"; waits for {now.waits_for}" if now.waits_for else ""
        what = f": {now.reason}" if now.reason else ""
        self._console.result(f"{now.since:%Y-%m-%dT%H:%M:%SZ} {escape(now.name)} {now.state}{escape(what)}{escape(waits)}\n")
        sys.stdout.flush()


class OnceConsole(CollectingConsole):
    """Prints each message about environments once."""

    def __init__(self, options: Options, console: Console) -> None:
        super().__init__(options)
        self._console, self._said = console, set[str]()

    def say(self, line: str, *, painted: bool = False) -> None:
        if line not in self._said:
            self._said.add(line)
            self._console.say(line, painted=painted)


class EnvironmentWork:
    """What a watch does with the environments of a directory; see `policyctl.watch.loop.Work`."""

    def __init__(
        self, options: Options, chosen: EnvironmentFilter, audit: Audit | None, console: Console, outputs: Outputs
    ) -> None:
        self._options, self._chosen, self._audit, self._console = options, chosen, audit, console
        self._outputs = outputs
        self._fleet: Fleet | None = None
        self._held = ExitStack()
        self._reviews: dict[str, Review] = {}  # of the visits that are under way
        self._stopped = False

    def __enter__(self) -> EnvironmentWork:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._fleet is not None and self._fleet.hosts is not None:
            self._fleet.hosts.close()
        self._held.close()

    @property
    def fleet(self) -> Fleet:
        assert self._fleet is not None  # noqa: S101 - the loop opens a revision first
        return self._fleet

    def fetch(self) -> str:
        return hashlib.sha256(repr(tuple(stamps(self._options.dir))).encode()).hexdigest()[:12]

    def open(self, revision: str) -> Mapping[str, Watched]:
        fleet = open_fleet(self._options, self._chosen, tests=True, marks=True)
        fleet.judged, fleet.audit = True, None if self._audit is None else self._audit.file
        fleet.messages = OnceConsole(self._options, self._console)
        self._close()
        self._fleet, self._held = fleet, ExitStack()
        self._outputs.opened(fleet)
        self._held.enter_context(Memo.remembering())
        self._console.say(f"watching {count(len(fleet.names), 'environment')} of {self._options.dir}")
        return dict(_watched(fleet))

    def look(self, name: str) -> Look:
        with self._outputs.span("look", environment=name) as span:
            found = self._look(name)
            span.note(result=str(state_of(found)[0]), changes=found.result.changes)
        return found

    def _look(self, name: str) -> Look:
        fleet = self.fleet
        found = fleet.config.environments.get(name)
        remote = "" if found is None else found.remote
        if found is not None and (why := found.suspended):
            return Look(EnvironmentResult(name, "suspended", reason=why, remote=remote))
        try:
            with self._outputs.span("read"):
                session = fleet.session(name)
            with self._outputs.span("plan"):
                review = fleet.review(session)
            result = planned(review, name, session.remote)
            moved = {one: drift.moved for one, drift in review.drifts.items()}
            try:
                _raise_if_held(review)
            except Refused as error:
                return Look(_failed(result, error), moved, "refused")
            self._reviews[name] = review
            return Look(result, moved)
        except PolicyctlError as error:
            return Look(_failed(EnvironmentResult(name, "failed", remote=remote), error), {}, _problem(error))
        except Exception as error:  # noqa: BLE001 - a boundary: what fails in one environment must not end the others
            bug = PolicyctlError(f"a bug in policyctl: {type(error).__name__}: {error}")
            return Look(_failed(EnvironmentResult(name, "failed", remote=remote), bug), {}, "failed")

    def unapproved(self, name: str, look: Look) -> str | None:
        return "an approval, which can only be read in a workflow; write approved: false to apply what is merged"

    def apply(self, name: str, look: Look) -> EnvironmentResult:
        with self._outputs.span("apply", environment=name, changes=look.result.changes) as span:
            applied = self._apply(name, look)
            span.note(result="failed" if applied.failed else "applied")
        return applied

    def _apply(self, name: str, look: Look) -> EnvironmentResult:
        review = self._reviews.pop(name)
        try:
            session = self.fleet.session(name)
            settings = ApplySettings(
                command="policyctl watch", audit=self._audit, in_scope=session.environment.settings.in_scope
            )
            applied = apply_plan(review, session.url, session.access, settings, _Events(self))
            return with_outcome(look.result, applied)
        except PolicyctlError as error:
            return _failed(look.result, error)
        except Exception as error:  # noqa: BLE001 - a boundary, as in `look`
            return _failed(look.result, PolicyctlError(f"a bug in policyctl: {type(error).__name__}: {error}"))

    def credentials(self, name: str) -> str:
        from policyctl.remote.redaction import resolve_secret

        environment = self.fleet.config.environments[name]
        found = {} if environment.auth is None else environment.auth.model_dump(exclude_none=True)
        texts = []
        for key, reference in sorted(found.items()):
            if key in ("api_key", "password", "token"):
                try:
                    texts.append(resolve_secret(key, reference, self.fleet.session(name).access.base))
                except PolicyctlError as error:
                    texts.append(str(error))
        return hashlib.sha256("\0".join(texts).encode()).hexdigest()

    def stop(self) -> None:
        self._stopped = True

    @property
    def stopped(self) -> bool:
        return self._stopped


class _Events(ApplyEvents):
    """An apply by a watch: it stops with the watch."""

    def __init__(self, work: EnvironmentWork) -> None:
        self._work = work

    def message(self, line: str) -> None:
        self._work.fleet.messages.say(line)

    def stopped(self) -> bool:
        return self._work.stopped


def _watched(fleet: Fleet) -> Iterator[tuple[str, Watched]]:
    waves = {name: (number, wave.max_failures) for number, wave in enumerate(fleet_waves(fleet), 1) for name in wave.names}
    for name in fleet.names:
        environment = fleet.config.environments.get(name) or Environment(name)
        yield name, Watched(environment.watch, environment.labels, *waves[name], _origin_of(environment.remote))


def _origin_of(remote: str) -> str:
    if not is_http(remote):
        return ""
    found = origin(remote)
    return f"{found.scheme}://{found.host}:{found.port}"


def _raise_if_held(review: Review) -> None:
    """Raise Refused for a plan that must not be applied, and for files whose scenario tests fail."""
    raise_if_unsafe(review, listed=False)
    if failed := review.branch.failed_tests:
        raise Refused(f"{count(len(failed), 'scenario test')} failed: {failed[0]}")


def _failed(result: EnvironmentResult, error: PolicyctlError) -> EnvironmentResult:
    lines = str(error.problems[0] if isinstance(error, InvalidInput) else error).split("\n")
    return replace(result, status="failed", code=error.exit_code, reason=" ".join(lines)[:_LONGEST_REASON])


def _problem(error: PolicyctlError) -> Problem:
    if isinstance(error, Unreachable):
        return "unreachable"
    return "login" if isinstance(error, LoginRefused) else "refused" if isinstance(error, Refused | StalePlan) else "failed"
