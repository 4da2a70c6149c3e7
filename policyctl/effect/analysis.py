"""Everything the engine finds out about one policy, and what a change moves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import fsum, isclose
from typing import Any, Literal, NamedTuple

from policyctl.effect.context import NOTHING, DeclaredModels
from policyctl.effect.equivalence import Kind, cache_of, canonical_form, covers, kind_of, same_policy, without_shares
from policyctl.effect.evaluate import exact_shares, provider_shares, rounded
from policyctl.effect.failures import FailureClass, classes_of
from policyctl.effect.gateway import Answer
from policyctl.effect.outages import Losses, Part, Together, losses, merged, parts_of, served, worse_together
from policyctl.effect.routes import Routes
from policyctl.effect.tree import Tree, tree_if_known
from policyctl.effect.worst_case import Bound, Condition, max_calls, max_failover, max_latency, max_waits, reach
from policyctl.errors import NotKnown
from policyctl.policy.document import Document, normal_form, references
from policyctl.policy.names import short_names


@dataclass(frozen=True)  # without slots, so that what few need is worked out when it is asked for, and once
class Analysis:
    """What a policy does. Shares and chances are from 0 to 1.

    What outages do is not in it: which failures are told apart depends on what the policy is compared with (see `outages`).
    """

    tree: Tree
    models: Mapping[str, float]
    exact: Mapping[str, float] = field(repr=False, compare=False)  # the shares of models before rounding, to be summed
    providers: Mapping[str, float]
    calls: Bound
    failover: Bound
    latency: Bound | None
    routes: Routes = field(repr=False, compare=False)

    @cached_property
    def reach(self) -> Mapping[str, Condition]:
        """The models that a request can come to, each with what must fail before."""
        return reach(self.routes)

    @cached_property
    def waits(self) -> Bound:
        """The most back-off of a request."""
        return max_waits(self.routes)

    @property
    def usual(self) -> float:
        """The chance that a request is served when nothing fails, as far as that is known."""
        return rounded(fsum([share for name, share in self.exact.items() if name not in self.tree.unfollowed]))


def analyse(
    document: Document,
    policies: Mapping[str, Document] | None = None,
    declared: DeclaredModels = NOTHING,
) -> Analysis:
    """The picture of a policy document (see `read_tree`), with what is declared of models."""
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


_NOTICED = 1e-9  # shares that differ by less are the same
_NOTHING = 1e-300  # so are chances of losing a request that are nothing but the rounding of 0


class Delta(NamedTuple):
    """A value that moved. None is "not known" or "there is no policy"."""

    name: str
    before: float | None
    after: float | None


class Cell(NamedTuple):
    """The chance of being served while a model or a provider (`kind`) fails in one of these ways, before and after.

    `share` is the part of its calls that fail: 1 in an outage, less in a partial failure.
    """

    kind: Literal["model", "provider"]
    name: str
    failures: frozenset[Answer]
    before: float
    after: float
    share: float = 1.0

    @property
    def size(self) -> float:
        """The part of the requests that are lost, or no longer lost."""
        return abs(self.before - self.after)


class Unfit(NamedTuple):
    """A model that never serves: its type, and the kind of requests that the policy takes."""

    model: str
    type: str
    takes: str


def unfit_models(tree: Tree) -> tuple[Unfit, ...]:
    """The models of a policy that never serve because of their type."""
    return tuple(Unfit(model, own, tree.takes or "") for model, own in tree.unfit.items())


class Reached(NamedTuple):
    """A model, and in words what must fail before it is asked; empty when nothing needs to."""

    model: str
    when: str


@dataclass(frozen=True, slots=True)
class Effect:
    """What moved between two versions of a policy; everything else stayed.

    `usual` is the chance of being served when nothing fails; `traffic` the part of all requests that another model serves, or
    none. `shift` is whether only weights moved, and it is proven of each cell that it follows from them: what is worse is by no
    more than what the model or provider gained, what is better by no more than what it lost. `worse` and `better` are outages
    and partial failures of one model or provider, `together` a case of several failures at once that gets worse where none of
    those does. `calls`, `waits` (all back-off, where a `Retry-After` is obeyed), `failover` (the back-off before the last
    target) and `latency`, in seconds, are the worst case of one request. `refused` and `was_refused` are why the gateway
    begins or ceases to refuse the policy; `unfit` are the models that never serve because of their type, and did before or
    were not there. `sure` is whether it is proven that no request that was served is lost; it never is where fields are
    `uncounted`: those of live policies that the format does not know (see `core.extra`). `unknown` is why it cannot be
    told what one of the two does; then there is nothing else.
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
    """What a change does. None is "there is no such policy"; nulls inside must already mean absent (see `normal_form`).

    Each version is read with the policies of its own time, by canonical name: a policy whose own document stays does
    something else when one that it targets does. `declared` are facts about models, of either time. `partial` is the share of
    calls that fail in a partial failure; without `deep` no failures at once are looked for. Of a policy of which it cannot be
    told what it does, the effect is that alone.
    """
    try:
        return _compared(before, after, (policies_before, policies_after), declared, partial, deep)
    except NotKnown as error:
        if before is None or after is None or not same_policy(before, after):
            return Effect("unknown", unknown=str(error))
        stays = _alike(*_sides_below(before, after, (policies_before, policies_after)))
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
        old, new = _analysis(before, policies[0], declared.then), _analysis(after, policies[1], declared)
        return compare_analyses(old, new, partial)
    if before.get("policy") == after.get("policy") and _alike(*_sides_below(before, after, policies)):
        return Effect("metadata", sure=True)
    then, now = analyse(before, policies[0], declared.then), analyse(after, policies[1], declared)
    below = _sides_below(before, after, policies)  # not of what is too deep to be read
    effect = compare_analyses(then, now, partial)
    kind = _kind(before, after, then.tree, now.tree, below) if effect == Effect("effective") else "effective"
    if kind != "effective":
        return Effect(kind, sure=True)
    if why := then.tree.untold or now.tree.untold:
        raise NotKnown(why)
    same_caches = cache_of(before.get("policy")) == cache_of(after.get("policy")) and _caches(below[0]) == _caches(below[1])
    return _whole(effect, then.tree, now.tree, partial, same_caches=same_caches, deep=deep)


