"""What a watch answers over HTTP: its status, its health, and hints that the files may have moved.

It is read by few and must never hold up the watch, so it is the server of the standard library, with bounds: so many
connections at once, so long each. A connection ends with its response.

The status is a page for people, and the same as JSON, whose schema is `schemas/status.schema.json`.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlencode

from policyctl.errors import PolicyctlError, where_raised
from policyctl.load.urls import host_in, is_loopback_host
from policyctl.report.format import count, json_text
from policyctl.report.plan_html import filled_page
from policyctl.watch import Board, EnvironmentStatus, SourceStatus, State

MOST_CONNECTIONS = 16
SECONDS = 15.0  # for a whole request and its response
TURN_SECONDS = 30.0  # a loop that did not turn for so long hangs
_MAX_BODY = 5 << 20
_POLL = 0.1  # seconds between two looks at how long connections are open
_TEXT, _HTML, _JSON = "text/plain; charset=utf-8", "text/html; charset=utf-8", "application/json"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Connection": "close",
}


class SiteAnswer(NamedTuple):
    """A response."""

    status: int
    body: bytes
    kind: str = _TEXT


class WatchSite(NamedTuple):
    """What is answered. `since_turn` is how many seconds ago the loop turned, `broken` the receivers of notifications that do
    not take them; `hint` is called when the files may have moved, if a request has `hook_secret` or is signed with it."""

    board: Board
    since_turn: Callable[[], float]
    metrics: Callable[[], bytes] = bytes
    broken: Callable[[], Sequence[str]] = tuple
    hint: Callable[[], None] = lambda: None
    hook_secret: Callable[[], str] | None = None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def get(self, path: str, query: str) -> SiteAnswer:
        """The answer to GET."""
        match path:
            case "/":
                page = status_html(self.board, self.now(), StatusQuery.of(query), self.broken())
                return SiteAnswer(200, page.encode(), _HTML)
            case "/status.json":
                return SiteAnswer(200, status_json(self.board, self.broken()).encode(), _JSON)
            case "/metrics":
                return SiteAnswer(200, self.metrics(), _METRICS)
            case "/livez":
                return _health([] if self.since_turn() < TURN_SECONDS else [f"the loop did not turn for {TURN_SECONDS:.0f} s"])
            case "/readyz":
                return _health(self._not_ready())
            case "/hook":
                return _text(405, "POST is needed")
        return _text(404, "not found")

    def _not_ready(self) -> list[str]:
        found = [] if self.board.source.revision or not self.board.leads else ["no revision was read yet"]
        return [*found, "stopping"] if self.board.stopping else found

    def post(self, path: str, headers: Any, body: bytes) -> SiteAnswer:
        """The answer to POST. Only a hint can be posted: what it contains is not looked at."""
        if path != "/hook" or self.hook_secret is None:
            return _text(404, "not found")
        try:
            secret = self.hook_secret()
        except PolicyctlError:
            return _text(503, "the secret of the hook cannot be read")
        if not is_hook_of(secret, headers, body):
            return _text(403, "the signature or the token is wrong")
        self.hint()
        return _text(202, "the files will be read soon")


def is_hook_of(secret: str, headers: Any, body: bytes) -> bool:
    """Whether the sender of a webhook has the secret: it signs, as GitHub and Forgejo do, or sends it as a token, as GitLab."""
    signed = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    given = ((headers.get("X-Hub-Signature-256"), signed), (headers.get("X-Gitlab-Token"), secret))
    return any(hmac.compare_digest((one or "").encode(), expected.encode()) for one, expected in given)


def _health(problems: list[str]) -> SiteAnswer:
    return _text(503, "; ".join(problems)) if problems else _text(200, "ok")


def _text(status: int, text: str) -> SiteAnswer:
    return SiteAnswer(status, f"{text}\n".encode())


class StatusServer(HTTPServer):
    """Answers in threads, of which there are few. A client that is slow does not keep others out: when all are taken, the
    oldest connection is closed.

    At a loopback address it shows itself to loopback names only: otherwise a web page whose name resolves to this machine (DNS
    rebinding) could read it through its visitor's browser.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, host: str, port: int, site: WatchSite, seconds: float = SECONDS) -> None:
        """Listen; `serving` answers. Raises PolicyctlError when that address cannot be had."""
        self.site = site
        self._seconds = seconds
        self._slots = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._open: dict[socket.socket, float] = {}  # when each connection began, the oldest first
        self._lock = threading.Lock()
        try:
            self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            super().__init__((host, port), _Handler)
        except OSError as error:
            reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
            raise PolicyctlError(f"cannot listen on {host} port {port}: {reason}; choose another --host or --port") from None

    def server_bind(self) -> None:
        """Listen, without looking up the name of the address, which may take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def admits(self, host: str) -> bool:
        """Whether a request with this Host header is shown anything."""
        return not is_loopback_host(self.socket.getsockname()[0]) or is_loopback_host(host_in(host) or "")

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def __enter__(self) -> StatusServer:
        """Answer until the end of the block."""
        threading.Thread(target=self.serve_forever, args=(_POLL,), name="status server", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # wakes the thread, where the system has it wake then, so that this need not wait for its look
            self.socket.shutdown(socket.SHUT_RDWR)
        self.shutdown()
        self.server_close()
        with self._lock:
            self._end([*self._open])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread."""
        if not self._slots.acquire(blocking=False):
            with self._lock:
                self._end([*self._open][:1])
            if not self._slots.acquire(timeout=1.0):
                self.shutdown_request(request)
                return
        with self._lock:
            self._open[request] = time.monotonic()
        threading.Thread(target=self._answer, args=(request, client_address), name="status request", daemon=True).start()

    def _answer(self, request: socket.socket, client_address: Any) -> None:
        try:
            with suppress(OSError):  # the client left
                self.finish_request(request, client_address)
        finally:
            with self._lock:
                del self._open[request]
            self.shutdown_request(request)
            self._slots.release()

    def service_actions(self) -> None:
        """Close what is open for too long. Called several times a second."""
        latest = time.monotonic() - self._seconds
        with self._lock:
            self._end([one for one, began in self._open.items() if began < latest])

    @staticmethod
    def _end(requests: Sequence[socket.socket]) -> None:
        for one in requests:
            with suppress(OSError):  # it ends by itself
                one.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: StatusServer
    server_version, sys_version = "policyctl", ""
    timeout = SECONDS

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if not self.server.admits(self.headers.get("Host") or ""):
            self._send(_text(403, "on a loopback address a watch answers to loopback names only; ask for 127.0.0.1"))
        else:
            self._answer(lambda: self.server.site.get(path, query))

    do_HEAD = do_GET  # noqa: N815 - the name that the library asks for

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length") or ""
        if not (length.isascii() and length.isdigit()):
            self._send(_text(411, "Content-Length is needed"))
        elif len(length) > 10 or int(length) > _MAX_BODY:
            self._send(_text(413, f"a body may have {_MAX_BODY:,} bytes"))
        else:
            body = self.rfile.read(int(length))
            if len(body) == int(length):
                # By whatever name: a hint is signed, and a proxy passes on the name that it was asked by.
                self._answer(lambda: self.server.site.post(self.path.partition("?")[0], self.headers, body))

    def _answer(self, asked: Callable[[], SiteAnswer]) -> None:
        """Send what the site answers. A bug is a line of the answer, and no traceback in the log for each request."""
        try:
            answer = asked()
        except Exception as error:  # noqa: BLE001 - whatever it is
            answer = _text(500, "a bug in policyctl: {error} at {at}".format(**where_raised(error)))
        self._send(answer)

    def _send(self, answer: SiteAnswer) -> None:
        self.send_response(answer.status, HTTPStatus(answer.status).phrase)
        for name, value in (*_HEADERS.items(), ("Content-Type", answer.kind), ("Content-Length", str(len(answer.body)))):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the method that this replaces
        """Nothing: probes come every few seconds."""


