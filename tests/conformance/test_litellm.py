"""The SDK of litellm works with `policyctl gateway`, and asks this machine alone."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.bodies import EMBEDDINGS, STREAM, WORDS, answers, chat_body, delta
from tests.gateway.live import EVENTS, Running, event, running, sends

FALLBACK = {"strategy": {"mode": "fallback"}, "targets": [{"model_name": "a"}, {"model_name": "b"}]}
SINGLE = {"strategy": {"mode": "single"}, "targets": [{"model_name": "a"}]}
HELLO = [{"role": "user", "content": "Hello"}]
FORMS = ("completion", "acompletion")


class Litellm:
    """One process of the SDK, and the gateway that it asks."""

    def __init__(self, process: subprocess.Popen[str], gateway: Running) -> None:
        self.process = process
        self.gateway = gateway

    def __call__(self, function: str, policy: str = "p", *, take: int | None = None, **given: Any) -> dict[str, Any]:
        """What a call gives: a `result`, the `parts` of a stream (no more than `take`), or an `error`."""
        base = {"model": f"openai/virtual-policy/{policy}", "api_base": f"{self.gateway.url}/v1", "api_key": "unused"}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"function": function, "take": take, "given": {**base, **given}}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert answer.pop("outside") == []
        return answer


@pytest.fixture(scope="session")  # importing the SDK takes seconds, and these tests are not always run one after the other
def litellm(litellm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Litellm]:
    home = tmp_path_factory.mktemp("litellm")
    environment = {"HOME": str(home), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [litellm_python, Path(__file__).with_name("litellm_client.py")]
    with (
        running() as gateway,
        (home / "log").open("w") as log,
        subprocess.Popen(
            command, env=environment, cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        gateway.take({"p": FALLBACK, "one": SINGLE}, "a", "b")
        try:
            yield Litellm(process, gateway)
        finally:
            process.kill()  # it would take seconds to end by itself


@pytest.mark.parametrize("form", FORMS)
def test_a_chat_with_tools_is_answered_by_the_next_model(litellm: Litellm, form: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    litellm.gateway.upstream.play({"a": [503], "b": [answers(chat_body("b", tool_calls=[call]))]})
    answer = litellm(form, messages=HELLO, tools=[tool])["result"]
    assert (answer["model"], answer["choices"][0]["message"]["tool_calls"][0]["id"]) == ("b", "c")
    assert litellm.gateway.upstream.calls == ["a", "b"]
    assert litellm.gateway.upstream.heard[1].body["tools"] == [tool]


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_arrives_word_by_word(litellm: Litellm, form: str) -> None:
    litellm.gateway.upstream.play({"a": [500], "b": [STREAM]})
    parts = litellm(form, messages=HELLO, stream=True)["parts"]
    assert tuple(part["choices"][0]["delta"]["content"] for part in parts) == (*WORDS, None)


@pytest.mark.parametrize("form", ["embedding", "aembedding"])
def test_embeddings(litellm: Litellm, form: str) -> None:
    litellm.gateway.upstream.play({"a": [answers(EMBEDDINGS)]})
    assert litellm(form, input=["x"])["result"]["data"][0]["embedding"] == [0.5]


ERRORS: dict[str, tuple[str, list[Any], tuple[str, int], int]] = {
    "an unknown policy": ("q", [200], ("NotFoundError", 404), 0),
    "a bad request": ("p", [400], ("BadRequestError", 400), 2),
    "a failure after a fallback, which is not repeated": ("p", [500], ("InternalServerError", 500), 2),
    "a limit, which is not repeated either": ("p", [answers({"error": {}}, 429, "retry-after: 1")], ("RateLimitError", 429), 2),
}


@pytest.mark.parametrize("case", ERRORS)
@pytest.mark.parametrize("form", FORMS)
def test_errors_are_those_of_the_sdk(litellm: Litellm, form: str, case: str) -> None:
    policy, script, (kind, status), calls = ERRORS[case]
    litellm.gateway.upstream.play({"a": script, "b": script})
    assert litellm(form, policy, messages=HELLO) == {"error": kind, "status": status}
    assert len(litellm.gateway.upstream.calls) == calls


def test_a_single_failure_is_repeated_by_the_sdk(litellm: Litellm) -> None:
    litellm.gateway.upstream.play({"a": [500, answers(chat_body("a"))]})
    assert litellm("completion", "one", messages=HELLO)["result"]["model"] == "a"
    assert litellm.gateway.upstream.calls == ["a", "a"]


def test_its_own_retries_repeat_what_the_policy_has_repeated(litellm: Litellm) -> None:
    """`num_retries` takes no notice of x-should-retry, unlike `max_retries`; the manual has it."""
    litellm.gateway.upstream.play({"a": [400], "b": [400]})
    assert litellm("completion", messages=HELLO, max_retries=2)["error"] == "BadRequestError"
    assert litellm.gateway.upstream.calls == ["a", "b"]
    litellm.gateway.upstream.heard.clear()
    assert litellm("completion", messages=HELLO, num_retries=2)["error"] == "BadRequestError"
    assert litellm.gateway.upstream.calls == ["a", "b"] * 3


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_that_is_cut_is_an_error(litellm: Litellm, form: str) -> None:
    litellm.gateway.upstream.play({"a": [sends(EVENTS, delta("One"))]})
    assert litellm(form, messages=HELLO, stream=True)["error"] == "MidStreamFallbackError"
    assert litellm.gateway.upstream.calls == ["a"]


class Left:
    """A model that answers without end, and notices when it is left."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def late(self, writer: asyncio.StreamWriter, _: object) -> None:
        """Its answer never begins, since its head never ends."""
        writer.write(b"HTTP/1.1 200 OK\r\nx-late: ")
        await self._until_left(writer, b".")

    async def streaming(self, writer: asyncio.StreamWriter, _: object) -> None:
        writer.write(EVENTS + delta("One"))
        await self._until_left(writer, event({"n": 1}))

    async def _until_left(self, writer: asyncio.StreamWriter, more: bytes) -> None:
        try:
            while not writer.transport.is_closing():
                writer.write(more)
                await writer.drain()
                await asyncio.sleep(0.01)
        finally:
            self.left.set()


@pytest.mark.parametrize("form", FORMS)
def test_its_time_limit_ends_the_call_to_the_model(litellm: Litellm, form: str) -> None:
    model = Left()
    litellm.gateway.upstream.play({"a": [model.late]})
    given = litellm(form, messages=HELLO, timeout=0.3, max_retries=0)
    assert given["error"] == "Timeout"
    litellm.gateway.call(asyncio.wait_for(model.left.wait(), 10))
    assert litellm.gateway.upstream.calls == ["a"]


def test_the_time_limit_of_a_model_leads_to_the_next(litellm: Litellm) -> None:
    model = Left()
    litellm.gateway.take({"late": FALLBACK}, "a", "b", timeout=0.1)
    litellm.gateway.upstream.play({"a": [model.late], "b": [answers(chat_body("b"))]})
    try:
        assert litellm("completion", "late", messages=HELLO)["result"]["model"] == "b"
    finally:
        litellm.gateway.take({"p": FALLBACK, "one": SINGLE}, "a", "b")


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_that_is_left_ends_the_call_to_the_model(litellm: Litellm, form: str) -> None:
    model = Left()
    litellm.gateway.upstream.play({"a": [model.streaming]})
    parts = litellm(form, messages=HELLO, stream=True, take=1)["parts"]
    assert [part["choices"][0]["delta"]["content"] for part in parts] == ["One"]
    litellm.gateway.call(asyncio.wait_for(model.left.wait(), 10))
