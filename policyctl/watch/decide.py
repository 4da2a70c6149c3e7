"""What a look at an environment means, and whether a watch applies its plan by itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from policyctl.load.windows import WatchSettings, writing_at
from policyctl.plan.drift import MOVED, Moved
from policyctl.plan.fleet import EnvironmentResult
from policyctl.plan.plan import Change, normal_of
from policyctl.policy.document import Document, canonical_text
from policyctl.policy.findings import listed
from policyctl.watch.status import State

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
