"""Who may use the gateway: keys of its own, of which only hashes are kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from policyctl.errors import UsageError
from policyctl.load.atomic import read_bounded
from policyctl.load.urls import host_in, is_loopback_host

SHORTEST = 16  # characters of a key
_MOST = 1 << 20  # bytes of the file of keys


class CallerKeys:
    """Who may call, by the hash of their keys. Several keys may have one name, to replace one by another."""

    def __init__(self, names: Mapping[bytes, str]) -> None:
        self._names = names

    def caller(self, authorization: bytes) -> str | None:
        """The name of who sends this Authorization header; None for a key that is not known."""
        scheme, _, key = authorization.strip().partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        return self._names.get(hashlib.sha256(key.strip()).digest())


def read_keys(reference: str) -> CallerKeys:
    """The keys that `env:NAME` or `file:PATH` has: one a line, alone or after a name and a space; # begins a comment.

    Raises UsageError when there are none, or for one that is too short to be secret.
    """
    kind, _, where = reference.partition(":")
    if kind not in ("env", "file") or not where:
        raise UsageError("--keys-from must be a reference, env:NAME or file:PATH; never a key itself")
    try:
        text = os.environ.get(where, "") if kind == "env" else read_bounded(Path(where), _MOST).decode()
    except OSError as error:
        raise UsageError(f"--keys-from refers to {reference}, which cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--keys-from refers to {reference}, which is not text") from None
    names: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        *name, key = line.split("#")[0].split() or [""]
        if not key:
            continue
        if len(name) > 1 or len(key) < SHORTEST or not key.isascii():
            raise UsageError(
                f"--keys-from refers to {reference}, whose line {number} is not a key of {SHORTEST} characters or more, "
                "alone or after a name"
            )
        names[hashlib.sha256(key.encode()).digest()] = name[0] if name else f"key {len(names) + 1}"
    if not names:
        raise UsageError(f"--keys-from refers to {reference}, which is not set or has no key")
    return CallerKeys(names)


def is_local(host: bytes) -> bool:
    """Whether a Host header names this machine. Without keys only such requests are answered: otherwise a web page whose name
    resolves to this machine could use the gateway through its visitor's browser."""
    return is_loopback_host(host_in(host.decode("latin-1")) or "")
