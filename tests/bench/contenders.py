"""What the gateway is compared with, and what they all ask: processes on loopback that end with the `with` that starts them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import httpx

from tests.bench import model
from tests.bench.wrk import Ask

PATH = "/chat/completions"
START_SECONDS = 60
END_SECONDS = 10
TARGETS = 200
KEY = "sk-of-the-benchmark"
NGINX = """\
daemon off; pid {folder}/pid; error_log stderr crit; worker_processes 1;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port} backlog=2048; location / {{ default_type application/json; return 200 '{answer}'; }} }} }}
"""
# Portkey has no option for the address that it listens at, and takes all of them.
LOOPBACK = """\
const { Server } = require("node:net"), listen = Server.prototype.listen;
Server.prototype.listen = function (port, host, ready) { return listen.call(this, port, "127.0.0.1", ready); };
"""
LITELLM = """\
model_list:
{models}router_settings: {{routing_strategy: simple-shuffle}}
general_settings: {{master_key: {key}}}
"""
_TICKS = os.sysconf("SC_CLK_TCK")


class Bases(NamedTuple):
    """The base URLs of the models: one that answers at once, and one that takes its time."""

    fast: str
    slow: str


class Contender(NamedTuple):
    """A way to the models. `group` is the group of its processes; what is direct has none. A variant of another that is not
    to be asked for the model that takes its time has no `slow`."""

    name: str
    group: int | None
    fast: Ask
    slow: Ask | None = None


@contextmanager
def running(command: list[str], log: Path, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own, which is ended with all that it started. What it prints goes to `log`."""
    with log.open("w") as out:
        process = subprocess.Popen(
            command, env={**os.environ, **env}, stdout=out, stderr=out, text=True, start_new_session=True
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
            with suppress(ProcessLookupError):  # what ignored the signal, and children that outlived their parent
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def until_answers(process: subprocess.Popen[str], url: str, log: Path) -> None:
    """Wait until something answers there. Raises RuntimeError if the process ends first, or does not answer in a minute."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with suppress(httpx.TransportError):
            httpx.get(url, trust_env=False)
            return
        time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} does not answer at {url}:\n{log.read_text()}")


def printed(process: subprocess.Popen[str], pattern: str, log: Path) -> str:
    """What a process prints about itself when it has started. Raises RuntimeError if it ends first, or takes a minute."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if found := re.search(pattern, log.read_text(), re.MULTILINE):
            return found[1]
        time.sleep(0.005)
    raise RuntimeError(f"{process.args!r} does not start:\n{log.read_text()}")


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


@contextmanager
def models(folder: Path) -> Iterator[Bases]:
    """nginx as the model that answers at once, and the one that takes its time."""
    port, config = free_port(), folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port, answer=model.ANSWER))
    nginx, slow = folder / "nginx.log", folder / "model.log"
    with (
        running(["nginx", "-p", str(folder), "-c", str(config)], nginx) as first,
        running([sys.executable, "-m", "tests.bench.model"], slow) as second,
    ):
        until_answers(first, f"http://127.0.0.1:{port}/v1", nginx)
        other = printed(second, r"^(\d+)$", slow)
        yield Bases(f"http://127.0.0.1:{port}/v1", f"http://127.0.0.1:{other}/v1")


def direct(bases: Bases) -> Contender:
    """No gateway at all."""
    return Contender("direct", None, Ask(bases.fast + PATH, "m"), Ask(bases.slow + PATH, "m"))


def write_policies(folder: Path, bases: Bases, more: int = 0) -> None:
    """Policies over two targets and over 200 that are all the same upstream, one over the slow model, and so many more."""
    folder.mkdir()
    text = "spec_version: v1\nkind: model\nname: openai/{}\nprovider_config: {{custom_host: {}, api_key: env:KEY_OF_MODELS}}\n"
    names = [f"m{number}" for number in range(TARGETS)]
    hosts = {**dict.fromkeys(names, bases.fast), "slow-1": bases.slow, "slow-2": bases.slow}
    (folder / "models.yaml").write_text("---\n".join(text.format(name, base) for name, base in hosts.items()))

    def write(name: str, targets: list[str]) -> None:
        lines = "".join(f"    - model_name: virtual-model/openai/{one}\n" for one in targets)
        policy = f"policy:\n  strategy: {{mode: loadbalance}}\n  targets:\n{lines}"
        (folder / f"{name}.yaml").write_text(f"spec_version: v1\nkind: model\nname: {name}\n{policy}")

    write("two", names[:2])
    write("many", names)
    write("slow", ["slow-1", "slow-2"])
    for number in range(more):
        write(f"policy-{number}", names[:2])


