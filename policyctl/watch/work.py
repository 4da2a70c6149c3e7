"""One look at an environment and what follows from it, and what that needs of the rest of policyctl."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from policyctl.errors import Incomplete, PolicyctlError, StalePlan
from policyctl.load.windows import WatchSettings
from policyctl.plan.fleet import EnvironmentResult
from policyctl.watch.decide import Decision, Look, Settled, Situation, Synced, decide


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
