"""The models and policies that targets refer to: whether they exist, how they are spelled, and which change must come first.

A policy may target another, so what is referenced is added first and removed last.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

from policyctl.effect.tree import KnownPolicies, read_tree
from policyctl.errors import PolicyctlError
from policyctl.policy.document import Document, Policy, digest, model_names, references
from policyctl.policy.findings import FieldPath, Finding, did_you_mean, format_path
from policyctl.policy.names import MODEL_PREFIX, POLICY_PREFIX, canonical, canonical_model, canonical_name, model_spelling

if TYPE_CHECKING:
    from policyctl.plan.plan import Change, Plan


def find_cycle(graph: Mapping[str, Iterable[str]]) -> list[str] | None:
    """One cycle of a reference graph as [a, b, …, a], starting at its smallest name, or None.

    A name that is not a key of the graph ends a path.
    """
    done: set[str] = set()
    for start in sorted(graph):
        path: list[str] = []
        stack = [(start, iter(sorted(graph[start])))]
        on_path = {start: 0}
        path.append(start)
        while stack:
            name, following = stack[-1]
            child = next(following, None)
            if child is None:
                stack.pop()
                path.pop()
                del on_path[name]
                done.add(name)
            elif child in on_path:
                return _from_smallest(path[on_path[child] :])
            elif child in graph and child not in done:
                on_path[child] = len(path)
                path.append(child)
                stack.append((child, iter(sorted(graph[child]))))
    return None


def leads_back(name: str, targets_of: Callable[[str], Iterable[str]]) -> bool:
    """Whether a policy's targets lead back to it."""
    pending, seen = list(targets_of(name)), set[str]()
    while pending:
        target = pending.pop()
        if target == name:
            return True
        if target not in seen:
            seen.add(target)
            pending += targets_of(target)
    return False


def _from_smallest(cycle: list[str]) -> list[str]:
    first = cycle.index(min(cycle))
    turned = cycle[first:] + cycle[:first]
    return [*turned, turned[0]]


def circles(plan: Plan, after: Mapping[str, Document]) -> Iterator[str]:
    """The policies that are written and whose targets lead back to them, maybe by way of live ones: requests go round there."""

    written = [change.name for change in plan.policies if change.after is not None and change.needs]
    graph = {name: references(after[name]) for name in led_to(written, after) if name in after}
    for name in written if written and find_cycle(graph) is not None else ():
        if leads_back(name, lambda other: graph.get(other, ())):
            yield f"{name} would target itself, by way of other policies or at once (change its targets, or theirs)"


def dangling(plan: Plan, after: KnownPolicies) -> Iterator[str]:
    """Policies of the directory that stay as they are and target one that does not exist."""
    removed = {change.name for change in plan.changes}  # that one is still targeted is refused
    for name in sorted(plan.kept & after.keys()):
        for target in _missing(after[name], after):
            if target not in removed:
                yield f"{name} targets {target}, which does not exist; correct the name, or add that policy"


def without_a_target(plan: Plan, after: KnownPolicies) -> Iterator[str]:
    """Targets of what is written that do not exist: a plan made now is not valid with one, a saved plan is refused."""
    removed = {change.name for change in plan.changes if change.after is None}
    for change in plan.changes:
        if change.after is not None and change.needs:
            for target in _missing(change.after, after):
                if target not in removed:
                    yield f"{change.name} would target {target}, which does not exist (plan again)"


def _missing(document: Document, after: KnownPolicies) -> list[str]:
    """The policies that a document plainly targets and that do not exist."""
    named = [canonical_name(name) for name in model_names(document) if name.startswith(POLICY_PREFIX)]
    return [name for name in dict.fromkeys(named) if name not in after and after.why_not(name) is None]


def unfollowed(plan: Plan, after: KnownPolicies) -> Iterator[str]:
    """New policies that lead to one that cannot be evaluated; for updates the effect reports it."""
    if after.whole and not after.unclear:
        return
    for change in plan.changes:
        if change.action == "add" and change.after is not None and change.needs:
            with suppress(PolicyctlError):  # nested too deeply, which its effect reports
                for name, why in read_tree(after[change.name], after).unfollowed.items():
                    yield f"{change.name} leads to {name}, and what that one does is not known: {why}"


