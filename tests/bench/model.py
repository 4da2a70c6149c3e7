"""A model that takes its time: `python -m tests.bench.model` prints its port and answers until it is ended.

nginx cannot wait before it answers, nor send a stream event by event. This takes 200 ms for an answer of 1 KB. A stream has 100
events of 240 bytes, each written by itself: all at once, or for the user `PACED` one each 20 ms, as fast as a model is.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

WAIT = 0.2  # seconds
PACE = 0.02  # seconds
PACED = "paced"
EVENTS = 100
EVENT_BYTES = 240

# The whole form of OpenAI, because LiteLLM reads it.
_ABOUT = {"id": "x", "created": 1, "model": "m"}
_USAGE = {"prompt_tokens": 100, "completion_tokens": 100, "total_tokens": 200}
_MESSAGE = {"role": "assistant", "content": "y" * 800}
ANSWER = json.dumps(
    _ABOUT
    | {"object": "chat.completion", "choices": [{"index": 0, "finish_reason": "stop", "message": _MESSAGE}], "usage": _USAGE}
)
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_STREAMED, _PACED = re.compile(rb'"stream": *true'), re.compile(rb'"user": *"%s"' % PACED.encode())


def event() -> bytes:
    """One event of a stream, of 240 bytes."""

    def holding(text: str) -> bytes:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        return b"data: %s\n\n" % json.dumps(_ABOUT | {"object": "chat.completion.chunk", "choices": [choice]}).encode()

    return holding("y" * (EVENT_BYTES - len(holding(""))))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


WHOLE = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(ANSWER)}\r\n\r\n{ANSWER}".encode()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM = (HEAD, *[_chunk(event())] * EVENTS, _chunk(b"data: [DONE]\n\n") + _chunk(b""))


class ModelProtocol(asyncio.Protocol):
    """A client's connection, with one request after the other."""

    transport: asyncio.Transport
    come = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.come += data
        head, end, body = self.come.partition(b"\r\n\r\n")
        if not end:
            return
        found = _LENGTH.search(head)
        if len(body) < (int(found[1]) if found else 0):
            return
        self.come = b""
        loop = asyncio.get_running_loop()
        if not _STREAMED.search(body):
            loop.call_later(WAIT, self._write, WHOLE)
        elif _PACED.search(body):
            self._pace(loop, 0, loop.time())
        else:
            for part in STREAM:
                self._write(part)

    def _pace(self, loop: asyncio.AbstractEventLoop, number: int, due: float) -> None:
        self._write(STREAM[number])
        if number + 1 < len(STREAM):
            loop.call_at(due + PACE, self._pace, loop, number + 1, due + PACE)

    def _write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)


async def serve() -> None:
    """Answer at a free port of loopback."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(ModelProtocol, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    asyncio.run(serve())  # uvloop would write the events of a stream all at once


if __name__ == "__main__":
    main()
