"""What a look of a watch reads and finds out: the rows of a remote once, and who moved each policy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from policyctl.plan.change import Change, normal_of
from policyctl.plan.drift import Moved
from policyctl.policy.document import canonical_text
from policyctl.policy.memo import content_key
from policyctl.watch.decide import Look, Synced

if TYPE_CHECKING:
    from policyctl.cli.watch_source import Opened
    from policyctl.plan.safety import Review
    from policyctl.remote.protocol import Reader


class SyncedPolicies:
    """What each policy and model was when an environment was last seen in sync, as one short text: a hash by name."""

    def __init__(self, text: str) -> None:
        """`text` is one that `text_of` made; any other one has nothing."""
        try:
            found = json.loads(text or "{}")
        except ValueError:
            found = {}
        self._found = found if isinstance(found, dict) else {}

    @staticmethod
    def text_of(contents: Mapping[str, str]) -> str:
        """The text for the canonical texts of normal forms, by name."""
        return json.dumps({name: _short(text) for name, text in contents.items()}, separators=(",", ":"))

    def side(self, change: Change) -> Moved:
        """Who moved since: a policy that it does not name was on neither side."""
        base = self._found.get(change.name)
        if base == (None if change.before is None else _short(canonical_text(change.before))):
            return "git"
        files = None if change.after is None else _short(canonical_text(normal_of(change.after)))
        return "remote" if base == files else "both"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class LookedPlan(NamedTuple):
    """What a look planned, and the revision that it looked at."""

    opened: Opened
    review: Review | None = None


def looked(look: Look) -> tuple[Opened, Review]:
    """The revision and the plan of a look that has one."""
    opened, review = cast("LookedPlan", look.plan)
    assert review is not None  # noqa: S101 - only a plan is applied or approved
    return opened, review


class RowsOnce:
    """A reader whose list is read once, so that what is decided and what is planned rest on the same rows."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._rows: list[Any] | None = None

    def __enter__(self) -> RowsOnce:
        return self

    def __exit__(self, *_: object) -> None:
        """The reader's owner closes it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def rows(self) -> list[Any]:
        if self._rows is None:
            self._rows = [*self._reader.rows()]
        return self._rows

    def key(self) -> str:
        """A hash of all rows; empty if they are not plain values."""
        try:
            found = content_key(self.rows())
        except (TypeError, ValueError):
            return ""
        return "" if found is None else found.hex()


def side_of(synced: Synced, files: str, rows: str) -> Moved | None:
    """Who moved, as far as that follows from when the environment was last seen in sync: the side that is as it was did not."""
    if not rows or (synced.files == files) == (synced.rows == rows):
        return None
    return "remote" if synced.files == files else "git"


def moved_by(review: Review, side: Moved | None, base: str) -> dict[str, Moved]:
    """Who moved each change: by what each policy was in sync, which is certain, unless an audit record has it; without either
    by Git history."""
    synced = SyncedPolicies(base) if base else None

    def moved(change: Change) -> Moved:
        drift = review.drifts.get(change.name)
        if synced is not None and (drift is None or drift.basis != "audit"):
            return synced.side(change)
        return "unknown" if drift is None else drift.moved

    return {change.name: side or moved(change) for change in review.plan.changes}


def base_of(review: Review, in_scope: Callable[[str], bool]) -> str:
    """What each policy and model is once the plan is applied."""
    models = {name: live.text for name, live in review.models_before.items()}
    found = models | {name: canonical_text(document) for name, document in review.policies.items()}
    for change in review.plan.changes:
        if change.kind == "model" and change.after is not None:
            found[change.name] = canonical_text(normal_of(change.after))
        elif change.after is None:
            found.pop(change.name, None)
    return SyncedPolicies.text_of({name: text for name, text in found.items() if in_scope(name)})
