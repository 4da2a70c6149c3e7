"""What a change does to traffic: only what moved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isclose
from typing import Literal, NamedTuple

from policyctl.effect.canonical import Kind, kind_of
from policyctl.effect.evaluate import rounded
from policyctl.effect.outages import Outages
from policyctl.effect.picture import Picture, picture
from policyctl.effect.profile import FAILURES, Answer
from policyctl.effect.reach import Condition, short_names
from policyctl.model.normal import Document

_NOTICED = 1e-9  # chances that differ by less are the same


class Moved(NamedTuple):
    """A value that moved. None is "not known" or "there is no policy"."""

    name: str
    before: float | None
    after: float | None


class Cell(NamedTuple):
    """The chance of being served while a model or a provider (`kind`) fails in one of these ways, before and after."""

    kind: Literal["model", "provider"]
    name: str
    failures: tuple[Answer, ...]
    before: float
    after: float


class Reached(NamedTuple):
    """A model, and in words what must fail before it is asked; empty when nothing needs to."""

    model: str
    when: str


@dataclass(frozen=True, slots=True)
class Effect:
    """What moved between two versions of a policy; everything else stayed.

    `traffic` is the part of all requests that another model serves, or none. `calls`, `failover` and `latency` (seconds) are
    the worst case of one request. `refused` and `was_refused` say why the gateway begins or ceases to refuse the policy.
    """

    kind: Kind
    models: tuple[Moved, ...] = ()
    providers: tuple[Moved, ...] = ()
    traffic: float = 0.0
    worse: tuple[Cell, ...] = ()
    better: tuple[Cell, ...] = ()
    calls: Moved | None = None
    failover: Moved | None = None
    latency: Moved | None = None
    added: tuple[Reached, ...] = ()
    removed: tuple[Reached, ...] = ()
    was_refused: str | None = None
    refused: str | None = None


def compare(
    before: Document | None,
    after: Document | None,
    policies: Mapping[str, Document] | None = None,
    timeouts: Mapping[str, float] | None = None,
) -> Effect:
    """What a change does. None is "there is no such policy"; nulls inside must already mean absent (see `normal_form`)."""
    if before is not None and after is not None and before.get("policy") == after.get("policy"):
        return Effect("metadata")
    old = None if before is None else picture(before, policies, timeouts)
    new = None if after is None else picture(after, policies, timeouts)
    effect = compare_pictures(old, new)
    if before is None or after is None or old is None or new is None or effect != Effect("effective"):
        return effect
    # Where something moved, the canonical forms cannot be equal; where nothing did, they say whether nothing can.
    return Effect(kind_of(before, after, old.tree, new.tree))


def compare_pictures(old: Picture | None, new: Picture | None) -> Effect:
    """What moved between two pictures, taking it that the change is effective."""
    cells = list(_cells(old.outages, new.outages)) if old and new else []
    models = _moved(old.models if old else {}, new.models if new else {})
    return Effect(
        kind="effective",
        models=models,
        providers=_moved(old.providers if old else {}, new.providers if new else {}),
        traffic=_traffic(old.models, new.models) if old and new else 1.0,
        worse=tuple(cell for cell in cells if cell.after < cell.before),
        better=tuple(cell for cell in cells if cell.after > cell.before),
        calls=_bound("calls", old.calls.value if old else None, new.calls.value if new else None),
        failover=_bound("failover", old.failover.value if old else None, new.failover.value if new else None),
        latency=_bound("latency", _latency(old), _latency(new)),
        added=_only_in(new, old),
        removed=_only_in(old, new),
        was_refused=_refused_only(old, new),
        refused=_refused_only(new, old),
    )


def _moved(old: Mapping[str, float], new: Mapping[str, float]) -> tuple[Moved, ...]:
    """Shares that moved, in the order written; what is not there has none."""
    names = dict.fromkeys([*new, *old])
    pairs = [Moved(name, old.get(name, 0.0), new.get(name, 0.0)) for name in names]
    return tuple(one for one in pairs if _differ(one.before or 0, one.after or 0))


def _traffic(old: Mapping[str, float], new: Mapping[str, float]) -> float:
    """The part of all requests that another model serves, or nobody any more: half of all that moved."""
    moved = [abs(new.get(name, 0.0) - old.get(name, 0.0)) for name in {*old, *new}]
    return rounded((sum(moved) + abs(sum(new.values()) - sum(old.values()))) / 2)


def _cells(old: Outages, new: Outages) -> Iterator[Cell]:
    kinds: tuple[tuple[Literal["model", "provider"], dict[str, None]], ...] = (
        ("model", dict.fromkeys([*new.models, *old.models])),
        ("provider", dict.fromkeys([*new.providers, *old.providers])),
    )
    for kind, names in kinds:
        for name in names:
            before, after = old.row(kind, name), new.row(kind, name)
            if before != after:
                alike: defaultdict[tuple[float, float], list[Answer]] = defaultdict(list)
                for failure, chances in zip(FAILURES, zip(before, after, strict=True), strict=True):
                    alike[chances].append(failure)
                yield from (Cell(kind, name, tuple(failures), *both) for both, failures in alike.items() if _differ(*both))


def _differ(one: float, other: float) -> bool:
    return abs(one - other) > _NOTICED


def _bound(name: str, before: float | None, after: float | None) -> Moved | None:
    if before is not None and after is not None and isclose(before, after):
        return None
    return None if before is after is None else Moved(name, before, after)


def _refused_only(one: Picture | None, other: Picture | None) -> str | None:
    """Why the gateway refuses one of two versions, when it does not refuse the other as well."""
    return one.tree.refused if one and not (other and other.tree.refused) else None


def _latency(picture: Picture | None) -> float | None:
    return picture.latency.value if picture and picture.latency else None


def _only_in(one: Picture | None, other: Picture | None) -> tuple[Reached, ...]:
    """The models that requests can come to in one picture only."""
    if one is None:
        return ()
    known: Mapping[str, Condition] = other.reach if other else {}
    names = short_names([*one.tree.models, *(other.tree.models if other else ())])
    return tuple(Reached(model, when.said(names)) for model, when in one.reach.items() if model not in known)
