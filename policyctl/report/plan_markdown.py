"""A plan as GitHub's markdown, for a comment on a pull request or a step's summary, to be judged in two minutes.

The headline comes first, then what stops the plan, then the changes from the riskiest down: a table, and a collapsed section
for each. What does not fit is left out in whole blocks, the least important first, and counted. The first line is a hidden
marker by which a workflow finds the comment to update.
"""

from __future__ import annotations

from policyctl.ci.comments import opening as first_lines
from policyctl.plan.safety import Review
from policyctl.report.headline import PlanSummary, headline, plan_summary
from policyctl.report.markdown import code, foreign_texts, naming, prose, proses
from policyctl.report.markdown_parts import (
    COMMENT_BYTES,
    FRAME,
    Room,
    cut_note,
    fitted,
    folded,
    listed_lines,
    missing_alert,
    parted,
    settings_rows,
    unseen_alert,
)
from policyctl.report.plan_items import items_of
from policyctl.report.plan_view import (
    NOT_COMPARED,
    OVERRIDES_TITLE,
    TESTS_TITLE,
    WARNINGS_TITLE,
    PlanView,
    Provenance,
    all_compared,
    basis_of,
    managed_text,
    manages_all,
    notes_of,
    override_text,
    rest_text,
    why_blocked,
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
    riskiest, others = fitted(*parted(items_of(subject)), left)
    missing = riskiest.missing + others.missing
    warnings = listed_lines(WARNINGS_TITLE, [f"{w.mark}: {w.coded}" for w in review.branch.warnings], left)
    notes = listed_lines("Notes:", notes_of(review), left)
    return "".join(
        [
            first_lines(review, subject.directory, unseen=unseen + missing > 0),
            unseen_alert(unseen, subject.artifacts),
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
        listed_lines(f"> [!CAUTION]\n> {TESTS_TITLE}", review.branch.failed_tests, room, "> "),
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
