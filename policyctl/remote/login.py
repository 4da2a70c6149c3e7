"""Logging in: the ways to get a token, and the session that fetches one when first needed and keeps it in memory only.

The ways are generators that make no request themselves: each is given the credentials and the remote's URL, yields requests,
is sent the responses, and returns a token. Token endpoints and bodies follow IBM's API reference and its CLI.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import threading
import time
from collections.abc import Callable, Generator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from policyctl.errors import LoginRefused, Refused, RemoteError
from policyctl.load.settings_file import AuthFile, LoginType, login_type
from policyctl.load.urls import is_safe_for_secrets, origin
from policyctl.remote.hosts import SharedToken
from policyctl.remote.http import HttpClient, Request, Response, describe, host_of
from policyctl.remote.redaction import Credentials

IBM_IAM = "https://iam.cloud.ibm.com"
MCSP_V1 = "https://iam.platform.saas.ibm.com"
MCSP_V2 = "https://account-iam.platform.saas.ibm.com"
MCSP_V2_GERMANY = "https://account-iam.azure.westus3.platform.saas.ibm.com"
IAM_PATH = "/identity/token"
MCSP_V1_PATH = "/siusermgr/api/1.0/apikeys/token"
MCSP_V2_PATH = "/api/2.0/apikeys/token"
CPD_PATH = "/v1/authorize"
LOCAL_PATH = "/api/v1/auth/token"
TENANT = "wxo-dev"  # the one tenant of the Developer Edition


class Token(NamedTuple):
    """An `Authorization` header and its end: a lifetime in seconds from now, or a time of the epoch, or neither."""

    header: str
    lifetime: float | None = None
    expires: float | None = None


AuthFlow = Generator[Request, Response, Token]
Login = Callable[[Credentials, str], AuthFlow]


def ibm_iam(credentials: Credentials, _: str) -> AuthFlow:
    """IBM Cloud: an API key is exchanged for a token of its identity service."""
    form = {
        "grant_type": "urn:ibm:params:oauth:grant-type:apikey",
        "apikey": credentials.secret("api_key"),
        "response_type": "cloud_iam",
    }
    answer = yield Request("POST", f"{_base(credentials, IBM_IAM)}{IAM_PATH}", form=form)
    return _token(answer, "access_token", credentials)


def mcsp_v1(credentials: Credentials, _: str) -> AuthFlow:
    """The platform on AWS, with the first version of its keys."""
    body = {"apikey": credentials.secret("api_key")}
    answer = yield Request("POST", f"{_base(credentials, MCSP_V1)}{MCSP_V1_PATH}", body=body)
    return _token(answer, "token", credentials)


def mcsp_v2(credentials: Credentials, remote: str) -> AuthFlow:
    """The platform on AWS or Azure, with the second version of its keys."""
    usual = MCSP_V2_GERMANY if "germanywestcentral" in remote else MCSP_V2
    key = credentials.header("api_key")
    query = (
        ("includeBuiltinActions", "false"),
        ("includeCustomActions", "false"),
        ("includeRoles", "true"),
        ("prefixRolesWithDefinitionScope", "false"),
    )
    url = f"{_base(credentials, usual)}{MCSP_V2_PATH}"
    answer = yield Request("POST", url, query, body={"apikey": key}, headers={"X-API-Key": key})
    return _token(answer, "token", credentials)


def mcsp(credentials: Credentials, remote: str) -> AuthFlow:
    """Either version of the platform's keys: by the key's prefix, else the first and then the second, as IBM's CLI does."""
    if _is_second_version(credentials.secret("api_key")):
        return (yield from mcsp_v2(credentials, remote))
    try:
        return (yield from mcsp_v1(credentials, remote))
    except RemoteError as error:
        first = error
    try:
        return (yield from mcsp_v2(credentials, remote))
    except RemoteError as second:
        raise RemoteError(f"both versions of the login failed: {first}; and {second}") from None


