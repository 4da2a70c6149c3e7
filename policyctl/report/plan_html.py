"""Plans as pages for a browser: each is a single file that needs no network, and runs no script but its own.

The page of several environments has the form of the page of one plan. The page of a watch is filled here too.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from hashlib import sha256
from typing import Any, Literal, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from markupsafe import escape as html_escape

from policyctl.ci.comments import why_none_approved
from policyctl.effect.analysis import Analysis, analyse
from policyctl.errors import NotKnown
from policyctl.plan.diff import FieldChange
from policyctl.plan.effects import Risk
from policyctl.plan.fleet import EnvironmentResult, FleetResult
from policyctl.plan.plan import ACTIONS, Action, Change
from policyctl.plan.safety import Review
from policyctl.policy.document import Document
from policyctl.policy.findings import listed
from policyctl.policy.names import bare_name, kind_of, short_names
from policyctl.report.effect_rows import Drawing, HeatMap, as_one, drawing, first_rows, heat_map, model, percent, seconds
from policyctl.report.fleet import (
    OVERRIDDEN,
    STOPPING,
    UNCHANGED,
    WORTH_KNOWING,
    FleetView,
    PlanKind,
    changes_of,
    changes_text,
    differences,
    kinds_of,
    located,
    merged_lines,
    names_text,
    reasons_of,
    with_changes,
)
from policyctl.report.format import NONE_AFFECTED, count, describe_value, escape, field_values, position_name
from policyctl.report.headline import describe_risks, headline, plan_summary
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


_NOTHING = "default-src 'none'; base-uri 'none'"  # no network, no frames


def filled_page(template: str, *, styles: Sequence[str], script: str = "", forms: str = "'none'", **values: Any) -> str:
    """A page with these values, a style and perhaps a script. `forms` is where its forms may lead to."""
    page = _environment()
    style = Markup("").join(_asset(page, name) for name in styles)
    code = _asset(page, script) if script else ""
    scripts = f"script-src {_hash(code)}; " if script else ""
    allowed = f"{_NOTHING}; form-action {forms}; {scripts}style-src {_hash(style)}"
    return page.get_template(template).render(script=code, style=style, allowed=allowed, **values)


@cache  # with the templates that it compiled, which takes longer than to fill them in
def _environment() -> Environment:
    """The templates. Every value in them is escaped twice, so that it contains neither markup nor invisible characters."""
    page = Environment(
        loader=PackageLoader("policyctl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    page.filters["share"] = lambda share: None if share is None else percent(share)
    page.filters["folds"] = lambda name: html_escape(escape(name)).replace("/", Markup("/<wbr>"))
    page.filters["wide"] = lambda share: f"{share * 100:.4g}"
    return page


def _visible(value: Any) -> Any:
    return escape(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _asset(page: Environment, name: str) -> Markup:
    """A script or style of ours, included unchanged."""
    return Markup(page.get_template(name).render())  # noqa: S704 - it contains no values


def _hash(text: str) -> str:
    """The source expression by which a content security policy allows a script or a style."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


# They bound the size of a page: 2,000 environments with as many different plans are some 4 MB.
_PICTURES = 60  # changes that are drawn
_CHANGES = 1_000
_ROWS = 5_000  # environments in the table
_NOTICES = 100


class EnvironmentRow(NamedTuple):
    """An environment in the table; `plan` is the number of its kind of plan, `look` how it is coloured."""

    name: str
    status: str
    changes: str
    about: str
    look: str
    plan: str


