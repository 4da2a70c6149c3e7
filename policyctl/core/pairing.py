"""Which target of one version of a group is which target of the other, and what each is called."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

from policyctl.model.names import canonical_model, short_model
from policyctl.model.normal import model_names, target_text


class Pair(NamedTuple):
    """One target on both sides (or one), under the label that paths use for it."""

    label: str
    before: int | None
    after: int | None


def pair_targets(before: list[Any], after: list[Any]) -> list[Pair]:
    """Pair two lists of targets: the same target first, then the same model, then the groups most alike.

    Labels are unique: the model's short name (`#2` for its second occurrence), for a group its position from 0, as machines
    count (see `report.plain.place`).
    """
    left, right = list(range(len(before))), list(range(len(after)))
    matched: dict[int, int] = {}  # after → before
    for key_of in (target_text, _model_of):
        _match(before, after, left, right, matched, key_of)
    _match_groups(before, after, left, right, matched)
    labels = _Labels()
    pairs = [Pair(labels.take(target, position, ""), matched.get(position), position) for position, target in enumerate(after)]
    pairs += [Pair(labels.take(before[position], position, " before"), position, None) for position in left]
    return pairs


def _match(
    before: list[Any],
    after: list[Any],
    left: list[int],
    right: list[int],
    matched: dict[int, int],
    key_of: Callable[[Any], Hashable],
) -> None:
    """Match what has equal keys, in order; a key of None matches nothing."""
    waiting: defaultdict[Hashable, list[int]] = defaultdict(list)
    for position in left:
        waiting[key_of(before[position])].append(position)
    for position in list(right):
        key = key_of(after[position])
        if key is not None and waiting[key]:
            matched[position] = waiting[key].pop(0)
            left.remove(matched[position])
            right.remove(position)


def _match_groups(before: list[Any], after: list[Any], left: list[int], right: list[int], matched: dict[int, int]) -> None:
    """Match the groups that are left: each with the one that shares the most models, the first one of equals."""
    for position in [position for position in right if _model_of(after[position]) is None]:
        candidates = [other for other in left if _model_of(before[other]) is None]
        if candidates:
            models = _models_of(after[position])
            best = max(candidates, key=lambda other: ((models & _models_of(before[other])).total(), -other))
            matched[position] = best
            left.remove(best)
            right.remove(position)


def _models_of(target: Any) -> Counter[str]:
    return Counter(_names(target))


def _names(target: Any) -> Iterator[str]:
    return map(canonical_model, model_names({"policy": target}))


def _model_of(target: Any) -> str | None:
    """The model's canonical name: a target that is only spelled otherwise is the same one."""
    name = target.get("model_name") if isinstance(target, dict) else None
    return canonical_model(name) if isinstance(name, str) else None


class _Labels:
    """Hands out labels, each once."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def take(self, target: Any, position: int, side: str) -> str:
        name = _model_of(target)
        if name is None:
            return f"{position}{side}"
        label = short_model(name)
        self.seen[label] += 1
        return label if self.seen[label] == 1 else f"{label}#{self.seen[label]}"


def ordinal(number: int) -> str:
    """`1st`, `2nd`, `3rd`, `11th`."""
    tens, last = number // 10 % 10, number % 10
    return f"{number}{'th' if tens == 1 else {1: 'st', 2: 'nd', 3: 'rd'}.get(last, 'th')}"


def spoken(label: str) -> str:
    """A label as people count: `2nd target` for the position 1."""
    position, _, side = label.partition(" ")
    return f"{ordinal(int(position) + 1)} target{side and f' {side}'}" if position.isdigit() else label
