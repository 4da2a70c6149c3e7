"""A policy document as the tree that the gateway walks, with everything settled that does not depend on an answer.

The document may be any plain value that a remote holds. `single` is replaced by its first target, and so are
targets that are never drawn; retries are pushed down to the targets that they hold for. What the gateway refuses to run is a
tree of one fixed outcome, with the reason.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

from policyctl.effect.context import MAX_CHAIN, NOTHING, TOO_LONG, USUAL_TYPE, DeclaredModels, KnownPolicies, leads_to_unclear
from policyctl.effect.draw import WeightedChoice, weighted_choice
from policyctl.effect.gateway import (
    ENDED,
    MAX_DEPTH,
    NEVER_AN_OUTCOME,
    NO_ANSWER,
    NO_RETRY,
    RetryRule,
    check_document,
    most_waits,
    retry_of,
)
from policyctl.errors import NotKnown
from policyctl.policy.document import Document
from policyctl.policy.names import POLICY_PREFIX, canonical_model, canonical_name
from policyctl.policy.schema import MAX_TARGETS

TargetPath = tuple[int, ...]  # positions in `targets`, from the outermost group inward
UNFIT = 400  # what a model of another type answers to every request, at best
_SUCCESS = frozenset(range(200, 300))


class Leaf(NamedTuple):
    """A target that is asked. `number` is its place in `Tree.leaves`; `path` is empty for those of another policy.

    Whether a retry around a target that is a policy repeats the whole policy is not known. `around` are such retries around
    this leaf, outermost first, and `pause` are their seconds of back-off where this leaf is the first one asked. They count
    in the worst case and nowhere else. A leaf that is not `known` is a policy that cannot be followed.
    """

    number: int
    model: str
    retry: RetryRule
    path: TargetPath
    around: tuple[RetryRule, ...] = ()
    pause: int = 0
    known: bool = True

    @property
    def times(self) -> int:
        """How often the retries around may have this leaf asked, each time with all its own attempts."""
        return prod(retry.repeats + 1 for retry in self.around) if self.around else 1


class Fallback(NamedTuple):
    """Targets asked in order, while the outcome is one of `codes` (None: while it is not a success)."""

    targets: tuple[Node, ...]
    codes: frozenset[int] | None


class Balance(NamedTuple):
    """Targets of which one is drawn, with the draw's parts and as shares from 0 to 1; `nothing` is the chance that none is."""

    targets: tuple[Node, ...]
    draw: WeightedChoice
    shares: tuple[float, ...]
    nothing: float


class Fixed(NamedTuple):
    """A place where no model is called and the outcome is always the same."""

    outcome: int


Node = Leaf | Fallback | Balance | Fixed


class _Parts(NamedTuple):
    root: Node
    leaves: tuple[Leaf, ...] = ()
    lists: tuple[frozenset[int] | None, ...] = ()
    plain: bool = False
    refused: str | None = None
    assumed: Mapping[str, int] = {}
    missing: tuple[str, ...] = ()
    unfollowed: Mapping[str, str] = {}
    unmodelled: str | None = None
    takes: str | None = None
    unfit: Mapping[str, str] = {}


class Tree(_Parts):  # with a __dict__, so that what is asked for again and again is worked out once
    """A policy, ready to be walked.

    `lists` are the different code lists of its fallbacks. `plain` is whether a success is always final and there is
    always a model to call, as in nearly every policy. `refused` is why the gateway would not run the policy.

    Of targets that are policies, `assumed` are those that can be followed, each with the most repeats of a retry around it;
    `missing` do not exist and answer every request with 400; `unfollowed` cannot be followed, each with the reason. No request
    that comes to one of these counts as served, unless what it answers is given.

    `unmodelled` is the place of a mode that policyctl does not know. What is here is then this profile's answer, and not
    what is known of the platform.

    `takes` is the kind of requests that the policy is for, as far as types are declared; `unfit` are the models that are
    declared to take others, each with its type.
    """

    @property
    def untold(self) -> str | None:
        """Why it is not known what the policy does, where that is up to a policy that cannot be followed."""
        return next((leads_to_unclear(name, why) for name, why in self.unfollowed.items()), None)

    @cached_property
    def models(self) -> tuple[str, ...]:
        """The models that a draw or a fallback may lead to, each once, in the order written."""
        return tuple(dict.fromkeys(leaf.model for leaf in self.leaves))

    @cached_property
    def retries(self) -> tuple[RetryRule, ...]:
        """The different ways in which its targets are asked again."""
        return tuple(dict.fromkeys(leaf.retry for leaf in self.leaves))


