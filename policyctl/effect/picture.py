"""The whole picture of one policy: shares, outages, bounds and reach, each worked out once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import fsum

from policyctl.effect.bounds import Bound, max_calls, max_failover, max_latency, max_waits
from policyctl.effect.declared import NOTHING, Declared
from policyctl.effect.evaluate import rounded
from policyctl.effect.reach import Condition, reach
from policyctl.effect.routes import Routes
from policyctl.effect.shares import exact_shares, provider_shares
from policyctl.effect.tree import Tree, known_tree
from policyctl.model.normal import Document


@dataclass(frozen=True)  # without slots, so that what few need is worked out when it is asked for, and once
class Picture:
    """What a policy does. Shares and chances are from 0 to 1.

    What outages do is not in it: which failures are told apart depends on what the policy is compared with (see `outages`).
    """

    tree: Tree
    models: Mapping[str, float]
    exact: Mapping[str, float] = field(repr=False, compare=False)  # the shares of models before rounding, to be summed
    providers: Mapping[str, float]
    calls: Bound
    failover: Bound
    latency: Bound | None
    routes: Routes = field(repr=False, compare=False)

    @cached_property
    def reach(self) -> Mapping[str, Condition]:
        """The models that a request can come to, each with what must fail before."""
        return reach(self.routes)

    @cached_property
    def waits(self) -> Bound:
        """The most back-off of a request."""
        return max_waits(self.routes)

    @property
    def usual(self) -> float:
        """The chance that a request is served when nothing fails, as far as that is known."""
        return rounded(fsum([share for name, share in self.exact.items() if name not in self.tree.unfollowed]))


def picture(
    document: Document,
    policies: Mapping[str, Document] | None = None,
    declared: Declared = NOTHING,
) -> Picture:
    """The picture of a policy document (see `read_tree`), with what is declared of models."""
    tree = known_tree(document, policies, declared)
    routes = Routes(tree)
    shares = exact_shares(tree)
    return Picture(
        tree=tree,
        models={model: rounded(share) for model, share in shares.items()},
        exact=shares,
        providers=provider_shares(shares),
        calls=max_calls(routes),
        failover=max_failover(routes),
        latency=max_latency(routes, declared.timeouts) if declared.timeouts else None,
        routes=routes,
    )
