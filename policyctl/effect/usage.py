"""What is used, and what is not: the policies that use a model, provider or policy, and configuration that has no effect."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from policyctl.effect.evaluate import evaluate, model_shares
from policyctl.effect.gateway import NEVER_AN_OUTCOME
from policyctl.effect.tree import (
    NOTHING,
    DeclaredModels,
    KnownPolicies,
    TargetPath,
    Tree,
    read_tree,
    tree_if_known,
    weighted_choice,
)
from policyctl.effect.worst_case import Routes, reach
from policyctl.errors import NotKnown
from policyctl.policy.document import Document, model_names
from policyctl.policy.names import (
    POLICY_PREFIX,
    canonical,
    canonical_model,
    canonical_name,
    matches,
    matching_models,
    short_names,
)

_GONE = 404  # what a model answers that is not there any more
_NO_POLICY = 400


class Names(NamedTuple):
    """Models and policies, both by canonical name."""

    models: tuple[str, ...]
    policies: tuple[str, ...]

    def fitting(self, pattern: str) -> Names:
        """Those that a name, a provider or a glob means."""
        return Names(matching_models(pattern, self.models), tuple(name for name in self.policies if matches(name, (pattern,))))


@dataclass(frozen=True, slots=True)
class Use:
    """How one policy uses one `target`, a model or another policy.

    `share` is the part of its requests that go there when nothing fails, `when` in words what must fail first (empty where
    nothing needs to) and `failing` how many models that are; `asked` is whether any request may come there. `through` are the
    policies that lead to the one that names the target, none where the policy itself does. `served` is the part of its
    requests that are still served when all that was looked for is gone; None where that is up to a policy that cannot be
    followed. `why` is the reason where none of this is known.
    """

    policy: str
    target: str
    through: tuple[str, ...]
    share: float | None = None
    when: str = ""
    failing: int = 0
    asked: bool = False
    served: float | None = None
    why: str = ""


def names_in(documents: Iterable[Document], policies: Collection[str], models: Iterable[str] = ()) -> Names:
    """Every model and policy that the documents' targets name, with the `policies` and `models` that are there anyway."""
    named = {name for document in documents for name in model_names(document)}
    targets = {canonical_name(name) for name in named if _is_policy(name, policies)}
    others = {canonical_model(name) for name in named if not _is_policy(name, policies)}
    return Names(tuple(sorted(others.union(map(canonical_model, models)))), tuple(sorted(targets.union(policies))))


def _is_policy(name: str, policies: Collection[str]) -> bool:
    return name.startswith(POLICY_PREFIX) or canonical(name) in policies


class Uses:
    """The uses of some models and policies (`wanted`), where `known` are all policies that targets may name.

    `declared` are facts about models, which count as they do in a plan.
    """

    def __init__(self, wanted: Names, known: KnownPolicies, declared: DeclaredModels = NOTHING) -> None:
        self._known = known
        self._declared = declared
        self._models, self._policies = frozenset(wanted.models), frozenset(wanted.policies)
        # To see who comes to a policy, it is not followed: it is then asked as a model is.
        others = {name: document for name, document in known.items() if name not in self._policies}
        self._without = KnownPolicies(others, whole=known.whole, unclear={**known.unclear, **dict.fromkeys(self._policies, "")})

    def of(self, name: str, document: Document) -> Iterator[Use]:
        """The uses by one policy, in the order written."""
        ways = self._ways(document)
        for targets, known, answer in (
            ([target for target in ways if target in self._models], self._known, _GONE),
            ([target for target in ways if target in self._policies], self._without, _NO_POLICY),
        ):
            if targets:
                try:
                    tree = tree_if_known(document, known, self._declared)
                except NotKnown as error:
                    yield from (Use(name, target, ways[target], why=str(error)) for target in targets)
                else:
                    yield from _uses(name, tree, {target: ways[target] for target in targets}, answer)

    def beyond(self, document: Document) -> Iterator[str]:
        """The policies that a policy leads to and that cannot be followed; through them it may use anything."""
        yield from (name for name in self._below(document) if name not in self._known and name not in self._policies)

    def why_not_known(self, document: Document) -> str | None:
        """Why it is not known what a policy does; it may then use anything, also what none of its targets names."""
        try:
            tree_if_known(document, self._known, self._declared)
        except NotKnown as error:
            return str(error)
        return None

    def _below(self, document: Document) -> dict[str, tuple[str, ...]]:
        """Every policy that a document's targets lead to, with the shortest way to it (and itself at its end)."""
        ways: dict[str, tuple[str, ...]] = {}
        pending: list[tuple[Document, tuple[str, ...]]] = [(document, ())]
        for one, way in pending:
            for name in model_names(one):
                below = canonical_name(name)
                if below not in ways and _is_policy(name, self._known):
                    ways[below] = (*way, below)
                    if below in self._known:
                        pending.append((self._known[below], ways[below]))
        return ways

    def _ways(self, document: Document) -> dict[str, tuple[str, ...]]:
        """Everything wanted that a policy leads to, with the shortest way to who names it."""
        found: dict[str, tuple[str, ...]] = {}
        below = self._below(document)
        for one, way in [(document, ()), *((self._known[name], way) for name, way in below.items() if name in self._known)]:
            for name in model_names(one):
                is_policy = _is_policy(name, self._known)
                target = canonical_name(name) if is_policy else canonical_model(name)
                if target in (self._policies if is_policy else self._models):
                    found.setdefault(target, way)
        return found


