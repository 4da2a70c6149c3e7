"""The models that there are, and how a remote spells them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cached_property

from policyctl.core.models import spelled
from policyctl.model.names import virtual_model
from policyctl.model.policy import Policy
from policyctl.remote.protocol import Reader


class KnownModels:
    """The models of a remote, which is asked once and only when it matters, and those that a directory declares."""

    def __init__(self, reader: Reader, declared: Collection[str] = ()) -> None:
        self._reader = reader
        self._declared = declared

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name, as the remote spells it; empty when no model is known at all."""
        return self._reader.models() | frozenset(map(virtual_model, self._declared))

    def speller(self, policies: Collection[str], *, virtual: bool = False) -> Callable[[Policy], Policy]:
        """What gives a policy with its models spelled as they are known (see `spelled`); `policies` are by canonical name."""
        return lambda policy: spelled(policy, self.names, policies, virtual=virtual)
