"""The groups of a valid policy, collected once for all rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from policyctl.effect.gateway import NEVER_AN_OUTCOME
from policyctl.policy.document import Document
from policyctl.policy.findings import FieldPath


class Group(NamedTuple):
    """One group of a policy: its path, its content, and the retry that it inherits.

    `codes` and `retry` are the group's own, None when absent; `outer_retry` is the nearest one of the groups around it;
    `live` are the targets that a request can come to.
    """

    path: FieldPath
    mode: str
    codes: list[int] | None
    retry: dict[str, Any] | None
    outer_retry: dict[str, Any] | None
    targets: list[dict[str, Any]]
    live: list[dict[str, Any]]

    @property
    def moves_on(self) -> bool:
        """Whether this is a fallback with somewhere to go and a reason to."""
        return self.mode == "fallback" and len(self.live) > 1


def can_trigger(codes: list[int] | None) -> bool:
    """Whether any result can make a fallback with this list move on; None is the default list."""
    return codes is None or not NEVER_AN_OUTCOME.issuperset(codes)


def live_targets(group: dict[str, Any]) -> list[dict[str, Any]]:
    """The targets of a group that a request can come to."""
    strategy, mode = group["strategy"], group["strategy"]["mode"]
    targets: list[dict[str, Any]] = group["targets"]
    if mode == "loadbalance" or (mode == "fallback" and can_trigger(strategy.get("on_status_codes"))):
        return targets
    return targets[:1]


def groups(document: Document) -> Iterator[Group]:
    """Every group that a request can come to, outermost first. What is wrong in a dead group does not matter."""
    pending: list[tuple[FieldPath, dict[str, Any], dict[str, Any] | None]] = [(("policy",), document["policy"], None)]
    for path, group, outer in pending:
        strategy, retry = group["strategy"], group.get("retry")
        live = live_targets(group)
        yield Group(path, strategy["mode"], strategy.get("on_status_codes"), retry, outer, group["targets"], live)
        inherited = outer if retry is None else retry
        pending += [
            ((*path, "targets", position), target, inherited) for position, target in enumerate(live) if "targets" in target
        ]
