"""The summary of a plan in a few lines: how much changes, the riskiest effect on traffic, and what the rules found.

And of each change what its consumers lose: the effect joined with who uses what changes. A consumer's calls to a policy have
the policy's effect, and only that is claimed. One that comes by way of another policy is left to that policy, which has an
effect of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from policyctl.effect.analysis import Cell, Delta, Effect, Reached
from policyctl.effect.outages import Together
from policyctl.plan.consumers import Consumer, ConsumerUse, counted_consumers, each_once
from policyctl.plan.effects import Risk, Tier, worst_of
from policyctl.plan.plan import Action, Change
from policyctl.plan.safety import Review
from policyctl.policy.names import KINDS, PLURALS, POLICY_PREFIX, bare_name, counted, kind_of, short_model
from policyctl.report.effect_rows import (
    before_after,
    cell_row,
    failing_part,
    informative,
    model,
    moved_shares,
    percents,
    seconds,
    together_row,
    usual_row,
)
from policyctl.report.format import count, escape, name_text
from policyctl.report.plan_view import ALSO, NOT_KNOWN, all_compared, how_many

_SHOWN = 3  # risks that are shown


class PlanSummary(NamedTuple):
    """What changes, what it risks, and what the rules found. `passed` is False if not all of the plan can be applied.

    `risks` are the worst ones, at most one for each policy: first those that are as bad as the worst, or nearly, then others
    that lose requests. The last one is replaced by a risk that affects more requests than all of these. `more` counts the
    others that are as bad as the worst, or nearly. `traffic` describes the traffic if nothing is at risk.
    """

    counts: str
    risks: tuple[Risk, ...]
    more: int
    traffic: str
    rules: str
    passed: bool


def plan_summary(review: Review) -> PlanSummary:
    """Summarise a plan for its headline, which is the same in every format."""
    plan = review.plan
    numbers = [f"{how_many(plan, action)} to {action}" for action, number in plan.totals.items() if number]
    numbers += [f"{len(review.affected):,} {ALSO}"] if review.affected else []
    counts = ", ".join(numbers) or ("no changes" if all_compared(review) else "nothing to apply")
    # Equal risks keep the order of the plan, so that the same plan always gives the same line.
    risks = sorted(risks_of(review), key=lambda risk: risk.rank, reverse=True)
    beside = {one.name for one in review.affected if is_unknown(one.effect)}  # after what is known, as in the table
    risks.sort(key=lambda risk: risk.policy in beside)
    alike = [risk for risk in risks if risks[0].like(risk)]  # includes the first, if there is one
    passed = not (review.stale or review.refusals or review.branch.failed_tests or plan.blocked or review.offline)
    shown = [*alike, *(risk for risk in risks if risk not in alike and risk.tier >= Tier.PARTIAL)][:_SHOWN]
    most = max(risks, key=_affected, default=None)
    if most is not None and _affected(most) > max(map(_affected, shown)):
        shown = [*shown[: _SHOWN - 1], most]
    more = sum(risk not in shown for risk in alike)
    return PlanSummary(counts, tuple(shown), more, _harmless_line(review), _rules(review), passed)


def _affected(risk: Risk) -> tuple[float, float]:
    """The largest share of requests that a policy's risks move or lose, and that they lose."""
    lost = [one.takes for one in (risk, *risk.also) if one.tier is not Tier.SHARE]
    return risk.takes, max(lost, default=0.0)


def headline(summary: PlanSummary) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The worst risks: the names of policies, and their risks in words (see `describe_risks`). Equal texts are merged."""
    found: dict[tuple[str, ...], list[str]] = {}
    for risk in summary.risks:
        found.setdefault(describe_risks(risk), []).append(bare_name(risk.policy))
    return [(tuple(names), words) for words, names in found.items()]


def risks_of(review: Review) -> Iterator[Risk]:
    """The worst risk for each policy that the plan changes, or that targets a changed one."""
    for change in review.plan.changes:
        if risk := risk_of(change, review):
            yield risk
    for one in review.affected:
        if risk := worst_of(one.name, "update", one.effect):
            yield risk


def is_unknown(effect: Effect | None) -> bool:
    """Whether it is not known what a change does to traffic."""
    return effect is None or effect.kind == "unknown"


def describe_risks(risk: Risk) -> tuple[str, ...]:
    """A risk and what else to know about its policy, each in words that follow the policy's name."""
    return tuple(map(describe_risk, (risk, *risk.also)))