def _kind(before: Document, after: Document, old: Tree, new: Tree, below: tuple[_Below, _Below]) -> Kind:
    """Where something moved, the canonical forms cannot be equal; where nothing did, they decide whether nothing can."""
    kind = kind_of(before, after, old, new)
    if kind == "effective" or _alike(*below):
        return kind
    return "equivalent" if _caches(below[0]) == _caches(below[1]) else "effective"


def _whole(effect: Effect, old: Tree, new: Tree, partial: float, *, same_caches: bool, deep: bool) -> Effect:
    """The effect with what only the whole forms show. A cache answers without any call, so that nothing is proven of it."""
    if effect.worse:
        return replace(effect, shift=same_caches and _is_shift(effect, old, new))
    if covers(canonical_form(new), canonical_form(old)):
        return replace(effect, sure=same_caches)
    return replace(effect, together=worse_together(old, new, partial)) if deep else effect


def _is_shift(effect: Effect, old: Tree, new: Tree) -> bool:
    """Whether weights alone moved, and what an outage or a partial failure costs follows from the shares (see `Effect`)."""
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


def _analysis(document: Document | None, policies: Mapping[str, Document] | None, declared: DeclaredModels) -> Analysis | None:
    return None if document is None else analyse(document, policies, declared)


_Below = Mapping[str, Document | None]  # every policy that targets lead to, by canonical name; None: not known


def _sides_below(before: Document, after: Document, policies: _Policies) -> tuple[_Below, _Below]:
    return _below(before, policies[0] or {}), _below(after, policies[1] or {})


def _below(document: Document, policies: Mapping[str, Document]) -> _Below:
    """The policies that a document's targets lead to, however deep."""
    found: dict[str, Document | None] = {}
    pending = [document]
    while pending:
        for name in references(pending.pop()) - found.keys():
            found[name] = below = policies.get(name)
            if below is not None:
                pending.append(below)
    return found


def _alike(old: _Below, new: _Below) -> bool:
    """Whether these are the same policies, and say the same."""
    return old.keys() == new.keys() and all(_same_body(old[name], new[name]) for name in old)


