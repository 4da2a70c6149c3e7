"""policyctl doctor: checks of what would stop a plan, from the configuration to the remote's answers."""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

import click

from policyctl import __version__
from policyctl.cli.console import Console
from policyctl.cli.environments import DATABASE_VARIABLE, open_queue
from policyctl.cli.options import AUDIT_VARIABLE, NAMES, Options, with_form, with_options
from policyctl.cli.session import Session, open_config, session_of
from policyctl.errors import InvalidInput, PolicyctlError, RemoteError, errors_in
from policyctl.load.environment import Config, listed_names
from policyctl.load.urls import Origin, is_http, is_loopback, origin
from policyctl.reconcile.audit import audit_record
from policyctl.reconcile.observe import observe
from policyctl.remote import Backoff, Reader
from policyctl.remote.open import Access, open_sender
from policyctl.report.format import Style, count, escape, json_text

if TYPE_CHECKING:
    from policyctl.remote.http import Request, Response
    from policyctl.remote.orchestrate import Sender


Status = Literal["ok", "warning", "failed", "not checked"]


_LOOKS: dict[Status, str] = {"ok": "green", "warning": "yellow", "failed": "red", "not checked": "dim"}

EPILOG = """\b
Example:
  policyctl doctor
  policyctl doctor --env prod
  policyctl doctor --env prod --format json | jq -r '.checks[] | select(.status != "ok").detail'"""


@click.command("doctor", epilog=EPILOG)
@with_form("text", "json")
@with_options(*NAMES)
def doctor(options: Options, form: str) -> int:
    """Check what a plan of the environment needs: configuration, files, git, secrets, the way to the remote, login, lists,
    clock and rate limit; and the queue and the audit record that environment variables name. Each line is ok, a warning, or
    what is wrong and what to do; what depends on a failed check is not checked. Only reads, and shows no secret.

    Exit code 1 means that something would stop a plan.
    """
    visit = Visit(options, Console(options))
    found = run_checks(visit)
    visit.console.result(_json(visit, found) if form == "json" else _text(found, visit.console.out_style))
    return 1 if any(one.status == "failed" for one in found.values()) else 0


def run_checks(visit: Visit) -> dict[str, CheckResult]:
    """Every check that applies, by name, in order."""
    found: dict[str, CheckResult] = {}
    for check in CHECKS:
        if check.service and hasattr(visit, "session") and not is_http(visit.session.url):
            continue
        if check.variable and not os.environ.get(check.variable):
            continue
        missing = [name for name in check.needs if name in found and found[name].status in ("failed", "not checked")]
        if missing:
            found[check.name] = CheckResult("not checked", f"needs {missing[0]}")
            continue
        try:
            found[check.name] = check.run(visit)
        except InvalidInput as error:
            problems = errors_in(error.problems)
            more = f"; and {len(problems) - 1} more, which policyctl validate shows" if len(problems) > 1 else ""
            found[check.name] = CheckResult("failed", f"{problems[0]}{more}")
        except PolicyctlError as error:
            found[check.name] = CheckResult("failed", str(error))
    if hasattr(visit, "reader"):
        visit.reader.close()
    return found


def _text(found: dict[str, CheckResult], style: Style) -> str:
    """A line for each check."""
    width = max(map(len, found))
    return "".join(
        f"{style.paint(f'{one.status:11}', _LOOKS[one.status])}  {name:{width}}  {escape(one.detail)}\n"
        for name, one in found.items()
    )


def _json(visit: Visit, found: dict[str, CheckResult]) -> str:
    """The same as JSON text."""
    session = getattr(visit, "session", None)
    data = {
        "format": "policyctl/doctor",
        "version": 1,
        "environment": session and session.environment.name,
        "remote": session and session.remote,
        "checks": [{"name": name, "status": one.status, "detail": one.detail} for name, one in found.items()],
    }
    return json_text(data)


_SECRETS = ("api_key", "password", "token")
_SLOW = 5.0  # seconds for a list
_PATIENCE = 10.0  # seconds for a connection
_SKEW = 60  # seconds between two clocks; tokens are replaced that long before their end
_ENDS_SOON = 14  # days
_FEW = 10  # requests