def risk_of(change: Change, review: Review) -> Risk | None:
    """The worst risk of one change, if any."""
    effect, used = review.effects.get(change.name), change.name in review.used
    return worst_of(change.name, change.action, effect, used=used, all_read=review.all_read)


def describe_risk(risk: Risk) -> str:
    """One risk in words, without the policy's name."""
    match risk.about:
        case Effect() as effect if effect.unknown:
            return f"{NOT_KNOWN}: {escape(effect.brief or effect.unknown)}"
        case Effect() as effect:
            return moved_shares(effect.models)
        case Cell() as cell:
            return cell_row(cell)
        case Together() as together:
            return together_row(together)
        case Reached() as reached:
            return f"{model(reached.model)} newly reachable {escape(reached.when)}".rstrip()
        case Delta() as moved:
            return usual_row(moved) if moved.name == "usual" else _cost(moved)
    if risk.tier is Tier.REMOVED:
        return f"removed; no policy {'targets' if risk.all_read else 'that could be read targets'} it"
    return "removed, but a remaining policy targets it" if risk.weight else NOT_KNOWN


def _cost(moved: Delta) -> str:
    what, text = {
        "latency": ("worst-case latency", seconds),
        "failover": ("most back-off before failover", seconds),
        "waits": ("most back-off", seconds),
        "calls": ("most calls per request", "{:,.0f}".format),
    }[moved.name]
    return f"{what}: {before_after(moved, text)}"


def _harmless_line(review: Review) -> str:
    """What can be claimed about traffic when no risk was found: only what was compared, and what new models change."""
    if review.offline:
        return "What this does to policies that are not in the plan is not known." if review.plan.changes else ""
    updated = [review.effects.get(change.name) for change in review.plan.changes if change.action == "update"]
    effects = [effect for effect in (*updated, *(one.effect for one in review.affected)) if effect is not None]
    if not effects:
        return _only_new(review) if review.plan.changes else ""
    if review.awaited:
        return f"Live policies already target {_answering(review)}."
    return f"{_compared_line(effects)}{_new_default(review)}."


def _compared_line(effects: Sequence[Effect]) -> str:
    """The same of policies and models that were there before."""
    if any(effect.uncounted for effect in effects):
        return "The effect on traffic is not certain: live policies have fields that policyctl does not know (see the notes)"
    if all(effect.kind in ("metadata", "equivalent") for effect in effects):
        return "Nothing changes for requests: every change is metadata only or equivalent"
    if all(effect.sure for effect in effects):
        return "Nothing here makes traffic worse"
    return "No outage or partial failure of one model or provider gets worse"


def _new_default(review: Review) -> str:
    """What a new model with the tag `default` changes: what agents get that are made without a model of their own."""
    models = (one for one in review.plan.changes if one.kind == "model" and one.action == "add")
    defaults = [name_text(short_model(one.name)) for one in models if "default" in (one.after or {}).get("tags", ())]
    return f"; new agents without a model of their own get {' or '.join(defaults)}" if defaults else ""


def _only_new(review: Review) -> str:
    """A sentence about a plan that only adds. A new model may answer for a policy that already targets it."""
    new = " and ".join(PLURALS[kind] for kind in KINDS if any(change.kind == kind for change in review.plan.changes))
    if not review.awaited:
        return f"Only new {new}: no live policy changes{_new_default(review)}."
    return f"Only new {new}, but live policies already target {_answering(review)}."


def _answering(review: Review) -> str:
    models = f"{len(review.awaited):,} new {'model' if len(review.awaited) == 1 else 'models'}"
    return f"{models}: requests that reach them are answered from now on{_new_default(review)}"


def _rules(review: Review) -> str:
    found = ["safety rules are checked by apply, not here"] if review.offline else []
    if review.stale:
        found.append(f"stale, {counted(map(kind_of, review.stale))} changed since the plan was made")
    if review.refusals:
        found.append(f"refused by {count(len(review.refusals), 'safety rule')}")
    if review.branch.failed_tests:
        failed = len(review.branch.failed_tests)
        found.append(f"{count(failed, 'scenario test')} {'fails' if failed == 1 else 'fail'}")
    if review.plan.blocked:
        found.append(f"{counted(kind_of(block.name) for block in review.plan.blocked)} blocked by rows on the remote")
    if review.plan.overrides and not found:
        found.append(f"allowed by {count(len(review.plan.overrides), 'override')}")
    return ", ".join(found) or _PASSED[review.guarded]


