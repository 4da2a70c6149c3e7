"""What many runs came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from tests.chaos.faults import Fault
from tests.chaos.tenant import Quirk

_COUNTED = ("faults", "quirks", "broken")
BROKEN = ("duplicates", "losses", "untrue reports", "unfinished", "leaks")


@dataclass
class Figures:
    """Sums over runs. `broken` counts what must never be; `worst` is the longest recovery in seconds."""

    inside: list[int] = field(default_factory=list)  # the seeds of the runs in one process
    outside: list[int] = field(default_factory=list)  # those of the runs of real processes
    tenants: list[int] = field(default_factory=list)  # those of the runs against tenants that do not behave
    faults: Counter[str] = field(default_factory=Counter)
    quirks: Counter[str] = field(default_factory=Counter)  # how many tenants had each
    changes: int = 0
    applied: int = 0  # writes that the server carried out, in both applies of each run
    broken: Counter[str] = field(default_factory=Counter)
    worst_change: float = 0.0  # of one change, from its first fault to its last answer; injected clock
    worst_restart: float = 0.0  # from a signal to the end of the apply that finished the work; real clock

    def add(self, other: Figures) -> None:
        self.inside += other.inside
        self.outside += other.outside
        self.tenants += other.tenants
        self.faults += other.faults
        self.quirks += other.quirks
        self.changes += other.changes
        self.applied += other.applied
        self.broken += other.broken
        self.worst_change = max(self.worst_change, other.worst_change)
        self.worst_restart = max(self.worst_restart, other.worst_restart)

    def to_json(self) -> dict[str, Any]:
        counted = {key: {str(kind): number for kind, number in getattr(self, key).items()} for key in _COUNTED}
        return {**vars(self), **counted}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(**{**data, **{key: Counter(data[key]) for key in _COUNTED}})

    def rows(self) -> list[tuple[str, str]]:
        """What there is to say, line by line."""
        return [
            ("runs in one process, on an injected clock (seeds)", _seeds(self.inside)),
            ("runs of real processes over a real proxy (seeds)", _seeds(self.outside)),
            ("runs against remotes that contradict themselves, on an injected clock (seeds)", _seeds(self.tenants)),
            ("changes planned", f"{self.changes:,}"),
            ("policies applied: writes that the server carried out", f"{self.applied:,}"),
            ("faults injected", f"{self.faults.total():,}"),
            *((f"· {fault}", f"{self.faults[fault]:,}") for fault in Fault),
            *((f"remotes with {quirk}", f"{self.quirks[quirk]:,}") for quirk in Quirk),
            *((kind, f"{self.broken[kind]:,}") for kind in BROKEN),
            ("worst recovery of one change, back-off included (injected clock)", f"{self.worst_change:.0f} s"),
            ("worst recovery from a signal to the end of the apply that finished (real clock)", f"{self.worst_restart:.1f} s"),
        ]

    def text(self) -> str:
        """The figures for a terminal."""
        return "\n".join(f"{name:<80} {value:>16}" for name, value in self.rows())

    def table(self) -> str:
        """The figures in Markdown."""
        return "\n".join(["| what | figure |", "|---|---:|", *(f"| {name} | {value} |" for name, value in self.rows())])


def _seeds(seeds: Iterable[int]) -> str:
    """`480 (0–479)`."""
    ordered = sorted(seeds)
    parts: list[list[int]] = []
    for seed in ordered:
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    ranges = ", ".join(f"{first}" if first == last else f"{first}–{last}" for first, last in parts)
    return f"{len(ordered):,} ({ranges})" if ordered else "0"
