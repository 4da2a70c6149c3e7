"""What requests to the same host share: open connections, how often it may be asked, and tokens.

All environments of one run share one `Hosts`. So a host that asks for a pause gets it from every environment, a rate holds for
the host however many environments it has, and environments that log in alike do so once.
"""

from __future__ import annotations

import math
import ssl
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.request import getproxies

import httpcore
import httpx

from policyctl.errors import RemoteError
from policyctl.load.urls import Origin
from policyctl.remote.deadline import Deadline, DeadlineNetwork
from policyctl.remote.protocol import Backoff

WHOLE = 120.0  # seconds until a response must be complete
LONGEST_PAUSE = 900.0


class HostPace:
    """When one host may be asked: at an even rate (GCRA without bursts), and never during a pause that it asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._interval = 0.0  # seconds between two requests
        self._next = self._pause = -math.inf

    @property
    def is_free(self) -> bool:
        """Whether it may be asked at any time."""
        return not self._interval and self._pause == -math.inf

    def limit(self, rate: float | None) -> None:
        """Ask it at most `rate` times a second. The lowest rate of all environments holds."""
        if rate is not None:
            with self._lock:
                self._interval = max(self._interval, 1 / rate)

    def pause(self, now: float, seconds: float) -> None:
        """Do not ask it for so many seconds, at most a quarter of an hour: one environment may ask for a pause of years, and
        the others of the host wait too."""
        with self._lock:
            self._pause = max(self._pause, now + min(seconds, LONGEST_PAUSE))

    def slot(self, now: float) -> float:
        """The time at which the next request may be sent. No other request gets that slot."""
        with self._lock:
            return self._own_slot(now)

    def _own_slot(self, now: float) -> float:
        slot = max(now, self._next, self._pause)
        self._next = slot + self._interval
        return slot

    def pause_left(self, now: float) -> float:
        """How many seconds are left of a pause."""
        return max(0.0, self._pause - now)


class HostTally:
    """How often each host was asked, by what it answered, and how long requests waited for their turn. For metrics."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._waits: defaultdict[str, float] = defaultdict(float)

    def asked(self, origin: Origin, status: str) -> None:
        """Count a request; `status` is that of the response, or `none` without one."""
        with self._lock:
            self._requests[str(origin), status] += 1

    def waited(self, origin: Origin, seconds: float) -> None:
        """Count a wait before a request."""
        with self._lock:
            self._waits[str(origin)] += seconds

    def counts(self) -> tuple[dict[tuple[str, str], int], dict[str, float]]:
        """Requests by origin and status, and seconds of waiting by origin, up to now."""
        with self._lock:
            return dict(self._requests), dict(self._waits)


class SharedToken:
    """The `Authorization` header of a login, and when it ends. Hold `lock` to use it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.header: str | None = None
        self.until: float | None = None


Trust = ssl.SSLContext | None


class Hosts:
    """The connections, paces and tokens of a run. Several threads may use it at once."""

    def __init__(
        self,
        patience: Backoff = Backoff(),
        network: httpcore.NetworkBackend | None = None,
        new_pace: Callable[[Origin], HostPace] = lambda _: HostPace(),
    ) -> None:
        """`network` replaces the system's network, `new_pace` makes the pace of a host that was not asked before."""
        self.patience = patience
        self.proxies = getproxies()
        self.tally: HostTally | None = None
        self.deadline = Deadline(WHOLE, patience.clock, patience.sleep)
        self._network = network
        self._new_pace = new_pace
        self._paces: dict[Origin, HostPace] = {}
        self._tokens: dict[str, SharedToken] = {}
        self._idle: dict[tuple[bool, Trust], list[httpx.Client]] = {}
        self._all: list[httpx.Client] = []

    def pace(self, origin: Origin) -> HostPace:
        """The pace of a host."""
        return self._paces.get(origin) or self._paces.setdefault(origin, self._new_pace(origin))

    def token(self, login: str) -> SharedToken:
        """The token of a login; two logins share one if their `login` is equal."""
        return self._tokens.get(login) or self._tokens.setdefault(login, SharedToken())

    @contextmanager
    def client(self, trust: Trust, *, near: bool) -> Iterator[httpx.Client]:
        """A client with its connections, for one request at a time: threads that share one wait for its lock.

        `trust` are the authorities (None: without TLS). For `near` ones, on this machine, no proxy is used: a secret may be on
        its way in the clear.
        """
        idle = self._idle.setdefault((near, trust), [])
        try:
            client = idle.pop()
        except IndexError:
            client = self._made(trust, near=near)
        try:
            yield client
        finally:
            idle.append(client)

    def close(self) -> None:
        """Close the connections. Later requests open others."""
        self._idle.clear()
        while self._all:
            self._all.pop().close()

    def _made(self, trust: Trust, *, near: bool) -> httpx.Client:
        try:
            client = httpx.Client(
                verify=trust or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
                trust_env=not near,
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            )
        except (ValueError, ImportError, httpx.InvalidURL):
            # Without the error's own message: a proxy's URL may have a password.
            raise RemoteError(
                "the proxy in the environment variables cannot be used; check HTTPS_PROXY and similar ones"
            ) from None
        self._bind(client)
        self._all.append(client)
        return client

    def _bind(self, client: httpx.Client) -> None:
        """Make the client's connections, also those through a proxy, meet the deadline.

        httpx has no option for this, so this sets private attributes of its pools; a release without them fails here, at once.
        """
        transports: list[Any] = [client._transport, *client._mounts.values()]
        for pool in (transport._pool for transport in transports if transport is not None):
            pool._network_backend = DeadlineNetwork(self._network or pool._network_backend, self.deadline)


def exchange(client: httpx.Client, request: httpx.Request) -> httpx.Response:
    """Send a request, and return the response with its body still to be read.

    Not by `client.send`: that follows redirects, which must not take a token elsewhere, and keeps cookies, which no service may
    set for others. Both are off here anyway, and asking for them takes a third of the time of a request.
    """
    response = client._transport_for_url(request.url).handle_request(request)
    response.request = request
    return response
