"""Whether merged pull requests approved what a look of a watch planned, and how it is reached."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from math import inf
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, cast

from policyctl.ci import service_at, service_or_why
from policyctl.ci.comments import applied
from policyctl.cli.ci.merges import (
    BY_WATCH,
    REPLACED,
    SharedMerges,
    approvals_of,
    difference,
    note_use,
    waiting_merges,
    why_not_head,
)
from policyctl.errors import RemoteError
from policyctl.plan.approval import Approval, adds_up, begun_at, newest, replaced, standing
from policyctl.watch.look import Look, Settled

if TYPE_CHECKING:
    from policyctl.ci.forge import Forge
    from policyctl.cli.watch_source import Opened
    from policyctl.plan.safety import Review

_LATE_SECONDS = 60.0  # after this a service lists each merge that was in the files when they came into use
_WHOSE = "an approval"
_NEW_SETTINGS = (
    "a change of the remote or of the safety settings was in no plan of a merged pull request; policyctl help watch shows how "
    "a person approves it, or start the watch with another --state"
)


class LookedPlan(NamedTuple):
    """What a look planned, the revision that it looked at, and the last commit whose settings were approved before."""

    opened: Opened
    commit: str = ""
    review: Review | None = None


def looked(look: Look) -> tuple[Opened, Review]:
    """The revision and the plan of a look that has one."""
    opened, _, review = cast("LookedPlan", look.plan)
    assert review is not None  # noqa: S101 - without one nothing differs, so neither an apply nor an approval is asked for
    return opened, review


class Taken(NamedTuple):
    """What a watch began to apply of an environment: the hash of its files then (see `Watched`), and of the approvals the pull
    request and the commit that is noted on it."""

    fingerprint: str
    begun: frozenset[tuple[str, str]]


class UsedApprovals:
    """The approvals that a watch takes. Each is noted on its pull request as used directly before the first write, by the
    process that writes, so none counts for another commit, wherever that ends; this process goes on with what it took as long
    as the files of the environment stay the same. Several threads may use it, each for environments of its own."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock, self._used_at, self._again_at = clock, 0.0, inf
        self._shared: SharedMerges | None = None
        self._reading = Lock()
        self._settled: set[str] = set()  # environments of which was noted what a late reading found
        self._taken: dict[str, Taken] = {}  # by environment
        self._files: Mapping[str, str] = {}
        self._lock = Lock()
        self._owing: set[str] = set()  # environments that are in sync, which could not be noted
        self._holds: dict[str, tuple[Look, list[Approval]]] = {}  # by environment, what approved a plan

    def use(self, files: Mapping[str, str]) -> None:
        """Note that other files are in use, by environment a hash of each: what was taken for those of before is used up."""
        with self._lock:
            self._used_at, self._settled = self._clock(), set()
            self._again_at = self._used_at + _LATE_SECONDS
            self._files = files
            self._taken = {name: one for name, one in self._taken.items() if files.get(name) == one.fingerprint}

    def unapproved(self, look: Look, name: str) -> str | None:
        """Why no merged pull request approved this plan of an environment, as what it waits for; None if one did, which an
        apply of it `uses`.

        An approval counts if the plan is its own, or the sum of what counts of several (see `standing`), and approved plans
        showed each change of the settings. What only puts back what was in sync needs none, as long as no settings changed
        since any were approved. Raises PolicyctlError when the service cannot be asked.
        """
        opened, review = looked(look)
        plan, commit = review.plan, cast("LookedPlan", look.plan).commit
        if look.restores and opened.shown(name, [commit], ()):
            return None
        with _forge(opened) as forge:
            if isinstance(forge, str):
                return f"{_WHOSE}, which cannot be read: {forge}"
            found, last = self._found(forge, opened, name)
            if not_head := why_not_head(forge, opened.place, opened.referred):
                return f"{_WHOSE}: {not_head.why}"
            if not opened.shown(name, _since(commit, last), found):
                return f"{_WHOSE}: {_NEW_SETTINGS}"
            access = opened.access(name)
            top = newest(found, forge.commit)
            parts = [one for one in standing(found, forge.commit) if one.terms is not None and one.terms.access == access]
            if not ((top is not None and top.digest == plan.digest) or (parts and adds_up(parts, plan))):
                why = f"{difference(found, parts, forge.commit, plan)} ({plan.digest})"
                return f"{_WHOSE}: {why}; policyctl apply by hand, or a new pull request"
            self._holds[name] = (look, [one for one in found if one.holds(forge.commit)])
        return None

    def uses(self, look: Look, name: str) -> tuple[str, ...]:
        """The pull requests on which an apply of the plan of a look notes, directly before it writes, that it uses them."""
        return tuple(one.source for one in self._holding(look, name) if not one.begun)

    def begin(self, look: Look, name: str) -> None:
        """Note that on these. Raises PolicyctlError if it cannot be: then nothing must be written."""
        opened = looked(look)[0]
        note_use(service_at(os.environ, opened.commit, opened.branch), name, opened.place, self.uses(look, name), BY_WATCH)
        self.take(look, name)

    def take(self, look: Look, name: str) -> None:
        """Go on with what approved the plan of a look, as long as the files stay the same."""
        holding, commit = self._holding(look, name), looked(look)[0].commit or ""
        commits = self._commits(name) | dict.fromkeys(self.uses(look, name), commit)
        with self._lock:
            if holding and self._files.get(name) == look.fingerprint:
                begun = frozenset((one.source, commits.get(one.source, one.begun)) for one in holding)
                self._taken[name] = Taken(look.fingerprint, begun)

    def _holding(self, look: Look, name: str) -> Sequence[Approval]:
        """What approved the plan of a look; nothing if that needed no approval."""
        approved, holding = self._holds.get(name, (None, ()))
        return holding if approved is look else ()

    def _commits(self, name: str) -> dict[str, str]:
        """The commits that are noted on the pull requests that this process goes on with."""
        taken = self._taken.get(name)
        return {} if taken is None else dict(taken.begun)

    def _found(self, forge: Forge, opened: Opened, name: str) -> tuple[list[Approval], Approval | None]:
        """What waits, the newest first, and the last that was applied; what this process goes on with counts as begun by the
        commit of now."""
        mine = self._commits(name).items()
        found, last = approvals_of(forge, opened.approvals_for(name))
        return [one._replace(begun=forge.commit) if (one.source, one.begun) in mine else one for one in found], last

    def owes(self, name: str) -> bool:
        """Whether something could not be noted yet, or the service may have listed a merge too late for that."""
        return name in self._owing or (self._clock() >= self._again_at and name not in self._settled)

    def settle(self, look: Look, name: str) -> Settled | None:
        """Note that an environment has what the files want, so that nothing is approved for it any more. Returns which settings
        are approved from now on; None if that is not known."""
        try:
            settled = self._use_up(look, name)
        except Exception:  # noqa: BLE001 - whatever the service answers, the environment is in sync
            self._owing.add(name)
            return None
        self._owing.discard(name)
        return settled

    def _use_up(self, look: Look, name: str) -> Settled:
        """Note on the pull requests that wait that they are applied. Raises PolicyctlError if that cannot be done."""
        opened, known, _ = cast("LookedPlan", look.plan)
        with _forge(opened) as forge:
            if isinstance(forge, str):
                raise RemoteError(forge)
            began, waits, last = self._read_once(forge, opened, name)
            found = list[Approval]()
            if waits:
                found, last = approvals_of(forge, opened.approvals_for(name))
                if not_head := why_not_head(forge, opened.place, opened.referred):
                    raise RemoteError(not_head.why)
            since = _since(known, last)
            is_shown = begun_at(found, forge.commit) or opened.shown(name, since, found)
            commit = (opened.commit or "") if is_shown else next(iter(since), "")
            seen, old = {one.source for one in found}, replaced(found)  # what was merged since is not in these files
            for merge, comments in reversed(waiting_merges(forge, name, opened.place)[0]) if found else ():
                for one in comments if merge.name in seen else ():
                    sentence = REPLACED if merge.name in old else "Applied, as policyctl watch found, or taken back before."
                    forge.rewrite(one, applied(one.body, sentence, commit))
            self._taken.pop(name, None)
            self._note_settled(name, began)
            return Settled(commit, changed=not opened.shown(name, [known], ()))

    def _read_once(self, forge: Forge, opened: Opened, name: str) -> tuple[float, bool, Approval | None]:
        """Whether anything waits for an environment, and the last that was applied, by what was read once for all of them while
        these files are in use, and once more later; and when that was read. What this process took itself may be newer."""
        if name in self._taken:
            return self._clock(), True, None
        with self._reading:
            now = self._clock()
            shared, since = self._shared, self._again_at if now >= self._again_at else self._used_at
            if shared is None or shared.began <= since:
                shared = self._shared = SharedMerges(forge, now, shared)
        return shared.began, *shared.wait(forge, name, opened.place)

    def _note_settled(self, name: str, began: float) -> None:
        with self._lock:
            if began >= self._again_at:
                self._settled.add(name)


