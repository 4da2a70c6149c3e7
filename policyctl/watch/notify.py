"""Notifications: who hears of an environment that is in another state, once, even over a restart; and what they are sent.

What is not delivered yet is in a file, and so is what was noted last of each environment. The file is written before anything
is sent, so a watch that is killed sends again only what it was sending, with the same id.

Receivers are sent what happened to environments, as JSON or as a text; and how they are, as an issue.
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
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from policyctl.errors import PolicyctlError, RemoteError, where_raised
from policyctl.load.environment import Receiver
from policyctl.load.source import read_bounded
from policyctl.load.urls import http_url_error
from policyctl.policy.findings import listed
from policyctl.remote.http import post_once
from policyctl.remote.redaction import Read, resolve_secret
from policyctl.report.format import count
from policyctl.report.markdown import code, row
from policyctl.watch import EnvironmentStatus, State, Transition, advice
from policyctl.watch.memory import StateFiles

FILE = "notifications.json"
SPOOL, SPOOL_VERSION = "policyctl/notifications", 1
GATHER_SECONDS = 10.0  # what happens within it is one message
KEPT_SECONDS = 86_400.0  # a message that could not be delivered for so long is dropped
DELIVERY_SECONDS = 20.0  # for one delivery, to the end of the answer
LAST_SECONDS = 10.0  # for what is delivered at the end, to all receivers together
_FIRST, _FACTOR, _LONGEST = 5.0, 3.0, 900.0  # seconds between two attempts
_MOST_MESSAGES = 1_000


class Notifier:
    """Notifies receivers of transitions. Call it with each; `run` delivers, to each receiver in a thread of its own, so that
    one that is slow holds up no other."""

    def __init__(
        self,
        receivers: Sequence[Receiver],
        state: StateFiles,
        base: Path = Path(),
        issue: IssueKeeper | None = None,
        *,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`state` keeps what is not delivered yet; references to files are relative to `base`. `issue` delivers to a receiver
        of form issue: not what happened, but how the environments are then."""
        self._lock = threading.Condition()
        self._state, self._base, self._clock, self._chance = state, base, clock, chance
        self._read: Read = read_bounded
        self._gathered_at = 0.0
        self._why: dict[str, str] = {}  # why the last delivery to each receiver failed
        self._counts: Counter[tuple[str, str]] = Counter()
        # Of each environment its state and the digest of its plan, then the states that it was in since it was in sync;
        # messages; what is gathered for the next one: by receiver and environment, what happened to it last; and by receiver
        # the mark of what an issue shows, if that is known.
        self._known, self._messages, self._events, self._shown = _read(state)
        self._issue = issue
        self._changed = self._closed = False
        self._busy: set[str] = set()  # the receivers that something is being delivered to
        self._end: float | None = None  # when the last deliveries must end; None until then
        self._receivers = {one.name: one for one in receivers}

    def use(self, receivers: Sequence[Receiver], base: Path, read: Read = read_bounded) -> None:
        """From now on these receivers. What waits for others is dropped. References to files are relative to `base`, and `read`
        returns the content of such a file."""
        with self._lock:
            self._base, self._read = base, read
            self._receivers = {one.name: one for one in receivers}
            self._why = {name: why for name, why in self._why.items() if name in self._receivers}
            self._messages = [one for one in self._ready() if bool(one["events"]) != self._is_issue(one["receiver"])]
            self._shown = {name: mark for name, mark in self._shown.items() if self._is_issue(name)}
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
                if one.form != "issue" and now.state.value in one.states and (not calm or {*earlier} & {*one.states}):
                    if not self._events:
                        self._gathered_at = self._clock() + GATHER_SECONDS
                    self._events.setdefault(one.name, {})[now.name] = event(transition, before or None)
            self._lock.notify_all()

    def keep(self, names: frozenset[str]) -> None:
        """Forget the environments that are not among these any more."""
        with self._lock:
            if gone := self._known.keys() - names:
                self._changed = True
                for name in gone:
                    del self._known[name]

    def step(self) -> float:
        """Begin to deliver what is due, at the end all. Returns the seconds until something else is; at most a minute."""
        now = self._clock()
        with self._lock:
            all_now = self._end is not None
            if self._events and (all_now or now >= self._gathered_at):
                self._enqueue(now)
            for name in filter(self._is_issue, self._receivers.keys() - self._busy):
                self._enqueue_issue(name, now)
            self._save()
            waiting = [one for one in self._ready() if one["receiver"] not in self._busy]
            for name in {one["receiver"] for one in waiting if all_now or one["next_at"] <= now}:
                threading.Thread(target=self._deliver_to, args=(name,), name=f"notifier of {name}", daemon=True).start()
                self._busy.add(name)  # until it began, it waits for the lock
            later: list[float] = [one["next_at"] for one in waiting if one["receiver"] not in self._busy]
            later += [self._gathered_at] * bool(self._events)
        return max(0.0, min([60.0, *(at - now for at in later)]))

    def settle(self, seconds: float) -> bool:
        """Wait until nothing is being delivered any more, at most so long. Returns whether that is so."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._busy, max(0.0, seconds))

    def _ready(self) -> list[dict[str, Any]]:
        """The messages whose receivers are known: at the start, those of an earlier watch are there before any receiver."""
        return [one for one in self._messages if one["receiver"] in self._receivers]

    def _is_issue(self, name: str) -> bool:
        return name in self._receivers and self._receivers[name].form == "issue"

    def _enqueue(self, now: float) -> None:
        for receiver, events in self._events.items():
            after = max([now, *(one["next_at"] for one in self._messages if one["receiver"] == receiver)])
            self._messages.append(_message(receiver, now, after, [events[name] for name in sorted(events)]))
        self._events = {}
        for oldest in self._messages[:-_MOST_MESSAGES]:
            self._counts[oldest["receiver"], "dropped"] += 1
        self._messages = self._messages[-_MOST_MESSAGES:]
        self._changed = True

    def _enqueue_issue(self, name: str, now: float) -> None:
        """A message without events for an issue that does not show how the environments are, and none for any other."""
        known = next((one for one in self._messages if one["receiver"] == name), None)
        if known is not None and known["next_at"] > now and self._end is None:
            return  # it is compared when it is due
        what = self._listed(name)
        if what is None or what.mark == self._shown.get(name):
            self._messages = [one for one in self._messages if one is not known]
        elif known is None:
            self._messages.append(_message(name, now, now + GATHER_SECONDS, []))

    def _listed(self, name: str) -> IssueList | None:
        return None if self._issue is None else self._issue.listed(self._receivers[name].states)

    def _deliver_to(self, name: str) -> None:
        """Deliver to one receiver what is due, in its order, up to the first failure: then the others wait too."""
        try:
            with suppress(PolicyctlError, OSError):  # of a disk that is full, as in `run`
                while (found := self._next(name)) is not None and self._deliver(*found):
                    pass
        finally:
            with self._lock:
                self._busy.discard(name)
                self._lock.notify_all()

    def _next(self, name: str) -> tuple[Receiver, dict[str, Any], float] | None:
        """The receiver, what is to be delivered to it now, and within how many seconds; None if nothing is."""
        with self._lock:
            if self._is_issue(name):
                self._enqueue_issue(name, self._clock())
            message = next((one for one in self._ready() if one["receiver"] == name), None)
            left = DELIVERY_SECONDS if self._end is None else min(DELIVERY_SECONDS, self._end - time.monotonic())
            early = self._end is None and message is not None and message["next_at"] > self._clock()
            if message is None or early or self._closed or left <= 0:
                return None
            if self._shown.pop(name, None) is not None:  # what it shows is not known from now on, also after a restart
                self._changed = True
                self._save()
            return self._receivers[name], message, left

    def _deliver(self, receiver: Receiver, message: dict[str, Any], seconds: float) -> bool:
        mark, why = None, ""
        try:
            if receiver.form == "issue":
                mark = self._keep_issue(receiver, seconds)
            else:
                self._post(receiver, message, seconds)
        except PolicyctlError as error:
            why = str(error)
        except Exception as error:  # noqa: BLE001 - a bug, after which it is tried again as after any other failure
            why = "a bug in policyctl: {error} at {at}".format(**where_raised(error))
        now = self._clock()
        with self._lock:
            self._changed = True
            self._counts[receiver.name, "failed" if why else "delivered"] += 1
            if why:
                self._postpone(receiver.name, message, why, now)
            else:
                self._why.pop(receiver.name, None)
                self._messages = [one for one in self._messages if one is not message]
            if mark is not None:
                self._shown[receiver.name] = mark
            self._save()
        return not why

    def _postpone(self, name: str, message: dict[str, Any], why: str, now: float) -> None:
        self._why[name] = why
        message["attempts"] += 1
        wait = min(_LONGEST, _FIRST * _FACTOR ** min(message["attempts"] - 1, 20))
        for one in self._messages:
            if one["receiver"] == name:
                one["next_at"] = max(one["next_at"], now + wait * (0.5 + self._chance() / 2))
        if message["events"] and now - message["at"] > KEPT_SECONDS:
            self._counts[name, "dropped"] += 1
            self._messages = [one for one in self._messages if one is not message]

    def _keep_issue(self, receiver: Receiver, seconds: float) -> str | None:
        """Have the issue show how the environments are now. Returns the mark of that. Raises PolicyctlError."""
        if self._issue is None or (what := self._issue.listed(receiver.states)) is None:
            return None
        self._issue.keep(what, seconds)
        return what.mark

    def _post(self, receiver: Receiver, message: Mapping[str, Any], seconds: float) -> None:
        """Send a message once. Raises RemoteError if it did not arrive, without the address, which may be a secret."""
        body = json.dumps(slack_message(message["events"]) if receiver.form == "slack" else json_message(message)).encode()
        headers, url = {"X-Policyctl-Delivery": message["id"]}, receiver.url
        if url.startswith(("env:", "file:")):
            url = resolve_secret("notify.url", url, self._base, read=self._read)
        if why := http_url_error(url):
            raise RemoteError(f"its URL {why}")
        if receiver.secret is not None:
            secret = resolve_secret("notify.secret", receiver.secret, self._base, read=self._read)
            headers |= signed(body, secret, int(self._clock()))
        if not 200 <= (status := post_once(url, body, headers, seconds)) < 300:
            raise RemoteError(f"it answered {status}")

    def run(self) -> None:
        """Deliver until the end of the block."""
        seconds = 0.0
        while True:
            with self._lock:
                if self._end is None:
                    self._lock.wait(min(seconds, GATHER_SECONDS))
                if self._end is not None:
                    return
            seconds = GATHER_SECONDS
            # A disk that is full, or no thread can be started: what was not kept is noted again after a restart.
            with suppress(PolicyctlError, OSError, RuntimeError):
                seconds = self.step()

    def __enter__(self) -> Notifier:
        """Deliver in a thread until the end of the block, then try once what is left."""
        self._thread = threading.Thread(target=self.run, name="notifier", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        end = time.monotonic() + LAST_SECONDS
        with self._lock:
            self._end = end
            self._lock.notify_all()
        self._thread.join(LAST_SECONDS)
        with suppress(PolicyctlError, OSError, RuntimeError):
            self.step()
        self.settle(end - time.monotonic())
        with self._lock:
            self._closed = True  # what is still on its way may arrive: it is kept, and sent again with its id by the next watch

    def broken(self) -> list[str]:
        """The receivers that do not take notifications, each with why."""
        with self._lock:
            waiting = Counter(one["receiver"] for one in self._messages)
            left = {name: f"{count(waiting[name], 'message')} waiting" for name in self._why}
            left |= dict.fromkeys(filter(self._is_issue, self._why), "its issue is out of date")
            return [f"{name}: {why}; {left[name]}" for name, why in sorted(self._why.items())]

    def counts(self) -> tuple[dict[tuple[str, str], int], dict[str, int]]:
        """How many notifications there were, by receiver and result, and how many failed and wait, by receiver."""
        with self._lock:
            waiting = dict.fromkeys(self._receivers, 0)
            for one in self._ready():
                waiting[one["receiver"]] += one["attempts"] > 0
            return dict(self._counts), waiting

    def _save(self) -> None:
        if self._changed and not self._closed:
            data = {
                "format": SPOOL,
                "version": SPOOL_VERSION,
                "known": self._known,
                "messages": [one for one in self._messages if one["events"]],
                "gathered": self._events,
                "shown": self._shown,
            }
            self._state.write(FILE, json.dumps(data).encode())
            self._changed = False


def _message(receiver: str, now: float, next_at: float, events: list[dict[str, Any]]) -> dict[str, Any]:
    key = str(uuid.uuid4())
    return {"id": key, "receiver": receiver, "at": now, "attempts": 0, "next_at": next_at, "events": events}


Events = dict[str, dict[str, dict[str, Any]]]


def _read(state: StateFiles) -> tuple[dict[str, list[str]], list[dict[str, Any]], Events, dict[str, str]]:
    """What an earlier watch knew and did not deliver; nothing from a file that is damaged."""
    try:
        data = json.loads(state.read(FILE) or b"")
        if (data["format"], data["version"]) == (SPOOL, SPOOL_VERSION):
            keys = {"id", "receiver", "at", "attempts", "next_at", "events"}
            known = {str(name): [*map(str, one)] for name, one in data["known"].items()}
            messages = [one for one in data["messages"] if keys <= one.keys()]
            gathered = {str(name): dict(events) for name, events in data["gathered"].items()}
            return known, messages, gathered, {str(name): str(mark) for name, mark in data.get("shown", {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return {}, [], {}, {}


FORMAT, FORMAT_VERSION = "policyctl/notification", 1
_MOST_NAMED = 1_000  # environments that a message names
_REASON_LENGTH = 500  # characters of why an environment is on an issue
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
_GRAVEST = [*reversed(_WORDS)]


def signed(body: bytes, secret: str, now: int) -> dict[str, str]:
    """The headers that prove where a message comes from, and when it was sent."""
    text = f"{now}.".encode() + body
    return {
        "X-Policyctl-Timestamp": str(now),
        "X-Policyctl-Signature": f"v1={hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()}",
    }


def event(transition: Transition, before: str | None) -> dict[str, Any]:
    """What happened to an environment, which receivers knew in the state `before`."""
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


def json_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message with all that happened."""
    events = message["events"]
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "id": message["id"],
        "summary": _summary(events),
        "environments": events[:_MOST_NAMED],
        "more": len(events[_MOST_NAMED:]),
    }