STATUS_VERSION = 1
REFRESH_SECONDS = 15
_ROWS = 200  # environments in sync that are shown at once; those that need a person are all shown, up to _MOST_ROWS
_MOST_ROWS = 2_000

# The gravest first: how a state is called, what it means, and how it is coloured.
STATES: dict[State, tuple[str, str, str]] = {
    State.FAILED: ("failing", "A look or an apply failed. It is tried again.", "remove"),
    State.REFUSED: ("refused", "A limit, a guard, a protection or a test holds the plan. It waits for a person.", "remove"),
    State.FIGHTING: ("fighting", "Another tool undoes what is applied, so nothing is applied any more.", "remove"),
    State.CONFLICT: ("in conflict", "Both the files and the remote moved. It waits for a person.", "remove"),
    State.DRIFTED: ("drifted", "The remote was edited since it was applied.", "update"),
    State.PENDING: ("pending", "The files moved, and are not applied yet.", "update"),
    State.SUSPENDED: ("suspended", "Left alone, as policyctl.yaml asks.", "rest"),
    State.IN_SYNC: ("in sync", "The remote is as the files are.", "add"),
}
_CALM = (State.SUSPENDED, State.IN_SYNC)
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


class StatusQuery(NamedTuple):
    """What a person asked the page for: words to search, one state, every row, and to be loaded again and again."""

    text: str = ""
    state: State | None = None
    whole: bool = False
    refresh: bool = False

    @classmethod
    def of(cls, query: str) -> StatusQuery:
        """The query of a URL. What it does not know is left out of account."""
        given = {key: values[-1] for key, values in parse_qs(query[:2_000]).items()}
        state = given.get("state", "")
        return cls(
            given.get("text", "")[:200].strip(),
            State(state) if state in [*State] else None,
            given.get("all") == "1",
            given.get("refresh") == "1",
        )

    def link(self, **other: Any) -> str:
        """The address of the page with some of this changed."""
        one = self._replace(**other)
        given = {
            "text": one.text,
            "state": one.state or "",
            "all": "1" if one.whole else "",
            "refresh": "1" if one.refresh else "",
        }
        query = urlencode({key: text for key, text in given.items() if text})
        return f"/?{query}" if query else "/"

    def fits(self, one: EnvironmentStatus) -> bool:
        """Whether an environment is among those that are asked for. Each word must be in its name, labels or reason."""
        if self.state is not None and one.state is not self.state:
            return False
        if not self.text:
            return True
        labels = " ".join(f"{key}={value}" for key, value in one.labels.items())
        searched = f"{one.name} {labels} {one.reason} {one.waits_for}".lower()
        return all(word in searched for word in self.text.lower().split())


