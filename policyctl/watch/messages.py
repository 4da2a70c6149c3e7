"""What receivers are sent: what happened to environments, as JSON or as a text."""

from __future__ import annotations

import hashlib
import hmac
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from policyctl.policy.findings import listed
from policyctl.report.format import count
from policyctl.watch.status import State, Transition

FORMAT, VERSION = "policyctl/notification", 1
_MOST = 1_000  # environments that a message names
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
    return {state: found[state.value] for state in reversed(_WORDS) if state.value in found}


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
