"""What differs between two versions of a policy, field by field, with targets paired by model.

Whether they differ at all is decided by their normal forms; DeepDiff only explains it. Lists of targets are turned into
mappings from label to target first, so that DeepDiff names a target by its model and never confuses a swap with two edits.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

from policyctl.policy.document import Document, canonical_text, model_names, normal_form, order_matters, target_text
from policyctl.policy.memo import Memo, content_key, late_pattern
from policyctl.policy.names import canonical_model, kind_of, short_model
from policyctl.policy.virtual_model import normal_form as normal_model
from policyctl.policy.virtual_model import written_form

_BARE = late_pattern(r"(?!\d+$)[\w./:@+~-]+", re.ASCII)
_KEY = late_pattern(r"[\w-]+", re.ASCII)


class Pair(NamedTuple):
    """One target on both sides (or one), under the label that paths use for it."""

    label: str
    before: int | None
    after: int | None


def pair_targets(before: list[Any], after: list[Any]) -> list[Pair]:
    """Pair two lists of targets: the same target first, then the same model, then the groups most alike.

    Labels are unique: the model's short name (`#2` for its second occurrence), for a group its position from 0, as machines
    count (see `report.format.position_name`).
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
    """Hands out labels, each once: of two targets with one label, a difference in the first would not be shown.

    A model's name that could be read as another label, or as several, is quoted: `"google/a#2"`, `"1"`, `"a, b"`.
    """

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def take(self, target: Any, position: int, side: str) -> str:
        name = _model_of(target)
        if name is None:
            return f"{position}{side}"
        short = short_model(name)
        label = short if _BARE.fullmatch(short) else json.dumps(short, ensure_ascii=False)
        self.seen[label] += 1
        return label if self.seen[label] == 1 else f"{label}#{self.seen[label]}"


def ordinal(number: int) -> str:
    """`1st`, `2nd`, `3rd`, `11th`."""
    tens, last = number // 10 % 10, number % 10
    return f"{number}{'th' if tens == 1 else {1: 'st', 2: 'nd', 3: 'rd'}.get(last, 'th')}"


def ordinal_name(label: str) -> str:
    """A label as people count: `2nd target` for the position 1."""
    position, _, side = label.partition(" ")
    return f"{ordinal(int(position) + 1)} target{side and f' {side}'}" if position.isdigit() else label


ORDER = "targets order"


class FieldChange(NamedTuple):
    """One difference: where, and both values. None is "absent": the normal form has no nulls."""

    path: str
    before: Any
    after: Any


def differs(before: Document, after: Document) -> bool:
    """Whether two documents differ."""
    return canonical_text(normal_form(before)) != canonical_text(normal_form(after))


_BETWEEN, _WRITTEN = Memo[tuple[FieldChange, ...]](), Memo[tuple[FieldChange, ...]]()


def fields_between(before: Document, after: Document) -> tuple[FieldChange, ...]:
    """The fields in which two documents of one canonical name differ, in the order of the format; empty if they are equal."""
    return _BETWEEN.of(lambda: content_key(before, after), lambda: _between(before, after))


def _between(before: Document, after: Document) -> tuple[FieldChange, ...]:
    if kind_of(before["name"]) == "model":
        return _explain(_by_key(normal_model(before)), _by_key(normal_model(after)))
    if not differs(before, after):
        return ()
    left, right = normal_form(before, sort=False), normal_form(after, sort=False)
    left["policy"], right["policy"] = _addressed(left["policy"], right["policy"])
    fields = _explain(left, right)
    assert fields, f"a difference without a field in {right['name']}"  # noqa: S101 - the diff's own law
    return fields


def fields_written(before: Document, after: Document) -> tuple[FieldChange, ...]:
    """The fields that a write of `after` over a live document in normal form changes. Beside those that differ, these are the
    placeholders that it writes over a model's secrets."""
    if kind_of(before["name"]) == "model":
        return _WRITTEN.of(lambda: content_key(before, after), lambda: _explain(_by_key(before), _by_key(written_form(after))))
    return fields_between(before, after)


def contents(document: Document, *, gone: bool) -> tuple[FieldChange, ...]:
    """All that an added document, or one that is `gone`, contains, as fields with one side only."""
    if kind_of(document["name"]) == "model":
        nothing: Document = {"provider_config": {}, "config": {}}
        texts = ("display_name", "description")
        normal = written_form(document)
        shown = {key: item for key, item in normal.items() if key != "name" and (key not in texts or item != normal["name"])}
        fields = _explain(nothing, _by_key(shown))
    else:
        # The side without a policy has no fields, not even defaults.
        fields = fields_between({"name": document["name"], "policy": {"targets": []}}, document)
    if gone:
        return tuple(FieldChange(field.path, field.after, None) for field in fields)
    return tuple(field._replace(before=None) for field in fields)


def _by_key(model: Document) -> Document:
    """A model's normal form whose settings are compared one by one, also where the other side has none."""
    return {"provider_config": {}, "config": {}, **model}


def origins(before: Document, after: Document) -> Iterator[tuple[str, Any]]:
    """Of an update of a policy, the targets that the labels in its fields do not identify: the path of each, and what it was.

    A label counts in the new version. Of several groups, or several targets of one model, it shows which one it was only
    where both versions have an order.
    """
    left, right = normal_form(before, sort=False), normal_form(after, sort=False)
    return _origins("policy", left["policy"], right["policy"])