def unapproved_access(opened: Opened, name: str, access: str, commit: str) -> str | None:
    """Why this way to the remote of an environment (see `access_at`) is not approved: the plans of merged pull requests do not
    show each change of it since this `commit`, or since the last one that an apply noted. None if they do. Raises RemoteError
    when the service cannot be asked."""
    if opened.access(name) != access:
        return "other files are in use by now"
    with _forge(opened) as forge:
        if isinstance(forge, str):
            raise RemoteError(f"no approval can be read: {forge}")
        found, last = approvals_of(forge, opened.approvals_for(name))
        if not_head := why_not_head(forge, opened.place, opened.referred):
            return not_head.why
    if opened.shown(name, _since(commit, last), found, way_only=True):
        return None
    why = "no merged pull request shows it; read it, then start the watch with another --state"
    by_hand = "or apply by hand the first pull request with a page for it, and note that with policyctl ci applied --digest"
    return why if commit else f"{why}, {by_hand}"


def _since(commit: str, last: Approval | None) -> list[str]:
    """The commits whose settings are approved: that which a watch knows of, and that which the last apply noted. What is
    further back than merges are read counts as applied, but nothing noted that."""
    return [one for one in (commit, last.commit if last is not None and last.source else "") if one]


def _forge(opened: Opened) -> AbstractContextManager[Forge | str]:
    """The service that has the approvals, or why it cannot be asked."""
    return service_or_why(service_at(os.environ, opened.commit, opened.branch))