def _uses(name: str, tree: Tree, ways: Mapping[str, tuple[str, ...]], answer: int) -> Iterator[Use]:
    """The uses of these targets, which are leaves, and answer so when they are gone."""
    if tree.refused:
        why = f"the gateway refuses this policy: {tree.refused}"
        yield from (Use(name, target, way, why=why) for target, way in ways.items())
        return
    shares, conditions, names = model_shares(tree), reach(Routes(tree)), short_names(tree.models)
    gone = dict.fromkeys(ways, answer)
    served: float | None = evaluate(tree, gone).served
    if tree.unfollowed and served != evaluate(tree, {**dict.fromkeys(tree.unfollowed, 200), **gone}).served:
        served = None
    for target, way in ways.items():
        share, condition = shares.get(target, 0.0), conditions.get(target)
        if condition is None:
            yield Use(name, target, way, share, served=served)
        else:
            yield Use(name, target, way, share, condition.said(names), condition.least, True, served)


class Dead(NamedTuple):
    """Something that does nothing: where (as in `policy.targets[1].weight`), its model if it is one, and why."""

    path: str
    model: str | None
    why: str


def dead_configuration(document: Document) -> tuple[Dead, ...]:
    """Everything in a policy document that does nothing, in the order written. Empty for a refused policy."""
    tree = read_tree(document)
    if tree.refused:
        return ()
    asked = [leaf.path for leaf in Routes(tree).reached]
    return tuple(_group(document["policy"], (), _Asked(_above(asked), _above(leaf.path for leaf in tree.leaves))))


class _Asked(NamedTuple):
    """The groups in which a model is called, and those in which one would be if requests came there."""

    asked: frozenset[TargetPath]
    asking: frozenset[TargetPath]


def _above(paths: Iterable[TargetPath]) -> frozenset[TargetPath]:
    return frozenset(path[:end] for path in paths for end in range(len(path) + 1))


def _group(group: Any, path: TargetPath, who: _Asked) -> Iterator[Dead]:
    """What is dead in a place that requests come to."""
    if "strategy" not in group or not group.get("targets"):
        return
    mode, codes = group["strategy"]["mode"], group["strategy"].get("on_status_codes")
    if codes is not None:
        yield from _codes(mode, codes, path)
    for place, (target, why) in enumerate(zip(group["targets"], _reasons(group, mode, codes, path, who), strict=True)):
        at = (*path, place)
        if why:
            model = target.get("model_name")
            yield Dead(_where(at), model if isinstance(model, str) else None, why)
            continue
        if mode != "loadbalance" and target.get("weight", 1) != 1:
            yield Dead(f"{_where(at)}.weight", None, f"{mode} does not look at weights")
        yield from _group(target, at, who)


def _codes(mode: str, codes: list[float], path: TargetPath) -> Iterator[Dead]:
    field = f"{_where(path)}.strategy.on_status_codes"
    if mode != "fallback":
        yield Dead(field, None, f"{mode} does not look at status codes")
    elif never := [str(code) for code in codes if not 200 <= code <= 599 or code in NEVER_AN_OUTCOME]:
        yield Dead(field, None, f"no target ends with {', '.join(never)}")


def _reasons(group: Any, mode: str, codes: Any, path: TargetPath, who: _Asked) -> Iterator[str | None]:
    """For each target why no request comes to it, or None."""
    parts = weighted_choice([target.get("weight", 1) for target in group["targets"]]).parts
    stuck = 0
    for place, part in enumerate(parts):
        if mode == "single":
            yield "single asks its first target only" if place else None
        elif mode == "loadbalance":
            yield None if part else "its weight is never drawn"
        elif (*path, place) in who.asked:
            stuck = place
            yield None
        elif (*path, place) not in who.asking:
            stuck = place
            yield "it calls no model"
        elif codes == []:
            yield "the empty code list of the fallback moves on from nothing"
        else:
            yield f"no outcome moves the fallback on from targets[{stuck}]"


def _where(path: TargetPath) -> str:
    return "".join(["policy", *(f".targets[{place}]" for place in path)])
