"""What is computed once, and only if it is needed: for several environments, of which those with the same change have the
same fields, effect and words; and regular expressions."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, AnyStr, ClassVar, Generic, TypeVar, cast

T = TypeVar("T")

MOST = 4096  # results that are kept; with more, all are forgotten


class Memo(Generic[T]):
    """Results by a key that covers all that they depend on, kept while several plans are made (see `remembering`).

    Several threads may use one: at worst they compute the same result twice.
    """

    _all: ClassVar[list[Memo[Any]]] = []
    _scopes: ClassVar[int] = 0

    def __init__(self) -> None:
        self._known: dict[Any, tuple[T]] = {}
        Memo._all.append(self)

    def of(self, key_of: Callable[[], Any], compute: Callable[[], T]) -> T:
        """The result that is known for the key, else a new one, which is kept unless the key is None. What `compute` raises is
        not kept."""
        key = key_of() if Memo._scopes else None
        if key is None:
            return compute()
        known = self._known.get(key)
        if known is None:
            known = (compute(),)
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[key] = known
        return known[0]

    @staticmethod
    @contextmanager
    def remembering() -> Iterator[None]:
        """Keep results until the end of the block; of one plan alone nothing would be used again."""
        Memo._scopes += 1
        try:
            yield
        finally:
            Memo._scopes -= 1
            for one in Memo._all if not Memo._scopes else ():
                one._known.clear()


def content_key(*values: Any) -> bytes | None:
    """A hash of plain values and of the order in which they are written; None for what is nested too deeply for one."""
    try:
        text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        return None
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).digest()


class _LatePattern:
    """What a compiled regular expression has, once something of it is used."""

    def __init__(self, text: Any, flags: int) -> None:
        self._given = text, flags

    def __getattr__(self, name: str) -> Any:
        found = getattr(re.compile(*self._given), name)
        setattr(self, name, found)  # so that this is not called again
        return found


def late_pattern(text: AnyStr, flags: int = 0) -> re.Pattern[AnyStr]:
    """A regular expression that is compiled when it is first used. For long ones that most runs do not need."""
    return cast("re.Pattern[AnyStr]", _LatePattern(text, flags))
