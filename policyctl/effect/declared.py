"""What is declared of models, as far as it decides what a policy does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

USUAL_TYPE = "chat"  # the platform's own default for a model that does not say its type
_SAME = {"chat_vision": "chat"}  # takes the same requests


@dataclass(frozen=True, slots=True)
class Declared:
    """The models' own timeouts in seconds and their types (`chat`, `embedding`, …), by canonical name, as far as known.

    `before` is what was declared when the policies were what they are live, where that is known.
    """

    timeouts: Mapping[str, float] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    before: Declared | None = None

    @property
    def then(self) -> Declared:
        """What counts in what is said of live policies: what was declared before, else the same as for what comes."""
        return self if self.before is None else self.before

    def requests(self, model: str) -> str | None:
        """The kind of requests that a model takes, where that is declared: its type, but that `chat_vision` takes chats."""
        own = self.types.get(model)
        return own if own is None else _SAME.get(own, own)

    def __or__(self, other: Declared) -> Declared:
        """Both, where the other one says something that one holds."""
        before = None if self.before is None else self.before | other
        return Declared({**self.timeouts, **other.timeouts}, {**self.types, **other.types}, before)


NOTHING = Declared()
