"""A run over many environments as one report: equal plans once, failures by reason, and the differences side by side.

Its pages show each change once, with the environments that have it.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from policyctl.plan.approval import of_several
from policyctl.plan.fleet import EnvironmentResult, FleetResult
from policyctl.plan.plan import ACTIONS, Action, Change, Counts
from policyctl.plan.safety import Review
from policyctl.policy.document import canonical_text, digest
from policyctl.policy.findings import listed
from policyctl.policy.names import bare_name
from policyctl.report.format import (
    NONE_AFFECTED,
    Style,
    columns,
    count,
    cut,
    describe_value,
    escape,
    json_text,
    padded,
    position_name,
    value,
)
from policyctl.report.headline import is_unknown
from policyctl.report.markdown import code, prose, row
from policyctl.report.plan_items import NAMED, Item, fields_of, items_of
from policyctl.report.plan_json import output_lines, plan_data
from policyctl.report.plan_text import field_lines, plan_text, sides
from policyctl.report.plan_view import (
    NO_PROVENANCE,
    NOT_COMPARED,
    PlanView,
    Provenance,
    notes_on_changes,
    override_text,
    rest_text,
    settings_title,
    used_by,
    why_blocked,
)

if TYPE_CHECKING:
    from policyctl.effect.analysis import Effect


VERSION = 1
_DONE = {"effect": "shown", "pull": "pulled"}


def planned(review: Review, name: str, remote: str) -> EnvironmentResult:
    """The result of a plan, without the review itself, which is large."""
    plan = review.plan
    counts: dict[str, int] = {action: number for action, number in plan.totals.items() if number}
    same, users = _marks(review)
    rest, whole = rest_text(review), plan.counts.whole
    return EnvironmentResult(
        name, "planned", remote=remote, digest=plan.digest, alike=same, users=users, rest=rest, counts=counts, whole=whole
    )


def _marks(review: Review) -> tuple[str, str]:
    """Hashes of what is shown of a plan, whatever its environment: of all but who uses what, and of who uses what.

    It is the whole text that counts, besides the changes: equal changes do other things where other policies are live. What
    consumers lose is an effect.
    """
    from policyctl.report.headline import losses_text  # imports the effect engine

    plan, consumers = review.plan._replace(environment="", counts=Counts()), review.consumers
    effects: dict[str, tuple[Action, Effect | None]] = {one.name: ("update", one.effect) for one in review.affected}
    effects |= {one.name: (one.action, review.effects.get(one.name)) for one in plan.changes}
    losses = [] if consumers is None else [losses_text(name, *effect, review) for name, effect in effects.items()]
    changes = [one._replace(id=None).content for one in plan.changes]
    shown = plan_text(review._replace(plan=plan, consumers=None), "", Style(), verbose=True)
    return digest([changes, shown, losses]), digest([] if consumers is None else [used_by(name, review) for name in effects])


def names_of(results: Sequence[EnvironmentResult], most: int = NAMED) -> str:
    """`dev, prod-a, prod-b and 1,890 more`."""
    return names_text([one.name for one in results], most)


def changes_text(result: EnvironmentResult) -> str:
    """`2 to add and 1 to update`, of a plan."""
    found = [f"{number:,} to {action}" for action in ACTIONS if (number := (result.counts or {}).get(action))]
    return " and ".join(found) if len(found) < 3 else f"{', '.join(found[:-1])} and {found[-1]}"


def fleet_text(fleet: FleetResult, style: Style, *, verbose: bool = False, plans: bool = True) -> str:
    """Each kind of plan once (unless `plans` were shown before); what was left as it is; failures by reason; a summary."""
    blocks = []
    if plans:
        blocks += ["".join(f"{line}\n" for line in _settings_lines(fleet, style))]
        blocks += [_plan_block(group, style, verbose) for group in fleet.groups]
        blocks += [_side_by_side(fleet, style)]
    blocks += [
        "".join((*_other_lines(fleet, style, verbose), *_held_lines(fleet, style))),
        "".join(_failure_lines(fleet, style)),
    ]
    digest = f"digest of all plans  {fleet.digest}\n" if fleet.command == "plan" and fleet.groups else ""
    blocks.append(f"{digest}{_summary(fleet, style)}\n")
    return "\n".join(block for block in blocks if block)


def _settings_lines(fleet: FleetResult, style: Style) -> Iterator[str]:
    if fleet.settings:
        yield style.paint(settings_title(fleet.settings), "yellow")
        yield from field_lines(fleet.settings, whole=True)


def _plan_block(group: list[EnvironmentResult], style: Style, verbose: bool) -> str:
    first = next((one for one in group if one.review is not None), None)
    head = f"{escape(names_of(group))}: {changes_text(group[0]) or 'nothing to apply'}{same_text(group)}"
    if first is None or first.review is None:
        outcomes = sorted({one.outcome for one in group if one.outcome})
        return style.paint(head, "bold") + "\n" + "".join(f"  {line}\n" for line in outcomes)
    text = plan_text(first.review, first.remote, style, verbose=verbose)
    return f"{style.paint(head, 'bold')}\n" + "".join(f"  {line}\n" if line else "\n" for line in text.rstrip("\n").split("\n"))


def same_text(group: list[EnvironmentResult]) -> str:
    """`, the same in 10 environments`, and where who uses what is not."""
    if len(group) == 1:
        return ""
    but = f"; who uses what differs, and is shown for {group[0].name}" if len({one.users for one in group}) > 1 else ""
    return f", the same in {count(len(group), 'environment')}{but}"


def _side_by_side(fleet: FleetResult, style: Style) -> str:
    found = differences(fleet)
    named = [(f"{one.policy} {one.field}".rstrip(), one.cells) for one in found.rows]
    table = side_by_side([names_text(head, 2) for head in found.heads], named, style)
    return f"{table}  {rest}\n" if (rest := found.left_out()) and table else table


def side_by_side(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], style: Style) -> str:
    """A table of what differs, with a column for each of `heads`; empty without rows."""
    if not rows:
        return ""
    width = max(columns(escape(name)) for name, _ in rows)
    lines = [("", heads), *((escape(name), cells) for name, cells in rows)]
    widths = [max(columns(escape(cells[place])) for _, cells in lines) for place in range(len(heads))]
    table = [
        "  ".join(
            [f"  {padded(name, width)}", *(padded(escape(cell), size) for cell, size in zip(cells, widths, strict=True))]
        ).rstrip()
        for name, cells in lines
    ]
    return style.paint("What differs between environments:", "bold") + "\n" + "\n".join(table) + "\n"


def other_lines(fleet: FleetResult) -> Iterator[str]:
    """What was left as it is, as plain text."""
    return _other_lines(fleet, Style(), verbose=False)


def _other_lines(fleet: FleetResult, style: Style, verbose: bool) -> Iterator[str]:
    without = [one for one in fleet.results if one.status in ("planned", "applied") and not one.changes]
    for whole, words in ((True, "no changes"), (False, NOT_COMPARED.lower())):
        if unchanged := [one for one in without if one.whole is whole]:
            most = len(unchanged) if verbose else NAMED
            yield f"{words} in {count(len(unchanged), 'environment')}: {escape(names_of(unchanged, most))}\n"
    for one in fleet.results:
        if one.status == "suspended":
            yield f"{style.paint('suspended', 'yellow')}  {escape(one.name)}: {escape(one.reason)}\n"
    if fleet.gone:
        yield f"no longer in the fleet, and left as they are: {escape(', '.join(fleet.gone))}\n"


def _held_lines(fleet: FleetResult, style: Style) -> Iterator[str]:
    if held := [one for one in fleet.results if one.status == "not begun"]:
        yield f"{style.paint('not begun', 'yellow')}  {escape(names_of(held))}: {escape(held[0].reason)}\n"


def _failure_lines(fleet: FleetResult, style: Style) -> Iterator[str]:
    for reason, results in fleet.by_reason:
        head = style.paint("failed", "red")
        yield f"{head}  {len(results):,} × {escape(reason)}: {escape(names_of(results))} (exit code {results[0].code})\n"


def _summary(fleet: FleetResult, style: Style) -> str:
    changed = with_changes(fleet)
    if not fleet.results:
        return NONE_AFFECTED
    done = fleet.count("planned") + fleet.count("applied")
    parts = [f"{changed:,} {'applied' if fleet.command == 'apply' else 'with changes'}" if changed else ""]
    parts.append(f"{done - changed:,} without changes" if done - changed else "")
    parts.append(f"{fleet.count('done'):,} {_DONE.get(fleet.command, 'done')}" if fleet.count("done") else "")
    parts += [f"{number:,} {status}" for status in ("failed", "suspended", "not begun") if (number := fleet.count(status))]
    parts.append(f"{fleet.left_out:,} not selected" if fleet.left_out else "")
    bad = fleet.count("failed") or fleet.count("not begun")
    text = f"{count(len(fleet.results), 'environment')}: {', '.join(part for part in parts if part)}."
    return style.paint(text, "red" if bad else "green", "bold")


def fleet_json(fleet: FleetResult) -> str:
    """The run as JSON text: a result for each environment, and each kind of plan once."""
    kinds = {group[0].alike: place for place, group in enumerate(fleet.groups)}
    ways = {one.name: one.access for one in fleet.results}
    data = {
        "format": "policyctl/fleet",
        "version": VERSION,
        "command": fleet.command,
        "digest": fleet.digest,
        "access": of_several(ways) if all(ways.values()) else None,
        "not_selected": fleet.left_out,
        "settings": [{"path": one.path, "before": one.before, "after": one.after} for one in fleet.settings],
        "no_longer_in_the_fleet": list(fleet.gone),
        "environments": [_result_data(one, kinds) for one in fleet.results],
        "plans": [next((plan_data(one.review) for one in group if one.review is not None), None) for group in fleet.groups],
    }
    return json_text(data)


def _result_data(one: EnvironmentResult, kinds: dict[str, int]) -> dict[str, Any]:
    return {
        "name": one.name,
        "status": one.status,
        "exit_code": one.code,
        "reason": one.reason,
        "remote": one.remote,
        "digest": one.digest or None,
        "access": one.access or None,
        "changes": {action: (one.counts or {}).get(action, 0) for action in ACTIONS},
        "outcome": one.outcome,
        "plan": kinds.get(one.alike),
    }


def fleet_csv(fleet: FleetResult) -> str:
    """One row an environment. A text that a spreadsheet would take for a formula begins with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["environment", "status", "exit_code", *ACTIONS, "digest", "reason"])
    for one in fleet.results:
        counts = [(one.counts or {}).get(action, 0) for action in ACTIONS]
        writer.writerow([_cell(one.name), one.status, one.code, *counts, one.digest, _cell(escape(one.reason))])
    return out.getvalue()


