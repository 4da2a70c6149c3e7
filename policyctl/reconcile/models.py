"""The models that there are, and how a remote spells them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import cached_property

from policyctl.core.guards import Review
from policyctl.core.models import only_declared, spelled
from policyctl.effect.known import Known
from policyctl.model.names import virtual_model
from policyctl.model.policy import Policy
from policyctl.remote.protocol import Reader


class KnownModels:
    """The models of a remote, which is asked once and only when it matters, and those that a directory declares."""

    def __init__(self, reader: Reader, declared: Collection[str] = ()) -> None:
        self._reader = reader
        self._declared = declared

    @cached_property
    def listed(self) -> frozenset[str]:
        """The names that the remote lists; empty when it cannot say."""
        return self._reader.models()

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name, as the remote spells it; empty when no model is known at all."""
        return self.listed | frozenset(map(virtual_model, self._declared))

    def noted(self, reviewed: Review) -> Review:
        """The review of a plan that writes something, with notes on what of the models that it targets is not known."""
        if not self.names:
            return replace(reviewed, unchecked="targets not checked: the remote knows no models")
        written = {change.name: change.after for change in reviewed.plan.changes if change.after is not None}
        policies = reviewed.policies.keys() | Known.of(reviewed.policies).unclear
        notes = only_declared(written, self.listed, self._declared, policies)
        return replace(reviewed, notes=(*reviewed.notes, *notes))

    def speller(self, policies: Collection[str], *, virtual: bool = False) -> Callable[[Policy], Policy]:
        """What gives a policy with its models spelled as they are known (see `spelled`); `policies` are by canonical name."""
        return lambda policy: spelled(policy, self.names, policies, virtual=virtual)
