"""What large requests cost."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from typing import Any

from policyctl.gateway.app import GatewayLimits
from policyctl.gateway.relay import MOST_FIELDS
from policyctl.gateway.table import PolicySnapshot, RouteTable, Upstream
from tests.gateway.live import EVENTS, Running, Writer, answer_of, event, running
from tests.patience import LONGEST

SINGLE = {"strategy": {"mode": "single"}, "targets": [{"model_name": "a"}]}
MODELS = [f"m{number}" for number in range(8)]
OF_THE_GATEWAY = [tracemalloc.Filter(True, "*/policyctl/gateway/*")]
MANY = {"strategy": {"mode": "fallback"}, "targets": [{"model_name": model} for model in MODELS]}


def test_a_body_with_more_fields_than_any_request_has_is_refused(gateway: Running) -> None:
    """Each costs a hundred bytes in memory, and a body has room for millions."""
    gateway.take({"p": SINGLE}, "a")
    gateway.upstream.play({})
    fields: dict[str, Any] = {f"f{number}": 1 for number in range(MOST_FIELDS - 2)}
    assert gateway.chat(**fields).status_code == 200
    assert gateway.upstream.heard[0].body == {"model": "a", "messages": [], **fields}
    answer = gateway.chat(**fields, another=1)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_many_fields")
    assert gateway.chat(metadata=fields, more=fields).status_code == 200


def test_the_body_of_a_request_is_held_once_until_a_model_answers(gateway: Running) -> None:
    """Whatever the number of models that fail before. A stream may last long."""
    size = 3 << 20
    held: list[float] = []

    def look() -> None:
        found = tracemalloc.take_snapshot().filter_traces(OF_THE_GATEWAY)
        held.append(sum(trace.size for trace in found.traces) / size)

    async def fail(writer: Writer, _: dict[str, Any]) -> None:
        look()
        writer.write(answer_of(503, "m", "connection: close"))

    async def stream(writer: Writer, _: dict[str, Any]) -> None:
        writer.write(EVENTS + event("first"))
        await writer.drain()
        await asyncio.sleep(20)

    gateway.take({"p": MANY}, *MODELS)
    gateway.upstream.play({model: [fail] for model in MODELS[:-1]} | {MODELS[-1]: [stream]})
    tracemalloc.start()
    try:
        with gateway.client.stream("POST", "/v1/chat/completions", json={"model": "p", "text": "x" * size}) as answer:
            next(answer.iter_lines())
            look()
    finally:
        tracemalloc.stop()
    assert len(held) == 8
    assert max(held[:-1]) < 1.5
    assert held[-1] < 0.2


async def answer_early(reader: asyncio.StreamReader, writer: Writer) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(EVENTS + event("first"))
    try:
        await asyncio.sleep(60)
    finally:
        writer.transport.abort()


def test_a_body_counts_until_it_was_sent() -> None:
    """Also where its model answers before it has read it."""
    with running(limits=GatewayLimits(bodies=20 << 20)) as live:
        server = live.call(asyncio.start_server(answer_early, "127.0.0.1", 0))
        base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        documents = {f"virtual-policy/{name}": {"name": name, "policy": SINGLE} for name in "pq"}
        documents["virtual-policy/q"]["policy"] = {**SINGLE, "targets": [{"model_name": "b"}]}
        upstreams = {"a": Upstream("a", "a", base), "b": Upstream("b", "b", live.upstream.base)}
        live.app.table = RouteTable(PolicySnapshot(documents, upstreams))
        live.upstream.play({})
        text = "x" * (12 << 20)
        with live.client.stream("POST", "/v1/chat/completions", json={"model": "p", "text": text}) as answer:
            assert answer.status_code == 200
            second = live.chat("q", text=text)
            assert (second.status_code, second.json()["error"]["code"]) == (503, "overloaded")
        end = time.monotonic() + LONGEST
        while live.chat("q", text=text).status_code != 200:
            assert time.monotonic() < end
        live.loop.call_soon_threadsafe(server.close)


def test_text_that_is_split_among_packets_arrives_whole(gateway: Running) -> None:
    """Also within a character."""
    gateway.take({"p": SINGLE}, "a")
    gateway.upstream.play({})
    body = json.dumps({"model": "p", "x": "añ😀" * 40_000}, ensure_ascii=False).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    parts = (body[at : at + 9999] for at in range(0, len(body), 9999))
    assert gateway.client.post("/v1/chat/completions", content=parts, headers=headers).status_code == 200
    assert gateway.upstream.heard[0].raw == body.replace(b'"p"', b'"a"').replace(b", ", b",").replace(b": ", b":")