class Queue:
    """Changes of which each waits for those that must be done before it. Taking all of them takes linear time."""

    def __init__(self, changes: Iterable[Change]) -> None:
        self._waiting = {change.name: change for change in changes}
        self.needs = before_each(self._waiting.values())
        self._missing = {name: len(needs) for name, needs in self.needs.items()}
        self._dependents: defaultdict[str, list[str]] = defaultdict(list)
        for name, needs in self.needs.items():
            for need in needs:
                self._dependents[need].append(name)
        self._ready = deque(name for name in self._waiting if not self._missing[name])

    def take(self, most: int | None = None) -> list[Change]:
        """Up to `most` changes (None: all) that wait for nothing. Each is handed out once; empty when all have been."""
        if not self._ready and self._waiting:
            # Live policies that target each other in a circle, all to be removed: any of them may be first.
            self._ready.append(next(iter(self._waiting)))
        count = len(self._ready) if most is None else min(most, len(self._ready))
        names = [self._ready.popleft() for _ in range(count)]
        return [self._waiting.pop(name) for name in names]

    def finish(self, name: str) -> None:
        """Record that a change is done; what waited only for it becomes ready."""
        for dependent in self._dependents[name]:
            self._missing[dependent] -= 1
            if not self._missing[dependent] and dependent in self._waiting:
                self._ready.append(dependent)


def ordered(changes: Iterable[Change]) -> tuple[Change, ...]:
    """The changes in an order in which they may be applied one after the other: what is needed first, removes last."""
    queue = Queue(sorted(changes, key=_rank))
    done: list[Change] = []
    while wave := queue.take():
        done += sorted(wave, key=_rank)
        for change in wave:
            queue.finish(change.name)
    return tuple(done)


def before_each(changes: Iterable[Change]) -> dict[str, frozenset[str]]:
    """For each change the names of those that must be done before it.

    What is referenced is added before what refers to it, and removed after what referred to it is gone or no longer does.
    """
    by_name = {change.name: change for change in changes}
    users: defaultdict[str, set[str]] = defaultdict(set)
    for change in by_name.values():
        for name in change.comes_before:
            users[name].add(change.name)
    return {name: _prerequisites(change, by_name, users) for name, change in by_name.items()}


def _prerequisites(change: Change, by_name: dict[str, Change], users: Mapping[str, set[str]]) -> frozenset[str]:
    if change.action == "remove":
        return frozenset(users.get(change.name, set()) - {change.name})
    return frozenset(
        name for name in change.comes_after if name != change.name and name in by_name and by_name[name].action != "remove"
    )


def _rank(change: Change) -> tuple[bool, str]:
    return change.action == "remove", change.name


def unknown_targets(
    document: Document,
    models: frozenset[str],
    policies: frozenset[str],
    elsewhere: Callable[[str], bool] = lambda _: False,
) -> Iterator[Finding]:
    """A finding for every target that is neither a known model, in either spelling, nor a policy (by canonical name).

    Without any `models` only policies are looked for. `elsewhere` is whether a policy may exist where none were read.
    """
    known = _canonical(models)
    for path, name in named_targets(document):
        policy = canonical(name)
        if policy in policies or canonical_model(name) in known:
            continue
        if name.startswith(POLICY_PREFIX):
            if not elsewhere(policy):
                yield Finding(
                    path, "P204", f"there is no policy {format_path(name)}{_suggestion(name, policies, POLICY_PREFIX)}"
                )
        elif models:
            yield Finding(
                path, "P204", f"the remote knows no model {format_path(name)}{_suggestion(name, models, MODEL_PREFIX)}"
            )


@lru_cache(maxsize=8)  # the same few sets are asked about for every policy
def _canonical(models: frozenset[str]) -> frozenset[str]:
    return frozenset(map(canonical_model, models))


@lru_cache(maxsize=1024)  # one wrong model is often in every policy, and guessing is slow
def _suggestion(name: str, known: frozenset[str], prefix: str) -> str:
    return did_you_mean(name, sorted(known), prefix) or " (add it there first, or correct the name)"


