"""A run over many environments as one report: equal plans once, failures by reason, and the differences side by side."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from policyctl.plan.approval import of_several
from policyctl.plan.fleet import EnvironmentResult, FleetResult
from policyctl.plan.plan import ACTIONS, Action, Counts
from policyctl.plan.safety import Review
from policyctl.policy.document import digest
from policyctl.report.environments import NONE_AFFECTED
from policyctl.report.fleet_view import differences, names_text, with_changes
from policyctl.report.format import Style, columns, count, escape, json_text, padded
from policyctl.report.markdown import code, prose, row
from policyctl.report.plan_items import NAMED
from policyctl.report.plan_json import output_lines, plan_data
from policyctl.report.plan_text import field_lines, plan_text
from policyctl.report.plan_view import rest_text, settings_title, used_by

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
    changes = [[one.action, one.name, one.before, one.after] for one in plan.changes]
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
    unchanged = [one for one in fleet.results if one.status in ("planned", "applied") and not one.changes]
    if unchanged:
        most = len(unchanged) if verbose else NAMED
        yield f"no changes in {count(len(unchanged), 'environment')}: {escape(names_of(unchanged, most))}\n"
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
