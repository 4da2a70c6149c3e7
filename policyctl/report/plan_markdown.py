"""Plans as GitHub's markdown, for a comment on a pull request or a step's summary, to be judged in two minutes.

The headline comes first, then what stops the plan, then the changes from the riskiest down: a table, and a collapsed section
for each. What does not fit is left out in whole blocks, the least important first, and counted. The first line is a hidden
marker by which a workflow finds the comment to update.

On the page of several environments each change is shown once, with the environments that it is for; a table has what differs
between them. What does not fit is left out there too, and then a merge approves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from policyctl.ci.comments import opening as first_lines
from policyctl.ci.comments import opening_of_several
from policyctl.plan.approval import NONE
from policyctl.plan.diff import FieldChange
from policyctl.plan.fleet import FleetResult
from policyctl.plan.safety import Review
from policyctl.policy.findings import listed
from policyctl.report.fleet import (
    OVERRIDDEN,
    STOPPING,
    UNCHANGED,
    WORTH_KNOWING,
    Alert,
    FleetView,
    PlanKind,
    changes_of,
    changes_text,
    differences,
    kinds_of,
    located,
    merged_lines,
    other_lines,
    reasons_of,
)
from policyctl.report.format import NONE_AFFECTED, count, escape, field_values, value
from policyctl.report.headline import PlanSummary, headline, plan_summary
from policyctl.report.markdown import (
    code,
    foreign_texts,
    missing_alert,
    naming,
    notes_alert,
    overrides_alert,
    prose,
    proses,
    row,
    settings_texts,
    unseen_alert,
    whole_plan,
)
from policyctl.report.plan_items import (
    NAMED,
    Room,
    cut_note,
    fitted,
    folded,
    items_of,
    named,
    parted,
)
from policyctl.report.plan_view import (
    NOT_COMPARED,
    OVERRIDES_TITLE,
    ROWS_TITLE,
    TESTS_TITLE,
    WARNINGS_TITLE,
    PlanView,
    Provenance,
    all_compared,
    basis_of,
    managed_text,
    manages_all,
    notes_on_changes,
    override_text,
    rest_text,
    settings_title,
    why_blocked,
)

COMMENT_BYTES = 64_000  # GitHub accepts 65,536 characters; the rest is for what a workflow adds
LEAST_BYTES = 8_000  # enough for the headline, whatever the names are
FRAME = 2_000  # bytes kept for what surrounds the blocks
_LONGEST = 400  # characters of a setting's value, before and after, in one row
_ORDERED = "waves"  # the setting whose value is an order
_LONGEST_ROW = 2_000  # characters of a row of settings; a longer one is not shown, and so not approved
_LONGEST_LINE = 1_000  # characters of a line of a list
MOST_LINES = 20  # of refusals and the like
MOST_NOTES = 100  # a change may rest on one of them


def settings_rows(settings: Sequence[FieldChange], room: Room) -> tuple[str, int]:
    """What the branch changes in the safety settings, before everything else, and how many rows of it do not fit."""
    rows = [row for field in settings for row in _setting(field)]
    if not rows:
        return "", 0
    fitting = (
        f"> - {code(path, _LONGEST_ROW)}: {prose(what, _LONGEST_ROW)}\n" if len(escape(path + what)) <= _LONGEST_ROW else None
        for path, what in rows
    )
    taken = list(filter(None, room.take(fitting)))
    unseen = len(rows) - len(taken)
    more = f"> - and {unseen:,} more, not shown\n" if unseen else ""
    return f"> [!IMPORTANT]\n> {settings_title(settings)}\n>\n{''.join(taken)}{more}\n", unseen


def _setting(field: FieldChange) -> list[tuple[str, str]]:
    """A setting before and after, never cut, as its path and what becomes of it; of a long list without an order a row for each
    entry that is in one of them only: an entry may be in a list twice, which means nothing."""
    was, becomes = field_values(field, longest=None)
    lists = all(one is None or isinstance(one, list) for one in (field.before, field.after)) and field.path != _ORDERED
    if max(len(was), len(becomes)) <= _LONGEST or not lists:
        return [(field.path, f"{was} → {becomes}")]
    before, after = ([value(entry, longest=None) for entry in one or ()] for one in (field.before, field.after))
    comes, goes = (
        [one for one in dict.fromkeys(some) if one not in other] for some, other in ((after, before), (before, after))
    )
    rows = [(field.path, f"{word} {entry}") for word, some in (("adds", comes), ("removes", goes)) for entry in some]
    if field.before is None or field.after is None:
        rows.insert(0, (field.path, "absent before" if field.before is None else "absent after"))
    return rows or [(field.path, "the same entries in another way")]


def listed_lines(
    title: str,
    lines: Sequence[str],
    room: Room,
    quoted: str = "",
    shown: Callable[[str, int], str] = prose,
    most: int = MOST_LINES,
) -> str:
    """A title and a list of these lines; those beyond the limit are counted. `room.cut` counts those that are not there as a
    whole."""
    if not lines:
        return ""
    texts = [shown(line, _LONGEST_LINE) for line in lines[:most]]
    taken = list(filter(None, room.take(f"{quoted}- {text}\n" for text in texts)))
    more = f"{quoted}- and {len(lines) - len(taken):,} more\n" if len(taken) < len(lines) else ""
    shorter = sum(text != shown(line, 2 * _LONGEST_LINE) for text, line in zip(texts, lines, strict=False))
    room.cut += min(len(lines), len(lines) - len(taken) + shorter)
    return f"{title}\n{quoted.rstrip()}\n{''.join(taken)}{more}\n"


def plan_markdown(subject: PlanView, room: int = COMMENT_BYTES) -> str:
    """The page, in at most `room` bytes (at least LEAST_BYTES)."""
    with naming(foreign_texts(subject.review)):
        return _page(subject, room)


def _page(subject: PlanView, room: int) -> str:
    review = subject.review
    summary = plan_summary(review)
    first = first_lines(review, subject.directory)  # not longer if it approves nothing
    head, foot = _head(subject, summary), _foot(subject)
    left = Room(room - len((first + head + foot).encode()) - FRAME)
    above = left.part(2)  # what is above the table leaves it half of the room
    overridden = list(map(override_text, review.plan.overrides))
    overrides, lost = listed_lines(f"> [!IMPORTANT]\n> {OVERRIDES_TITLE}", overridden, above, "> "), above.cut
    settings, unseen = settings_rows(review.branch.settings, above)
    alerts = _alerts(review, above)
    left.left += above.left
    below = left.part(4)
    notes, cut = listed_lines("Notes:", notes_on_changes(review), below, most=MOST_NOTES), below.cut
    warnings = listed_lines(WARNINGS_TITLE, [f"{w.mark}: {w.coded}" for w in review.branch.warnings], below)
    notes += listed_lines(ROWS_TITLE, review.left_alone, below)
    left.left += below.left
    riskiest, others = fitted(*parted(items_of(subject)), left)
    missing = riskiest.missing + others.missing
    return "".join(
        [
            first_lines(review, subject.directory, unseen=lost + unseen + missing + cut > 0),
            overrides_alert(lost, subject.artifacts),
            unseen_alert(unseen, subject.artifacts),
            notes_alert(cut, subject.artifacts),
            missing_alert(missing, len(riskiest.items) + len(others.items), subject.artifacts),
            overrides,
            settings,
            head,
            *alerts,
            riskiest.text(),
            folded(others),
            cut_note((riskiest, others), subject.artifacts),
            warnings,
            notes,
            foot,
        ]
    )


def _head(subject: PlanView, summary: PlanSummary) -> str:
    plan = subject.review.plan
    environment = code(plan.environment)
    return (
        f"### policyctl: {summary.counts} in {environment}{'' if summary.passed else f': {prose(summary.rules)}'}\n\n"
        f"{_sentence(subject.review, summary)}\n\n"
    )


def _sentence(review: Review, summary: PlanSummary) -> str:
    if summary.risks:
        worst = [f"{', '.join(map(code, names))}: {proses(words)}" for names, words in headline(summary)]
        more = f"; and {summary.more:,} more as bad, or nearly" if summary.more else ""
        text = f"**Riskiest:** {'; '.join(worst)}{more}."
    elif review.plan.changes:
        text = summary.traffic
    else:
        if not all_compared(review):
            return f"{NOT_COMPARED}."
        if review.plan.counts.unselected:
            return f"No selected policy {'or model ' if review.models else ''}changes."
        return "The remote matches the files." if manages_all(review) else f"{managed_text(review)} match."
    return f"{text} {summary.rules.capitalize()}." if summary.passed else text


def _alerts(review: Review, room: Room) -> list[str]:
    blocked = [f"{block.name}: {why_blocked(block)}" for block in review.plan.blocked]
    return [
        listed_lines("> [!CAUTION]\n> Stale, nothing was written; plan again:", review.stale, room, "> "),
        listed_lines(f"> [!CAUTION]\n> {TESTS_TITLE}", review.branch.failed_tests, room, "> ", code),
        listed_lines("> [!CAUTION]\n> Refused by the safety rules:", review.refusals, room, "> "),
        listed_lines("> [!WARNING]\n> Blocked by rows on the remote:", blocked, room, "> "),
    ]


def _foot(subject: PlanView) -> str:
    rest = rest_text(subject.review)
    sentences = [f"Remote {code(subject.remote)}.", *([f"{rest}."] if rest else [])]
    sentences += [f"{prose(one)[:1].upper()}{prose(one)[1:]}." for one in basis_of(subject.review)]
    return " ".join(sentences) + made_by(subject.provenance) + "\n"


def made_by(provenance: Provenance) -> str:
    """A last line with where the page comes from, as far as that is known."""
    parts = [f"{name.lower() if name != 'policyctl' else name} {code(text)}" for name, text in provenance.rows]
    return f"\n\n<sub>{', '.join(parts)}</sub>" if parts else ""


_KINDS = 20  # rows of the table of environments
_IN_HEAD = 3  # environments, or kinds of plans, that the headline names
_REMOTES = 6
_TITLES = {
    "overridden": f"> [!IMPORTANT]\n> {OVERRIDES_TITLE}",
    "failed": f"> [!CAUTION]\n> {TESTS_TITLE}",
    "refused": "> [!CAUTION]\n> Refused by the safety rules:",
    "blocked": "> [!WARNING]\n> Blocked by rows on the remote:",
    "warning": WARNINGS_TITLE,
    "note": "Notes:",
    "row": ROWS_TITLE,
}


def fleet_markdown(view: FleetView, room: int = COMMENT_BYTES) -> str:
    """The page, in at most `room` bytes (at least LEAST_BYTES)."""
    kinds = kinds_of(view.fleet)
    names = [*(one.name for one in view.fleet.results), *view.fleet.gone]
    names += [one.reason for one in view.fleet.results if one.status == "suspended"]
    names += settings_texts(view.fleet.settings)
    with naming([*names, *(text for kind in kinds for text in foreign_texts(kind.review))]):
        return _fleet_page(view, kinds, room)


def _fleet_page(view: FleetView, kinds: list[PlanKind], room: int) -> str:
    fleet, artifacts = view.fleet, view.artifacts
    head, foot = _fleet_head(fleet, kinds), _fleet_foot(view, kinds)
    first = opening_of_several(fleet, view.directory)  # not longer if it approves nothing
    left = Room(room - len((first + head + foot).encode()) - FRAME)
    above = left.part(2)  # what is above the changes leaves them half of the room
    overrides, lost = _lines(OVERRIDDEN, kinds, above, "> "), above.cut
    settings, unseen = settings_rows(fleet.settings, above)
    failed = _failures(fleet, above)
    alerts = [_lines(alert, kinds, above, "> ") for alert in STOPPING]
    environments, table = _environments(kinds, above), _differences(fleet, above)
    left.left += above.left
    items = [replace(item, plans=_plans(item.where, kinds)) for item, _ in changes_of(kinds)]
    alerted = [names for alert in (OVERRIDDEN, *STOPPING, *WORTH_KNOWING) for _, names in merged_lines(kinds, alert.lines)]
    lists = [*(kind.names for kind in kinds), *(item.where for item in items), *alerted]
    every = _every_environment(kinds, left) if any(len(names) > NAMED for names in lists) else ""
    more, cut = _worth_knowing(kinds, left)
    riskiest, others = fitted(*parted(items), left)
    missing = riskiest.missing + others.missing
    return "".join(
        [
            opening_of_several(fleet, view.directory, unseen=lost + unseen + missing + cut > 0 or every is None),
            overrides_alert(lost, artifacts),
            unseen_alert(unseen, artifacts),
            notes_alert(cut, artifacts),
            missing_alert(missing, len(items), artifacts),
            _unnamed(artifacts) if every is None else "",
            overrides,
            settings,
            head,
            failed,
            *alerts,
            _rules(kinds),
            environments,
            table,
            riskiest.text(),
            folded(others),
            every or "",
            cut_note((riskiest, others), artifacts),
            *(f"{prose(line.strip())}\n\n" for line in other_lines(fleet)),
            *more,
            foot,
        ]
    )


def _worth_knowing(kinds: Sequence[PlanKind], left: Room) -> tuple[list[str], int]:
    """Warnings and notes, and how many notes about the changes do not fit: these get room first."""
    below = left.part(4)
    warned, noted, rows = WORTH_KNOWING
    notes, cut = _lines(noted, kinds, below), below.cut
    more = [_lines(warned, kinds, below), notes, _lines(rows, kinds, below)]
    left.left += below.left
    return more, cut


def _fleet_head(fleet: FleetResult, kinds: Sequence[PlanKind]) -> str:
    """What changes where, and what failed."""
    failed, held, changed = fleet.count("failed"), fleet.count("not begun"), [kind for kind in kinds if not kind.failed]
    if not fleet.results:
        return f"### policyctl: {NONE_AFFECTED}\n\n"
    suspended = fleet.count("suspended")
    looked = len(fleet.results) - suspended
    if not changed:
        text = "" if failed or held or not looked else f"no changes in {count(looked, 'environment')}"
    elif len(changed) <= _IN_HEAD and all(len(kind.names) <= _IN_HEAD for kind in changed):
        texts = [
            f"{changes_text(one.environments[0])} in {'each of ' * (len(one.names) > 1)}{named(one.names)}" for one in changed
        ]
        text = ", ".join(texts)
    else:
        number = sum(len(kind.names) for kind in changed)
        text = f"changes in {number:,} of {count(len(fleet.results), 'environment')}"
    stopped = f"{failed:,} of {count(len(fleet.results), 'environment')} failed" if failed else ""
    left = [f"{number:,} {status}" for number, status in ((held, "not begun"), (suspended, "suspended")) if number]
    return f"### policyctl: {'; '.join(filter(None, (stopped, text, *left)))}\n\n"


def _failures(fleet: FleetResult, room: Room) -> str:
    """Which environments have no plan that may be applied, by reason."""
    lines = [f"{listed(names)}: {reason}" for reason, names in reasons_of(fleet)]
    title = "> [!CAUTION]\n> Merging this approves no plan, because not every environment has one that may be applied:"
    return listed_lines(title, lines, room, "> ")


def _lines(alert: Alert, kinds: Sequence[PlanKind], room: Room, quoted: str = "") -> str:
    everywhere = sum(len(kind.names) for kind in kinds)
    found = merged_lines(kinds, alert.lines)
    lines = [located(line, names, everywhere, _plans(names, kinds)) for line, names in found]
    most = MOST_NOTES if alert.kind == "note" else MOST_LINES
    return listed_lines(_TITLES[alert.kind], lines, room, quoted, code if alert.kind == "failed" else prose, most)


def _environments(kinds: Sequence[PlanKind], room: Room) -> str:
    """A row for each kind of plan: where, how many changes and what else there is, and the riskiest change."""
    taken = list(filter(None, room.take(map(_kind_row, kinds[:_KINDS]))))
    if not taken:
        return ""
    more = sum(len(kind.names) for kind in kinds[len(taken) :])
    rest = f"and {count(more, 'further environment')}\n\n" if more else ""
    return f"{row(('environment', 'changes', 'riskiest'))}|---|---|---|\n{''.join(taken)}\n{rest}"


def _kind_row(kind: PlanKind) -> str:
    summary, first = plan_summary(kind.review), kind.environments[0]
    worst = [f"{', '.join(map(code, names))}: {proses(words)}" for names, words in headline(summary)]
    traffic = "; ".join(worst) or ("" if not first.changes else prose(summary.traffic))
    number = f" ({len(kind.names):,})" if len(kind.names) > _IN_HEAD else ""
    rest = first.rest if len({one.rest for one in kind.environments}) == 1 else "what is left alone differs"
    changes = "; ".join(filter(None, (changes_text(first) or "nothing to apply", prose(rest))))
    return row((f"{named(kind.names)}{number}", changes, traffic))


def _rules(kinds: Sequence[PlanKind]) -> str:
    """What the rules found, where that is worth a sentence: the plans that they stop are shown above."""
    lines = merged_lines([kind for kind in kinds if not kind.failed], lambda review: [plan_summary(review).rules])
    everywhere = sum(len(kind.names) for kind in kinds)
    shown = [(line[:1].upper() + line[1:] if len(names) == everywhere else line, names) for line, names in lines[:_IN_HEAD]]
    sentences = [prose(located(line, names, everywhere)) for line, names in shown]
    return f"{'. '.join(sentences)}.\n\n" if len(lines) <= _IN_HEAD and lines else ""


def _differences(fleet: FleetResult, room: Room) -> str:
    found = differences(fleet)
    if not found.rows:
        return ""
    shown = [
        row((code(one.policy) + (f" {code(one.field)}" if one.field else ""), *(_cell(cell, one.field) for cell in one.cells)))
        for one in found.rows
    ]
    taken = list(filter(None, room.take(shown)))
    rest = f"{text}\n\n" if (text := found.left_out(len(shown) - len(taken))) else ""
    head = row(("what differs", *(named(names) for names in found.heads))) + row(["---"] * (1 + len(found.heads)))
    return f"{head}{''.join(taken)}\n{rest}" if taken else ""


def _cell(text: str, field: str) -> str:
    """A value before and after is code; a sentence about a whole policy is one."""
    if text == UNCHANGED or not field:
        return text if text == UNCHANGED else prose(text)
    before, arrow, after = text.partition(" → ")
    return f"{code(before)} → **{code(after)}**" if arrow else code(text)


def _plans(names: Sequence[str], kinds: Sequence[PlanKind]) -> str:
    """Which plans some environments have, by number, where not all of the environments are named; else empty."""
    if len(names) <= NAMED:
        return ""
    taken = set(names)
    numbers = [number for number, kind in enumerate(kinds, 1) if not taken.isdisjoint(kind.names)]
    return f" ({'plan' if len(numbers) == 1 else 'plans'} {_ranges(numbers)})"


def _ranges(numbers: Sequence[int]) -> str:
    """`1, 3 to 5, 9`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def _every_environment(kinds: Sequence[PlanKind], room: Room) -> str | None:
    """The environments that change by name and by plan, where some are only counted elsewhere on the page; None if that does
    not fit."""
    lines = [
        f"- plan {number}, {changes_text(kind.environments[0]) or 'nothing to apply'}: {', '.join(map(code, kind.names))}\n"
        for number, kind in enumerate(kinds, 1)
    ]
    number = sum(len(kind.names) for kind in kinds)
    text = f"<details><summary>{count(number, 'environment')} by name</summary>\n\n{''.join(lines)}\n</details>\n\n"
    return next(room.take([text]))


def _unnamed(artifacts: str | None) -> str:
    return (
        "> [!CAUTION]\n> The page has no room for the name of every environment that changes, so merging it approves no plan. "
        f"Read {whole_plan(artifacts)}; then plan fewer environments at once (-l), or start apply by hand with the digest.\n\n"
    )


def _fleet_foot(view: FleetView, kinds: Sequence[PlanKind]) -> str:
    fleet = view.fleet
    basis = dict.fromkeys(text for kind in kinds for text in basis_of(kind.review))
    sentences = list(_remotes(fleet))
    sentences += [f"{prose(one)[:1].upper()}{prose(one)[1:]}." for one in basis]
    sentences += [f"Digest of all plans: `{fleet.digest}`."] if fleet.digest != NONE and fleet.results else []
    return " ".join(sentences) + made_by(view.provenance) + "\n"


def _remotes(fleet: FleetResult) -> Iterator[str]:
    if len(fleet.results) <= _REMOTES:
        yield from (f"Remote of {code(one.name)}: {code(one.remote)}." for one in fleet.results if one.remote)
