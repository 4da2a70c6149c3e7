"""What one change does to traffic, as the values that the HTML page draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from policyctl.effect.analysis import Analysis, analyse
from policyctl.effect.failures import describe_failures
from policyctl.effect.outages import Outages, Row, merged, outages, served, told_apart
from policyctl.effect.tree import Tree
from policyctl.errors import NotKnown
from policyctl.plan.safety import Review
from policyctl.policy.document import Document
from policyctl.policy.names import provider_of, short_names
from policyctl.report.effect_view import model, percent, seconds
from policyctl.report.format import escape
from policyctl.report.graph import Drawing, as_one, drawing
from policyctl.report.plan_items import Item

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
    heads = tuple(describe_failures(merged([classes[place] for place in places]).answers) for places in columns)
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


class ShareChange(NamedTuple):
    """One model or provider: its shares from 0 to 1 (None: not in the policy) and when a request comes to it."""

    name: str
    before: float | None
    after: float | None
    when: str


class WorstCase(NamedTuple):
    """A bound of one request, before and after, in words."""

    what: str
    before: str | None
    after: str | None


class ChangeView(NamedTuple):
    """Everything that is drawn of one change. `graphs` are drawings with their captions."""

    models: tuple[ShareChange, ...]
    providers: tuple[ShareChange, ...]
    heat: HeatMap
    worst: tuple[WorstCase, ...]
    graphs: tuple[tuple[str, Drawing], ...]
    refused: str | None


def change_view(item: Item, review: Review) -> ChangeView | None:
    """The pictures of a change; None when its traffic stays, or its policy cannot be followed."""
    if item.effect is not None and item.effect.kind == "metadata":
        return None
    before, after = item.before, item.after
    try:
        old = analyse(before, review.policies_before, review.declared.then) if before else None
        new = analyse(after, review.policies, review.declared) if after else None
    except NotKnown:  # the effect shows it
        return None
    if any(seen is not None and seen.tree.untold for seen in (old, new)):
        return None
    return _view(old, new, tuple(_graphs(before, after)))


def _view(old: Analysis | None, new: Analysis | None, graphs: tuple[tuple[str, Drawing], ...]) -> ChangeView:
    return ChangeView(
        models=tuple(_models(old, new)),
        providers=tuple(_providers(old, new)),
        heat=heat_map(old.tree if old else None, new.tree if new else None),
        worst=tuple(_worst(old, new)),
        graphs=graphs,
        refused=new.tree.refused if new else None,
    )


def _models(old: Analysis | None, new: Analysis | None) -> Iterator[ShareChange]:
    """Models, those with the most traffic first."""
    before, after = (seen.models if seen else {} for seen in (old, new))
    names = short_names([*after, *before])
    for name in _falling(before, after):
        yield ShareChange(model(name), before.get(name), after.get(name), _when(name, old, new, names))


def _when(name: str, old: Analysis | None, new: Analysis | None, names: Mapping[str, str]) -> str:
    seen = new or old
    if seen is None or name not in seen.models:
        return "no longer a target"
    return escape(seen.reach[name].said(names)) if name in seen.reach else "never asked"


def _providers(old: Analysis | None, new: Analysis | None) -> Iterator[ShareChange]:
    """Providers, where one of several has several models: else they say what the models say."""
    before, after = (seen.providers if seen else {} for seen in (old, new))
    names = _falling(before, after)
    models = {model for seen in (old, new) if seen for model in seen.models}
    if 1 < len(names) < len(models):
        yield from (ShareChange(escape(name), before.get(name), after.get(name), "") for name in names)


def _falling(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    return sorted({**after, **before}, key=lambda name: (-after.get(name, 0), -before.get(name, 0)))


def _worst(old: Analysis | None, new: Analysis | None) -> Iterator[WorstCase]:
    for what, value_of, said in _BOUNDS:
        before, after = (value_of(seen) if seen else None for seen in (old, new))
        if before or after:
            yield WorstCase(what, None if before is None else said(before), None if after is None else said(after))


_BOUNDS: tuple[tuple[str, Callable[[Analysis], float | None], Callable[[float], str]], ...] = (
    ("calls", lambda seen: seen.calls.value, "{:,.0f}".format),
    ("back-off", lambda seen: seen.waits.value, seconds),
    ("back-off before the last failover", lambda seen: seen.failover.value, seconds),
    ("latency, every call taking its whole timeout", lambda seen: seen.latency.value if seen.latency else None, seconds),
)


def _graphs(before: Document | None, after: Document | None) -> Iterator[tuple[str, Drawing]]:
    old, new = (drawing(document) if document else None for document in (before, after))
    if old and new and (both := as_one(old, new)):
        yield "Before and after", both
        return
    if old:
        yield "Before", old
    if new:
        yield "After", new
