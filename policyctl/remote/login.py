"""Logging in: the token for one environment's remote, fetched when first needed and kept in memory only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from policyctl.errors import Refused, RemoteError
from policyctl.load.auth import AuthFile, login_type
from policyctl.load.urls import is_safe_for_secrets
from policyctl.remote.http import HttpClient, Request, Response
from policyctl.remote.login_flows import LOGINS, Token
from policyctl.remote.redaction import Credentials

MARGIN = 60.0  # seconds before a token's end at which it is replaced; a tenth of its life where that is less


class LoginSession:
    """Sends requests as `HttpClient` does, logged in. One token for all threads; fetching it is one thread's work.

    A token is replaced before it ends, and once when the remote answers 401. What it is sent to is for the caller to
    decide: nothing but the origin of the environment's own remote.
    """

    def __init__(
        self,
        wire: HttpClient,
        auth: AuthFile,
        remote: str,
        credentials: Credentials,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Raises Refused when a secret would travel in the clear."""
        for url in (remote, auth.url or remote):
            if not is_safe_for_secrets(url):
                raise Refused("auth is only sent over https:// (http:// only to this machine)")
        self._wire = wire
        self._login = LOGINS[login_type(auth, remote)]
        self._remote = remote
        self._credentials = credentials
        self._now = now
        self._lock = threading.Lock()
        self._header: str | None = None
        self._until: float | None = None

    def send(self, ask: Request, *, writes: bool = False) -> Response:
        """As `Wire.send`. A 401 is a refusal, so that even a write may be sent again with another token."""
        header = self._authorization()
        answer = self._wire.send(_with(ask, header), writes=writes)
        if answer.status != 401:
            return answer
        fresh = self._authorization(refused=header)
        return answer if fresh == header else self._wire.send(_with(ask, fresh), writes=writes)

    def close(self) -> None:
        self._wire.close()

    def _authorization(self, refused: str | None = None) -> str:
        """What to send as `Authorization`: the kept one, unless it was just refused or is about to end."""
        with self._lock:
            ended = self._until is not None and self._now() >= self._until
            if self._header is None or self._header == refused or ended:
                token = self._fetch()
                self._header, self._until = token.header, self._end_of(token)
            return self._header

    def _fetch(self) -> Token:
        """Hold the conversation of this way to log in. It is told what goes wrong with a request: it may know another."""
        conversation = self._login(self._credentials, self._remote)
        try:
            ask = next(conversation)
            while True:
                try:
                    answer = self._wire.send(ask)
                except RemoteError as error:
                    ask = conversation.throw(error)
                else:
                    ask = conversation.send(answer)
        except StopIteration as done:
            token: Token = done.value
            return token

    def _end_of(self, token: Token) -> float | None:
        if token.lifetime is not None:
            return self._now() + token.lifetime - min(MARGIN, token.lifetime / 10)
        return None if token.expires is None else token.expires - MARGIN


def _with(ask: Request, authorization: str) -> Request:
    return ask._replace(headers={**ask.headers, "Authorization": authorization})
