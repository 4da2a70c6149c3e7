"""Requests over HTTP, with timeouts, repeated where that is safe, and every failure as one clear line; and responses.

It is safe to repeat a read, a request that was never sent, and one refused with 429, or with 503 and a `Retry-After`. A write
that was sent but not answered, or answered by a failing gateway, may have happened: that raises LostAnswer, and the caller
looks before writing again (see manual/architecture.md, safety rule 6).

Responses are read within bounds of size.
"""

from __future__ import annotations

import json
import ssl
import zlib
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache, cached_property
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from policyctl import __version__
from policyctl.errors import LostAnswer, RemoteError, Unreachable
from policyctl.load.source import read_bounded
from policyctl.load.urls import is_loopback, origin
from policyctl.remote import Backoff, RetryBudget
from policyctl.remote.hosts import Deadline, HostPace, Hosts, LookBudget, exchange
from policyctl.remote.redaction import Redactor, hide_proxies

_ENOUGH = 64 * 1024  # bytes of an answer of which only the status counts
MAX_CERTIFICATES = 8 * 1024 * 1024  # bytes of a ca_file
TIMEOUT = httpx.Timeout(60.0, connect=10.0)  # seconds of each single wait
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
ENCODING = "gzip"
_HEADERS = {
    "User-Agent": f"policyctl/{__version__}",
    "Accept": "application/json",
    "Accept-Encoding": ENCODING,
    "Connection": "keep-alive",
}
Read = Callable[[Path, int], bytes]


class Request(NamedTuple):
    """One request to send: `query` as pairs in order, a JSON body or a form, extra headers.

    `secrets` are texts of the body that no message may show, whatever the answer repeats of it. Reads `in_look` are also
    bounded together.
    """

    method: str
    url: str
    query: tuple[tuple[str, str], ...] = ()
    body: Mapping[str, Any] | None = None
    form: Mapping[str, str] | None = None
    headers: Mapping[str, str] = MappingProxyType({})
    secrets: tuple[str, ...] = ()
    in_look: bool = False


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

    def __init__(self, error: RemoteError, after: float | None = None, *, asks_for_pause: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after
        self.asks_for_pause = asks_for_pause


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
        hosts: Hosts | None = None,
    ) -> None:
        """`ca_file` has authorities to trust besides the usual ones; `send` raises RemoteError if it is unusable.

        `network` replaces the system's network. `read` returns the content of a file. With `hosts` the connections and the
        clock are those of that, and stay open on `close`.
        """
        self.scrub = scrub
        self.ca_file = ca_file
        self.hosts = hosts or Hosts(patience, network)
        self._own = hosts is None
        self._patience = self.hosts.patience
        self._look = LookBudget(self._patience.clock)
        self._timeout = {"timeout": timeout.as_dict()}
        self._read = read
        hide_proxies(scrub, self.hosts.proxies)

    def send(self, ask: Request, *, writes: bool = False) -> Response:
        """The response, whatever its status, except those that mean "later" or "broken", which are retried or raised.

        Raises LostAnswer for a write (`writes`) that may have happened, RemoteError without a response.
        """
        with self._look.waiting(writes=writes) as start:
            if ask.in_look:
                self._look.raise_if_over(host_of(ask.url))
            return self._sent(ask, writes, start)

    def _sent(self, ask: Request, writes: bool, start: float) -> Response:
        waiting, clock, tried = self._patience.begin(), self._patience.clock, list[str]()
        began, pace = start, self.hosts.pace(origin(ask.url))
        while True:
            self.hosts.deadline.raise_if_stopped()
            try:
                if not pace.is_free:
                    self._wait_for_turn(pace, waiting, ask.url)
                return self._once(ask, writes)
            except _Again as again:
                error, final, after = again.error, False, again.after
                asks = again.asks_for_pause
            except RemoteError as failure:
                error, final, after, asks = failure, True, None, False
            tried.append(f"attempt {len(tried) + 1}, {began - start:.1f} s to {clock() - start:.1f} s: {error}")
            wait = None if final else waiting.next(after)
            # Every request to the host waits, not only this one. After a pause that is too long to wait for, what a single
            # environment did is still read back.
            if asks and not (self._own and wait is None):
                pace.pause(clock(), after if after is not None else wait or 0.0)
            if wait is None:
                error.details = (f"{ask.method} {ask.url}", _by_way_of(ask.url), *tried)
                raise error from None
            self.hosts.deadline.sleep(wait)
            began = clock()

    def _wait_for_turn(self, pace: HostPace, waiting: RetryBudget, url: str) -> None:
        """Wait until the host may be asked. The time of a pause counts as that of the request, the time of a rate does not.

        Raises RemoteError for a pause that ends after the time of the request.
        """
        clock = self._patience.clock
        while (slot := pace.slot(now := clock())) > now:
            pause = pace.pause_left(now)
            if now + pause > waiting.end:
                most = f"the {self._patience.budget:.0f} s that a request waits"
                raise RemoteError(f"{host_of(url)} asked to be left alone for longer than {most}; try again later")
            waiting.end += slot - now - pause
            if pause:
                self.hosts.deadline.sleep(pause)
            if slot - now > pause:
                with self._look.not_waiting():
                    self.hosts.deadline.sleep(slot - now - pause)
            if self.hosts.tally is not None:
                self.hosts.tally.waited(origin(url), slot - now)
            if not pace.pause_left(clock()):
                return

    def close(self) -> None:
        if self._own:
            self.hosts.close()

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        return trusted(self.ca_file, self._read)

    def _once(self, ask: Request, writes: bool) -> Response:
        near = is_loopback(ask.url)
        trust = None if near and ask.url.startswith("http:") else self._trust  # loading certificates takes a while
        self.hosts.deadline.begin()
        status = "none"
        try:
            with self.hosts.client(trust, near=near) as client:
                response = read_whole(exchange(client, self._built(ask)))
            status = str(response.status_code)
        except ResponseTooLarge as error:
            text = f"{host_of(ask.url)} answered with {error}"
            raise (LostAnswer if writes else RemoteError)(f"{text}; check the URL of the remote") from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise self._unanswered(error, ask, writes) from None
        finally:
            if self.hosts.tally is not None:
                self.hosts.tally.asked(origin(ask.url), status)
        return self._judge(response, ask, writes)

    def _built(self, ask: Request) -> httpx.Request:
        return httpx.Request(
            ask.method,
            ask.url,
            params=ask.query or None,
            content=None if ask.body is None else json.dumps(ask.body).encode(),
            data=ask.form,
            headers={**_HEADERS, **ask.headers, **({} if ask.body is None else {"Content-Type": "application/json"})},
            extensions=self._timeout,
        )

    def _judge(self, response: httpx.Response, ask: Request, writes: bool) -> Response:
        """A response that is an answer. Raises for one that means that something is broken or busy."""
        status = response.status_code
        if status < 400:
            return Response(response, self._content(response, ask, writes) if response.is_success else None)
        text = f"{host_of(ask.url)} answered {describe(response, self.scrub.with_more(ask.secrets))}"
        after = retry_after(response)
        refused = status == 429 or (status == 503 and after is not None)
        if refused and not is_quota(response):
            asks = "" if after is None else f" (asks to wait {after:.0f} s)"
            raise _Again(RemoteError(text + asks), after, asks_for_pause=True)
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
            return _Again(Unreachable(f"{host} cannot be reached: {self.scrub(_reason(error))}"))
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