_PASSED = {
    True: "safety rules and guards passed",
    False: "safety rules passed, no guards configured",
    None: "safety rules passed",
}


# The others make no calls: policies have an effect of their own, and a tenant's settings are names.
_CALLING = frozenset({"agent", "flow", "knowledge base"})


class Losses(NamedTuple):
    """The consumers that a change affects, and in a sentence what they lose, or that it is not known."""

    consumers: tuple[Consumer, ...]
    text: str


def losses_by(name: str, action: Action, effect: Effect | None, review: Review) -> Losses | None:
    """What the consumers of a changed or affected policy or model lose; None where nothing gets worse for any known one.

    `effect` is that of an update; None where it is not known.
    """
    found = review.consumers
    if found is None or action == "add" or not (affected := _calling(found.uses.get(name, ()))):
        return None
    consumers = tuple(use.consumer for use in affected)
    # Where some are not affected, it takes names to distinguish them.
    who = counted_consumers(consumers, named=len(consumers) < len(each_once(found.uses.get(name, ()))))
    who = f"at least {who}" if found.unread else who
    lost = _left_without(name, who) if action == "remove" else _lost_by(effect, who, one=len(affected) == 1)
    return Losses(consumers, lost) if lost else None


def losses_text(name: str, action: Action, effect: Effect | None, review: Review) -> str:
    """The sentence alone; empty for none."""
    lost = losses_by(name, action, effect, review)
    return lost.text if lost is not None else ""


def affected_first(uses: Sequence[ConsumerUse], losses: Losses | None) -> list[ConsumerUse]:
    """The uses of those that lose something, then the others."""
    affected = losses.consumers if losses is not None else ()
    return sorted(uses, key=lambda use: use.consumer not in affected)


def _calling(uses: Iterable[ConsumerUse]) -> list[ConsumerUse]:
    """The uses by consumers whose own calls go to what they use: without those by way of another policy."""
    return [
        use
        for use in each_once(uses)
        if use.consumer.kind in _CALLING and not any(one.startswith(POLICY_PREFIX) for one in use.through)
    ]


def _left_without(name: str, who: str) -> str:
    return f"{who} would name a {kind_of(name)} that no longer exists"


def _lost_by(effect: Effect | None, who: str, *, one: bool) -> str:
    """What an update loses for these consumers; empty for nothing. `one` is whether that is a single consumer."""
    if effect is None or effect.unknown:
        return f"it is not known what changes for {who}"
    lose = "may lose" if effect.uncounted else "loses" if one else "lose"
    if effect.refused:
        return f"{who} {lose} every request: the gateway refuses the policy"
    if effect.usual is not None and (effect.usual.after or 0.0) < (effect.usual.before or 0.0):
        return f"{who} {lose} requests: {usual_row(effect.usual)}"
    if cells := informative(effect.worse, effect):
        return f"{who} {lose} {_cell_lost(cells, effect)}".replace("  ", " ")
    if effect.together is not None:
        return f"{who} {lose} requests: {together_row(effect.together)}"
    return ""


def _cell_lost(cells: Sequence[Cell], effect: Effect) -> str:
    """`failover while openai/gpt-4o is down with 503`, or `requests while …` where that was not survived before either."""
    cell, *others = cells
    more = f", and in {len(others):,} more {'case' if len(others) == 1 else 'cases'}" if others else ""
    what = "failover" if _had_failover(cell, effect) else "requests"
    if cell.after > 0:
        before, after = percents(cell.before, cell.after) or ("", "")
        more = f" (served {before} → {after}){more}"
    return f"{what} while {failing_part(cell)}{more}"


def _had_failover(cell: Cell, effect: Effect) -> bool:
    """Whether requests that came to what fails were all served by something else before: it took some while nothing failed,
    and none were lost in this outage, in which every one of its calls fails."""
    moved = effect.models if cell.kind == "model" else effect.providers
    share = next((one.before for one in moved if one.name == cell.name), None)
    # Only shares that change are listed. One that stays is above 0, since something is lost without it now.
    return cell.share == 1 and cell.before == 1 and effect.usual is None and (share is None or share > 0)
