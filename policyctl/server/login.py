"""Authentication: the server's one secret, the JSON Web Tokens that a login with it returns, and the five ways to log in.

Tokens are JWTs (RFC 7519) signed with HMAC-SHA256 under a key that is derived from the secret, so that every server with that
secret accepts them, and none with another. Comparisons take the same time however much of a guess is right. The requests and
responses of a login are those of IBM Cloud IAM, MCSP versions 1 and 2, Cloud Pak for Data and the Developer Edition, as far as
IBM's clients use them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

from policyctl.server.api import (
    AccountToken,
    ApiRequest,
    ApiResponse,
    Handler,
    HttpError,
    IamToken,
    KeyLogin,
    Operation,
    PathItem,
    Service,
    Shape,
    Tenant,
    UserLogin,
    read_form,
    read_json,
)

TOKEN_SECONDS = 3600  # as long as an IBM Cloud IAM token lasts


class TokenIssuer:
    """Decides which requests are let in. Without a secret every request is, and any key logs in."""

    def __init__(self, secret: str | None = None, seconds: int = TOKEN_SECONDS, now: Callable[[], float] = time.time) -> None:
        self.seconds = seconds
        self._secret = secret
        self._now = now

    @cached_property
    def _key(self) -> bytes:
        """The key that signs tokens. Its derivation is slow, so that the secret cannot be guessed from a token: with the usual
        cost of scrypt for logins, 16 MiB."""
        if self._secret is None:
            return secrets.token_bytes(32)
        return hashlib.scrypt(self._secret.encode(), salt=b"policyctl serve: tokens", n=1 << 14, r=8, p=1, dklen=32)

    @property
    def open(self) -> bool:
        """Whether every request is let in."""
        return self._secret is None

    def knows(self, key: str) -> bool:
        """Whether an API key or a password is the server's secret."""
        return self._secret is None or _equal(key, self._secret)

    def admits(self, authorization: str) -> bool:
        """Whether an Authorization header holds the secret or a token that was issued here and has not expired."""
        if self._secret is None:
            return True
        scheme, _, value = authorization.strip().partition(" ")
        value = value.strip()
        match scheme.lower():
            case "bearer":
                return self.knows(value) or self._lasts(value)
            case "zenapikey":
                return self.knows(_zen_key(value))
        return False

    def issue(self, subject: str) -> tuple[str, int]:
        """A new token, and when it expires (seconds since 1970)."""
        issued = int(self._now())
        claims = {"iss": "policyctl", "sub": subject, "iat": issued, "exp": issued + self.seconds}
        signed = f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{_part(claims)}"
        return f"{signed}.{self._signature(signed)}", issued + self.seconds

    def _lasts(self, token: str) -> bool:
        signed, _, signature = token.rpartition(".")
        if not _equal(signature, self._signature(signed)):
            return False
        claims = json.loads(_decoded(signed.partition(".")[2]))
        return bool(claims["exp"] > self._now())

    def _signature(self, signed: str) -> str:
        return _text(hmac.new(self._key, signed.encode(), hashlib.sha256).digest())


def _equal(one: str, other: str) -> bool:
    # Digests are compared, since a comparison of texts of different lengths is faster and would reveal the secret's length.
    return hmac.compare_digest(*(hashlib.sha256(text.encode()).digest() for text in (one, other)))


def _zen_key(value: str) -> str:
    """The API key of a ZenApiKey header, base64 of `<username>:<api key>`; empty if it is malformed."""
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""


def _part(value: dict[str, Any]) -> str:
    return _text(json.dumps(value, separators=(",", ":")).encode())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


TENANT = {"id": "00000000-0000-4000-8000-000000000001", "name": "wxo-dev", "title": "policyctl serve"}
_PRIVATE = {"Cache-Control": "no-store"}


def iam_token(service: Service, call: ApiRequest) -> ApiResponse:
    return _answer(service, "access_token", "apikey", read_form(KeyLogin, call.body)["apikey"])


def mcsp_token(service: Service, call: ApiRequest) -> ApiResponse:
    return _answer(service, "token", "apikey", read_json(KeyLogin, call.body)["apikey"])


def cpd_token(service: Service, call: ApiRequest) -> ApiResponse:
    login = read_json(UserLogin, call.body)
    return _answer(service, "token", login["username"], login.get("password") or login.get("api_key") or "")


def local_token(service: Service, call: ApiRequest) -> ApiResponse:
    login = read_form(UserLogin, call.body)
    return _answer(service, "access_token", login["username"], login.get("password", ""))


def list_tenants(*_: object) -> ApiResponse:
    return ApiResponse(200, [TENANT])


def _answer(service: Service, key: str, subject: str, secret: str) -> ApiResponse:
    if not service.keeper.knows(secret):
        raise HttpError(401, "the key or password is wrong")
    token, ends = service.keeper.issue(subject)
    body = {key: token, "token_type": "Bearer", "expires_in": service.keeper.seconds, "expiration": ends}
    return ApiResponse(200, body, _PRIVATE)


def _login(
    handler: Handler, where: str, takes: type[Shape], gives: type[Shape], *, form: bool = False, query: tuple[str, ...] = ()
) -> Operation:
    return Operation(
        "POST",
        handler,
        f"Log in as on {where}.",
        takes=takes,
        gives=gives,
        form=form,
        query=query,
        public=True,
        faults=(401, 422),
    )


_CPD_LOGIN = _login(cpd_token, "premises (Cloud Pak for Data)", UserLogin, AccountToken)
_LOCAL_LOGIN = _login(local_token, "the Developer Edition", UserLogin, IamToken, form=True, query=("tenant_id",))

PATHS = (
    PathItem("/identity/token", (_login(iam_token, "IBM Cloud", KeyLogin, IamToken, form=True),)),
    PathItem("/siusermgr/api/1.0/apikeys/token", (_login(mcsp_token, "AWS (MCSP version 1)", KeyLogin, AccountToken),)),
    PathItem("/api/2.0/apikeys/token", (_login(mcsp_token, "AWS (MCSP version 2)", KeyLogin, AccountToken),)),
    PathItem("/icp4d-api/v1/authorize", (_CPD_LOGIN,)),
    PathItem("/v1/authorize", (_CPD_LOGIN,)),  # where IBM's CLI logs in when it is given another login URL
    PathItem("/api/v1/auth/token", (_LOCAL_LOGIN,)),
    PathItem("/api/v1/tenants", (Operation("GET", list_tenants, "List tenants: one.", gives=Tenant, many=True),)),
)