class StatusRow(NamedTuple):
    """An environment on the page. Times are pairs: in words, and exactly."""

    name: str
    labels: tuple[str, ...]
    reason: str
    waits_for: str
    changes: str
    since: tuple[str, str]
    succeeded: tuple[str, str]
    next_look: tuple[str, str]


class StatusGroup(NamedTuple):
    """The environments of one state on the page; `left_out` is how many more there are."""

    state: State
    title: str
    meaning: str
    look: str
    rows: tuple[StatusRow, ...]
    left_out: int
    calm: bool


def status_html(board: Board, now: datetime, query: StatusQuery = StatusQuery(), broken: Sequence[str] = ()) -> str:
    """The page. `broken` are receivers of notifications that do not take them, each with why."""
    every = board.environments()
    chosen = [one for one in every if query.fits(one)]
    counts = Counter(one.state for one in every)
    return filled_page(
        "status.html",
        styles=["plan.css", "status.css"],
        forms="'self'",
        total=len(every),
        chosen=len(chosen),
        problems=sum(number for state, number in counts.items() if state not in _CALM),
        environments=count(len(every), "environment"),
        tiles=list(_tiles(counts, query)),
        notices=list(_notices(board, now, broken)),
        source=board.source,
        read=_ago(board.source.read_at, now),
        groups=list(_groups(chosen, query, now)),
        query=query,
        whole=query.link(whole=True),
        everything=query.link(text="", state=None, whole=False),
        refreshed=query.link(refresh=not query.refresh),
        refresh=REFRESH_SECONDS,
        now=_exact(now),
    )


