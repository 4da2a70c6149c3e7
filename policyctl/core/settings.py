"""What an environment allows: the safety settings of policyctl.yaml, resolved."""

from __future__ import annotations

from dataclasses import dataclass, replace

from policyctl.model.names import matches

DEFAULT_MAX_REMOVES = 5
DEFAULT_MAX_CHANGE_PERCENT = 30.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one plan may change: removes by count, updates and removes by percent of what is live."""

    max_removes: int = DEFAULT_MAX_REMOVES
    max_change_percent: float = DEFAULT_MAX_CHANGE_PERCENT


@dataclass(frozen=True, slots=True)
class Settings:
    """The safety settings of one environment.

    `scope` None means that none is written: everything on the embedded remote, only what files name elsewhere.
    """

    scope: tuple[str, ...] | None = None
    prune: bool = True
    protect: tuple[str, ...] = ()
    allow_remove: tuple[str, ...] = ()
    limits: Limits = Limits()

    def in_scope(self, name: str) -> bool:
        """Whether the directory speaks for that policy."""
        return self.scope is None or matches(name, self.scope)

    def overridden(self, max_removes: int | None, max_change_percent: float | None, allow_remove: tuple[str, ...]) -> Settings:
        """The settings with what the command line overrides by name."""
        limits = Limits(
            self.limits.max_removes if max_removes is None else max_removes,
            self.limits.max_change_percent if max_change_percent is None else max_change_percent,
        )
        return replace(self, limits=limits, allow_remove=(*self.allow_remove, *allow_remove))
