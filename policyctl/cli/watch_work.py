"""What a watch does with environments: plans, and applies of them, in the sessions of a fleet, once it is known who moved."""

from __future__ import annotations

import gc
import hashlib
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from policyctl import __version__
from policyctl.cli.console import CollectingConsole, Console
from policyctl.cli.fleet import Fleet, failed_by, fleet_waves, one_line, with_outcome
from policyctl.cli.options import Options
from policyctl.cli.review import FirstWrite, raise_if_unsafe, within_windows
from policyctl.cli.watch_source import LookedPlan, Opened, UsedApprovals, WatchSource, looked, unapproved_access
from policyctl.errors import Incomplete, LoginRefused, PolicyctlError, Refused, Unreachable
from policyctl.load.environment import Config, Environment
from policyctl.load.kinds import CONFIG_FILE
from policyctl.load.urls import LOCAL, Origin, is_http, is_shared, origin, remote_identity
from policyctl.load.windows import duration
from policyctl.plan.drift import Moved
from policyctl.plan.fleet import EnvironmentResult
from policyctl.plan.plan import Change, normal_of
from policyctl.policy.document import canonical_text, digest
from policyctl.policy.findings import listed
from policyctl.policy.memo import Memo, content_key
from policyctl.reconcile.apply import ApplyEvents, ApplySettings, apply_plan
from policyctl.remote.open import shared_hosts
from policyctl.report.fleet import planned
from policyctl.report.format import count
from policyctl.watch import Watcher
from policyctl.watch.look import (
    OTHER_FILES,
    CredentialsMark,
    Look,
    Problem,
    Settled,
    Synced,
    SyncedPolicies,
    Watched,
    state_of,
    text_of,
)

if TYPE_CHECKING:
    from policyctl.cli.watch import Outputs
    from policyctl.plan.safety import Review
    from policyctl.reconcile.audit import Audit
    from policyctl.remote import Reader
    from policyctl.remote.hosts import HostPace

_FEW = 4
_MOST_SAID = 10_000  # messages that are remembered
_SECRETS = ("api_key", "password", "token")


class OnceConsole(CollectingConsole):
    """Prints each message about environments once."""

    def __init__(self, options: Options, console: Console) -> None:
        super().__init__(options)
        self._console, self._said = console, set[str]()

    def say(self, line: str, *, painted: bool = False) -> None:
        if len(self._said) > _MOST_SAID:
            self._said.clear()
        if line not in self._said:
            self._said.add(line)
            self._console.say(line, painted=painted)


