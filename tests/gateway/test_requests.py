"""What clients get: errors, headers, streams, and what upstreams are sent."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import httpx
import pytest

from policyctl.gateway.app import GatewayLimits, read_keys
from policyctl.gateway.table import PolicySnapshot, RouteTable, Upstream
from tests.gateway.live import DONE, EVENTS, Running, answer_of, chunk, event, running, sends
from tests.patience import LONGEST

FALLBACK = {"strategy": {"mode": "fallback"}, "targets": [{"model_name": "a"}, {"model_name": "b"}]}
SINGLE = {"strategy": {"mode": "single"}, "targets": [{"model_name": "a"}]}
REPEATED = {**SINGLE, "retry": {"attempts": 2}}


def code_of(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return str(error["code"])


def test_the_headers_show_who_served_after_how_many_attempts_by_which_version(gateway: Running) -> None:
    gateway.take({"p": FALLBACK}, "a", "b")
    gateway.upstream.play({"a": [503]})
    answer = gateway.chat("virtual-policy/p")
    shown = {name[len("x-policyctl-") :]: value for name, value in answer.headers.items() if name.startswith("x-policyctl-")}
    assert shown.pop("version").isalnum()
    assert shown == {"policy": "virtual-policy/p", "served-by": "b", "attempts": "2"}
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["id"] == "b-200"


def test_a_client_that_was_answered_at_once_may_retry_by_itself(gateway: Running) -> None:
    gateway.take({"p": SINGLE}, "a")
    gateway.upstream.play({"a": [503]})
    answer = gateway.chat()
    assert (answer.status_code, "x-should-retry" in answer.headers) == (503, False)
    assert answer.json() == {"error": {"code": 503}}  # the upstream's own


def test_the_request_id_is_the_clients_or_made_and_goes_up_and_down(gateway: Running) -> None:
    gateway.take({"p": SINGLE}, "a")
    gateway.upstream.play({"a": [sends(answer_of(200, "a", "x-request-id: theirs"))]})
    body = {"model": "p", "messages": []}
    given = gateway.client.post("/v1/chat/completions", json=body, headers={"x-request-id": "mine-1"})
    made = gateway.client.post("/v1/chat/completions", json=body, headers={"x-request-id": "x" * 200})
    assert given.headers["x-request-id"] == "mine-1"
    assert len(made.headers["x-request-id"]) == 32
    assert [one.headers["x-request-id"] for one in gateway.upstream.heard] == ["mine-1", made.headers["x-request-id"]]
    assert given.headers["x-policyctl-upstream-request-id"] == "theirs"


def test_of_the_body_only_the_model_changes(gateway: Running) -> None:
    gateway.take({"p": SINGLE}, "a")
    gateway.upstream.play({})
    body = b'{"model":"p","messages":[{"content":"\\u00e9 \xc3\xa9"}],"seed":1.0,"big":123456789012345678901234567890}'
    headers = {"content-type": "application/json", "authorization": "Bearer clients-own", "cookie": "c=1", "openai-beta": "x"}
    assert gateway.client.post("/v1/chat/completions", content=body, headers=headers).status_code == 200
    one = gateway.upstream.heard[0]
    assert one.raw == body.replace(b'"model":"p"', b'"model":"a"')
    assert one.headers.keys() == {
        "host", "content-type", "content-length", "user-agent", "x-request-id", "openai-beta"
    }  # fmt: skip


def test_each_key_goes_to_its_own_upstream_only(gateway: Running) -> None:
    base = gateway.upstream.base
    upstreams = {"a": Upstream("a", "a", base, "key-of-a"), "b": Upstream("b", "b", base)}
    gateway.app.table = RouteTable(PolicySnapshot({"virtual-policy/p": {"name": "p", "policy": FALLBACK}}, upstreams))
    gateway.upstream.play({"a": [401]})
    answer = gateway.client.post("/v1/chat/completions", json={"model": "p"}, headers={"authorization": "Bearer clients-own"})
    assert answer.status_code == 200
    assert [one.headers.get("authorization") for one in gateway.upstream.heard] == ["Bearer key-of-a", None]
    assert "key-of-a" not in repr(upstreams)


@pytest.mark.parametrize("path", ["chat/completions", "completions", "embeddings", "responses"])
def test_every_operation_goes_to_its_own_path(gateway: Running, path: str) -> None:
    gateway.take({"p": FALLBACK}, "a", "b")
    gateway.upstream.play({"a": [500]})
    assert gateway.client.post(f"/v1/{path}", json={"model": "p", "input": "x"}).status_code == 200
    assert [one.path for one in gateway.upstream.heard] == [f"/v1/{path}"] * 2


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "an unknown policy": ({"json": {"model": "virtual-policy/q"}}, 404, "model_not_found"),
    "an unknown model": ({"json": {"model": "virtual-model/openai/x"}}, 404, "model_not_found"),
    "no model": ({"json": {"messages": []}}, 400, "missing_model"),
    "a model that is not a text": ({"json": {"model": 1}}, 400, "missing_model"),
    "a list": ({"json": []}, 400, "invalid_json"),
    "not JSON": ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "invalid_json"),
    "nested without end": (
        {"content": b'{"model":"p","x":' + b"[" * 100_000, "headers": {"content-type": "application/json"}},
        400,
        "invalid_json",
    ),
    "a model that is not UTF-8": (
        {"content": b'{"model":"\xff"}', "headers": {"content-type": "application/json"}},
        400,
        "invalid_json",
    ),
    "a text that is not UTF-8": (
        {"content": b'{"model":"p","x":"\xff"}', "headers": {"content-type": "application/json"}},
        400,
        "invalid_json",
    ),
    "a form": ({"data": {"model": "p"}}, 415, "unsupported_media_type"),
    "another host": ({"json": {"model": "p"}, "headers": {"host": "rebound.example"}}, 403, "not_local"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_that_cannot_be_served_gets_an_error_as_of_openai(gateway: Running, case: str) -> None:
    request, status, code = REFUSED[case]
    gateway.take({"p": SINGLE}, "a")
    gateway.upstream.play({})
    answer = gateway.client.post("/v1/chat/completions", **request)
    assert (answer.status_code, code_of(answer), gateway.upstream.calls) == (status, code, [])


def test_a_model_without_an_upstream_counts_as_one_that_is_not_there(gateway: Running) -> None:
    gateway.take({"p": FALLBACK, "q": SINGLE}, "b")
    gateway.upstream.play({})
    assert gateway.chat("p").headers["x-policyctl-served-by"] == "b"
    answer = gateway.chat("q")
    assert (answer.status_code, code_of(answer)) == (404, "model_not_found")
    assert "a has no upstream" in answer.json()["error"]["message"]


def test_a_policy_without_a_target_to_ask_is_answered_at_once(gateway: Running) -> None:
    nothing = {"strategy": {"mode": "loadbalance"}, "targets": [{"model_name": "a", "weight": 0}]}
    gateway.take({"p": nothing, "q": {"strategy": {"mode": "unheard of"}, "targets": []}}, "a")
    assert (gateway.chat().status_code, code_of(gateway.chat())) == (503, "no_target")
    assert gateway.chat("q").status_code in (400, 501)


def test_a_single_model_and_a_policy_in_a_policy_are_served(gateway: Running) -> None:
    outer = {"strategy": {"mode": "fallback"}, "targets": [{"model_name": "virtual-policy/inner"}, {"model_name": "b"}]}
    gateway.take({"outer": outer, "inner": REPEATED}, "a", "b", "virtual-model/openai/x")
    gateway.upstream.play({"a": [500]})
    assert gateway.chat("outer").headers["x-policyctl-served-by"] == "b"
    assert gateway.upstream.calls == ["a", "a", "a", "b"]
    assert gateway.chat("virtual-model/openai/x").headers["x-policyctl-policy"] == "virtual-model/openai/x"
    assert gateway.chat("openai/x").status_code == 200


BROKEN: dict[str, tuple[list[Any], int, str, list[str]]] = {
    "dropped, then served": ([sends(), 200], 200, "", ["a"] * 2),
    "dropped each time": ([sends()], 500, "upstream_refused", ["a"] * 3 + ["b"]),
    "a body that is not JSON ends the request": (
        [sends(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 3\r\n\r\n{x}")],
        500,
        "upstream_broken_answer",
        ["a"],
    ),
    "a body that breaks off ends the request": (
        [sends(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 30\r\n\r\n{")],
        500,
        "upstream_broken_answer",
        ["a"],
    ),
    "not HTTP": ([sends(b"what?\r\n\r\n")], 500, "upstream_refused", ["a"] * 3 + ["b"]),
    "a status below 200": (
        [sends(b"HTTP/1.1 050 X\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")],
        500,
        "upstream_refused",
        ["a"] * 3 + ["b"],
    ),
    "no status": (
        [sends(b"HTTP/1.1 000 X\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")],
        500,
        "upstream_refused",
        ["a"] * 3 + ["b"],
    ),
    "another protocol": (
        [sends(b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")],
        500,
        "upstream_refused",
        ["a"] * 3 + ["b"],
    ),
    "407 is a broken connection": ([407], 500, "upstream_broken_answer", ["a"] * 3 + ["b"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_answers_count_as_the_rules_have_it(gateway: Running, case: str) -> None:
    script, status, code, calls = BROKEN[case]
    gateway.take({"p": {**FALLBACK, "retry": {"attempts": 2}}}, "a", "b")
    gateway.upstream.play({"a": script, "b": [*script[:1]] if "b" in calls else [200]})
    answer = gateway.chat()
    if "b" in calls:
        calls = [*calls, "b", "b"]
    assert (answer.status_code, gateway.upstream.calls) == (status, calls)
    assert not code or code_of(answer) == code


def test_a_refused_connection_is_asked_again_and_then_falls(gateway: Running) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        upstreams = {
            "a": Upstream("a", "a", f"http://127.0.0.1:{closed.getsockname()[1]}/v1"),
            "b": Upstream("b", "b", gateway.upstream.base),
        }
        body = {**FALLBACK, "retry": {"attempts": 2, "on_status_codes": []}}
        gateway.app.table = RouteTable(PolicySnapshot({"virtual-policy/p": {"name": "p", "policy": body}}, upstreams))
        gateway.upstream.play({})
        gateway.waits.clear()
        answer = gateway.chat()
    assert (answer.status_code, answer.headers["x-policyctl-attempts"], gateway.waits) == (200, "4", [1, 2])


def test_a_slow_model_counts_as_408_once_its_time_is_over(gateway: Running) -> None:
    async def for_ever(*_: object) -> None:
        await asyncio.sleep(60)

    gateway.take({"p": FALLBACK, "q": SINGLE}, "a", "b", timeout=0.1)
    gateway.upstream.play({"a": [for_ever]})
    assert gateway.chat().headers["x-policyctl-served-by"] == "b"
    answer = gateway.chat("q")
    assert (answer.status_code, code_of(answer)) == (408, "upstream_timeout")


@pytest.mark.slow
def test_the_time_limit_ends_with_the_head(gateway: Running) -> None:
    async def slow_body(writer: asyncio.StreamWriter, _: object) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{")
        await asyncio.sleep(1.2)
        writer.write(b"}")
        await writer.drain()

    gateway.take({"p": SINGLE}, "a", timeout=1.0)
    gateway.upstream.play({"a": [slow_body]})
    assert gateway.chat().json() == {}


OBEYING = {**SINGLE, "retry": {"attempts": 2, "use_retry_after_header": True}}
AFTER: dict[str, tuple[str, list[float]]] = {
    "seconds": ("retry-after: 7", [7, 7, 7]),
    "milliseconds": ("retry-after-ms: 1500", [2, 2, 2]),
    "a date": ("retry-after: Wed, 21 Oct 2026 07:28:00 GMT", [1, 2]),
    "too long": ("retry-after: 90", []),
    "none": ("x: y", [1, 2]),
}


@pytest.mark.parametrize("case", AFTER)
def test_a_retry_after_is_obeyed_where_the_policy_says_so(gateway: Running, case: str) -> None:
    header, waits = AFTER[case]
    gateway.take({"p": OBEYING, "q": REPEATED}, "a")
    gateway.upstream.play({"a": [sends(answer_of(429, "a", header, "connection: close"))]})
    answer = gateway.chat()
    assert (answer.status_code, gateway.waits) == (429, waits)
    if header.startswith("retry-after"):
        name, _, value = header.partition(": ")
        assert answer.headers[name] == value  # for the client, whose turn it is
    gateway.waits.clear()
    assert (gateway.chat("q").status_code, gateway.waits) == (429, [1, 2])


def test_redirects_are_not_followed(gateway: Running) -> None:
    """They would carry the key elsewhere."""
    gateway.take({"p": SINGLE}, "a", key="key-of-a")
    gateway.upstream.play({"a": [sends(answer_of(307, "a", f"location: {gateway.upstream.base}/elsewhere"))]})
    answer = gateway.chat()
    assert (answer.status_code, len(gateway.upstream.heard), "location" in answer.headers) == (307, 1, False)


def test_cookies_and_unknown_headers_of_an_upstream_stay_there(gateway: Running) -> None:
    gateway.take({"p": SINGLE}, "a")
    headers = ("set-cookie: a=1", "server: x", "x-ratelimit-remaining: 3", "openai-version: 1")
    gateway.upstream.play({"a": [sends(answer_of(200, "a", *headers))]})
    answers = [gateway.chat(), gateway.chat()]
    assert answers[0].headers["x-ratelimit-remaining"] == "3"
    assert answers[0].headers["openai-version"] == "1"
    assert not {"set-cookie", "server"} & set(answers[0].headers)
    assert "cookie" not in gateway.upstream.heard[1].headers


def test_a_stream_is_passed_on_event_by_event(gateway: Running) -> None:
    """The second event is not sent before the client has the first."""
    seen = asyncio.Event()

    async def waiting(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
        assert body["stream"] is True
        writer.write(EVENTS + event({"n": 1}))
        await asyncio.wait_for(seen.wait(), LONGEST)
        writer.write(event({"n": 2, "usage": {"prompt_tokens": 3, "completion_tokens": 4}}) + DONE)
        await writer.drain()

    gateway.take({"p": FALLBACK}, "a", "b")
    gateway.upstream.play({"a": [500], "b": [waiting]})
    with gateway.client.stream("POST", "/v1/chat/completions", json={"model": "p", "stream": True}) as answer:
        parts = answer.iter_raw()
        assert next(parts) == b'data: {"n": 1}\n\n'
        gateway.loop.call_soon_threadsafe(seen.set)
        rest = b"".join(parts)
    assert rest.endswith(b"data: [DONE]\n\n")
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["x-policyctl-served-by"] == "b"


def test_nothing_moves_on_after_the_first_byte_of_a_stream(gateway: Running) -> None:
    gateway.take({"p": FALLBACK}, "a", "b")
    gateway.upstream.play({"a": [sends(EVENTS, event({"n": 1}))]})
    answer = gateway.chat(stream=True)
    assert gateway.upstream.calls == ["a"]
    events = answer.text.split("\n\n")
    assert events[0] == 'data: {"n": 1}'
    assert json.loads(events[1].removeprefix("data: "))["error"]["code"] == "upstream_cut"
    assert "[DONE]" not in answer.text


def test_a_stream_that_breaks_within_an_event_breaks_for_the_client_too(gateway: Running) -> None:
    gateway.take({"p": SINGLE}, "a")
    gateway.upstream.play({"a": [sends(EVENTS, chunk(b'data: {"n":'))]})
    with pytest.raises(httpx.RemoteProtocolError):
        gateway.chat(stream=True)


def test_a_body_that_is_longer_than_what_is_held_breaks_for_the_client_too(gateway: Running) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 3000000\r\n\r\n"
    gateway.take({"p": FALLBACK}, "a", "b")
    gateway.upstream.play({"a": [sends(head, b" " * 2_000_000)]})
    with pytest.raises(httpx.RemoteProtocolError):
        gateway.chat()
    assert gateway.upstream.calls == ["a"]


def test_a_client_that_leaves_ends_the_request_at_its_upstream(gateway: Running) -> None:
    left = asyncio.Event()

    async def until_left(writer: asyncio.StreamWriter, _: object) -> None:
        writer.write(EVENTS)
        try:
            while not writer.transport.is_closing():
                writer.write(event({"n": 1}))
                await writer.drain()
                await asyncio.sleep(0.01)
        finally:
            left.set()

    gateway.take({"p": SINGLE}, "a")
    gateway.upstream.play({"a": [until_left]})
    with gateway.client.stream("POST", "/v1/chat/completions", json={"model": "p", "stream": True}) as answer:
        next(answer.iter_raw())
    gateway.call(asyncio.wait_for(left.wait(), LONGEST))


@pytest.mark.slow
def test_a_client_that_leaves_while_its_policy_waits_costs_no_more_calls() -> None:
    with running(real_waits=True) as live:
        live.take({"p": REPEATED}, "a")
        live.upstream.play({"a": [500]})
        with socket.create_connection(("127.0.0.1", int(live.url.rpartition(":")[2]))) as raw:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            raw.sendall(head + b'content-length: 13\r\n\r\n{"model":"p"}')
            while not live.waits:
                live.call(asyncio.sleep(0))
        live.call(asyncio.sleep(1.2))
        assert live.upstream.calls == ["a"]
    assert [line["status"] for line in live.log if line["event"] == "request"] == [499]


KEYS = "# those who may call\nweb key-of-the-web-0001\nnightly key-of-the-nightly-1\n"


def test_with_keys_only_who_has_one_is_served(tmp_path: Any) -> None:
    file = tmp_path / "keys"
    file.write_text(KEYS)
    with running(keys=read_keys(f"file:{file}"), limits=GatewayLimits(body=1000)) as live:
        live.take({"p": SINGLE}, "a")
        assert live.chat().status_code == 401
        assert code_of(live.chat()) == "invalid_api_key"
        assert live.client.get("/v1/models").status_code == live.client.get("/metrics").status_code == 401
        assert live.client.get("/livez").status_code == live.client.get("/readyz").status_code == 200
        live.client.headers["authorization"] = "Bearer key-of-the-web-0001"
        assert live.chat().status_code == 200
        assert [one["id"] for one in live.client.get("/v1/models").json()["data"]] == ["virtual-policy/p", "a"]
        assert code_of(live.chat(more="x" * 1000)) == "body_too_large"
    assert {line.get("caller") for line in live.log if line.get("status") == 200} == {"web"}
    assert "key-of" not in json.dumps(live.log)


def test_more_requests_than_the_limit_get_a_503() -> None:
    with running(limits=GatewayLimits(requests=0)) as live:
        answer = live.chat()
    assert (answer.status_code, code_of(answer), answer.headers["retry-after"]) == (503, "overloaded", "1")


def test_what_is_not_served_here_is_a_404_or_405(gateway: Running) -> None:
    assert code_of(gateway.client.get("/v1/files")) == "not_found"
    answer = gateway.client.get("/v1/chat/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_a_head_without_end_is_refused(gateway: Running) -> None:
    with socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2]))) as raw:
        raw.sendall(b"GET /livez HTTP/1.1\r\nx: " + b"x" * 100_000)
        assert raw.recv(1000).startswith(b"HTTP/1.1 400")


def test_no_content_is_logged_or_counted(gateway: Running) -> None:
    gateway.take({"p": SINGLE}, "a")
    gateway.upstream.play({"a": [sends(answer_of(200, "a", body={"usage": {"prompt_tokens": 5, "completion_tokens": 2}}))]})
    gateway.chat(messages=[{"role": "user", "content": "a-secret-of-mine"}])
    text = gateway.client.get("/metrics").text
    assert 'policyctl_gateway_tokens_total{model="a",type="output"} 2' in text
    assert 'policyctl_gateway_requests_total{policy="virtual-policy/p",operation="chat/completions",status="200"}' in text
    assert "a-secret-of-mine" not in text + json.dumps(gateway.log)


def test_of_an_error_that_breaks_off_its_status_is_passed_on_but_not_its_part(gateway: Running) -> None:
    about = b"content-type: text/plain\r\ncontent-encoding: gzip\r\nopenai-version: 1\r\ncontent-length: 200"
    head = b"HTTP/1.1 400 X\r\n%b\r\n\r\n" % about
    gateway.take({"p": SINGLE}, "a")
    gateway.upstream.play({"a": [sends(head + b"\x1f\x8b part")]})
    answer = gateway.chat()
    assert (answer.status_code, code_of(answer), answer.headers["openai-version"]) == (400, "upstream_cut", "1")
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize("part", [b"", b"\x1f\x8b part\n\n"])
def test_an_encoded_stream_that_breaks_off_is_never_ended(gateway: Running, part: bytes) -> None:
    """An event that shows the error cannot be added to it."""
    head = EVENTS.replace(b"\r\n\r\n", b"\r\ncontent-encoding: x\r\n\r\n")
    gateway.take({"p": SINGLE}, "a")
    gateway.upstream.play({"a": [sends(head + (chunk(part) if part else b""))]})
    with pytest.raises(httpx.RemoteProtocolError):
        gateway.chat(stream=True)


def test_a_request_that_the_end_of_the_gateway_cuts_off_gets_an_error(gateway: Running) -> None:
    begun = asyncio.Event()

    async def silent(*_: object) -> None:
        begun.set()
        await asyncio.sleep(60)

    async def cut() -> None:
        await asyncio.wait_for(begun.wait(), LONGEST)
        for task in asyncio.all_tasks():
            if "run_asgi" in repr(task.get_coro()):
                task.cancel("as uvicorn does once the time to finish is over")

    gateway.take({"cut": SINGLE}, "a")
    gateway.upstream.play({"a": [silent]})
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(gateway.chat, "cut")
        gateway.call(cut())
        answer = asked.result(LONGEST)
    assert (answer.status_code, code_of(answer)) == (503, "stopped")
    counted = 'requests_total{policy="virtual-policy/cut",operation="chat/completions",status="503"} 1'
    assert counted in gateway.client.get("/metrics").text


def test_an_upstream_that_resets_is_a_broken_connection(gateway: Running) -> None:
    async def reset(writer: asyncio.StreamWriter, _: object) -> None:
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    gateway.take({"p": FALLBACK}, "a", "b")
    gateway.upstream.play({"a": [reset]})
    assert gateway.chat().headers["x-policyctl-served-by"] == "b"


CHUNKED = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
MALFORMED: dict[str, tuple[bytes, int, str, list[str]]] = {
    "the body of a success ends the request": (CHUNKED % 200, 500, "upstream_broken_answer", ["a"]),
    "an error counts by its status": (CHUNKED % 503, 200, "", ["a", "b"]),
    "a stream ends with an error": (EVENTS + event({"n": 1}), 200, "upstream_cut", ["a"]),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_chunk_is_a_body_that_breaks_off(gateway: Running, case: str) -> None:
    """No client waits for what can never come, although the upstream keeps the connection open."""
    head, status, code, calls = MALFORMED[case]

    async def malformed(writer: asyncio.StreamWriter, _: object) -> None:
        writer.write(head)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"zz\r\n{}\r\n")
        await asyncio.sleep(1)

    gateway.take({"p": FALLBACK}, "a", "b")
    gateway.upstream.play({"a": [malformed]})
    answer = gateway.client.post("/v1/chat/completions", json={"model": "p"})
    assert (answer.status_code, gateway.upstream.calls) == (status, calls)
    assert code in answer.text


def test_control_characters_never_reach_a_header(gateway: Running) -> None:
    """Neither those of an upstream nor those in names that a remote holds."""
    evil = {**SINGLE, "targets": [{"model_name": "virtual-model/x/a\r\nset-cookie: b=1"}]}
    gateway.take({"p": SINGLE, "q": evil, "r\r\nset-cookie: c=1": SINGLE}, "a")
    gateway.upstream.play({"a": [sends(answer_of(200, "a", "x-ratelimit-a: a\x1bb", "x-ratelimit-b: 1"))]})
    answer = gateway.chat()
    assert (answer.status_code, "x-ratelimit-a" in answer.headers, answer.headers["x-ratelimit-b"]) == (200, False, "1")
    assert (gateway.chat("q").status_code, gateway.chat("r\r\nset-cookie: c=1").status_code) == (404, 200)
    assert "set-cookie" not in gateway.chat("q").headers


def test_an_upstream_makes_no_series_of_its_own(gateway: Running) -> None:
    gateway.take({"p": {**SINGLE, "targets": [{"model_name": "limited"}]}}, "limited")
    answers = [sends(answer_of(429, "limited", f"retry-after: {seconds}", "connection: close")) for seconds in (5, 7, 10**8)]
    gateway.upstream.play({"limited": answers})
    for _ in answers:
        assert gateway.chat().status_code == 429
    lines = [line for line in gateway.client.get("/metrics").text.splitlines() if 'attempts_total{model="limited"' in line]
    assert lines == ['policyctl_gateway_attempts_total{model="limited",answer="429"} 3']


@pytest.mark.parametrize("usage", ['{"prompt_tokens":1%s}' % ("0" * 400), '{"prompt_tokens":1e308}', '{"prompt_tokens":-5}'])
def test_what_cannot_be_a_count_of_tokens_is_not_counted(gateway: Running, usage: str) -> None:
    gateway.take({"p": {**SINGLE, "targets": [{"model_name": "odd"}]}}, "odd")
    body = b'{"usage":%s}' % usage.encode()
    head = b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    gateway.upstream.play({"odd": [sends(head + body)]})
    assert gateway.chat().status_code == 200
    text = gateway.client.get("/metrics").text
    assert 'attempts_total{model="odd",answer="200"}' in text
    assert 'tokens_total{model="odd"' not in text


class BrokenTable(RouteTable):
    """A table with a bug in it."""

    def route(self, model: str) -> NoReturn:
        raise KeyError(f"a-secret-of-mine {model}")


def test_a_bug_is_a_500_whose_place_is_logged_without_its_text(gateway: Running) -> None:
    gateway.app.table = BrokenTable(PolicySnapshot({}))
    answer = gateway.chat()
    assert (answer.status_code, code_of(answer)) == (500, "internal_error")
    end = time.monotonic() + LONGEST
    while not (bugs := [line for line in gateway.log if line["event"] == "bug"]):
        assert time.monotonic() < end
        gateway.client.get("/livez")
    assert (bugs[0]["error"], bugs[0]["id"]) == ("KeyError", answer.headers["x-request-id"])
    assert __file__ in bugs[0]["at"]
    assert "a-secret-of-mine" not in answer.text + json.dumps(gateway.log)


def test_an_idle_connection_that_its_upstream_resets_is_not_an_event(gateway: Running) -> None:
    """asyncio would log each as an exception that was never retrieved."""
    reset = asyncio.Event()
    seen: list[str] = []

    async def then_reset(writer: asyncio.StreamWriter, _: object) -> None:
        head, _, body = answer_of(200, "a").partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        await asyncio.sleep(0.05)  # so that the gateway waits for the body
        writer.write(body)
        await reset.wait()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    gateway.take({"p": REPEATED}, "a")  # a request that comes before the gateway has seen the reset is an attempt that failed
    gateway.upstream.play({"a": [then_reset, 200]})
    gateway.loop.set_exception_handler(lambda _, context: seen.append(context["message"]))
    try:
        assert gateway.chat().status_code == 200
        gateway.loop.call_soon_threadsafe(reset.set)
        assert gateway.chat().status_code == 200
        gc.collect()
        assert gateway.chat().status_code == 200
    finally:
        gateway.loop.set_exception_handler(None)
    assert seen == []
