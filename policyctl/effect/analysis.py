"""The analysis of one policy, and the effect of a change: what differs between two analyses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import fsum, isclose
from typing import Literal, NamedTuple

from policyctl.effect.equivalence import (
    Kind,
    PoliciesBelow,
    caches_of,
    canonical_form,
    covers,
    kind_of,
    policies_below,
    same_policies,
    same_policy,
    without_shares,
)
from policyctl.effect.evaluate import exact_shares, provider_shares, rounded
from policyctl.effect.gateway import Answer
from policyctl.effect.outages import (
    FailureClass,
    Losses,
    Part,
    Together,
    classes_of,
    losses,
    merged,
    parts_of,
    served,
    worse_together,
)
from policyctl.effect.tree import NOTHING, DeclaredModels, Tree, Unfit, tree_if_known, unfit_models
from policyctl.effect.worst_case import Bound, Condition, Routes, max_calls, max_failover, max_latency, max_waits, reach
from policyctl.errors import NotKnown
from policyctl.policy.document import Document
from policyctl.policy.names import short_names


@dataclass(frozen=True)  # without slots: cached_property needs a __dict__
class Analysis:
    """What a policy does to traffic. Shares and chances are from 0 to 1.

    Outages are not included: which failures are distinguished depends on what the policy is compared with (see `outages`).
    """

    tree: Tree
    models: Mapping[str, float]
    exact: Mapping[str, float] = field(repr=False, compare=False)  # the models' shares before rounding, for sums
    providers: Mapping[str, float]
    calls: Bound
    failover: Bound
    latency: Bound | None
    routes: Routes = field(repr=False, compare=False)

    @cached_property
    def reach(self) -> Mapping[str, Condition]:
        """The models that a request can reach, each with what must fail first."""
        return reach(self.routes)

    @cached_property
    def waits(self) -> Bound:
        """The most back-off of a request."""
        return max_waits(self.routes)

    @property
    def usual(self) -> float:
        """The chance that a request is served when nothing fails; policies that cannot be followed count as not serving."""
        return rounded(fsum([share for name, share in self.exact.items() if name not in self.tree.unfollowed]))


def analyse(document: Document, policies: Mapping[str, Document] | None = None, declared: DeclaredModels = NOTHING) -> Analysis:
    """Analyse a policy document; the arguments are those of `read_tree`. Raises NotKnown as `tree_if_known` does."""
    tree = tree_if_known(document, policies, declared)
    routes = Routes(tree)
    shares = exact_shares(tree)
    return Analysis(
        tree=tree,
        models={model: rounded(share) for model, share in shares.items()},
        exact=shares,
        providers=provider_shares(shares),
        calls=max_calls(routes),
        failover=max_failover(routes),
        latency=max_latency(routes, declared.timeouts) if declared.timeouts else None,
        routes=routes,
    )


_NOTICED = 1e-9  # shares that differ by less are equal
_NOTHING = 1e-300  # chances below this are a rounding of 0


class Delta(NamedTuple):
    """A value that changed. None means "not known" or "no such policy"."""

    name: str
    before: float | None
    after: float | None


class Cell(NamedTuple):
    """The chance of being served while a model or a provider (`kind`) fails in one of these ways, before and after.

    `share` is the share of its calls that fail: 1 in an outage, less in a partial failure.
    """

    kind: Literal["model", "provider"]
    name: str
    failures: frozenset[Answer]
    before: float
    after: float
    share: float = 1.0

    @property
    def size(self) -> float:
        """The share of requests that are lost, or no longer lost."""
        return abs(self.before - self.after)


class Reached(NamedTuple):
    """A model, and in words what must fail before it is called; empty when nothing must."""

    model: str
    when: str


@dataclass(frozen=True, slots=True)
class Effect:
    """What changed between two versions of a policy; the rest is the same. Shares are from 0 to 1, waits in seconds.

    `usual` is the chance of being served when nothing fails; `traffic` the share of all requests that another model serves, or
    none. `worse` and `better` are outages and partial failures of one model or provider; `together` is a case of several
    failures at once that gets worse where no single failure does. `shift` is true when only weights changed and every cell is
    proven to follow from them: a loss is at most what the model or provider gained, a gain at most what it lost. `calls`,
    `waits` (all back-off, where a `Retry-After` is obeyed), `failover` (the back-off before the last target) and `latency` are
    the worst case of one request. `refused` and `was_refused` are the reasons why the gateway starts or stops refusing the
    policy; `unfit` are models that never serve because of their type, and did before or are new. `sure` means it is proven that
    no request that was served is lost; never so where live policies have unknown fields (`uncounted`). `unknown` is why one of
    the versions cannot be evaluated; the rest is then empty. `of_model`: of a virtual model's update; `brief` is set where that
    may send requests or credentials to another host, and is what a headline shows of `unknown`.
    """

    kind: Kind
    models: tuple[Delta, ...] = ()
    providers: tuple[Delta, ...] = ()
    usual: Delta | None = None
    traffic: float = 0.0
    shift: bool = False
    worse: tuple[Cell, ...] = ()
    better: tuple[Cell, ...] = ()
    together: Together | None = None
    calls: Delta | None = None
    waits: Delta | None = None
    failover: Delta | None = None
    latency: Delta | None = None
    added: tuple[Reached, ...] = ()
    removed: tuple[Reached, ...] = ()
    was_refused: str | None = None
    refused: str | None = None
    unfit: tuple[Unfit, ...] = ()
    sure: bool = False
    uncounted: bool = False
    unknown: str | None = None
    of_model: bool = False
    brief: str | None = None


def compare(
    before: Document | None,
    after: Document | None,
    policies_before: Mapping[str, Document] | None = None,
    policies_after: Mapping[str, Document] | None = None,
    declared: DeclaredModels = NOTHING,
    partial: float = 0.1,
    *,
    deep: bool = True,
) -> Effect:
    """The effect of a change from `before` to `after`, documents without nulls (see `normal_form`); None: no such policy.

    Each version is read with its own set of policies, by canonical name, because a policy also changes when one that it targets
    does. `declared` are the models' declared types and timeouts. `partial` is the share of calls that fail in a partial
    failure. Without `deep`, combinations of failures are not searched. If a version cannot be evaluated, the effect is only
    `unknown`, with the reason.
    """
    try:
        return _compared(before, after, (policies_before, policies_after), declared, partial, deep)
    except NotKnown as error:
        if before is None or after is None or not same_policy(before, after):
            return Effect("unknown", unknown=str(error))
        stays = same_policies(*_sides_below(before, after, (policies_before, policies_after)))
        return Effect("metadata", sure=True) if stays else Effect("unknown", unknown=str(error))


_Policies = tuple[Mapping[str, Document] | None, Mapping[str, Document] | None]  # before and after


def _compared(
    before: Document | None,
    after: Document | None,
    policies: _Policies,
    declared: DeclaredModels,
    partial: float,
    deep: bool,
) -> Effect:
    if before is None or after is None:
        old = None if before is None else analyse(before, policies[0], declared.then)
        new = None if after is None else analyse(after, policies[1], declared)
        return compare_analyses(old, new, partial)
    if before.get("policy") == after.get("policy") and same_policies(*_sides_below(before, after, policies)):
        return Effect("metadata", sure=True)
    then, now = analyse(before, policies[0], declared.then), analyse(after, policies[1], declared)
    below = _sides_below(before, after, policies)  # not of what is too deep to be read
    effect = compare_analyses(then, now, partial)
    kind = _kind(before, after, then.tree, now.tree, below) if effect == Effect("effective") else "effective"
    if kind != "effective":
        return Effect(kind, sure=True)
    if why := then.tree.untold or now.tree.untold:
        raise NotKnown(why)
    same_caches = caches_of(before, below[0]) == caches_of(after, below[1])
    return _whole(effect, then.tree, now.tree, partial, same_caches=same_caches, deep=deep)


def _kind(before: Document, after: Document, old: Tree, new: Tree, below: tuple[PoliciesBelow, PoliciesBelow]) -> Kind:
    """The kind of a change for which the analyses are equal: the canonical forms decide whether behaviour can differ."""
    kind = kind_of(before, after, old, new)
    if kind == "effective" or same_policies(*below):
        return kind
    return "equivalent" if caches_of(before, below[0]) == caches_of(after, below[1]) else "effective"


def _whole(effect: Effect, old: Tree, new: Tree, partial: float, *, same_caches: bool, deep: bool) -> Effect:
    """Add what only the canonical forms show. A cache answers without any call, so a changed cache leaves nothing proven."""
    if effect.worse:
        return replace(effect, shift=same_caches and _is_shift(effect, old, new))
    if covers(canonical_form(new), canonical_form(old)):
        return replace(effect, sure=same_caches)
    return replace(effect, together=worse_together(old, new, partial)) if deep else effect


def _is_shift(effect: Effect, old: Tree, new: Tree) -> bool:
    """Whether only weights changed, and all that failures cost follows from the shares (see `Effect.shift`)."""
    if effect.usual or not effect.models or len(old.leaves) != len(new.leaves) or {*old.models} != {*new.models}:
        return False
    gained = {
        (kind, one.name): (one.after or 0.0) - (one.before or 0.0)
        for kind, moved in (("model", effect.models), ("provider", effect.providers))
        for one in moved
    }
    for cell in (*effect.worse, *effect.better):
        lost, gain = cell.before - cell.after, gained.get((cell.kind, cell.name), 0.0)
        if lost * gain < 0 or cell.size > abs(gain) * cell.share + _NOTICED:
            return False
    return without_shares(canonical_form(old)) == without_shares(canonical_form(new))


def _sides_below(before: Document, after: Document, policies: _Policies) -> tuple[PoliciesBelow, PoliciesBelow]:
    return policies_below(before, policies[0] or {}), policies_below(after, policies[1] or {})


def compare_analyses(old: Analysis | None, new: Analysis | None, partial: float = 0.1) -> Effect:
    """What differs between two analyses, assuming that the change is effective."""
    cells = list(_cells(old.tree, new.tree, partial)) if old and new else []
    return Effect(
        kind="effective",
        models=_moved(old.models if old else {}, new.models if new else {}),
        providers=_moved(old.providers if old else {}, new.providers if new else {}),
        usual=_delta("usual", old, new, lambda one: one.usual) if old and new else None,
        traffic=_traffic(old.exact, new.exact) if old and new else 1.0,
        worse=tuple(cell for worse, cell in cells if worse),
        better=tuple(cell for worse, cell in cells if not worse),
        calls=_delta("calls", old, new, lambda one: one.calls.value),
        waits=_delta("waits", old, new, lambda one: one.waits.value) if _obeys(old) or _obeys(new) else None,
        failover=_delta("failover", old, new, lambda one: one.failover.value),
        latency=_delta("latency", old, new, lambda one: one.latency.value if one.latency else None),
        added=_only_in(new, old),
        removed=_only_in(old, new),
        was_refused=_refused_only(old, new),
        refused=_refused_only(new, old),
        unfit=_unfit_only(new, old),
    )


def _moved(old: Mapping[str, float], new: Mapping[str, float]) -> tuple[Delta, ...]:
    """Shares that changed, in the order written; a missing name has share 0."""
    names = dict.fromkeys([*new, *old])
    pairs = [Delta(name, old.get(name, 0.0), new.get(name, 0.0)) for name in names]
    return tuple(one for one in pairs if abs((one.before or 0) - (one.after or 0)) > _NOTICED)


def _traffic(old: Mapping[str, float], new: Mapping[str, float]) -> float:
    """The share of requests that another model serves, or none: half of the sum of all differences."""
    moved = [abs(new.get(name, 0.0) - old.get(name, 0.0)) for name in {*old, *new}]
    return min(1.0, rounded((fsum(moved) + abs(fsum(new.values()) - fsum(old.values()))) / 2))


def _cells(old: Tree, new: Tree, partial: float) -> Iterator[tuple[bool, Cell]]:
    """Every outage and partial failure in which the two versions lose different shares, and whether it gets worse."""
    parts = parts_of([new, old])
    for share in (1.0, partial):
        moved: dict[Part, dict[tuple[float, float], list[FailureClass]]] = {part: {} for part in parts}
        for failures, before, after in _columns(old, new, parts, share):
            for part in before.keys() | after.keys():
                was, now = before.get(part, 0.0), after.get(part, 0.0)
                if was != now and abs(was - now) > max(was, now) * _NOTICED + _NOTHING:
                    moved[part].setdefault((was, now), []).append(failures)
        for (kind, name), alike in moved.items():
            for (was, now), classes in alike.items():
                yield now > was, Cell(kind, name, merged(classes).answers, served(was), served(now), share)


def _columns(old: Tree, new: Tree, parts: Sequence[Part], share: float) -> Iterator[tuple[FailureClass, Losses, Losses]]:
    """The classes of failures that the two versions distinguish, with the losses of each version."""
    classes = classes_of([old, new], partial=share < 1)
    before, after = (losses(tree, parts, classes, share) for tree in (old, new))
    together: dict[tuple[int, int], list[int]] = {}
    for place, column in enumerate(zip(map(id, before), map(id, after), strict=True)):
        together.setdefault(column, []).append(place)
    for places in together.values():
        yield merged([classes[place] for place in places]), before[places[0]], after[places[0]]


def _delta(name: str, old: Analysis | None, new: Analysis | None, value_of: Callable[[Analysis], float | None]) -> Delta | None:
    before, after = (None if one is None else value_of(one) for one in (old, new))
    if before is not None and after is not None and isclose(before, after):
        return None
    return None if before is after is None else Delta(name, before, after)


def _obeys(one: Analysis | None) -> bool:
    """Whether any retry obeys a `Retry-After`. Otherwise the waits follow from the attempts, which the calls show."""
    return one is not None and any(retry.obeys for retry in one.tree.retries)


def _refused_only(one: Analysis | None, other: Analysis | None) -> str | None:
    """Why the gateway refuses one version, if it does not also refuse the other."""
    return one.tree.refused if one and not (other and other.tree.refused) else None


def _unfit_only(new: Analysis | None, old: Analysis | None) -> tuple[Unfit, ...]:
    """The models that never serve because of their type in the new version only."""
    known = old.tree.unfit if old else {}
    return tuple(one for one in unfit_models(new.tree) if one.model not in known) if new else ()


def _only_in(one: Analysis | None, other: Analysis | None) -> tuple[Reached, ...]:
    """The models that requests can reach in one version only."""
    if one is None:
        return ()
    known = {leaf.model for leaf in other.routes.reached} if other else set()
    only = dict.fromkeys([leaf.model for leaf in one.routes.reached if leaf.model not in known])
    names = short_names([*one.tree.models, *(other.tree.models if other else ())]) if only else {}
    return tuple(Reached(model, one.reach[model].said(names)) for model in only)