def cpd(credentials: Credentials, remote: str) -> AuthFlow:
    """On-premises (Software Hub): a user with a password or an API key."""
    path = urlsplit(remote).path.partition("/orchestrate")[0]  # in the path only: a host may have that name
    url = f"{_base(credentials, f'{_origin(remote)}{path}/icp4d-api')}{CPD_PATH}"
    field = "password" if credentials.has("password") else "api_key"
    body = {"username": credentials.username, field: credentials.secret(field)}
    answer = yield Request("POST", url, body=body)
    return _token(answer, "token", credentials)


def local(credentials: Credentials, remote: str) -> AuthFlow:
    """The Developer Edition: a token of the user, then one of its tenant. The tenant is never created: plan must not write."""
    base = _base(credentials, _origin(remote))
    form = {"username": credentials.username, "password": credentials.secret("password")}
    user = _token((yield Request("POST", f"{base}{LOCAL_PATH}", form=form)), "access_token", credentials)
    tenants = yield Request("GET", f"{base}/api/v1/tenants", headers={"Authorization": user.header})
    tenant = _tenant(tenants, credentials)
    answer = yield Request("POST", f"{base}{LOCAL_PATH}", (("tenant_id", tenant),), form=form)
    return _token(answer, "access_token", credentials)


def bearer(credentials: Credentials, _: str) -> AuthFlow:
    """A token that was fetched elsewhere."""
    yield from ()
    return Token(f"Bearer {credentials.header('token')}")


def zen_api_key(credentials: Credentials, _: str) -> AuthFlow:
    """On-premises, with a user's API key itself: without a token to refresh."""
    yield from ()
    pair = f"{credentials.username}:{credentials.secret('api_key')}"
    encoded = base64.b64encode(pair.encode()).decode()
    credentials.scrub.hide(encoded)
    return Token(f"ZenApiKey {encoded}")


LOGINS: dict[LoginType, Login] = {
    "ibm_iam": ibm_iam,
    "mcsp": mcsp,
    "mcsp_v1": mcsp_v1,
    "mcsp_v2": mcsp_v2,
    "cpd": cpd,
    "zen_api_key": zen_api_key,
    "bearer": bearer,
    "local": local,
}


def _base(credentials: Credentials, usual: str) -> str:
    """The base of a login's paths: `auth.url` without the path of the token endpoint, or the usual one."""
    base = credentials.url or usual
    for path in (IAM_PATH, MCSP_V1_PATH, MCSP_V2_PATH, CPD_PATH, LOCAL_PATH):
        base = base.removesuffix(path)
    return base


def _origin(url: str) -> str:
    """`https://host:port` of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _token(answer: Response, key: str, credentials: Credentials) -> Token:
    """The token in a successful response. Raises RemoteError with the service's message, redacted, for any other."""
    _expect_good(answer, credentials)
    token = answer.content.get(key) if isinstance(answer.content, dict) else None
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable() or " " in token:
        host = host_of(str(answer.response.url))
        raise RemoteError(f"{host} answered the login without a usable {key}; check the auth type and auth.url")
    credentials.scrub.hide(token)
    issued, expires = (_number(_claims(token).get(name)) for name in ("iat", "exp"))
    if issued is not None and expires is not None:
        return Token(f"Bearer {token}", lifetime=expires - issued)  # by the issuer's own clock
    if (lifetime := _number(answer.content.get("expires_in"))) is not None:
        return Token(f"Bearer {token}", lifetime=lifetime)
    return Token(f"Bearer {token}", expires=expires)


def _expect_good(answer: Response, credentials: Credentials) -> None:
    if not answer.good:
        url, reason = answer.response.url, describe(answer.response, credentials.scrub)
        if answer.status in (404, 405):
            asked = url.copy_with(query=None)
            raise RemoteError(f"{asked} answered the login with {reason}; check the auth type and auth.url in policyctl.yaml")
        raise LoginRefused(f"{host_of(str(url))} refused the login with {reason}; check auth in policyctl.yaml")


def _tenant(answer: Response, credentials: Credentials) -> str:
    _expect_good(answer, credentials)
    for tenant in answer.content if isinstance(answer.content, list) else ():
        if isinstance(tenant, dict) and tenant.get("name") == TENANT and isinstance(tenant.get("id"), str):
            return str(tenant["id"])
    host = host_of(str(answer.response.url))
    raise RemoteError(f"{host} has no tenant {TENANT}; activate the Developer Edition once with IBM's CLI")


