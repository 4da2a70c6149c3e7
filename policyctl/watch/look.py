"""One look at an environment: when it is due, what it means, whether its plan is applied, and what follows from it.

`Work` is what that needs of the rest of policyctl.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, Protocol

from policyctl.errors import Incomplete, PolicyctlError, StalePlan
from policyctl.load.windows import WatchSettings, writing_at
from policyctl.plan.drift import MOVED, Moved
from policyctl.plan.fleet import EnvironmentResult
from policyctl.plan.plan import Change, normal_of
from policyctl.policy.document import Document, canonical_text
from policyctl.policy.findings import listed
from policyctl.watch import State

MOST_HEALS = 3  # in a row, each needed again at the next look: another tool undoes them
_SOON, _LATER = 1.5, 0.9  # of an interval, since looks are not evenly spread
_MODELS = ""  # stands for all models beside the names, where they were compared
Problem = Literal["", "refused", "unreachable", "login", "failed"]


class Settled(NamedTuple):
    """The last commit whose settings are approved for an environment, and whether it was approved that they change since the
    one that was known before."""

    commit: str
    changed: bool = False


class Synced(NamedTuple):
    """How an environment was when it was last seen in sync; what is not known is empty.

    Hashes of the files and of the remote's list, and what each policy was, as text: after an apply in part, what it wrote is in
    sync. That of the files is forgotten once others were in use. `begun` has what policies may have become since, by applies
    that were begun. `access` is a hash of how that remote is reached, and `commit` the last one whose settings are approved:
    that with which the watch began, or a later one.
    """

    files: str = ""
    rows: str = ""
    base: str = ""
    begun: str = ""
    access: str = ""
    commit: str = ""


class SyncedPolicies:
    """What each policy and model of a remote was when its environment was last seen in sync, and what it may be since by
    applies that were begun: hashes by name, as short texts."""

    def __init__(self, base: str, begun: str = "") -> None:
        """`base` is a text that `text_of` made, and `begun` one of `beginning`; any other one has nothing."""
        self._found, self._begun = _loaded(base), _loaded(begun)

    @staticmethod
    def text_of(contents: Mapping[str, str], *, models: bool) -> str:
        """The text for the canonical texts of normal forms, by name. `models` is whether models are among them."""
        found = {name: _short(text) for name, text in contents.items()}
        return _text(found | ({_MODELS: ""} if models else {}))

    def side(self, change: Change) -> Moved:
        """Who moved since: a policy that it does not name was on neither side."""
        if not self._knows(change):
            return "unknown"
        base, since = self._found.get(change.name), self._begun.get(change.name, ())
        if _mark(change.before) in (base, *since):
            return "git"
        return "remote" if base == _wanted(change) and not since else "both"

    def puts_back(self, change: Change) -> bool:
        """Whether a change leads to what was in sync, and nothing else was begun since."""
        return self._knows(change) and change.name not in self._begun and self._found.get(change.name) == _wanted(change)

    def beginning(self, changes: Collection[Change], then: str) -> tuple[str, str]:
        """What policies were, and what they may be, as texts, once these changes are begun too. `then` is what they are once
        that is done: what was begun and needs no change any more is in sync."""
        base, begun, done = dict(self._found), dict(self._begun), _loaded(then)
        settled = self._begun.keys() - {change.name for change in changes} if (_MODELS in base) == (_MODELS in done) else ()
        for name in settled:
            del begun[name]
            base.pop(name, None)
        base |= {name: done[name] for name in settled if name in done}
        for change in changes:
            wanted, since = _wanted(change), begun.get(change.name, [])
            if wanted not in (base.get(change.name), *since):
                begun[change.name] = [*since, wanted]
        return _text(base), _text(begun) if begun else ""

    def _knows(self, change: Change) -> bool:
        """Whether a live policy or model would have been seen."""
        return change.kind == "policy" or change.before is None or _MODELS in self._found


def _loaded(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(found: Mapping[str, Any]) -> str:
    return json.dumps(found, separators=(",", ":"))


def _wanted(change: Change) -> str | None:
    return _mark(None if change.after is None else normal_of(change.after))


def _mark(normal: Document | None) -> str | None:
    return None if normal is None else _short(canonical_text(normal))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Heals(NamedTuple):
    """How often an environment was healed in a row, each time because it drifted within its interval, and when last (in seconds
    of the day's clock)."""

    times: int = 0
    at: float = 0.0

    def now(self, now: float, interval: float) -> Heals:
        """The same for a drift that is seen now: what drifts later is not undone by another tool, as far as is known. Those
        that fight do so until they are seen in sync."""
        return Heals() if self.times < MOST_HEALS and now - self.at > _SOON * interval else self

    def in_sync(self, now: float, interval: float) -> Heals:
        """The same once it is seen in sync: an interval after the last time, nothing undid it."""
        return Heals() if now - self.at > _LATER * interval else self


OTHER_FILES = "other files"  # the fingerprint of a look that was not made, since they were in use by then


class Look(NamedTuple):
    """What a look at an environment found: the result of its plan, who moved each change, by name, and what kind of problem
    there is, if any. `fingerprint` is that of the files that it was compared with (see `Watched`), `rows` a hash of the
    remote's list, `plan` what an apply of it needs, `base` what each policy is once that is applied, `was` what it was when it
    was last seen in sync, and `begun` what those that it changes may be once it is begun. `restores` is whether it only puts
    back what was in sync before."""

    result: EnvironmentResult
    moved: Mapping[str, Moved] = {}
    problem: Problem = ""
    fingerprint: str = ""
    rows: str = ""
    plan: object = None
    base: str = ""
    was: str = ""
    begun: str = ""
    restores: bool = False

    @property
    def sides(self) -> frozenset[Moved]:
        """Who moved anything."""
        return frozenset(self.moved.values())


_STATES: dict[Problem, State] = {
    "refused": State.REFUSED,
    "unreachable": State.FAILED,
    "login": State.FAILED,
    "failed": State.FAILED,
}


def state_of(look: Look) -> tuple[State, str]:
    """The state of an environment, and why, in one line."""
    if look.result.status == "suspended":
        return State.SUSPENDED, look.result.reason
    if look.problem:
        return _STATES[look.problem], look.result.reason
    if not look.moved:
        return State.IN_SYNC, ""
    sides = look.sides
    why = "; ".join(f"{MOVED[side]}: {listed(_names(look, side))}" for side in MOVED if side in sides)
    if sides == {"git"}:
        return State.PENDING, why
    return (State.DRIFTED if sides <= {"git", "remote"} else State.CONFLICT), why


def _names(look: Look, side: Moved) -> list[str]:
    return [name for name, moved in look.moved.items() if moved == side]


@dataclass(frozen=True, slots=True)
class Situation:
    """What decides beside the plan and the settings.

    `heals` is how many times in a row the environment was healed and drifted again by the next look. `held` is the earlier wave
    that a new revision waits for, `braked` why nothing is written for a while because of failures of others, and `paused`
    because of its own. `unapproved` is asked why a plan is not approved; it may ask a service. `outdated` is asked why the
    files may not be the newest, before what they have replaces what is live, and `uncommitted` why they may not be those of a
    commit, before anything is written. `synced` is how the environment was when it was last seen in sync.
    """

    now: datetime
    heals: int = 0
    held: str = ""
    braked: str = ""
    paused: str = ""
    unapproved: Callable[[Look], str | None] = lambda _: None
    outdated: Callable[[], str | None] = lambda: None
    uncommitted: Callable[[], str | None] = lambda: None
    synced: Synced = field(default_factory=Synced)


class Decision(NamedTuple):
    """Whether to apply a plan now; what an apply that is allowed waits for, and until when, if that is known. `state` replaces
    that of the look."""

    apply: bool
    waits_for: str = ""
    until: datetime | None = None
    state: State | None = None


_LEAVE = Decision(False)


def decide(look: Look, settings: WatchSettings, situation: Situation) -> Decision:
    """Whether a watch applies a plan by itself: only if every change is one that its settings let it apply, and never one that
    was refused, that both sides moved, or of which it is not known who did."""
    if look.problem or not look.moved or look.result.status == "suspended":
        return _LEAVE
    switches: dict[Moved, bool] = {"git": settings.apply != "never", "remote": settings.heal != "never"}
    on = {side for side, is_on in switches.items() if is_on}
    if not look.sides <= on:
        part = look.sides & on
        return Decision(False, "a person: only a part of it may be applied without one") if part else _LEAVE
    if "remote" in look.sides and situation.heals >= MOST_HEALS:
        why = f"a person: it was put back {MOST_HEALS} times, and changed again each time; stop the other tool"
        return Decision(False, why, state=State.FIGHTING)
    if situation.paused:
        return Decision(False, situation.paused, state=State.FAILED)
    if held := situation.braked or (situation.held if "git" in look.sides else ""):
        return Decision(False, held)
    if not (writing := writing_at(settings.windows, situation.now)).allowed:
        return Decision(False, f"a time to write: {writing.why}", writing.until)
    # What is live may be what the newest files want, applied by others.
    if "remote" in look.sides and (why_not := situation.outdated()):
        return Decision(False, why_not)
    # Half a revision would remove what no commit removes.
    if why_not := situation.uncommitted():
        return Decision(False, why_not)
    # Last, since this uses an approval.
    if settings.approved and (why_not := situation.unapproved(look)):
        return Decision(False, why_not)
    return Decision(True)


class Watched(NamedTuple):
    """An environment of the revision in use: its settings and labels, the number of its wave and how many of that may fail, the
    host of its remote, a hash of its settings and of what the files contain for it, and one of how its remote is reached.
    `remote` is the same for all environments of one remote."""

    settings: WatchSettings
    labels: Mapping[str, str] = {}
    wave: int = 1
    max_failures: int | None = None
    origin: str = ""
    fingerprint: str = ""
    access: str = ""
    remote: str = ""


class CredentialsMark(NamedTuple):
    """A hash of the credentials of an environment, and where they come from: `file:/run/key`."""

    mark: str
    where: str


class Work(Protocol):
    """What a watch does with a source and with environments. Only `open`, `credentials` and `stop` are called by the loop
    itself, the others in threads. What follows a look goes on with the revision that it looked at."""

    @property
    def commit(self) -> str:
        """The commit in use; empty outside a repository."""

    def fetch(self) -> str:
        """Bring the source up to date, and return the revision that it has now. Raises PolicyctlError."""

    def open(self, revision: str, /) -> Mapping[str, Watched]:
        """Use this revision for what begins from now on; its environments. Raises PolicyctlError when it cannot be used; then
        the one before stays in use."""

    def look(self, name: str, own: Watched, *, synced: Synced) -> Look:
        """Plan an environment, which was last seen in sync with these, if its remote is still reached in the same way. Never
        raises; soon after a stop it fails."""

    def unapproved(self, name: str, look: Look, /) -> str | None:
        """Why the plan of a look is not approved; None if it is. Raises PolicyctlError."""

    def new_access(self, name: str, own: Watched, synced: Synced, /) -> str | None:
        """Why another way to the remote than the one that was known is not approved; None if it is. Never raises."""

    def outdated(self) -> str | None:
        """Why the files in use may not be the newest; None if they are, at a time after this was called. Never raises."""

    def uncommitted(self) -> str | None:
        """Why the files in use may not be those of a commit; None if they are, or are not in a repository. Never raises."""

    def owes(self, name: str, /) -> bool:
        """Whether it could not be noted yet that what was approved for an environment is applied, or must be once more."""

    def settle(self, name: str, look: Look, /) -> Settled | None:
        """Note that an environment has what was approved for it. Returns which settings are approved from now on, or None.
        Never raises; what could not be noted is noted later."""

    def apply(self, name: str, look: Look) -> EnvironmentResult | None:
        """Apply the plan of a look, or nothing if it is another one by now; None if that was withdrawn before it began, since
        other files are in use or the time to write is over. Never raises."""

    def credentials(self, name: str) -> CredentialsMark:
        """The credentials of an environment, as they are now."""

    def stop(self) -> None:
        """Begin nothing new in what runs now, and finish what was begun."""


class Clock:
    """The time, and waiting; a test has its own."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def seconds(self) -> float:
        """Seconds of a clock that is never set back. Phases follow it, so it must not begin anew with a process."""
        return _EPOCH + time.monotonic()

    def pause(self, running: Collection[Future[Any]], seconds: float, *others: Future[None]) -> None:
        """Wait until one of what runs is done, or one of the `others`, which come from outside: a stop, or a hint. For so many
        seconds at most."""
        wait([*running, *(one for one in others if not one.done())], timeout=seconds, return_when=FIRST_COMPLETED)


_EPOCH = time.time() - time.monotonic()


class EnvironmentVisit(NamedTuple):
    """One look at an environment and what came of it: the decision, and the result of an apply, if there was one. `access` is a
    hash of how its remote was reached, empty if it was not. `wrote` is how many seconds the apply took. `settled` is which
    settings are approved, if that was asked."""

    look: Look
    decision: Decision
    applied: EnvironmentResult | None
    access: str
    seconds: float
    wrote: float = 0.0
    settled: Settled | None = None

    @property
    def in_sync(self) -> bool:
        """Whether the remote has what the files want, now or since an apply."""
        as_wanted = not self.look.moved and self.look.result.status != "suspended"
        return not self.failed and (as_wanted or self.applied is not None)

    @property
    def failed(self) -> bool:
        return bool(self.look.problem) or (self.applied is not None and self.applied.failed)


def text_of(error: Exception) -> str:
    """A failure in words; what is not a PolicyctlError is a bug."""
    return str(error) if isinstance(error, PolicyctlError) else f"a bug in policyctl: {type(error).__name__}: {error}"


def visit_environment(
    work: Work,
    clock: Clock,
    name: str,
    own: Watched,
    situation: Situation,
    may_write: Callable[[], bool],
    begin: Callable[[Look], None],
    *,
    calm: bool,
) -> EnvironmentVisit:
    """Look at an environment, and apply its plan if its settings, the `situation` and `may_write` allow that. `begin` notes
    what may be applied from now on, here or by others, and what an apply in part wrote. `calm` is whether it was in sync when
    it was last looked at, with this revision. Raises only what `begin` does."""
    began = clock.seconds()
    why_not = _why_not_reached(work, name, own, situation.synced)
    look = why_not or _look(work, name, own, situation.synced)
    try:
        if not may_write():
            situation = replace(situation, held="another look")
        # The look may have taken long, and a window have opened or closed meanwhile.
        decision = decide(look, own.settings, replace(situation, now=clock.now()))
    except Exception as error:  # noqa: BLE001 - a boundary: a service that answers oddly must not end the others
        decision = Decision(False, f"an approval, which cannot be read: {text_of(error)}")
    looked = clock.seconds()
    begin(look)
    applied = None
    if decision.apply and may_write() and (applied := work.apply(name, look)) is None:
        decision = Decision(False, "another look", clock.now())
    if look.was and applied is not None and applied.code == Incomplete.exit_code:  # what it wrote may be put back by hand soon
        begin(_look(work, name, own, situation.synced._replace(base=look.was, begun=look.begun)))
    access = "" if why_not else own.access
    visit = EnvironmentVisit(look, decision, applied, access, looked - began, clock.seconds() - looked)
    if own.settings.approved and visit.in_sync and (applied is not None or not calm or work.owes(name)):
        return visit._replace(settled=work.settle(name, look))
    return visit


def _why_not_reached(work: Work, name: str, own: Watched, synced: Synced) -> Look | None:
    """The look that is not made, because nothing shows that its remote may be reached so, or None."""
    why = None if own.access == synced.access else work.new_access(name, own, synced)
    if why is None:
        return None
    failed = EnvironmentResult(name, "failed", StalePlan.exit_code, why)
    return Look(failed, problem="refused", fingerprint=own.fingerprint)


def _look(work: Work, name: str, own: Watched, synced: Synced) -> Look:
    # What was in sync may have been another remote.
    return work.look(name, own, synced=synced if own.access == synced.access else Synced(commit=synced.commit))


_JITTER = 0.02  # of an interval, so that environments of equal phases drift apart


class _Turn(NamedTuple):
    due: float
    name: str
    number: int  # of the schedule's entries: older ones of a name do not count


class LookSchedule:
    """Which environment is due when. Times are seconds of one clock. Not for several threads."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()  # noqa: S311 - spreads load
        self._heap: list[_Turn] = []
        self._current: dict[str, _Turn] = {}
        self._intervals: dict[str, float] = {}
        self._hastened: set[str] = set()  # while they were taken
        self._number = 0

    def keep(self, intervals: Mapping[str, float], now: float, taken: Collection[str] = ()) -> None:
        """Look at these environments, each once an interval (in seconds), and at no others any more. Those that were `taken`
        come back by themselves."""
        for name in self._current.keys() - intervals.keys():
            del self._current[name]
        self._intervals = dict(intervals)
        self._hastened &= intervals.keys()
        for name in intervals:
            if name not in self._current and name not in taken:
                self.again(name, now)

    def again(self, name: str, now: float, after: float | None = None) -> float:
        """Look at an environment at its next phase, or after so many seconds if that is sooner; when that is."""
        if name not in self._intervals:
            return now
        if name in self._hastened:
            self._hastened.discard(name)
            return self._set(name, now)
        interval = self._intervals[name]
        phase = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64 * interval
        due = now + interval - (now - phase) % interval + self._rng.uniform(0, _JITTER) * interval
        return self._set(name, due if after is None else min(due, now + after))

    def hasten(self, names: Iterable[str], now: float, spread: float = 0.0) -> None:
        """Look at these environments within `spread` seconds, if they are not due sooner; at one that is being looked at, once
        more after that."""
        for name in names:
            if (turn := self._current.get(name)) is not None:
                self._set(name, min(turn.due, now + self._rng.uniform(0, spread)))
            elif name in self._intervals:
                self._hastened.add(name)

    def jittered(self, seconds: float) -> float:
        """A time of about so many seconds, so that many watches do not do the same at once."""
        return seconds * self._rng.uniform(0.9, 1.1)

    def take(self, now: float) -> str | None:
        """An environment that is due, which is then not in the schedule until `again`; None if none is."""
        while self._heap and self._heap[0].due <= now:
            turn = heapq.heappop(self._heap)
            if self._current.get(turn.name) is turn:
                del self._current[turn.name]
                return turn.name
        return None

    def next_due(self) -> float | None:
        """When the next environment is due; None if none is in the schedule."""
        while self._heap and self._current.get(self._heap[0].name) is not self._heap[0]:
            heapq.heappop(self._heap)
        return self._heap[0].due if self._heap else None

    def waiting(self, now: float) -> int:
        """How many environments are due."""
        due = self.next_due()
        return 0 if due is None or due > now else sum(turn.due <= now for turn in self._current.values())

    def _set(self, name: str, due: float) -> float:
        self._number += 1
        turn = self._current[name] = _Turn(due, name, self._number)
        heapq.heappush(self._heap, turn)
        return due
