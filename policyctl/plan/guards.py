"""Guards: the limits of policyctl.yaml on what a plan may do to traffic.

A guard judges the policies that are added or updated, and those of the directory that target one of these and do something
else because of it. Each breach names the value, the limit, and the route, the outage or the condition that attains the value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isclose
from shlex import quote
from typing import NamedTuple

from policyctl.effect.analysis import Analysis, Effect, analyse
from policyctl.effect.gateway import Answer, answer_text
from policyctl.effect.outages import describe_failures, one_failure, outages, served
from policyctl.effect.tree import NOTHING, DeclaredModels, KnownPolicies, Tree
from policyctl.effect.worst_case import Leg
from policyctl.errors import NotKnown
from policyctl.plan.effects import AffectedPolicy
from policyctl.plan.plan import Plan
from policyctl.plan.settings import Guard, GuardException, Guards, Part, Settings
from policyctl.policy.document import Document
from policyctl.policy.names import provider_of, short_model, short_names


class Breach(NamedTuple):
    """A policy that a guard does not allow, and why."""

    policy: str
    guard: Guard
    said: str


@dataclass(frozen=True, slots=True)
class Case:
    """What a guard judges: the analysis after the change, and for an update its effect (None for an add)."""

    after: Analysis
    effect: Effect | None


class Judgement(NamedTuple):
    """A policy that guards apply to. `updated`: it exists on the remote; `effect` is what changes, where that is known."""

    name: str
    updated: bool
    effect: Effect | None
    through: tuple[str, ...] = ()


def traffic_refusals(
    plan: Plan,
    policies: Mapping[str, Document],
    settings: Settings,
    effects: Mapping[str, Effect],
    affected: Sequence[AffectedPolicy] = (),
    restored: frozenset[str] = frozenset(),
    declared: DeclaredModels = NOTHING,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the guards refuse, one sentence each; and as notes, what they would refuse without an exception.

    `policies` are all as they will be and `effects` those of the plan's updates, both by name; `affected` are policies that
    stay. `restored` names policies of both that are again what was reviewed: the guards that compare with what is live do not
    block the way back. `declared` are facts about models.
    """
    refusals, notes = [], []
    written = [change for change in plan.policies if change.after is not None]
    judged = [Judgement(change.name, change.action == "update", effects.get(change.name)) for change in written]
    judged += [Judgement(one.name, True, one.effect, one.through) for one in affected if one.bound]
    for breach in _breaches(judged, policies, settings.guards, declared):
        if breach.policy in restored and breach.guard in _OF_UPDATES:
            continue
        if exception := _exception(breach, settings.guard_exceptions):
            notes.append(f"{breach.policy} {breach.said}; allowed: {exception.reason}")
        else:
            override = f"--allow-guard {quote(f'{breach.guard}={breach.policy}')}"
            refusals.append(f"{breach.policy} {breach.said} (allow it with {override}, or in guard_exceptions)")
    return tuple(refusals), tuple(notes)


def _exception(breach: Breach, exceptions: tuple[GuardException, ...]) -> GuardException | None:
    found = (one for one in exceptions if one.guard == breach.guard and one.covers(breach.policy))
    return next(found, None)


def _breaches(
    judged: Sequence[Judgement], policies: Mapping[str, Document], guards: Guards, declared: DeclaredModels
) -> Iterator[Breach]:
    for one in judged if guards.active else ():
        through = f"(through {', '.join(one.through)}) " if one.through else ""
        for guard, said in _describe_case(one, policies, guards, declared):
            yield Breach(one.name, guard, through + said)


def _describe_case(
    one: Judgement, policies: Mapping[str, Document], guards: Guards, declared: DeclaredModels
) -> Iterator[tuple[Guard, str]]:
    """What each guard objects to in a policy."""
    try:
        case = _case(one, policies, declared)
    except NotKnown as error:
        yield from _not_judged(guards.active, str(error))
        return
    why = "it is not known what the live policy does" if case.effect is None else case.effect.unknown
    if one.updated and why:
        yield from _not_judged(tuple(guard for guard in guards.active if guard in _OF_UPDATES), why)
    for guard in guards.active:
        yield from ((guard, said) for said in _JUDGES[guard](case, guards))


def _case(one: Judgement, policies: Mapping[str, Document], declared: DeclaredModels) -> Case:
    """Raises NotKnown for a policy that cannot be followed, that leads to one, or to a model that is not known."""
    if one.name not in policies:
        raise NotKnown(KnownPolicies.of(policies).why_not(one.name) or "there is no such policy")
    after = analyse(policies[one.name], policies, declared)
    if after.tree.untold:
        raise NotKnown(after.tree.untold)
    if "" in after.tree.models:
        raise NotKnown("it has a target without a model, so each request decides which model that is")
    return Case(after, one.effect)


def _not_judged(guards: tuple[Guard, ...], why: str) -> Iterator[tuple[Guard, str]]:
    return ((guard, f"cannot be judged by {guard}: {why}") for guard in guards)


def _traffic_shift(case: Case, guards: Guards) -> Iterator[str]:
    limit = guards.max_traffic_shift
    if limit is not None and case.effect is not None and round(case.effect.traffic * 100, 9) > limit:
        moved = ", ".join(
            f"{short_model(one.name)} {_percent(one.before or 0)} → {_percent(one.after or 0)}" for one in case.effect.models
        )
        what = f"would have {_percent(case.effect.traffic)} of its requests served by another model"
        yield f"{what}, more than max_traffic_shift {limit:g}: {moved}"


