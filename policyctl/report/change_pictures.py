"""What one change does to traffic, as the values that a page draws: shares, outages, the worst case and the policy itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from policyctl.core.guards import Review
from policyctl.effect.picture import Picture, picture
from policyctl.effect.reach import short_names
from policyctl.errors import NotKnown
from policyctl.model.normal import Document
from policyctl.report.drawing import Drawing, as_one, drawing
from policyctl.report.effect_views import model, seconds
from policyctl.report.heat_map import HeatMap, heat_map
from policyctl.report.plain import plain
from policyctl.report.plan_change import Item


class Share(NamedTuple):
    """One model or provider: its shares from 0 to 1 (None: not in the policy) and when a request comes to it."""

    name: str
    before: float | None
    after: float | None
    when: str


class Worst(NamedTuple):
    """A bound of one request, before and after, in words."""

    what: str
    before: str | None
    after: str | None


class Pictures(NamedTuple):
    """Everything that is drawn of one change. `graphs` are drawings with their captions."""

    models: tuple[Share, ...]
    providers: tuple[Share, ...]
    heat: HeatMap
    worst: tuple[Worst, ...]
    graphs: tuple[tuple[str, Drawing], ...]
    refused: str | None


def change_pictures(item: Item, review: Review) -> Pictures | None:
    """The pictures of a change; None when its traffic stays, or its policy cannot be followed."""
    if item.effect is not None and item.effect.kind == "metadata":
        return None
    before, after = item.before, item.after
    try:
        old = picture(before, review.policies_before, review.declared.then) if before else None
        new = picture(after, review.policies, review.declared) if after else None
    except NotKnown:  # the effect says so
        return None
    if any(seen is not None and seen.tree.untold for seen in (old, new)):
        return None
    return _pictures(old, new, tuple(_graphs(before, after)))


def _pictures(old: Picture | None, new: Picture | None, graphs: tuple[tuple[str, Drawing], ...]) -> Pictures:
    return Pictures(
        models=tuple(_models(old, new)),
        providers=tuple(_providers(old, new)),
        heat=heat_map(old.tree if old else None, new.tree if new else None),
        worst=tuple(_worst(old, new)),
        graphs=graphs,
        refused=new.tree.refused if new else None,
    )


def _models(old: Picture | None, new: Picture | None) -> Iterator[Share]:
    """Models, those with the most traffic first."""
    before, after = (seen.models if seen else {} for seen in (old, new))
    names = short_names([*after, *before])
    for name in _falling(before, after):
        yield Share(model(name), before.get(name), after.get(name), _when(name, old, new, names))


def _when(name: str, old: Picture | None, new: Picture | None, names: Mapping[str, str]) -> str:
    seen = new or old
    if seen is None or name not in seen.models:
        return "no longer a target"
    return plain(seen.reach[name].said(names)) if name in seen.reach else "never asked"


def _providers(old: Picture | None, new: Picture | None) -> Iterator[Share]:
    """Providers, where one of several has several models: else they say what the models say."""
    before, after = (seen.providers if seen else {} for seen in (old, new))
    names = _falling(before, after)
    models = {model for seen in (old, new) if seen for model in seen.models}
    if 1 < len(names) < len(models):
        yield from (Share(plain(name), before.get(name), after.get(name), "") for name in names)


def _falling(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    return sorted({**after, **before}, key=lambda name: (-after.get(name, 0), -before.get(name, 0)))


def _worst(old: Picture | None, new: Picture | None) -> Iterator[Worst]:
    for what, value_of, said in _BOUNDS:
        before, after = (value_of(seen) if seen else None for seen in (old, new))
        if before or after:
            yield Worst(what, None if before is None else said(before), None if after is None else said(after))


_BOUNDS: tuple[tuple[str, Callable[[Picture], float | None], Callable[[float], str]], ...] = (
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
