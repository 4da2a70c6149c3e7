"""Clients of the soak, and what each of their requests is held against.

Each version of the policy has models of its own, with its number in their names and in their addresses. So every attempt shows
which version it belongs to: to the upstream by its path and its model, to the client by the headers of the answer.
"""

from __future__ import annotations

import json
import math
import re
import secrets
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import httpx

from tests.gateway.dying_upstream import Call, events_of
from tests.patience import LONGEST

PLACES = ("first", "second", "third")  # the targets of each version; the last one never fails
PAUSE = 0.01  # seconds between two requests of a client, so that neither clients nor workers have a core for themselves
OLD = 30.0  # seconds after which a version that was replaced must not answer any more


def repeats_of(version: int) -> int:
    """How often a version's policy repeats a call."""
    return version % 2


@dataclass(frozen=True)
class Answer:
    """What a client got. `end` is `whole`, for a stream that breaks off `error` or `broken`, or what is wrong with it."""

    number: str
    status: int
    headers: httpx.Headers
    text: str
    end: str

    @property
    def version(self) -> int | None:
        """The number of the version that served it."""
        return _version_in(self.headers.get("x-policyctl-served-by", ""))


def _version_in(text: str) -> int | None:
    found = re.search(r"\bv(\d+)\b", text)
    return int(found[1]) if found else None


def mistake_in(answer: Answer, calls: Sequence[Call]) -> str | None:
    """What is wrong with an answer, given the calls that the upstreams had for it."""
    served_by = answer.headers.get("x-policyctl-served-by", "")
    versions = {answer.version, *(_version_in(call.base) for call in calls), *(_version_in(call.model) for call in calls)}
    if len(versions) != 1 or answer.version is None:
        return f"{answer.status} by versions {versions}: {answer.text[:200]}"
    names = [f"v{answer.version}-{place}" for place in PLACES]
    asked, repeats = [names.index(call.model) for call in calls], repeats_of(answer.version)
    place = names.index(served_by.rpartition("/")[2])
    attempts = int(answer.headers["x-policyctl-attempts"]) - place * (repeats + 1)
    if not calls or calls[-1].model != names[place]:
        return f"{answer.status} served by {served_by} after calls {asked}: {answer.text[:200]}"
    if not 1 <= attempts <= repeats + 1 or asked != sorted(asked) or max(Counter(asked).values()) > repeats + 1:
        return f"{attempts} attempts at the last model, and calls {asked}, with {repeats} repeats"
    return None if calls[-1].became in _explained_by(answer) else f"{answer.status} {answer.end} {calls[-1].became}"


def _explained_by(answer: Answer) -> tuple[str, ...]:
    """What may have become of the last call, if the client got this."""
    if answer.status == 200:
        return {"whole": ("answered", "perhaps"), "error": ("cut", "perhaps"), "broken": ("cut", "perhaps")}.get(answer.end, ())
    broken = answer.status == 500 and json.loads(answer.text)["error"]["code"] == "upstream_broken_answer"
    return ("cut", "perhaps") if broken else ()


@dataclass
class Kill:
    """The time of a kill, and when the worker had ended with all its connections."""

    began: float
    ended: float = math.inf


