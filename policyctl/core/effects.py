"""What a plan does to traffic: the effect of each update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from policyctl.core.plan import Plan
from policyctl.errors import PolicyctlError
from policyctl.model.live import Observed
from policyctl.model.normal import Document, normal_form

if TYPE_CHECKING:
    from policyctl.effect.compare import Effect


def effects_of(plan: Plan, policies: Mapping[str, Document], timeouts: Mapping[str, float] | None = None) -> dict[str, Effect]:
    """The effect of every update of a plan, by canonical name.

    `policies` are all as they will be when the plan is applied (see `Planned`): targets that are policies count with what
    those do. `timeouts` are the models' own, in seconds, as far as they are known.
    """
    updates = {change.name: change for change in plan.changes if change.action == "update"}
    if not updates:
        return {}
    from policyctl.effect.compare import compare  # most plans change nothing, and then nobody asks the effect engine

    effects = {}
    for name, change in updates.items():
        # A live policy may be nested deeper than can be followed; of that one nothing is said.
        with suppress(PolicyctlError):
            effects[name] = compare(change.before, policies[name], policies, timeouts)
    return effects


class Planned(Mapping[str, Document]):
    """Every policy as it will be when a plan is applied, in normal form, by canonical name.

    A normal form is made when it is asked for: of thousands of policies few are.
    """

    def __init__(self, plan: Plan, observed: Observed) -> None:
        self._live = observed.live
        self._after = {change.name: change.after for change in plan.changes if change.after is not None}
        gone = {change.name for change in plan.changes if change.after is None}
        self._names = [name for name in {**self._live, **self._after} if name not in gone]
        self._known = frozenset(self._names)
        self._normal: dict[str, Document] = {}

    def __getitem__(self, name: str) -> Document:
        if name not in self._known:
            raise KeyError(name)
        if name not in self._after:
            return self._live[name].normal
        if name not in self._normal:
            self._normal[name] = normal_form(self._after[name])
        return self._normal[name]

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
