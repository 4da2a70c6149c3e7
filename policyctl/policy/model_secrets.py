"""Which values of a virtual model are secret, wherever they are in its document, and how they are hidden.

Files hold no secret at all, plans only whether one is set (see `model_settings.SECRETS`); a row that a remote shows may hold
any, also below keys that the format does not know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from policyctl.policy.findings import HIDDEN, FieldPath
from policyctl.policy.memo import late_pattern

SET = "(set)"  # in place of a secret: that there is one is all that is known, compared and shown of it
# In lower case and without underscores, so that both spellings match. An access key id alone opens nothing, but it is half
# of what does.
_SECRET_KEYS = frozenset("adauth auth awsaccesskeyid credential credentials sig token vertexserviceaccountjson".split())
_SECRET_ENDINGS = (
    "accesskey",
    "accesstoken",
    "accountkey",
    "adtoken",
    "apikey",
    "apitoken",
    "authorization",
    "authtoken",
    "bearertoken",
    "connectionstring",
    "cookie",
    "functionskey",
    "idtoken",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "refreshtoken",
    "sastoken",
    "secret",
    "secretkey",
    "securitytoken",
    "sessiontoken",
    "signature",
    "signingkey",
    "subscriptionkey",
)
_OF_TEXT = frozenset(  # words before `token` in the names of inference parameters and prices
    "stop eos bos pad unk sep cls mask start end max min num new per input output image special prompt completion total first "
    "last".split()
)
_IN_QUERIES = frozenset({"code", "key"})  # secret as keys of a URL's query only
_NAMES, _VALUES = frozenset({"header", "headername", "key", "name"}), frozenset({"value", "values"})
_WORD = late_pattern(r"[_\-.\s]+|(?<=[a-z0-9])(?=[A-Z])")
# How keys that providers and code hosts give out begin; what else looks random is hidden in unknown fields alone.
_ISSUED = (
    r"(?:sk|csk|rk|xai|pplx|nvapi|glpat|xox[abeprs])-(?=[\w-]{0,99}\d)[\w-]{15,}"
    r"|(?:gsk|hf|r8|gh[opsur]|github_pat|tgp_v1|sk_live|rk_live|npm)_(?=\w{0,99}\d)\w{15,}"
    r"|AIza[\w-]{30,}|A[KS]IA[A-Z0-9]{16}|ABSK[\w+/=]{20,}|ya29\.[\w-]{10,}|dapi[0-9a-f]{32}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
)
# Secrets within a text: a key as it was given out, a private key, a user of a URL, what a query or a connection string gives, a
# line that is a header, and what follows the name of a kind of credentials.
_WITHIN_TEXTS = tuple(
    late_pattern(pattern, re.IGNORECASE | re.MULTILINE)
    for pattern in (
        rf"(?<![A-Za-z0-9])(?P<secret>(?-i:{_ISSUED}))",
        r"(?P<secret>-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?s:.*?)(?:-----END [A-Z0-9 ]*-----|\Z))",
        r"://(?P<secret>[^/\s]+)@",
        r"[?&](?P<query>[\w.%-]+)=(?P<secret>[^&#\s\"';]+)",
        r"(?:^|;) *(?P<key>[\w-]+)=(?P<secret>[^&#\s\"';]+)",
        r"^[ \t]*(?P<key>[\w-]+)[ \t]*[:=][ \t]*(?P<secret>(?:(?:bearer|basic|token|apikey) +)?\S+)[ \t\r]*$",
        r"\b(?:bearer|basic)\s+(?P<secret>(?=[^\s\"',;]*[\d=])[^\s\"',;]{8,})",
    )
)
_RANDOM = late_pattern(r"(?<![A-Za-z0-9])(?=[A-Za-z]{0,99}[0-9])(?=[0-9]{0,99}[A-Za-z])[A-Za-z0-9]{20,}[\w+/=.~-]*")
_SUGGESTS = late_pattern(
    r"key|secret|token$|passw|credential|auth|header", re.IGNORECASE
)  # a field with such a name may be secret
_USERS = late_pattern(r"://([^/?#\s]+)@")  # a user, or a user and a password, within a URL: up to the last @


def is_secret_key(key: str) -> bool:
    """Whether the value of a key, in either spelling, is secret wherever it is in a model's document."""
    plain = _plain(key)
    if plain in _SECRET_KEYS or plain.removesuffix("s").endswith(_SECRET_ENDINGS):
        return True
    *before, last = _WORD.split(key.removesuffix("s").removesuffix("S"))
    return bool(before) and (last.lower() == "auth" or (last.lower() == "token" and before[-1].lower() not in _OF_TEXT))


def _plain(key: str) -> str:
    return key.replace("_", "").replace("-", "").lower()


def is_secret(key: Any, value: Any) -> bool:
    """Whether a key of a mapping, at any depth, holds something that opens a door. What is yes or no does not."""
    return isinstance(key, str) and is_secret_key(key) and value not in (None, "", {}, True, False)


