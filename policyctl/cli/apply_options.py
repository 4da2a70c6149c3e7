"""What only apply has: the digest of what was approved, a reason to write in a deny window, and gateways to wait for."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial, wraps
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from policyctl.cli.github_actions import repository_path
from policyctl.cli.options import NumberRange, Options
from policyctl.cli.selection import Overrides
from policyctl.errors import Incomplete, PolicyctlError, Refused, RemoteError, StalePlan, UsageError
from policyctl.load.environment import Environment
from policyctl.load.urls import http_url_error
from policyctl.load.windows import writing_at, writing_by_hand
from policyctl.plan.settings import Override
from policyctl.policy.document import revision_of
from policyctl.policy.findings import listed
from policyctl.reconcile.apply import ApplySettings
from policyctl.reconcile.observe import observe

if TYPE_CHECKING:
    from policyctl.cli.console import Console
    from policyctl.cli.session import Session
    from policyctl.plan.plan import Plan
    from policyctl.remote.http import HttpClient

_BETWEEN = 0.25  # seconds between two looks


_EXPECTED = re.compile(r"(none)|(sha256:[0-9a-f]{64})(?:@(sha256:[0-9a-f]{64}))?")
LED_ELSEWHERE = "remote, auth or ca_file is another one"  # so nothing logs in


class Expectation(NamedTuple):
    """What may be applied: the plan with this digest (`none`: only one without changes), and where `access` is not empty, only
    with this way to the remote (see `access_at`)."""

    digest: str
    access: str = ""

    def raise_if_led_elsewhere(self, now: Callable[[], str]) -> None:
        """Raise StalePlan if the remote is reached in another way `now`. Call it before anything logs in."""
        if self.access and (found := now()) != self.access:
            raise StalePlan(
                f"{LED_ELSEWHERE} than the approved one, so nothing logged in: the hash of the way there is {found}, not "
                f"{self.access}; read these settings in policyctl.yaml, then plan again"
            )


def expectation(_: click.Context, __: click.Parameter, text: str | None) -> Expectation | None:
    """The value of --expect-digest. Raises UsageError for an impossible digest. An empty one counts as impossible: a missing
    step output is not an approval."""
    if text is None:
        return None
    if (found := _EXPECTED.fullmatch(text)) is None:
        raise UsageError(
            "--expect-digest takes sha256: and 64 hexadecimal digits, as plan --format json prints them, or none; with @ and "
            "the access printed there, it holds for that way to the remote only"
        )
    return Expectation(found[1] or found[2], found[3] or "")


class FirstWrite:
    """Notes something directly before the first write of an apply. For several threads."""

    def __init__(self, note: Callable[[], object], finish: Callable[[], object] = lambda: None) -> None:
        """`note` raises PolicyctlError if it cannot be noted, as does `finish`, which notes that everything was written."""
        self._note, self._finish, self._lock, self._is_noted = note, finish, Lock(), False
        self._failed: PolicyctlError | None = None

    def __call__(self) -> None:
        """Call it before each write. Raises PolicyctlError if it cannot be noted: then nothing must be written."""
        with self._lock:
            if self._failed is not None:
                raise self._failed
            if self._is_noted:
                return
            try:
                self._note()
            except PolicyctlError as error:
                self._failed = error
                raise
            self._is_noted = True

    def ended(self, code: int, console: Console) -> int:
        """The exit code of the apply. If that is 0, note that everything was written, where it was noted that it began; why
        that cannot be noted is reported."""
        try:
            if code == 0 and self._is_noted:
                self._finish()
        except PolicyctlError as error:
            console.say(f"it cannot be noted that all of it was written: {error}")
        return code


def use_of(options: Options, uses: Sequence[str]) -> FirstWrite:
    """What notes that a run `uses` approvals: of what is chosen (see `Subject.name`), by these pull requests. With nothing to
    use it notes nothing."""
    if not uses:
        return FirstWrite(lambda: None)
    from policyctl.cli.ci.merges import note_finished_use, note_use  # imports HTTP

    name, *sources = uses
    what = os.environ, name, repository_path(str(options.dir)), sources
    return FirstWrite(partial(note_use, *what), partial(note_finished_use, *what))


def with_windows(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --outside-window, in its `overrides`."""

    @click.option(
        "--outside-window",
        "outside",
        metavar="REASON",
        help="Apply although a deny window is open (see watch.windows); the audit has the reason.",
    )
    @wraps(function)
    def wrapper(*args: Any, outside: str | None, overrides: Overrides, **more: Any) -> Any:
        if outside is not None and not outside.strip():
            raise UsageError("--outside-window needs a reason, which the audit keeps")
        overrides.outside = outside or ""
        return function(*args, overrides=overrides, **more)

    return wrapper


def within_windows(settings: ApplySettings, environment: Environment, reason: str | None) -> ApplySettings:
    """The settings of an apply that asks the windows of an environment directly before its first write.

    A `reason` is why a person writes in a deny window; empty for none. None is for what writes by itself: it keeps to every
    window. The apply raises Refused where a window does not let it write, PolicyctlError if windows cannot be judged.
    """
    return replace(settings, admit=partial(_admit, environment, reason))