def _same_body(one: Document | None, other: Document | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(one.get("policy") == other.get("policy") or normal_form(one)["policy"] == normal_form(other)["policy"])


def _caches(below: _Below) -> dict[str, Any]:
    """The caches of policies; one answers requests without any call, so that it is no part of a picture."""
    bodies = {name: (document or {}).get("policy") for name, document in below.items()}
    return {name: body["cache"] for name, body in bodies.items() if isinstance(body, dict) and "cache" in body}


def compare_analyses(old: Analysis | None, new: Analysis | None, partial: float = 0.1) -> Effect:
    """What moved between two pictures, taking it that the change is effective."""
    cells = list(_cells(old.tree, new.tree, partial)) if old and new else []
    models = _moved(old.models if old else {}, new.models if new else {})
    return Effect(
        kind="effective",
        models=models,
        providers=_moved(old.providers if old else {}, new.providers if new else {}),
        usual=_bound("usual", old.usual, new.usual) if old and new else None,
        traffic=_traffic(old.exact, new.exact) if old and new else 1.0,
        worse=tuple(cell for worse, cell in cells if worse),
        better=tuple(cell for worse, cell in cells if not worse),
        calls=_bound("calls", old.calls.value if old else None, new.calls.value if new else None),
        waits=_waits(old, new),
        failover=_bound("failover", old.failover.value if old else None, new.failover.value if new else None),
        latency=_bound("latency", _latency(old), _latency(new)),
        added=_only_in(new, old),
        removed=_only_in(old, new),
        was_refused=_refused_only(old, new),
        refused=_refused_only(new, old),
        unfit=_unfit_only(new, old),
    )


def _moved(old: Mapping[str, float], new: Mapping[str, float]) -> tuple[Delta, ...]:
    """Shares that moved, in the order written; what is not there has none."""
    names = dict.fromkeys([*new, *old])
    pairs = [Delta(name, old.get(name, 0.0), new.get(name, 0.0)) for name in names]
    return tuple(one for one in pairs if _differ(one.before or 0, one.after or 0))


def _traffic(old: Mapping[str, float], new: Mapping[str, float]) -> float:
    """The part of all requests that another model serves, or none any more: half of all that moved."""
    moved = [abs(new.get(name, 0.0) - old.get(name, 0.0)) for name in {*old, *new}]
    return min(1.0, rounded((fsum(moved) + abs(fsum(new.values()) - fsum(old.values()))) / 2))


def _cells(old: Tree, new: Tree, partial: float) -> Iterator[tuple[bool, Cell]]:
    """What an outage or a partial failure loses before and after, where the two differ; and whether it gets worse."""
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
    """The classes of failures that one of the two treats in a way of its own, with what each loses then."""
    classes = classes_of([old, new], partial=share < 1)
    before, after = (losses(tree, parts, classes, share) for tree in (old, new))
    together: dict[tuple[int, int], list[int]] = {}
    for place, column in enumerate(zip(map(id, before), map(id, after), strict=True)):
        together.setdefault(column, []).append(place)
    for places in together.values():
        yield merged([classes[place] for place in places]), before[places[0]], after[places[0]]


def _differ(one: float, other: float) -> bool:
    return abs(one - other) > _NOTICED


def _bound(name: str, before: float | None, after: float | None) -> Delta | None:
    if before is not None and after is not None and isclose(before, after):
        return None
    return None if before is after is None else Delta(name, before, after)


def _waits(old: Analysis | None, new: Analysis | None) -> Delta | None:
    """All back-off, where a `Retry-After` is obeyed; elsewhere it follows the attempts, which the calls show."""
    sides = [side for side in (old, new) if side is not None]
    if not any(retry.obeys for side in sides for retry in side.tree.retries):
        return None
    return _bound("waits", old.waits.value if old else None, new.waits.value if new else None)


def _refused_only(one: Analysis | None, other: Analysis | None) -> str | None:
    """Why the gateway refuses one of two versions, when it does not refuse the other as well."""
    return one.tree.refused if one and not (other and other.tree.refused) else None


def _unfit_only(new: Analysis | None, old: Analysis | None) -> tuple[Unfit, ...]:
    """The models of one version that never serve because of their type, where they could in the other or are not in it."""
    known = old.tree.unfit if old else {}
    return tuple(one for one in unfit_models(new.tree) if one.model not in known) if new else ()


def _latency(picture: Analysis | None) -> float | None:
    return picture.latency.value if picture and picture.latency else None


def _only_in(one: Analysis | None, other: Analysis | None) -> tuple[Reached, ...]:
    """The models that requests can come to in one picture only."""
    if one is None:
        return ()
    known = {leaf.model for leaf in other.routes.reached} if other else set()
    only = dict.fromkeys([leaf.model for leaf in one.routes.reached if leaf.model not in known])
    names = short_names([*one.tree.models, *(other.tree.models if other else ())]) if only else {}
    return tuple(Reached(model, one.reach[model].said(names)) for model in only)
