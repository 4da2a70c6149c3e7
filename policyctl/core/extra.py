"""Fields of a live policy that the format does not know: where they stand, and what becomes of them when it is updated.

An update keeps them (see `carry`) wherever the part that they stand in is still there. They may well decide what happens to
traffic, which nothing here models; so they are named wherever the policy is, and nothing is proven of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from policyctl.core.pairing import pair_targets
from policyctl.model.normal import BODY_KEYS, KNOWN_KEYS, PART_KEYS, TARGET_KEYS, Document

if TYPE_CHECKING:
    from policyctl.effect.compare import Effect

_NAMED = 3  # policies that a note names


class Extra(NamedTuple):
    """One such field: its path, written as that of a difference, its value, and whether an update keeps it."""

    path: str
    value: Any
    kept: bool = True


def extras(row: Document, after: Document | None = None) -> tuple[Extra, ...]:
    """The unknown fields of a live policy's document, by path; `after` is what is to be written over it, if anything.

    Only of what the gateway runs: keys beside `policy` are the remote's own bookkeeping.
    """
    if not _has_any(row.get("policy"), BODY_KEYS):
        return ()  # as nearly every policy, of which there may be thousands
    return tuple(sorted(_group(row.get("policy"), (after or row).get("policy"), BODY_KEYS, "policy"), key=_path))


def has_extras(document: Document) -> bool:
    """Whether a live policy's document has any unknown field, beside `policy` too."""
    return any(_unknown(document, KNOWN_KEYS)) or bool(extras(document))


def uncounted(effect: Effect) -> Effect:
    """The effect of a change where a policy of either version, or one that it leads to, has such fields.

    The same policy stays the same policy. Other words for it may be given to other targets than those with the fields, as with
    an answer cache; so nothing is proven.
    """
    if effect.kind in ("metadata", "unknown"):
        return effect
    return replace(effect, kind="effective", sure=False, uncounted=True)


def lost_extras(written: Document, now: Document) -> tuple[str, ...]:
    """The paths of unknown fields that were written and that the live document does not have, or has with another value.

    Of the remote's own bookkeeping, beside `policy`, only what is not there any more.
    """
    gone = [key for key, _ in _unknown(written, KNOWN_KEYS) if now.get(key) is None]
    has = {field.path: field.value for field in extras(now)}
    return (*gone, *(field.path for field in extras(written) if has.get(field.path) != field.value))


def _path(extra: Extra) -> str:
    return extra.path


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


def _group(row: Any, after: Any, known: Collection[str], path: str) -> Iterator[Extra]:
    if not isinstance(row, dict):
        return
    is_kept = isinstance(after, dict)
    after = after if is_kept else {}
    yield from (Extra(f"{path}.{key}", value, is_kept) for key, value in _unknown(row, known))
    for part, part_keys in PART_KEYS.items():
        if isinstance(row.get(part), dict):
            stays = isinstance(after.get(part), dict)
            yield from (Extra(f"{path}.{part}.{key}", value, stays) for key, value in _unknown(row[part], part_keys))
    if isinstance(row.get("targets"), list):
        targets = after.get("targets")
        targets = targets if isinstance(targets, list) else []
        for label, was, becomes in pair_targets(row["targets"], targets):
            if was is not None:
                child = None if becomes is None else targets[becomes]
                yield from _group(row["targets"][was], child, TARGET_KEYS, f"{path}.targets[{label}]")


def _unknown(row: Document, known: Collection[str]) -> Iterator[tuple[str, Any]]:
    return ((key, value) for key, value in row.items() if key not in known and value is not None)


def extra_notes(found: Mapping[str, tuple[Extra, ...]], said: Callable[[str], str] = str) -> Iterator[str]:
    """What to know of these live policies (by name), one sentence for those that have the same fields.

    `said` is how a path is written.
    """
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
        yield f"the live {who} {', '.join(map(said, paths))}; {it} {becomes}, and what is said of traffic does not count {them}"


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= _NAMED + 1 else f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED:,} more"
