"""A policy document as the tree that the gateway walks, with everything settled that does not depend on an answer.

The document may be any plain value that a remote holds. What a policy depends on besides it is passed in: the types of its
models, and the policies that it targets. `single` is replaced by its first target, and so are targets that are never drawn;
retries are pushed down to the targets that they hold for. What the gateway refuses to run is a tree of one fixed outcome, with
the reason.

The draw of a load balance: the gateway takes a random point from 0 to the sum of the weights, goes through the targets in order
and takes the first whose weight is above the point, lowering the point by each weight that it passes. For weights of 0 and more
that is the share that one expects; negative weights are accepted, and distort it. Shares are made of the weights *as written*,
scaled to whole numbers (0.7, 0.2, 0.1 are 7, 2, 1 parts of 10), so that two ways to write one draw are the same draw and not
nearly the same. The gateway itself adds binary floats; the difference is below one request in 10^15.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import accumulate
from math import lcm, prod
from types import MappingProxyType
from typing import Any, NamedTuple

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
from policyctl.policy.document import Document, model_names
from policyctl.policy.names import POLICY_PREFIX, canonical, canonical_model, canonical_name, short_model
from policyctl.policy.schema import MAX_TARGETS

USUAL_TYPE = "chat"  # the platform's default for a model without a type
_SAME = {"chat_vision": "chat"}  # takes the same requests


class DeclaredModels(NamedTuple):
    """The models' own timeouts in seconds and their types (`chat`, `embedding`, …), by canonical name, as far as known.

    `before` is what was declared when the policies were what they are live, where that is
    known.
    """

    timeouts: Mapping[str, float] = {}
    types: Mapping[str, str] = {}
    before: DeclaredModels | None = None

    @property
    def then(self) -> DeclaredModels:
        """The declarations that apply to live policies: the earlier ones, or else these."""
        return self if self.before is None else self.before

    @property
    def facts(self) -> list[Mapping[str, float | str]]:
        """All that has an effect, as plain values, which are equal where nothing differs for any policy."""
        return [self.timeouts, self.types, self.then.timeouts, self.then.types]

    def requests(self, model: str) -> str | None:
        """The kind of requests that a model takes, where that is declared: its type, but that `chat_vision` takes chats."""
        own = self.types.get(model)
        return own if own is None else _SAME.get(own, own)

    def __or__(self, other: DeclaredModels) -> DeclaredModels:
        """Both; where the other one declares something, it wins."""
        before = None if self.before is None else self.before | other
        return DeclaredModels({**self.timeouts, **other.timeouts}, {**self.types, **other.types}, before)


NOTHING = DeclaredModels()


MAX_CHAIN = 20  # policies, each the target of the one before; people write two or three
TOO_LONG = (
    f"it leads through more than {MAX_CHAIN} policies in a row; no more are followed, so what requests get was not computed"
)
NOT_HERE = "not known here"


def leads_to_unclear(name: str, why: str) -> str:
    """Why it is not known what a policy does that leads to one which cannot be followed."""
    return f"it leads to {name}, and what that one does is not known: {why}"


class KnownPolicies(Mapping[str, Document]):
    """Policies by canonical name, as far as they are known.

    `whole` means that there are no others: a policy of another name does not exist. `unclear` are policies that exist but
    cannot be followed, each with the reason; they are not among the documents.
    """

    def __init__(
        self,
        documents: Mapping[str, Document],
        *,
        whole: bool = False,
        unclear: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._documents = documents
        self.whole = whole
        self.unclear = unclear

    @classmethod
    def of(cls, policies: Mapping[str, Document] | None) -> KnownPolicies:
        """The same policies; a plain mapping is not whole."""
        return policies if isinstance(policies, cls) else cls(policies or {})

    def why_not(self, name: str) -> str | None:
        """Why a policy that is not among these cannot be followed; None when no policy has that name."""
        return self.unclear.get(name, None if self.whole else NOT_HERE)

    def __getitem__(self, name: str) -> Document:
        return self._documents[name]

    def __contains__(self, name: object) -> bool:
        return name in self._documents

    def __iter__(self) -> Iterator[str]:
        return iter(self._documents)

    def __len__(self) -> int:
        return len(self._documents)


_NAMED = 5  # policies in a sentence


def redeclared(declared: DeclaredModels, *policies: Mapping[str, Document]) -> Iterator[str]:
    """A sentence for every model that one of the policies targets and whose declaration changed."""
    then = declared.then
    changed = {
        model: text
        for model in sorted({*declared.types, *then.types, *declared.timeouts, *then.timeouts})
        if (text := ", ".join(_moved(model, then, declared)))
    }
    users: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for name, document in (one for some in (policies if changed else ()) for one in some.items()):
        for model in changed.keys() & set(map(canonical_model, model_names(document))):
            users[model][name] = None
    for model, text in changed.items():
        if names := sorted(users[model]):
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            yield (
                f"the declaration of {short_model(model)} changes ({text}); what is shown of before and after rests on it for "
                f"{', '.join(names[:_NAMED])}{more}"
            )


def _moved(model: str, then: DeclaredModels, now: DeclaredModels) -> Iterator[str]:
    for what, before, after in (
        ("model_type", then.types, now.types),
        ("request_timeout", then.timeouts, now.timeouts),
    ):
        if before.get(model) != after.get(model):
            yield f"{what} {_said(before.get(model))} → {_said(after.get(model))}"


def _said(value: str | float | None) -> str:
    return "not declared" if value is None else f"{value:g} s" if isinstance(value, int | float) else value


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
        name = canonical(model)
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


class WeightedChoice:
    """The parts of `total` that each target is drawn for; where they sum to less, no target may be drawn."""

    def __init__(self, parts: tuple[int, ...], total: int) -> None:
        self.parts = parts
        self.total = total

    @cached_property
    def edges(self) -> list[float]:
        """Where each target's part of the points from 0 to 1 ends."""
        return [passed / self.total for passed in accumulate(self.parts)]

    def position(self, point: float) -> int | None:
        """The position that a point from 0 to 1 (less than 1) draws, or None when it draws none."""
        position = bisect_right(self.edges, point)
        return position if position < len(self.parts) else None


def weighted_choice(weights: Sequence[float]) -> WeightedChoice:
    """The draw that these weights make."""
    whole = _whole(weights)
    total = sum(whole)
    if total > 0 and min(whole) >= 0:
        return WeightedChoice(tuple(whole), total)
    return _interval_choice(whole, total) if total else _point_choice(whole)


def _whole(weights: Sequence[float]) -> list[int]:
    exact = [_as_written(weight) for weight in weights]
    scale = lcm(*[weight.denominator for weight in exact])
    return [weight.numerator * (scale // weight.denominator) for weight in exact]


@lru_cache(maxsize=4096)
def _as_written(weight: float) -> Fraction:
    return Fraction(repr(weight))


def _point_choice(weights: Sequence[int]) -> WeightedChoice:
    """Weights that sum to 0: the point is 0, so there is nothing to draw."""
    parts, point = [0] * len(weights), 0
    for position, weight in enumerate(weights):
        if point < weight:
            parts[position] = 1
            break
        point -= weight
    return WeightedChoice(tuple(parts), 1)


def _interval_choice(weights: Sequence[int], total: int) -> WeightedChoice:
    """The points still to be had are always one interval; a target takes the part of it below its weight."""
    low, high = min(total, 0), max(total, 0)
    parts = []
    for weight in weights:
        cut = min(max(weight, low), high)
        parts.append(cut - low)
        low, high = cut - weight, high - weight
    return WeightedChoice(tuple(parts), abs(total))
