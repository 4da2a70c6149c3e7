"""Scenario tests as values: given what models answer, what to expect of a policy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

from policyctl.effect.observe import Given

Relation = Literal["=", ">", ">=", "<", "<="]
TOLERANCE = 1e-6  # numbers that differ by no more are equal: 0.333333 is a third

_AMOUNT = re.compile(r"(>=|<=|>|<|=)?\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+)", re.ASCII)


class Amount(NamedTuple):
    """A part of all requests, from 0 to 1: exactly, or as a bound."""

    number: float
    relation: Relation = "="

    def holds(self, got: float) -> bool:
        """Whether a number is as this says, up to `TOLERANCE`."""
        difference = got - self.number
        equal = abs(difference) <= TOLERANCE
        if self.relation == "=" or (equal and len(self.relation) == 2):
            return equal
        return not equal and (difference > 0) == (self.relation[0] == ">")

    def __str__(self) -> str:
        number = f"{self.number:.9g}"
        return number if self.relation == "=" else f"{self.relation} {number}"


def read_amount(text: str) -> Amount:
    """An amount as people write it: `0.75`, `>= 0.99`. Raises ValueError when it is none, or not from 0 to 1."""
    found = _AMOUNT.fullmatch(text.strip())
    if found is None or float(found[2]) > 1:
        raise ValueError(f"{text!r} is no number from 0 to 1 and no comparison with one")
    return Amount(float(found[2]), cast(Relation, found[1] or "="))


@dataclass(frozen=True, slots=True)
class Expect:
    """What must hold; None and empty are "whatever it is".

    `status` is the status of every request, or the part that each status has; `served` the part that ends with a success.
    `served_by` is who serves every request, or the part that each serves: models, providers or globs (see `fitting`), as in
    `never`, who must not be called at all. `max_calls` and `max_wait_seconds` bound the calls and the back-off of a request.
    """

    status: int | Mapping[int, Amount] | None = None
    served: Amount | None = None
    served_by: str | Mapping[str, Amount] | None = None
    never: tuple[str, ...] = ()
    max_calls: int | None = None
    max_wait_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """One test. `given` is what models answer: a model, provider or glob → answers; the last one that fits a model holds."""

    name: str
    given: Mapping[str, Given]
    expect: Expect


@dataclass(frozen=True, slots=True)
class Suite:
    """The tests of one document: of which policy (canonical name), and which document of which file says so."""

    policy: str
    scenarios: tuple[Scenario, ...]
    file: str
    index: int = 0
