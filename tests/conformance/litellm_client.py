"""The SDK of litellm as a program, run by an environment of its own: each line asks for one call, each answer is a line.

It connects to this machine alone: whatever else would be asked for the cost of models, a tokenizer or news fails.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib import import_module
from typing import Any

HOSTS = ("127.0.0.1", "::1", "localhost", None)
OUTSIDE: list[str] = []  # what was asked for beyond this machine; it did not get it


def _guard(event: str, given: tuple[Any, ...]) -> None:
    if event == "socket.getaddrinfo":
        host = given[0]
    elif event == "socket.connect" and isinstance(given[1], tuple):
        host = given[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host not in HOSTS:
        OUTSIDE.append(f"{event} {host}")
        raise PermissionError(f"{event} {host}: only this machine may be asked")


def call(litellm: Any, errors: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """The result of one call, the parts of its stream (`take`: leave after so many), or the error."""
    function, take = getattr(litellm, asked["function"]), asked["take"]
    try:
        given = function(**asked["given"])
        if asyncio.iscoroutine(given):
            return asyncio.run(_awaited(given, take))
        return _stream(given, take) if hasattr(given, "__next__") else {"result": given.model_dump()}
    except errors as error:
        return {"error": type(error).__name__, "status": getattr(error, "status_code", None)}


async def _awaited(given: Any, take: int | None) -> dict[str, Any]:
    result: Any = await given
    if not hasattr(result, "__anext__"):
        return {"result": result.model_dump()}
    parts: list[Any] = []
    async for part in result:
        parts.append(part.model_dump())
        if len(parts) == take:
            await result.aclose()
            break
    return {"parts": parts}


def _stream(result: Any, take: int | None) -> dict[str, Any]:
    parts: list[Any] = []
    for part in result:
        parts.append(part.model_dump())
        if len(parts) == take:
            result.close()
            break
    return {"parts": parts}


def main() -> None:
    sys.addaudithook(_guard)
    answers, sys.stdout = sys.stdout, sys.stderr  # litellm prints advice
    litellm, errors = import_module("litellm"), import_module("openai").OpenAIError  # litellm's errors are kinds of it
    for line in sys.stdin:
        print(json.dumps({**call(litellm, errors, json.loads(line)), "outside": OUTSIDE}), file=answers, flush=True)


if __name__ == "__main__":
    main()
