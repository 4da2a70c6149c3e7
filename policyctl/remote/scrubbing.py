"""Keeping secrets out of text, in the forms in which a program that was sent them writes them."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit
from urllib.request import getproxies

from policyctl.model.complaints import HIDDEN

_SHORTEST = 8  # characters; what is shorter is found in texts that mean something else
_HEX = re.compile("%[0-9A-F]{2}")
_everything: set[str] = set()  # the forms of every secret that this process has used, short ones aside


class Scrubber:
    """Takes secrets out of text. A server may echo what it was sent, as it is or encoded."""

    def __init__(self) -> None:
        self._forms: frozenset[str] = frozenset()

    def hide(self, secret: str) -> None:
        """Keep this secret out of every text from now on."""
        forms = {form for form in _forms(secret) if form}
        self._forms |= forms  # a new set: other threads may be going through the old one
        _everything.update(form for form in forms if len(form) >= _SHORTEST)

    def __call__(self, text: str) -> str:
        return _without(self._forms, text)

    def finds(self, value: Any) -> bool:
        """Whether a plain value holds a secret. Short ones are not looked for: they may be anybody's words."""
        forms = [form for form in self._forms if len(form) >= _SHORTEST]
        text = json.dumps(value, ensure_ascii=False) if forms else ""
        return any(form in text for form in forms)


def scrub_everything(text: str) -> str:
    """The text without any secret that this process has used, short ones aside: for messages of libraries."""
    return _without(tuple(_everything), text)


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


def _without(forms: Collection[str], text: str) -> str:
    """The text without these forms, the longest first, since one may contain another."""
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, HIDDEN)
    return text


def _forms(secret: str) -> Iterator[str]:
    """A secret as it is and in base64, as programs write it: once, and once more, as in a page that shows a JSON body."""
    packed = base64.b64encode(secret.encode("utf-8", "surrogatepass")).decode().rstrip("=")
    for text in (secret, packed, packed.replace("+", "-").replace("/", "_")):
        for once in _written(text):
            yield from _written(once)


def _written(text: str) -> set[str]:
    """A text as it is, and as URLs (with escapes in either case), JSON, HTML and Python have it."""
    data = text.encode("utf-8", "surrogatepass")
    urls = {quote(data, safe=""), quote(data), quote_plus(data)}
    jsons = {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    pythons = {repr(text)[1:-1], repr(f'"{text}')[2:-1]}  # in quotes of either kind
    pages = {html.escape(text), html.escape(text, quote=False)}
    return {text, *urls, *(_HEX.sub(lambda found: found[0].lower(), url) for url in urls), *jsons, *pythons, *pages}
