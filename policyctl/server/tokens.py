"""Authentication: the server's one secret, and the JSON Web Tokens that a login with it returns.

Tokens are JWTs (RFC 7519) signed with HMAC-SHA256 under a key that is derived from the secret, so that every server with that
secret accepts them, and none with another. Comparisons take the same time however much of a guess is right.
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