def trusted(ca_file: Path | None, read: Read) -> ssl.SSLContext:
    """The authorities to trust: the usual ones, and those of a `ca_file`. Raises RemoteError when they are unusable."""
    if ca_file is None:
        return _context_with(None, None)
    try:
        content = read(ca_file, MAX_CERTIFICATES)  # OpenSSL would read a device without end
    except OSError as error:
        _usual_authorities()  # if those are unusable too, that is reported first
        raise RemoteError(f"ca_file {ca_file} cannot be read: {error.strerror}") from None
    return _context_with(content, ca_file)


@cache  # reading the usual authorities takes 0.1 s
def _context_with(content: bytes | None, ca_file: Path | None) -> ssl.SSLContext:
    """The usual authorities, and those in the `content` of a `ca_file`. Raises RemoteError when they are unusable."""
    context = _usual_authorities()
    if content is None:
        return context
    try:
        context.load_verify_locations(cadata=content.decode("ascii", "ignore"))  # other characters are comments
    except (ssl.SSLError, ValueError):
        raise RemoteError(f"ca_file {ca_file} has no certificate in PEM form") from None
    return context


def _usual_authorities() -> ssl.SSLContext:
    """The authorities that any program trusts here. Raises RemoteError when those of the environment variables are unusable."""
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise RemoteError(f"SSL_CERT_FILE or SSL_CERT_DIR has no usable certificates: {error.strerror}") from None