def read_tree(document: Document, policies: Mapping[str, Document] | None = None, declared: DeclaredModels = NOTHING) -> Tree:
    """The tree of a policy document, file or live, in which null must already mean absent (the gateway refuses null).

    A target that names a policy of `policies` (by canonical name) has that policy's own outcome, including its retries; a
    plain mapping is one that may lack some (see `KnownPolicies`). Any other target is a model, under its canonical name.
    Models that are `declared` to be of another type than the policy's first never serve (see `Tree`). Raises NotKnown when
    groups are nested deeper than `MAX_DEPTH`, and for a mode that the gateway takes and that is not modelled here.
    """
    known = KnownPolicies.of(policies)
    tree = _Reader(known).read(document)
    if not declared.types:
        return tree
    kinds = {model: kind for model in tree.models if (kind := declared.requests(model)) is not None}
    takes = _first_kind(tree.root, kinds)
    unfit = {model: declared.types[model] for model, kind in kinds.items() if kind != takes}
    return (_Reader(known, unfit).read(document) if unfit else tree)._replace(takes=takes, unfit=unfit)


def _first_kind(node: Node, kinds: Mapping[str, str]) -> str | None:
    """The kind of requests that a place of the tree is for: that of its first target which has one.

    The targets of a load balance have no order: of theirs it is the usual one, else the first in the alphabet.
    """
    if isinstance(node, Leaf):
        return kinds.get(node.model)
    if isinstance(node, Fixed):
        return None
    found = [kind for target in node.targets if (kind := _first_kind(target, kinds)) is not None]
    if isinstance(node, Fallback):
        return next(iter(found), None)
    return USUAL_TYPE if USUAL_TYPE in found else min(found, default=None)


def tree_if_known(
    document: Document, policies: Mapping[str, Document] | None = None, declared: DeclaredModels = NOTHING
) -> Tree:
    """The same, but raises NotKnown for every mode that policyctl does not know."""
    tree = read_tree(document, policies, declared)
    if tree.unmodelled:
        raise NotKnown(tree.unmodelled)
    return tree


class Unfit(NamedTuple):
    """A model that never serves: its type, and the kind of requests that the policy takes."""

    model: str
    type: str
    takes: str


def unfit_models(tree: Tree) -> tuple[Unfit, ...]:
    """The models of a policy that never serve because of their type."""
    return tuple(Unfit(model, own, tree.takes or "") for model, own in tree.unfit.items())


