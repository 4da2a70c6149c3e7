"""A plan as GitHub's markdown, for a comment on a pull request or a step's summary, to be judged in two minutes.

The headline comes first, then what stops the plan, then the changes from the riskiest down: a table, and a collapsed section
for each. What does not fit is left out in whole blocks, the least important first, and counted. The first line is a hidden
marker by which a workflow finds the comment to update.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

from policyctl.ci.comments import opening as first_lines
from policyctl.plan.diff import FieldChange
from policyctl.plan.safety import Review
from policyctl.report.format import count, escape, field_values, value
from policyctl.report.headline import PlanSummary, describe_risks, headline, plan_summary
from policyctl.report.markdown import (
    code,
    foreign_texts,
    missing_alert,
    naming,
    notes_alert,
    prose,
    proses,
    unseen_alert,
    whole_plan,
)
from policyctl.report.plan_items import END, Item, effect, graphs, items_of, opened, table_head, table_row
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
_LEAST_BLOCK = 100  # bytes of the smallest row or section
_FIRST = 25  # changes that are in the first table, and get room before all others
_ALIKE = 3  # of these may have the same risk
_LONGEST = 400  # characters of a setting's value, before and after, in one row
_ORDERED = "waves"  # the setting whose value is an order
_LONGEST_ROW = 2_000  # characters of a row of settings; a longer one is not shown, and so not approved
_LONGEST_LINE = 1_000  # characters of a line of a list
MOST_LINES = 20  # of refusals and the like
MOST_NOTES = 100  # a change may rest on one of them


class Room:
    """The bytes that are left, and how many lines of lists were cut. GitHub counts characters, which are never more."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.cut = 0

    def part(self, share: int) -> Room:
        """A room of its own, with one part in `share` of this one."""
        own = self.left // share
        self.left -= own
        return Room(own)

    def take(self, texts: Iterable[str | None]) -> Iterator[str | None]:
        """Each text that fits, in order, and None for one that does not; smaller ones after it may still fit."""
        full = False
        for text in texts:
            size = 0 if full or text is None else len(text.encode())
            taken = None if full or size > self.left else text
            if taken is not None:
                self.left -= size
            full = full or (text is not None and taken is None and self.left < _LEAST_BLOCK)
            yield taken


