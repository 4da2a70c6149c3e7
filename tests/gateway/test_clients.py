"""Clients that people use, and many of them at once: the openai SDK in both forms, curl, slow readers, large answers."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from policyctl.gateway import pool
from tests.gateway.bodies import EMBEDDINGS, STREAM, WORDS, answers, chat_body, delta
from tests.gateway.live import DONE, EVENTS, Running, chunk, event, running, sends
from tests.patience import LONGEST

if TYPE_CHECKING:
    import openai  # takes longer to import than a dozen modules of tests take to collect

FALLBACK = {"strategy": {"mode": "fallback"}, "targets": [{"model_name": "a"}, {"model_name": "b"}]}
MODEL = "virtual-policy/p"
HELLO: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def sdk(gateway: Running) -> Iterator[openai.OpenAI]:
    import openai

    gateway.take({"p": FALLBACK}, "a", "b")
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused") as client:
        yield client


def test_chat_tools_and_the_request_id(gateway: Running, sdk: openai.OpenAI) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    gateway.upstream.play({"a": [503], "b": [answers(chat_body("b", tool_calls=[call]))]})
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    answer = sdk.chat.completions.create(model=MODEL, messages=HELLO, tools=[tool])
    found = answer.choices[0].message.tool_calls
    assert found is not None
    assert (answer.model, found[0].id, answer._request_id) == ("b", "c", gateway.upstream.heard[0].headers["x-request-id"])
    assert gateway.upstream.heard[1].body["tools"] == [tool]


def test_a_stream_arrives_word_by_word(gateway: Running, sdk: openai.OpenAI) -> None:
    gateway.upstream.play({"a": [500], "b": [STREAM]})
    with sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=True) as stream:
        assert tuple(part.choices[0].delta.content for part in stream) == (*WORDS, None)


def test_embeddings_responses_and_models(gateway: Running, sdk: openai.OpenAI) -> None:
    gateway.upstream.play({"a": [answers(EMBEDDINGS)]})
    assert sdk.embeddings.create(model=MODEL, input="x").data[0].embedding == [0.5]
    content = {"type": "output_text", "text": "Hi", "annotations": []}
    message = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": [content]}
    gateway.upstream.play({"a": [answers({"id": "r", "object": "response", "output": [message]})]})
    assert sdk.responses.create(model=MODEL, input="x").output_text == "Hi"
    assert [model.id for model in sdk.models.list()] == [MODEL, "a", "b"]


ERRORS: dict[str, tuple[str, list[Any], str, int]] = {
    "an unknown policy": ("virtual-policy/q", [200], "NotFoundError", 0),
    "a bad request": (MODEL, [400], "BadRequestError", 2),
    "a failure after a fallback is not repeated by the SDK": (MODEL, [500], "InternalServerError", 2),
    "neither is a limit": (MODEL, [answers({"error": {}}, 429, "retry-after: 1")], "RateLimitError", 2),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_those_of_the_sdk(gateway: Running, sdk: openai.OpenAI, case: str) -> None:
    import openai

    model, script, kind, calls = ERRORS[case]
    gateway.upstream.play({"a": script, "b": script})
    with pytest.raises(getattr(openai, kind)):
        sdk.chat.completions.create(model=model, messages=HELLO)
    assert len(gateway.upstream.calls) == calls


def test_a_stream_that_is_cut_is_an_error_of_the_sdk(gateway: Running, sdk: openai.OpenAI) -> None:
    import openai

    gateway.upstream.play({"a": [sends(EVENTS, delta("One"))]})
    seen = []
    with sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=True) as stream, pytest.raises(openai.APIError):
        seen += [part.choices[0].delta.content for part in stream]
    assert len(gateway.upstream.calls) == 1


def test_the_time_limit_of_a_model_leads_to_the_next(gateway: Running, sdk: openai.OpenAI) -> None:
    async def for_ever(*_: object) -> None:
        await asyncio.sleep(60)

    gateway.take({"p": FALLBACK}, "a", "b", timeout=0.1)
    gateway.upstream.play({"a": [for_ever], "b": [answers(chat_body("b"))]})
    assert sdk.chat.completions.create(model=MODEL, messages=HELLO).model == "b"


def test_the_asynchronous_sdk_streams_many_at_once_and_leaves_some(gateway: Running) -> None:
    import openai

    gateway.take({"p": FALLBACK}, "a", "b")
    gateway.upstream.play({"a": [STREAM]})

    async def one(client: openai.AsyncOpenAI, leave: bool) -> str:
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        async with stream:
            words = []
            async for part in stream:
                words.append(part.choices[0].delta.content or "")
                if leave:
                    break
        return "".join(words)

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="unused") as client:
            return await asyncio.gather(*(one(client, leave=number % 5 == 0) for number in range(50)))

    assert asyncio.run(all_of_them()) == ["One" if number % 5 == 0 else "One two three" for number in range(50)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_is_answered_and_its_large_body_is_waited_for(gateway: Running, tmp_path: Path) -> None:
    gateway.take({"p": FALLBACK}, "a", "b")
    gateway.upstream.play({"a": [answers(chat_body("a"))]})
    body = tmp_path / "body"
    body.write_text(json.dumps({"model": MODEL, "messages": HELLO, "image": "x" * 3_000_000}))
    url, kind = f"{gateway.url}/v1/chat/completions", "Content-Type: application/json"
    args = ["curl", "-sS", "-H", kind, "-H", "Expect: 100-continue", "--data-binary", f"@{body}", url]
    ran = subprocess.run(args, capture_output=True, check=True, timeout=LONGEST, env={"PATH": os.environ["PATH"]})
    assert json.loads(ran.stdout)["model"] == "a"
    assert len(gateway.upstream.heard[0].body["image"]) == 3_000_000


MEGABYTES = 100
STREAMS = min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 5)


@pytest.mark.slow
def test_a_huge_answer_and_a_slow_client_take_little_memory() -> None:
    """An answer is read no faster than its client takes it, so 100 MB never are in memory; others are served meanwhile."""
    sent = 0

    async def huge(writer: asyncio.StreamWriter, _: object) -> None:
        nonlocal sent
        writer.write(EVENTS)
        for _ in range(MEGABYTES):
            writer.write(chunk(b"x" * (1 << 20)))
            await writer.drain()
            sent += 1
        writer.write(chunk(b""))
        await writer.drain()

    with running() as live:
        live.take({"p": FALLBACK, "q": {"strategy": {"mode": "single"}, "targets": [{"model_name": "b"}]}}, "a", "b")
        live.upstream.play({"a": [huge]})
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with live.client.stream("POST", "/v1/chat/completions", json={"model": "p"}) as answer:
            parts = answer.iter_raw()
            size = len(next(parts))
            with httpx.Client(base_url=live.url, trust_env=False, timeout=LONGEST) as other:
                assert other.post("/v1/chat/completions", json={"model": "q"}).status_code == 200
            assert sent < MEGABYTES / 2
            size += sum(map(len, parts))
        assert size == MEGABYTES << 20
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 * 1024  # kilobytes


def unchunked(rest: bytes) -> bytes:
    """A chunked body without its framing."""
    found = b""
    while rest:
        length, _, rest = rest.partition(b"\r\n")
        size = int(length, 16)
        found, rest = found + rest[:size], rest[size + 2 :]
    return found


@pytest.mark.slow
def test_a_thousand_streams_at_once_are_each_whole_and_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "CONNECT_SECONDS", LONGEST)  # a thousand connections may take a busy machine long

    async def own(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
        writer.write(EVENTS)
        for number in range(5):
            writer.write(event([body["mine"], number]))
            await writer.drain()
            await asyncio.sleep(0.05)
        writer.write(DONE)
        await writer.drain()

    async def one(port: int, mine: int) -> bool:
        body = json.dumps({"model": "p", "stream": True, "mine": mine}).encode()
        head = b"host: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: %d" % len(body)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\n%b\r\n\r\n%b" % (head, body))
        text = unchunked((await reader.read()).partition(b"\r\n\r\n")[2]).decode()
        writer.close()
        expected = "".join(f"data: {json.dumps([mine, number])}\n\n" for number in range(5))
        return text == f"{expected}data: [DONE]\n\n"

    async def all_of_them(url: str) -> list[bool]:
        port = int(url.rpartition(":")[2])
        return await asyncio.gather(*(one(port, mine) for mine in range(STREAMS)))

    with running() as live:
        live.take({"p": FALLBACK}, "a", "b")
        live.upstream.play({"a": [own]})
        assert all(asyncio.run(all_of_them(live.url)))
