"""Reading an instance: its layout, its bad days, and the ways in which services may differ."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.errors import NotFound, RemoteError, Unreachable
from policyctl.policy.live import Duplicates, observe_rows
from policyctl.remote.http import Request, Response
from policyctl.remote.open import open_reader
from policyctl.remote.orchestrate import OrchestrateReader, OrchestrateRemote
from policyctl.remote.redaction import Redactor
from tests.remote.fake_server import Handler, Reply, Seen, Silence, certificates, closed_port, standing_in
from tests.remote.fake_tenant import Tenant
from tests.remote.http_helpers import SHORT, Clock, document, reach, row


def tenant_of(*rows: dict[str, Any], **more: Any) -> Tenant:
    tenant = Tenant(**more)
    tenant.put(*rows)
    return tenant


@pytest.mark.parametrize(
    ("host", "path", "collection"),
    [
        ("127.0.0.1", "", "/v1/model_policy"),
        ("127.0.0.1", "/", "/v1/model_policy"),
        ("127.0.0.1", "/api", "/api/v1/model_policy"),
        ("127.0.0.1", "/v1", "/v1/model_policy"),
        ("localhost", "", "/v1/model_policy"),
        ("LOCALHOST", "", "/v1/orchestrate/model_policy"),
        ("LOCALHOST", "/instances/x", "/instances/x/v1/orchestrate/model_policy"),
        ("LOCALHOST", "/instances/x/v1/orchestrate/", "/instances/x/v1/orchestrate/model_policy"),
        ("LOCALHOST", "/orchestrate/ns/instances/7", "/orchestrate/ns/instances/7/v1/orchestrate/model_policy"),
    ],
)
def test_the_path_follows_the_deployment(host: str, path: str, collection: str) -> None:
    with standing_in(lambda _: Reply(200, [])) as server:
        with reach(server.url.replace("127.0.0.1", host) + path) as remote:
            remote.rows()
        assert server.asked() == [f"GET {collection}"]


@pytest.mark.parametrize(
    ("url", "identity"),
    [
        ("https://API.example.com/instances/X/", "https://api.example.com/instances/X"),
        ("https://api.example.com:443", "https://api.example.com"),
        ("http://127.0.0.1:4321/", "http://127.0.0.1:4321"),
        ("https://[::1]:8443/a", "https://[::1]:8443/a"),
    ],
)
def test_the_identity_is_origin_and_path_written_one_way(url: str, identity: str) -> None:
    with open_reader(url) as reader:
        assert reader.identity == identity
        assert not reader.embedded


def test_a_reader_has_no_method_that_writes() -> None:
    assert not {"add", "update", "remove"} & set(dir(OrchestrateReader))


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (
            Reply(404, {"detail": "Not Found"}),
            "404 Not Found: Not Found to .*/v1/model_policy; the URL of the remote is probably",
        ),
        (Reply(405), "405 Method Not Allowed to .*; the URL of the remote is probably wrong"),
        (Reply(401), r"401 Unauthorized; check auth in policyctl.yaml \(it only goes to the origin"),
        (Reply(403, {"detail": "no"}), "403 Forbidden: no; this login is not allowed to do that"),
        (Reply(301, None, {"Location": "https://u:p@elsewhere/"}), "301 Moved Permanently, a redirect"),
        (
            Reply(200, b"<html>Log in</html>", {"Content-Type": "text/html"}),
            "200 with an HTML page instead of JSON; check the URL",
        ),
        (Reply(200, {"items": []}), "200 without a list of policies"),
        (Reply(200, None), "200 without a list of policies"),
        (Reply(204), "204 without a list of policies"),
        (Reply(418, b"\xff\xfe teapot"), "418"),
    ],
)
def test_what_no_repeating_cures_is_reported_at_once(reply: Reply, said: str) -> None:
    clock = Clock()
    with standing_in(lambda _: reply) as server, reach(server.url, clock=clock) as remote:
        with pytest.raises(RemoteError, match=rf"^127\.0\.0\.1:\d+ answered {said}") as told:
            remote.rows()
        assert len(server.seen) == 1
    assert clock.slept == []
    assert "\n" not in str(told.value)
    assert "u:p" not in str(told.value)


TRANSIENT = [
    (Reply(408), "408 Request Timeout"),
    (Reply(429), "429 Too Many Requests"),
    (Reply(500, {"detail": "oh\nno"}), "500 Internal Server Error: oh no"),
    (Reply(502, b"<html>"), "502 Bad Gateway: an HTML page instead of JSON"),
    (Reply(503), "503 Service Unavailable"),
    (Reply(504), "504 Gateway Timeout"),
    (Reply(200, [row("a")], cut=3), "closed the connection before its answer was complete"),
    (Reply(200, b'[{"id": "a", "na'), "200 with text that is not whole JSON"),
    (Silence.RESET, "closed the connection before its answer was complete"),
    (Silence.HANG, "did not answer in time"),
]


in_each_way = pytest.mark.parametrize(
    ("reply", "said"),
    [pytest.param(*one, id=one[1], marks=pytest.mark.slow if one[0] is Silence.HANG else ()) for one in TRANSIENT],
)


@in_each_way
def test_a_read_that_goes_wrong_is_repeated_with_growing_waits_and_then_reported(reply: Reply | Silence, said: str) -> None:
    clock = Clock()
    with standing_in(lambda _: reply) as server, reach(server.url, clock=clock, timeout=SHORT) as remote:
        with pytest.raises(RemoteError, match=said):
            remote.rows()
        assert len(server.seen) == 5
    assert clock.slept == [0.5, 1.0, 2.0, 4.0]


@in_each_way
def test_a_read_that_goes_wrong_a_few_times_works(reply: Reply | Silence, said: str) -> None:
    replies = iter([reply] * 4)
    with standing_in(lambda _: next(replies, Reply(200, [row("a")]))) as server, reach(server.url, timeout=SHORT) as remote:
        assert remote.rows() == [row("a")]


def test_a_service_that_is_not_there_is_reported_in_plain_words() -> None:
    clock = Clock()
    with (
        reach(f"http://127.0.0.1:{closed_port()}", clock=clock) as remote,
        pytest.raises(RemoteError, match=r"^127\.0\.0\.1:\d+ cannot be reached: Connection refused$"),
    ):
        remote.rows()
    assert len(clock.slept) == 4


@pytest.mark.parametrize(
    ("proxy", "shown"), [(None, "no proxy"), ("http://me:hunter2@127.0.0.1:{port}", "proxy 127.0.0.1:{port}")]
)
def test_a_failure_of_the_network_knows_its_url_its_proxy_and_every_attempt(
    proxy: str | None, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = closed_port()
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    if proxy:
        monkeypatch.setenv("https_proxy", proxy.format(port=port))
    url = "https://remote.invalid/instances/7" if proxy else f"http://127.0.0.1:{port}"
    with reach(url) as remote, pytest.raises(RemoteError) as told:
        remote.rows()
    asked, by, *attempts = told.value.details
    assert asked.startswith(f"GET {url}/")
    assert by == shown.format(port=port)
    times = [re.match(r"attempt \d, (\d+\.\d) s to", attempt) for attempt in attempts]
    assert [found and found[1] for found in times] == ["0.0", "0.5", "1.5", "3.5", "7.5"]
    assert all(attempt.endswith(f": {told.value}") for attempt in attempts)
    assert "hunter2" not in "".join(told.value.details)


def test_a_connection_that_is_refused_before_a_write_is_not_a_lost_answer() -> None:
    with reach(f"http://127.0.0.1:{closed_port()}") as remote, pytest.raises(RemoteError, match="Connection refused") as told:
        remote.add(document("a"))
    assert type(told.value) is Unreachable


def test_a_certificate_is_trusted_by_ca_file_only() -> None:
    with standing_in(tenant_of(row("a")), tls=True) as server:
        with (
            reach(server.url.replace("127.0.0.1", "localhost"), ca_file=certificates() / "ca.pem") as remote,
            pytest.raises(RemoteError, match="404"),
        ):
            remote.rows()  # https://localhost has the layout of an instance
        clock = Clock()
        with reach(server.url, clock=clock) as remote, pytest.raises(RemoteError, match=r"not trusted.*set ca_file"):
            remote.rows()
        assert clock.slept == []


@pytest.mark.parametrize(("file", "why"), [("none.pem", "cannot be read: No such file"), ("ca.txt", "has no certificate")])
def test_a_ca_file_that_is_none_is_reported(tmp_path: Any, file: str, why: str) -> None:
    (tmp_path / "ca.txt").write_text("no certificate")
    with (
        reach("https://127.0.0.1:1", ca_file=tmp_path / file) as remote,
        pytest.raises(RemoteError, match=f"ca_file .*{file} {why}"),
    ):
        remote.rows()


def test_names_are_escaped_and_asked_for_in_both_spellings() -> None:
    tenant = tenant_of(row("a&name=b"), row("virtual-policy/a#+%41"))
    with standing_in(tenant) as server, reach(server.url) as remote:
        found = remote.find(["virtual-policy/a&name=b", "virtual-policy/a#+%41"])
        assert sorted(one["name"] for one in found) == ["a&name=b", "virtual-policy/a#+%41"]
        assert sorted(value for _, value in server.seen[0].query) == [
            "a#+%41",
            "a&name=b",
            "virtual-policy/a#+%41",
            "virtual-policy/a&name=b",
        ]


def test_many_names_are_asked_for_in_requests_of_bounded_length() -> None:
    wanted = [f"virtual-policy/{'ü&' * 20}{number}" for number in range(200)]
    tenant = tenant_of(*map(row, wanted))
    with standing_in(tenant) as server, reach(server.url) as remote:
        assert {one["name"] for one in remote.find(wanted)} == set(wanted)
        assert 1 < len(server.seen) < 40
        assert max(len(seen.target) for seen in server.seen) < 4200


@pytest.mark.parametrize("length", [1, 512])
def test_both_spellings_of_one_name_are_in_one_request(length: int) -> None:
    with standing_in(tenant_of()) as server, reach(server.url) as remote:
        remote.find([f"virtual-policy/{'日' * length}"])
        assert [len(seen.query) for seen in server.seen] == [2]


def test_without_a_name_nothing_is_requested() -> None:
    with standing_in(tenant_of()) as server, reach(server.url) as remote:
        assert remote.find([]) == []
        assert server.seen == []


def ignoring(rows: list[Any]) -> Handler:
    """A service that ignores the filter."""
    return lambda _: Reply(200, rows)


def denying(rows: list[Any]) -> Handler:
    """A service that answers 404 where a filter finds nothing, and the rows that match loosely where it does."""

    def handler(seen: Seen) -> Reply:
        names = [value for _, value in seen.query]
        found = [row for row in rows if not names or any(name in row.get("name", "") for name in names)]
        return Reply(200, found) if found else Reply(404, {"detail": "none"})

    return handler


@pytest.mark.parametrize("service", [ignoring, denying])
def test_a_filter_that_does_less_or_more_still_finds_exactly(service: Any) -> None:
    rows = [row("a"), row("ab"), row("virtual-policy/c"), {"id": "x"}]
    many = [f"virtual-policy/{number}{'x' * 100}" for number in range(100)]
    with standing_in(service(rows)) as server, reach(server.url) as remote:
        assert [one["name"] for one in remote.find(["virtual-policy/a", *many])] == ["a"]
        assert remote.find(["virtual-policy/none"]) == []


def test_a_filter_that_answers_404_on_a_wrong_url_is_an_error() -> None:
    with (
        standing_in(lambda _: Reply(404)) as server,
        reach(server.url) as remote,
        pytest.raises(RemoteError, match="the URL of the remote is probably wrong"),
    ):
        remote.find(["virtual-policy/a"])


def test_a_name_that_no_url_can_hold_is_looked_for_in_the_whole_list() -> None:
    tenant = tenant_of({**row("a"), "name": "lone \ud800"}, row("b"))
    with standing_in(tenant) as server, reach(server.url) as remote:
        assert [one["name"] for one in remote.find(["virtual-policy/lone \ud800"])] == ["lone \ud800"]
        assert server.seen[0].query == []


def test_twins_are_both_found() -> None:
    tenant = tenant_of({**row("a"), "id": "1"}, {**row("virtual-policy/a"), "id": "2"})
    with standing_in(tenant) as server, reach(server.url) as remote:
        (twins,) = observe_rows(remote.find(["virtual-policy/a"])).twins
    assert isinstance(twins, Duplicates)
    assert sorted(twins.ids) == ["1", "2"]


@pytest.mark.parametrize("body", [None, [], "created", {"no": "id"}, {"id": 5}, {"id": "5"}])
@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_any_success_of_an_add_is_one_and_the_id_is_taken_where_it_is_given(status: int, body: Any) -> None:
    reply = Reply(status, body if status != 204 else None)
    with standing_in(lambda _: reply) as server, reach(server.url) as remote:
        assert remote.add(document("a")) == ("5" if status != 204 and body == {"id": "5"} else None)
        assert server.seen[0].headers["content-type"] == "application/json"
        assert server.seen[0].json == document("a")


def test_a_remove_has_no_body_and_no_content_type() -> None:
    with standing_in(tenant_of(row("a"))) as server, reach(server.url) as remote:
        remote.remove("id-a")
        assert server.seen[0].body == b""
        assert "content-type" not in server.seen[0].headers


class Recorder:
    """A sender that only takes note."""

    def __init__(self) -> None:
        self.urls: list[str] = []

    def send(self, ask: Request, *, writes: bool = False) -> Response:
        assert writes
        self.urls.append(ask.url)
        return Response(httpx.Response(204, request=httpx.Request(ask.method, ask.url)), None)

    def close(self) -> None:
        """There is nothing to close."""


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(lambda text: text not in (".", "..")))
def test_an_id_is_one_segment_of_the_path_whatever_it_is(identifier: str) -> None:
    recorder = Recorder()
    OrchestrateRemote("http://localhost", recorder, Redactor()).remove(identifier)
    collection, _, segment = recorder.urls[0].rpartition("/")
    assert collection == "http://localhost/v1/model_policy"
    assert unquote(segment) == identifier
    assert not set("?#") & set(segment)
    assert httpx.URL(recorder.urls[0]).raw_path.decode() == f"/v1/model_policy/{segment}"


@pytest.mark.parametrize("identifier", [".", "..", "\ud800"])
def test_an_id_that_no_url_can_hold_is_reported_and_nothing_is_sent(identifier: str) -> None:
    with standing_in(tenant_of(row("a"))) as server, reach(server.url) as remote:
        with pytest.raises(RemoteError, match="does not fit into a URL"):
            remote.remove(identifier)
        assert server.seen == []


@pytest.mark.parametrize(
    ("version", "header"),
    [(None, None), ("abc-1", '"abc-1"'), ('W/"weak"', None), ("line\nbreak", None), ("ü", None), ("", None)],
)
def test_a_version_is_sent_where_it_can_be(version: str | None, header: str | None) -> None:
    tenant = tenant_of(row("a"), row("b"))
    with standing_in(tenant) as server, reach(server.url) as remote:
        remote.update("id-a", document("a"), version)
        remote.remove("id-b", version)
        assert [seen.headers.get("if-match") for seen in server.seen] == [header, header]


@pytest.mark.parametrize(
    ("reply", "models"),
    [
        (
            Reply(200, {"resources": [{"id": "virtual-model/x/a"}, {"id": "built/in", "tags": []}]}),
            {"virtual-model/x/a", "built/in"},
        ),
        (Reply(200, [{"id": "a"}]), {"a"}),
        (Reply(200, {"resources": [{"id": 5}, {}, "text", None]}), set()),
        (Reply(200, {"total_count": 0}), set()),
        (Reply(200, {"resources": None}), set()),
        (Reply(200, None), set()),
        (Reply(404), set()),
    ],
)
def test_models_are_the_ids_of_the_list_of_models(reply: Reply, models: set[str]) -> None:
    with standing_in(lambda _: reply) as server, reach(server.url) as remote:
        assert remote.models() == models
        assert server.asked() == ["GET /v1/models/list"]


def test_models_that_may_not_be_read_are_an_error() -> None:
    with (
        standing_in(lambda _: Reply(403)) as server,
        reach(server.url) as remote,
        pytest.raises(RemoteError, match="403 Forbidden"),
    ):
        remote.models()


def test_no_cookie_is_kept() -> None:
    with standing_in(lambda _: Reply(200, [], {"Set-Cookie": "session=1; Path=/"})) as server, reach(server.url) as remote:
        remote.rows()
        remote.rows()
        assert [seen.headers.get("cookie") for seen in server.seen] == [None, None]


def test_many_threads_share_one_remote() -> None:
    names = [f"virtual-policy/p{number}" for number in range(32)]
    tenant = tenant_of(*map(row, names))
    with standing_in(tenant) as server, reach(server.url) as remote, ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda name: remote.find([name]), names))
    assert [one["name"] for (one,) in found] == names


@pytest.mark.slow
def test_ten_thousand_policies_are_read_in_one_request() -> None:
    tenant = tenant_of(*(row(f"virtual-policy/p{number}") for number in range(10_000)))
    with standing_in(tenant) as server, reach(server.url) as remote:
        assert len(observe_rows(remote.rows()).live) == 10_000
        assert len(server.seen) == 1


@pytest.mark.parametrize("status", [404, 410])
def test_a_policy_that_is_gone_is_not_found(status: int) -> None:
    with standing_in(lambda _: Reply(status)) as server, reach(server.url) as remote:
        with pytest.raises(NotFound, match="no policy with the id x any more"):
            remote.update("x", document("a"))
        with pytest.raises(NotFound, match="no policy with the id x any more"):
            remote.remove("x")


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with standing_in(lambda _: Reply(200, [])) as server:
        for name in ("NO_PROXY", "no_proxy", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTP_PROXY", server.url)
        with reach("http://api.invalid/instances/x") as remote:
            assert remote.rows() == []
        assert server.seen[0].target == "http://api.invalid/instances/x/v1/orchestrate/model_policy"


def test_authorities_of_the_environment_that_are_not_there_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with (
        reach("https://api.invalid", ca_file=tmp_path / "another.pem") as remote,
        pytest.raises(RemoteError, match="SSL_CERT_FILE or SSL_CERT_DIR has no usable certificates: No such file"),
    ):
        remote.rows()


@pytest.mark.parametrize("proxy", ["nonsense://u:hunter2@host", "http://u:hunter2@host:port"])
def test_a_proxy_that_cannot_be_used_is_reported_without_its_password(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with (
        reach("http://api.invalid/instances/x") as remote,
        pytest.raises(RemoteError, match="the proxy in the environment variables cannot be used") as told,
    ):
        remote.rows()
    assert "hunter2" not in str(told.value)
