"""Which policy before which: a policy may target another, so what is referenced is added first and removed last."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policyctl.core.change import Change


def find_cycle(graph: Mapping[str, Iterable[str]]) -> list[str] | None:
    """One cycle of a reference graph as [a, b, …, a], starting at its smallest name, or None.

    A name that is no key of the graph ends a path.
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


def _from_smallest(cycle: list[str]) -> list[str]:
    first = cycle.index(min(cycle))
    turned = cycle[first:] + cycle[:first]
    return [*turned, turned[0]]


def ordered(changes: Iterable[Change]) -> tuple[Change, ...]:
    """The changes in an order in which they may be applied one after the other: what is needed first, removes last."""
    waiting = {change.name: change for change in sorted(changes, key=_rank)}
    prerequisites = before_each(waiting.values())
    done: list[Change] = []
    while waiting:
        ready = [name for name in waiting if prerequisites[name].isdisjoint(waiting)]
        # Live policies may target each other in a circle; when only such are left, any order is as good.
        done += [waiting.pop(name) for name in ready or [next(iter(waiting))]]
    return tuple(done)


def before_each(changes: Iterable[Change]) -> dict[str, frozenset[str]]:
    """For each change the names of those that must be done before it.

    What is referenced is added before what refers to it, and removed after what referred to it is gone or no longer does.
    """
    by_name = {change.name: change for change in changes}
    users: defaultdict[str, set[str]] = defaultdict(set)
    for change in by_name.values():
        for name in change.frees:
            users[name].add(change.name)
    return {name: _prerequisites(change, by_name, users) for name, change in by_name.items()}


def _prerequisites(change: Change, by_name: dict[str, Change], users: Mapping[str, set[str]]) -> frozenset[str]:
    if change.action == "remove":
        return frozenset(users.get(change.name, set()) - {change.name})
    return frozenset(
        name for name in change.needs if name != change.name and name in by_name and by_name[name].action != "remove"
    )


def _rank(change: Change) -> tuple[bool, str]:
    return change.action == "remove", change.name