@contextmanager
def policyctl(policies: Path, log: Path, *args: str) -> Iterator[tuple[str, int]]:
    """`policyctl gateway`: its URL, and its process."""
    keys = log.with_suffix(".keys")
    keys.write_text(KEY)
    command = [sys.executable, "-m", "policyctl", "gateway", "--dir", str(policies), "--port", "0"]
    with running([*command, "--keys-from", f"file:{keys}", *args], log, KEY_OF_MODELS="a-key") as process:
        url = printed(process, r"at (http://\S+/v1)$", log)
        until_answers(process, url.removesuffix("v1") + "livez", log)
        yield url, process.pid


def asking(name: str, url: str, group: int, fast: str = "two", slow: str | None = "slow") -> Contender:
    """A gateway with policies by these names, which has a key."""
    one = Ask(url + PATH, f"virtual-policy/{fast}", {"Authorization": f"Bearer {KEY}"})
    return Contender(name, group, one, one._replace(model=f"virtual-policy/{slow}") if slow else None)


@contextmanager
def portkey(place: Path, bases: Bases, folder: Path) -> Iterator[Contender]:
    """Portkey, as `npm install @portkey-ai/gateway` puts it into a directory. A request has its policy in a header."""
    port, loopback, log = free_port(), folder / "loopback.cjs", folder / "portkey.log"
    loopback.write_text(LOOPBACK)
    package = place / "node_modules/@portkey-ai/gateway"
    version = json.loads((package / "package.json").read_bytes())["version"]
    command = ["node", "--require", str(loopback), str(package / "build/start-server.js"), f"--port={port}", "--headless"]

    def ask(base: str, *names: str) -> Ask:
        key = {"provider": "openai", "api_key": "a-key", "custom_host": base}
        targets = [{**key, "override_params": {"model": name}} for name in names]
        policy = {"strategy": {"mode": "loadbalance"}, "targets": targets}
        return Ask(f"http://127.0.0.1:{port}/v1{PATH}", "virtual-policy/two", {"x-portkey-config": json.dumps(policy)})

    with running(command, log, NODE_ENV="production") as process:
        until_answers(process, f"http://127.0.0.1:{port}/", log)
        name = f"Portkey {version}"
        yield Contender(name, process.pid, ask(bases.fast, "m0", "m1"), ask(bases.slow, "slow-1", "slow-2"))


@contextmanager
def litellm(place: Path, bases: Bases, folder: Path) -> Iterator[Contender]:
    """The proxy of LiteLLM, in a virtual environment: one worker, without a database, with a key."""
    port, config, log = free_port(), folder / "litellm.yaml", folder / "litellm.log"
    one = "- {{model_name: {}, litellm_params: {{model: openai/{}, api_base: '{}', api_key: a-key}}}}\n"
    names = [
        ("two", "m0", bases.fast),
        ("two", "m1", bases.fast),
        ("slow", "slow-1", bases.slow),
        ("slow", "slow-2", bases.slow),
    ]
    listed = "".join(one.format(f"virtual-policy/{name}", target, base) for name, target, base in names)
    config.write_text(LITELLM.format(models=listed, key=KEY))
    version = next(place.glob("lib/python*/site-packages/litellm-*.dist-info")).name.split("-")[1].removesuffix(".dist")
    command = [str(place / "bin/litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    quiet: Mapping[str, str] = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"}
    with running([*command, "--telemetry", "False"], log, **quiet) as process:
        until_answers(process, f"http://127.0.0.1:{port}/health/liveliness", log)
        yield asking(f"LiteLLM {version}", f"http://127.0.0.1:{port}/v1", process.pid)


def _of_group(group: int) -> Iterator[tuple[int, list[str]]]:
    """The processes of a group, with what /proc/PID/stat has after their name."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            fields = path.read_text().rpartition(") ")[2].split()
            if int(fields[2]) == group:
                yield int(path.parent.name), fields


def processor(group: int) -> float:
    """Seconds of processor time that a group of processes has taken."""
    return sum(int(fields[11]) + int(fields[12]) for _, fields in _of_group(group)) / _TICKS


def busy() -> float:
    """Seconds of processor time that all programs of this machine, and others on the same hardware, have taken."""
    user, nice, system, _, _, *others = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(others)) / _TICKS


def memory(group: int, what: str) -> float:
    """The memory of a group of processes, in MB: `VmRSS` is what they have now, `VmHWM` the most that each has had."""
    found = [re.search(rf"{what}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()) for pid, _ in _of_group(group)]
    return sum(int(one[1]) for one in found if one) / 1024
