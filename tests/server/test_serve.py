"""`policyctl serve` as a program: its socket, its limits on connections, its signals, and what it refuses to start with."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from policyctl.server.app import listen
from tests.patience import LONGEST
from tests.server.serving import Served, loopback, serving

POLICY = {"name": "a", "display_name": "A", "description": "", "policy": {"strategy": {"mode": "single"}, "targets": []}}


def policyctl(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **environ}
    command = [sys.executable, "-m", "policyctl", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False)


def test_a_policy_written_over_the_socket_is_in_the_file(tmp_path: Path) -> None:
    with serving(tmp_path / "a.db") as served:
        row = loopback.post(f"{served.url}/v1/model_policy", json=POLICY).json()
    with serving(tmp_path / "a.db") as served:
        assert loopback.get(f"{served.url}/api/v1/model_policy").json() == [row]


def test_writes_from_many_threads_are_all_kept(served: Served) -> None:
    names = [f"many-{number}" for number in range(60)]
    with httpx.Client(base_url=served.url, timeout=LONGEST) as client, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda name: client.post("/v1/model_policy", json={**POLICY, "name": name}), names))
        assert {answer.status_code for answer in answers} == {201}
        assert sorted(row["name"] for row in client.get("/v1/model_policy", params={"name": names}).json()) == sorted(names)


def test_of_many_writers_with_one_version_one_wins(served: Served) -> None:
    """The version is compared in the write's own transaction."""
    with httpx.Client(base_url=served.url, timeout=LONGEST) as client, ThreadPoolExecutor(8) as pool:
        row = client.post("/v1/model_policy", json={**POLICY, "name": "contended"}).json()
        path, headers = f"/v1/model_policy/{row['id']}", {"If-Match": f'"{row["etag"]}"'}

        def write(number: int) -> int:
            return client.put(path, json={"display_name": f"writer {number}"}, headers=headers).status_code

        assert sorted(pool.map(write, range(16))) == [200] + [412] * 15


