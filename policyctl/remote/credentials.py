"""Secrets: fetched from where a reference points, at the last moment, and kept out of every message."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Collection, Mapping
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit
from urllib.request import getproxies

from policyctl.errors import RemoteError
from policyctl.load.auth import AuthFile
from policyctl.load.files import read_bounded

HIDDEN = "***"
_SHORTEST = 8  # characters; what is shorter is found in texts that mean something else
MAX_SECRET = 65_536  # bytes of a file that holds one


class Scrubber:
    """Takes secrets out of text. A server may echo what it was sent, as it is or encoded."""

    def __init__(self) -> None:
        self._secrets: frozenset[str] = frozenset()

    def hide(self, secret: str) -> None:
        """Keep this secret out of every text from now on."""
        self._secrets |= _forms(secret)
        if len(secret) >= _SHORTEST:
            _everything.update(_forms(secret))

    def __call__(self, text: str) -> str:
        return _without(self._secrets, text)

    def finds(self, value: Any) -> bool:
        """Whether a plain value holds a secret. Short ones are not looked for: they may be anybody's words."""
        secrets = [secret for secret in self._secrets if len(secret) >= _SHORTEST]
        text = json.dumps(value, ensure_ascii=False) if secrets else ""
        return any(secret in text for secret in secrets)


def scrub_everything(text: str) -> str:
    """The text without any secret that this process has used, short ones aside: for messages that nobody here wrote."""
    return _without(_everything, text)


def hide_proxies(scrub: Scrubber, proxies: Mapping[str, str] | None = None) -> None:
    """Hide the passwords that the URLs of proxies (those of the environment) hold; a proxy may echo what it was sent."""
    for url in (getproxies() if proxies is None else proxies).values():
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
        except ValueError:
            continue
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        for secret in (password or user, f"{user}:{password}" if user else ""):
            scrub.hide(secret)


_everything: set[str] = set()


def _forms(secret: str) -> frozenset[str]:
    """A secret in the ways that somebody may write it who was sent it."""
    packed = base64.b64encode(secret.encode()).decode()
    ways = (quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1], escape(secret))
    return frozenset({secret, *ways, packed, packed.rstrip("="), quote(packed, safe="")} - {""})


def _without(secrets: Collection[str], text: str) -> str:
    """The text without the secrets, the longest first, since one may contain another."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


class Credentials:
    """The fields of an environment's `auth`, its secrets resolved when they are asked for and never before."""

    def __init__(self, auth: AuthFile, scrub: Scrubber, base: Path = Path(), environ: Mapping[str, str] = os.environ) -> None:
        """`base` is what relative paths of `file:` references start from."""
        self.scrub = scrub
        self._auth = auth
        self._base = base
        self._environ = environ

    @property
    def username(self) -> str:
        return self._auth.username or ""

    @property
    def url(self) -> str | None:
        """The token endpoint's URL where one is written, without a slash at its end."""
        return self._auth.url.rstrip("/") if self._auth.url is not None else None

    def secret(self, field: str) -> str:
        """The secret that `auth.<field>` refers to. Raises RemoteError when it is not to be had."""
        text = resolve_secret(f"auth.{field}", getattr(self._auth, field) or "", self._base, self._environ)
        self.scrub.hide(text)
        return text

    def has(self, field: str) -> bool:
        """Whether `auth.<field>` is written."""
        return getattr(self._auth, field) is not None


def resolve_secret(what: str, reference: str, base: Path = Path(), environ: Mapping[str, str] = os.environ) -> str:
    """The secret that a reference (`env:NAME` or `file:PATH`) points at; `what` holds the reference, for the message.

    Raises RemoteError when there is none, or when it is no single line of text. The message never holds the secret.
    """
    kind, _, where = reference.partition(":")
    text = environ.get(where, "") if kind == "env" else _read(f"{what} refers to {reference}", base / where)
    if not text:
        raise RemoteError(f"{what} refers to {reference}, which is not set or empty")
    if not text.isprintable():
        raise RemoteError(f"{what} refers to {reference}, which is not one line of plain text")
    return text


def _read(said: str, path: Path) -> str:
    try:
        return read_bounded(path, MAX_SECRET).decode().strip("\r\n")
    except OSError as error:
        raise RemoteError(f"{said}, which cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RemoteError(f"{said}, which is not text") from None
