"""The gateway once more, naively: one request at a time, straight over the document, written apart from the engine.

`Choices` decides every draw and every answer, either by chance or so that all possible requests are gone through.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

from policyctl.effect.gateway import RetryAfter

Choose = Callable[[Sequence[tuple[Any, float]]], Any]

USUAL_RETRY = [429, 500, 502, 503, 504]


class Response(NamedTuple):
    """What a target or group gives to the group around it."""

    status: int
    exception: bool = False


class Request(NamedTuple):
    """What became of one request."""

    status: int | None
    calls: tuple[str, ...]
    waited: float
    served_by: str | None


class Stumbled(Exception):
    """The gateway's own code failed: the client gets a 500 whatever is around."""


class Simulation:
    """One request after the other over one policy body; `answer` gives what a model answers to its next call."""

    def __init__(self, policy: dict[str, Any], answer: Callable[[str], Any], choose: Choose) -> None:
        self.policy, self.answer, self.choose = policy, answer, choose
        self.calls: list[str] = []
        self.waited = 0.0
        self.last: str | None = None

    def request(self) -> Request:
        self.calls, self.waited, self.last = [], 0.0, None
        try:
            response = self.group(self.policy, None)
        except Stumbled:
            response = Response(500)
        status = None if response is None else response.status
        good = response is not None and 200 <= response.status < 300 and not response.exception
        served = self.last if good else None
        return Request(status, tuple(self.calls), self.waited, served)

    def group(self, group: dict[str, Any], retry: dict[str, Any] | None) -> Response | None:
        retry = group.get("retry", retry)
        if "strategy" not in group:
            return self.target(group["model_name"], retry)
        strategy, targets = group["strategy"], group["targets"]
        if strategy["mode"] == "single":
            if not targets:
                raise Stumbled
            return self.group(targets[0], retry)
        if strategy["mode"] == "loadbalance":
            weights = [target.get("weight", 1) for target in targets]
            if sum(weights) == 0:
                return None
            options = [(target, weight / sum(weights)) for target, weight in zip(targets, weights, strict=True) if weight]
            return self.group(self.choose(options), retry)
        return self.fallback(targets, strategy.get("on_status_codes"), retry)

    def fallback(self, targets: list[Any], codes: list[int] | None, retry: dict[str, Any] | None) -> Response | None:
        response = None
        for target in targets:
            response = self.group(target, retry)
            status = None if response is None else response.status
            good = status is not None and 200 <= status <= 299
            if (response is not None and response.exception) or (good if codes is None else status not in codes):
                break
        return response

    def target(self, model: str, retry: dict[str, Any] | None) -> Response:
        attempts = retry["attempts"] if retry else 0
        codes = retry.get("on_status_codes", USUAL_RETRY) if retry and attempts else []
        header = retry is not None and retry.get("use_retry_after_header", False)
        repeats, made, wait, budget = max(0, math.ceil(attempts)), 0, 1, 60
        while True:
            answer = self.call(model)
            if answer == 421:
                answer = self.call(model)
            connection = answer in ("refused", "hang", 407)
            asks = answer.seconds if isinstance(answer, RetryAfter) else 0
            status = 429 if isinstance(answer, RetryAfter) else 200 if answer == "broken-body" else answer
            if answer == "cut-stream" or not (connection or status in codes):
                break
            if header and asks:
                if asks > min(budget, 59):
                    break
                self.waited, budget, wait = self.waited + asks, budget - asks, 0
            if made == repeats:
                break
            made, self.waited, wait = made + 1, self.waited + wait, wait * 2
        self.last = model
        if connection:
            return Response(503 if answer == "hang" else 500)
        if answer == "cut-stream":
            return Response(200, exception=True)
        if answer in ("broken-body", 205, 304) or status > 599 or (status == 204 and 204 in codes):
            return Response(500, exception=True)
        return Response(status)

    def call(self, model: str) -> Any:
        self.calls.append(model)
        return self.answer(model)


def chosen(answers: Mapping[str, Mapping[Any, float]], choose: Choose) -> Callable[[str], Any]:
    """Answers by their chances; a model without any answers 200."""
    return lambda model: choose(list(answers.get(model, {200: 1.0}).items()))


def scripted(script: Mapping[str, Sequence[Any]]) -> Callable[[str], Any]:
    """Answers in order, the last one sticking; a model without a script answers 200."""
    left = {model: list(given) for model, given in script.items()}

    def answer(model: str) -> Any:
        given = left.get(model, [200])
        return given.pop(0) if len(given) > 1 else given[0]

    return answer


def at_random(seed: int) -> Choose:
    """Choices by chance."""
    random = Random(seed)

    def choose(options: Sequence[tuple[Any, float]]) -> Any:
        values, chances = zip(*options, strict=True)
        return random.choices(values, chances)[0]

    return choose


def every_request(policy: dict[str, Any], answers: Mapping[str, Mapping[Any, float]]) -> dict[Request, float]:
    """Every request that can be, with its chance: all draws and all answers are gone through. For small policies."""
    return _every(policy, lambda choose: chosen(answers, choose))


def every_scripted(policy: dict[str, Any], script: Mapping[str, Sequence[Any]]) -> dict[Request, float]:
    """Every request that can be while models answer by a script: all draws are gone through."""
    return _every(policy, lambda _: scripted(script))


def _every(policy: dict[str, Any], answering: Callable[[Choose], Callable[[str], Any]]) -> dict[Request, float]:
    found: defaultdict[Request, float] = defaultdict(float)
    pending: list[tuple[int, ...]] = [()]
    while pending:
        taken = pending.pop()
        chance, depth = 1.0, 0

        def choose(options: Sequence[tuple[Any, float]], taken: tuple[int, ...] = taken) -> Any:
            nonlocal chance, depth
            pick = taken[depth] if depth < len(taken) else 0
            if depth >= len(taken):
                path = (*taken, *[0] * (depth - len(taken)))
                pending.extend((*path, other) for other in range(1, len(options)))
            depth += 1
            chance *= options[pick][1]
            return options[pick][0]

        request = Simulation(policy, answering(choose), choose).request()
        found[request] += chance
    return found
