"""Asking with wrk, and what it found."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
TIMEOUT = 20  # seconds; by itself wrk counts what takes more than two as failed
_CONTENT = "x" * 900
_SCRIPT = """\
wrk.method = "POST"
wrk.body = [[{body}]]
wrk.headers["Content-Type"] = "application/json"
"""


class Ask(NamedTuple):
    """What is asked where: the model of the body, which has 1 KB, and headers beside that of its type."""

    url: str
    model: str
    headers: Mapping[str, str] = {}


class Figures(NamedTuple):
    """What one run of wrk found: good answers a second, the median latency in milliseconds, and how many were no good.

    `answers` are all that came; `processor` are the microseconds of processor time that each took, where it was measured.
    """

    rate: float
    median: float
    answers: int
    failed: int = 0
    processor: float | None = None


def read_figures(text: str) -> Figures:
    """What wrk printed. Raises ValueError if it is not that."""
    found = re.search(r"(\d+) requests in ", text)
    rate, median = re.search(r"Requests/sec:\s+([\d.]+)", text), re.search(r"50%\s+([\d.]+)(us|ms|s|m)\b", text)
    if not found or not rate or not median:
        raise ValueError(f"wrk printed something else than figures:\n{text}")
    answers = int(found[1])
    wrong = int(refused[1]) if (refused := re.search(r"Non-2xx or 3xx responses: (\d+)", text)) else 0
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    good = (answers - wrong) / answers if answers else 0.0
    return Figures(
        float(rate[1]) * good,
        float(median[1]) * _MILLISECONDS[median[2]],
        answers,
        wrong + (sum(map(int, errors.groups())) if errors else 0),
    )


def run_wrk(ask: Ask, connections: int, seconds: float, folder: Path, **more: object) -> Figures:
    """Ask on so many connections at once, each for the next answer when it has one; the body may have `more`.

    Raises ValueError as read_figures does.
    """
    body = {"model": ask.model, "messages": [{"role": "user", "content": _CONTENT}], **more}
    script = folder / "ask.lua"
    headers = "".join(f"wrk.headers[{json.dumps(name)}] = [[{value}]]\n" for name, value in ask.headers.items())
    script.write_text(_SCRIPT.format(body=json.dumps(body)) + headers)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", f"--timeout={TIMEOUT}s", "--latency"]
    command += ["-s", str(script), ask.url]
    return read_figures(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
