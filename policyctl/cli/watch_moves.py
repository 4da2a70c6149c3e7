"""Who moved each policy of an environment, the files or the remote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from policyctl.plan.drift import Moved
from policyctl.plan.plan import Change, normal_of
from policyctl.policy.document import canonical_text
from policyctl.policy.memo import content_key
from policyctl.watch.look import Synced, SyncedPolicies

if TYPE_CHECKING:
    from policyctl.plan.safety import Review
    from policyctl.remote.protocol import Reader


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


class Moves(NamedTuple):
    """Who moved each change, by name; what policies were, and may be once they are begun; and whether they only put back what
    was in sync before."""

    sides: Mapping[str, Moved]
    was: str = ""
    begun: str = ""
    restores: bool = False


def moves_of(review: Review, side: Moved | None, synced: Synced, base: str) -> Moves:
    """Who moved: by what each policy was in sync, which is certain, unless an audit record has it; without either by Git
    history. `base` is what each policy is once the plan is applied."""
    changes = review.plan.changes
    known = SyncedPolicies(synced.base, synced.begun) if synced.base else None

    def moved(change: Change) -> Moved:
        drift = review.drifts.get(change.name)
        if known is not None and (drift is None or drift.basis != "audit"):
            return known.side(change)
        return "unknown" if drift is None else drift.moved

    sides = {change.name: side or moved(change) for change in changes}
    if known is None:
        return Moves(sides)
    restores = {*sides.values()} == {"remote"} and all(map(known.puts_back, changes))
    return Moves(sides, *known.beginning(changes, base), restores)


def base_of(review: Review, *, models: bool) -> str:
    """What each policy and model is once the plan is applied, in scope or not: the scope may be another one by then. `models`
    is whether models were compared."""
    found = dict.fromkeys(review.live, "")  # for those of which it is not clear what they are
    found |= {name: live.text for name, live in review.models_before.items()}
    found |= {name: canonical_text(document) for name, document in review.policies.items()}
    for change in review.plan.changes:
        if change.after is None:
            found.pop(change.name, None)
        elif change.kind == "model":
            found[change.name] = canonical_text(normal_of(change.after))
    return SyncedPolicies.text_of(found, models=models)