def post_once(url: str, content: bytes, headers: Mapping[str, str], seconds: float) -> int:
    """Post JSON once, all of it within so many seconds, and return the status of the answer. Redirects are not followed.

    Raises RemoteError without an answer. Its message has no part of the URL, which may be a secret.
    """
    hosts, near = Hosts(), is_loopback(url)
    hosts.deadline = Deadline(seconds, hosts.patience.clock)
    hosts.deadline.begin()
    trust = None if url.startswith("http:") else ssl.create_default_context()
    # The connection ends with the answer: on one that was kept, it is not known whether a message that fails has arrived.
    every = {**_HEADERS, "Content-Type": "application/json", **headers, "Connection": "close"}
    try:
        with hosts.client(trust, near=near) as client:
            response = exchange(client, httpx.Request("POST", url, content=content, headers=every))
            with closing(response), suppress(httpx.HTTPError):  # the status decides
                next(response.iter_raw(_ENOUGH), None)
            return response.status_code
    except _UNSENT as error:
        unsafe = "CERTIFICATE_VERIFY_FAILED" in str(error)
        reason = "its certificate is not trusted" if unsafe else _reason(error)
        raise RemoteError(f"it cannot be reached: {reason}") from None
    except httpx.TimeoutException:
        raise RemoteError("it did not answer in time") from None
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError):
        raise RemoteError("it closed the connection before it answered") from None
    finally:
        hosts.close()


MAX_LIST = 64 * 1024 * 1024  # bytes of an answer to a GET, unpacked
MAX_ROW = 16 * 1024 * 1024  # bytes of any other answer
_SMALL = 256 * 1024  # bytes that may be in memory twice


class ResponseTooLarge(Exception):
    """A body that is not read to its end; the message completes "it answered 200 with …"."""


def read_whole(response: httpx.Response) -> httpx.Response:
    """The response with its body in memory, unpacked. Raises ResponseTooLarge for an oversized body of a success.

    An oversized body of a failure is dropped: it is not needed, and a part of it could end within a secret. A response with
    two lengths is refused, as RFC 9112 (6.3) allows: its end is unknown, so it could include the next response.
    """
    if "Content-Length" in response.headers and "Transfer-Encoding" in response.headers:
        response.close()
        raise ResponseTooLarge("two lengths, Content-Length and Transfer-Encoding")
    if _is_small(response):
        response.read()
        return response
    try:
        content = _content(response)
    except ResponseTooLarge:
        if response.is_success:
            raise
        content = b""
    finally:
        response.close()
    kept = [(name, value) for name, value in response.headers.raw if name.lower() not in _OF_THE_BODY]
    extensions = {"reason_phrase": response.extensions.get("reason_phrase", b"")}
    return httpx.Response(response.status_code, headers=kept, content=content, request=response.request, extensions=extensions)


def _is_small(response: httpx.Response) -> bool:
    """Whether a body declares a small size, which HTTP enforces, and is not compressed, as most are."""
    size = response.headers.get("Content-Length", "")
    is_number = size.isascii() and size.isdigit() and len(size) <= 20  # as long as HTTP libraries take them
    return is_number and int(size) <= _SMALL and "Content-Encoding" not in response.headers


_OF_THE_BODY = (b"content-encoding", b"content-length", b"transfer-encoding")


def _content(response: httpx.Response) -> bytes:
    most = MAX_LIST if response.request.method == "GET" else MAX_ROW
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", ENCODING):
        raise ResponseTooLarge(f"a body in an encoding that was not asked for ({encoding[:40]!r})")
    body = BytesIO()  # not a list of pieces, which would be in memory beside the whole
    for piece in response.iter_raw():
        if body.tell() + len(piece) > most:
            raise _too_large(most)
        body.write(piece)
    content = body.getvalue()
    return content if encoding == "identity" else _unpacked(content, most)


def _unpacked(content: bytes, most: int) -> bytes:
    """Decompress gzip, at most `most` bytes (guards against zip bombs)."""
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        unpacked = unpacker.decompress(content, most + 1)
    except zlib.error:
        raise ResponseTooLarge("a body that is not valid gzip") from None
    if len(unpacked) > most:
        raise _too_large(most)
    if content and not unpacker.eof:
        raise ResponseTooLarge("a body that is cut short")
    return unpacked


def _too_large(most: int) -> ResponseTooLarge:
    return ResponseTooLarge(f"more than {most // (1024 * 1024)} MiB, more than any list of policies needs")


MAX_MEMORY = 1024 * 1024 * 1024  # bytes, estimated from above; 64 MiB of policies need less
MAX_DEPTH = 200  # as in a file
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class TooLargeJson(Exception):
    """JSON that is too large to read; the message completes "it answered 200 with …"."""