def _by_state(events: Sequence[Mapping[str, Any]]) -> dict[State, list[Mapping[str, Any]]]:
    found: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        found[event["state"]].append(event)
    return {state: found[state.value] for state in _GRAVEST if state.value in found}


def _summary(events: Sequence[Mapping[str, Any]]) -> str:
    """How many environments are in which state now."""
    return "; ".join(f"{count(len(some), 'environment')} {_WORDS[state]}" for state, some in _by_state(events).items())


def slack_message(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
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


class IssueList(NamedTuple):
    """What the issue of a watch shows: environments, and whether all were looked at. `marker` is its first line."""

    marker: str
    title: str
    environments: tuple[EnvironmentStatus, ...]
    complete: bool

    @property
    def mark(self) -> str:
        """A hash of all that it shows."""
        rows = [(one.name, one.state, str(one.since), one.reason, one.waits_for, one.digest) for one in self.environments]
        return hashlib.sha256(json.dumps([self.marker, self.complete, rows]).encode()).hexdigest()

    def text(self, longest: int) -> str:
        """The text of the issue, of at most so many characters, the gravest first. What the remote or a branch may have chosen
        is code."""
        found = Counter(one.state for one in self.environments)
        counts = "; ".join(f"{count(found[state], 'environment')} {_WORDS[state]}" for state in _GRAVEST if found[state])
        partly = "" if self.complete else "Some environments were not looked at yet.\n\n"
        kept = "`policyctl watch` keeps this issue: it follows the list, and is closed when no environment is left.\n"
        text = f"{self.marker}\n**{counts}**\n\n{row(_ISSUE_HEAD)}{row(['---'] * len(_ISSUE_HEAD))}"
        left = longest - len(text) - len(partly) - len(kept) - len(_MORE.format(len(self.environments))) - 1
        rows: list[str] = []
        for one in sorted(self.environments, key=lambda one: (_GRAVEST.index(one.state), one.name)):
            line = _issue_row(one)
            left -= len(line)
            if left < 0:
                break
            rows.append(line)
        hidden = len(self.environments) - len(rows)
        return f"{text}{''.join(rows)}\n{_MORE.format(hidden) if hidden else ''}{partly}{kept}"


_ISSUE_HEAD = ["environment", "state", "since", "why", "plan", "what to type"]
_MORE = "And {:,} more, on the status page of the watch.\n\n"


def _issue_row(one: EnvironmentStatus) -> str:
    why = [code(one.reason, _REASON_LENGTH)] * bool(one.reason)
    why += [f"waits for {code(one.waits_for, _REASON_LENGTH)}"] * bool(one.waits_for)
    typed = advice(one)
    since = f"{one.since:%Y-%m-%d %H:%M} UTC"
    plan = code(one.digest) if one.digest else ""
    return row([code(one.name), _WORDS[one.state], since, "; ".join(why), plan, code(typed) if typed else ""])


class IssueKeeper(Protocol):
    """Keeps the issue of a watch."""

    def listed(self, states: Sequence[str]) -> IssueList | None:
        """What the issue is to show: the environments in these states. None while it is not known."""

    def keep(self, what: IssueList, seconds: float) -> None:
        """Have the issue show that within so many seconds: open, update or close it. Raises PolicyctlError."""
