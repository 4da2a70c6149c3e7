"""One request through a policy: the course of the rules, driven with attempts at real upstreams."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from policyctl.effect.course import Attempt, CourseEnd, course
from policyctl.effect.gateway import NO_ANSWER, Answer, status_of
from policyctl.effect.tree import Balance
from policyctl.gateway.ask import Asking, Reply, error_body, failure
from policyctl.gateway.table import Destination, RouteTable, Upstream

Sleep = Callable[[float], Awaitable[object]]


class Upstreams(Protocol):
    """What answers attempts: providers over HTTP, or a pretence of them."""

    async def ask(self, upstream: Upstream, asking: Asking) -> Reply: ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class Tried:
    """One attempt that was made: the model, the seconds waited before, what came back, and after how many seconds."""

    model: str
    wait: int
    answer: Answer
    seconds: float


@dataclass(slots=True)
class Relayed:
    """The attempts of one request so far. Also of one whose client leaves in the middle."""

    tried: list[Tried] = field(default_factory=list)
    wait: int = 0  # seconds after the last attempt

    @property
    def served_by(self) -> str:
        """The model that was asked last."""
        return self.tried[-1].model if self.tried else ""


def _draw(node: Balance) -> int | None:
    """The position of the target that a load balance draws by weight."""
    return node.draw.position(random.random())  # noqa: S311 - the choice of a load balancer need not be secret


async def relay(
    table: RouteTable,
    route: Destination,
    asking: Asking,
    upstreams: Upstreams,
    relayed: Relayed,
    sleep: Sleep,
) -> Reply:
    """Ask the models of a policy as its rules have it, and return what the client gets. Attempts are noted in `relayed`."""
    steps = course(route.tree, _draw)
    reply: Reply | None = None
    try:
        attempt: Attempt = next(steps)
        while True:
            if reply is not None:
                reply.drop()
            if attempt.wait:
                reply = None  # its body is not kept while nothing happens
                await sleep(attempt.wait)
            reply = await _ask(table, attempt, asking, upstreams, relayed)
            attempt = steps.send(reply.answer)
    except StopIteration as end:
        ended: CourseEnd = end.value
    relayed.wait = ended.wait
    if ended.wait:
        await sleep(ended.wait)
    return _last(ended, reply, route)


async def _ask(table: RouteTable, attempt: Attempt, asking: Asking, upstreams: Upstreams, relayed: Relayed) -> Reply:
    model = attempt.leaf.model
    upstream = table.upstream(model)
    began = time.perf_counter()
    if upstream is None:
        reply = failure(404, f"{model or 'a target'} has no upstream: {table.why_not(model)}")
    else:
        reply = await upstreams.ask(upstream, asking)
    relayed.tried.append(Tried(model, attempt.wait, reply.answer, time.perf_counter() - began))
    return reply


def _last(ended: CourseEnd, reply: Reply | None, route: Destination) -> Reply:
    """What the client gets: the last reply, unless the rules give it another status."""
    if ended.outcome == NO_ANSWER:
        return _own(503, "no_target", f"{route.name} has no target to ask: it has none, or every weight is 0")
    if reply is None:
        why = route.tree.refused or "it cannot be run as it is written"
        return _own(abs(ended.outcome), "invalid_policy", f"{route.name} is refused: {why}")
    status = status_of(ended.outcome)
    if status == reply.status:
        return reply
    reply.drop()
    return _own(status or 500, "upstream_broken_answer", f"{reply.status} is not an answer that can be passed on")


def _own(status: int, code: str, message: str) -> Reply:
    return Reply(status, status, [(b"content-type", b"application/json")], error_body(message, "policy_error", code))
