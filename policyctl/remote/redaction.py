"""Secrets: resolved from references when they are needed, and redacted from every message."""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit
from urllib.request import getproxies

from policyctl.errors import RemoteError
from policyctl.load.settings_file import AuthFile
from policyctl.load.source import read_bounded
from policyctl.policy.findings import HIDDEN

SHORTEST = 8  # characters; shorter secrets also occur as ordinary text
_HEX = re.compile("%[0-9A-F]{2}")
_everything: set[str] = set()  # the forms of every secret that this process has used, except short ones


class Redactor:
    """Removes secrets from text. A server may echo what it was sent, plain or encoded."""

    def __init__(self) -> None:
        self._forms: frozenset[str] = frozenset()

    def hide(self, secret: str) -> None:
        """Redact this secret from now on."""
        forms = {form for form in _forms(secret) if form}
        self._forms |= forms  # a new set: other threads may be iterating over the old one
        _everything.update(form for form in forms if len(form) >= SHORTEST)

    def with_more(self, secrets: Collection[str]) -> Redactor:
        """A redactor that hides these secrets too: for one request, and what is answered to it."""
        if not secrets:
            return self
        more = Redactor()
        for secret in secrets:
            more.hide(secret)
        more._forms |= self._forms
        return more

    def __call__(self, text: str) -> str:
        return _without(self._forms, text)

    def finds(self, value: Any) -> bool:
        """Whether a plain value contains a secret. Short ones are ignored: they may be ordinary words."""
        forms = [form for form in self._forms if len(form) >= SHORTEST]
        text = json.dumps(value, ensure_ascii=False) if forms else ""
        return any(form in text for form in forms)


def redact_everything(text: str) -> str:
    """The text without any secret that this process has used, short ones aside: for messages of libraries."""
    return _without(tuple(_everything), text)


def hide_proxies(scrub: Redactor, proxies: Mapping[str, str] | None = None) -> None:
    """Hide the passwords in the URLs of proxies (by default the environment's); a proxy may echo what it was sent."""
    for url in (getproxies() if proxies is None else proxies).values():
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
        except ValueError:
            continue
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        for secret in (password or user, f"{user}:{password}" if user else ""):
            scrub.hide(secret)


def _without(forms: Collection[str], text: str) -> str:
    """The text without these forms, the longest first, since one may contain another."""
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, HIDDEN)
    return text


def _forms(secret: str) -> Iterator[str]:
    """A secret, plain and in base64, in every written form, also written twice, as in a page that shows a JSON body."""
    packed = base64.b64encode(secret.encode("utf-8", "surrogatepass")).decode().rstrip("=")
    for text in (secret, packed, packed.replace("+", "-").replace("/", "_")):
        for once in _written(text):
            yield from _written(once)


def _written(text: str) -> set[str]:
    """A text as it is, and as written in URLs (with escapes in either case), JSON, HTML and Python."""
    data = text.encode("utf-8", "surrogatepass")
    urls = {quote(data, safe=""), quote(data), quote_plus(data)}
    jsons = {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    pythons = {repr(text)[1:-1], repr(f'"{text}')[2:-1]}  # in quotes of either kind
    pages = {html.escape(text), html.escape(text, quote=False)}
    return {text, *urls, *(_HEX.sub(lambda found: found[0].lower(), url) for url in urls), *jsons, *pythons, *pages}


Read = Callable[[Path, int], bytes]
MAX_SECRET = 65_536  # bytes of a file with a secret


class Credentials:
    """The fields of an environment's `auth`, whose secrets are resolved when needed."""

    def __init__(
        self,
        auth: AuthFile,
        scrub: Redactor,
        base: Path = Path(),
        environ: Mapping[str, str] = os.environ,
        read: Read = read_bounded,
    ) -> None:
        """Relative paths of `file:` references start from `base`; `read` returns the content of such a file."""
        self.scrub = scrub
        self._auth = auth
        self._base = base
        self._environ = environ
        self._read = read

    @property
    def username(self) -> str:
        return self._auth.username or ""

    @property
    def url(self) -> str | None:
        """The token endpoint's URL where one is written, without a slash at its end."""
        return self._auth.url.rstrip("/") if self._auth.url is not None else None

    def secret(self, field: str) -> str:
        """The secret that `auth.<field>` refers to. Raises RemoteError when it cannot be resolved."""
        text = resolve_secret(f"auth.{field}", getattr(self._auth, field) or "", self._base, self._environ, self._read)
        self.scrub.hide(text)
        return text

    def header(self, field: str) -> str:
        """The same for a secret that is sent in a header, which must be ASCII."""
        text = self.secret(field)
        if not text.isascii():
            subject = f"auth.{field} refers to {getattr(self._auth, field)}"
            raise RemoteError(f"{subject}, which has characters other than ASCII; copy it again")
        return text

    def has(self, field: str) -> bool:
        """Whether `auth.<field>` is written."""
        return getattr(self._auth, field) is not None


def resolve_secret(
    what: str, reference: str, base: Path = Path(), environ: Mapping[str, str] = os.environ, read: Read = read_bounded
) -> str:
    """The secret that a reference (`env:NAME` or `file:PATH`) points at; `what` names its setting in messages.

    Raises RemoteError when there is none, or when it is not a single line of text. The message never contains the secret.
    """
    kind, _, where = reference.partition(":")
    text = environ.get(where, "") if kind == "env" else _read(f"{what} refers to {reference}", base / where, read)
    if not text:
        raise RemoteError(f"{what} refers to {reference}, which is not set or empty")
    if not text.isprintable():
        raise RemoteError(f"{what} refers to {reference}, which is not one line of plain text")
    return text


def _read(subject: str, path: Path, read: Read) -> str:
    try:
        return read(path, MAX_SECRET).decode().strip("\r\n")
    except OSError as error:
        raise RemoteError(f"{subject}, which cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RemoteError(f"{subject}, which is not text") from None
