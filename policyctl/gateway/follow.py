"""From one set of policies to the next, while requests are answered."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Protocol

from policyctl.errors import InvalidInput, PolicyctlError
from policyctl.gateway.apart import Apart
from policyctl.gateway.app import Follow, GatewayApp
from policyctl.gateway.callers import CallerKeys
from policyctl.gateway.table import RouteTable

_SHARE_SECONDS = 1.0  # between two times that a worker gives its counters to the others
_READINGS = 5  # of policies that change while they are read
_KEYS_SECONDS = 1.0  # between two readings of keys, at most
_PART = 0.1  # of a processor's time is spent on looking, at most


class Followed(Protocol):
    """Where policies come from. The methods are called in a thread."""

    every: float  # seconds between two looks

    def signature(self) -> object:
        """A value that differs once the policies may have changed; None if only loading shows it."""
        ...

    def load(self) -> RouteTable:
        """The policies as they are now. Raises PolicyctlError when they are not fit to be used."""
        ...

    def keys(self) -> CallerKeys | None:
        """The keys of callers as they are now. Raises PolicyctlError as well."""
        ...


def begin(source: Followed) -> tuple[RouteTable, object]:
    """The policies to begin with, and their signature, for `following`. What changes while it is read is read again. Raises
    PolicyctlError."""
    for _ in range(_READINGS - 1):
        before = source.signature()
        table = source.load()
        if source.signature() == before:
            return table, before
        del table  # it may be large
    before = source.signature()  # it changes all the time: the first look finds what changes now
    return source.load(), before


def following(source: Followed, seen: object) -> Follow:
    """What keeps a gateway up to date. `seen` is the signature of the table that it begins with, see `begin`: a
    worker that is started much later looks before its first request."""
    due = time.monotonic() + source.every

    async def follow(app: GatewayApp, is_current: asyncio.Event) -> None:
        if time.monotonic() < due:
            is_current.set()
        else:
            await _take_keys(app, source)
        await asyncio.gather(_follow(app, source, seen, due, is_current), _follow_keys(app, source), _share(app))

    return follow


async def _share(app: GatewayApp) -> None:
    while True:
        app.observer.note(app.table.revision, app.refused is not None)
        with suppress(OSError):  # a full disk: the others miss the newest counts until there is space again
            app.observer.metrics.share()
        await asyncio.sleep(_SHARE_SECONDS)


async def _follow(app: GatewayApp, source: Followed, seen: object, due: float, is_current: asyncio.Event) -> None:
    while True:
        await asyncio.sleep(due - time.monotonic())
        apart, settled = Apart(), True
        try:
            now = await apart(source.signature)
            if now is None or now != seen or "policies" in app.refusals:  # what was refused may have been a passing fault
                seen = await _take(app, source, apart, now)
                settled = seen == now
        except PolicyctlError as error:
            _refuse(app, "policies", error)
        except Exception as error:  # noqa: BLE001 - whatever a source raises, the requests go on
            _refuse(app, "policies", PolicyctlError(f"{type(error).__name__} while reading the policies"))
        if settled:
            is_current.set()
        # Without a pause while it runs what the gateway began with: what changes all the time could take minutes to settle.
        due = time.monotonic() + max(source.every, apart.worked / _PART if is_current.is_set() else 0)


async def _follow_keys(app: GatewayApp, source: Followed) -> None:
    """Keys by themselves: one that was withdrawn is not taken while policies cannot be read."""
    while True:
        await asyncio.sleep(min(source.every, _KEYS_SECONDS))
        await _take_keys(app, source)


async def _take_keys(app: GatewayApp, source: Followed) -> None:
    try:
        app.keys = await Apart()(source.keys)
    except PolicyctlError as error:
        _refuse(app, "keys", error)
    except Exception as error:  # noqa: BLE001 - as for policies
        _refuse(app, "keys", PolicyctlError(f"{type(error).__name__} while reading the keys"))
    else:
        app.refusals.pop("keys", None)


async def _take(app: GatewayApp, source: Followed, apart: Apart, signature: object) -> object:
    """Load, and swap if nothing changed meanwhile; the signature of what is in use now."""
    try:
        table = await apart(source.load)
    except PolicyctlError as error:
        _refuse(app, "policies", error)
        return signature
    if signature is not None and await apart(source.signature) != signature:
        return object()  # it changed while it was read: look again
    if app.refusals.pop("policies", None) is not None or table.snapshot != app.table.snapshot:
        app.table = table
        app.observer.log("info", "policies", revision=table.revision, policies=len(table.policies))
        report_unreachable(app)
    return signature


def _refuse(app: GatewayApp, what: str, error: PolicyctlError) -> None:
    """Keep the policies or keys in use, and show why; once for each reason."""
    shown = [str(problem) for problem in error.problems[:5]] if isinstance(error, InvalidInput) else [str(error)]
    reason = "; ".join(shown)
    if reason != app.refusals.get(what):
        app.refusals[what] = reason
        app.observer.log("error", "refused", reason=reason, revision=app.table.revision)


def report_unreachable(app: GatewayApp) -> None:
    """Log the models that policies target and that cannot be called, and the policies that cannot be run."""
    for model, why in app.table.unreachable.items():
        app.observer.log("warning", "no upstream", model=model, reason=why)
    for policy, why in app.table.left_out.items():
        app.observer.log("warning", "left out", policy=policy, reason=why)
