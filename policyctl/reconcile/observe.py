"""What the remote holds, sorted out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from typing import Any

from policyctl.load.urls import GIT
from policyctl.model.live import Observed, observe_rows
from policyctl.remote.protocol import Reader


def observe(reader: Reader, on_row: Callable[[], object] = lambda: None) -> Observed:
    """Everything on the remote; `on_row` is called for each row.

    A git revision has the policies of one directory; there may be others.
    """
    observed = observe_rows(_told(reader.rows(), on_row))
    return replace(observed, whole=not reader.identity.startswith(GIT))


def look_up(reader: Reader, names: Collection[str]) -> Observed:
    """The policies of these canonical names, as they are right now."""
    return observe_rows(reader.find(names))


def _told(rows: Iterable[Any], on_row: Callable[[], object]) -> Iterator[Any]:
    for row in rows:
        yield row
        on_row()
