"""Secrets: fetched from where a reference points, at the last moment, and kept out of every message."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from policyctl.errors import RemoteError
from policyctl.load.auth import AuthFile
from policyctl.load.files import read_bounded
from policyctl.remote.scrubbing import Scrubber

Read = Callable[[Path, int], bytes]
MAX_SECRET = 65_536  # bytes of a file that holds one


class Credentials:
    """The fields of an environment's `auth`, its secrets resolved when they are asked for and never before."""

    def __init__(
        self,
        auth: AuthFile,
        scrub: Scrubber,
        base: Path = Path(),
        environ: Mapping[str, str] = os.environ,
        read: Read = read_bounded,
    ) -> None:
        """`base` is what relative paths of `file:` references start from, `read` gives what such a file holds."""
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
        """The secret that `auth.<field>` refers to. Raises RemoteError when it is not to be had."""
        text = resolve_secret(f"auth.{field}", getattr(self._auth, field) or "", self._base, self._environ, self._read)
        self.scrub.hide(text)
        return text

    def header(self, field: str) -> str:
        """The same of a secret that is sent in a header, which takes nothing but ASCII."""
        text = self.secret(field)
        if not text.isascii():
            said = f"auth.{field} refers to {getattr(self._auth, field)}"
            raise RemoteError(f"{said}, which has characters that no token has (other than ASCII); copy it once more")
        return text

    def has(self, field: str) -> bool:
        """Whether `auth.<field>` is written."""
        return getattr(self._auth, field) is not None


def resolve_secret(
    what: str, reference: str, base: Path = Path(), environ: Mapping[str, str] = os.environ, read: Read = read_bounded
) -> str:
    """The secret that a reference (`env:NAME` or `file:PATH`) points at; `what` holds the reference, for the message.

    Raises RemoteError when there is none, or when it is no single line of text. The message never holds the secret.
    """
    kind, _, where = reference.partition(":")
    text = environ.get(where, "") if kind == "env" else _read(f"{what} refers to {reference}", base / where, read)
    if not text:
        raise RemoteError(f"{what} refers to {reference}, which is not set or empty")
    if not text.isprintable():
        raise RemoteError(f"{what} refers to {reference}, which is not one line of plain text")
    return text


def _read(said: str, path: Path, read: Read) -> str:
    try:
        return read(path, MAX_SECRET).decode().strip("\r\n")
    except OSError as error:
        raise RemoteError(f"{said}, which cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RemoteError(f"{said}, which is not text") from None