def without_secrets(value: Any) -> Any:
    """A plain value to show: `SET` for each secret under a key of its own, and `***` for those within texts."""
    if isinstance(value, dict):
        named = _names_secret(value)
        return {
            key: SET if is_secret(key, item) or (named and _plain(str(key)) in _VALUES) else without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    return _text_without_secrets(value) if isinstance(value, str) else value


def shown_free(value: Any, key: str = "", *, unknown: bool = False) -> Any:
    """A field of free form to show: without secrets, and without texts whose key only suggests one. In one that the format
    does not know (`unknown`), anything as random as a key is left out too: no file has it, and nothing compares it."""
    return _without_likely(without_secrets(value), secret=bool(_SUGGESTS.search(key)), unknown=unknown)


def _without_likely(item: Any, *, secret: bool, unknown: bool) -> Any:
    if isinstance(item, dict):
        suggests = {key: secret or bool(_SUGGESTS.search(key)) for key in item}
        return {key: _without_likely(one, secret=suggests[key], unknown=unknown) for key, one in item.items()}
    if isinstance(item, list):
        return [_without_likely(one, secret=secret, unknown=unknown) for one in item]
    if not isinstance(item, str) or item == SET:
        return item
    if secret:
        return HIDDEN
    return _RANDOM.sub(HIDDEN, item) if unknown else item


def hidden_in(value: Any, path: FieldPath) -> Iterator[tuple[FieldPath, Any, Any]]:
    """Where `without_secrets` hides something of a plain value that is at a path: the path, what is there and what is shown."""
    yield from _differing(value, without_secrets(value), path)


def holds_secret(text: str) -> bool:
    """Whether a text of a file has a secret in it, or the mask of one, which must not be written as if it were one."""
    return bool(_spans(text)) or any(hidden_in(_json_in(text), ()))


def what_is_secret(text: str) -> str:
    """What of a text that holds a secret is secret, in words."""
    return "a user or password in its URL" if _USERS.search(text) else "a secret in its text"


def _differing(value: Any, shown: Any, path: FieldPath) -> Iterator[tuple[FieldPath, Any, Any]]:
    if isinstance(value, dict) and isinstance(shown, dict):
        for key, item in value.items():
            yield from _differing(item, shown[key], (*path, key))
    elif isinstance(value, list) and isinstance(shown, list):
        for place, (item, other) in enumerate(zip(value, shown, strict=True)):
            yield from _differing(item, other, (*path, place))
    elif value != shown:
        yield path, value, shown


def _names_secret(mapping: dict[Any, Any]) -> bool:
    """Whether a mapping is one of a name and a value, and the name is that of a secret."""
    names = [item for key, item in mapping.items() if _plain(str(key)) in _NAMES]
    return any(isinstance(name, str) and is_secret_key(name) for name in names)


def _text_without_secrets(text: str) -> str:
    content = _json_in(text)
    if content is not None and (shown := without_secrets(content)) != content:
        return json.dumps(shown, ensure_ascii=False)
    for start, end in reversed(_spans(text)):
        text = text[:start] + HIDDEN + text[end:]
    return text


def _json_in(text: str) -> Any:
    """The object or list that a text is, as JSON; None for any other text."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _spans(text: str) -> list[tuple[int, int]]:
    """Where the secrets within a text begin and end, in order; those that overlap are one."""
    found = [one.span("secret") for pattern in _WITHIN_TEXTS for one in pattern.finditer(text) if _is_of_secret(one)]
    merged: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _is_of_secret(found: re.Match[str]) -> bool:
    groups = found.groupdict()
    if "query" in groups:
        return is_secret_key(groups["query"]) or _plain(groups["query"]) in _IN_QUERIES
    return "key" not in groups or is_secret_key(groups["key"])


def masked(value: Any) -> Any:
    """The same plain value with every secret in it replaced by `***`, at any depth.

    A secret that is an object keeps its keys, since clients check that it is an object. This is what is stored and answered:
    it must keep all else, so it hides no part of a URL but a certain user. `without_secrets` is for what is compared and
    shown: only whether a secret is set, and of a URL no part that may be a user or password.
    """
    if isinstance(value, dict):
        return {key: _hidden(item) if is_secret_key(key) else masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [masked(item) for item in value]
    return _USERS.sub(f"://{HIDDEN}@", value) if isinstance(value, str) else value


def secret_texts(value: Any, *, secret: bool = False) -> Iterator[str]:
    """Every text that `masked` hides in a plain value, except what is a mask already."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from secret_texts(item, secret=secret or is_secret_key(key))
    elif isinstance(value, list):
        for item in value:
            yield from secret_texts(item, secret=secret)
    elif isinstance(value, str) and secret and value != HIDDEN:
        yield value
    elif isinstance(value, str):
        users = _USERS.findall(value)
        yield from (text for user in users for text in (user, user.partition(":")[2]))
        yield from (value[start:end] for start, end in _spans(value) if value[start:end] not in users)


def without_unset_masks(new: Any, stored: Any) -> Any:
    """What a client sends, without the masks of secrets that are not set.

    A client that reads a row and writes it back sends `***` for every secret. Where one is set that means: keep it. Where
    none is, there is nothing to keep.
    """
    if isinstance(new, list):
        before = stored if isinstance(stored, list) else []
        return [without_unset_masks(item, old) for item, old in zip_longest(new, before[: len(new)])]
    if not isinstance(new, dict):
        return new
    old = stored if isinstance(stored, dict) else {}
    return {
        key: without_unset_masks(item, old.get(key))
        for key, item in new.items()
        if not (is_secret_key(key) and _is_mask(item) and not _is_mask(old.get(key)))
    }


def _hidden(value: Any) -> Any:
    if isinstance(value, dict):
        return dict.fromkeys(value, HIDDEN)
    return value if value is None or value == "" else HIDDEN


def _is_mask(value: Any) -> bool:
    return value == HIDDEN or (isinstance(value, dict) and bool(value) and all(item == HIDDEN for item in value.values()))
