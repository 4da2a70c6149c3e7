"""A plan as a page for a browser: a single file that needs no network and runs only its own script."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from policyctl.effect.analysis import Analysis, analyse
from policyctl.errors import NotKnown
from policyctl.plan.diff import FieldChange
from policyctl.plan.effects import Risk
from policyctl.plan.plan import Action, Change
from policyctl.plan.safety import Review
from policyctl.policy.document import Document
from policyctl.policy.names import bare_name, kind_of, short_names
from policyctl.report.drawings import Drawing, HeatMap, as_one, drawing, heat_map
from policyctl.report.effect_rows import first_rows, model, seconds
from policyctl.report.format import describe_value, escape, field_values, position_name
from policyctl.report.headline import describe_risks, headline, plan_summary
from policyctl.report.page import filled_page
from policyctl.report.plan_items import Item, fields_of, items_of
from policyctl.report.plan_view import (
    ALSO,
    NOT_COMPARED,
    RESTORED,
    UNBOUND,
    PlanView,
    all_compared,
    basis_of,
    how_many,
    notes_of,
    override_text,
    rest_of,
    settings_title,
    target_path,
    why_blocked,
)

_SYMBOLS: dict[Action | Literal["affected"], str] = {"add": "+", "update": "~", "remove": "−", "affected": "≈"}
_OPEN = 3  # up to this many changes are expanded
_PRINTED = 50  # up to this many changes are expanded when printing


class Shown(NamedTuple):
    """A change on the page, or a policy that one affects. `number` is its place in the plan, `summary` its effect in one line;
    `way` leads from an affected policy to a change.

    `about` is the description of an added or removed policy (for an update it is an ordinary field), `moved` who moved it.
    """

    number: int
    symbol: str
    action: str
    whole: str
    file: str | None
    name: str
    way: str
    summary: str
    worse: bool
    about: str
    fields: tuple[tuple[str, str | None, str | None], ...]
    rows: tuple[str, ...]
    more: int
    pictures: ChangeView | None
    users: str
    lost: str
    moved: str
    where: str = ""  # the environments that it is for, on a page of several
    kinds: str = ""  # and the kinds of plans that have it, by number


class Notice(NamedTuple):
    """A message above all changes; `kind` is the word before it."""

    kind: str
    about: str
    text: str


def plan_html(subject: PlanView) -> str:
    """The whole page."""
    review = subject.review
    shown, summary = _shown(subject), plan_summary(review)
    return filled(
        "plan.html",
        plan=review.plan,
        remote=subject.remote,
        settings=[field_shown(field) for field in review.branch.settings],
        settings_title=settings_title(review.branch.settings),
        summary=summary,
        headline=headline(summary),
        places={one.name: one.number for one in shown},
        notices=list(_notices(review)),
        tiles=list(_tiles(review, shown)),
        assumed="; ".join(basis_of(review)),
        shown=shown,
        nothing="No changes" if all_compared(review) else NOT_COMPARED,
        kinds=list(kinds_shown(affected=bool(review.affected))),
        provenance=subject.provenance.rows,
    )


def filled(template: str, *, shown: Sequence[Shown], **values: Any) -> str:
    """A page of changes with these values."""
    return filled_page(
        template,
        styles=["plan.css"],
        script="plan.js",
        shown=shown,
        all_open=len(shown) <= _OPEN,
        many=len(shown) > _PRINTED,
        **values,
    )


def _notices(review: Review) -> Iterator[Notice]:
    """The messages above everything else, the gravest first."""
    yield from (Notice("overridden", "", override_text(one)) for one in review.plan.overrides)
    yield from (Notice("stale", "", why) for why in review.stale)
    yield from (Notice("failed", "scenario test", why) for why in review.branch.failed_tests)
    yield from (Notice("refused", "", why) for why in review.refusals)
    yield from (Notice("blocked", block.name, why_blocked(block)) for block in review.plan.blocked)
    yield from (Notice("warning", str(w.mark), w.coded) for w in review.branch.warnings)
    yield from (Notice("restoration", name, RESTORED) for name in sorted(review.restored))
    yield from (Notice("note", "", note) for note in notes_of(review))


def _tiles(review: Review, shown: Sequence[Shown]) -> Iterator[tuple[str, str, int, str]]:
    """The counts at the top: a kind, a symbol, a number and what it counts."""
    plan = review.plan
    for action, number in plan.totals.items():
        kinds = f" ({how_many(plan, action)})" if plan.has_models and number else ""
        yield action, _SYMBOLS[action], number, f"to {action}{kinds}"
    if plan.changes:
        yield "worse", "▼", sum(one.worse for one in shown), "worse"
    for number, name in rest_of(review):
        kind, symbol = {"blocked": ("blocked", "!"), ALSO: ("affected", _SYMBOLS["affected"])}.get(name, ("rest", ""))
        yield kind, symbol, number, name


def kinds_shown(*, affected: bool) -> Iterator[tuple[str, str]]:
    """The kinds that the page can be filtered by, with their labels."""
    yield "", "All"
    for kind, symbol in _SYMBOLS.items():
        if kind != "affected" or affected:
            yield kind, f"{symbol} {kind.capitalize()}"


def _shown(subject: PlanView) -> list[Shown]:
    review = subject.review
    names = [*(change.name for change in review.plan.changes), *(one.name for one in review.affected)]
    places = {name: place for place, name in enumerate(names, 1)}
    return [shown_item(places[item.name], item, review) for item in items_of(subject)]


def shown_item(number: int, item: Item, review: Review, *, pictures: bool = True) -> Shown:
    """What the page shows of a change; without `pictures`, as a text of fields and effects."""
    change, risk = item.change, item.risk
    rows, more = first_rows(item.effect, whole=False) if item.effect else ([], 0)
    return Shown(
        number=number,
        symbol=_SYMBOLS[item.action],
        action=item.action,
        whole=item.name,
        file=change.file if change else None,
        name=bare_name(item.name),
        way=_way(item),
        summary=_summary(change, risk, rows, item.further),
        worse=item.worse,
        about=_about(change) if change else "",
        fields=tuple(field_shown(field) for field in fields_of(change)) if change else (),
        rows=tuple(rows),
        more=more,
        pictures=change_view(item, review) if pictures else None,
        users=item.users,
        lost=item.lost,
        moved=item.moved,
    )


def _way(item: Item) -> str:
    """The policies that lead from an affected policy to the change; empty for a change."""
    if not item.through:
        return ""
    return f"{ALSO}, {target_path(item.through)}" + ("" if item.bound else f" {UNBOUND}")


def field_shown(field: FieldChange) -> tuple[str, str | None, str | None]:
    """The path and both values of a field; None for an absent value."""
    before, after = field_values(field, longest=None)
    return position_name(field.path), None if field.before is None else before, None if field.after is None else after


def _about(change: Change) -> str:
    description = (change.after or change.before or {}).get("description")
    return "" if change.action == "update" or description in (None, change.name) else str(description)


def _summary(change: Change | None, risk: Risk | None, rows: Sequence[str], further: str | None) -> str:
    if risk is not None:
        return "; ".join(describe_risks(risk))
    if change is not None and change.action == "add" and change.after is not None:
        return f"{describe_value(change.after)}{f'; {further}' if further else ''}"
    return rows[0] if rows else ""


class ShareChange(NamedTuple):
    """A model or provider, its shares from 0 to 1 (None: not in the policy), and when requests reach it."""

    name: str
    before: float | None
    after: float | None
    when: str


class WorstCase(NamedTuple):
    """A bound on one request, before and after, in words."""

    what: str
    before: str | None
    after: str | None


class ChangeView(NamedTuple):
    """What is drawn for one change. `graphs` are drawings with their captions."""

    models: tuple[ShareChange, ...]
    providers: tuple[ShareChange, ...]
    heat: HeatMap
    worst: tuple[WorstCase, ...]
    graphs: tuple[tuple[str, Drawing], ...]
    refused: str | None


def change_view(item: Item, review: Review) -> ChangeView | None:
    """What to draw for a change; None if its traffic stays the same or is not known."""
    if kind_of(item.name) == "model" or (item.effect is not None and item.effect.kind == "metadata"):
        return None
    before, after = item.before, item.after
    try:
        old = analyse(before, review.policies_before, review.declared.then) if before else None
        new = analyse(after, review.policies, review.declared) if after else None
    except NotKnown:  # the effect gives the reason
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
    """Models, the most traffic first."""
    before, after = (seen.models if seen else {} for seen in (old, new))
    names = short_names([*after, *before])
    for name in _falling(before, after):
        yield ShareChange(model(name), before.get(name), after.get(name), _when(name, old, new, names))


def _when(name: str, old: Analysis | None, new: Analysis | None, names: Mapping[str, str]) -> str:
    seen = new or old
    if seen is None or name not in seen.models:
        return "no longer a target"
    return escape(seen.reach[name].said(names)) if name in seen.reach else "never called"


def _providers(old: Analysis | None, new: Analysis | None) -> Iterator[ShareChange]:
    """Provider shares, unless every provider has one model (then they repeat the model shares)."""
    before, after = (seen.providers if seen else {} for seen in (old, new))
    names = _falling(before, after)
    models = {model for seen in (old, new) if seen for model in seen.models}
    if 1 < len(names) < len(models):
        yield from (ShareChange(escape(name), before.get(name), after.get(name), "") for name in names)


def _falling(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    return sorted({**after, **before}, key=lambda name: (-after.get(name, 0), -before.get(name, 0)))


def _worst(old: Analysis | None, new: Analysis | None) -> Iterator[WorstCase]:
    for what, value_of, text in _BOUNDS:
        before, after = (value_of(seen) if seen else None for seen in (old, new))
        if before or after:
            yield WorstCase(what, None if before is None else text(before), None if after is None else text(after))


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
    yield from ((caption, one) for caption, one in (("Before", old), ("After", new)) if one)
