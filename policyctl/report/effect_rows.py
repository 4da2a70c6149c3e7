"""The effect of a change on traffic, and the outages of a policy, as rows of words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from policyctl.effect.analysis import Cell, Delta, Effect
from policyctl.effect.equivalence import Kind
from policyctl.effect.gateway import Answer
from policyctl.effect.outages import FailureClass, Outages, Row, Together, describe_failures, outages, served
from policyctl.effect.tree import NOTHING, DeclaredModels, Unfit, tree_if_known, unfit_models
from policyctl.errors import NotKnown
from policyctl.plan.effects import weight_of
from policyctl.policy.document import Document
from policyctl.policy.memo import Memo
from policyctl.policy.names import provider_of, short_model
from policyctl.report.format import escape, name_text, position_name, shortened

_MOST_ROWS = 8  # of an effect, unless it is wanted whole


def effect_rows(effect: Effect) -> Iterator[str]:
    """The effect of a change, the gravest row first (see `plan.risk`); a plan shows these below the change."""
    if effect.unknown:
        yield f"not known: {escape(effect.unknown)}"
        return
    if effect.uncounted:
        yield "not certain: live policies here have fields that policyctl does not know and does not count"
    if effect.refused:
        yield f"worse: the gateway refuses this policy, and every request gets 400: {position_name(effect.refused)}"
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
    if replace(effect, sure=False, uncounted=False, of_model=False) == Effect(effect.kind):
        yield "metadata only: its calls stay the same" if effect.of_model else _NOTHING_MOVES[effect.kind]


def _shares(effect: Effect) -> Iterator[str]:
    if effect.models:
        yield f"traffic: {moved_shares(effect.models)}"
    if effect.providers and len(effect.providers) < len(effect.models):
        yield f"traffic by provider: {moved_shares(effect.providers)}"
    if effect.shift:
        yield "only weights change: worse only while a model that gains is down, better only while one that loses is"


def moved_shares(shares: Sequence[Delta]) -> str:
    """`openai/gpt-4.1 50% → 80%, google/gemini 50% → 20%`, the largest shift first."""
    falling = sorted(shares, key=lambda one: -abs((one.after or 0) - (one.before or 0)))
    return ", ".join(f"{model(one.name)} {' → '.join(_both(one.before or 0.0, one.after or 0.0))}" for one in falling)


def _both(before: float, after: float) -> tuple[str, str]:
    return percents(before, after) or (percent(before), percent(after))


# An effect is kept with its rows, so that no other one has its id.
_ROWS = Memo[tuple[Effect, list[str]]]()


def first_rows(effect: Effect, *, whole: bool) -> tuple[list[str], int]:
    """The first rows of an effect, or all of them if `whole`, and the number of rows left out."""
    _, rows = _ROWS.of(lambda: id(effect), lambda: (effect, list(effect_rows(effect))))
    shown = rows if whole or len(rows) <= _MOST_ROWS + 1 else rows[:_MOST_ROWS]
    return shown, len(rows) - len(shown)


_NOTHING_MOVES: dict[Kind, str] = {
    "metadata": "metadata only: the gateway gets the same policy",
    "equivalent": "equivalent: the same behaviour, written differently",
    "effective": "no share, outage or bound changes, but the calls on the way may",
    "unknown": "not known",
}


def _moved_bounds(effect: Effect) -> Iterator[str]:
    if effect.calls:
        yield f"most calls per request: {before_after(effect.calls, '{:,.0f}'.format)}"
    if effect.failover and (effect.failover.before or effect.failover.after):
        yield f"most back-off before failover: {before_after(effect.failover, seconds)}"
    elif effect.waits and (effect.waits.before or effect.waits.after):
        yield f"most back-off: {before_after(effect.waits, seconds)}"
    if effect.latency:
        yield f"worst-case latency: {before_after(effect.latency, seconds)}"


def before_after(moved: Delta, text: Callable[[float], str]) -> str:
    """`75% → 100%`; `text` formats each value."""
    return " → ".join("none" if value is None else text(value) for value in (moved.before, moved.after))


def informative(cells: Sequence[Cell], effect: Effect) -> list[Cell]:
    """The cells that add information, the gravest first.

    Left out: a provider whose only effect is already shown for one of its models, partial failures that cost no more than an
    outage that is shown, values that print alike, and everything if provably only weights change, because an outage then
    costs exactly the shares.
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
    return f"served {' → '.join(_both(cell.before, cell.after))} while {failing_part(cell)}"


