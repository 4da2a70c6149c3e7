"""Every way to log in, end to end over a socket."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from policyctl.errors import Refused, RemoteError
from policyctl.load.settings_file import AuthFile
from policyctl.remote.orchestrate import OrchestrateRemote
from tests.remote.fake_server import Reply, Seen, StandIn, certificates, standing_in
from tests.remote.fake_tenant import Tenant
from tests.remote.http_helpers import Clock, reach, row

SECRET = 'k/e+y with "quotes" & 100%'
ENVIRON = {"KEY": SECRET}
LIFE = 3600


def jwt(number: int, issued: float, seconds: float) -> str:
    """A token as the login services make them; its signature is not checked here."""
    claims = {"iat": int(issued), "exp": int(issued + seconds), "jti": number}
    parts = ({"alg": "none"}, claims)
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + ".c2ln"


@dataclass
class Service:
    """A tenant behind a login: it accepts the token issued last, and issues tokens to every client that asks."""

    key: str  # where the answer holds the token
    clock: Clock
    tenant: Tenant = field(default_factory=Tenant)
    refusal: Callable[[Seen], Reply | None] = lambda _: None  # asked first, for token requests
    issued: list[str] = field(default_factory=list)
    lets_in: bool = True

    def __call__(self, seen: Seen) -> Any:
        if "/model_policy" in seen.path:
            if not self.lets_in or seen.authorization != f"Bearer {self.issued[-1]}":
                return Reply(401, {"detail": f"not with {seen.authorization}"})
            return self.tenant(Seen(seen.method, seen.target[seen.target.index("/v1/") :].replace("/orchestrate", ""), {}, b""))
        if seen.path == "/api/v1/tenants":
            return Reply(200, [{"id": "other", "name": "other"}, {"id": "t 1", "name": "wxo-dev"}])
        if refusal := self.refusal(seen):
            return refusal
        self.issued.append(jwt(len(self.issued), self.clock.now() + 7200, LIFE))  # its clock is two hours ahead
        return Reply(200, {self.key: self.issued[-1]})

    def logins(self, server: StandIn) -> list[Seen]:
        return [seen for seen in server.seen if "/model_policy" not in seen.path and "tenants" not in seen.path]


@dataclass(frozen=True)
class Flow:
    """One way to log in: its auth, where its service puts the token, and what must be asked for one token."""

    type: str
    auth: dict[str, str]
    key: str
    path: str
    sent: dict[str, str]
    form: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    query: list[tuple[str, str]] = field(default_factory=list)
    remote: str = "/instances/x"
    url: bool = True  # whether auth.url leads to the stand-in
    requests: int = 1  # token requests for one login


KEY = {"api_key": "env:KEY"}
USER = {"username": "me"}
SCOPES = [
    ("includeBuiltinActions", "false"),
    ("includeCustomActions", "false"),
    ("includeRoles", "true"),
    ("prefixRolesWithDefinitionScope", "false"),
]
IAM = {"grant_type": "urn:ibm:params:oauth:grant-type:apikey", "apikey": SECRET, "response_type": "cloud_iam"}
ON_PREMISES = "/orchestrate/ns/instances/7"
FLOWS = (
    Flow("ibm_iam", KEY, "access_token", "/identity/token", IAM, form=True, headers={"accept": "application/json"}),
    Flow("mcsp_v1", KEY, "token", "/siusermgr/api/1.0/apikeys/token", {"apikey": SECRET}),
    Flow("mcsp_v2", KEY, "token", "/api/2.0/apikeys/token", {"apikey": SECRET}, query=SCOPES),
    Flow("mcsp", KEY, "token", "/siusermgr/api/1.0/apikeys/token", {"apikey": SECRET}),
    Flow(
        "cpd",
        {**USER, "password": "env:KEY"},
        "token",
        "/icp4d-api/v1/authorize",
        {"username": "me", "password": SECRET},
        remote=ON_PREMISES,
        url=False,
    ),
    Flow(
        "cpd",
        {**USER, **KEY},
        "token",
        "/icp4d-api/v1/authorize",
        {"username": "me", "api_key": SECRET},
        remote=ON_PREMISES,
        url=False,
    ),
    Flow(
        "local",
        {**USER, "password": "env:KEY"},
        "access_token",
        "/api/v1/auth/token",
        {"username": "me", "password": SECRET},
        form=True,
        remote="",
        url=False,
        requests=2,
    ),
)


@pytest.fixture(params=FLOWS, ids=lambda flow: f"{flow.type} by {list(flow.auth)[-1]}")
def flow(request: pytest.FixtureRequest) -> Flow:
    found: Flow = request.param
    return found


@pytest.fixture
def clock() -> Clock:
    return Clock()


def reached(flow: Flow, server: StandIn, clock: Clock) -> OrchestrateRemote:
    url = {"url": server.url} if flow.url else {}
    return reach(
        server.url + flow.remote, AuthFile.model_validate({"type": flow.type, **flow.auth, **url}), ENVIRON, clock=clock
    )


def test_the_login_asks_what_the_platform_documents(flow: Flow, clock: Clock) -> None:
    service = Service(flow.key, clock)
    service.tenant.put(row("a"))
    with standing_in(service) as server, reached(flow, server, clock) as remote:
        assert [found["name"] for found in remote.rows()] == ["a"]
        logins = service.logins(server)
    assert len(logins) == flow.requests
    first = logins[0]
    assert (first.method, first.path, first.query) == ("POST", flow.path, flow.query)
    assert (first.form if flow.form else first.json) == flow.sent
    assert first.headers["content-type"] == ("application/x-www-form-urlencoded" if flow.form else "application/json")
    assert flow.headers.items() <= first.headers.items()
    assert first.authorization is None
    assert server.seen[-1].authorization == f"Bearer {service.issued[-1]}"


def test_version_2_of_the_platforms_keys_goes_into_a_header_too(clock: Clock) -> None:
    service = Service("token", clock)
    with standing_in(service) as server, reached(FLOWS[2], server, clock) as remote:
        remote.rows()
        assert server.seen[0].headers["x-api-key"] == SECRET


def test_the_developer_edition_asks_for_its_tenants_token_and_makes_no_tenant(clock: Clock) -> None:
    service = Service("access_token", clock)
    with standing_in(service) as server, reached(FLOWS[-1], server, clock) as remote:
        remote.rows()
        assert server.asked() == [
            "POST /api/v1/auth/token",
            "GET /api/v1/tenants",
            "POST /api/v1/auth/token",
            "GET /v1/model_policy",
        ]
        assert server.seen[1].authorization == f"Bearer {service.issued[0]}"
        assert server.seen[2].query == [("tenant_id", "t 1")]


def test_a_developer_edition_without_its_tenant_is_an_error_and_stays_without(clock: Clock) -> None:
    service = Service("access_token", clock)

    def handler(seen: Seen) -> Any:
        return Reply(200, []) if seen.path == "/api/v1/tenants" else service(seen)

    with standing_in(handler) as server, reached(FLOWS[-1], server, clock) as remote:
        with pytest.raises(RemoteError, match="no tenant wxo-dev"):
            remote.rows()
        assert "POST /api/v1/tenants" not in server.asked()


def test_a_token_is_fetched_once_for_many_requests(flow: Flow, clock: Clock) -> None:
    service = Service(flow.key, clock)
    with standing_in(service) as server, reached(flow, server, clock) as remote:
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda _: remote.rows(), range(16))) == [[]] * 16
        assert len(service.logins(server)) == flow.requests


def test_a_token_is_replaced_before_it_ends_whatever_the_clocks_say(flow: Flow, clock: Clock) -> None:
    service = Service(flow.key, clock)
    with standing_in(service) as server, reached(flow, server, clock) as remote:
        remote.rows()
        clock.time += LIFE - 61
        remote.rows()
        assert len(service.logins(server)) == flow.requests
        clock.time += 2
        remote.rows()
        assert len(service.logins(server)) == 2 * flow.requests
        assert all(seen.authorization != f"Bearer {service.issued[0]}" for seen in server.seen[-1:])


def test_a_401_is_cured_by_one_new_token(flow: Flow, clock: Clock) -> None:
    service = Service(flow.key, clock)
    with standing_in(service) as server, reached(flow, server, clock) as remote:
        remote.rows()
        service.issued.append("revoked all before")
        assert remote.rows() == []
        assert len(service.logins(server)) == 2 * flow.requests


def test_a_401_that_no_token_cures_is_reported_without_secrets_after_one_try(flow: Flow, clock: Clock) -> None:
    service = Service(flow.key, clock, lets_in=False)
    with standing_in(service) as server, reached(flow, server, clock) as remote:
        with pytest.raises(RemoteError, match="401 Unauthorized: not with Bearer \\*\\*\\*; check auth") as told:
            remote.rows()
        assert len(service.logins(server)) == 2 * flow.requests
        assert len([seen for seen in server.seen if "model_policy" in seen.path]) == 2
    assert_silent(str(told.value), service)


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_wrong_key_is_reported_in_the_services_words_without_the_secret(flow: Flow, clock: Clock, status: int) -> None:
    def refuse(seen: Seen) -> Reply:
        return Reply(status, {"errorCode": "BXNIM0415E", "errorMessage": f"bad key {SECRET} in {seen.body!r}"})

    service = Service(flow.key, clock, refusal=refuse)
    with standing_in(service) as server, reached(flow, server, clock) as remote:
        with pytest.raises(RemoteError, match=rf"refused the login with {status} .*bad key \*\*\*") as told:
            remote.rows()
        assert not any("model_policy" in seen.path for seen in server.seen)
    assert_silent(str(told.value), service)


def test_a_busy_token_endpoint_is_asked_again_when_it_asks_for_that(flow: Flow, clock: Clock) -> None:
    refusals = iter([Reply(429, None, {"Retry-After": "7"}), Reply(503)])
    service = Service(flow.key, clock, refusal=lambda _: next(refusals, None))
    with standing_in(service) as server, reached(flow, server, clock) as remote:
        assert remote.rows() == []
    assert 7 <= clock.slept[0] <= 8
    assert len(clock.slept) == 2


@pytest.mark.parametrize(
    "body", [{}, [], "text", None, {"token": 5, "access_token": None}, {"token": "a\nb", "access_token": "ü"}]
)
def test_an_answer_without_a_usable_token_is_reported(flow: Flow, clock: Clock, body: Any) -> None:
    service = Service(flow.key, clock, refusal=lambda _: Reply(200, body))
    with (
        standing_in(service) as server,
        reached(flow, server, clock) as remote,
        pytest.raises(RemoteError, match="without a usable"),
    ):
        remote.rows()


def test_a_platform_key_of_either_version_works(clock: Clock) -> None:
    service = Service("token", clock, refusal=lambda seen: Reply(401) if "siusermgr" in seen.path else None)
    with standing_in(service) as server, reached(FLOWS[3], server, clock) as remote:
        assert remote.rows() == []
        assert [seen.path for seen in service.logins(server)] == ["/siusermgr/api/1.0/apikeys/token", "/api/2.0/apikeys/token"]


def test_a_platform_key_that_no_version_takes_is_reported_with_both_reasons(clock: Clock) -> None:
    service = Service("token", clock, refusal=lambda seen: Reply(401, {"message": seen.path}))
    with (
        standing_in(service) as server,
        reached(FLOWS[3], server, clock) as remote,
        pytest.raises(RemoteError, match=r"siusermgr.* and .*api/2\.0"),
    ):
        remote.rows()


def test_a_platform_key_that_names_its_version_is_only_shown_to_that_one(clock: Clock) -> None:
    service = Service("token", clock)
    with standing_in(service) as server:
        key = base64.b64encode(b"k2:abc").decode()
        auth = AuthFile(type="mcsp", api_key="env:KEY", url=server.url)
        with reach(server.url + "/instances/x", auth, {"KEY": key}, clock=clock) as remote:
            remote.rows()
        assert [seen.path for seen in service.logins(server)] == ["/api/2.0/apikeys/token"]


def test_a_bearer_token_is_sent_as_it_is_and_a_401_is_not_repeated(clock: Clock) -> None:
    service = Service("", clock, issued=["other"])
    with standing_in(service) as server:
        with (
            reach(server.url, AuthFile(type="bearer", token="env:KEY"), {"KEY": "tok-123"}, clock=clock) as remote,
            pytest.raises(RemoteError) as told,
        ):
            remote.rows()
        assert [seen.authorization for seen in server.seen] == ["Bearer tok-123"]
    assert "tok-123" not in str(told.value)


def test_a_mounted_token_that_was_replaced_meanwhile_is_read_again_on_a_401(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "token").write_text("first\n")
    service = Service("", clock, issued=["first"])
    with standing_in(service) as server:
        with reach(server.url, AuthFile(type="bearer", token="file:token"), base=tmp_path, clock=clock) as remote:
            remote.rows()
            service.issued.append("second")
            (tmp_path / "token").write_text("second\n")
            assert remote.rows() == []
        assert [seen.authorization for seen in server.seen] == ["Bearer first", "Bearer first", "Bearer second"]


def test_a_zen_api_key_is_the_exact_bytes_of_user_and_key(clock: Clock) -> None:
    with standing_in(lambda seen: Reply(401, {"detail": seen.authorization})) as server:
        auth = AuthFile(type="zen_api_key", username="me", api_key="env:KEY")
        with (
            reach(server.url, auth, ENVIRON, clock=clock) as remote,
            pytest.raises(RemoteError, match=r"401 Unauthorized: ZenApiKey \*\*\*"),
        ):
            remote.rows()
        assert server.asked() == ["GET /v1/model_policy"]
        scheme, _, encoded = (server.seen[0].authorization or "").partition(" ")
    assert (scheme, base64.b64decode(encoded).decode()) == ("ZenApiKey", f"me:{SECRET}")


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("env:NONE", "env:NONE, which is not set or empty"),
        ("env:EMPTY", "env:EMPTY, which is not set or empty"),
        ("env:LINES", "env:LINES, which is not one line of plain text"),
        ("file:none", "file:none, which cannot be read: No such file or directory"),
        ("file:.", "file:., which cannot be read: Is a directory"),
        ("file:binary", "file:binary, which is not text"),
    ],
)
def test_a_reference_that_leads_nowhere_is_reported(tmp_path: Path, reference: str, why: str) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with standing_in(Tenant()) as server:
        auth = AuthFile(type="bearer", token=reference)
        with (
            reach(server.url, auth, {"EMPTY": "", "LINES": "a\nb"}, base=tmp_path) as remote,
            pytest.raises(RemoteError, match=f"auth.token refers to {why}"),
        ):
            remote.rows()
        assert server.seen == []


@pytest.mark.parametrize(("remote", "url"), [("http://example.com", None), ("https://example.com", "http://example.com")])
def test_no_secret_travels_in_the_clear(remote: str, url: str | None) -> None:
    with pytest.raises(Refused, match="only sent over https"):
        reach(remote, AuthFile(type="ibm_iam", api_key="env:KEY", url=url), ENVIRON)


def test_the_token_request_trusts_no_other_authority_than_the_rest(clock: Clock) -> None:
    service = Service("access_token", clock)
    with standing_in(service, tls=True) as server:
        auth = AuthFile(type="ibm_iam", api_key="env:KEY", url=server.url)
        with reach(server.url, auth, ENVIRON, clock=clock, ca_file=certificates() / "ca.pem") as remote:
            assert remote.rows() == []
        before = len(server.seen)
        with (
            reach(server.url, auth, ENVIRON, clock=clock) as remote,
            pytest.raises(RemoteError, match=r"certificate that is not trusted \(.*\); set ca_file"),
        ):
            remote.rows()
        assert len(server.seen) == before


def assert_silent(message: str, service: Service) -> None:
    """No secret in a message: not as it is, not encoded, no token."""
    for secret in (SECRET, json.dumps(SECRET)[1:-1], *service.issued):
        assert secret not in message
    assert "\n" not in message


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_url_may_be_the_token_endpoints_whole_one(flow: Flow, clock: Clock, slash: str) -> None:
    service = Service(flow.key, clock)
    with standing_in(service) as server:
        auth = AuthFile.model_validate({"type": flow.type, **flow.auth, "url": f"{server.url}{flow.path}{slash}"})
        with reach(server.url + flow.remote, auth, ENVIRON, clock=clock) as remote:
            assert remote.rows() == []
        assert service.logins(server)[0].path == flow.path


@pytest.mark.parametrize("status", [404, 405])
def test_a_login_that_is_not_there_names_the_url_that_was_asked(flow: Flow, clock: Clock, status: int) -> None:
    service = Service(flow.key, clock, refusal=lambda _: Reply(status, {"detail": "no such thing"}))
    with standing_in(service) as server, reached(flow, server, clock) as remote:
        said = rf"{server.url}{flow.path} answered the login with {status} .*no such thing; check the auth type and auth\.url"
        with pytest.raises(RemoteError, match=said) as told:
            remote.rows()
    assert_silent(str(told.value), service)


@pytest.mark.parametrize("auth", [{"type": "bearer", "token": "env:KEY"}, {"type": "mcsp_v2", "api_key": "env:KEY"}])
def test_a_token_that_is_not_ascii_is_the_tokens_fault(auth: dict[str, str], clock: Clock) -> None:
    with standing_in(lambda _: Reply(200, [])) as server:
        field = list(auth)[1]
        said = rf"^auth\.{field} refers to env:KEY, which has characters other than ASCII"
        with (
            reach(server.url, AuthFile.model_validate(auth), {"KEY": "tökén-123"}, clock=clock) as remote,
            pytest.raises(RemoteError, match=said) as told,
        ):
            remote.rows()
        assert server.seen == []
    assert "tökén" not in str(told.value)
