"""Logging in, and who is let in."""

from __future__ import annotations

import ast
import base64
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from policyctl.remote.sqlite import SqliteRemote
from policyctl.server import app, login
from policyctl.server.api import PathItem
from policyctl.server.app import HEALTH, PREFIXES, RESOURCES
from policyctl.server.login import TokenIssuer
from tests.server.serving import Inside, inside

SECRET = "s3cret-of-the-server"
GOOD, WRONG = SECRET, "guess"
FORM = "application/x-www-form-urlencoded"


class Clock:
    """A time that moves only when a test moves it."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guarded(tmp_path: Path, clock: Clock) -> Iterator[Inside]:
    """A server with a secret."""
    with SqliteRemote(tmp_path / "a.db") as store, inside(store, TokenIssuer(SECRET, 900, clock)) as server:
        yield server


def iam(key: str) -> tuple[str, dict[str, Any]]:
    form = {"grant_type": "urn:ibm:params:oauth:grant-type:apikey", "apikey": key, "response_type": "cloud_iam"}
    return "/identity/token", {"data": form}


LOGINS = {
    "ibm_iam": (iam, "access_token"),
    "mcsp_v1": (lambda key: ("/siusermgr/api/1.0/apikeys/token", {"json": {"apikey": key}}), "token"),
    "mcsp_v2": (lambda key: ("/api/2.0/apikeys/token?includeRoles=true", {"json": {"apikey": key}}), "token"),
    "cpd with a password": (
        lambda key: ("/icp4d-api/v1/authorize", {"json": {"username": "u", "password": key, "api_key": None}}),
        "token",
    ),
    "cpd with a key": (
        lambda key: ("/icp4d-api/v1/authorize", {"json": {"username": "u", "password": None, "api_key": key}}),
        "token",
    ),
    "cpd elsewhere": (lambda key: ("/v1/authorize", {"json": {"username": "u", "api_key": key}}), "token"),
    "the Developer Edition's user": (
        lambda key: ("/api/v1/auth/token", {"data": {"username": "u", "password": key}}),
        "access_token",
    ),
    "the Developer Edition's tenant": (
        lambda key: ("/api/v1/auth/token?tenant_id=t", {"data": {"username": "u", "password": key}}),
        "access_token",
    ),
}


def log_in(client: httpx.Client, case: str, key: str) -> httpx.Response:
    path, body = LOGINS[case][0](key)
    return client.post(path, **body)


@pytest.mark.parametrize("case", LOGINS)
@pytest.mark.alike
def test_a_whole_login(guarded: Inside, clock: Clock, case: str) -> None:
    """The secret gives a JWT with iat and exp, which lets in until it ends, and not a second longer."""
    answer = log_in(guarded.client, case, GOOD)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    token = answer.json()[LOGINS[case][1]]
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert (claims["iat"], claims["exp"]) == (clock.time, clock.time + 900)
    assert (answer.json()["expires_in"], answer.json()["expiration"]) == (900, claims["exp"])
    headers = {"Authorization": f"Bearer {token}"}
    clock.time += 899
    assert guarded.client.get("/v1/model_policy", headers=headers).status_code == 200
    clock.time += 1
    assert guarded.client.get("/v1/model_policy", headers=headers).status_code == 401


@pytest.mark.parametrize("case", LOGINS)
def test_a_wrong_key_gives_no_token_and_is_not_repeated(guarded: Inside, case: str) -> None:
    answer = log_in(guarded.client, case, WRONG)
    assert (answer.status_code, answer.json()) == (401, {"detail": "the key or password is wrong"})


@pytest.mark.parametrize("case", LOGINS)
def test_without_a_secret_any_key_logs_in(client: httpx.Client, case: str) -> None:
    assert log_in(client, case, WRONG).status_code == 200


BAD_LOGINS: dict[str, tuple[str, str, bytes]] = {
    "no key in the form": ("/identity/token", FORM, b"grant_type=x"),
    "an empty key": ("/identity/token", FORM, b"apikey="),
    "two keys": ("/identity/token", FORM, b"apikey=a&apikey=b"),
    "no form": ("/identity/token", FORM, b"\xff\xfe"),
    "broken escapes": ("/identity/token", FORM, b"apikey=%ff"),
    "no key in the JSON": ("/siusermgr/api/1.0/apikeys/token", "application/json", b"{}"),
    "a key that is not text": ("/api/2.0/apikeys/token", "application/json", b'{"apikey": 1}'),
    "no user": ("/icp4d-api/v1/authorize", "application/json", b'{"password": "x"}'),
}


@pytest.mark.parametrize("case", BAD_LOGINS)
def test_a_login_of_the_wrong_shape_is_a_422(guarded: Inside, case: str) -> None:
    path, kind, body = BAD_LOGINS[case]
    assert guarded.client.post(path, content=body, headers={"Content-Type": kind}).status_code == 422


def zen(text: str) -> str:
    return "ZenApiKey " + base64.b64encode(text.encode()).decode()


AUTHORIZATIONS = {
    "the secret as a token": (f"Bearer {SECRET}", True),
    "a scheme in small letters": (f"bearer {SECRET}", True),
    "a user's key": (zen(f"user:{SECRET}"), True),
    "none": ("", False),
    "no scheme": (SECRET, False),
    "another scheme": (f"Basic {SECRET}", False),
    "a wrong token": ("Bearer guess", False),
    "the beginning of the secret": (f"Bearer {SECRET[:-1]}", False),
    "an empty token": ("Bearer ", False),
    "three parts without a signature of this server": ("Bearer e30.e30.e30", False),
    "a wrong user's key": (zen("user:guess"), False),
    "a user without a key": (zen("user"), False),
    "a key that is not base64": ("ZenApiKey \u00fc", False),
    "a key that is not text": ("ZenApiKey /w==", False),
}


@pytest.mark.parametrize("case", AUTHORIZATIONS)
def test_who_is_let_in(guarded: Inside, case: str) -> None:
    header, admitted = AUTHORIZATIONS[case]
    answer = guarded.client.get("/v1/model_policy", headers={b"Authorization": header.encode("latin-1")})
    assert answer.status_code == (200 if admitted else 401)
    assert admitted or answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_a_token_that_another_signed_is_refused(guarded: Inside, clock: Clock, algorithm: str) -> None:
    """Neither the token of a server with another secret nor one that claims to need no signature."""
    token, _ = TokenIssuer(f"{SECRET}2", 900, clock).issue("someone")
    if algorithm == "none":
        header = base64.urlsafe_b64encode(b'{"alg": "none"}').decode().rstrip("=")
        token = f"{header}.{token.split('.')[1]}."
    assert guarded.client.get("/v1/model_policy", headers={"Authorization": f"Bearer {token}"}).status_code == 401


def test_servers_with_one_secret_accept_each_others_tokens(guarded: Inside, clock: Clock) -> None:
    """A client logs in at one of several; its next request may reach another. Without a secret there is nothing in common."""
    token, _ = TokenIssuer(SECRET, 900, clock).issue("someone")
    headers = {"Authorization": f"Bearer {token}"}
    assert guarded.client.get("/v1/model_policy", headers=headers).status_code == 200
    clock.time += 901
    assert guarded.client.get("/v1/model_policy", headers=headers).status_code == 401
    assert TokenIssuer().issue("someone")[0].rpartition(".")[2] != TokenIssuer().issue("someone")[0].rpartition(".")[2]


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": SECRET}, {"Authorization": f"Basic {SECRET}"}]
)
@pytest.mark.alike
def test_everything_but_logins_and_health_needs_a_token(guarded: Inside, headers: dict[str, str]) -> None:
    """Whatever the operations are, at every place that they are served at."""
    public = {*(place.path for place in HEALTH), *(place.path for place in app.LOGINS)} - {"/api/v1/tenants"}
    below = [prefix.replace("{instance:path}", "x/y") for prefix in PREFIXES]
    resources = [PathItem(f"{prefix}{place.path}", place.operations) for prefix in below for place in RESOURCES]
    for place in (*resources, *app.LOGINS, *HEALTH):
        for method in place.by_method:
            status = guarded.client.request(method, place.path.replace("{id}", "x"), headers=headers).status_code
            assert (status != 401) is (place.path in public), (method, place.path, status)
    assert guarded.client.get("/openapi.json", headers=headers).status_code == 401


def test_secrets_are_compared_in_constant_time_alone() -> None:
    """No `==`, `!=` or `in` where secrets are compared: what is left is hmac.compare_digest."""
    tree = ast.parse(inspect.getsource(login))
    operators = [type(operator) for node in ast.walk(tree) if isinstance(node, ast.Compare) for operator in node.ops]
    assert not {ast.Eq, ast.NotEq, ast.In, ast.NotIn} & set(operators)


def test_the_one_tenant_is_the_developer_editions(client: httpx.Client) -> None:
    assert [tenant["name"] for tenant in client.get("/api/v1/tenants").json()] == ["wxo-dev"]
