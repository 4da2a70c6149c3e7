"""The environments of a policyctl.yaml, resolved: what plan and apply need to know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from policyctl.errors import Problem, UsageError
from policyctl.load.kinds import CONFIG_FILE
from policyctl.load.urls import LOCAL, is_http
from policyctl.plan.settings import Settings
from policyctl.policy.document import digest, written_text
from policyctl.policy.findings import did_you_mean
from policyctl.policy.names import matches
from policyctl.rules.catalogue import Chosen

if TYPE_CHECKING:
    from policyctl.load.auth import AuthFile
    from policyctl.load.source import Source


@dataclass(frozen=True, slots=True)
class Environment:
    """One environment, resolved: what plan and apply need to know."""

    name: str
    remote: str = LOCAL
    auth: AuthFile | None = field(default=None, repr=False)
    ca_file: str | None = None
    vars: dict[str, Any] = field(default_factory=dict)
    include: tuple[str, ...] | None = None
    settings: Settings = field(default_factory=Settings)

    def speaks_for(self, name: str) -> bool:
        """Whether a policy of that name can only be what a file says: it is in scope, and removed when no file names it."""
        settings = self.settings
        written = settings.scope is not None or not is_http(self.remote)
        return written and settings.prune and settings.in_scope(name) and not matches(name, settings.protect)

    @property
    def decides(self) -> dict[str, Any]:
        """Everything that decides what a plan of this environment says, as plain values; auth and remote are not part of it."""
        settings = self.settings
        return {
            "vars": {name: written_text(value) for name, value in self.vars.items()},  # templates see a mapping's order
            "include": _listed(self.include),
            "scope": _listed(settings.scope),
            "prune": settings.prune,
            "protect": list(settings.protect),
            "allow_remove": list(settings.allow_remove),
            "limits": settings.limits._asdict(),
            "guards": {name: _plain(guard) for name, guard in settings.guards._asdict().items()},
            "guard_exceptions": [exception._asdict() for exception in settings.guard_exceptions],
        }

    @property
    def digest(self) -> str:
        """A hash of what `decides`."""
        return digest(self.decides)

    @property
    def rules(self) -> str:
        """A hash of the safety settings: of what `decides` all but variables and `include`, which the changes show."""
        return digest({name: item for name, item in self.decides.items() if name not in ("vars", "include")})


class Config(NamedTuple):
    """A policyctl.yaml that was read, or what holds without one.

    `shared` is what an environment has that writes nothing itself. `written` are the settings that decide what is reached and
    how much may change, as they are written, by path: all but variables and lint rules. `source` is the file, `problems` are
    its warnings.
    """

    path: Path | None
    environments: dict[str, Environment]
    default: str | None
    lint: Chosen = Chosen()
    shared: Environment = Environment(LOCAL)
    written: Mapping[str, Any] = MappingProxyType({"default": LOCAL, f"environments.{LOCAL}.remote": LOCAL})
    source: Source | None = None
    problems: tuple[Problem, ...] = ()

    def environment(self, name: str | None) -> Environment:
        """The environment asked for, or the default. Raises UsageError when there is none of that name, or no default."""
        chosen = name or self.default
        known = sorted(self.environments)
        if chosen is None:
            raise UsageError(f"there are several environments and no default; choose one with --env: {', '.join(known)}")
        if chosen not in self.environments:
            where = self.path or f"there is no {CONFIG_FILE}"
            raise UsageError(f"unknown environment {chosen}{did_you_mean(chosen, known)}; known: {', '.join(known)} ({where})")
        return self.environments[chosen]


NO_CONFIG = Config(None, {LOCAL: Environment(LOCAL)}, LOCAL)


def _plain(guard: Any) -> Any:
    """A guard as a plain value; answers that are no plain values are what they read as."""
    if not hasattr(guard, "_asdict"):
        return guard
    return {
        key: [one if isinstance(one, int) else str(one) for one in value] if isinstance(value, tuple) else value
        for key, value in guard._asdict().items()
    }


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """What stands in nested mappings, by path; lists are whole."""
    for key, item in tree.items():
        if isinstance(item, Mapping):
            yield from leaves(item, f"{path}{key}.")
        else:
            yield f"{path}{key}", item


def _listed(values: tuple[str, ...] | None) -> list[str] | None:
    return None if values is None else list(values)
