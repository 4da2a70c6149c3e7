"""Views of `effect` as titled rows of words, from which text and markdown are made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from policyctl.effect.analysis import Analysis, Cell, Delta, Effect, Unfit, unfit_models
from policyctl.effect.context import NOTHING, DeclaredModels
from policyctl.effect.costs import Cost
from policyctl.effect.equivalence import Kind
from policyctl.effect.failures import FailureClass, describe_failures
from policyctl.effect.gateway import Answer, answer_text
from policyctl.effect.outages import Outages, Row, Together, outages, served
from policyctl.effect.tree import Tree, tree_if_known
from policyctl.effect.worst_case import Bound
from policyctl.errors import NotKnown
from policyctl.plan.change import unknown_field_notes
from policyctl.plan.risk import weight_of
from policyctl.policy.document import Document
from policyctl.policy.names import provider_of, short_names
from policyctl.report.effect_view import (
    AnalysisView,
    ComparisonView,
    NotKnownView,
    Trace,
    View,
    WhatIf,
    describe_unfit,
    model,
    percent,
    percents,
    seconds,
)
from policyctl.report.format import count, escape, position_name

_MOST_COSTS = 8  # rows of one status
_MOST_ROWS = 8  # of what a change moves, unless all are wanted


class Section(NamedTuple):
    """Rows under a title."""

    title: str
    rows: tuple[str, ...]


def sections(view: View) -> list[Section]:
    """Everything that a view has to say; sections without rows are left out."""
    match view:
        case AnalysisView():
            found = list(_analysis_sections(view))
        case WhatIf():
            found = list(_what_if_sections(view))
        case Trace():
            found = list(_trace_sections(view))
        case ComparisonView():
            effect, uncounted = effect_rows(view.effect), map(escape, unknown_field_notes(view.extras, position_name))
            found = [Section("effect", tuple(effect)), _unfollowed(view), Section("not counted", tuple(uncounted))]
        case NotKnownView():
            found = [Section("not known", (escape(view.why),))]
    return [section for section in found if section.rows]


def effect_rows(effect: Effect) -> Iterator[str]:
    """What a change moves, one row each, the gravest first (see `core.risk`); a plan shows these under the change."""
    if effect.unknown:
        yield f"not known: {escape(effect.unknown)}"
        return
    if effect.uncounted:
        yield "nothing is proven: live policies here have fields that policyctl does not know and does not count"
    if effect.refused:
        yield f"worse: the gateway refuses this policy, every request gets 400: {position_name(effect.refused)}"
    if effect.was_refused:
        yield f"better: the gateway refused it before: {position_name(effect.was_refused)}"
    if effect.usual is not None:
        worse = (effect.usual.after or 0) < (effect.usual.before or 0)
        yield f"{'worse' if worse else 'better'}: {usual_row(effect.usual)}"
    yield from _shares(effect)
    yield from (f"worse: {cell_row(cell)}" for cell in informative(effect.worse, effect))
    if effect.together is not None:
        yield f"worse: {together_row(effect.together)}"
    yield from map(describe_unfit, effect.unfit)
    for word, reached in (("newly reachable", effect.added), ("no longer reachable", effect.removed)):
        yield from (" ".join([model(name), word, escape(when)]).rstrip() for name, when in reached)
    yield from (f"better: {cell_row(cell)}" for cell in informative(effect.better, effect))
    yield from _moved_bounds(effect)
    if replace(effect, sure=False, uncounted=False) == Effect(effect.kind):
        yield _NOTHING_MOVES[effect.kind]


def _shares(effect: Effect) -> Iterator[str]:
    if effect.models:
        yield f"traffic: {moved_shares(effect.models)}"
    if effect.providers and len(effect.providers) < len(effect.models):
        yield f"traffic by provider: {moved_shares(effect.providers)}"
    if effect.shift:
        yield "only weights move: worse only while a model that gained is down, better only while one that lost is"


def moved_shares(shares: Sequence[Delta]) -> str:
    """`openai/gpt-4.1 50% → 80%, google/gemini 50% → 20%`, what moved most first."""
    falling = sorted(shares, key=lambda one: -abs((one.after or 0) - (one.before or 0)))
    return ", ".join(f"{model(one.name)} {' → '.join(_both(one.before or 0.0, one.after or 0.0))}" for one in falling)


def _both(before: float, after: float) -> tuple[str, str]:
    return percents(before, after) or (percent(before), percent(after))


def first_rows(effect: Effect, *, whole: bool) -> tuple[list[str], int]:
    """The rows of an effect, but not more than one can take in unless it is wanted `whole`; and how many are left out."""
    rows = list(effect_rows(effect))
    shown = rows if whole or len(rows) <= _MOST_ROWS + 1 else rows[:_MOST_ROWS]
    return shown, len(rows) - len(shown)


_NOTHING_MOVES: dict[Kind, str] = {
    "metadata": "metadata only: the gateway gets the same policy",
    "equivalent": "equivalent: other words for the same behaviour",
    "effective": "no share, outage or bound moves, but what happens on the way may",
    "unknown": "not known",
}


def _moved_bounds(effect: Effect) -> Iterator[str]:
    if effect.calls:
        yield f"most calls of a request: {before_after(effect.calls, '{:,.0f}'.format)}"
    if effect.failover and (effect.failover.before or effect.failover.after):
        yield f"most back-off before failover: {before_after(effect.failover, seconds)}"
    elif effect.waits and (effect.waits.before or effect.waits.after):
        yield f"most back-off: {before_after(effect.waits, seconds)}"
    if effect.latency:
        yield f"worst-case latency: {before_after(effect.latency, seconds)}"


def before_after(moved: Delta, said: Callable[[float], str]) -> str:
    """`75% → 100%`, each value said by `said`."""
    return " → ".join("none" if value is None else said(value) for value in (moved.before, moved.after))


def informative(cells: Sequence[Cell], effect: Effect) -> list[Cell]:
    """The cells that say what no other does, the gravest first.

    Left out are those of a provider that one of its models shows already, partial failures that an outage shows and that take
    no more, what prints alike, and all where it is proven that only weights move: an outage then costs what the shares are.
    """
    if effect.shift:
        return []
    own = {(provider_of(cell.name), *cell[2:]) for cell in cells if cell.kind == "model"}
    whole: defaultdict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in (cell for cell in cells if cell.share == 1):
        whole[cell[:2]].append(cell)
    found = []
    for cell in cells:
        if cell.share < 1:
            shown = [one.failures for one in whole[cell[:2]] if one.size >= cell.size]
            cell = cell._replace(failures=cell.failures.difference(*shown))
        known = cell.kind == "provider" and cell[1:] in own
        if cell.failures and not known and percents(cell.before, cell.after):
            found.append(cell)
    return sorted(found, key=lambda cell: (-weight_of(cell), cell.share < 1))


def usual_row(moved: Delta) -> str:
    """`served 100% → 80% while nothing fails`."""
    return f"served {' → '.join(_both(moved.before or 0.0, moved.after or 0.0))} while nothing fails"


def cell_row(cell: Cell) -> str:
    """`served 100% → 0% while google/gemini answers 500`, `… while a tenth of the calls to provider openai answer 503`."""
    name = model(cell.name) if cell.kind == "model" else f"provider {escape(cell.name)}"
    how = describe_failures(cell.failures)
    what = f"{name} is down with {how}" if cell.share == 1 else f"{_part(cell.share)} of the calls to {name} fail with {how}"
    return f"served {' → '.join(_both(cell.before, cell.after))} while {what}"


def _part(share: float) -> str:
    return "a tenth" if share == 0.1 else percent(share)


def together_row(together: Together) -> str:
    """`served 100% → 0% while openai/gpt-4o is down with 503 and google/gemini is down with 429`."""
    how = " and ".join(_failing(model(name), answers, together.share) for name, answers in together.failing)
    return f"served {' → '.join(_both(together.before, together.after))} while {how}"


def _failing(name: str, answers: Sequence[Answer], share: float) -> str:
    said = ["200" if one == 200 else describe_failures([one]) for one in answers]
    if share < 1:
        return f"{_part(share)} of the calls to {name} fail with {' or '.join(said)}"
    return f"{name} is down with {said[0]}" if len(said) == 1 else f"{name} answers now {', now '.join(said)}"


def _analysis_sections(view: AnalysisView) -> Iterator[Section]:
    seen = view.picture
    if seen.tree.refused:
        yield Section("refused", (f"every request gets 400: {position_name(seen.tree.refused)}",))
        return
    yield Section("traffic", tuple(_traffic(seen)))
    yield Section("providers", tuple(f"{percent(share):>6}  {escape(name)}" for name, share in _falling(seen.providers)))
    yield _unfit(unfit_models(seen.tree))
    yield Section("outages", tuple(_outages(view.outages)))
    yield Section("worst case", tuple(_worst(view)))
    yield Section(
        "dead",
        tuple(f"{position_name(one.path)}{f' ({model(one.model)})' if one.model else ''}: {one.why}" for one in view.dead),
    )
    yield from _references(seen.tree)


def _references(tree: Tree) -> Iterator[Section]:
    """What is assumed of targets that are policies, and which of them serve nobody as far as is known."""
    yield Section("assumed", tuple(_assumed(name, repeats) for name, repeats in tree.assumed.items()))
    yield Section(
        "missing", tuple(f"{escape(name)} does not exist; no request that comes to it is served" for name in tree.missing)
    )
    unfollowed = tree.unfollowed.items()
    yield Section("not followed", tuple(f"{escape(name)}: {escape(why)}; {_NOT_FOLLOWED}" for name, why in unfollowed))


def _unfollowed(view: ComparisonView) -> Section:
    """The same for a comparison, which claims nothing where something that it would have to follow cannot be followed."""
    counted = "" if view.effect.unknown else f"; {_NOT_FOLLOWED}"
    return Section("not followed", tuple(f"{escape(name)}: {escape(why)}{counted}" for name, why in view.unfollowed.items()))


_NOT_FOLLOWED = "requests that come to it are not counted as served, and its own calls and waits are not counted"


def _assumed(name: str, repeats: int) -> str:
    said = f"{escape(name)} does what its own policy does"
    if not repeats:
        return said
    return f"{said}; a retry around it may repeat it {count(repeats, 'time')}, which counts in the worst case only"


def _unfit(models: Sequence[Unfit]) -> Section:
    return Section("types", tuple(map(describe_unfit, models)))


def _falling(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(shares.items(), key=lambda pair: -pair[1])


def _traffic(seen: Analysis) -> Iterator[str]:
    names = short_names(seen.tree.models)
    for name, share in _falling(seen.models):
        when = seen.reach[name].said(names) if name in seen.reach else "never asked"
        unknown = "  (not followed, see below)" if name in seen.tree.unfollowed else ""
        yield f"{percent(share):>6}  {model(name)}{f'  {escape(when)}' if when else ''}{unknown}"


def outage_rows(
    document: Document, policies: Mapping[str, Document] | None = None, declared: DeclaredModels = NOTHING
) -> list[str]:
    """What a policy serves while a model or a provider is down, or why that is not known."""
    try:
        tree = tree_if_known(document, policies, declared)
    except NotKnown as error:
        return [f"not known: {escape(str(error))}"]
    if tree.untold:
        return [f"not known: {escape(tree.untold)}"]
    return [*map(describe_unfit, unfit_models(tree)), *_outages(outages(tree))]


def _outages(matrix: Outages) -> Iterator[str]:
    rows = [(model(name), row) for name, row in matrix.models.items()]
    single = {provider_of(name): row for name, row in matrix.models.items()}
    rows += [(f"provider {escape(name)}", row) for name, row in matrix.providers.items() if single.get(name) != row]
    for name, row in rows:
        yield f"{name} down: {_row(row, matrix.classes)}"


def _row(row: Row, classes: Sequence[FailureClass]) -> str:
    """`40% served with 400, 401; otherwise 100%`: what most statuses lead to comes last."""
    alike: defaultdict[float, frozenset[Answer]] = defaultdict(frozenset)
    for lost, failures in zip(row, classes, strict=True):
        alike[lost] |= failures.answers
    *rarer, (most, _) = sorted(alike.items(), key=lambda pair: (len(pair[1]), -pair[0]))
    said = [f"{percent(served(lost))} served with {describe_failures(failures)}" for lost, failures in rarer]
    return "; ".join([*said, f"otherwise {percent(served(most))}"]) if said else f"{percent(served(most))} served"


def _worst(view: AnalysisView) -> Iterator[str]:
    seen = view.picture
    yield f"{count(int(seen.calls.value), 'call')}{_legs(seen.calls)}"
    if seen.waits.value:
        yield f"{seconds(seen.waits.value)} of back-off{_legs(seen.waits)}"
    if seen.failover.value:
        yield f"{seconds(seen.failover.value)} of it before the last failover{_legs(seen.failover)}"
    if seen.latency:
        yield f"{seconds(seen.latency.value)} in all, when every call takes its whole timeout{_legs(seen.latency)}"


def _legs(bound: Bound) -> str:
    return f": {', '.join(f'{model(leg.model)} × {leg.calls}' for leg in bound.legs)}" if bound.legs else ""


def _what_if_sections(view: WhatIf) -> Iterator[Section]:
    seen = view.evaluation
    yield Section("supposed", tuple(map(escape, view.given)))
    yield _unfit(unfit_models(view.tree))
    yield Section("served", (percent(seen.served) + (f"; {percent(seen.cut)} get a broken stream" if seen.cut else ""),))
    yield Section("answers", tuple(_answers(view)))
    yield Section(
        "models",
        tuple(
            f"{model(name)}: serves {percent(seen.serves[name])}, is asked by {percent(reached)} of the requests, "
            f"{seen.calls[name]:.4g} calls a request"
            for name, reached in seen.reached.items()
        ),
    )
    yield from _references(view.tree)


def _answers(view: WhatIf) -> Iterator[str]:
    for status, chance in sorted(view.evaluation.statuses.items(), key=lambda pair: -pair[1]):
        yield f"{percent(chance):>6}  {_status(status)}"
        spread = sorted(view.costs.get(status, {}).items(), key=lambda pair: -pair[1])
        for cost, share in spread[:_MOST_COSTS]:
            yield f"        {percent(share)} after {_cost(cost)}"
        if len(spread) > _MOST_COSTS:
            yield f"        … and {count(len(spread) - _MOST_COSTS, 'rarer way')}"


def _cost(cost: Cost) -> str:
    return count(cost.calls, "call") + (f" and {seconds(cost.seconds)} of back-off" if cost.seconds else "")


def _status(status: int | None) -> str:
    return "no answer at all" if status is None else str(status)


def _trace_sections(view: Trace) -> Iterator[Section]:
    walk = view.walk
    if view.refused:
        yield Section("refused", (f"the gateway calls no model: {position_name(view.refused)}",))
    yield _unfit(view.unfit)
    yield Section("calls", tuple(_calls(view)))
    ending = f"{_status(walk.status)}{' with a broken stream' if walk.cut else ''} after {count(len(walk.calls), 'call')}"
    yield Section("answer", (ending + (f" and {seconds(walk.waited)} of back-off" if walk.waited else ""),))


def _calls(view: Trace) -> Iterator[str]:
    for number, call in enumerate(view.walk.calls, 1):
        wait = f" (after {seconds(call.wait)})" if call.wait else ""
        yield f"{number}. {model(call.model)}: {answer_text(call.answer)}{wait}"