def _cell(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def fleet_junit(fleet: FleetResult) -> str:
    """A test case for each environment."""
    skipped = fleet.count("suspended") + fleet.count("not begun")
    counts = {"tests": str(len(fleet.results)), "failures": str(fleet.count("failed")), "errors": "0", "skipped": str(skipped)}
    root = Element("testsuites", {"name": "policyctl", **counts})
    suite = SubElement(root, "testsuite", {"name": f"policyctl {fleet.command}", **counts})
    for one in fleet.results:
        case = SubElement(suite, "testcase", {"classname": fleet.command, "name": escape(one.name)})
        if one.failed:
            SubElement(case, "failure", {"message": escape(one.reason)})
        elif one.status in ("suspended", "not begun"):
            SubElement(case, "skipped", {"message": escape(one.reason)})
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def folded(fleet: FleetResult, texts: Mapping[str, str], style: Style) -> str:
    """The texts of environments by name, equal ones once, and what every report ends with."""
    alike: dict[str, list[EnvironmentResult]] = {}
    for one in fleet.results:
        if one.name in texts:
            alike.setdefault(texts[one.name], []).append(one)
    blocks = []
    for text, group in sorted(alike.items(), key=lambda item: -len(item[1])):
        head = style.paint(f"{escape(names_of(group))}{same_text(group)}", "bold")
        blocks.append(f"{head}\n" + "".join(f"  {line}\n" if line else "\n" for line in text.rstrip("\n").split("\n")))
    return "\n".join(text for text in [*blocks, *ending(fleet, style)] if text)


def _failures_markdown(fleet: FleetResult) -> Iterator[str]:
    if reasons := fleet.by_reason:
        rows = [row([f"{len(found):,}", prose(reason), code(names_of(found))]) for reason, found in reasons]
        yield row(["failed", "why", "where"]) + row(["---"] * 3) + "".join(rows)


def side_by_side_markdown(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> Iterator[str]:
    """The same table as markdown."""
    if rows:
        lines = [row([code(name), *map(prose, cells)]) for name, cells in rows]
        yield row(["policy", *map(code, heads)]) + row(["---"] * (1 + len(heads))) + "".join(lines)


def ending(fleet: FleetResult, style: Style, *, markdown: bool = False) -> Iterator[str]:
    """What every report of several environments ends with: what was left as it is, failures by reason, and a summary."""
    if markdown:
        yield from _failures_markdown(fleet)
        left = (*_other_lines(fleet, Style(), verbose=False), *_held_lines(fleet, Style()))
        yield from (prose(line.strip()) + "\n" for line in left)
        yield f"{prose(_summary(fleet, Style()))}\n"
    else:
        yield "".join((*_other_lines(fleet, style, verbose=False), *_held_lines(fleet, style)))
        yield "".join(_failure_lines(fleet, style))
        yield f"{_summary(fleet, style)}\n"


def fleet_outputs(fleet: FleetResult, plan_file: str | None) -> str:
    """A step's outputs for GitHub Actions, as those of one plan: has_changes, counts over all environments, digest, and the
    path of the saved plans, if any."""
    totals = {action: sum((one.counts or {}).get(action, 0) for one in fleet.results) for action in ACTIONS}
    values = {
        "has_changes": "true" if fleet.changes else "false",
        **{str(action): str(number) for action, number in totals.items()},
        "settings": str(len(fleet.settings)),
        "environments": str(len(fleet.results)),
        "failed": str(fleet.count("failed") + fleet.count("not begun")),
        "digest": fleet.digest,
    }
    return output_lines(values | ({} if plan_file is None else {"plan_path": plan_file}))


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
        for item in (replace(one, users=_users(one, kind)) for one in items_of(PlanView(kind.review, ""))):
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
    """All that a change replaces and writes, whatever the row is called, or how a policy is affected."""
    about = [item.before, item.after] if item.change is None else item.change._replace(id=None).content
    return canonical_text([item.action, item.name, about, *item.through])


def _users(item: Item, kind: PlanKind) -> str:
    """Who uses it, as far as that is shown: equal plans are shown once, for one of their environments."""
    if len({one.users for one in kind.environments}) == 1:
        return item.users
    return f"{item.users or 'not known to be used'} in {kind.names[0]}; who uses it may differ elsewhere"


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
    kinds = {canonical_text(one._replace(id=None).content) for one in changes if one is not None}
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
