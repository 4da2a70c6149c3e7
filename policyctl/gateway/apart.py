"""Work beside the event loop that may wait long."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

Found = TypeVar("Found")


class Apart:
    """Does what may wait long in threads of its own, which do not keep the program from ending. `worked` are the seconds that a
    processor was busy with it: a remote that was waited for is looked at as soon as any other."""

    def __init__(self) -> None:
        self.worked = 0.0

    async def __call__(self, work: Callable[[], Found]) -> Found:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Found] = loop.create_future()

        def give(put: Callable[[Any], None], what: Any) -> None:
            if not done.cancelled():
                put(what)

        def run() -> None:
            end: tuple[Callable[[Any], None], Any]
            try:
                end = done.set_result, work()
            except BaseException as error:  # noqa: BLE001 - it is for what waits
                end = done.set_exception, error
            self.worked += time.thread_time()
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(give, *end)

        threading.Thread(target=run, daemon=True).start()
        return await done
