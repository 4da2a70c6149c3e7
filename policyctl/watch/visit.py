"""One look at an environment and what follows from it. In a thread of the loop's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from policyctl.errors import StalePlan
from policyctl.plan.fleet import EnvironmentResult
from policyctl.watch.decide import Decision, Look, Situation, Synced, decide
from policyctl.watch.work import Clock, EnvironmentVisit, Watched, Work, text_of


def visit_environment(
    work: Work,
    clock: Clock,
    name: str,
    own: Watched,
    situation: Situation,
    may_write: Callable[[], bool],
    *,
    calm: bool,
) -> EnvironmentVisit:
    """Look at an environment, and apply its plan if its settings, the `situation` and `may_write` allow that. `calm` is whether
    it was in sync when it was last looked at. Never raises."""
    began = clock.seconds()
    look = _look(work, name, own, situation)
    try:
        if not may_write():
            situation = replace(situation, held="another look")
        # The look may have taken long, and a window have opened or closed meanwhile.
        decision = decide(look, own.settings, replace(situation, now=clock.now()))
    except Exception as error:  # noqa: BLE001 - a boundary: a service that answers oddly must not end the others
        decision = Decision(False, f"an approval, which cannot be read: {text_of(error)}")
    looked = clock.seconds()
    applied = work.apply(name, look) if decision.apply and may_write() else None
    visit = EnvironmentVisit(look, decision, applied, looked - began, clock.seconds() - looked)
    if own.settings.approved and visit.in_sync and (applied is not None or not calm or work.owes(name)):
        return visit._replace(released=work.settle(name, look))
    return visit


def _look(work: Work, name: str, own: Watched, situation: Situation) -> Look:
    """Look at an environment. Where plans need approvals, so does another way to the remote: nothing logs in before."""
    if situation.synced.access in ("", own.access):
        return work.look(name, own, synced=situation.synced)
    if own.settings.approved and (why := work.new_access(name, own)):
        failed = EnvironmentResult(name, "failed", StalePlan.exit_code, why)
        return Look(failed, problem="refused", fingerprint=own.fingerprint)
    return work.look(name, own, synced=Synced())  # what was in sync was another remote