def _tiles(counts: Counter[State], query: StatusQuery) -> Iterator[tuple[str, int, str, str, bool]]:
    """The counts at the top: how each is coloured, the number, what it counts, where it leads to, and whether it is chosen."""
    for state, (title, _, look) in STATES.items():
        if counts[state] or state in (State.FAILED, State.DRIFTED, State.IN_SYNC):
            chosen = query.state is state
            yield look, counts[state], title, query.link(state=None if chosen else state, whole=False), chosen


def _notices(board: Board, now: datetime, broken: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The messages above everything else: a word and a text."""
    source: SourceStatus = board.source
    if board.stopping:
        yield "stopping", "What was begun is finished; nothing new is begun."
    if source.error:
        since = (
            ""
            if source.read_at is None
            else f" They were last read {_ago(source.read_at, now)[0]}; what was read then is in use."
        )
        yield "failed", f"The files cannot be read: {source.error.rstrip('.')}.{since}"
    elif not source.revision:
        yield "starting", "The files are being read for the first time."
    yield from (("failed", f"Notifications do not arrive: {why}") for why in broken)


def _groups(chosen: Sequence[EnvironmentStatus], query: StatusQuery, now: datetime) -> Iterator[StatusGroup]:
    for state, (title, meaning, look) in STATES.items():
        found = [one for one in chosen if one.state is state]
        if found:
            found.sort(key=lambda one: (one.since, one.name))
            most = None if query.whole else _ROWS if state in _CALM else _MOST_ROWS
            rows = tuple(_row(one, now) for one in found[:most])
            yield StatusGroup(
                state, f"{len(found):,} {title}", meaning, look, rows, len(found) - len(rows), state is State.IN_SYNC
            )


def _row(one: EnvironmentStatus, now: datetime) -> StatusRow:
    return StatusRow(
        one.name,
        tuple(f"{key}={value}" for key, value in sorted(one.labels.items())),
        one.reason,
        one.waits_for,
        f"{one.changes:,}" if one.changes else "",
        _ago(one.since, now),
        _ago(one.succeeded_at, now),
        _ahead(one.next_look_at, now),
    )


def _ago(when: datetime | None, now: datetime) -> tuple[str, str]:
    """A time that was, in words and exactly."""
    return ("never", "") if when is None else (f"{length((now - when).total_seconds())} ago", _exact(when))


def _ahead(when: datetime | None, now: datetime) -> tuple[str, str]:
    """A time that will be, in words and exactly."""
    if when is None:
        return "", ""
    return ("now" if when <= now else f"in {length((when - now).total_seconds())}"), _exact(when)


def length(seconds: float) -> str:
    """A length of time in its largest unit, such as `3 h`."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds // size:,.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _exact(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"


def status_json(board: Board, broken: Sequence[str] = ()) -> str:
    """The status as JSON text."""
    source = board.source
    data = {
        "format": "policyctl/status",
        "version": STATUS_VERSION,
        "stopping": board.stopping,
        "source": {"revision": source.revision, "read_at": _moment(source.read_at), "error": source.error or None},
        "broken_receivers": [*broken],
        "environments": [_as_json(one) for one in board.environments()],
    }
    return json_text(data)


def _as_json(one: EnvironmentStatus) -> dict[str, Any]:
    return {
        "name": one.name,
        "state": one.state.value,
        "since": _moment(one.since),
        "labels": dict(sorted(one.labels.items())),
        "changes": one.changes,
        "digest": one.digest or None,
        "reason": one.reason or None,
        "waits_for": one.waits_for or None,
        "revision": one.revision or None,
        "looked_at": _moment(one.looked_at),
        "succeeded_at": _moment(one.succeeded_at),
        "next_look_at": _moment(one.next_look_at),
    }


def _moment(when: datetime | None) -> str | None:
    return None if when is None else _exact(when)