def _origins(path: str, before: Any, after: Any) -> Iterator[tuple[str, Any]]:
    if not (_has_targets(before) and _has_targets(after)):
        return
    pairs = [pair for pair in pair_targets(before["targets"], after["targets"]) if None not in pair]
    kept = [
        (f"{path}.targets[{label}]", before["targets"][was or 0], after["targets"][becomes or 0])
        for label, was, becomes in pairs
    ]
    alike = Counter(_model_of(old) for _, old, _ in kept)
    ordered, was_ordered = order_matters(after), order_matters(before)
    for place, old, new in kept:
        changes = target_text(old) != target_text(new)
        if (not was_ordered if ordered else changes) and alike[_model_of(old)] > 1:
            yield place, old
        if changes:
            yield from _origins(place, old, new)


def _has_targets(group: Any) -> bool:
    return isinstance(group, dict) and isinstance(group.get("targets"), list)


def _addressed(before: Any, after: Any) -> tuple[Any, Any]:
    """Both versions of a group with their targets as mappings from label to target. An order that changed, or that matters
    only now, is a field."""
    if not (_has_targets(before) and _has_targets(after)):
        return before, after
    pairs = pair_targets(before["targets"], after["targets"])
    left: dict[str, Any] = {**before, "targets": {}}
    right: dict[str, Any] = {**after, "targets": {}}
    for label, was, becomes in pairs:
        old = None if was is None else before["targets"][was]
        new = None if becomes is None else after["targets"][becomes]
        old, new = _addressed(old, new)
        if was is not None:
            left["targets"][label] = old
        if becomes is not None:
            right["targets"][label] = new
    if order_matters(after):
        left_order, right_order = _orders(pairs)
        if not (before["targets"] and order_matters(before)):
            left_order = []
        if left_order != right_order and len(pairs) > 1:
            left[ORDER], right[ORDER] = (", ".join(map(ordinal_name, some)) or None for some in (left_order, right_order))
    return left, right


def _orders(pairs: list[Pair]) -> tuple[list[str], list[str]]:
    """The labels in each version's order; equal when nothing moved and one target at most is new, which came last."""
    old = [pair.label for pair in sorted((pair for pair in pairs if pair.before is not None), key=_before)]
    new = [pair.label for pair in pairs if pair.after is not None]
    kept = [label for label in old if label in new]
    return (new, new) if kept in (new, new[:-1]) else (old, new)


def _before(pair: Pair) -> int:
    return pair.before or 0


def _explain(left: Document, right: Document) -> tuple[FieldChange, ...]:
    """DeepDiff's findings as fields. A list (status codes) is one value, not one field an item."""
    from deepdiff import DeepDiff  # costs 180 ms, and most runs of policyctl find nothing to explain

    found: dict[tuple[str, ...], FieldChange] = {}
    # Without the second option DeepDiff skips keys that begin with "__", which the names of targets may.
    sides = _with_whole_lists(left), _with_whole_lists(right)
    compared = DeepDiff(*sides, view="tree", threshold_to_diff_deeper=0, ignore_private_variables=False)
    for findings in compared.values():
        for finding in findings:
            path = _until_list(finding.path(output_format="list"), left, right)
            found[path] = FieldChange(_as_text(path), _at(left, path), _at(right, path))
    return tuple(found[path] for path in sorted(found, key=_reading_order))


def _with_whole_lists(value: Any) -> Any:
    """The value with each list as bytes, which nothing else is: in a list, DeepDiff takes 1 and true for equal."""
    if isinstance(value, dict):
        return {key: _with_whole_lists(item) for key, item in value.items()}
    return canonical_text(value).encode() if isinstance(value, list) else value


def _until_list(path: list[Any], left: Document, right: Document) -> tuple[str, ...]:
    """The path up to the first thing that is not a mapping on both sides."""
    taken: list[str] = []
    for part in path:
        if not isinstance(_at(left, taken), dict) or not isinstance(_at(right, taken), dict):
            break
        taken.append(part)
    return tuple(taken)


def _at(value: Any, path: Any) -> Any:
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _as_text(path: tuple[str, ...]) -> str:
    """`policy.targets[google/gemini].weight`: keys joined by dots, labels in brackets; a key that reads otherwise is quoted."""
    text = ""
    ours = path[0] == "policy"  # of a model, any key may be called as the order is
    for position, part in enumerate(path):
        is_label = ours and position > 0 and path[position - 1] == "targets"
        key = part if is_label or (ours and part == ORDER) or _KEY.fullmatch(part) else json.dumps(part, ensure_ascii=False)
        text += f"[{part}]" if is_label else f".{key}" if text else key
    return text


_ORDER_OF_KEYS = {
    key: rank
    for rank, key in enumerate(
        (
            "display_name",
            "description",
            "model_type",
            "app_id",
            "provider_config",
            "config",
            "tags",
            "policy",
            "strategy",
            "mode",
            "on_status_codes",
            "retry",
            "attempts",
            "use_retry_after_header",
            "cache",
        )
    )
}


def _reading_order(path: tuple[str, ...]) -> tuple[tuple[int, str], ...]:
    return tuple((_ORDER_OF_KEYS.get(part, len(_ORDER_OF_KEYS)), part) for part in path)