class CheckResult(NamedTuple):
    """What a check found."""

    status: Status
    detail: str


class Check(NamedTuple):
    """A check: its name, the names of those without which it means nothing, whether it is about a service, and the environment
    variable without which there is nothing to check."""

    name: str
    run: Callable[[Visit], CheckResult]
    needs: tuple[str, ...] = ()
    service: bool = False
    variable: str = ""


@dataclass
class Visit:
    """What is known so far. Each field is set by the check before those that use it."""

    options: Options
    console: Console
    config: Config = field(init=False)
    session: Session = field(init=False)
    reader: Reader = field(init=False)
    sender: _Recorder = field(init=False)

    @property
    def place(self) -> Origin:
        return origin(self.session.url)

    @property
    def proxy(self) -> str | None:
        """The proxy to the remote; name, port and certificate are then its business."""
        from policyctl.remote.http import proxy_for

        return proxy_for(self.session.url)


class _Recorder:
    """Sends requests, and keeps the last response."""

    def __init__(self, inner: Sender) -> None:
        self.inner = inner
        self.last: Response | None = None
        self.at = 0.0

    def send(self, ask: Request, *, writes: bool = False) -> Response:
        self.last, self.at = self.inner.send(ask, writes=writes), time.time()
        return self.last

    def close(self) -> None:
        self.inner.close()

    def header(self, *names: str) -> str | None:
        """The first of these headers that the last response has."""
        headers = self.last.response.headers if self.last is not None else {}
        return next((headers[name] for name in names if name in headers), None)


def _versions(_: Visit) -> CheckResult:
    return CheckResult("ok", f"{__version__}, Python {platform.python_version()}")


def _configuration(visit: Visit) -> CheckResult:
    visit.config = open_config(visit.options)
    environment = visit.config.environment(visit.options.environment)
    text = f"{visit.config.path or 'without policyctl.yaml'}, environment {environment.name}"
    if why := environment.suspended:
        return CheckResult("warning", f"{text}, which is suspended, so apply leaves it as it is: {why}")
    return CheckResult("ok", text)


def _url(visit: Visit) -> CheckResult:
    """The remote's URL; also that a secret may be sent there."""
    visit.session = session = session_of(visit.options, visit.config, visit.options.environment)
    own = session.environment.auth
    if own is not None and session.access.auth is None:
        return CheckResult("warning", f"{session.url}; auth is not sent there, only to the environment's own remote")
    if is_http(session.url) and own is None and not is_loopback(session.url):
        name = session.environment.name
        return CheckResult("warning", f"{session.url}; auth is not configured for environment {name}; add it in policyctl.yaml")
    return CheckResult("ok", session.url)


def _files(visit: Visit) -> CheckResult:
    loaded = visit.session.read(lenient=True).loaded
    if errors := errors_in(loaded.problems):
        raise InvalidInput(errors)
    if not loaded.desired:
        return CheckResult(
            "failed", f"{visit.options.dir} has no policy for this environment; write one, or choose another --dir"
        )
    return CheckResult("ok", f"{count(len(loaded.policies), 'policy')} in {visit.options.dir}")


def _git(visit: Visit) -> CheckResult:
    from policyctl.load.git.repository import find_repository  # imports subprocess

    repository = find_repository(visit.options.dir)
    if repository is None:
        return CheckResult("warning", f"{visit.options.dir} is not in a git repository; git init makes one")
    repository.output("rev-parse", "--git-dir")  # whether git is there and reads it
    if repository.is_shallow:
        return CheckResult("warning", f"{repository.top} is a shallow clone, so --base may not work; git fetch --unshallow")
    return CheckResult("ok", str(repository.top))