@dataclass
class Tally:
    """What clients saw, and what was done meanwhile, with the times."""

    answers: Counter[str] = field(default_factory=Counter)  # by what they were
    ended: int = 0  # connections that a kill ended
    kills: list[Kill] = field(default_factory=list)
    applied: list[float] = field(default_factory=list)  # by version, once it was applied
    deaths: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    versions: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))  # by x-policyctl-version
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, answer: Answer, calls: Sequence[Call], began: float) -> None:
        """Count an answer."""
        mistake = mistake_in(answer, calls)
        version = answer.version
        if mistake is None and version is not None:
            with self.lock:
                self.versions[answer.headers["x-policyctl-version"]].add(version)
            replaced = self.applied[version + 1] if version + 1 < len(self.applied) else began
            if began - replaced > OLD:
                mistake = f"a version is run {began - replaced:.0f} s after it was replaced"
        kind = "stream" if "event-stream" in answer.headers.get("content-type", "") else "answer"
        self.count(f"{kind} {answer.end}" if answer.status == 200 else str(answer.status), mistake)

    def note_end(self, since: float, error: Exception) -> None:
        """Count a connection that ended without an answer, and that was in order before: a kill must have ended it."""
        if self.killed_after(since):
            with self.lock:
                self.ended += 1
        else:
            self.count("", f"{type(error).__name__} without a kill")

    def killed_after(self, since: float) -> bool:
        """Whether a kill may have ended a connection that was in order at that time."""
        return any(since <= kill.ended for kill in self.kills)

    def count(self, kind: str, mistake: str | None = None) -> None:
        """Count an answer of a kind, or a mistake."""
        with self.lock:
            (self.answers if mistake is None else self.wrong)[kind if mistake is None else mistake] += 1

    @property
    def mistakes(self) -> list[str]:
        """What must not be."""
        found = [f"{times} × {what}" for what, times in self.wrong.items()]
        found += [f"version {shown} was {sorted(run)}" for shown, run in self.versions.items() if len(run) > 1]
        runs = sorted(number for run in self.versions.values() for number in run)
        return found + [f"{one} had two versions" for one, other in pairwise(runs) if one == other]


class Client:
    """One client: its requests follow each other on one connection, every second one is a stream."""

    def __init__(self, url: str, tally: Tally, calls: Sequence[dict[str, list[Call]]]) -> None:
        self.url = url
        self.tally = tally
        self.calls = calls

    def run(self, over: threading.Event) -> None:
        """Send requests until the end; another connection follows one that ended."""
        while not over.is_set():
            since = time.monotonic()
            with httpx.Client(base_url=self.url, trust_env=False, timeout=LONGEST) as client:
                try:
                    while not over.wait(PAUSE):
                        is_open = self._ask(client, since)
                        if not is_open:
                            break
                        since = time.monotonic()
                except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
                    self.tally.note_end(since, error)
                except (httpx.TimeoutException, ValueError, KeyError) as error:
                    self.tally.count("", f"{type(error).__name__} instead of an answer: {error}")

    def _ask(self, client: httpx.Client, since: float) -> bool:
        """Whether the connection is still open after a request."""
        number, began = secrets.token_hex(8), time.monotonic()
        stream = int(number[0], 16) % 2 == 0
        with client.stream(
            "POST", "/v1/chat/completions", json={"model": "p", "stream": stream}, headers={"x-request-id": number}
        ) as got:
            text, end = "", "whole"
            try:
                for part in got.iter_text():
                    text += part
            except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
                if self.tally.killed_after(since):
                    raise
                end = f"broken ({type(error).__name__})" if not stream else "broken"
        if end == "whole" and got.status_code == 200:
            end = _end_of_stream(text, number) if stream else _end_of_body(text, number)
        answer = Answer(number, got.status_code, got.headers, text, end)
        self.tally.note(answer, [call for calls in self.calls for call in calls.pop(number, ())], began)
        return not end.startswith("broken")


def _end_of_body(text: str, number: str) -> str:
    return "whole" if json.loads(text)["id"] == number else f"of another request: {text[:100]}"


def _end_of_stream(text: str, number: str) -> str:
    """Whether a stream is whole or ends with an error; what came before must be its own, and in order."""
    *parts, last = text.removesuffix("\n\n").split("\n\n")
    values = [json.loads(part.removeprefix("data: ")) for part in parts]
    if values != events_of(number)[: len(values)]:
        return f"other events: {text[:200]}"
    if last == "data: [DONE]":
        return "whole" if values == events_of(number) else "cut, and ended as if it were whole"
    return "error" if "error" in json.loads(last.removeprefix("data: ")) else "cut without a word"


@contextmanager
def clients(url: str, number: int, tally: Tally, calls: Sequence[dict[str, list[Call]]]) -> Iterator[None]:
    """So many clients that send requests meanwhile."""
    over = threading.Event()
    threads = [threading.Thread(target=Client(url, tally, calls).run, args=(over,)) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