class ShownChanges:
    """What fits of some changes: their rows, then their sections, then effects, then graphs."""

    def __init__(self, items: Sequence[Item], section: Callable[[Item], str], room: Room) -> None:
        self.items = items
        self._section = section
        self.rows = list(room.take(map(table_row, items)))
        self.opened = self.effects = self.graphs = list[str | None]()

    def open(self, room: Room) -> None:
        """Add the collapsed sections, with what differs."""
        self.opened = self._beside(self.rows, self._section, room)

    def explain(self, room: Room) -> None:
        """Add to them what the differences do."""
        self.effects = self._beside(self.opened, effect, room)
        self.graphs = self._beside(self.opened, graphs, room)

    def _beside(self, shown: Sequence[str | None], part: Callable[[Item], str], room: Room) -> list[str | None]:
        """One part of each change whose enclosing part is shown."""
        pairs = zip(self.items, shown, strict=True)
        return list(room.take(part(item) if text is not None else None for item, text in pairs))

    def text(self) -> str:
        if not self.listed:
            return ""
        parts = zip(self.opened, self.effects, self.graphs, strict=True)
        folded = (f"{first.removesuffix(END)}{does or ''}{looks or ''}{END}" for first, does, looks in parts if first)
        return f"{table_head(self.items)}{''.join(filter(None, self.rows))}\n{''.join(folded)}"

    @property
    def listed(self) -> int:
        """How many of the changes have a row."""
        return sum(text is not None for text in self.rows)

    @property
    def missing(self) -> int:
        """How many are not on the page as far as an approval covers them: what a change replaces and writes is in its section,
        and which unchanged policy is affected in its row."""
        pairs = zip(self.items, self.rows, self.opened, strict=True)
        return sum(row is None or (section is None and item.change is not None) for item, row, section in pairs)

    @property
    def whole(self) -> int:
        """How many of the changes are shown completely."""
        parts = zip(self.rows, self.opened, self.effects, self.graphs, strict=True)
        return sum(None not in texts for texts in parts)


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
    added or removed entry."""
    was, becomes = field_values(field, longest=None)
    lists = all(one is None or isinstance(one, list) for one in (field.before, field.after)) and field.path != _ORDERED
    if max(len(was), len(becomes)) <= _LONGEST or not lists:
        return [(field.path, f"{was} → {becomes}")]
    before, after = ([value(entry, longest=None) for entry in one or ()] for one in (field.before, field.after))
    comes, goes = Counter(after) - Counter(before), Counter(before) - Counter(after)
    rows = [(field.path, f"{word} {entry}") for word, some in (("adds", comes), ("removes", goes)) for entry in some]
    if field.before is None or field.after is None:
        rows.insert(0, (field.path, "absent before" if field.before is None else "absent after"))
    return rows or [(field.path, "other order")]


def listed_lines(
    title: str,
    lines: Sequence[str],
    room: Room,
    quoted: str = "",
    shown: Callable[[str, int], str] = prose,
    most: int = MOST_LINES,
) -> str:
    """A title and a list of these lines; those beyond the limit are counted."""
    if not lines:
        return ""
    taken = list(filter(None, room.take(f"{quoted}- {shown(line, _LONGEST_LINE)}\n" for line in lines[:most])))
    more = f"{quoted}- and {len(lines) - len(taken):,} more\n" if len(taken) < len(lines) else ""
    room.cut += len(lines) - len(taken)
    return f"{title}\n{quoted.rstrip()}\n{''.join(taken)}{more}\n"


def fitted(first: Sequence[Item], rest: Sequence[Item], left: Room) -> tuple[ShownChanges, ShownChanges]:
    """What fits of the changes to show first, and of the others.

    If every row and section fits, all of them come before what explains them. Otherwise the first ones are shown as well as
    half of the room allows, and the page approves nothing.
    """
    made: dict[int, str] = {}

    def section(item: Item) -> str:
        key = id(item)  # a page of several environments has a policy as often as it changes in another way
        if key not in made:
            made[key] = opened(item) + END
        return made[key]

    sizes = (len((table_row(item) + section(item)).encode()) for item in (*first, *rest))
    if all(total <= left.left for total in accumulate(sizes)):
        shown = ShownChanges(first, section, left), ShownChanges(rest, section, left)
        for part in shown:
            part.open(left)
        for part in shown:
            part.explain(left)
        return shown
    riskiest = ShownChanges(first, section, left)
    details = left.part(2)  # the other half is for the rows of all others
    riskiest.open(details)
    riskiest.explain(details)
    left.left += details.left
    others = ShownChanges(rest, section, left)
    others.open(left)
    others.explain(left)
    return riskiest, others


def parted(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """The changes to show first, and the others. Many changes with one risk do not displace the rest."""
    if len(items) <= _FIRST:
        return list(items), []
    first: list[Item] = []
    others: list[Item] = []
    alike = Counter[tuple[str, ...]]()
    for item in items:
        words = describe_risks(item.risk) if item.risk else (item.action,)
        alike[words] += 1
        (first if len(first) < _FIRST and alike[words] <= _ALIKE else others).append(item)
    return first, others


def folded(others: ShownChanges) -> str:
    if not others.listed:
        return ""
    listed = f", {others.listed:,} of them listed" if others.listed < len(others.items) else ""
    return f"<details><summary>{count(len(others.items), 'further change')}{listed}</summary>\n\n{others.text()}{END}"


def cut_note(parts: Sequence[ShownChanges], artifacts: str | None) -> str:
    """How many changes were cut, and where the whole plan is."""
    short = sum(len(part.items) - part.whole for part in parts)
    return (
        f"Cut to what GitHub shows: {short:,} lack some detail here; all of it is in {whole_plan(artifacts)}.\n\n"
        if short
        else ""
    )


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
    overrides = listed_lines(f"> [!IMPORTANT]\n> {OVERRIDES_TITLE}", overridden, above, "> ")
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
            first_lines(review, subject.directory, unseen=unseen + missing + cut > 0),
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