class _Reader:
    """Numbers the leaves while it goes."""

    def __init__(self, policies: KnownPolicies, unfit: Collection[str] = ()) -> None:
        self.policies = policies
        self.unfit = unfit
        self.leaves: list[Leaf] = []
        self.lists: dict[frozenset[int] | None, None] = {}
        self.plain = True
        self.assumed: dict[str, int] = {}
        self.missing: dict[str, None] = {}
        self.unfollowed: dict[str, str] = {}
        self.unmodelled: str | None = None
        self.around: tuple[RetryRule, ...] = ()
        self.pause = 0  # the back-off of retries around, for the next leaf
        self.reading: list[str] = []
        self.targets = 0  # of all bodies that were read

    def read(self, document: Document) -> Tree:
        body, name = document.get("policy"), document.get("name")
        self.reading.append(canonical_name(name) if isinstance(name, str) else "")
        if reason := self._refusal(body, MAX_DEPTH, ""):
            return Tree(Fixed(400), refused=reason, unmodelled=self.unmodelled)
        root = self._body(body, (), own=True)
        return Tree(
            root,
            tuple(self.leaves),
            tuple(self.lists),
            self.plain,
            None,
            self.assumed,
            tuple(self.missing),
            self.unfollowed,
            self.unmodelled,
        )

    def _refusal(self, body: Any, max_depth: int, where: str) -> str | None:
        """Why the gateway refuses a body. Notes an unknown mode, and raises NotKnown for one that the gateway takes."""
        reason, unknown, targets = check_document(body, max_depth, MAX_TARGETS - self.targets)
        self.targets += targets
        if unknown:
            self.unmodelled = self.unmodelled or where + unknown
            if reason is None:
                raise NotKnown(where + unknown)
        return reason

    def _body(self, body: Any, path: TargetPath, own: bool) -> Node:
        return self._node(body, NO_RETRY, path, own) if "strategy" in body else self._fixed(ENDED)

    def _fixed(self, outcome: int) -> Fixed:
        self.plain = False
        return Fixed(outcome)

    def _node(self, group: Any, retry: RetryRule, path: TargetPath, own: bool) -> Node:
        if "retry" in group:
            given = group["retry"]
            obeys = given.get("use_retry_after_header", False)
            retry = retry_of(given["attempts"], given.get("on_status_codes"), obeys)
        if "strategy" not in group:
            is_leaf = "model_name" in group or "targets" not in group
            return self._leaf(group, retry, path, own) if is_leaf else self._fixed(ENDED)
        mode, codes = group["strategy"]["mode"], group["strategy"].get("on_status_codes")
        targets = group.get("targets")
        if not targets:
            return self._fixed(NO_ANSWER if targets is not None and mode != "single" else ENDED)
        if mode == "single":
            return self._node(targets[0], retry, (*path, 0), own)
        if mode == "loadbalance":
            return self._balance(targets, retry, path, own)
        nodes = tuple([self._node(target, retry, (*path, position), own) for position, target in enumerate(targets)])
        return Fallback(nodes, self._listed(codes))

    def _listed(self, codes: list[float] | None) -> frozenset[int] | None:
        """A fallback's codes, without those that no outcome ever has."""
        listed = None
        if codes is not None:
            listed = frozenset(int(code) for code in codes if code == int(code) and 200 <= code <= 599) - NEVER_AN_OUTCOME
            self.plain = self.plain and 200 not in listed
        self.lists[listed] = None
        return listed

    def _balance(self, targets: list[Any], retry: RetryRule, path: TargetPath, own: bool) -> Node:
        draw = weighted_choice([target.get("weight", 1) for target in targets])
        drawn = [position for position, part in enumerate(draw.parts) if part]
        if not drawn:
            return self._fixed(NO_ANSWER)
        pause, nodes = self.pause, []
        for position in drawn:
            self.pause = pause
            nodes.append(self._node(targets[position], retry, (*path, position), own))
        parts = tuple([draw.parts[position] for position in drawn])
        nothing = draw.total - sum(parts)
        self.plain = self.plain and not nothing
        return Balance(
            tuple(nodes), WeightedChoice(parts, draw.total), tuple([part / draw.total for part in parts]), nothing / draw.total
        )

    def _leaf(self, target: Any, retry: RetryRule, path: TargetPath, own: bool) -> Node:
        model = target.get("model_name", "")
        model = model if isinstance(model, str) else str(model)
        name = canonical_name(model)
        there = bool(self.policies) and name in self.policies
        if not there and not model.startswith(POLICY_PREFIX) and name not in self.policies.unclear:
            return self._ask(canonical_model(model), retry, path if own else (), known=True)
        circle = "its targets lead back to it" if name in self.reading else None
        why = circle if there else self.policies.why_not(name)
        if there and why is None:
            return self._policy(name, path, retry)
        if why is None:
            self.missing[name] = None
            return self._fixed(400)
        self.unfollowed[name] = why
        self.plain = False
        return self._ask(name, retry, path if own else (), known=False)

    def _ask(self, model: str, retry: RetryRule, path: TargetPath, *, known: bool) -> Node:
        leaf = Leaf(len(self.leaves), model, retry, path, self.around, self.pause, known)
        self.pause = 0
        self.leaves.append(leaf)
        return self._never_serving(leaf) if leaf.model in self.unfit else leaf

    def _never_serving(self, leaf: Leaf) -> Node:
        """A model whose every call fails: whatever success is supposed of it counts as `UNFIT`."""
        self.plain = False
        self.lists[_SUCCESS] = None
        return Fallback((leaf, Fixed(UNFIT)), _SUCCESS)

    def _policy(self, name: str, path: TargetPath, retry: RetryRule) -> Node:
        """Another policy in the place of a target. Its own retries hold in it; one around it may repeat it as a whole."""
        if len(self.reading) > MAX_CHAIN:
            raise NotKnown(TOO_LONG)
        self.assumed[name] = max(self.assumed.get(name, 0), retry.repeats)
        body = self.policies[name].get("policy")
        if self._refusal(body, MAX_DEPTH - len(path), f"{name}: "):
            return self._fixed(400)
        outer = self.around
        if retry.repeats:
            self.pause += prod(one.repeats + 1 for one in outer) * most_waits(retry, ends_with_429=True)
            self.around = (*outer, retry)
        self.reading.append(name)
        node = self._body(body, path, own=False)
        self.reading.pop()
        self.around = outer
        return node
