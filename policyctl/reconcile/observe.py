"""What the remote holds, sorted out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from policyctl.load.urls import GIT
from policyctl.model.live import Observed, observe_rows
from policyctl.model.policy import Policy
from policyctl.remote.protocol import Reader


def observe(reader: Reader, desired: Sequence[Policy] = (), on_row: Callable[[], object] = lambda: None) -> Observed:
    """Everything on the remote; `on_row` is told of each row. What is there just as it is desired is not looked at further.

    A git revision has the policies of one directory; there may be others.
    """
    observed = observe_rows(_told(reader.rows(), on_row), {policy.name: policy.text for policy in desired})
    return replace(observed, whole=not reader.identity.startswith(GIT))


def look_up(reader: Reader, names: Collection[str]) -> Observed:
    """The policies of these canonical names, as they are right now."""
    return observe_rows(reader.find(names))


def _told(rows: Iterable[Any], on_row: Callable[[], object]) -> Iterator[Any]:
    for row in rows:
        yield row
        on_row()