def _admit(environment: Environment, reason: str | None) -> tuple[Override, ...]:
    asked = writing_at if reason is None else writing_by_hand
    writing = asked(environment.watch.windows, datetime.now(UTC))
    if writing.allowed:
        return ()
    if not reason:
        remedy = "" if reason is None else "; wait, or give a reason with --outside-window REASON"
        raise Refused(f"nothing was written to {environment.name}: {writing.why}{remedy}")
    return (Override("--outside-window", "", reason),)


def _addresses(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...]:
    found = tuple(one.strip().rstrip("/") for one in (text or "").split(",") if one.strip())
    for url in found:
        if complaint := http_url_error(url):
            raise click.BadParameter(f"{url} {complaint}")
    if text is not None and not found:
        raise click.BadParameter("name at least one gateway: http://127.0.0.1:4400")
    return found


def with_gateways(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give apply --wait-gateways, as its argument `gateways`. Decorate the function itself with it.

    Raises UsageError with several environments.
    """

    @click.option(
        "--wait-gateways",
        "gateways",
        callback=_addresses,
        metavar="URL,…",
        help="Once all is applied, wait until each of these gateways (policyctl gateway --remote) runs it.",
    )
    @click.option(
        "--wait-seconds",
        "seconds",
        type=NumberRange(min=0),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for the gateways.",
    )
    @wraps(function)
    def wrapper(options: Options, *args: Any, gateways: tuple[str, ...], seconds: float, **given: Any) -> Any:
        if gateways and (given["chosen"].several or given["resume"]):
            raise UsageError("--wait-gateways is for one environment: a gateway runs the policies of one remote")
        return function(options, *args, gateways=AwaitedGateways(gateways, seconds), **given)

    return wrapper


class AwaitedGateways(NamedTuple):
    """The gateways to wait for, and for how long."""

    urls: tuple[str, ...] = ()
    seconds: float = 0

    def after(self, code: int, session: Session, plan: Plan) -> int:
        """The exit code of an apply: if that is 0, once each runs what is live on the remote of a session now that a plan was
        applied there. Raises Incomplete if one does not in time."""
        if not self.urls or code:
            return code
        with session.whole.reader() as reader:
            observed = observe(reader)
        normals = ({name: one.normal for name, one in found.items()} for found in (observed.policies, observed.models))
        changed = frozenset(change.name for change in plan.changes if change.kind == "model")
        _wait_for(self.urls, Wanted(revision_of(*normals), changed), self.seconds)
        return code


class Wanted(NamedTuple):
    """What gateways are to run: the revision of a remote, and the models that were changed there."""

    revision: str
    models: frozenset[str] = frozenset()


class GatewayState(NamedTuple):
    """What a gateway reports: the revisions that its workers run, why one refused a newer one, and which models files of its
    own have called in another way; or why it cannot be asked."""

    revisions: frozenset[str] = frozenset()
    refused: str = ""
    problem: str = ""
    own: frozenset[str] = frozenset()

    def why_not(self, wanted: Wanted) -> str:
        """Why it does not run what is wanted; empty if it does."""
        if self.problem:
            return self.problem
        if self.revisions == {wanted.revision}:
            own = sorted(self.own & wanted.models)
            return f"calls {listed(own)} as files in its own directory have it; update these" if own else ""
        return f"runs {listed(sorted(self.revisions))}" + (
            f", because it refused what is newer: {self.refused}" if self.refused else ""
        )


def _wait_for(gateways: Sequence[str], wanted: Wanted, seconds: float) -> None:
    """Wait until every gateway runs what is wanted. Raises Incomplete, with each that does not and why, once time is over."""
    from policyctl.remote.http import HttpClient
    from policyctl.remote.protocol import Backoff
    from policyctl.remote.redaction import Redactor

    end, left = time.monotonic() + seconds, list(gateways)
    with closing(HttpClient(Redactor(), patience=Backoff(tries=1))) as client:
        while left:
            states = {url: _state_of(url, client) for url in left}
            left = [url for url in left if states[url].why_not(wanted)]
            if left and time.monotonic() >= end:
                shown = "; ".join(f"{url} {states[url].why_not(wanted)}" for url in left)
                runs = f"runs {wanted.revision} after {seconds:g} s"
                raise Incomplete(f"everything is applied, but not every gateway {runs}: {shown}")
            if left:
                time.sleep(_BETWEEN)  # a gateway does not notify: it is asked again


def _state_of(url: str, client: HttpClient) -> GatewayState:
    """What the gateway at a URL reports."""
    from policyctl.remote.http import Request

    try:
        answer = client.send(Request("GET", f"{url}/readyz"))
    except RemoteError as error:
        return GatewayState(problem=f"cannot be asked: {error}")
    found = answer.content
    if not answer.good or not isinstance(found, dict) or not isinstance(found.get("revision"), str):
        return GatewayState(problem="does not answer as a gateway; check the address")
    revisions, own = (
        frozenset(map(str, names)) if isinstance(names := found.get(key), list) else frozenset[str]()
        for key in ("revisions", "own_models")
    )
    return GatewayState(revisions | {found["revision"]}, str(found.get("refused") or ""), own=own)