def _secrets(visit: Visit) -> CheckResult:
    """Whether each secret of auth can be read; never what it is."""
    from policyctl.remote.redaction import Credentials, Redactor

    access = visit.session.access
    if access.auth is None:
        return CheckResult("ok", "none is needed")
    credentials = Credentials(access.auth, Redactor(), access.base, read=access.read)
    references = [getattr(access.auth, name) for name in _SECRETS if credentials.has(name)]
    for name in _SECRETS:
        if credentials.has(name):
            credentials.secret(name)
    return CheckResult("ok", f"set: {', '.join(references)}")


def _dns(visit: Visit) -> CheckResult:
    if visit.proxy:
        return CheckResult("ok", f"left to the proxy {visit.proxy}")
    found = _addresses(visit.place)
    return CheckResult("ok", f"{visit.place.host} is {listed_names(found)}")


def _addresses(place: Origin) -> list[str]:
    """The addresses of a host's name. Raises RemoteError without any."""
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "not a name"
        raise RemoteError(f"{place.host} cannot be found: {why}; check the host of the remote, and the name server") from None
    return sorted({str(address[0]) for *_, address in found})


def _connection(visit: Visit) -> CheckResult:
    if visit.proxy:
        return CheckResult("ok", f"left to the proxy {visit.proxy}")
    began = time.monotonic()
    _opened(visit.place).close()
    return CheckResult("ok", f"{visit.place.host}:{visit.place.port} in {time.monotonic() - began:.3f} s")


def _opened(place: Origin) -> socket.socket:
    """A connection. Raises RemoteError when the port does not accept one."""
    try:
        return socket.create_connection((place.host, place.port or 0), _PATIENCE)
    except OSError as error:
        where = f"{place.host}:{place.port}"
        raise RemoteError(f"{where} cannot be reached: {_why(error)}; check that it runs, and firewalls in between") from None


def _why(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "reason", None) or error.strerror or "the connection was closed"


def _tls(visit: Visit) -> CheckResult:
    if visit.place.scheme == "http":
        near = is_loopback(visit.session.url)
        return (
            CheckResult("ok", "not used on this machine") if near else CheckResult("warning", "not used; take an https:// URL")
        )
    if visit.proxy:
        return CheckResult("ok", f"through the proxy {visit.proxy}, checked with the first request")
    days = _days_of_certificate(visit.place, visit.session.access)
    if days < _ENDS_SOON:
        return CheckResult("warning", f"the certificate of {visit.place.host} ends in {days:.0f} days; have it renewed")
    return CheckResult("ok", f"the certificate is trusted for {days:.0f} days")


def _days_of_certificate(place: Origin, access: Access) -> float:
    """The days until the service's certificate ends. Raises RemoteError for one that is not trusted."""
    import ssl

    from policyctl.remote.http import trusted

    context = trusted(access.authorities, access.read)
    with _opened(place) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=place.host) as secure:
                ends = (secure.getpeercert() or {}).get("notAfter")
        except ssl.SSLCertVerificationError as error:
            why = error.verify_message
            raise RemoteError(f"the certificate of {place.host} is not trusted: {why}; set ca_file to its authority") from None
        except OSError as error:
            where = f"{place.host}:{place.port}"
            raise RemoteError(f"{where} does not answer with TLS: {_why(error)}; is it an http:// service?") from None
    return (ssl.cert_time_to_seconds(str(ends)) - time.time()) / 86_400


def _login(visit: Visit) -> CheckResult:
    from policyctl.load.settings_file import login_type  # with pydantic behind it
    from policyctl.remote.login import LoginSession
    from policyctl.remote.orchestrate import OrchestrateReader

    session = visit.session
    # One try: a plan has more patience, and this is to show what fails.
    sender, scrub, remedy = open_sender(session.url, session.access, Backoff(tries=1, budget=0))
    visit.sender = _Recorder(sender)
    models = session.environment.settings.models
    visit.reader = OrchestrateReader(session.url, visit.sender, scrub, remedy, models=models)
    if not isinstance(sender, LoginSession) or session.access.auth is None:
        return CheckResult("ok", "requests are sent without one")
    began = time.monotonic()
    sender.log_in()
    kind = login_type(session.access.auth, session.url)
    if kind in ("bearer", "zen_api_key"):
        return CheckResult("ok", f"{kind}, which is sent with each request")
    return CheckResult("ok", f"{kind} in {time.monotonic() - began:.2f} s")


