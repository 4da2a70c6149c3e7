"""Requests over HTTP, with timeouts, repeated where that is safe, and every failure as one clear line.

It is safe to repeat a read, a request that was never sent, and one refused with 429, or with 503 and a `Retry-After`. A write
that was sent but not answered, or answered by a failing gateway, may have happened: that raises LostAnswer, and the caller
looks before writing again (see manual/architecture.md, safety rule 6).
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Mapping
from enum import Enum, auto
from functools import cache, partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from policyctl import __version__
from policyctl.errors import LostAnswer, RemoteError
from policyctl.load.atomic import read_bounded
from policyctl.load.urls import is_loopback
from policyctl.remote.protocol import Backoff
from policyctl.remote.redaction import Redactor, hide_proxies
from policyctl.remote.responses import (
    ENCODING,
    BadContent,
    Deadline,
    DeadlineNetwork,
    ResponseTooLarge,
    content_of,
    describe,
    is_quota,
    read_whole,
    retry_after,
)

MAX_CERTIFICATES = 8 * 1024 * 1024  # bytes of a ca_file
TIMEOUT = httpx.Timeout(60.0, connect=10.0)  # seconds of each single wait
WHOLE = 120.0  # seconds until a response must be complete
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
Read = Callable[[Path, int], bytes]


class Request(NamedTuple):
    """One request to send: `query` as pairs in order, a JSON body or a form, extra headers.

    `secrets` are texts of the body that no message may show, whatever the answer repeats of it.
    """

    method: str
    url: str
    query: tuple[tuple[str, str], ...] = ()
    body: Mapping[str, Any] | None = None
    form: Mapping[str, str] | None = None
    headers: Mapping[str, str] = MappingProxyType({})
    secrets: tuple[str, ...] = ()


class Response(NamedTuple):
    """A complete response, and its JSON value if it is a success (None if empty)."""

    response: httpx.Response
    content: Any

    @property
    def status(self) -> int:
        return self.response.status_code

    @property
    def good(self) -> bool:
        return self.response.is_success


class _Again(Exception):
    """A failure after which it is safe to retry; `error` is raised if that does not help."""

    def __init__(self, error: RemoteError, after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after


class HttpClient:
    """Sends requests; several threads may use it at once."""

    def __init__(
        self,
        scrub: Redactor,
        ca_file: Path | None = None,
        timeout: httpx.Timeout = TIMEOUT,
        patience: Backoff = Backoff(),
        network: httpcore.NetworkBackend | None = None,
        read: Read = read_bounded,
    ) -> None:
        """`ca_file` has authorities to trust besides the usual ones; `send` raises RemoteError if it is unusable.

        `network` replaces the system's network. `read` returns the content of a file.
        """
        self.scrub = scrub
        self._patience = patience
        self._deadline = Deadline(WHOLE, patience.clock)
        trust = partial(trusted, ca_file, read_bounded if ca_file is None else read)
        self._clients = _Clients(lambda way: _client(way, timeout, trust), self._deadline, network)
        hide_proxies(scrub)

    def send(self, ask: Request, *, writes: bool = False) -> Response:
        """The response, whatever its status, except those that mean "later" or "broken", which are retried or raised.

        Raises LostAnswer for a write (`writes`) that may have happened, RemoteError without a response.
        """
        waiting, clock, tried = self._patience.begin(), self._patience.clock, list[str]()
        start = clock()
        while True:
            began = clock()
            try:
                return self._once(ask, writes)
            except _Again as again:
                error, final, after = again.error, False, again.after
            except RemoteError as failure:
                error, final, after = failure, True, None
            tried.append(f"attempt {len(tried) + 1}, {began - start:.1f} s to {clock() - start:.1f} s: {error}")
            if final or not waiting.again(after):
                error.details = (f"{ask.method} {ask.url}", _by_way_of(ask.url), *tried)
                raise error from None

    def close(self) -> None:
        self._clients.close()

    def _once(self, ask: Request, writes: bool) -> Response:
        client = self._clients.one(_resend_rule(ask.url))
        self._deadline.begin()
        try:
            request = client.build_request(
                ask.method,
                ask.url,
                params=ask.query or None,
                content=None if ask.body is None else json.dumps(ask.body).encode(),
                data=ask.form,
                headers={**ask.headers, **({} if ask.body is None else {"Content-Type": "application/json"})},
            )
            response = read_whole(client.send(request, stream=True))
        except ResponseTooLarge as error:
            text = f"{host_of(ask.url)} answered with {error}"
            raise (LostAnswer if writes else RemoteError)(f"{text}; check the URL of the remote") from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise self._unanswered(error, ask, writes) from None
        return self._judge(response, ask, writes)

    def _judge(self, response: httpx.Response, ask: Request, writes: bool) -> Response:
        """A response that is an answer. Raises for one that means that something is broken or busy."""
        status = response.status_code
        if status < 400:
            return Response(response, self._content(response, ask, writes) if response.is_success else None)
        text, after = (
            f"{host_of(ask.url)} answered {describe(response, self.scrub.with_more(ask.secrets))}",
            retry_after(response),
        )
        refused = status == 429 or (status == 503 and after is not None)
        if refused and not is_quota(response):
            asks = "" if after is None else f" (asks to wait {after:.0f} s)"
            raise _Again(RemoteError(text + asks), after)
        if status >= 500 or status == 408:
            raise LostAnswer(text, after, slow=status == 504) if writes else _Again(RemoteError(text), after)
        return Response(response, None)

    def _content(self, response: httpx.Response, ask: Request, writes: bool) -> Any:
        try:
            return content_of(response)
        except BadContent as error:
            text = f"{host_of(ask.url)} answered {response.status_code} with {error}"
            if writes:
                raise LostAnswer(text) from None
            if error.whole:
                raise RemoteError(f"{text}; check the URL of the remote, and the proxies in between") from None
            raise _Again(RemoteError(text)) from None

    def _unanswered(self, error: Exception, ask: Request, writes: bool) -> Exception:
        """The error for a request without a complete response."""
        host = host_of(ask.url)
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return RemoteError(f"{host} has a certificate that is not trusted ({_reason(error)}); set ca_file to its authority")
        if isinstance(error, _UNSENT):
            return _Again(RemoteError(f"{host} cannot be reached: {self.scrub(_reason(error))}"))
        if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError | httpx.InvalidURL | UnicodeError):
            # Without the error's own message, which may quote a header.
            return RemoteError(f"{host} cannot be asked: the request cannot be written as HTTP")
        late = isinstance(error, httpx.TimeoutException)
        text = f"{host} did not answer in time" if late else f"{host} closed the connection before its answer was complete"
        return LostAnswer(text, slow=late) if writes else _Again(RemoteError(text))


def host_of(url: str) -> str:
    """The host and port of a URL, as a message names a service."""
    return httpx.URL(url).netloc.decode("ascii")


def _by_way_of(url: str) -> str:
    """The proxy that a request goes through, for a message."""
    proxy = proxy_for(url)
    return "no proxy" if proxy is None else f"proxy {proxy}"


def proxy_for(url: str) -> str | None:
    """The proxy that a request goes through, without the user and password in its URL; None without one."""
    parts = httpx.URL(url)
    proxies = {} if is_loopback(url) or proxy_bypass(parts.host) else getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return proxy.rpartition("@")[2].rpartition("//")[2] if proxy else None


def _reason(error: Exception) -> str:
    """A network error in short: `Connection refused`, `unable to get local issuer certificate`."""
    if isinstance(error, httpx.TimeoutException):
        return "no connection in time"
    text = str(error).partition(" (_ssl.c")[0]
    return text.rpartition("] ")[2].removeprefix("certificate verify failed: ") or type(error).__name__


class _Resend(Enum):
    """How requests reach their host."""

    FAR = auto()  # through the proxies that the environment names
    NEAR = auto()  # on this machine, so past them: a secret may be on its way in the clear
    NEAR_PLAIN = auto()  # also without TLS, so that no certificates are loaded


def _resend_rule(url: str) -> _Resend:
    if not is_loopback(url):
        return _Resend.FAR
    return _Resend.NEAR_PLAIN if url.startswith("http:") else _Resend.NEAR


def _client(way: _Resend, timeout: httpx.Timeout, trust: Callable[[], ssl.SSLContext]) -> httpx.Client:
    try:
        return httpx.Client(
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if way is _Resend.NEAR_PLAIN else trust(),
            timeout=timeout,
            trust_env=way is _Resend.FAR,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # none: no service may set what others are sent
            follow_redirects=False,  # a redirect must not take a token elsewhere
            headers={"User-Agent": f"policyctl/{__version__}", "Accept": "application/json", "Accept-Encoding": ENCODING},
        )
    except (ValueError, ImportError, httpx.InvalidURL):
        # Without the error's own message: a proxy's URL may have a password.
        raise RemoteError("the proxy in the environment variables cannot be used; check HTTPS_PROXY and similar ones") from None


class _ThreadClient(threading.local):
    """The clients of one thread."""

    def __init__(self) -> None:
        self.clients: dict[_Resend, httpx.Client] = {}


class _Clients:
    """Separate clients for each thread: threads that share a pool of connections wait for its lock."""

    def __init__(
        self, make: Callable[[_Resend], httpx.Client], deadline: Deadline, network: httpcore.NetworkBackend | None
    ) -> None:
        self._make = make
        self._deadline = deadline
        self._network = network
        self._mine = _ThreadClient()
        self._all: list[httpx.Client] = []

    def one(self, way: _Resend) -> httpx.Client:
        """This thread's client for that way."""
        client = self._mine.clients.get(way)
        if client is None:
            client = self._mine.clients[way] = self._make(way)
            _bind(client, self._deadline, self._network)
            self._all.append(client)
        return client

    def close(self) -> None:
        for client in self._all:
            client.close()


