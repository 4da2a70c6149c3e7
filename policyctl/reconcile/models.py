"""The models that a plan may target: those of the remote, and those that the directory declares."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cached_property

from policyctl.effect.context import KnownPolicies
from policyctl.errors import InvalidInput, PolicyctlError
from policyctl.load.directory import Loaded
from policyctl.load.environment import Environment
from policyctl.plan.references import only_declared, remote_spelling, unknown_targets
from policyctl.plan.safety import Review
from policyctl.policy.document import Policy
from policyctl.policy.findings import Finding
from policyctl.policy.names import virtual_model
from policyctl.remote.protocol import Reader


class KnownModels:
    """The models that a remote lists (asked once, when needed) and those that a directory declares."""

    def __init__(self, reader: Reader, declared: Collection[str] = ()) -> None:
        self._reader = reader
        self._declared = declared

    @cached_property
    def listed(self) -> frozenset[str]:
        """The names that the remote lists; empty when it has no list."""
        return self._reader.models()

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name, as the remote spells it; empty when no model is known at all."""
        return self.listed | frozenset(map(virtual_model, self._declared))

    def noted(self, reviewed: Review) -> Review:
        """The review of a plan that writes something, with notes on targeted models that are not known on the remote."""
        if not self.names:
            return replace(reviewed, unchecked="targets not checked: the remote knows no models")
        written = {change.name: change.after for change in reviewed.plan.policies if change.after is not None}
        policies = reviewed.policies.keys() | KnownPolicies.of(reviewed.policies).unclear
        there = {change.name for change in reviewed.plan.changes if change.kind == "model"} | reviewed.live
        declared = [name for name in self._declared if virtual_model(name) not in there]
        notes = only_declared(written, self.listed, declared, policies)
        return replace(reviewed, notes=(*reviewed.notes, *notes))

    def speller(self, policies: Collection[str], *, virtual: bool = False) -> Callable[[Policy], Policy]:
        """Returns a function that spells a policy's models as they are known. `policies` are names that are not models; with
        `virtual` a name without a prefix means the virtual model of that name, if there is one."""
        return lambda policy: remote_spelling(policy, self.names, policies, virtual=virtual)


def check_models(models: KnownModels, reviewed: Review, loaded: Loaded, environment: Environment) -> Review:
    """Check that the targets of every policy that the plan writes exist, and return the review with notes.

    Raises InvalidInput with a problem for every target that will be neither a model nor a policy. If no models are known, on
    the remote or in the directory, only policies are checked, and the review notes that. A model that only the directory has
    is noted too.
    """
    # A git revision has the policies of one directory: names that the directory does not manage may exist elsewhere.
    elsewhere = (
        _unknown_everywhere if KnownPolicies.of(reviewed.policies).whole else lambda name: not environment.speaks_for(name)
    )
    known = models.names if _written(reviewed) else frozenset()
    if found := _unknown_targets(reviewed, loaded.policies, known, elsewhere):
        raise InvalidInput(loaded.mark_of(policy, complaint) for policy, complaint in found)
    return models.noted(reviewed) if _written(reviewed) else reviewed


def check_policy(models: KnownModels, reviewed: Review, policy: Policy) -> Review:
    """The same for a plan over one policy without a file. Raises PolicyctlError with a line for every unknown target."""
    known = models.names if _written(reviewed) else frozenset()
    if found := _unknown_targets(reviewed, [policy], known, _unknown_everywhere):
        raise PolicyctlError("; ".join(complaint.message for _, complaint in found))
    return models.noted(reviewed) if _written(reviewed) else reviewed


def _unknown_everywhere(_: str) -> bool:
    return False


def _written(reviewed: Review) -> set[str]:
    return {change.name for change in reviewed.plan.changes if change.after is not None}


def _unknown_targets(
    reviewed: Review, desired: Sequence[Policy], models: frozenset[str], elsewhere: Callable[[str], bool]
) -> list[tuple[Policy, Finding]]:
    """The targets that the plan would write and that do not exist; without `models` only policies are checked."""
    written = _written(reviewed)
    unclear = KnownPolicies.of(reviewed.policies_before).unclear
    there = reviewed.live.union((policy.name for policy in desired), unclear)
    return [
        (policy, complaint)
        for policy in desired
        if policy.name in written
        for complaint in unknown_targets(policy.document, models, there, elsewhere)
    ]
