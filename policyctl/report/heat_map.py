"""The outage matrices of a policy before and after a change, as one table: failures that no row tells apart are one column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from policyctl.effect.failures import said_failures
from policyctl.effect.outages import Outages, Row, merged, outages, served, told_apart
from policyctl.effect.shares import provider_of
from policyctl.effect.tree import Tree
from policyctl.report.effect_views import model, percent

_STEPS = (1.0, 0.75, 0.5, 0.25)  # the least served of the cooler steps; then come some and nothing


class Heat(NamedTuple):
    """A cell: what is served before and after (one text where it stays), and how hot it is, from 0 (all) to 5 (nothing)."""

    step: int
    after: str
    before: str | None = None
    turn: str = ""  # better or worse


class HeatMap(NamedTuple):
    """The failures at the head of each column, and the rows with what is down and their cells."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Heat, ...]], ...]


def heat_map(before: Tree | None, after: Tree | None) -> HeatMap:
    """The matrix of a change; one side may be missing, not both."""
    trees = [tree for tree in (before, after) if tree is not None]
    classes = told_apart(trees)
    old, new = outages(trees[0], classes), outages(trees[-1], classes)
    found = list(_pairs(old, new))
    columns = _columns([pair for _, pair in found], len(classes))
    heads = tuple(said_failures(merged([classes[place] for place in places]).answers) for places in columns)
    rows = tuple((name, tuple(_heat(one[places[0]], other[places[0]]) for places in columns)) for name, (one, other) in found)
    return HeatMap(heads, rows)


def _pairs(before: Outages, after: Outages) -> Iterator[tuple[str, tuple[Row, Row]]]:
    """What may be down, with its rows. A provider of one model is down when that is, and needs no row of its own."""
    models = dict.fromkeys([*after.models, *before.models])
    for name in models:
        yield model(name), (before.row("model", name), after.row("model", name))
    providers = [provider_of(name) for name in models]
    for provider in dict.fromkeys([*after.providers, *before.providers]):
        if providers.count(provider) > 1:
            yield f"all of {model(provider)}", (before.row("provider", provider), after.row("provider", provider))


def _columns(pairs: Sequence[tuple[Row, Row]], classes: int) -> list[list[int]]:
    """The places of the classes, together where every row has the same in them; the rarer first."""
    alike: dict[tuple[tuple[float, float], ...], list[int]] = {}
    for place in range(classes):
        alike.setdefault(tuple((old[place], new[place]) for old, new in pairs), []).append(place)
    return sorted(alike.values(), key=len)


def _heat(lost_before: float, lost_after: float) -> Heat:
    before, after = served(lost_before), served(lost_after)
    step = next((number for number, least in enumerate(_STEPS) if after >= least), 4 if after > 0 else 5)
    if percent(before) == percent(after):
        return Heat(step, percent(after))
    return Heat(step, percent(after), percent(before), "worse" if after < before else "better")
