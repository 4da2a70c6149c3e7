"""What requests to the same host share: open connections, how often it may be asked, and tokens; and how requests end in time.

All environments of one run share one `Hosts`. So a host that asks for a pause gets it from every environment, a rate holds for
the host however many environments it has, and environments that log in alike do so once.

httpx limits only each single wait, so a server that sends one byte a minute would keep a request open forever. Here every
wait of a connection (connect, TLS handshake, send, read) ends at the deadline of the whole request, or early when it is
stopped.
"""

from __future__ import annotations

import math
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.request import getproxies

import httpcore
import httpx

from policyctl.errors import RemoteError
from policyctl.load.urls import Origin
from policyctl.remote import Backoff

WHOLE = 120.0  # seconds until a response must be complete
LONGEST_PAUSE = 900.0
LOOK = 300.0  # seconds that a remote may take for all that is read of it in one look
_SLICE = 0.5  # seconds between two looks whether to stop


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


class Deadline:
    """The time at which a thread's current request must end; each thread has its own. `latest` is the end for all requests."""

    def __init__(self, seconds: float, clock: Callable[[], float], sleep: Callable[[float], None] = time.sleep) -> None:
        self.latest = math.inf
        self._seconds = seconds
        self._clock, self._sleep = clock, sleep
        self._mine = threading.local()

    def begin(self) -> None:
        """Start the time of this thread's next request."""
        self._mine.end = self._clock() + self._seconds

    @contextmanager
    def until(self, stopped: Callable[[], bool]) -> Iterator[None]:
        """Give up what this thread asks and waits for, soon after it was `stopped`. For what only reads."""
        self._mine.stopped = stopped
        try:
            yield
        finally:
            self._mine.stopped = None

    def sleep(self, seconds: float) -> None:
        """Wait between two requests. Raises RemoteError once it was stopped."""
        while self.can_stop and seconds > _SLICE:
            self.raise_if_stopped()
            self._sleep(_SLICE)
            seconds -= _SLICE
        self._sleep(seconds)
        self.raise_if_stopped()

    def raise_if_stopped(self) -> None:
        """Raise RemoteError if this thread's work was stopped."""
        if self.can_stop and self._mine.stopped():
            raise RemoteError("it was stopped")

    @property
    def can_stop(self) -> bool:
        """Whether this thread's work may be stopped."""
        return getattr(self._mine, "stopped", None) is not None

    def within(self, timeout: float | None, late: type[httpcore.TimeoutException]) -> float:
        """The seconds that one wait may take, at most `timeout`. Raises `late` when the request's time is over."""
        self.raise_if_stopped()
        left: float = min(self._mine.end, self.latest) - self._clock()
        if left <= 0:
            raise late("the request took too long")
        return left if timeout is None else min(timeout, left)


class LookBudget:
    """How long a remote may keep its readers waiting in one look, which a write ends.

    Each request has a limit of its own, but what a remote answers decides how many there are. Time in which several requests
    wait counts once, time in which a rate is kept does not count. Several threads may use it at once.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._since = self._waited = 0.0
        self._asking = 0

    @contextmanager
    def waiting(self, *, writes: bool) -> Iterator[float]:
        """Count the time of a request, which begins at the time that is given. After one that writes the next look begins."""
        start = self._count(1)
        try:
            yield start
        finally:
            self._count(-1, anew=writes)

    @contextmanager
    def not_waiting(self) -> Iterator[None]:
        """Leave out a part of the time of a request."""
        self._count(-1)
        try:
            yield
        finally:
            self._count(1)

    def _count(self, more: int, *, anew: bool = False) -> float:
        with self._lock:
            now = self._clock()
            passed = now - self._since if self._asking else 0.0
            self._waited = 0.0 if anew else self._waited + passed
            self._since, self._asking = now, self._asking + more
            return now

    def raise_if_over(self, host: str) -> None:
        """Raise RemoteError once the time is over."""
        if self._waited >= LOOK:
            minutes = f"{LOOK / 60:.0f} minutes"
            raise RemoteError(f"{host} took more than {minutes} for what is read in one look, so it is asked nothing more")


class DeadlineNetwork(httpcore.NetworkBackend):
    """Connections that keep to a deadline, over a network backend that has none."""

    def __init__(self, inner: httpcore.NetworkBackend, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        wait = self._deadline.within(timeout, httpcore.ConnectTimeout)
        return _DeadlineStream(self._inner.connect_tcp(host, port, wait, local_address, socket_options), self._deadline)


class _DeadlineStream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        wait = self._deadline.within(timeout, httpcore.ReadTimeout)
        while self._deadline.can_stop and wait > _SLICE:
            try:
                return self._inner.read(max_bytes, _SLICE)
            except httpcore.ReadTimeout:  # nothing was read, so this can be asked again
                self._deadline.raise_if_stopped()
                wait -= _SLICE
        return self._inner.read(max_bytes, wait)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._deadline.within(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        wait = self._deadline.within(timeout, httpcore.ConnectTimeout)
        return _DeadlineStream(self._inner.start_tls(ssl_context, server_hostname, wait), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