class EnvironmentWork:
    """Looks at the environments of a source, and applies their plans; see `policyctl.watch.look.Work`."""

    def __init__(
        self,
        source: WatchSource,
        options: Options,
        console: Console,
        outputs: Outputs,
        audit: Audit | None = None,
        interval: float | None = None,
    ) -> None:
        """`interval` replaces that of every environment."""
        self._source, self._options, self._console, self._audit = source, options, console, audit
        self._outputs, self._messages = outputs, OnceConsole(options, console)
        self._current: tuple[Opened, dict[str, Watched]] | None = None
        self._remembering = ExitStack()
        self._interval = interval
        self._new_pace: Callable[[Origin], HostPace] | None = None
        self._fetching, self._fetch_began, self._revision = threading.Lock(), 0.0, ""
        self._newest: str | PolicyctlError = ""
        self._approvals = UsedApprovals()
        self.stopped = False
        self.known: Collection[str] = ()  # environments that were watched before this process

    def close(self) -> None:
        if self._current is not None and self.opened.fleet.hosts is not None:
            self.opened.fleet.hosts.close()
        self._remembering.close()

    @property
    def current(self) -> tuple[Opened, dict[str, Watched]]:
        """The revision in use, and its environments. Another one may be in use by the next call."""
        assert self._current is not None  # noqa: S101 - the loop opens a revision before it looks
        return self._current

    @property
    def opened(self) -> Opened:
        return self.current[0]

    @property
    def commit(self) -> str:
        return self.opened.commit or ""

    def keeper(self) -> Watcher | None:
        """What raises once this watch must not go on."""
        return None

    def fetch(self) -> str:
        return self._fetch_since(math.inf)

    def _fetch_since(self, asked: float) -> str:
        """The newest revision, by a fetch that began after a time; those that wait for one share it, and its failure."""
        with self._fetching:
            if self._fetch_began <= asked:
                self._fetch_began = time.monotonic()
                try:
                    self._newest = self._source.fetch(lambda: self.stopped)
                except PolicyctlError as error:
                    self._newest = error
            if isinstance(self._newest, PolicyctlError):
                raise self._newest
            return self._newest

    def outdated(self) -> str | None:
        try:
            newest = self._fetch_since(time.monotonic())
            is_newest = newest == self._revision or self._source.is_same(self.opened, newest)
        except PolicyctlError as error:
            return f"the source, which cannot be read: {error}"
        return None if is_newest else "the newest files, which are not in use yet"

    def uncommitted(self) -> str | None:
        if (why := self._source.uncommitted(self.opened)) is not None:
            return f"the files, which are not as committed: {why}"
        # A directory must also be as it was when it was read: a checkout may have ended only now. A mirror has commits alone.
        return self.outdated() if self.opened.then is None else None

    def open(self, revision: str) -> Mapping[str, Watched]:
        opened = self._source.open(revision)
        fleet, before = opened.fleet, None if self._current is None else self.opened
        self._raise_if_vanished(fleet.config)
        fleet.messages = self._messages
        watched = dict(_watched(fleet, opened.access_of))
        if (every := self._interval) is not None:
            watched = {name: one._replace(settings=one.settings._replace(interval=every)) for name, one in watched.items()}
        self._messages.say(_summary(watched))
        if fleet.hosts is not None and self._new_pace is not None:
            fleet.hosts = shared_hosts(self._new_pace)
        self._outputs.opened(fleet)
        if before is not None and before.fleet.hosts is not None:  # with its connections and tokens
            fleet.hosts = before.fleet.hosts
        self._remembering.close()  # what was computed for the files of before
        self._remembering.enter_context(Memo.remembering())
        self._approvals.use({name: one.fingerprint for name, one in watched.items()})
        self._current, self._revision = (opened, watched), revision
        gc.collect()
        gc.freeze()  # files and settings stay; what looks leave behind is collected
        gc.enable()
        return watched

    def _raise_if_vanished(self, config: Config) -> None:
        """Raise PolicyctlError if the environments that were watched are gone with their file: half a checkout has none."""
        if config.path is not None:
            return
        if self._current is None:
            had = {*self.known} - {LOCAL}
        else:
            had = set() if self.opened.fleet.config.path is None else {*self.current[1]}
        if had:
            raise PolicyctlError(
                f"there is no {CONFIG_FILE}, which had the environments that are watched ({listed(sorted(had))}); put it back, "
                "or start the watch with another --state"
            )

    def look(self, name: str, own: Watched, *, synced: Synced) -> Look:
        with self._outputs.span("look", environment=name) as span:
            found = self._looked(name, own, synced)
            span.note(result=str(state_of(found)[0]), changes=found.result.changes)
        return found

    def _looked(self, name: str, own: Watched, synced: Synced) -> Look:
        opened, watched = self.current
        if (now := watched.get(name)) is None or now.access != own.access:  # of which it is not known whether it is approved
            return Look(EnvironmentResult(name, "failed", 1, "other files are in use now"), {}, "failed", OTHER_FILES)
        found = opened.fleet.config.environments.get(name)
        remote = "" if found is None else found.remote
        if found is not None and (why := found.suspended):
            return Look(EnvironmentResult(name, "suspended", reason=why, remote=remote))
        try:
            return self._look(opened, name, watched[name].fingerprint, synced)
        except Exception as error:  # noqa: BLE001 - a boundary: what fails in one environment must not end the others
            problem = _problem(error)
            return Look(failed_look(EnvironmentResult(name, "failed", remote=remote), error), {}, problem)

    def _look(self, opened: Opened, name: str, fingerprint: str, synced: Synced) -> Look:
        fleet = opened.fleet
        session, hosts = fleet.session(name), fleet.hosts
        looking = nullcontext() if hosts is None else hosts.deadline.until(lambda: self.stopped)
        with looking, session.reader() as reader:
            seen = RowsOnce(reader)
            rows = seen.key()
            if rows and (synced.files, synced.rows) == (fingerprint, rows):
                in_sync = EnvironmentResult(name, "planned", remote=session.remote)
                return Look(in_sync, {}, "", fingerprint, rows, LookedPlan(opened, synced.commit), synced.base)
            side = side_of(synced, fingerprint, rows)
            audit = None if self._audit is None else self._audit.record
            judged = side is None and (audit is not None or not synced.base)
            review = fleet.review(session._replace(opened=cast("Reader", seen)), audit, judged=judged)
        base, result = base_of(review, models=session.environment.settings.models), planned(review, name, session.remote)
        moved, was, begun, restores = moves_of(review, side, synced, base)
        try:
            _raise_if_held(review)
        except (Refused, Incomplete) as error:
            return Look(failed_look(result, error), moved, "refused", fingerprint, rows)
        plan = LookedPlan(opened, synced.commit, review)
        return Look(result, moved, "", fingerprint, rows, plan, base, was, begun, restores)

    def unapproved(self, name: str, look: Look) -> str | None:
        return self._approvals.unapproved(look, name)

    def new_access(self, name: str, own: Watched, synced: Synced) -> str | None:
        try:
            why = unapproved_access(self.opened, name, own.access, synced.commit)
        except Exception as error:  # noqa: BLE001 - a boundary, as in `look`
            why = text_of(error)
        new = "remote, auth or ca_file is not what was used before, so nothing logs in"
        return None if why is None else f"{new}: {why}"

    def owes(self, name: str) -> bool:
        return self._approvals.owes(name)

    def settle(self, name: str, look: Look) -> Settled | None:
        return self._approvals.settle(look, name)

    def apply(self, name: str, look: Look) -> EnvironmentResult | None:
        with self._outputs.span("apply", environment=name, changes=look.result.changes) as span:
            applied = self._applied(name, look)
            span.note(result="withdrawn" if applied is None else "failed" if applied.failed else "applied")
        return applied

    def _applied(self, name: str, look: Look) -> EnvironmentResult | None:
        try:
            opened, review = looked(look)
            session = opened.fleet.session(name)
            audit = None if self._audit is None else replace(self._audit, commit=opened.mirrored)
            in_scope = session.environment.settings.in_scope
            begins = FirstWrite(partial(self._approvals.begin, look, name))
            settings = ApplySettings(command="policyctl watch", audit=audit, in_scope=in_scope, begins=begins)
            settings = within_windows(settings, session.environment, None)
            applied = apply_plan(review, session.url, session.access, settings, _Events(self))
            return with_outcome(look.result, applied)
        except Exception as error:  # noqa: BLE001 - a boundary, as in `look`
            return failed_look(look.result, error)

    def credentials(self, name: str) -> CredentialsMark:
        from policyctl.remote.redaction import resolve_secret

        fleet = self.opened.fleet
        environment = fleet.config.environments.get(name)
        auth = None if environment is None else environment.auth
        given = {} if auth is None else {key: one for key in _SECRETS if (one := getattr(auth, key)) is not None}
        texts = []
        for key, reference in given.items():
            try:
                texts.append(resolve_secret(key, reference, fleet.session(name).access.base))
            except PolicyctlError as error:
                texts.append(str(error))
        return CredentialsMark(hashlib.sha256("\0".join(texts).encode()).hexdigest(), " or ".join(given.values()))

    def stop(self) -> None:
        self.stopped = True

    def say(self, line: str) -> None:
        """Print a message once."""
        self._messages.say(line)


