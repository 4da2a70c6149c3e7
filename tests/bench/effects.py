"""How long effects take: `python -m tests.bench.effects`. Printed, not asserted: it depends on the machine.

1. A plan with 1,000 changed policies of 5 targets and depth 2: shares, outage matrix of every model and provider, bounds and
   reach, before and after, and what moved. On one core; the goal is 1 s.
2. One policy of depth 6 with over 200 targets: everything, and the exact evaluation under partial outages.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from random import Random
from time import process_time
from typing import Any

from policyctl.effect.analysis import analyse, compare
from policyctl.effect.evaluate import costs, evaluate
from policyctl.effect.gateway import Answers

CODES = (408, 429, 500, 502, 503, 504)
Policy = dict[str, Any]


def policy(random: Random) -> Policy:
    """Five targets: flat, or a group within a group."""
    outer = random.choice(["fallback", "loadbalance"])
    nested = random.choice([0, 1, 2])
    body = group(random, 5 - 2 * nested, outer)
    inner = "loadbalance" if outer == "fallback" else "fallback"
    body["targets"] += [{**group(random, 2, inner), "weight": 0.5} for _ in range(nested)]
    body["retry"] = {"attempts": random.randint(0, 5), "on_status_codes": random.sample(CODES, 3)}
    return {"name": "virtual-policy/x", "policy": body}


def group(random: Random, size: int, mode: str) -> dict[str, Any]:
    """A flat group; two in three fallbacks have a list."""
    strategy: dict[str, Any] = {"mode": mode}
    if mode == "fallback" and random.random() < 0.67:
        strategy["on_status_codes"] = random.sample(CODES, random.randint(1, 4))
    return {"strategy": strategy, "targets": [target(random) for _ in range(size)]}


def target(random: Random) -> dict[str, Any]:
    """One of 15 models of 3 providers."""
    model = f"virtual-model/{random.choice('abc')}/{random.choice('12345')}"
    return {"model_name": model, "weight": round(random.uniform(0.1, 1), 2)}


def deep(random: Random, depth: int) -> dict[str, Any]:
    """A tree with 2 or 3 targets at every place, load balances and fallbacks in turn."""
    if not depth:
        return {"model_name": f"virtual-model/{random.choice('abcdef')}/{random.randrange(60)}"}
    mode = "fallback" if depth % 2 else "loadbalance"
    codes = {"on_status_codes": random.sample(CODES, 4)} if mode == "fallback" and random.random() < 0.5 else {}
    return {
        "strategy": {"mode": mode, **codes},
        "retry": {"attempts": random.randint(0, 3)},
        "targets": [deep(random, depth - 1) for _ in range(2 + depth % 2)],
    }


def seconds(work: Callable[[], object]) -> float:
    """Processor time of one run."""
    start = process_time()
    work()
    return process_time() - start


def timed(what: str, work: Callable[[], object]) -> None:
    """Print the best of three runs."""
    print(f"{min(seconds(work) for _ in range(3)):8.3f} s  {what}")


def main() -> None:
    """Run all, or with `--thousand` only the first and print nothing but its seconds.

    Cycles are not collected meanwhile, as in every command (see `cli.main`).
    """
    gc.disable()
    random = Random(1)
    pairs = [(policy(random), policy(random)) for _ in range(1000)]
    if "--thousand" in sys.argv:
        print(seconds(lambda: [compare(*pair) for pair in pairs]))
        return
    timed("1,000 changes to other policies: all effects, before and after", lambda: [compare(*pair) for pair in pairs])
    small = [(one, changed(one)) for one, _ in pairs]
    timed("1,000 changes of one weight and one list: all effects, before and after", lambda: [compare(*pair) for pair in small])
    large = {"name": "virtual-policy/large", "policy": deep(random, 6)}
    seen = analyse(large)
    leaves = len(seen.tree.leaves)
    rates: dict[str, Answers] = {model: {200: 0.8, 429: 0.1, 500: 0.1} for model in seen.tree.models}
    timed(f"depth 6, {leaves} targets: shares, outages, bounds, reach", lambda: analyse(large))
    timed(f"depth 6, {leaves} targets: exact evaluation with 3 answers a model", lambda: evaluate(seen.tree, rates))
    timed(f"depth 6, {leaves} targets: calls and back-off, jointly", lambda: costs(seen.tree, rates))


def changed(one: Policy) -> Policy:
    """The same policy with another first weight and one code less to repeat."""
    body = one["policy"]
    first, *rest = body["targets"]
    retry = {**body["retry"], "on_status_codes": body["retry"]["on_status_codes"][1:]}
    return {**one, "policy": {**body, "retry": retry, "targets": [{**first, "weight": 0.05}, *rest]}}


if __name__ == "__main__":
    main()