def _calls(case: Case, guards: Guards) -> Iterator[str]:
    bound, limit = case.after.calls, guards.max_calls
    if limit is not None and bound.value > limit:
        *before, last = bound.legs
        route = ", then ".join([*(f"{_calls_of(leg)} ending with {leg.status}" for leg in before), _calls_of(last)])
        yield f"may make {bound.value:g} calls for one request, more than max_calls {limit}: {route}"


def _calls_of(leg: Leg) -> str:
    return f"{leg.calls} × {short_model(leg.model)}"


def _failover(case: Case, guards: Guards) -> Iterator[str]:
    bound, limit = case.after.failover, guards.max_failover_seconds
    if limit is not None and bound.value > limit:
        route = ", then ".join(f"{leg.seconds} s at {short_model(leg.model)} ending with {leg.status}" for leg in bound.legs)
        yield f"may wait {bound.value:,g} s before its last failover, more than max_failover_seconds {limit:g}: {route}"


def _survive(case: Case, guards: Guards) -> Iterator[str]:
    survive = guards.survive
    if survive is None:
        return
    failed = list(_lost(case.after.tree, survive.any, survive.down_with, 1.0, 0.0))
    if case.after.usual < 1:
        failed = [f"{_percent(case.after.usual)} with nothing down"]
    if failed:
        answers = ", ".join(map(answer_text, survive.down_with))
        yield f"serves {'; '.join(failed)}; survive asks for 100% while any one {survive.any} is down with {answers}"


def _min_served(case: Case, guards: Guards) -> Iterator[str]:
    asked = guards.min_served
    if asked is None:
        return
    for said in _lost(case.after.tree, asked.of, asked.answers, asked.share, 1 - asked.at_least):
        yield f"serves {said}; min_served asks for at least {_percent(asked.at_least)}"


def _lost(tree: Tree, part: Part, answers: tuple[Answer, ...], share: float, most: float) -> Iterator[str]:
    """`40% while openai is down with 429, 503`, for each part that may fail and each chance of losing more than `most`."""
    matrix = outages(tree, list(map(one_failure, answers)), share)
    rows = dict(matrix.models)
    if part == "provider":
        rows = {**matrix.providers, **{name: row for name, row in rows.items() if provider_of(name) is None}}
    for name, row in rows.items():
        alike: dict[float, list[Answer]] = {}
        for failure, lost in zip(answers, row, strict=True):
            if lost > most and not isclose(lost, most):
                alike.setdefault(lost, []).append(failure)
        for lost, failures in alike.items():
            how = describe_failures(failures)
            fails = f"is down with {how}" if share == 1 else f"fails {_percent(share)} of its calls with {how}"
            yield f"{_percent(served(lost))} while {short_model(name)} {fails}"


def _deny_new(case: Case, guards: Guards) -> Iterator[str]:
    part = guards.deny_new
    if part is None or case.effect is None:
        return
    added, removed = ({one.model for one in some} for some in (case.effect.added, case.effect.removed))
    known = {_part(model, part) for model in (case.after.reach.keys() - added) | removed}
    for name, how in _reached(case.after, part).items():
        if name not in known:
            yield f"would reach {how}, a new {part}, and deny_new is {part}"


def _allow_providers(case: Case, guards: Guards) -> Iterator[str]:
    allowed = guards.allow_providers or ()
    for name, how in _reached(case.after, "provider").items():
        if not _is_one_of(name, allowed):
            yield f"may reach {how}, which is not among allow_providers {', '.join(allowed)}"


def _deny_providers(case: Case, guards: Guards) -> Iterator[str]:
    denied = guards.deny_providers or ()
    for name, how in _reached(case.after, "provider").items():
        if _is_one_of(name, denied):
            yield f"may reach {how}, which is among deny_providers {', '.join(denied)}"


def _is_one_of(provider: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(provider, glob) for glob in globs)


def _reached(after: Analysis, part: Part) -> dict[str, str]:
    """The models or providers that requests may come to, each in words: `openai (gpt-4o, when gemini-2.0 answers 429)`."""
    names = short_names(after.tree.models)
    found: dict[str, str] = {}
    for model, condition in sorted(after.reach.items(), key=lambda pair: pair[1].least):
        name = _part(model, part)
        details = [names[model]] if name != model else []
        if when := condition.said(names):
            details.append(when)
        found.setdefault(name, short_model(name) + (f" ({', '.join(details)})" if details else ""))
    return found


def _part(model: str, part: Part) -> str:
    """A model's provider, or itself; one without a provider counts as its own, so that every list applies to it."""
    return (provider_of(model) or model) if part == "provider" else model


def _percent(share: float) -> str:
    return f"{share * 100:.6g}%"


_OF_UPDATES = frozenset({"max_traffic_shift", "deny_new"})
_JUDGES: dict[Guard, Callable[[Case, Guards], Iterator[str]]] = {
    "max_traffic_shift": _traffic_shift,
    "max_calls": _calls,
    "max_failover_seconds": _failover,
    "survive": _survive,
    "min_served": _min_served,
    "deny_new": _deny_new,
    "allow_providers": _allow_providers,
    "deny_providers": _deny_providers,
}
