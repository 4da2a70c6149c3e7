"""What is asked of the gateway, held against what was measured: the tables of `python -m tests.bench.gateway`."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from tests.bench.model import PACED
from tests.bench.report import Row
from tests.bench.wrk import Figures

DIRECT, OWN = "direct", "policyctl"
MANY, TWO = f"{OWN}, 200 targets", f"{OWN}, 2 workers"
BUSY = 4  # cores that two workers, wrk and the upstream keep busy


class Workload(NamedTuple):
    """What is asked: on how many connections at once, of which model, for a stream or not, and with which key. It takes so many
    seconds at least that most answers that have begun end."""

    name: str
    connections: int
    is_fast: bool = True
    stream: bool = False
    user: str = "x"
    seconds: float = 0


ONE, SIXTEEN, MORE = Workload("1 connection", 1), Workload("16 connections", 16), Workload("64 connections", 64)
WAITING = Workload("200 ms, 1,000 in flight", 1000, is_fast=False, seconds=8)
STREAM = Workload("1 stream", 1, is_fast=False, stream=True)
STREAMS = Workload("16 streams", 16, is_fast=False, stream=True)
SLOW_STREAMS = Workload("64 streams, an event each 20 ms", 64, is_fast=False, stream=True, user=PACED, seconds=6)
WORKLOADS = (ONE, SIXTEEN, MORE, STREAM, STREAMS, SLOW_STREAMS, WAITING)
Key = tuple[str, Workload]


class Found(NamedTuple):
    """All that was measured. `figures` has one for each round, `most` the peak memory in MB by name, `idle` the memory of
    the gateway before its first request, `starts` seconds by where the policies were, `others` the cores that other programs
    took meanwhile."""

    figures: Mapping[Key, Sequence[Figures]]
    most: Mapping[str, float]
    idle: float
    starts: Mapping[str, float]
    policies: int
    others: float

    def peer(self, begins: str) -> str | None:
        """The name, with its version, of one that was measured too."""
        return next((name for name in self.most if name.startswith(begins)), None)

    def median(self, name: str, workload: Workload) -> Figures:
        """The medians of all rounds."""
        seen = self.figures[name, workload]
        taken = [one.processor for one in seen if one.processor is not None]
        return Figures(
            statistics.median(one.rate for one in seen),
            statistics.median(one.median for one in seen),
            sum(one.answers for one in seen),
            sum(one.failed for one in seen),
            statistics.median(taken) if taken else None,
        )

    def ratio(self, name: str, other: str, workload: Workload, of: Callable[[Figures], float] | None = None) -> float:
        """A figure of one, or its rate, as a multiple of that of another in the same round; the median of all rounds."""
        of = of or (lambda one: one.rate)
        pairs = zip(self.figures[name, workload], self.figures[other, workload], strict=True)
        values = [(of(one), of(base)) for one, base in pairs]
        return statistics.median(value / base if base else math.inf for value, base in values)

    def added(self, name: str, other: str) -> float:
        """How much latency one adds on one connection, as a multiple of what the other adds; the median of all rounds."""
        seen = zip(*(self.figures[which, ONE] for which in (name, other, DIRECT)), strict=True)
        rounds = [(one.median - base.median, peer.median - base.median) for one, peer, base in seen]
        return statistics.median(own / peer if peer > 0 else math.inf for own, peer in rounds)


def rows(found: Found) -> list[Row]:
    """A row for each goal that can be measured; those of peers that were not started are left out."""
    portkey, litellm = found.peer("Portkey"), found.peer("LiteLLM")
    of_portkey = [_rate(found, SIXTEEN, portkey, 6), _rate(found, MORE, portkey, 6)] if portkey else []
    of_litellm = [_rate(found, SIXTEEN, litellm, 50), _rate(found, MORE, litellm, 50)] if litellm else []
    late = [_rate(found, WAITING, portkey, 4), _latency(found, portkey)] if portkey else []
    return [
        *of_portkey,
        *of_litellm,
        *late,
        _streams(found, STREAM),
        _streams(found, STREAMS),
        _streams(found, SLOW_STREAMS),
        _within("memory before the first request", found.idle, 80, "MB"),
        _within(f"peak memory, of {WAITING.connections:,} requests in flight too", found.most[OWN], 80, "MB"),
        _workers(found),
        *(
            _within(f"start with {found.policies:,} policies in {where}", taken, 2, "s")
            for where, taken in found.starts.items()
        ),
        _targets(found),
    ]


def _rate(found: Found, workload: Workload, peer: str, least: float) -> Row:
    ratio = found.ratio(OWN, peer, workload)
    own, other = found.median(OWN, workload), found.median(peer, workload)
    name = "an upstream of 200 ms, 1,000 requests in flight" if workload is WAITING else f"requests on {workload.name}"
    goal = f"≥ {least:g} × {peer}"
    if math.isinf(ratio):  # so it may be the machine that is too busy
        return Row(name, goal, f"{own.rate:,.0f}/s; {peer} answered none", None)
    costs = found.ratio(OWN, peer, workload, _processor)
    measured = f"{ratio:.1f} × ({own.rate:,.0f}/s, {other.rate:,.0f}/s; a request takes {costs:.2g} × the processor time)"
    return Row(name, goal, measured, ratio >= least and not own.failed)


def _latency(found: Found, peer: str) -> Row:
    ratio = found.added(OWN, peer)
    base = found.median(DIRECT, ONE).median
    own, other = (found.median(name, ONE).median - base for name in (OWN, peer))
    return Row(
        "added median latency, 1 connection", f"≤ 0.4 × {peer}", f"{ratio:.2f} × ({own:.2f} ms, {other:.2f} ms)", ratio <= 0.4
    )


def _streams(found: Found, workload: Workload) -> Row:
    ratio = found.ratio(OWN, DIRECT, workload, lambda one: one.median)
    own, base = found.median(OWN, workload), found.median(DIRECT, workload)
    measured = f"{ratio:.2f} × ({own.median:,.2f} ms, {base.median:,.2f} ms)"
    pace = "an event each 20 ms" if workload.user == PACED else "without a pause"
    name = f"streams of 100 events, {pace}, {workload.connections} at once"
    return Row(name, "≤ 1.25 × the time of direct", measured, ratio <= 1.25 and not own.failed)


def _within(name: str, value: float, most: float, unit: str) -> Row:
    shown = f"{value:.2f}" if unit == "s" else f"{value:.0f}"
    return Row(name, f"≤ {most:g} {unit}", f"{shown} {unit}", value <= most)


def _workers(found: Found) -> Row:
    ratio, costs = found.ratio(TWO, OWN, MORE), found.ratio(TWO, OWN, MORE, _processor)
    cores = os.cpu_count() or 1
    met = True if ratio >= 1.7 else None if cores < BUSY else False
    measured = f"{ratio:.2f} × on {cores} cores, shared with wrk and nginx (processor time of a request {costs:.2f} ×)"
    return Row(f"two workers, {MORE.name}", "≥ 1.7 × one, where cores allow", measured, met)


def _targets(found: Found) -> Row:
    ratio = found.ratio(MANY, OWN, SIXTEEN, _processor)
    own, base = (found.median(name, SIXTEEN).processor or 0 for name in (MANY, OWN))
    measured = f"{ratio - 1:+.0%} ({own:.0f} µs, {base:.0f} µs of processor time)"
    return Row("a request to a policy of 200 targets", "≤ 20 % more than to one of 2", measured, ratio <= 1.2)


def _processor(one: Figures) -> float:
    return one.processor or 0.0


def goal_table(found: Found) -> str:
    """The goals, what was measured, and what was left out, as Markdown."""
    lines = ["| what | goal | measured | met |", "|---|---|---|---|"]
    lines += [f"| {row.work} | {row.goal} | {row.measured} | {row.verdict} |" for row in rows(found)]
    absent = [name for name in ("Portkey", "LiteLLM") if not found.peer(name)]
    left_out = f"\n\n{' and '.join(absent)} {'was' if len(absent) == 1 else 'were'} not measured, so these rows are left out."
    return "\n".join(lines) + (left_out if absent else "")


def figure_table(found: Found) -> str:
    """What each did, as Markdown: good answers a second and the median latency, processor time, and peak memory."""
    names = [name for name, workload in found.figures if workload is SIXTEEN]
    taken = [found.median(name, SIXTEEN).processor for name in names]
    lines = [
        ["good answers a second, median latency", *names],
        ["---", *["---:"] * len(names)],
        *([workload.name, *(_cell(found, name, workload) for name in names)] for workload in WORKLOADS),
        [f"processor time of a request, {SIXTEEN.name}", *(f"{time:,.0f} µs" if time else "" for time in taken)],
        ["peak memory", *(f"{found.most[name]:.0f} MB" if name in found.most else "" for name in names)],
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(found: Found, name: str, workload: Workload) -> str:
    if (name, workload) not in found.figures:
        return ""
    one = found.median(name, workload)
    failed = f", {one.failed:,} failed" if one.failed else ""
    return f"{one.rate:,.0f}/s, {one.median:,.2f} ms{failed}" if one.answers else f"none{failed}"
