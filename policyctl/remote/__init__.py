"""The outside world: the protocol that every remote follows, and one module a kind of remote.

Here is what a remote can do, and how long it is retried. `plan` gets a Reader, which cannot write; only `apply` opens a Writer.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from policyctl.policy.document import Document
from policyctl.policy.names import Kind

if TYPE_CHECKING:
    from policyctl.plan.consumers import Sources
    from policyctl.remote.tenant_lists import Connections

SECRETS_SHOWN = ("Policyctl-Secrets", "masked")  # the header of a list of models that shows every secret, at least as a mask


class Reader(Protocol):
    """Reading. Rows are plain JSON objects as the service returns them, not yet checked, or `UnreadableRow` already.

    `identity` is the remote's origin and path, without user, password or query: it is written into saved plans.
    `embedded` remotes belong to the directory, so that without a written scope it manages everything on them.
    """

    identity: str
    embedded: bool

    @property
    def connections(self) -> Connections | None:
        """By which models reach their credentials; None where a remote has no connections."""
        ...

    @property
    def shows_keys(self) -> bool:
        """Whether a model whose row shows no key has none: such a remote shows each key, or a mask of it."""
        ...

    def rows(self) -> Iterable[Any]:
        """Every row, to go through once; those of virtual models (as `VirtualModelRow`) only where the reader was opened with
        them.

        Raises RemoteError when they cannot be listed; a missing collection is an error, never empty.
        """
        ...

    def find(self, names: Collection[str]) -> list[Any]:
        """The rows of the policies and virtual models with these canonical names, in either spelling; nothing else."""
        ...

    def models(self) -> frozenset[str]:
        """The names of the models that the remote has; empty if it does not list them."""
        ...

    def sources(self) -> Sources | None:
        """What may use models there, as far as it can be read; None on a kind of remote that has no consumers."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class Closing(ABC):
    """A remote that is closed at the end of a `with`."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Writer(Reader, Protocol):
    """Writing, one policy at a time. Every method may raise LostAnswer when the outcome of the write is unknown.

    `version` is the `etag` of the row to replace. If it is given and the remote has versions, the write raises Moved when the
    row has another version by then: checking and writing are then one step.
    """

    def add(self, document: Document, kind: Kind = "policy") -> str | None:
        """Add a policy or virtual model and return its id (None if the response has none, or has another name).

        Raises Conflict when a policy has that name, in either spelling.
        """
        ...

    def update(self, identifier: str, document: Document, version: str | None = None, kind: Kind = "policy") -> None:
        """Replace the one with that id. Raises NotFound when it is gone, Moved when it has changed."""
        ...

    def test_model(self, name: str) -> Any:
        """Have a virtual model tested, which may call it and cost money. Returns the report; None where a remote tests none.

        Never sent twice. Raises RemoteError if no report comes.
        """
        ...

    def remove(self, identifier: str, version: str | None = None, kind: Kind = "policy") -> None:
        """Remove the one with that id. Raises NotFound when it is gone, Moved when it has changed."""
        ...


class Backoff(NamedTuple):
    """Limits in seconds of exponential backoff; clock, sleep and random source can be replaced in tests.

    The n-th wait is random between 0 and `first` × 2ⁿ (at most `longest`): full jitter, so that clients that failed together
    do not retry together. A wait that the remote asks for is respected and does not count as a try.
    """

    tries: int = 5
    first: float = 0.5
    longest: float = 10.0
    budget: float = 90.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random

    def begin(self) -> RetryBudget:
        """Start the clock of one request."""
        return RetryBudget(self)


class RetryBudget:
    """The waits of one request."""

    def __init__(self, patience: Backoff) -> None:
        self._patience = patience
        self.end = patience.clock() + patience.budget
        self._waits = 0
        self._failures = 0

    def next(self, asked: float | None) -> float | None:
        """The seconds to wait before the next try, at least those `asked` by the remote. None beyond the limits."""
        patience = self._patience
        if asked is None:
            self._failures += 1
            if self._failures >= patience.tries:
                return None
        wait: float = (asked or 0.0) + patience.chance() * min(patience.longest, patience.first * 2**self._waits)
        if patience.clock() + wait > self.end:
            return None
        self._waits += 1
        return wait
