"""How fast the gateway is: `python -m tests.bench.gateway`. It needs wrk and nginx; compare rows of one run only.

nginx answers for a model with 1 KB, wrk asks with 1 KB; each row is the median of some runs, taken in turns. Direct is wrk to
nginx, so its latency is what the gateway's is to be compared with.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

CONNECTIONS = (1, 16, 64)
BODY = {"model": "virtual-policy/two", "messages": [{"role": "user", "content": "x" * 900}]}
NGINX = """\
daemon off; pid {folder}/pid; error_log stderr crit; worker_processes 1;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 1000000; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port} backlog=2048; location / {{ default_type application/json; return 200 '{answer}'; }} }} }}
"""
ANSWER = json.dumps({"id": "x", "choices": [{"message": {"content": "y" * 900}}], "usage": {"prompt_tokens": 1}})


class Figures(NamedTuple):
    """Requests a second, and the median latency in milliseconds."""

    rate: float
    median: float


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


@contextmanager
def nginx(folder: Path) -> Iterator[str]:
    """An upstream; its base URL."""
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port, answer=ANSWER))
    with subprocess.Popen(["nginx", "-p", str(folder), "-c", str(config)], stderr=subprocess.DEVNULL) as process:
        try:
            until_answers(f"http://127.0.0.1:{port}/v1")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


@contextmanager
def gateway(policies: Path, folder: Path, *args: str) -> Iterator[tuple[str, int]]:
    """A gateway; its URL, and the number of its process."""
    program = [sys.executable, "-m", "policyctl", "gateway", "--dir", str(policies), "--port", "0", *args]
    with (folder / "log").open("wb") as log, subprocess.Popen(program, stdout=subprocess.PIPE, stderr=log) as process:
        assert process.stdout is not None
        found = re.search(r"at (http://\S+)/v1$", process.stdout.readline().decode())
        assert found, (folder / "log").read_text()
        try:
            until_answers(f"{found[1]}/livez")
            yield found[1], process.pid
        finally:
            process.terminate()


def until_answers(url: str) -> None:
    """Wait until something answers there."""
    while True:
        try:
            httpx.get(url, trust_env=False)
        except httpx.ConnectError:
            time.sleep(0.02)
        else:
            return


def write_policies(folder: Path, base: str, more: int = 0) -> None:
    """Policies over two targets and over 200 that are all the same upstream, and so many more."""
    folder.mkdir()
    model = f"spec_version: v1\nkind: model\nname: openai/{{}}\nprovider_config: {{{{custom_host: {base}}}}}\n"
    names = [f"m{number}" for number in range(200)]
    (folder / "models.yaml").write_text("---\n".join(model.format(name) for name in names))
    for name, targets in (("two", names[:2]), ("many", names)):
        lines = "".join(f"    - model_name: virtual-model/openai/{one}\n" for one in targets)
        text = f"spec_version: v1\nkind: model\nname: {name}\npolicy:\n  strategy: {{mode: loadbalance}}\n  targets:\n{lines}"
        (folder / f"{name}.yaml").write_text(text)
    for number in range(more):
        text = (folder / "two.yaml").read_text().replace("name: two", f"name: policy-{number}")
        (folder / f"policy-{number}.yaml").write_text(text)


def wrk(url: str, connections: int, seconds: float, folder: Path, policy: str = "two") -> Figures:
    """Ask with so many connections at once. Raises AssertionError for any answer but 200."""
    script = folder / "ask.lua"
    body = json.dumps({**BODY, "model": f"virtual-policy/{policy}"})
    headers = 'wrk.headers["Content-Type"] = "application/json"'
    script.write_text(f"wrk.method = 'POST'\nwrk.body = [[{body}]]\n{headers}\n")
    args = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(script), url]
    text = subprocess.run(args, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in text, text
    rate, median = re.search(r"Requests/sec:\s+([\d.]+)", text), re.search(r"50%\s+([\d.]+)(us|ms|s)", text)
    assert rate, text
    assert median, text
    return Figures(float(rate[1]), float(median[1]) * {"us": 0.001, "ms": 1, "s": 1000}[median[2]])


def memory(pid: int) -> float:
    """The resident memory of a process, in MB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


def measure(seconds: float, rounds: int) -> None:
    """Take all rows in turns, and print their medians."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        base = stack.enter_context(nginx(folder))
        write_policies(folder / "policies", base)
        one, pid = stack.enter_context(gateway(folder / "policies", folder))
        two, _ = stack.enter_context(gateway(folder / "policies", folder, "--workers", "2"))
        path = "/v1/chat/completions"
        rows = {
            "direct": (f"{base}/chat/completions", "two"),
            "gateway": (one + path, "two"),
            "gateway, 200 targets": (one + path, "many"),
            "gateway, 2 workers": (two + path, "two"),
        }
        seen: dict[tuple[str, int], list[Figures]] = {(row, number): [] for row in rows for number in CONNECTIONS}
        for turn in range(rounds):
            for (row, number), figures in list(seen.items())[:: -1 if turn % 2 else 1]:
                url, policy = rows[row]
                figures.append(wrk(url, number, seconds, folder, policy))
        print(f"{'':22}" + "".join(f"{f'{number} connections':>26}" for number in CONNECTIONS))
        for row in rows:
            cells = [seen[row, number] for number in CONNECTIONS]
            shown = [
                f"{statistics.median(one.rate for one in cell):,.0f}/s {statistics.median(one.median for one in cell):.2f} ms"
                for cell in cells
            ]
            print(f"{row:22}" + "".join(f"{text:>26}" for text in shown))
        print(f"memory of the gateway: {memory(pid):.0f} MB")
        write_policies(folder / "large", base, more=10_000)
        began = time.monotonic()
        with gateway(folder / "large", folder):
            print(f"start with 10,000 policies in files: {time.monotonic() - began:.1f} s")


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if missing := [name for name in ("wrk", "nginx") if shutil.which(name) is None]:
        raise SystemExit(f"{' and '.join(missing)} is needed; install it with apt")
    measure(given.seconds, given.rounds)


if __name__ == "__main__":
    main()
