"""The safety rules that a plan must pass. `plan` checks them already, so the pull request fails and not the merge.

Some are limits of policyctl.yaml on what a plan may do to traffic, the guards. A guard judges the policies that are added or
updated, and those of the directory that target one of these and do something else because of it. Each breach names the value,
the limit, and the route, the outage or the condition that attains the value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from math import isclose
from shlex import quote
from typing import TYPE_CHECKING, NamedTuple

from policyctl.effect.gateway import Answer, answer_text
from policyctl.effect.tree import NOTHING, DeclaredModels, KnownPolicies, Tree, redeclared
from policyctl.errors import NotKnown
from policyctl.plan.consumers import FoundConsumers
from policyctl.plan.diff import UnknownField, unknown_fields
from policyctl.plan.effects import (
    AffectedPolicy,
    Comparison,
    affected_by,
    effects_of,
    policies_around,
    restorations,
    traffic_of,
)
from policyctl.plan.plan import LiveState, Plan, live_state, renames, uses, why_secrets_are_lost
from policyctl.plan.references import circles, dangling, led_to, unfollowed, without_a_target
from policyctl.plan.settings import Guard, GuardException, Guards, Part, Settings
from policyctl.policy.document import Document
from policyctl.policy.live import LiveRows
from policyctl.policy.names import (
    KINDS,
    PLURALS,
    canonical,
    counted,
    kind_of,
    matches,
    provider_of,
    short_model,
    short_names,
)
from policyctl.policy.virtual_model import LiveModel

if TYPE_CHECKING:
    from policyctl.effect.analysis import Analysis, Effect
    from policyctl.effect.worst_case import Leg
    from policyctl.errors import Problem
    from policyctl.plan.approval import Terms
    from policyctl.plan.diff import FieldChange
    from policyctl.plan.drift import Drift


_SHOWN_ROWS = 10  # notes on rows that cannot be read; a tenant may have any number of them
MIN_FOR_PERCENT = 10  # with fewer live policies a percentage means little


class BranchChecks(NamedTuple):
    """What a plan shows about the branch that it was made from: it decides whether the plan may be approved, not what it is.

    `settings` are the safety settings that the branch changes in policyctl.yaml, which the plan does not follow yet, and
    `terms` how they and the way in were and will be, for a plan with a base. `warnings` are those of lint rules about the files
    of the changed policies. `failed_tests` are the scenario tests that fail, one sentence each, if they were run.
    """

    settings: tuple[FieldChange, ...] = ()
    terms: Terms | None = None
    warnings: tuple[Problem, ...] = ()
    failed_tests: tuple[str, ...] = ()


class Review(NamedTuple):
    """A plan checked against the safety rules: `refusals` and `stale` stop it, `notes` are worth knowing.

    `stale` is what changed on the remote since a saved plan was made. `branch` is what the branch shows besides.

    `live` are the names of all policies on the remote, in scope or not. `effects` are by name what the updates do to traffic,
    `affected` what the plan does to policies that stay. `policies` are all as they will be after the apply, `policies_before`
    as they are, in normal form and by name; `declared` are facts about models. Pages draw policies from these. `models_before`
    are the virtual models as they are, where they are compared.
    `used` are the policies that would be removed though another still targets them; `all_read` is whether the targets of every
    live policy are known. `guarded` is whether a guard is configured (None: guards do not apply to this plan).
    `left_alone` are notes on rows that cannot be read, apart as others may add any number of them.
    `restored` are the names of changes back to what the base revision has. `extras` are fields that the format does not know,
    by policy: of the live policies that the plan is about, and of all that a changed or affected one leads to. `unchecked` is
    what could not be checked. `models` is whether virtual models are among what was compared, `awaited` are the added ones that
    a live policy already targets. `consumers`
    are those of what is changed or affected (None: not read). `offline` is why no rule was asked: a saved plan is only shown,
    and the remote was not looked at. `drifts` are by name who moved what is changed, where that
    was looked for; it decides nothing.
    """

    plan: Plan
    refusals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    left_alone: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    branch: BranchChecks = BranchChecks()
    live: frozenset[str] = frozenset()
    effects: Mapping[str, Effect] = {}
    affected: tuple[AffectedPolicy, ...] = ()
    policies: Mapping[str, Document] = {}
    policies_before: Mapping[str, Document] = {}
    models_before: Mapping[str, LiveModel] = {}
    declared: DeclaredModels = NOTHING
    guarded: bool | None = None
    used: frozenset[str] = frozenset()
    all_read: bool = True
    restored: frozenset[str] = frozenset()
    extras: Mapping[str, tuple[UnknownField, ...]] = {}
    unchecked: str | None = None
    models: bool = False
    awaited: frozenset[str] = frozenset()
    consumers: FoundConsumers | None = None
    offline: str | None = None
    drifts: Mapping[str, Drift] = {}

    @property
    def unchanged(self) -> int:
        """How many live policies match the files and keep their behaviour."""
        return self.plan.counts.unchanged - sum(one.name in self.plan.kept for one in self.affected)


def review(
    plan: Plan,
    observed: LiveRows,
    settings: Settings,
    declared: DeclaredModels = NOTHING,
    reviewed: Mapping[str, Document] | None = None,
    compared: Collection[str] = (),
    written: Collection[str] = (),
) -> Review:
    """Check a plan against the rules. Each refusal is one sentence with the value, the limit and the override.

    `declared` are the models' types and timeouts, which affect traffic. `reviewed` are the policies of the base
    revision: the way back to one of them is a restoration. `compared` are the policies that the plan is about besides those
    that it changes and those that the remote has as they are written, which are `written`, as far as that is known.
    """
    (before, after), used = policies_around(plan, observed), list(_still_targeted(plan, observed))
    comparing = Comparison(before, after, declared, settings.partial, observed.live, written)
    effects, affected = found = _compared(plan, observed, comparing, settings)
    plan = plan._replace(traffic=traffic_of(plan, comparing, effects, affected))
    moved = [*(change.name for change in plan.policies), *(one.name for one in affected)]
    restored = restorations(moved, after, reviewed or {})
    guarded, allowed = _guarded(plan, observed, comparing, settings, found, restored)
    below = (led_to(_leading(plan, affected), known) for known in (before, after))
    beside = _unknown_field_notes(plan, observed, frozenset(compared).union(moved, *below))
    return Review(
        plan,
        (*_refusals(plan, observed, settings, used, after), *guarded),
        (*redeclared(declared, before, after), *_notes(plan, after), *allowed),
        tuple(_unreadable(plan, observed)),
        live=frozenset((*observed.live, *(twins.name for twins in observed.twins))),
        effects=effects,
        affected=affected,
        policies=after,
        policies_before=before,
        models_before=observed.models,
        declared=declared,
        guarded=bool(settings.guards.active),
        used=frozenset(name for name, _ in used),
        all_read=observed.all_read,
        restored=restored & {change.name for change in plan.changes},
        extras=beside,
        models=bool(observed.models) or plan.has_models,
        awaited=_awaited(plan, observed),
    )


def _leading(plan: Plan, affected: Iterable[AffectedPolicy]) -> set[str]:
    """The policies whose traffic moves and that lead to others: of a change that is seen without its normal form."""
    return {change.name for change in plan.policies if change.needs or change.frees}.union(one.name for one in affected)


def _awaited(plan: Plan, observed: LiveRows) -> frozenset[str]:
    """The models that a plan adds and that a live policy already targets."""
    added = frozenset(change.name for change in plan.changes if change.kind == "model" and change.action == "add")
    return added & frozenset[str]().union(*(uses(row.document) for row in observed.policies.values())) if added else added


def _notes(plan: Plan, after: KnownPolicies) -> Iterator[str]:
    yield from renames(plan)
    yield from dangling(plan, after)
    yield from unfollowed(plan, after)
    for change in plan.changes:
        tags = change.before.get("tags") if change.kind == "model" and change.action == "remove" and change.before else None
        if isinstance(tags, list) and "default" in tags:  # a live row may have anything for them
            yield f"{change.name} is removed, which has the tag default: the platform chooses another model for new agents"


def _refusals(
    plan: Plan, observed: LiveRows, settings: Settings, used: Iterable[tuple[str, str]], after: KnownPolicies
) -> Iterator[str]:
    """What the rules refuse besides the guards; `used` are removed policies, each with one that still targets it."""
    # A saved plan may be half applied: what is done counts no more, neither as a change nor as live.
    pending = tuple(c for c in plan.changes if live_state(c, observed.live.get(c.name)) is not LiveState.ALREADY)
    left = plan._replace(changes=pending)
    yield from _protected(plan, settings)
    yield from _too_many_removes(left, settings)
    yield from _too_much_change(left, observed, settings)
    yield from _emptied(left, observed, settings)
    for name, user in used:
        yield f"{name} would be removed, but {user} still targets it (change or remove that one too)"
    yield from without_a_target(plan, after)
    yield from circles(plan, after)
    yield from _lose_secrets(plan, observed)


def _unknown_field_notes(plan: Plan, observed: LiveRows, compared: Collection[str]) -> dict[str, tuple[UnknownField, ...]]:
    """Of the live policies that a plan is about those with fields that the format does not know, by name."""
    after = {change.name: change.after for change in plan.changes}
    live = observed.policies
    names = [name for name in compared if name in live and after.get(name, {}) is not None]
    found = {name: unknown_fields(live[name].document, after.get(name)) for name in names}
    return {name: fields for name, fields in found.items() if fields}


def _is_bound(name: str, plan: Plan, settings: Settings) -> bool:
    """Whether a live policy that the plan leaves alone is the directory's own.

    If policies without a file are removed, everything in scope is, whatever a saved plan contains.
    """
    return name in plan.kept | plan.unselected or (settings.prune and settings.scope is not None and settings.in_scope(name))


def _unreadable(plan: Plan, observed: LiveRows) -> Iterator[str]:
    blocking = {block.name for block in plan.blocked}
    others = [row for row in observed.unreadable if row.name not in blocking]
    for row in others[:_SHOWN_ROWS]:
        rows = "a row of the remote is" if row.count == 1 else f"{row.count:,} rows of the remote are"
        yield f"{rows} left alone: {row.reason} ({row.which})"
    if more := sum(row.count for row in others[_SHOWN_ROWS:]):
        yield f"{more:,} more rows of the remote are left alone; policyctl policy list shows them"


def _lose_secrets(plan: Plan, observed: LiveRows) -> Iterator[str]:
    """Updates of models whose own secrets the remote only shows a mask of."""
    for change in plan.changes:
        live, after = observed.models.get(change.name), change.after
        if live and after and change.action == "update" and (why := why_secrets_are_lost(live, after)):
            yield why


def _protected(plan: Plan, settings: Settings) -> Iterator[str]:
    allowed = set(map(canonical, settings.allow_remove))
    for change in plan.changes:
        if change.action == "remove" and change.name not in allowed and matches(change.name, settings.protect):
            yield f"{change.name} is protected and would be removed (allow it with --allow-remove {quote(change.name)})"


def _too_many_removes(plan: Plan, settings: Settings) -> Iterator[str]:
    removed, limit = [change.kind for change in plan.changes if change.action == "remove"], settings.limits.max_removes
    if (removes := len(removed)) > limit:
        yield f"{counted(removed)} would be removed, more than max_removes {limit} (allow it with --max-removes {removes})"


def _too_much_change(plan: Plan, observed: LiveRows, settings: Settings) -> Iterator[str]:
    live, limit = plan.counts.managed, settings.limits.max_change_percent
    changed, what = plan.count("update") + plan.count("remove"), "policies and models" if observed.models else "policies"
    if live >= MIN_FOR_PERCENT and changed * 100 > limit * live:
        percent = changed * 100 / live
        yield (
            f"{changed} of {live} live {what} would change, {percent:.2f}% and more than max_change_percent {limit:g} "
            f"(allow it with --max-change-percent {-(-changed * 100 // live)})"
        )


def _emptied(plan: Plan, observed: LiveRows, settings: Settings) -> Iterator[str]:
    """Plans that leave nothing of a kind: of policies, or of models where these are managed. A plan over one name counts
    nothing: it may remove the last one."""
    for kind in KINDS if plan.counts.managed else ():
        actions = Counter(change.action for change in plan.changes if change.kind == kind)
        live = sum(kind_of(name) == kind and settings.in_scope(name) for name in observed.live)
        removes = actions["remove"]
        if removes and removes == live and not actions["add"]:
            what = f"all {removes} live {PLURALS[kind]}" if removes > 1 else f"the only live {kind}"
            yield f"{what} in scope would be removed; policyctl never empties a scope"


def _still_targeted(plan: Plan, observed: LiveRows) -> Iterator[tuple[str, str]]:
    """Removed policies and models that one that stays still targets, in scope or not, and the name of that one."""
    removed = {change.name for change in plan.changes if change.action == "remove"}
    if not removed:
        return
    changed = {change.name for change in plan.changes}
    kept = [(name, uses(row.document)) for name, row in observed.live.items() if name not in changed]
    kept += [(change.name, change.comes_after) for change in plan.changes]
    kept += [(name or "a row without a name", targets) for name, targets in observed.untouched()]
    for user, targets in sorted(kept, key=lambda one: one[0]):
        for name in sorted(targets & removed):
            yield name, user


class Breach(NamedTuple):
    """A policy that a guard does not allow, and why."""

    policy: str
    guard: Guard
    said: str


class Case(NamedTuple):
    """What a guard judges: the analysis after the change, and for an update its effect (None for an add)."""

    after: Analysis
    effect: Effect | None


class Judgement(NamedTuple):
    """A policy that guards apply to. `updated`: it exists on the remote; `effect` is what changes, where that is known."""

    name: str
    updated: bool
    effect: Effect | None
    through: tuple[str, ...] = ()


class _Compared(NamedTuple):
    """The effects of a plan's updates, and the policies that it leaves alone and whose traffic it changes."""

    effects: dict[str, Effect]
    affected: tuple[AffectedPolicy, ...]