class _Events(ApplyEvents):
    """An apply by a watch: it stops with the watch."""

    def __init__(self, work: EnvironmentWork) -> None:
        self._work = work

    def message(self, line: str) -> None:
        self._work.say(line)

    def stopped(self) -> bool:
        return self._work.stopped


def _watched(fleet: Fleet, access_of: Callable[[Environment], str]) -> Iterator[tuple[str, Watched]]:
    waves = {name: (number, wave.max_failures) for number, wave in enumerate(fleet_waves(fleet), 1) for name in wave.names}
    contents: dict[str, str] = {}
    for name in fleet.names:
        own = fleet.config.environments.get(name)
        if own is None:
            yield name, Watched(Environment(name).watch, fleet.config.labels[name], *waves[name])
            continue
        key = f"{is_shared(own.remote)} {own.digest}"
        if key not in contents:
            desired = fleet.files.load(own, fleet.console.progress).desired
            contents[key] = digest([key, sorted((one.name, canonical_text(one.document)) for one in desired)])
        mark = digest([contents[key], own.remote, __version__])
        # One that is suspended is not asked anything, so nothing is known of its host, and it does not wait for that.
        host = str(origin(own.remote)) if is_http(own.remote) and not own.suspended else ""
        remote = digest(remote_identity(own.remote, name))
        yield name, Watched(own.watch, own.labels, *waves[name], host, mark, access_of(own), remote)


