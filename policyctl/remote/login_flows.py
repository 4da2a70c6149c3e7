"""The ways to log in, as generators: each yields requests, is sent the responses, and returns a token.

No request is made here. The token endpoints and bodies are those of IBM's API reference and of what its CLI sends. Each is
given the credentials and the remote's URL.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Generator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from policyctl.errors import RemoteError
from policyctl.load.auth import LoginType
from policyctl.remote.http import Request, Response, host_of
from policyctl.remote.redaction import Credentials
from policyctl.remote.responses import describe

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
    """What to send as `Authorization`, and until when: a lifetime in seconds from now, or a time of the epoch, or neither."""

    header: str
    lifetime: float | None = None
    expires: float | None = None


AuthFlow = Generator[Request, Response, Token]
Login = Callable[[Credentials, str], AuthFlow]


def ibm_iam(credentials: Credentials, _: str) -> AuthFlow:
    """IBM Cloud: an API key for a token of its identity service."""
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
    """Either version of the platform's keys: by the key's own mark, else the first and then the second, as IBM's CLI does."""
    if _is_second_version(credentials.secret("api_key")):
        return (yield from mcsp_v2(credentials, remote))
    try:
        return (yield from mcsp_v1(credentials, remote))
    except RemoteError as error:
        first = error
    try:
        return (yield from mcsp_v2(credentials, remote))
    except RemoteError as second:
        raise RemoteError(f"neither version of the login works: {first}; and {second}") from None


def cpd(credentials: Credentials, remote: str) -> AuthFlow:
    """On-premises (Software Hub): a user with a password or an API key."""
    path = urlsplit(remote).path.partition("/orchestrate")[0]  # the path's, not the host's: a host may be called so
    url = f"{_base(credentials, f'{_origin(remote)}{path}/icp4d-api')}{CPD_PATH}"
    field = "password" if credentials.has("password") else "api_key"
    body = {"username": credentials.username, field: credentials.secret(field)}
    answer = yield Request("POST", url, body=body)
    return _token(answer, "token", credentials)


def local(credentials: Credentials, remote: str) -> AuthFlow:
    """The Developer Edition: a token of the user, then one of its tenant. The tenant is never made: plan must not write."""
    base = _base(credentials, _origin(remote))
    form = {"username": credentials.username, "password": credentials.secret("password")}
    user = _token((yield Request("POST", f"{base}{LOCAL_PATH}", form=form)), "access_token", credentials)
    tenants = yield Request("GET", f"{base}/api/v1/tenants", headers={"Authorization": user.header})
    tenant = _tenant(tenants, credentials)
    answer = yield Request("POST", f"{base}{LOCAL_PATH}", (("tenant_id", tenant),), form=form)
    return _token(answer, "access_token", credentials)


def bearer(credentials: Credentials, _: str) -> AuthFlow:
    """A token that somebody else fetched."""
    yield from ()
    return Token(f"Bearer {credentials.header('token')}")


def zen_api_key(credentials: Credentials, _: str) -> AuthFlow:
    """On-premises, a user's API key itself: no token, nothing to refresh."""
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
    """What the paths of a login are added to: `auth.url`, whether it stops before them or is the token endpoint's whole URL."""
    base = credentials.url or usual
    for path in (IAM_PATH, MCSP_V1_PATH, MCSP_V2_PATH, CPD_PATH, LOCAL_PATH):
        base = base.removesuffix(path)
    return base


def _origin(url: str) -> str:
    """`https://host:port` of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _token(answer: Response, key: str, credentials: Credentials) -> Token:
    """The token in a good answer; RemoteError with the service's own words, less the secrets, for any other."""
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
        url, said = answer.response.url, describe(answer.response, credentials.scrub)
        if answer.status in (404, 405):
            asked = url.copy_with(query=None)
            raise RemoteError(f"{asked} answered the login with {said}; check the auth type and auth.url in policyctl.yaml")
        raise RemoteError(f"{host_of(str(url))} refuses the login with {said}; check auth in policyctl.yaml")


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
    """What a JWT says about itself; nothing for any other token. Its signature is for the remote to check."""
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