def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    """Killed in the midst of writes, it has lost none that it had answered, and doubled none."""
    answered: list[str] = []

    def write(number: int) -> None:
        try:
            answer = client.post("/v1/model_policy", json={**POLICY, "name": f"policy-{number}"})
        except httpx.TransportError:
            return  # the server is gone; the client never learned what became of this one
        answered.append(answer.json()["name"])
        if len(answered) == 20:
            served.process.kill()

    with (
        serving(tmp_path / "a.db") as served,
        httpx.Client(base_url=served.url, timeout=LONGEST) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        list(pool.map(write, range(60)))
    with serving(tmp_path / "a.db") as served:
        kept = [row["name"] for row in loopback.get(f"{served.url}/v1/model_policy").json()]
    assert len(answered) >= 20
    assert set(answered) <= set(kept)
    assert len(kept) == len(set(kept)) < 60


def test_it_serves_on_where_its_log_takes_nothing_more(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "policyctl", "serve", "--port", "0", "--remote", f"sqlite:///{tmp_path}/a.db"]
    with open("/dev/full", "w") as full, subprocess.Popen(program, stdout=subprocess.PIPE, stderr=full, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        with httpx.Client(base_url=url, timeout=LONGEST) as client:
            assert client.post("/v1/model_policy", json=POLICY).status_code == 201
            assert [row["name"] for row in client.get("/v1/model_policy").json()] == ["a"]
        process.terminate()
        assert process.wait(LONGEST) == 0


_SIGNALLED = """
import signal
from policyctl.remote.sqlite import SqliteRemote
from policyctl.server.app import listen, make_app, run
from policyctl.server.login import TokenIssuer
from policyctl.server.api import Service, Variant
from pathlib import Path

def log(level, event, **fields):
    print(event, flush=True)
    if event == "started":
        signal.raise_signal(signal.SIGTERM)

service = Service(SqliteRemote(Path("store.db")), TokenIssuer(), None, Variant())
with listen("127.0.0.1", 0) as listener:
    run(make_app(service, log), listener, log)
"""


def test_a_signal_that_comes_while_it_starts_ends_it_too(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _SIGNALLED], cwd=tmp_path, capture_output=True, text=True, timeout=LONGEST, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "started\nstopped\n"), ran.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_when_what_was_begun_is_done(tmp_path: Path, number: signal.Signals) -> None:
    """A request whose body is still arriving when the signal comes is answered."""
    with serving(tmp_path / "a.db") as served:
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            head = (
                b"POST /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n"
            )
            connection.sendall(head + b'{"name":')
            loopback.get(f"{served.url}/healthz")  # the server has read what was sent before this
            served.process.send_signal(number)
            connection.sendall(b' "x"}')
            assert connection.recv(4096).startswith(b"HTTP/1.1 201")
        assert served.process.wait(LONGEST) == 0
        assert [event["event"] for event in served.events()][-1] == "stopped"


BAD_HEADS = {
    "a header without an end": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 40_000,
    "headers without an end": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: x\r\n" * 8_000,
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("case", BAD_HEADS)
def test_a_request_that_cannot_be_read_is_a_400_and_the_end_of_its_connection(served: Served, case: str) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=LONGEST) as connection:
        connection.sendall(BAD_HEADS[case])
        with connection.makefile("rb") as answer:
            assert answer.readline().startswith(b"HTTP/1.1 400")
    assert served.events()[-1]["event"] == "library", "messages of the HTTP library are lines of JSON too"
    assert loopback.get(f"{served.url}/healthz").status_code == 200


def test_logs_are_json_and_hold_no_secret(tmp_path: Path) -> None:
    secret = "canary-5419-of-the-server"
    with serving(tmp_path / "a.db", "--token-from", "env:SERVE_SECRET", environ={"SERVE_SECRET": secret}) as served:
        headers = {"Authorization": f"Bearer {secret}"}
        assert loopback.get(f"{served.url}/v1/model_policy?name={secret}", headers=headers).status_code == 200
        token = loopback.post(f"{served.url}/identity/token", data={"apikey": secret}).json()["access_token"]
        assert loopback.get(f"{served.url}/v1/models", headers={"Authorization": f"Bearer {token}"}).status_code == 200
        assert loopback.get(f"{served.url}/v1/models", headers={"Authorization": f"Bearer {token}x"}).status_code == 401
    statuses = [event.get("status") for event in served.events() if event["event"] == "request"]
    assert statuses == [200, 200, 200, 401]
    assert secret not in served.log.read_text()
    assert token not in served.log.read_text()


def test_the_secret_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from-a-file\n")
    with serving(tmp_path / "a.db", "--token-from", "file:secret") as served:
        headers = {"Authorization": "Bearer from-a-file"}
        assert loopback.get(f"{served.url}/v1/models", headers=headers).status_code == 200


def test_the_lifetime_of_tokens_is_an_option(tmp_path: Path) -> None:
    with serving(tmp_path / "a.db", "--token-seconds", "700") as served:
        assert loopback.post(f"{served.url}/identity/token", data={"apikey": "k"}).json()["expires_in"] == 700


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """Without it an answer in two parts takes 40 ms, whatever is in it."""
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_ipv6(tmp_path: Path) -> None:
    with serving(tmp_path / "a.db", "--host", "::1") as served:
        assert served.url.startswith("http://[::1]:")
        assert loopback.get(f"{served.url}/healthz").status_code == 200


REFUSED: dict[str, tuple[list[str], int, str]] = {
    "another address without a secret": (["--host", "0.0.0.0"], 3, "so a secret is needed; add --token-from"),
    "a name that may be elsewhere": (["--host", "policies.example.com"], 3, "add --token-from"),
    "a secret itself": (["--token-from", "hunter2"], 64, "must be a reference, env:NAME or file:PATH"),
    "a variable that is not set": (["--token-from", "env:NOT_SET_ANYWHERE"], 64, "is not set or empty"),
    "a file that is not there": (["--token-from", "file:nothing"], 64, "cannot be read: No such file or directory"),
    "a secret that no header can hold": (["--token-from", "env:UNPRINTABLE"], 64, "is not one line of plain text"),
    "another kind of remote": (["--remote", "https://example.com/x"], 64, "is not a store that can be served"),
    "an address that is not this machine's": (
        ["--host", "192.0.2.1", "--token-from", "env:SET"],
        1,
        "cannot listen on 192.0.2.1",
    ),
    "a port out of range": (["--port", "65536"], 64, "65536"),
    "no place for clients": (["--max-connections", "0"], 64, "--max-connections"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_does_not_start_with(tmp_path: Path, case: str) -> None:
    arguments, code, message = REFUSED[case]
    ended = policyctl("serve", "--port", "0", *arguments, cwd=tmp_path, SET="secret", UNPRINTABLE="a\nb")
    assert (ended.returncode, ended.stdout) == (code, "")
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stderr


def test_a_port_that_is_taken(tmp_path: Path, served: Served) -> None:
    ended = policyctl("serve", "--port", str(served.port), cwd=tmp_path)
    assert ended.returncode == 1
    assert "Address already in use; choose another --host or --port" in ended.stderr


@pytest.mark.parametrize(("first", "second"), [([], ["--allow-duplicate-names"]), (["--allow-duplicate-names"], [])])
def test_whether_names_are_unique_is_settled_when_the_file_is_made(tmp_path: Path, first: list[str], second: list[str]) -> None:
    with serving(tmp_path / "a.db", *first) as served:
        statuses = [loopback.post(f"{served.url}/v1/model_policy", json=POLICY).status_code for _ in range(2)]
    assert statuses == [201, 201 if first else 409]
    ended = policyctl("serve", "--port", "0", "--remote", f"sqlite:///{tmp_path}/a.db", *second, cwd=tmp_path)
    assert ended.returncode == 64
    assert "which was decided when it was made" in ended.stderr


def test_without_the_extra_one_line_shows_what_to_install(tmp_path: Path) -> None:
    """In a Python that finds neither starlette nor uvicorn: the modules are blocked as the import system allows."""
    block = "import sys; sys.modules['starlette'] = sys.modules['uvicorn'] = None"
    code = f"{block}; from policyctl.cli.main import main; main(['serve'])"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=LONGEST, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr == "error: serve needs starlette and uvicorn; install it with: pip install 'policyctl[server]'\n"