def _bind(client: httpx.Client, deadline: Deadline, network: httpcore.NetworkBackend | None) -> None:
    """Make the client's connections, also those through a proxy, keep to the deadline.

    httpx has no option for this, so this sets private attributes of its pools; a release without them fails here, at once.
    """
    transports: list[Any] = [client._transport, *client._mounts.values()]
    for pool in (transport._pool for transport in transports if transport is not None):
        pool._network_backend = DeadlineNetwork(network or pool._network_backend, deadline)


@cache  # reading the usual authorities takes 0.1 s, and apply opens a reader and then a writer
def trusted(ca_file: Path | None, read: Read) -> ssl.SSLContext:
    """The authorities to trust: the usual ones, and those of a `ca_file`. Raises RemoteError when they are unusable."""
    try:
        context = httpx.create_ssl_context()
    except OSError as error:
        raise RemoteError(f"SSL_CERT_FILE or SSL_CERT_DIR has no usable certificates: {error.strerror}") from None
    if ca_file is None:
        return context
    try:
        content = read(ca_file, MAX_CERTIFICATES)  # OpenSSL would read a device without end
        context.load_verify_locations(cadata=content.decode("ascii", "ignore"))  # other characters are comments
    except (ssl.SSLError, ValueError):
        raise RemoteError(f"ca_file {ca_file} has no certificate in PEM form") from None
    except OSError as error:
        raise RemoteError(f"ca_file {ca_file} cannot be read: {error.strerror}") from None
    return context
