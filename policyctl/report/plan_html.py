"""A plan as one page for a browser. All of it is in one file: it needs no network, and runs no script but its own."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any, Literal, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from markupsafe import escape as html_escape

from policyctl.plan.change import Action, Change
from policyctl.plan.diff import FieldChange
from policyctl.plan.risk import Risk
from policyctl.plan.safety import Review
from policyctl.policy.names import bare_name
from policyctl.report.change_view import ChangeView, change_view
from policyctl.report.effect_rows import first_rows
from policyctl.report.effect_view import percent
from policyctl.report.format import describe_value, escape, field_values, position_name
from policyctl.report.headline import headline, plan_summary, said_risks
from policyctl.report.plan_items import Item, fields_of, items_of
from policyctl.report.plan_view import (
    ALSO,
    NOT_COMPARED,
    RESTORED,
    SETTINGS_TOLD,
    UNBOUND,
    PlanView,
    all_compared,
    basis_of,
    notes_of,
    override_text,
    rest_of,
    target_path,
    why_blocked,
)

_SYMBOLS: dict[Action | Literal["affected"], str] = {"add": "+", "update": "~", "remove": "−", "affected": "≈"}
_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'"  # no network, no frames, no forms
_LONGEST = 2000  # of a value
_OPEN = 3  # a plan of so many changes is shown opened
_PRINTED = 50  # a plan of so many changes is printed opened; of more, what is open on the page


class Shown(NamedTuple):
    """One change on the page, or a policy that it affects. `number` is its place in the plan, `told` what to know of it in
    one line; `way` leads from an affected policy to a change.

    `about` is the description of a policy that comes or goes; of one that stays it is a field when it changes.
    """

    number: int
    symbol: str
    action: str
    whole: str
    file: str | None
    name: str
    way: str
    told: str
    worse: bool
    about: str
    fields: tuple[tuple[str, str | None, str | None], ...]
    rows: tuple[str, ...]
    more: int
    pictures: ChangeView | None


class Notice(NamedTuple):
    """Something that is said above all changes; `kind` is the word before it."""

    kind: str
    about: str
    text: str


def plan_html(subject: PlanView) -> str:
    """The whole page."""
    review = subject.review
    page = _environment()
    script, style = _asset(page, "plan.js"), _asset(page, "plan.css")
    shown, said = _shown(subject), plan_summary(review)
    return page.get_template("plan.html").render(
        plan=review.plan,
        remote=subject.remote,
        settings=[_field(field) for field in review.settings],
        settings_told=SETTINGS_TOLD,
        verdict=said,
        headline=headline(said),
        places={one.name: one.number for one in shown},
        notices=list(_notices(review)),
        tiles=list(_tiles(review, shown)),
        assumed="; ".join(basis_of(review)),
        shown=shown,
        nothing="No changes" if all_compared(review) else NOT_COMPARED,
        all_open=len(shown) <= _OPEN,
        many=len(shown) > _PRINTED,
        kinds=list(_kinds(review)),
        script=script,
        style=style,
        allowed=f"{_NOTHING}; script-src {_hash(script)}; style-src {_hash(style)}",
    )


def _environment() -> Environment:
    """Every value that a template writes is escaped twice over: nothing in it is markup, and nothing in it is invisible."""
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
    """A file of ours that stands in the page as it is."""
    return Markup(page.get_template(name).render())  # noqa: S704 - no value goes into it


def _hash(text: str) -> str:
    """What a content security policy calls a script or a style that it lets in."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _notices(review: Review) -> Iterator[Notice]:
    """What stands above everything else, the gravest first."""
    yield from (Notice("overridden", "", override_text(one)) for one in review.plan.overrides)
    yield from (Notice("stale", "", why) for why in review.stale)
    yield from (Notice("failed", "scenario test", why) for why in review.failed_tests)
    yield from (Notice("refused", "", why) for why in review.refusals)
    yield from (Notice("blocked", block.name, why_blocked(block)) for block in review.plan.blocked)
    yield from (Notice("warning", f"{w.mark}: {w.code}", w.message) for w in review.warnings)
    yield from (Notice("restoration", name, RESTORED) for name in sorted(review.restored))
    yield from (Notice("note", "", note) for note in notes_of(review))


def _tiles(review: Review, shown: Sequence[Shown]) -> Iterator[tuple[str, str, int, str]]:
    """A kind, a symbol, a number and what it counts."""
    plan = review.plan
    yield from ((action, _SYMBOLS[action], number, f"to {action}") for action, number in plan.totals.items())
    if plan.changes:
        yield "worse", "▼", sum(one.worse for one in shown), "worse"
    for number, said in rest_of(review):
        kind, symbol = {"blocked": ("blocked", "!"), ALSO: ("affected", _SYMBOLS["affected"])}.get(said, ("rest", ""))
        yield kind, symbol, number, said


def _kinds(review: Review) -> Iterator[tuple[str, str]]:
    """What the page can be filtered by: a kind, and its name."""
    yield "", "All"
    for kind, symbol in _SYMBOLS.items():
        if kind != "affected" or review.affected:
            yield kind, f"{symbol} {kind.capitalize()}"


def _shown(subject: PlanView) -> list[Shown]:
    review = subject.review
    names = [*(change.name for change in review.plan.changes), *(one.name for one in review.affected)]
    places = {name: place for place, name in enumerate(names, 1)}
    return [_one(places[item.name], item, review) for item in items_of(subject)]


def _one(number: int, item: Item, review: Review) -> Shown:
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
        told=_affected_notes(change, risk, rows),
        worse=item.worse,
        about=_about(change) if change else "",
        fields=tuple(_field(field) for field in fields_of(change)) if change else (),
        rows=tuple(rows),
        more=more,
        pictures=change_view(item, review),
    )


def _way(item: Item) -> str:
    """The way to the change that affects a policy; nothing for a change itself."""
    if not item.through:
        return ""
    return f"{ALSO}, {target_path(item.through)}" + ("" if item.bound else f" {UNBOUND}")


def _field(field: FieldChange) -> tuple[str, str | None, str | None]:
    """Where, and both values; None where there is none."""
    before, after = field_values(field, longest=_LONGEST)
    return position_name(field.path), None if field.before is None else before, None if field.after is None else after


def _about(change: Change) -> str:
    description = (change.after or change.before or {}).get("description")
    return "" if change.action == "update" or description in (None, change.name) else str(description)[:_LONGEST]


def _affected_notes(change: Change | None, risk: Risk | None, rows: Sequence[str]) -> str:
    if risk is not None:
        return "; ".join(said_risks(risk))
    if change is not None and change.action == "add" and change.after is not None:
        return describe_value(change.after)
    return rows[0] if rows else ""