def _compared(plan: Plan, observed: LiveRows, comparing: Comparison, settings: Settings) -> _Compared:
    effects = effects_of(plan, observed, comparing)
    return _Compared(effects, affected_by(plan, observed, comparing, effects, lambda name: _is_bound(name, plan, settings)))


def _guarded(
    plan: Plan, observed: LiveRows, comparing: Comparison, settings: Settings, shown: _Compared, restored: frozenset[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the guards refuse, and what they accept by an exception; see `by_traffic`.

    Nothing shows that what files declare of models that are not managed is so: it counts as it was before a branch, and types
    only where they make a guard stricter.
    """
    declared, after = comparing.declared, comparing.after
    if settings.models or not settings.guards.active or not any(declared.facts):
        return by_traffic(plan, after, settings, *shown, restored, declared)
    then = declared.then
    differ = len(set(map(then.requests, then.types))) > 1  # else types change nothing
    judged = []
    for one in (then, DeclaredModels(then.timeouts)) if differ else (then,):
        same = one.facts == declared.facts
        compared = shown if same else _compared(plan, observed, comparing.declaring(one), settings)
        judged.append(by_traffic(plan, after, settings, *compared, restored, one))
    refused, accepted = (dict.fromkeys(line for lines in some for line in lines) for some in zip(*judged, strict=True))
    return tuple(refused), tuple(accepted)


def by_traffic(
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
    if not settings.guards.active or not plan.changes:
        return (), ()
    refusals: list[str] = []
    notes: list[str] = []
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
        raise NotKnown(KnownPolicies.of(policies).why_not(one.name) or "the policy does not exist")
    from policyctl.effect.analysis import analyse  # imports the effect engine

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
    from policyctl.effect.outages import describe_failures, one_failure, outages, served  # as above

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