def _list(visit: Visit) -> CheckResult:
    if not hasattr(visit, "reader"):
        visit.reader = visit.session.reader()
    began = time.monotonic()
    observed = observe(visit.reader)
    seconds = time.monotonic() - began
    text = f"{count(len(observed.live), 'live policy')} in {seconds:.2f} s"
    if visit.session.environment.settings.models:
        text = f"{count(len(observed.policies), 'live policy')} and {count(len(observed.models), 'model')} in {seconds:.2f} s"
    if bad := len(observed.unreadable) + len(observed.twins):
        return CheckResult("warning", f"{text}; {count(bad, 'row')} cannot be used, see policyctl policy list")
    return CheckResult("warning", f"{text}, which is slow") if seconds > _SLOW else CheckResult("ok", text)


def _models(visit: Visit) -> CheckResult:
    began = time.monotonic()
    known = visit.reader.models()
    if not known:
        return CheckResult("warning", "the remote lists none, so targets are not checked")
    return CheckResult("ok", f"{count(len(known), 'model')} in {time.monotonic() - began:.2f} s")


def _clock(visit: Visit) -> CheckResult:
    """This machine's clock against the service's, by the second in which its last answer was made."""
    host = visit.place.host
    try:
        skew = visit.sender.at - parsedate_to_datetime(visit.sender.header("date") or "").timestamp()
    except (ValueError, OverflowError):
        return CheckResult("not checked", f"{host} sends no Date")
    if abs(skew) < _SKEW:
        return CheckResult("ok", f"agrees with that of {host}")
    way = "ahead of" if skew > 0 else "behind"
    return CheckResult("warning", f"{abs(skew):,.0f} s {way} that of {host}, so logins may fail; set the clock of this machine")


def _rate_limit(visit: Visit) -> CheckResult:
    left = visit.sender.header("ratelimit-remaining", "x-ratelimit-remaining")
    if left is None or not left.isdecimal():
        return CheckResult("not checked", f"{visit.place.host} does not send what is left")
    return CheckResult("warning" if int(left) < _FEW else "ok", f"{count(int(left), 'request')} left")


def _queue(_: Visit) -> CheckResult:
    queue = open_queue(make=False)
    workers = queue.workers()
    if not workers:
        why = "which has no queue yet" if workers is None else "where no worker is at work"
        return CheckResult("warning", f"{queue.identity}, {why}; start policyctl worker")
    return CheckResult("ok", f"{queue.identity}, with {count(workers, 'worker')}")


def _audit(_: Visit) -> CheckResult:
    record = audit_record(os.environ[AUDIT_VARIABLE])
    if not record.exists():
        return CheckResult("ok", f"{record.title} is made by the first apply")
    bad = sum(line.entry is None and not line.unfinished for line in record.lines())
    return (
        CheckResult("warning", f"{record.title} has {count(bad, 'line')} that cannot be read")
        if bad
        else CheckResult("ok", record.title)
    )


_WAY = ("url", "secrets", "dns", "connection", "tls", "login")

CHECKS = (
    Check("policyctl", _versions),
    Check("git", _git),
    Check("configuration", _configuration),
    Check("url", _url, ("configuration",)),
    Check("files", _files, ("configuration", "url")),
    Check("secrets", _secrets, ("url",), service=True),
    Check("dns", _dns, ("url",), service=True),
    Check("connection", _connection, ("url", "dns"), service=True),
    Check("tls", _tls, ("url", "connection"), service=True),
    Check("login", _login, _WAY[:-1], service=True),
    Check("list", _list, _WAY),
    Check("models", _models, ("url", "list")),
    Check("clock", _clock, ("url", "list"), service=True),
    Check("rate limit", _rate_limit, ("url", "list"), service=True),
    Check("queue", _queue, variable=DATABASE_VARIABLE),
    Check("audit", _audit, variable=AUDIT_VARIABLE),
)
