"""The plans of several environments as one page for a browser, in the form of the page of one plan."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from policyctl.ci.comments import why_none_approved
from policyctl.plan.fleet import EnvironmentResult, FleetResult
from policyctl.plan.plan import ACTIONS
from policyctl.plan.safety import Review
from policyctl.policy.findings import listed
from policyctl.report.environments import NONE_AFFECTED
from policyctl.report.fleet import changes_text
from policyctl.report.fleet_view import (
    OVERRIDDEN,
    STOPPING,
    UNCHANGED,
    WORTH_KNOWING,
    FleetView,
    PlanKind,
    changes_of,
    differences,
    kinds_of,
    located,
    merged_lines,
    names_text,
    reasons_of,
    with_changes,
)
from policyctl.report.format import count
from policyctl.report.plan_html import Notice, Shown, field_shown, filled, kinds_shown, shown_item
from policyctl.report.plan_items import Item
from policyctl.report.plan_view import basis_of, settings_title

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
        shown=list(_shown(changes[:_CHANGES], kinds)),
        title=f"Plans for {count(len(fleet.results), 'environment')}",
        summary=f"{with_changes(fleet):,} with changes, {fleet.count('failed'):,} failed",
        settings=[field_shown(field) for field in fleet.settings],
        settings_title=settings_title(fleet.settings),
        tiles=list(_tiles(fleet, changes)),
        none_approved=why_none_approved(fleet),
        notices=list(_notices(fleet, kinds))[:_NOTICES],
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


def _shown(changes: Sequence[tuple[Item, Review]], kinds: Sequence[PlanKind]) -> Iterator[Shown]:
    """The changes, with the environments and the numbers of the kinds of plans that have them."""
    numbers = {name: place for place, kind in enumerate(kinds, 1) for name in kind.names}
    for place, (item, review) in enumerate(changes, 1):
        found = dict.fromkeys(str(numbers[name]) for name in item.where)
        one = shown_item(place, item, review, pictures=place <= _PICTURES)
        yield one._replace(where=names_text(item.where), kinds=" ".join(found))


def _tiles(fleet: FleetResult, changes: Sequence[tuple[Item, Review]]) -> Iterator[tuple[str, str, int, str]]:
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


def _notices(fleet: FleetResult, kinds: Sequence[PlanKind]) -> Iterator[Notice]:
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
        yield EnvironmentRow(one.name, _status(one), changes_text(one) or UNCHANGED, about, _look(one), numbers[one.name])


def _status(one: EnvironmentResult) -> str:
    return f"failed (exit code {one.code})" if one.failed else one.status


def _look(one: EnvironmentResult) -> str:
    if one.failed:
        return "failed"
    return "held" if one.status in ("suspended", "not begun") else "changed" if one.changes else "same"
