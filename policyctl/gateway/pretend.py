"""A pretence of the providers: answers made up here, so that an outage can be tried without a key and without a network."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import msgspec

from policyctl.effect.gateway import Answer, RetryAfter, read_answer
from policyctl.errors import UsageError
from policyctl.gateway.pool import CONNECT_SECONDS
from policyctl.gateway.relay import Asking, Reply, StreamCut, error_body, failure
from policyctl.gateway.table import Upstream
from policyctl.policy.names import matching_models

_TEXT = ("This answer ", "is made up: ", "no provider was asked.")
_JSON = [(b"content-type", b"application/json")]
_EVENTS = [(b"content-type", b"text/event-stream")]
_USAGE = {"prompt_tokens": 8, "completion_tokens": 9, "total_tokens": 17}


class Pretence(NamedTuple):
    """Models by a pattern, what they answer instead of 200, and to which share of their calls."""

    pattern: str
    answer: Answer
    share: float


def read_pretences(text: str) -> tuple[Pretence, ...]:
    """`MODEL=ANSWER[:RATE]`, with commas between several. Raises UsageError."""
    found = tuple(_read_pretence(part.strip()) for part in text.split(",") if part.strip())
    for pattern in {one.pattern for one in found}:
        if sum(one.share for one in found if one.pattern == pattern) > 1 + 1e-9:
            raise UsageError(f"--pretend {pattern}: it would give these answers to more than all of its calls")
    return found


def _read_pretence(text: str) -> Pretence:
    pattern, equals, value = text.rpartition("=")
    answer, _, rate = value.partition(":")
    if not equals or not pattern:
        raise UsageError(f"--pretend takes MODEL=ANSWER or MODEL=ANSWER:RATE, not {text!r}")
    try:
        share = float(rate) if rate else 1.0
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageError(f"--pretend {text}: {rate!r} is not a rate; write one above 0, at most 1")
    try:
        return Pretence(pattern, read_answer(answer), share)
    except ValueError as error:
        raise UsageError(f"--pretend {text}: {error}") from None


class PretendedUpstreams:
    """Answers every attempt by itself."""

    def __init__(self, pretences: Sequence[Pretence]) -> None:
        self._pretences = pretences
        self._of: dict[str, list[Pretence]] = {}

    async def close(self) -> None:
        """There is nothing to close."""

    async def ask(self, upstream: Upstream, asking: Asking) -> Reply:
        """The answer that is pretended for this model; 200 where none is."""
        own = self._of.get(upstream.name)
        if own is None:
            own = self._of[upstream.name] = [one for one in self._pretences if matching_models(one.pattern, [upstream.name])]
        point = random.random()  # noqa: S311 - a pretended failure need not be secret
        answer: Answer = 200
        for one in own:
            if point < one.share:
                answer = one.answer
                break
            point -= one.share
        if answer == "hang":
            return await _hang(upstream)
        return _reply(upstream, asking, answer)


async def _hang(upstream: Upstream) -> Reply:
    limit = upstream.timeout
    await asyncio.sleep(CONNECT_SECONDS if limit is None else min(limit, CONNECT_SECONDS))
    if limit is not None and limit < CONNECT_SECONDS:
        return failure(408, f"{upstream.name} did not answer within {limit:g} s (pretended)")
    return failure("hang", f"{upstream.name}: there was no connection within {CONNECT_SECONDS} s (pretended)")


def _reply(upstream: Upstream, asking: Asking, answer: Answer) -> Reply:
    if answer in ("refused", "broken-body"):
        return failure(answer, f"{upstream.name}: {answer} (pretended)")
    if isinstance(answer, int | RetryAfter) and answer != 200:
        status = 429 if isinstance(answer, RetryAfter) else answer
        after = [(b"retry-after", b"%d" % answer.seconds)] if isinstance(answer, RetryAfter) else []
        held = b"" if status in (204, 205, 304) else error_body(f"a pretended {status}", "pretended", "pretended")
        return Reply(status, answer, [*_JSON, *after], held)
    cut = answer == "cut-stream"
    if cut or asking.fields.get("stream") == b"true":
        return Reply(200, 200, _EVENTS, rest=_stream(upstream, asking, cut), is_stream=True)
    return Reply(200, 200, _JSON, msgspec.json.encode(_whole(upstream, asking)))


def _whole(upstream: Upstream, asking: Asking) -> dict[str, Any]:
    text, about = "".join(_TEXT), {"id": "pretended", "created": int(time.time()), "model": upstream.model}
    if asking.path == "/embeddings":
        datum = {"object": "embedding", "index": 0, "embedding": [0.0, 0.6, 0.8]}
        return {"object": "list", "model": upstream.model, "data": [datum], "usage": {"prompt_tokens": 8, "total_tokens": 8}}
    if asking.path == "/responses":
        return _response(upstream, text)
    if asking.path == "/completions":
        choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
        return {**about, "object": "text_completion", "choices": [choice], "usage": _USAGE}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {**about, "object": "chat.completion", "choices": [choice], "usage": _USAGE}


def _response(upstream: Upstream, text: str) -> dict[str, Any]:
    content = {"type": "output_text", "text": text, "annotations": []}
    message = {"id": "pretended", "type": "message", "role": "assistant", "status": "completed", "content": [content]}
    usage = {"input_tokens": 8, "output_tokens": 9, "total_tokens": 17}
    return {
        "id": "pretended", "object": "response", "created_at": int(time.time()), "model": upstream.model,
        "status": "completed", "output": [message], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        "usage": usage,
    }  # fmt: skip


async def _stream(upstream: Upstream, asking: Asking, cut: bool) -> AsyncIterator[bytes]:
    for number, event in enumerate(_events(upstream, asking)):
        if cut and number == 2:
            raise StreamCut
        yield b"data: %s\n\n" % msgspec.json.encode(event)
        await asyncio.sleep(0)
    if asking.path != "/responses":
        yield b"data: [DONE]\n\n"


def _events(upstream: Upstream, asking: Asking) -> list[dict[str, Any]]:
    if asking.path == "/responses":
        place = {"item_id": "pretended", "output_index": 0, "content_index": 0}
        deltas = [{"type": "response.output_text.delta", "delta": part, **place} for part in _TEXT]
        return [*deltas, {"type": "response.completed", "response": _response(upstream, "".join(_TEXT))}]
    chat = asking.path == "/chat/completions"
    about = {
        "id": "pretended",
        "created": int(time.time()),
        "model": upstream.model,
        "object": "chat.completion.chunk" if chat else "text_completion",
    }
    parts: list[dict[str, Any]] = [{"delta": {"content": part}} if chat else {"text": part} for part in _TEXT]
    ends: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
    choices = [{"index": 0, **part, "finish_reason": None} for part in parts]
    return [{**about, "choices": [choice]} for choice in (*choices, {"index": 0, **ends, "finish_reason": "stop"})]
