"""Notifications: who hears of an environment that is in another state, once, even over a restart.

What is not delivered yet is in a file, and so is what was noted last of each environment. The file is written before anything
is sent, so a watch that is killed sends again only what it was sending.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from policyctl.errors import PolicyctlError, RemoteError
from policyctl.load.environment import Receiver
from policyctl.load.urls import http_url_error
from policyctl.policy.findings import listed
from policyctl.remote.redaction import resolve_secret
from policyctl.report.format import count
from policyctl.watch.memory import StateFiles
from policyctl.watch.status import State, Transition

FILE = "notifications.json"
FORMAT, SPOOL, VERSION = "policyctl/notification", "policyctl/notifications", 1
GATHER_SECONDS = 10.0  # what happens within it is one message
KEPT_SECONDS = 86_400.0  # a message that could not be delivered for so long is dropped
_FIRST, _FACTOR, _LONGEST = 5.0, 3.0, 900.0  # seconds between two attempts
_TIMEOUT = 10.0
_MOST_MESSAGES, _MOST_NAMED = 1_000, 1_000
_WORDS = {
    State.IN_SYNC: "in sync again",
    State.PENDING: "not applied yet",
    State.DRIFTED: "drifted",
    State.CONFLICT: "in conflict",
    State.FIGHTING: "fighting",
    State.REFUSED: "refused",
    State.FAILED: "failing",
    State.SUSPENDED: "suspended",
}


class Notifier:
    """Notifies receivers of transitions. Call it with each; `run` delivers in a thread of its own."""

    def __init__(
        self,
        receivers: Sequence[Receiver],
        state: StateFiles,
        base: Path = Path(),
        *,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`state` keeps what is not delivered yet; references to files are relative to `base`."""
        self._lock = threading.Condition()
        self._state, self._base, self._clock, self._chance = state, base, clock, chance
        self._gathered_at = 0.0
        self._why: dict[str, str] = {}  # why the last delivery to each receiver failed
        self._counts: Counter[tuple[str, str]] = Counter()
        # Of each environment its state and the digest of its plan, then the states that it was in since it was in sync;
        # messages; and what is gathered for the next one: by receiver and environment, what happened to it last.
        self._known, self._messages, self._events = _read(state)
        self._changed = self._stopping = False
        self._receivers = {one.name: one for one in receivers}

    def use(self, receivers: Sequence[Receiver], base: Path) -> None:
        """From now on these receivers. What waits for others is dropped. References to files are relative to `base`."""
        with self._lock:
            self._base = base
            self._receivers = {one.name: one for one in receivers}
            self._messages = [one for one in self._messages if one["receiver"] in self._receivers]
            self._events = {name: events for name, events in self._events.items() if name in self._receivers}

    def __call__(self, transition: Transition) -> None:
        """Note a transition; never waits for a receiver."""
        now = transition.now
        with self._lock:
            before, digest, *earlier = self._known.get(now.name, ("", ""))
            if (before, digest) == (now.state.value, now.digest):
                return
            calm = now.state is State.IN_SYNC
            self._known[now.name] = [now.state.value, now.digest, *(() if calm else {*earlier, now.state.value})]
            self._changed = True
            for one in self._receivers.values():
                if now.state.value in one.states and (not calm or {*earlier} & {*one.states}):
                    if not self._events:
                        self._gathered_at = self._clock() + GATHER_SECONDS
                    self._events.setdefault(one.name, {})[now.name] = _event(transition, before or None)
            self._lock.notify()

    def keep(self, names: frozenset[str]) -> None:
        """Forget the environments that are not among these any more."""
        with self._lock:
            if gone := self._known.keys() - names:
                self._changed = True
                for name in gone:
                    del self._known[name]

    def step(self, *, all_now: bool = False) -> float:
        """Deliver what is due, everything with `all_now`. Returns the seconds until something else is; at most a minute."""
        now = self._clock()
        with self._lock:
            if self._events and (all_now or now >= self._gathered_at):
                self._enqueue(now)
            due = [one for one in self._ready() if all_now or one["next_at"] <= now]
            self._save()
        tried = set[str]()
        for message in due:
            # In their order; after a failure the others wait too.
            if message["receiver"] not in tried and not self._deliver(message):
                tried.add(message["receiver"])
        with self._lock:
            self._save()
            times: list[float] = [one["next_at"] for one in self._ready()] + [self._gathered_at] * bool(self._events)
        return max(0.0, min([60.0, *(at - self._clock() for at in times)]))

    def _ready(self) -> list[dict[str, Any]]:
        """The messages whose receivers are known: at the start, those of an earlier watch are there before any receiver."""
        return [one for one in self._messages if one["receiver"] in self._receivers]

    def _enqueue(self, now: float) -> None:
        for receiver, events in self._events.items():
            after = max([now, *(one["next_at"] for one in self._messages if one["receiver"] == receiver)])
            message: dict[str, Any] = {
                "id": str(uuid.uuid4()),
                "receiver": receiver,
                "at": now,
                "attempts": 0,
                "next_at": after,
            }
            self._messages.append({**message, "events": [events[name] for name in sorted(events)]})
        self._events = {}
        for oldest in self._messages[:-_MOST_MESSAGES]:
            self._counts[oldest["receiver"], "dropped"] += 1
        self._messages = self._messages[-_MOST_MESSAGES:]
        self._changed = True

    def _deliver(self, message: dict[str, Any]) -> bool:
        receiver = self._receivers[message["receiver"]]
        why = self._post(receiver, message)
        now = self._clock()
        with self._lock:
            self._changed = True
            self._counts[receiver.name, "failed" if why else "delivered"] += 1
            if not why:
                self._why.pop(receiver.name, None)
                self._messages = [one for one in self._messages if one is not message]
                return True
            self._why[receiver.name] = why
            message["attempts"] += 1
            wait = min(_LONGEST, _FIRST * _FACTOR ** min(message["attempts"] - 1, 20))
            for one in self._messages:
                if one["receiver"] == receiver.name:
                    one["next_at"] = max(one["next_at"], now + wait * (0.5 + self._chance() / 2))
            if now - message["at"] > KEPT_SECONDS:
                self._counts[receiver.name, "dropped"] += 1
                self._messages = [one for one in self._messages if one is not message]
            return False

    def _post(self, receiver: Receiver, message: Mapping[str, Any]) -> str:
        """Send a message once. Returns why it did not arrive, without the address, which may be a secret; empty if it did."""
        body = json.dumps(_slack(message["events"]) if receiver.form == "slack" else _json(message)).encode()
        headers = {"Content-Type": "application/json", "X-Policyctl-Delivery": message["id"], "User-Agent": "policyctl"}
        try:
            url = receiver.url
            if url.startswith(("env:", "file:")):
                url = resolve_secret("notify.url", url, self._base)
            if why := http_url_error(url):
                return f"its URL {why}"
            if receiver.secret is not None:
                secret = resolve_secret("notify.secret", receiver.secret, self._base)
                headers |= signed(body, secret, int(self._clock()))
            with _OPENER.open(Request(url, body, headers), timeout=_TIMEOUT) as answer:  # noqa: S310 - it is http(s)
                answer.read(1_000)
        except HTTPError as error:
            error.close()
            return f"it answered {error.code}"
        except RemoteError as error:
            return str(error)
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            return f"it cannot be reached: {getattr(reason, 'strerror', None) or type(reason).__name__}"
        return ""

    def run(self) -> None:
        """Deliver until `stop`."""
        seconds = 0.0
        while True:
            with self._lock:
                if not self._stopping:
                    self._lock.wait(min(seconds, GATHER_SECONDS))
                if self._stopping:
                    return
            seconds = GATHER_SECONDS
            with suppress(PolicyctlError, OSError):  # a disk that is full: what was not kept is noted again after a restart
                seconds = self.step()

    def __enter__(self) -> Notifier:
        """Deliver in a thread until the end of the block, then try once what is left."""
        self._thread = threading.Thread(target=self.run, name="notifier", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._stopping = True
            self._lock.notify()
        self._thread.join(2 * _TIMEOUT)
        with suppress(PolicyctlError, OSError):
            self.step(all_now=True)

    def broken(self) -> list[str]:
        """The receivers that do not take notifications, each with why."""
        with self._lock:
            waiting = Counter(one["receiver"] for one in self._messages)
            return [f"{name}: {why}; {count(waiting[name], 'message')} waiting" for name, why in sorted(self._why.items())]

    def counts(self) -> tuple[dict[tuple[str, str], int], dict[str, int]]:
        """How many notifications there were, by receiver and result, and how many failed and wait, by receiver."""
        with self._lock:
            waiting = dict.fromkeys(self._receivers, 0)
            for one in self._ready():
                waiting[one["receiver"]] += one["attempts"] > 0
            return dict(self._counts), waiting

    def _save(self) -> None:
        if self._changed:
            data = {
                "format": SPOOL,
                "version": VERSION,
                "known": self._known,
                "messages": self._messages,
                "gathered": self._events,
            }
            self._state.write(FILE, json.dumps(data).encode())
            self._changed = False


class _NoRedirects(HTTPRedirectHandler):
    """What is signed goes to the address that was written, and nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        """Nothing: a redirect is an answer like any other."""


_OPENER = build_opener(_NoRedirects)


def signed(body: bytes, secret: str, now: int) -> dict[str, str]:
    """The headers that prove where a message comes from, and when it was sent."""
    text = f"{now}.".encode() + body
    return {
        "X-Policyctl-Timestamp": str(now),
        "X-Policyctl-Signature": f"v1={hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()}",
    }


def _event(transition: Transition, before: str | None) -> dict[str, Any]:
    now = transition.now
    return {
        "environment": now.name,
        "state": now.state.value,
        "before": before,
        "since": f"{now.since:%Y-%m-%dT%H:%M:%SZ}",
        "labels": dict(sorted(now.labels.items())),
        "changes": now.changes,
        "digest": now.digest or None,
        "reason": now.reason or None,
        "waits_for": now.waits_for or None,
    }


def _json(message: Mapping[str, Any]) -> dict[str, Any]:
    events = message["events"]
    return {
        "format": FORMAT,
        "version": VERSION,
        "id": message["id"],
        "summary": _summary(events),
        "environments": events[:_MOST_NAMED],
        "more": len(events[_MOST_NAMED:]),
    }


def _by_state(events: Sequence[Mapping[str, Any]]) -> dict[State, list[Mapping[str, Any]]]:
    found: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        found[event["state"]].append(event)
    return {state: found[state.value] for state in reversed(_WORDS) if state.value in found}


def _summary(events: Sequence[Mapping[str, Any]]) -> str:
    """How many environments are in which state now."""
    return "; ".join(f"{count(len(some), 'environment')} {_WORDS[state]}" for state, some in _by_state(events).items())


def _slack(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A text, in which `&`, `<` and `>` are escaped, so that nothing in it is a link or a mention."""
    lines = []
    for state, some in _by_state(events).items():
        reasons = {event["reason"] for event in some}
        why = f" ({next(iter(reasons))})" if len(reasons) == 1 and None not in reasons else ""
        lines.append(
            f"{count(len(some), 'environment')} {_WORDS[state]}: {listed([event['environment'] for event in some])}{why}"
        )
    text = "\n".join(lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"text": f"policyctl: {text}"[:3_000]}


Events = dict[str, dict[str, dict[str, Any]]]


def _read(state: StateFiles) -> tuple[dict[str, list[str]], list[dict[str, Any]], Events]:
    """What an earlier watch knew and did not deliver; nothing from a file that is damaged."""
    try:
        data = json.loads(state.read(FILE) or b"")
        if (data["format"], data["version"]) == (SPOOL, VERSION):
            keys = {"id", "receiver", "at", "attempts", "next_at", "events"}
            known = {str(name): [*map(str, one)] for name, one in data["known"].items()}
            messages = [one for one in data["messages"] if keys <= one.keys()]
            return known, messages, {str(name): dict(events) for name, events in data["gathered"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return {}, [], {}
