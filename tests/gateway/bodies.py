"""Answers as models give them, whole enough for the SDKs that read them."""

from __future__ import annotations

from typing import Any

from tests.gateway.live import DONE, EVENTS, Act, answer_of, event, sends


def chat_body(model: str, **message: Any) -> dict[str, Any]:
    """An answer to a chat."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi", **message}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": model, "choices": [choice], "usage": usage}


EMBEDDINGS: dict[str, Any] = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
    "model": "a",
    "usage": {"prompt_tokens": 1, "total_tokens": 1},
}


def answers(body: Any, status: int = 200, *headers: str) -> Act:
    """Answers with a body, and closes the connection."""
    return sends(answer_of(status, "a", "connection: close", *headers, body=body))


def delta(text: str | None, finish_reason: str | None = None) -> bytes:
    """A part of a stream; the last has a reason, and no text."""
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish_reason}
    return event({"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "a", "choices": [choice]})


WORDS = ("One", " two", " three")
# It closes the connection afterwards, and announces that, so no other request comes on it.
_LAST = EVENTS.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
STREAM = sends(_LAST, *map(delta, WORDS), delta(None, "stop"), DONE)