def only_declared(
    documents: Mapping[str, Document], listed: frozenset[str], declared: Collection[str], policies: Collection[str]
) -> Iterator[str]:
    """A sentence for every model that one of these policy documents (by name) targets, that files declare, and that is not
    among those which the remote lists.

    A target that names one of `policies` is not a model. Without a list nothing is known of the remote's models.
    """
    missing = _canonical(frozenset(declared)) - _canonical(listed) if listed else frozenset[str]()
    users: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for user, document in documents.items() if missing else ():
        for _, name in named_targets(document):
            if canonical_model(name) in missing and canonical(name) not in policies:
                users[canonical_model(name)][user] = None
    for model, names in sorted(users.items()):
        who = next(iter(names)) if len(names) == 1 else f"{len(names):,} policies"
        yield f"{model} is declared in files, not known to the remote; {who} would target it, and it counts as serving"


def named_targets(document: Document) -> Iterator[tuple[FieldPath, str]]:
    """Every target of a desired policy that is a model or a policy, at any depth, dead or not: its path and `model_name`."""
    pending: list[tuple[FieldPath, Document]] = [(("policy",), document["policy"])]
    for path, group in pending:
        for position, target in enumerate(group["targets"]):
            if "targets" in target:
                pending.append(((*path, "targets", position), target))
            else:
                yield (*path, "targets", position, "model_name"), target["model_name"]


def remote_spelling(policy: Policy, models: frozenset[str], policies: Collection[str], *, virtual: bool = False) -> Policy:
    """The policy with its models spelled as they are known (see `model_spelling`); the same one where they are already.

    A target that names one of `policies` (by canonical name) is not a model.
    """

    def spell(name: str) -> str:
        return name if canonical(name) in policies else model_spelling(name, models, policies, virtual=virtual)

    document = {**policy.document, "policy": _with_models(policy.document["policy"], spell)}
    return policy if document == policy.document else Policy(policy.name, document, policy.file, policy.index)


def _with_models(group: Document, spell: Callable[[str], str]) -> Document:
    targets = [
        _with_models(target, spell) if "targets" in target else {**target, "model_name": spell(target["model_name"])}
        for target in group["targets"]
    ]
    return {**group, "targets": targets}


def led_to(names: Iterable[str], policies: Mapping[str, Document]) -> dict[str, Any]:
    """What policies and all those that they lead to do: the body of each, by name; None where that is not known."""
    unclear, found, pending = KnownPolicies.of(policies).unclear, dict[str, Any](), [*names]
    while pending:
        one = pending.pop()
        if one in policies and one not in found:
            found[one] = policies[one].get("policy")
            pending += references(policies[one])
        elif one in unclear:
            found[one] = None
    return found


def leading(names: Iterable[str], policies: Mapping[str, Document]) -> frozenset[str]:
    """Those of these policies that lead to another policy, as far as it is known that there is one."""
    unclear = KnownPolicies.of(policies).unclear
    known = (name for name in names if name in policies)
    return frozenset(
        name for name in known if any(one != name and (one in policies or one in unclear) for one in references(policies[name]))
    )


def mark(shown: Any) -> str:
    """A short hash of a plain value."""
    return digest(shown).removeprefix("sha256:")[:40]


def marks_of(names: Iterable[str], policies: Mapping[str, Document]) -> dict[str, str]:
    """For each policy that these are or lead to a hash of what it and all that it leads to do.

    Each is hashed once, over the hashes of its targets; only one that leads to a circle is hashed with all that it leads to.
    """
    found = led_to(names, policies)
    below = {name: references(policies[name]) & found.keys() if name in policies else () for name in found}
    order, marks = TopologicalSorter(below), dict[str, str]()
    with suppress(CycleError):  # what leads to no circle is handed out all the same
        order.prepare()
    while ready := order.get_ready():
        marks |= {name: mark([found[name], {target: marks[target] for target in below[name]}]) for name in ready}
        order.done(*ready)
    return marks | {name: mark(led_to((name,), policies)) for name in found.keys() - marks.keys()}


_MOST_BELOW = 100


def all_below(document: Document, policies: Mapping[str, Document]) -> dict[str, Any] | None:
    """All policies that a document leads to, by name: each as it is, or why it cannot be followed (None: it does not exist).
    None for very many."""
    found: dict[str, Any] = {}
    pending, known = [*references(document)], KnownPolicies.of(policies)
    while pending:
        name = pending.pop()
        if name not in found:
            found[name] = known[name] if name in known else known.why_not(name)
            pending += references(found[name]) if name in known else ()
        if len(found) > _MOST_BELOW:
            return None
    return dict(sorted(found.items()))