def read_bounded_json(content: bytes) -> Any:
    """The value of a JSON text. Raises TooLargeJson, before parsing if possible, or ValueError."""
    count = content.count
    # The memory in CPython of an object, a list, a value with its slot, and of each character if one is an emoji.
    memory = 232 * count(b"{") + 88 * count(b"[") + 80 * (count(b",") + count(b":")) + 4 * len(content)
    if memory > MAX_MEMORY:
        raise TooLargeJson(f"so many values that they would take more than {MAX_MEMORY >> 30} GiB of memory")
    deep = _may_be_deep(content)
    try:
        value = json.loads(content)
    except RecursionError:
        raise _too_deep() from None
    if deep and _is_deep(value):
        raise _too_deep()
    return value


def _too_deep() -> TooLargeJson:
    return TooLargeJson(f"JSON that is nested more than {MAX_DEPTH} deep")


def _may_be_deep(content: bytes) -> bool:
    """Whether brackets remain after removing empty pairs that many times. Brackets in text count too."""
    brackets = content.translate(None, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        fewer = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(fewer) == len(brackets):
            break
        brackets = fewer
    return bool(brackets)


def _is_deep(value: Any) -> bool:
    layer = [value]
    for _ in range(MAX_DEPTH):
        inner = (item.values() if isinstance(item, dict) else item for item in layer if isinstance(item, dict | list))
        layer = [item for items in inner for item in items]
    return any(isinstance(item, dict | list) for item in layer)


QUOTA = "RESOURCE_QUOTA_EXCEEDED"
_LONGEST = 300  # characters of a server's message
# Where services put their message: IBM's API reference, its identity service, and its platform, in this order.
_WORDS = ("detail", "message", "error", "errorMessage", "error_description", "errors", "exception")


class BadContent(Exception):
    """A response that should be JSON and is not. `whole` means that it is something else, rather than cut short."""

    def __init__(self, what: str, *, whole: bool) -> None:
        super().__init__(what)
        self.whole = whole


def content_of(response: httpx.Response) -> Any:
    """The JSON value of an answer; None when it is empty. Raises BadContent."""
    if not response.content.strip():
        return None
    try:
        return read_bounded_json(response.content)
    except TooLargeJson as error:
        raise BadContent(str(error), whole=True) from None
    except ValueError:
        if _is_page(response):
            raise BadContent("an HTML page instead of JSON", whole=True) from None
        raise BadContent("text that is not whole JSON", whole=False) from None


def describe(response: httpx.Response, scrub: Callable[[str], str]) -> str:
    """`422 Unprocessable Entity: policy.targets: Field required`, the status with the server's message.

    `scrub` runs before the text is shortened, so that no part of a secret remains.
    """
    status = f"{response.status_code} {scrub(response.reason_phrase)}".strip()
    words = " ".join(scrub(_message_of(response)).split())
    words = words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "…"
    return f"{status}: {words}" if words else status


def is_quota(response: httpx.Response) -> bool:
    """Whether a 429 means that the tenant is full, so that waiting does not help, rather than too many requests."""
    try:
        content = content_of(response)
    except BadContent:
        return False
    detail = content.get("detail") if isinstance(content, dict) else None
    return QUOTA in (_code(detail), _code(content))


def retry_after(response: httpx.Response) -> float | None:
    """The seconds in a `Retry-After`, which is a number or a date; None without a usable one."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    until = _date(text)
    if until is None:
        return None
    now = _date(response.headers.get("Date", "")) or datetime.now(UTC)  # the server's own clock, if known
    return max(0.0, (until - now).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _code(value: Any) -> Any:
    return value.get("code") if isinstance(value, dict) else None


def _is_page(response: httpx.Response) -> bool:
    return "html" in response.headers.get("Content-Type", "").lower() or response.content.lstrip()[:1] == b"<"


def _message_of(response: httpx.Response) -> str:
    try:
        content = content_of(response)
    except BadContent as error:
        # As UTF-8, whatever encoding the header claims: some of Python's codecs fail, or never end.
        return str(error) if error.whole else response.content.decode("utf-8", "replace")
    return _message(content)


def _message(value: Any, depth: int = 4) -> str:
    """The text in an error's detail, which is a string, an object, or a list of either."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and depth:
        return "; ".join(filter(None, (_message(item, depth - 1) for item in value)))
    if not isinstance(value, dict) or not depth:
        return ""
    if isinstance(value.get("msg"), str):
        where = _field_of(value.get("loc"))
        return f"{where}: {value['msg']}" if where else value["msg"]
    found = (_message(value[key], depth - 1) for key in _WORDS if key in value)
    return next(filter(None, found), str(value.get("code") or ""))


def _field_of(location: Any) -> str:
    """`policy.targets.0`, from the list that locates an error in the request's body."""
    return ".".join(str(part) for part in location if part != "body") if isinstance(location, list) else ""
