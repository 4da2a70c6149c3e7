"""What receivers are sent: what happened to environments, as JSON or as a text; and how they are, as an issue."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from policyctl.policy.findings import listed
from policyctl.report.format import count
from policyctl.report.markdown import code, row
from policyctl.watch.status import EnvironmentStatus, State, Transition, advice

FORMAT, VERSION = "policyctl/notification", 1
_MOST = 1_000  # environments that a message names
_REASON = 500  # characters of why an environment is on an issue
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
        "version": VERSION,
        "id": message["id"],
        "summary": _summary(events),
        "environments": events[:_MOST],
        "more": len(events[_MOST:]),
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
        text = f"{self.marker}\n**{counts}**\n\n{row(_HEAD)}{row(['---'] * len(_HEAD))}"
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


_HEAD = ["environment", "state", "since", "why", "plan", "what to type"]
_MORE = "And {:,} more, on the status page of the watch.\n\n"


def _issue_row(one: EnvironmentStatus) -> str:
    why = [code(one.reason, _REASON)] * bool(one.reason)
    why += [f"waits for {code(one.waits_for, _REASON)}"] * bool(one.waits_for)
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
