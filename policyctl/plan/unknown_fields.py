"""The fields of a live policy or model that the format does not know, and what an update does with them.

An update keeps them wherever the part that contains them remains. Those of a policy may affect traffic, which is not modelled;
so they are named wherever the policy is shown, and nothing is proven about it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from policyctl.plan.diff import pair_targets
from policyctl.policy.document import BODY_KEYS, KNOWN_KEYS, PART_KEYS, TARGET_KEYS, Document
from policyctl.policy.model_settings import unknown_settings
from policyctl.policy.names import Kind
from policyctl.policy.virtual_model import KNOWN_KEYS as MODEL_KEYS
from policyctl.policy.virtual_model import is_own_key

if TYPE_CHECKING:
    from policyctl.effect.analysis import Effect


def keep_unknown_fields(row: Document, desired: Document) -> Document:
    """The document to write over a live row (its document, without the server's keys).

    For the format's own fields `desired` decides, absent means removed. Keys that the format does not know come from the
    row, at every level that is still there, and the row keeps its own spelling of the name. Nulls are never sent.
    """
    written = {**dict(_unknown(row, KNOWN_KEYS)), **deepcopy(desired), "name": row["name"]}
    for part in _parts(row.get("policy"), written["policy"], BODY_KEYS, "policy"):
        if part.after is not None:
            for key, value in _unknown(part.row, part.known):
                part.after.setdefault(key, value)
    return written


_NAMED = 3  # policies that a note names


class UnknownField(NamedTuple):
    """One such field: its path, written as that of a difference, its value, and whether an update keeps it."""

    path: str
    value: Any
    kept: bool = True


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


def uncounted(effect: Effect) -> Effect:
    """The effect of a change where a policy of either version, or one that it leads to, has such fields.

    The same policy stays the same policy. Other words for it may be given to other targets than those with the fields, as with
    an answer cache; so nothing is proven.
    """
    if effect.kind in ("metadata", "unknown"):
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
    for part in _parts(row, after, BODY_KEYS, "policy"):
        kept = part.after is not None
        yield from (UnknownField(f"{part.path}.{key}", value, kept) for key, value in _unknown(part.row, part.known))


class _Part(NamedTuple):
    """A mapping in a live policy's body, and the one that replaces it (None: nothing does). `known` are the format's keys."""

    path: str
    row: Document
    after: Document | None
    known: Collection[str]


def _parts(row: Any, after: Any, known: Collection[str], path: str) -> Iterator[_Part]:
    """A group or target, its strategy, retry and cache where the format has them, and its targets, paired with what follows."""
    if not isinstance(row, dict):
        return
    after = after if isinstance(after, dict) else None
    yield _Part(path, row, after, known)
    below = after or {}
    for key in PART_KEYS.keys() & known:
        if isinstance(row.get(key), dict):
            part = below.get(key)
            yield _Part(f"{path}.{key}", row[key], part if isinstance(part, dict) else None, PART_KEYS[key])
    if isinstance(row.get("targets"), list):
        targets = below.get("targets")
        targets = targets if isinstance(targets, list) else []
        for label, was, becomes in pair_targets(row["targets"], targets):
            if was is not None:
                child = None if becomes is None else targets[becomes]
                yield from _parts(row["targets"][was], child, TARGET_KEYS, f"{path}.targets[{label}]")


def _unknown(row: Document, known: Collection[str]) -> Iterator[tuple[str, Any]]:
    return ((key, value) for key, value in row.items() if key not in known and value is not None)


def unknown_field_notes(found: Mapping[str, tuple[UnknownField, ...]], text_of: Callable[[str], str] = str) -> Iterator[str]:
    """Notes on these live policies (by name), one sentence for all with the same fields. `text_of` formats a path."""
    alike: defaultdict[tuple[bool, tuple[str, ...]], list[str]] = defaultdict(list)
    for name, fields in sorted(found.items()):
        for kept in (True, False):
            if paths := tuple(field.path for field in fields if field.kept is kept):
                alike[kept, paths].append(name)
    for (kept, paths), names in alike.items():
        who = f"policy {names[0]} also has" if len(names) == 1 else f"policies {_listed(names)} also have"
        it, them = ("it", "it") if len(paths) == 1 else ("they", "them")
        stays = "is kept" if it == "it" else "are kept"
        goes = "goes" if it == "it" else "go"
        becomes = stays if kept else f"{goes} with what is removed around {them}"
        yield f"the live {who} {', '.join(map(text_of, paths))}; {it} {becomes}, and effects on traffic ignore {them}"


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= _NAMED + 1 else f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED:,} more"
