"""What pages of several environments show: each change once with the environments that have it, and the differences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from policyctl.plan.fleet import EnvironmentResult, FleetResult
from policyctl.plan.plan import Change
from policyctl.plan.safety import Review
from policyctl.policy.document import canonical_text
from policyctl.policy.findings import listed
from policyctl.policy.names import bare_name
from policyctl.report.format import count, cut, describe_value, position_name, value
from policyctl.report.headline import is_unknown
from policyctl.report.plan_items import NAMED, Item, fields_of, items_of
from policyctl.report.plan_text import sides
from policyctl.report.plan_view import NO_PROVENANCE, PlanView, Provenance, notes_on_changes, override_text, why_blocked

_COLUMNS = 6  # kinds of plans that are shown side by side
_ROWS = 50  # rows of what differs
_FIELDS = 6  # of a policy, that are shown side by side
_CELL, _SIDE = 80, 60  # characters in a cell, and of a value before or after
_REFUSED = "refused by "
_TEXTS = ("display_name", "description")  # which follow from the rest where they are templates, so they come last
UNCHANGED = "–"


class FleetView(NamedTuple):
    """A run over several environments to show; the other values are those of a `PlanView`."""

    fleet: FleetResult
    directory: str = "policies"
    artifacts: str | None = None
    provenance: Provenance = NO_PROVENANCE


def with_changes(fleet: FleetResult) -> int:
    """How many environments have changes, in plans that did not fail."""
    return sum(bool(one.changes) and not one.failed for one in fleet.results)


class PlanKind(NamedTuple):
    """Environments with the same plan, and the review of one of them."""

    environments: list[EnvironmentResult]
    review: Review

    @property
    def failed(self) -> bool:
        """Whether it may not be applied."""
        return any(one.failed for one in self.environments)

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.environments]


def kinds_of(fleet: FleetResult) -> list[PlanKind]:
    """The environments with changes, or whose plan is refused, by what is shown of their plans; the largest kind first."""
    reviewed = ((group, next((one.review for one in group if one.review is not None), None)) for group in fleet.groups)
    return [PlanKind(group, review) for group, review in reviewed if review is not None]


def names_text(names: Sequence[str], most: int = NAMED) -> str:
    """`dev, prod-a, prod-b and 1,890 more`."""
    return listed(names, most)


def changes_of(kinds: Sequence[PlanKind]) -> list[tuple[Item, Review]]:
    """Each change, and each policy that one affects, once, with the names of the environments that have it and the review of
    one of these; from the riskiest down.

    It is the same in two environments if it replaces and writes the same, does the same to traffic, and is used alike.
    """
    found: defaultdict[str, list[tuple[Item, Review, list[str]]]] = defaultdict(list)
    for kind in kinds:
        for item in items_of(PlanView(kind.review, "")):
            alike = found[_key(item)]
            same = next((names for known, _, names in alike if _shown(known) == _shown(item)), None)
            if same is None:
                alike.append((item, kind.review, kind.names))
            else:
                same += kind.names
    merged = [(replace(item, where=tuple(names)), review) for some in found.values() for item, review, names in some]
    first = {item.name: -place for place, (item, _) in reversed([*enumerate(merged)])}
    merged.sort(key=lambda one: (one[0].risk.rank if one[0].risk else (0, 0.0), first[one[0].name]), reverse=True)
    return sorted(merged, key=lambda one: one[0].change is None and is_unknown(one[0].effect))


def _key(item: Item) -> str:
    """What a change replaces and writes, or how a policy is affected."""
    change = item.change
    documents = (item.before, item.after) if change is None else (change.before, change.after)
    return canonical_text([item.action, item.name, *documents, *item.through])


def _shown(item: Item) -> Item:
    """All else that is shown of it, so without the row and the file that it has in one environment."""
    return replace(item, change=None, before=None, after=None)


def merged_lines(kinds: Iterable[PlanKind], lines_of: Callable[[Review], Iterable[str]]) -> list[tuple[str, tuple[str, ...]]]:
    """Lines about the plans, each once, with the environments that it is about."""
    found: dict[str, tuple[str, ...]] = {}
    for kind in kinds:
        for line in dict.fromkeys(lines_of(kind.review)):
            found[line] = (*found.get(line, ()), *kind.names)
    return [*found.items()]


def reasons_of(fleet: FleetResult) -> list[tuple[str, list[str]]]:
    """Why environments have no plan that may be applied, each reason with their names. Rules that refuse a plan are only
    counted, since a page lists them."""
    found = [(reason, [one.name for one in results]) for reason, results in fleet.by_reason]
    found = [(reason.partition(": ")[0] if reason.startswith(_REFUSED) else reason, names) for reason, names in found]
    held = [one for one in fleet.results if one.status == "not begun"]
    return found + ([(f"not begun: {held[0].reason}", [one.name for one in held])] if held else [])


def located(line: str, names: Sequence[str], everywhere: int, plans: str = "") -> str:
    """A line with the environments that it is about, unless these are all. `plans` shows which these are."""
    return line if len(names) == everywhere else f"{names_text(names)}{plans}: {line}"


class Alert(NamedTuple):
    """Lines that stop a plan or are worth knowing: their kind, and which lines a review has."""

    kind: str
    lines: Callable[[Review], Iterable[str]]


def _blocked(review: Review) -> Iterator[str]:
    return (f"{block.name}: {why_blocked(block)}" for block in review.plan.blocked)


def _warnings(review: Review) -> Iterator[str]:
    return (f"{warning.mark}: {warning.coded}" for warning in review.branch.warnings)


def _overridden(review: Review) -> Iterator[str]:
    return map(override_text, review.plan.overrides)


OVERRIDDEN = Alert("overridden", _overridden)
STOPPING = (
    Alert("failed", lambda review: review.branch.failed_tests),
    Alert("refused", lambda review: review.refusals),
    Alert("blocked", _blocked),
)
WORTH_KNOWING = (Alert("warning", _warnings), Alert("note", notes_on_changes), Alert("row", lambda review: review.left_alone))


class Difference(NamedTuple):
    """What differs between environments: a policy, the field of it if only that differs, and a cell for each kind of plan."""

    policy: str
    field: str
    cells: list[str]


class Differences(NamedTuple):
    """What differs between environments, side by side: the environments of each column, the rows, how many `more` rows there
    are, and how many environments have no column (`others`)."""

    heads: Sequence[list[str]] = ()
    rows: Sequence[Difference] = ()
    more: int = 0
    others: int = 0

    def left_out(self, cut: int = 0) -> str:
        """In words, what the table does not have if so many of its rows are `cut`; empty if it has everything."""
        found = [f"{self.more + cut:,} more rows"] if self.more + cut else []
        found += [f"{count(self.others, 'environment')} with other plans"] if self.others else []
        return f"not in this table: {' and '.join(found)}" if found else ""


def differences(fleet: FleetResult) -> Differences:
    """What differs: a column is a kind of plan, also one without changes; what changes alike in all of them has no row."""
    columns = _columns(fleet)
    if len(columns) < 2:
        return Differences()
    changes: list[dict[str, Change]] = []
    for group in columns:
        review = next((one.review for one in group if one.review is not None), None)
        changes.append({} if review is None else {change.name: change for change in review.plan.changes})
    rows = [row for name in sorted({name for found in changes for name in found}) for row in _rows(name, changes)]
    others = sum(bool(one.alike) for one in fleet.results) - sum(map(len, columns))
    return Differences([[one.name for one in group] for group in columns], rows[:_ROWS], len(rows[_ROWS:]), others)


def _columns(fleet: FleetResult) -> list[list[EnvironmentResult]]:
    """The kinds of plans, the largest first if not all have a column; in the order of the environments if they have."""
    found: dict[str, list[EnvironmentResult]] = {}
    for one in fleet.results:
        if one.alike:
            found.setdefault(one.alike, []).append(one)
    largest = sorted(found.values(), key=len, reverse=True)[:_COLUMNS]
    return [group for group in found.values() if group in largest] if len(found) <= _COLUMNS else largest


def _rows(name: str, columns: Sequence[dict[str, Change]]) -> Iterator[Difference]:
    changes = [found.get(name) for found in columns]
    kinds = {canonical_text([one.action, one.before, one.after]) for one in changes if one is not None}
    if len(kinds) == 1 and None not in changes:
        return
    present = [one for one in changes if one is not None]
    if len({one.action for one in present}) == 1 and (len(kinds) > 1 or present[0].action == "update"):
        yield from _fields(name, changes, among_present=len(kinds) > 1)
    else:
        yield Difference(bare_name(name), "", [UNCHANGED if one is None else _in_short(one) for one in changes])


def _fields(name: str, changes: Sequence[Change | None], *, among_present: bool) -> Iterator[Difference]:
    """A row for each field that does not change alike, where the policy changes at all if `among_present`."""
    found = [{} if one is None else dict(_cells(one)) for one in changes]
    compared = [fields for fields in found if fields] if among_present else found
    every = dict.fromkeys(path for fields in found for path in fields)
    paths = [path for path in every if len({fields.get(path) for fields in compared}) > 1]
    paths.sort(key=lambda path: path in _TEXTS)
    for path in paths[:_FIELDS]:
        yield Difference(bare_name(name), _field_name(path), [fields.get(path, UNCHANGED) for fields in found])
    if more := paths[_FIELDS:]:
        yield Difference(bare_name(name), f"{len(more)} more fields", ["…" if fields else UNCHANGED for fields in found])


def _field_name(path: str) -> str:
    return position_name(path).removeprefix("policy.")


def _cells(change: Change) -> Iterator[tuple[str, str]]:
    """Path and value of each field: `0.5 → 0.6`; of an added or removed policy the value alone, key by key."""
    for field in fields_of(change):
        whole = field.after if change.action == "add" else field.before
        if change.action == "update":
            yield field.path, " → ".join(cut(side, _SIDE) for side in sides(field))
        elif isinstance(whole, dict):
            yield from ((f"{field.path}.{key}", cut(value(one), _CELL)) for key, one in whole.items())
        else:
            yield field.path, cut(value(whole), _CELL)


def _in_short(change: Change) -> str:
    """What an added or removed policy is, in a few words."""
    return cut(f"{change.action}: {describe_value(change.after or change.before or {})}", _CELL)
