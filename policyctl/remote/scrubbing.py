"""Keeping secrets out of text, however somebody writes them who was sent them."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html.entities import codepoint2name
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

from policyctl.model.complaints import HIDDEN

_SHORTEST = 8  # characters; what is shorter is found in texts that mean something else


@dataclass(frozen=True, slots=True)
class _Secret:
    """A secret: its length, a part of it that every encoding leaves alone, and a pattern of all ways of writing it."""

    length: int
    core: str
    pattern: re.Pattern[str]

    def without(self, text: str) -> str:
        return self.pattern.sub(HIDDEN, text) if self.core in text else text


class Scrubber:
    """Takes secrets out of text. A server may echo what it was sent, as it is or encoded, once or several times."""

    def __init__(self) -> None:
        self._secrets: dict[str, _Secret] = {}

    def hide(self, secret: str) -> None:
        """Keep this secret out of every text from now on."""
        for form in {secret, *_packed(secret)} - {"", *self._secrets}:
            # A new mapping: other threads may be going through the old one.
            self._secrets = {**self._secrets, form: _secret(form)}
            if len(form) >= _SHORTEST:
                _everything[form] = self._secrets[form]

    def __call__(self, text: str) -> str:
        return _without(self._secrets.values(), text)

    def finds(self, value: Any) -> bool:
        """Whether a plain value holds a secret. Short ones are not looked for: they may be anybody's words."""
        secrets = [secret for secret in self._secrets.values() if secret.length >= _SHORTEST]
        text = json.dumps(value, ensure_ascii=False) if secrets else ""
        return any(secret.core in text and secret.pattern.search(text) for secret in secrets)


def scrub_everything(text: str) -> str:
    """The text without any secret that this process has used, short ones aside: for messages that nobody here wrote."""
    return _without(list(_everything.values()), text)


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


_everything: dict[str, _Secret] = {}


def _without(secrets: Iterable[_Secret], text: str) -> str:
    """The text without the secrets, the longest first, since one may contain another."""
    for secret in sorted(secrets, key=lambda secret: secret.length, reverse=True):
        text = secret.without(text)
    return text


def _packed(secret: str) -> tuple[str, ...]:
    """The secret in base64, as headers carry it, without the padding."""
    packed = base64.b64encode(secret.encode("utf-8", "surrogatepass")).decode().rstrip("=")
    return packed, packed.replace("+", "-").replace("/", "_")


def _secret(text: str) -> _Secret:
    core = max(re.split(r"[^A-Za-z0-9]+", text), key=len)
    # Every backslash may be written as several, so that several are as one.
    return _Secret(len(text), core, re.compile("".join(map(_written, re.sub(r"\\+", r"\\", text)))))


# Bounded, since a text may consist of these: a text of a million backslashes is gone through once and not a million times.
_BACKSLASH, _AND, _HASH, _END = (rf"(?:{char}|%(?:25){{0,4}}{ord(char[-1]):02x})" for char in (r"\\", "&", "#", ";"))
_ESCAPED, _AGAIN, _PERCENT = f"{_BACKSLASH}{{0,8}}", f"(?:amp{_END}){{0,4}}", "%(?:25){0,4}"


def _written(char: str) -> str:
    """A pattern of the ways that programs write a character: with backslashes, percent signs, as HTML, one upon another."""
    if char.isascii() and char.isalnum():
        return char
    code = ord(char)
    data, units = char.encode("utf-8", "surrogatepass"), char.encode("utf-16-be", "surrogatepass")
    known = [name for name in (codepoint2name.get(code), "apos" if char == "'" else None) if name]
    references = "|".join([f"{_HASH}0{{0,6}}{code}", f"{_HASH}x0{{0,6}}{code:x}", *known])
    ways = [
        f"{_ESCAPED}{_AND}{_AGAIN}(?:{references}){_END}",
        "".join(f"{_BACKSLASH}{{1,8}}x{byte:02x}" for byte in data),
        f"{_BACKSLASH}{{1,8}}(?:x{code:02x}|U{code:08x})",
        "".join(f"{_BACKSLASH}{{1,8}}u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)),
        _ESCAPED + "".join(f"{_PERCENT}{byte:02x}" for byte in data),
        *([f"{_BACKSLASH}{{1,64}}"] if char == "\\" else []),
        f"{_ESCAPED}{re.escape(char)}" + (_AGAIN if char == "&" else ""),
        *([r"(?:\+|%(?:25){0,4}2b)"] if char == " " else []),
    ]
    return f"(?i:{'|'.join(ways)})"
