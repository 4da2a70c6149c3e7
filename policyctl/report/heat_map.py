"""The outage matrices of a policy before and after a change, as one table: failures that no row tells apart are one column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from policyctl.effect.outages import Outages, Row
from policyctl.effect.profile import FAILURES
from policyctl.effect.shares import provider_of
from policyctl.report.effect_views import model, percent, said_failures

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


def heat_map(before: Outages | None, after: Outages | None) -> HeatMap:
    """The matrix of a change; one side may be missing, not both."""
    found = list(_pairs(before or after, after or before))
    columns = _columns([pair for _, pair in found])
    heads = tuple(said_failures([FAILURES[place] for place in places]) for places in columns)
    rows = tuple((name, tuple(_heat(old[places[0]], new[places[0]]) for places in columns)) for name, (old, new) in found)
    return HeatMap(heads, rows)


def _pairs(before: Outages | None, after: Outages | None) -> Iterator[tuple[str, tuple[Row, Row]]]:
    """What may be down, with its rows. A provider of one model is down when that is, and needs no row of its own."""
    if before is None or after is None:
        return
    models = dict.fromkeys([*after.models, *before.models])
    for name in models:
        yield model(name), (before.row("model", name), after.row("model", name))
    providers = [provider_of(name) for name in models]
    for provider in dict.fromkeys([*after.providers, *before.providers]):
        if providers.count(provider) > 1:
            yield f"all of {model(provider)}", (before.row("provider", provider), after.row("provider", provider))


def _columns(pairs: Sequence[tuple[Row, Row]]) -> list[list[int]]:
    """The places of FAILURES, together where every row has the same in them; the rarer first."""
    alike: dict[tuple[tuple[float, float], ...], list[int]] = {}
    for place in range(len(FAILURES)):
        alike.setdefault(tuple((old[place], new[place]) for old, new in pairs), []).append(place)
    return sorted(alike.values(), key=len)


def _heat(before: float, after: float) -> Heat:
    step = next((number for number, least in enumerate(_STEPS) if after >= least), 4 if after > 0 else 5)
    if percent(before) == percent(after):
        return Heat(step, percent(after))
    return Heat(step, percent(after), percent(before), "worse" if after < before else "better")