def _is_second_version(key: str) -> bool:
    try:
        return base64.b64decode(key, validate=True).startswith(b"k2:")
    except (binascii.Error, ValueError):
        return False


def _claims(token: str) -> dict[str, Any]:
    """The claims of a JWT; empty for any other token. The signature is left to the remote to check."""
    parts = token.split(".")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "==")) if len(parts) == 3 else {}
    except (ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _number(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    except OverflowError:
        return None


MARGIN = 60.0  # seconds before its end at which a token is replaced; a tenth of its lifetime if that is less


class LoginSession:
    """Sends requests as `HttpClient` does, logged in. All threads, and the environments of a run that log in alike, share one
    token, which one of them fetches.

    A token is replaced before it ends, and once when the remote answers 401. The caller must only use this for the origin of
    the environment's own remote (see manual/architecture.md, safety rule 9).
    """

    def __init__(
        self,
        wire: HttpClient,
        auth: AuthFile,
        remote: str,
        credentials: Credentials,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Raises Refused when a secret would be sent without TLS."""
        for url in (remote, auth.url or remote):
            if not is_safe_for_secrets(url):
                raise Refused("auth is only sent over https:// (http:// only to this machine)")
        self._wire = wire
        self._login = LOGINS[login_type(auth, remote)]
        self._remote = remote
        self._credentials = credentials
        self._now = now
        self._known: str | None = None  # the header whose token is redacted
        self._lock = threading.Lock()
        self._token: SharedToken | None = None

    def log_in(self) -> None:
        """Get the token now. Raises RemoteError when the login is refused."""
        self._authorization()

    def send(self, ask: Request, *, writes: bool = False) -> Response:
        """As `HttpClient.send`. A 401 means that nothing was done, so even a write is sent again with another token."""
        header = self._authorization()
        answer = self._wire.send(_with(ask, header), writes=writes)
        if answer.status != 401:
            return answer
        fresh = self._authorization(refused=header)
        return answer if fresh == header else self._wire.send(_with(ask, fresh), writes=writes)

    def close(self) -> None:
        self._wire.close()

    def _authorization(self, refused: str | None = None) -> str:
        """The `Authorization` header: the present one, unless it was just refused or is about to expire."""
        with self._lock:
            held = self._token = self._token or self._shared()
        with held.lock:
            ended = held.until is not None and self._now() >= held.until
            if held.header is None or held.header == refused or ended:
                token = self._fetch()
                held.header, held.until = token.header, self._end_of(token)
            if held.header != self._known:  # another environment may have fetched it
                self._credentials.scrub.hide(held.header.partition(" ")[2])
                self._known = held.header
            return held.header

    def _shared(self) -> SharedToken:
        """The token of every environment of this run that logs in alike: for the same origin, with the same authorities and the
        same first request, which has the credentials."""
        flow = self._login(self._credentials, self._remote)
        try:
            first = next(flow)
        except StopIteration:  # nothing is fetched
            return SharedToken()
        finally:
            flow.close()
        login = repr((self._login.__name__, origin(self._remote), self._wire.ca_file, first))
        return self._wire.hosts.token(hashlib.sha256(login.encode("utf-8", "surrogatepass")).hexdigest())

    def _fetch(self) -> Token:
        """Run the login flow. A failed request is raised inside it, since it may know another way."""
        flow = self._login(self._credentials, self._remote)
        try:
            ask = next(flow)
            while True:
                try:
                    answer = self._wire.send(ask)
                except RemoteError as error:
                    ask = flow.throw(error)
                else:
                    ask = flow.send(answer)
        except StopIteration as done:
            token: Token = done.value
            return token

    def _end_of(self, token: Token) -> float | None:
        if token.lifetime is not None:
            return self._now() + token.lifetime - min(MARGIN, token.lifetime / 10)
        return None if token.expires is None else token.expires - MARGIN


def _with(ask: Request, authorization: str) -> Request:
    return ask._replace(headers={**ask.headers, "Authorization": authorization})
