"""Texts that would act somewhere if a page did not show them as text, and plans that are full of them."""

from __future__ import annotations

import re

from policyctl.plan.safety import BranchChecks, Review
from policyctl.plan.settings import Override, Settings
from policyctl.policy.document import Policy
from tests.builders import policy, row
from tests.report.plans import reviewed

VISIBLE = """
` a`b </details> <script>alert(1)</script> <img/src=x/onerror=alert(1)> @team @org/team ::error::x ::stop-commands::x ##[error]x
###[set-output]x ##vso[task.complete]x %%{init:{}}%% $$x$$ {{x}} &lt; #123 1. --> https://x.example ![x](https://x.example)
"""
UNSEEN = ["\x1b[2J\x1b]0;x\x07", "\x9b2J", "\u202egnp.exe", "\u2066", "\x00", "\ud800", "a\nb", "```\n"]
BREAKS = [f"a{end}::error::b" for end in ("\r\n", "\u2028", "\x85", "\x0b")]
TRAPS = [*VISIBLE.split(), *UNSEEN, *BREAKS, "a | b", "  ::error::x"]
# A runner obeys a line that begins so, white space aside, or holds the other one anywhere.
COMMAND = re.compile(r"^\s*::|##\w*\[", re.MULTILINE)


def hostile(text: str) -> Review:
    """A plan in which everything that others write is this text."""
    names = [f"{text}{end}" for end in ("", " is new", " changes", " goes")]
    changed = policy(names[2], f"{text}-after", retry={"attempts": 1})
    desired = [
        policy(names[1], text, f"virtual-model/{text}/{text}"),
        Policy(names[2], changed.document, f"{text}/{text}.yaml"),
        policy(names[0], "x"),
    ]
    rows = [
        {**row(names[2], f"{text}-before"), "description": text, "display_name": f"{text}2"},
        row(names[3], text, cache={"mode": text}),
        row(names[0]),
        row(f"virtual-policy/{names[0]}"),
        {"id": text, "name": text, "policy": text},
    ]
    review = reviewed(desired, rows, Settings(protect=("*",), allow_remove=(text,)))
    plan = review.plan._replace(overrides=(Override("--allow-remove", text, text, text),))
    return review._replace(plan=plan, stale=(text,), branch=BranchChecks(failed_tests=(text,)), restored=frozenset({names[2]}))


def acting(text: str) -> list[str]:
    """What in a printed text is not plainly visible, or a command to a runner."""
    unseen = {char for char in text if not char.isprintable() and char != "\n"}
    return [*map(repr, unseen), *(found[0] for found in COMMAND.finditer(text))]
