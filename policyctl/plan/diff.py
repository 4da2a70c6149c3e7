"""What differs between two versions of a policy, field by field, with targets paired by model, and what an update keeps.

Whether they differ at all is decided by their normal forms; DeepDiff only explains it. Lists of targets are turned into
mappings from label to target first, so that DeepDiff names a target by its model and never confuses a swap with two edits.

The fields of a live policy or model that the format does not know are kept by an update wherever the part that contains them
remains. Those of a policy may affect traffic, which is not modelled; so they are named wherever the policy is shown, and
nothing is proven about it.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from policyctl.policy.document import (
    BODY_KEYS,
    KNOWN_KEYS,
    PART_KEYS,
    TARGET_KEYS,
    Document,
    canonical_text,
    model_names,
    normal_form,
    normal_target,
    order_matters,
    plain_value,
    target_text,
)
from policyctl.policy.memo import Memo, content_key, late_pattern
from policyctl.policy.model_settings import shown_free, unknown_settings
from policyctl.policy.names import Kind, canonical_model, kind_of, short_model
from policyctl.policy.virtual_model import KNOWN_KEYS as MODEL_KEYS
from policyctl.policy.virtual_model import is_own_key, written_form
from policyctl.policy.virtual_model import normal_form as normal_model

if TYPE_CHECKING:
    from policyctl.effect.analysis import Effect


_BARE = late_pattern(r"(?!\d+$)[\w./:@+~-]+", re.ASCII)
_KEY = late_pattern(r"[\w-]+", re.ASCII)


class Pair(NamedTuple):
    """One target on both sides (or one), under the label that paths use for it.

    `was` is a label for the side before, `written` its label in the order in which that is written. `sure` is whether both are
    plainly the same target; if not, another one could have been paired as well.
    """

    label: str
    before: int | None
    after: int | None
    was: str = ""
    written: str = ""
    sure: bool = True


def pair_targets(before: list[Any], after: list[Any]) -> list[Pair]:
    """Pair two lists of targets: the same target first, then what differs in its weight alone or has the same model, then the
    groups most alike.

    Labels are unique: the model's short name (`#2` for its second occurrence), for a group its position from 0, as machines
    count (see `report.format.position_name`).
    """
    return _Pairing(before, after).pairs()


def pair_groups(before: Document, after: Document | None) -> list[Pair]:
    """Pair the targets of two versions of a group. What is shown of an update and what it keeps of the live policy both follow
    from this one, so it pairs alike whatever the versions have besides their normal forms, and whatever order a load balance
    has them in."""
    found = _Pairing(before["targets"], after["targets"] if after is not None and _has_targets(after) else [])
    if not order_matters(before):
        found.left.sort(key=found.texts[0].__getitem__)
    if after is not None and not order_matters(after):
        found.right.sort(key=found.texts[1].__getitem__)
    return found.pairs()


class _Pairing:
    """How two lists of targets are paired. `left` and `right` are the places that have no partner yet, in the order in which
    they get one; `matched` has for a place after the one before, and whether they are plainly the same."""

    def __init__(self, before: list[Any], after: list[Any]) -> None:
        self.sides = before, after
        normal = [[normal_target(target) for target in side] for side in self.sides]
        self.texts = [[canonical_text(target) for target in side] for side in normal]
        self.things = [[_thing(target) for target in side] for side in normal]
        self.left, self.right = list(range(len(before))), list(range(len(after)))
        self.matched: dict[int, tuple[int, bool]] = {}

    def pairs(self) -> list[Pair]:
        before, after = self.sides
        rank = {place: at for at, place in enumerate(self.left)}
        self._match(self.texts)
        counts = [Counter(side) for side in self.things]
        self._match(self.things, {thing for thing, number in counts[0].items() if number == counts[1][thing] == 1})
        self._match_groups()
        taken, in_order, in_rank = _Labels(), _Labels(), _Labels()
        written = [in_order.take(target, place, "") for place, target in enumerate(before)]
        was = {place: f"{in_rank.take(before[place], at, '')} before" for place, at in rank.items()}
        pairs = []
        for place, target in enumerate(after):
            old, sure = self.matched.get(place, (None, True))
            own = ("", "") if old is None else (was[old], written[old])
            pairs.append(Pair(taken.take(target, place, ""), old, place, *own, sure))
        gone = ((taken.take(before[old], rank[old], " before"), old) for old in self.left)
        return [*pairs, *(Pair(label, old, None, was[old], written[old]) for label, old in gone)]

    def _match(self, keys: list[list[str]], sure: Collection[str] | None = None) -> None:
        """Match what has equal keys, in order; None is sure of all."""
        waiting: defaultdict[str, list[int]] = defaultdict(list)
        for place in self.left:
            waiting[keys[0][place]].append(place)
        for place in list(self.right):
            key = keys[1][place]
            if waiting[key]:
                self._pair(waiting[key].pop(0), place, sure=sure is None or key in sure)

    def _match_groups(self) -> None:
        """Match the groups that are left: each with the one that shares the most models, the first one of equals. That is sure
        only for the last one on both sides."""
        before, after = self.sides
        left = [place for place in self.left if _model_of(before[place]) is None]
        right = [place for place in self.right if _model_of(after[place]) is None]
        alone = len(left) == len(right) == 1
        for place in right[: len(left)]:
            models = _models_of(after[place])
            shared = {other: (models & _models_of(before[other])).total() for other in left}
            best = max(left, key=shared.__getitem__)
            left.remove(best)
            twins = self.texts[0].count(self.texts[0][best]), self.texts[1].count(self.texts[1][place])
            self._pair(best, place, sure=alone and shared[best] > 0 and twins == (1, 1))

    def _pair(self, old: int, new: int, *, sure: bool) -> None:
        self.matched[new] = old, sure
        self.left.remove(old)
        self.right.remove(new)


def _thing(target: Any) -> str:
    """What a target is, whatever its weight: the model, or all else of a group."""
    if (name := _model_of(target)) is not None:
        return f"model {name}"
    return canonical_text({**target, "weight": None} if isinstance(target, dict) else target)


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
    kept = [
        (pair, before["targets"][pair.before], after["targets"][pair.after])
        for pair in pair_groups(before, after)
        if pair.before is not None and pair.after is not None
    ]
    alike = Counter(_model_of(old) for _, old, _ in kept)
    ordered, was_ordered = order_matters(after), order_matters(before)
    for pair, old, new in kept:
        place = f"{path}.targets[{pair.label}]"
        changes = target_text(old) != target_text(new)
        if not pair.sure or ((not was_ordered if ordered else changes) and alike[_model_of(old)] > 1):
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
    pairs = pair_groups(before, after)
    left: dict[str, Any] = {**before, "targets": {}}
    right: dict[str, Any] = {**after, "targets": {}}
    for pair in pairs:
        old = None if pair.before is None else before["targets"][pair.before]
        new = None if pair.after is None else after["targets"][pair.after]
        old, new = _addressed(old, new)
        if pair.before is not None:
            left["targets"][pair.label] = old
        if pair.after is not None:
            right["targets"][pair.label] = new
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


def keep_unknown_fields(row: Document, desired: Document) -> Document:
    """The document to write over a live row (its document, without the server's keys).

    For the format's own fields `desired` decides, absent means removed. Keys that the format does not know come from the
    row, at every level that is still there, and the row keeps its own spelling of the name. Nulls are never sent.
    """
    written = {**dict(_unknown(row, KNOWN_KEYS)), **deepcopy(desired), "name": row["name"]}
    for part in _parts(row.get("policy"), written["policy"]):
        if part.after is not None:
            for key, value in _unknown(part.row, part.known):
                part.after.setdefault(key, value)
    return written


_NAMED, _NAMED_FIELDS = 3, 5  # policies, and fields that are kept, that a note names
_ONE, _MANY = ("it", "it", "is", "moves", "goes"), ("they", "them", "are", "move", "go")


class UnknownField(NamedTuple):
    """One such field: its path, written as that of a difference, its value, and whether an update keeps it.

    `was` is where it was, if that reads otherwise; `moved` is whether that part is not plainly the same one.
    """

    path: str
    value: Any
    kept: bool = True
    was: str = ""
    moved: bool = False


def unknown_fields(row: Document, after: Document | None = None) -> tuple[UnknownField, ...]:
    """The unknown fields of a live policy's document, by path; `after` is what is to be written over it, if anything.

    Only of what the gateway runs: keys beside `policy` are the remote's own bookkeeping.
    """
    if not _has_any(row.get("policy"), BODY_KEYS):
        return ()  # as nearly every policy, of which there may be thousands
    return tuple(sorted(_fields(row["policy"], (after or row).get("policy")), key=attrgetter("path")))


def unknown_model_fields(document: Document) -> dict[str, Any]:
    """What a live model's document has that the format does not know, by path: an update keeps all of it."""
    own = {key: value for key, value in _unknown(document, MODEL_KEYS) if not is_own_key(key)}
    settings = unknown_settings(document.get("provider_config"))
    return own | {f"provider_config.{key}": value for key, value in settings.items()}


def has_extras(document: Document, kind: Kind) -> bool:
    """Whether a live document has any unknown field; a policy's may be beside `policy` too."""
    if kind == "model":
        return bool(unknown_model_fields(document))
    return any(_unknown(document, KNOWN_KEYS)) or bool(unknown_fields(document))


def uncounted(effect: Effect, *, moved: bool = False) -> Effect:
    """The effect of a change where a policy of either version, or one that it leads to, has such fields.

    The same policy stays the same policy, unless such a field is `moved`. Other words for it may be given to other targets than
    those with the fields, as with an answer cache; so nothing is proven.
    """
    if effect.kind == "unknown" or (effect.kind == "metadata" and not moved):
        return effect
    return replace(effect, kind="effective", sure=False, uncounted=True)


def lost_extras(written: Document, now: Document, kind: Kind) -> tuple[str, ...]:
    """The paths of unknown fields that were written and that the live document does not have, or has with another value.

    Of the remote's own bookkeeping, beside `policy`, only what is not there any more.
    """
    if kind == "model":
        now_has = unknown_model_fields(now)
        return tuple(path for path, value in unknown_model_fields(written).items() if now_has.get(path) != value)
    gone = [key for key, _ in _unknown(written, KNOWN_KEYS) if now.get(key) is None]
    has = {field.path: field.value for field in unknown_fields(now)}
    return (*gone, *(field.path for field in unknown_fields(written) if has.get(field.path) != field.value))


def _has_any(group: Any, known: Collection[str]) -> bool:
    """Whether a group, a part of it or a target has a key that the format does not know."""
    if not isinstance(group, dict):
        return False
    if any(key not in known for key in group):
        return True
    parts = ((group.get(part), part_keys) for part, part_keys in PART_KEYS.items() if part in group)
    if any(isinstance(part, dict) and not part.keys() <= part_keys for part, part_keys in parts):
        return True
    targets = group.get("targets")
    return isinstance(targets, list) and any(_has_any(target, TARGET_KEYS) for target in targets)


def _fields(row: Any, after: Any) -> Iterator[UnknownField]:
    for part in _parts(row, after):
        kept = part.after is not None
        now, was, written = part.place
        moved = kept and was != now
        other = was if moved else written if kept and written != now else ""
        for key, value in _unknown(part.row, part.known):
            yield UnknownField(f"{now}.{key}", value, kept, other and f"{other}.{key}", moved)


def moved_fields(row: Document, after: Document) -> tuple[FieldChange, ...]:
    """The unknown fields of a live policy's document that do not stay where they are when `after` is written over it, each with
    one side only, as for the part that it is in. A value that may be secret is hidden: plans are saved."""
    found = []
    for field in unknown_fields(row, after):
        if field.moved or not field.kept:
            shown = plain_value(shown_free(field.value, field.path.rpartition(".")[2], unknown=True))
            found.append(FieldChange(field.was or field.path, shown, None))
            found += [FieldChange(field.path, None, shown)] * field.kept
    return tuple(found)


class _Places(NamedTuple):
    """Where a part is: after the update, before it if it may be another part, and as the live policy is written."""

    now: str
    was: str
    written: str

    def below(self, key: str) -> _Places:
        return _Places(*(f"{path}.{key}" for path in self))

    def target(self, pair: Pair) -> _Places:
        same = pair.sure and self.was == self.now
        labels = pair.label, pair.label if same else pair.was, pair.written
        return _Places(*(f"{path}.targets[{label}]" for path, label in zip(self, labels, strict=True)))


class _Part(NamedTuple):
    """A mapping in a live policy's body, and the one that replaces it (None: nothing does). `known` are the format's keys."""

    place: _Places
    row: Document
    after: Document | None
    known: Collection[str]


_BODY = _Places("policy", "policy", "policy")


def _parts(row: Any, after: Any, known: Collection[str] = BODY_KEYS, place: _Places = _BODY) -> Iterator[_Part]:
    """A group or target, its strategy, retry and cache where the format has them, and its targets, paired with what follows."""
    if not isinstance(row, dict):
        return
    after = after if isinstance(after, dict) else None
    yield _Part(place, row, after, known)
    below = after or {}
    for key in PART_KEYS.keys() & known:
        if isinstance(row.get(key), dict):
            part = below.get(key)
            yield _Part(place.below(key), row[key], part if isinstance(part, dict) else None, PART_KEYS[key])
    if isinstance(row.get("targets"), list):
        for pair in pair_groups(row, after):
            if pair.before is not None:
                child = None if pair.after is None else below["targets"][pair.after]
                yield from _parts(row["targets"][pair.before], child, TARGET_KEYS, place.target(pair))


def _unknown(row: Document, known: Collection[str]) -> Iterator[tuple[str, Any]]:
    return ((key, value) for key, value in row.items() if key not in known and value is not None)


def unknown_field_notes(found: Mapping[str, tuple[UnknownField, ...]], text_of: Callable[[str], str] = str) -> Iterator[str]:
    """Notes on these live policies (by name), one sentence for all with the same fields. `text_of` formats a path. To those
    that are kept nothing happens, so only the first ones are named."""
    alike: defaultdict[tuple[tuple[bool, bool], tuple[str, ...]], list[str]] = defaultdict(list)
    for name, fields in sorted(found.items()):
        for fate in ((True, False), (True, True), (False, False)):
            some = (field for field in fields if (field.kept, field.moved) == fate)
            if paths := tuple(text_of(one.path) + (one.was and f" (until now {text_of(one.was)})") for one in some):
                alike[fate, paths].append(name)
    for ((kept, moved), paths), names in alike.items():
        who = f"policy {names[0]} also has" if len(names) == 1 else f"policies {_listed(names)} also have"
        it, them, be, moves, goes = _ONE if len(paths) == 1 else _MANY
        gone = f"{goes} with what is removed around {them}"
        becomes = f"{moves} to what was another part" if moved else f"{be} kept" if kept else gone
        named = ", ".join(paths) if moved or not kept else _listed(paths, _NAMED_FIELDS)
        yield f"the live {who} {named}; {it} {becomes}, and effects on traffic ignore {them}"


def _listed(names: Sequence[str], most: int = _NAMED) -> str:
    return ", ".join(names) if len(names) <= most + 1 else f"{', '.join(names[:most])} and {len(names) - most:,} more"