def fleet_html(view: FleetView) -> str:
    """The whole page."""
    fleet, kinds = view.fleet, kinds_of(view.fleet)
    changes = changes_of(kinds)
    beside = differences(fleet)
    table = list(_rows(fleet, kinds))
    return filled(
        "fleet.html",
        shown=list(_fleet_shown(changes[:_CHANGES], kinds)),
        title=f"Plans for {count(len(fleet.results), 'environment')}",
        summary=f"{with_changes(fleet):,} with changes, {fleet.count('failed'):,} failed",
        settings=[field_shown(field) for field in fleet.settings],
        settings_title=settings_title(fleet.settings),
        tiles=list(_fleet_tiles(fleet, changes)),
        none_approved=why_none_approved(fleet),
        notices=list(_fleet_notices(fleet, kinds))[:_NOTICES],
        heads=[names_text(names) for names in beside.heads],
        differences=[(one.policy, one.field, [*map(_sides, one.cells)]) for one in beside.rows],
        not_compared=beside.left_out(),
        nothing="No changes" if fleet.results else NONE_AFFECTED.capitalize(),
        headline=(),
        kinds=list(kinds_shown(affected=any(item.change is None for item, _ in changes))),
        left_out=len(changes[_CHANGES:]),
        rows=table[:_ROWS],
        more_rows=len(table[_ROWS:]),
        number=count(len(fleet.results), "environment"),
        digest=fleet.digest,
        provenance=view.provenance.rows,
        assumed="; ".join(dict.fromkeys(text for kind in kinds for text in basis_of(kind.review))),
    )


def _fleet_shown(changes: Sequence[tuple[Item, Review]], kinds: Sequence[PlanKind]) -> Iterator[Shown]:
    """The changes, with the environments and the numbers of the kinds of plans that have them."""
    numbers = {name: place for place, kind in enumerate(kinds, 1) for name in kind.names}
    for place, (item, review) in enumerate(changes, 1):
        found = dict.fromkeys(str(numbers[name]) for name in item.where)
        one = shown_item(place, item, review, pictures=place <= _PICTURES)
        yield one._replace(where=names_text(item.where), kinds=" ".join(found))


def _fleet_tiles(fleet: FleetResult, changes: Sequence[tuple[Item, Review]]) -> Iterator[tuple[str, str, int, str]]:
    """The counts at the top, as those of one plan but without symbols. A change in many environments counts once."""
    by_action = Counter(item.action for item, _ in changes)
    yield "update", "", with_changes(fleet), "environments with changes"
    yield "remove", "", fleet.count("failed"), "failed"
    yield "rest", "", sum(one.status == "planned" and not one.changes for one in fleet.results), "without changes"
    for status in ("not begun", "suspended"):
        if number := fleet.count(status):
            yield "rest", "", number, status
    for action in ACTIONS:
        yield action, "", by_action[action], f"to {action}"
    yield "worse", "", sum(item.worse for item, _ in changes), "worse"


def _fleet_notices(fleet: FleetResult, kinds: Sequence[PlanKind]) -> Iterator[Notice]:
    """The messages above all changes, the gravest first, with the environments that they are about."""
    everywhere = sum(len(kind.names) for kind in kinds)
    yield from (Notice("failed", listed(names), reason) for reason, names in reasons_of(fleet))
    for alert in (OVERRIDDEN, *STOPPING, *WORTH_KNOWING):
        for line, names in merged_lines(kinds, alert.lines):
            yield Notice("note" if alert.kind == "row" else alert.kind, "", located(line, names, everywhere))
    if fleet.gone:
        yield Notice("note", listed(fleet.gone), "no longer in the fleet, and left as they are")


def _sides(cell: str) -> tuple[str | None, str]:
    before, arrow, after = cell.partition(" → ")
    return (before, after) if arrow else (None, cell)


def _rows(fleet: FleetResult, kinds: Sequence[PlanKind]) -> Iterator[EnvironmentRow]:
    """The environments: those that failed first, then those with changes."""
    numbers: defaultdict[str, str] = defaultdict(str)
    numbers |= {name: str(place) for place, kind in enumerate(kinds, 1) for name in kind.names}
    ranked = sorted(fleet.results, key=lambda one: (not one.failed, one.status != "not begun", not one.changes))
    for one in ranked:
        about = one.reason or one.remote
        changes = changes_text(one) or (UNCHANGED if one.whole else NOT_COMPARED.lower())
        yield EnvironmentRow(one.name, _status(one), changes, about, _look(one), numbers[one.name])


def _status(one: EnvironmentResult) -> str:
    return f"failed (exit code {one.code})" if one.failed else one.status


def _look(one: EnvironmentResult) -> str:
    if one.failed:
        return "failed"
    return "held" if one.status in ("suspended", "not begun") else "changed" if one.changes else "same"
