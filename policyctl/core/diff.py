"""What differs between two versions of a policy, field by field.

Whether they differ at all is decided by their normal forms; DeepDiff only explains it. Lists of targets are turned into
mappings from label to target first, so that DeepDiff names a target by its model and never confuses a swap with two edits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from policyctl.core.pairing import Pair, pair_targets, spoken
from policyctl.model.normal import Document, canonical_text, normal_form, order_matters

ORDER = "targets order"


class Field(NamedTuple):
    """One difference: where, and both values. None is "absent": the normal form has no nulls."""

    path: str
    before: Any
    after: Any


def differ(before: Document, after: Document) -> bool:
    """Whether two documents say different things."""
    return canonical_text(normal_form(before)) != canonical_text(normal_form(after))


def fields_between(before: Document, after: Document) -> tuple[Field, ...]:
    """The fields in which two documents differ, in the order of the format; empty when they say the same."""
    if not differ(before, after):
        return ()
    left, right = normal_form(before, sort=False), normal_form(after, sort=False)
    left["policy"], right["policy"] = _addressed(left["policy"], right["policy"])
    fields = _explain(left, right)
    assert fields, f"a difference without a field in {right['name']}"  # noqa: S101 - the diff's own law
    return fields


def _addressed(before: Any, after: Any) -> tuple[Any, Any]:
    """Both versions of a group with their targets as mappings from label to target; an order that moved is a field."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return before, after
    if not isinstance(before.get("targets"), list) or not isinstance(after.get("targets"), list):
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
    if order_matters(before) and order_matters(after):
        left_order, right_order = _orders(pairs)
        if left_order != right_order:
            left[ORDER], right[ORDER] = ", ".join(map(spoken, left_order)), ", ".join(map(spoken, right_order))
    return left, right


def _orders(pairs: list[Pair]) -> tuple[list[str], list[str]]:
    """The labels in each version's order; equal when nothing moved and what is new came last."""
    old = [pair.label for pair in sorted((pair for pair in pairs if pair.before is not None), key=_before)]
    new = [pair.label for pair in pairs if pair.after is not None]
    kept = [label for label in old if label in new]
    return (new, new) if new == kept + [label for label in new if label not in old] else (old, new)


def _before(pair: Pair) -> int:
    return pair.before or 0


def _explain(left: Document, right: Document) -> tuple[Field, ...]:
    """DeepDiff's findings as fields. A list (status codes) is one value, not one field an item."""
    from deepdiff import DeepDiff  # costs 180 ms, and most runs of policyctl find nothing to explain

    found: dict[tuple[str, ...], Field] = {}
    for findings in DeepDiff(left, right, view="tree", threshold_to_diff_deeper=0).values():
        for finding in findings:
            path = _until_list(finding.path(output_format="list"), left, right)
            found[path] = Field(_written(path), _at(left, path), _at(right, path))
    return tuple(found[path] for path in sorted(found, key=_reading_order))


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


def _written(path: tuple[str, ...]) -> str:
    """`policy.targets[google/gemini].weight`: keys joined by dots, labels in brackets."""
    text = ""
    for position, part in enumerate(path):
        is_label = position > 0 and path[position - 1] == "targets"
        text += f"[{part}]" if is_label else f".{part}" if text else part
    return text


_ORDER_OF_KEYS = {
    key: rank
    for rank, key in enumerate(
        (
            "display_name",
            "description",
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