def _summary(watched: Mapping[str, Watched]) -> str:
    """`watching 3 environments, every 5m; 1 is applied by itself, none is healed`."""
    settings = [one.settings for one in watched.values()]
    intervals = sorted({one.interval for one in settings})
    every = " or ".join(map(duration, intervals)) if len(intervals) < _FEW else f"{duration(intervals[0])} or less often"
    applied, healed = sum(one.apply != "never" for one in settings), sum(one.heal != "never" for one in settings)
    parts = (f"{_how_many(applied)} applied once merged", f"{_how_many(healed)} healed")
    return f"watching {count(len(settings), 'environment')}, every {every}; {', '.join(parts)}"


def _how_many(number: int) -> str:
    return {0: "none is", 1: "1 is"}.get(number, f"{number:,} are")


def _raise_if_held(review: Review) -> None:
    """Raise Refused for a plan that must not be applied, and for files whose scenario tests fail."""
    raise_if_unsafe(review, listed=False)
    if failed := review.branch.failed_tests:
        raise Refused(f"{count(len(failed), 'scenario test')} failed: {failed[0]}")


def failed_look(result: EnvironmentResult, error: Exception) -> EnvironmentResult:
    """A result as one that failed with an error, in a line."""
    found = failed_by(result, error)
    return replace(found, reason=one_line(found.reason))


def _problem(error: Exception) -> Problem:
    if isinstance(error, Unreachable):
        return "unreachable"
    return "login" if isinstance(error, LoginRefused) else "refused" if isinstance(error, Refused) else "failed"


class RowsOnce:
    """A reader whose list is read once, so that what is decided and what is planned rest on the same rows."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._rows: list[Any] | None = None

    def __enter__(self) -> RowsOnce:
        return self

    def __exit__(self, *_: object) -> None:
        """The reader's owner closes it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def rows(self) -> list[Any]:
        if self._rows is None:
            self._rows = [*self._reader.rows()]
        return self._rows

    def key(self) -> str:
        """A hash of all rows; empty if they are not plain values."""
        try:
            found = content_key(self.rows())
        except (TypeError, ValueError):
            return ""
        return "" if found is None else found.hex()


def side_of(synced: Synced, files: str, rows: str) -> Moved | None:
    """Who moved, as far as that follows from when the environment was last seen in sync: the side that is as it was did not."""
    if not rows or (synced.files == files) == (synced.rows == rows):
        return None
    return "remote" if synced.files == files else "git"


class Moves(NamedTuple):
    """Who moved each change, by name; what policies were, and may be once they are begun; and whether they only put back what
    was in sync before."""

    sides: Mapping[str, Moved]
    was: str = ""
    begun: str = ""
    restores: bool = False


def moves_of(review: Review, side: Moved | None, synced: Synced, base: str) -> Moves:
    """Who moved: by what each policy was in sync, which is certain, unless an audit record has it; without either by Git
    history. `base` is what each policy is once the plan is applied."""
    changes = review.plan.changes
    known = SyncedPolicies(synced.base, synced.begun) if synced.base else None

    def moved(change: Change) -> Moved:
        drift = review.drifts.get(change.name)
        if known is not None and (drift is None or drift.basis != "audit"):
            return known.side(change)
        return "unknown" if drift is None else drift.moved

    sides = {change.name: side or moved(change) for change in changes}
    # To put such a policy back leaves unknown fields elsewhere than they were in sync, and nothing shows that any more.
    sides |= {change.name: "unknown" for change in changes if change.moved and sides[change.name] == "remote"}
    if known is None:
        return Moves(sides)
    restores = {*sides.values()} == {"remote"} and all(map(known.puts_back, changes))
    return Moves(sides, *known.beginning(changes, base), restores)


def base_of(review: Review, *, models: bool) -> str:
    """What each policy and model is once the plan is applied, in scope or not: the scope may be another one by then. `models`
    is whether models were compared."""
    found = dict.fromkeys(review.live, "")  # for those of which it is not clear what they are
    found |= {name: live.text for name, live in review.models_before.items()}
    found |= {name: canonical_text(document) for name, document in review.policies.items()}
    for change in review.plan.changes:
        if change.after is None:
            found.pop(change.name, None)
        elif change.kind == "model":
            found[change.name] = canonical_text(normal_of(change.after))
    return SyncedPolicies.text_of(found, models=models)
