"""What `effect` shows, as values: an analysis, a what-if, a trace, a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from policyctl.effect.analysis import Analysis, Effect, Unfit
from policyctl.effect.costs import Cost
from policyctl.effect.dead import Dead
from policyctl.effect.evaluate import Evaluation
from policyctl.effect.outages import Outages
from policyctl.effect.simulate import Simulation
from policyctl.effect.tree import Tree
from policyctl.plan.change import UnknownField
from policyctl.policy.names import short_model
from policyctl.report.format import escape, shortened

Costs = Mapping[int | None, Mapping[Cost, float]]


@dataclass(frozen=True, slots=True)
class AnalysisView:
    """The whole picture of one policy, and the outages that are asked for."""

    name: str
    file: str
    picture: Analysis
    outages: Outages
    dead: tuple[Dead, ...]


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What one policy does while some models answer as supposed (in words, as on the command line)."""

    name: str
    file: str
    given: tuple[str, ...]
    evaluation: Evaluation
    costs: Costs
    tree: Tree


@dataclass(frozen=True, slots=True)
class Trace:
    """One request, walked step by step; `seed` decided its draws."""

    name: str
    file: str
    walk: Simulation
    seed: int
    refused: str | None
    unfit: tuple[Unfit, ...] = ()


@dataclass(frozen=True, slots=True)
class ComparisonView:
    """What one policy's change does; `against` says what it was compared with.

    `unfollowed` are the target policies of either side that cannot be followed or do not exist, each with the reason;
    `extras` the fields of live policies that the format does not know, by the name of the policy or of one that it leads to.
    """

    name: str
    file: str
    against: str
    effect: Effect
    unfollowed: Mapping[str, str]
    extras: Mapping[str, tuple[UnknownField, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NotKnownView:
    """One policy of which it cannot be told what it does, and why."""

    name: str
    file: str
    why: str


View = AnalysisView | WhatIf | Trace | ComparisonView | NotKnownView


def percent(chance: float) -> str:
    """`75%`, `33.33%`; what is not quite nothing or everything does not read as such."""
    text = f"{chance * 100:.2f}".rstrip("0").rstrip(".")
    if text == "100" and chance < 1:
        return ">99.99%"
    return "<0.01%" if text == "0" and chance > 0 else f"{text}%"


def percents(before: float, after: float) -> tuple[str, str] | None:
    """Two chances as percentages, with as many digits as it takes to tell them apart; None where twelve do not."""
    for digits in (2, 3, 4, 6, 8, 12):
        one, other = (f"{chance * 100:.{digits}f}".rstrip("0").rstrip(".") + "%" for chance in (before, after))
        if one != other:
            return one, other
    return None


def seconds(value: float) -> str:
    """`7 s`, `0.5 s`."""
    return f"{value:,.10g} s"


def model(name: str) -> str:
    """A model as shown to people."""
    return shortened(escape(short_model(name))) or "(the request's own model)"


def describe_unfit(one: Unfit) -> str:
    """Why a model never serves."""
    why = f"it is declared as {escape(one.type)}, and this policy takes {escape(one.takes)} requests"
    return f"{model(one.model)} never serves: {why}"
