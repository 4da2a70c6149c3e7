"""Which values of a virtual model are secret, wherever they are in its document, and how they are hidden.

Files hold no secret at all, plans only whether one is set (see `model_settings.SECRETS`); a row that a remote shows may hold
any, also below keys that the format does not know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from policyctl.policy.findings import HIDDEN

# In lower case and without underscores, so that both spellings match. An access key id alone opens nothing, but it is half
# of what does. `token` alone is not an ending: inference parameters have it too.
_SECRET_KEYS = frozenset({"adauth", "awsaccesskeyid", "token", "vertexserviceaccountjson"})
_SECRET_ENDINGS = (
    "accesskey",
    "accesstoken",
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
    "sessiontoken",
    "signingkey",
    "subscriptionkey",
)

_USERS = re.compile(r"://([^/?#\s]+)@")  # a user, or a user and a password, within a URL: up to the last @


def is_secret_key(key: str) -> bool:
    """Whether the value of a key, in either spelling, is secret wherever it is in a model's document."""
    plain = key.replace("_", "").replace("-", "").lower()
    return plain in _SECRET_KEYS or plain.endswith(_SECRET_ENDINGS)


def masked(value: Any) -> Any:
    """The same plain value with every secret in it replaced by `***`, at any depth.

    A secret that is an object keeps its keys, since clients check that it is an object. This is what is stored and answered:
    it must keep all else, so it hides no part of a URL but a certain user. `model_settings.without_secrets` is for what is
    compared and shown: only whether a secret is set, and of a URL no part that may be a user or password.
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
        for user in _USERS.findall(value):
            yield from (user, user.partition(":")[2])


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