def failing_part(cell: Cell) -> str:
    """`google/gemini is down with 500`, `a tenth of the calls to provider openai fail with 503`."""
    name = model(cell.name) if cell.kind == "model" else f"provider {name_text(cell.name)}"
    how = describe_failures(cell.failures)
    return f"{name} is down with {how}" if cell.share == 1 else f"{_part(cell.share)} of the calls to {name} fail with {how}"


def _part(share: float) -> str:
    return "a tenth" if share == 0.1 else percent(share)


def together_row(together: Together) -> str:
    """`served 100% → 0% while openai/gpt-4o is down with 503 and google/gemini is down with 429`."""
    how = " and ".join(_failing(model(name), answers, together.share) for name, answers in together.failing)
    return f"served {' → '.join(_both(together.before, together.after))} while {how}"


def _failing(name: str, answers: Sequence[Answer], share: float) -> str:
    shown = ["200" if one == 200 else describe_failures([one]) for one in answers]
    if share < 1:
        return f"{_part(share)} of the calls to {name} fail with {' or '.join(shown)}"
    return f"{name} is down with {shown[0]}" if len(shown) == 1 else f"{name} answers now {', now '.join(shown)}"


def outage_rows(
    document: Document, policies: Mapping[str, Document] | None = None, declared: DeclaredModels = NOTHING
) -> list[str]:
    """What a policy serves while a model or a provider is down, or why this is not known."""
    try:
        tree = tree_if_known(document, policies, declared)
    except NotKnown as error:
        return [f"not known: {escape(str(error))}"]
    if tree.untold:
        return [f"not known: {escape(tree.untold)}"]
    return [*map(describe_unfit, unfit_models(tree)), *survived_rows(outages(tree))]


def survived_rows(matrix: Outages) -> Iterator[str]:
    rows = [(model(name), row) for name, row in matrix.models.items()]
    single = {provider_of(name): row for name, row in matrix.models.items()}
    rows += [(f"provider {name_text(name)}", row) for name, row in matrix.providers.items() if single.get(name) != row]
    for name, row in rows:
        yield f"{name} down: {_row(row, matrix.classes)}"


def _row(row: Row, classes: Sequence[FailureClass]) -> str:
    """`40% served with 400, 401; otherwise 100%`: the share for most statuses comes last."""
    alike: defaultdict[float, frozenset[Answer]] = defaultdict(frozenset)
    for lost, failures in zip(row, classes, strict=True):
        alike[lost] |= failures.answers
    *rarer, (most, _) = sorted(alike.items(), key=lambda pair: (len(pair[1]), -pair[0]))
    rows = [f"{percent(served(lost))} served with {describe_failures(failures)}" for lost, failures in rarer]
    return "; ".join([*rows, f"otherwise {percent(served(most))}"]) if rows else f"{percent(served(most))} served"


def percent(chance: float) -> str:
    """`75%`, `33.33%`; never `0%` for something or `100%` for less than everything."""
    text = _rounded(chance, 2)
    if text == "100%" and chance < 1:
        return ">99.99%"
    return "<0.01%" if text == "0%" and chance > 0 else text


def percents(before: float, after: float) -> tuple[str, str] | None:
    """Two chances as percentages with enough digits to differ, and to be neither `0%` for something nor `100%` for less than
    everything; None if twelve digits are not enough to differ."""
    shown = [(_rounded(before, digits), _rounded(after, digits)) for digits in (2, 3, 4, 6, 8, 12)]
    for pair in shown:
        if pair[0] != pair[1] and all(
            text not in ("0%", "100%") or text == last for text, last in zip(pair, shown[-1], strict=True)
        ):
            return pair
    return None


def _rounded(chance: float, digits: int) -> str:
    return f"{chance * 100:.{digits}f}".rstrip("0").rstrip(".") + "%"


def seconds(value: float) -> str:
    """`7 s`, `0.5 s`."""
    return f"{value:,.10g} s"


def model(name: str) -> str:
    """A model's name for people."""
    return shortened(name_text(short_model(name))) or "(the request's own model)"


def describe_unfit(one: Unfit) -> str:
    """Why a model never serves."""
    why = f"it is declared as {escape(one.type)}, and this policy takes {escape(one.takes)} requests"
    return f"{model(one.model)} never serves: {why}"
