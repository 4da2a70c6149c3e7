"""A small gateway, written apart from the effect engine, and random policies for it."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import strategies as st

MODELS = [f"virtual-model/x/{name}" for name in "abc"]
CODES = [200, 205, 304, 400, 407, 429, 500, 503]
DEFAULT_RETRY = [429, 500, 502, 503, 504]


class Ended(Exception):
    """The gateway ends the request with a 500 of its own."""


class Gateway:
    """One request through a policy, by the gateway profile portkey-1.15.2; models answer in turn, the last answer sticks."""

    def __init__(self, answers: dict[str, list[int]], seed: int) -> None:
        self.answers = answers
        self.seed = seed
        self.calls: list[str] = []

    def request(self, policy: dict[str, Any]) -> tuple[int, list[str]]:
        try:
            return self.group(policy, None, ()), self.calls
        except Ended:
            return 500, self.calls

    def group(self, group: dict[str, Any], retry: dict[str, Any] | None, path: tuple[int, ...]) -> int:
        retry = group.get("retry", retry)
        mode, targets = group["strategy"]["mode"], list(enumerate(group["targets"]))
        codes = group["strategy"].get("on_status_codes")
        if mode == "single":
            targets = targets[:1]
        elif mode == "loadbalance":
            targets = random.Random(f"{self.seed} {path}").choices(targets, [target.get("weight", 1) for _, target in targets])
        status = 0
        for position, target in targets:
            status = self.target(target, retry, (*path, position))
            moves_on = not 200 <= status <= 299 if codes is None else status in codes
            if mode != "fallback" or not moves_on:
                break
        return status

    def target(self, target: dict[str, Any], retry: dict[str, Any] | None, path: tuple[int, ...]) -> int:
        return self.group(target, retry, path) if "targets" in target else self.model(target["model_name"], retry or {})

    def model(self, name: str, retry: dict[str, Any]) -> int:
        codes = retry.get("on_status_codes", DEFAULT_RETRY)
        for left in range(retry.get("attempts", 0), -1, -1):
            answers = self.answers[name]
            status = answers[min(self.calls.count(name), len(answers) - 1)]
            self.calls.append(name)
            if not left or not (status == 407 or status in codes):
                break
        if status in (205, 304):
            raise Ended
        return 500 if status == 407 else status


code_lists = st.lists(st.sampled_from(CODES), max_size=3)

retries = st.fixed_dictionaries(
    {"attempts": st.integers(0, 2)}, optional={"on_status_codes": code_lists, "use_retry_after_header": st.booleans()}
)

strategies = st.fixed_dictionaries(
    {"mode": st.sampled_from(["fallback", "loadbalance", "single"])}, optional={"on_status_codes": code_lists}
)

weights = st.sampled_from([0.25, 0.5, 1])

leaves = st.fixed_dictionaries({"model_name": st.sampled_from(MODELS)}, optional={"weight": weights})


def groups_of(targets: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {"strategy": strategies, "targets": st.lists(targets, min_size=1, max_size=3)},
        optional={"retry": retries, "weight": weights},
    )


policies = groups_of(st.recursive(leaves, groups_of, max_leaves=6))
