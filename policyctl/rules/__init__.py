"""The rules behind every problem: code, name, severity, what it means and what to do."""

from __future__ import annotations

from typing import NamedTuple

from policyctl.errors import Severity


class Rule(NamedTuple):
    """A rule: its stable code, a short name, how bad a breach is, and one paragraph: what, why, what to do."""

    code: str
    name: str
    severity: Severity
    text: str
