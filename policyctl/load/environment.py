"""The environments of a policyctl.yaml, resolved: what plan and apply need to know, and which of them are meant.

They are meant by names and globs, and by labels in the grammar that kubectl has for them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from policyctl.errors import InvalidInput, Problem, UsageError
from policyctl.load.kinds import CONFIG_FILE
from policyctl.load.urls import LOCAL, is_postgres, is_shared
from policyctl.load.windows import WatchSettings
from policyctl.plan.settings import Settings
from policyctl.policy.document import digest, written_text
from policyctl.policy.findings import MOST_LISTED, did_you_mean, listed
from policyctl.policy.memo import late_pattern
from policyctl.policy.names import matches
from policyctl.rules import Chosen

if TYPE_CHECKING:
    from policyctl.load.settings_file import AuthFile
    from policyctl.load.source import Source


class Suspend(NamedTuple):
    """Why an environment is left as it is, and the first day on which it is not any more."""

    reason: str
    until: date | None = None


class Wave(NamedTuple):
    """Environments by a selector (None: all that no earlier wave has), and how many of them may fail."""

    label: str | None = None
    max_failures: int = 0


@dataclass(frozen=True)
class Environment:
    """One environment, resolved: what plan and apply need to know."""

    name: str
    remote: str = LOCAL
    auth: AuthFile | None = field(default=None, repr=False)
    ca_file: str | None = None
    vars: dict[str, Any] = field(default_factory=dict)
    include: tuple[str, ...] | None = None
    settings: Settings = field(default_factory=Settings)
    labels: dict[str, str] = field(default_factory=dict)
    suspend: Suspend | None = None
    requests_per_second: float | None = None
    watch: WatchSettings = field(default_factory=WatchSettings)

    @property
    def suspended(self) -> str | None:
        """Why it is left as it is today (by UTC), or None."""
        if self.suspend is None or (self.suspend.until is not None and datetime.now(UTC).date() >= self.suspend.until):
            return None
        until = "" if self.suspend.until is None else f" (until {self.suspend.until})"
        return f"{self.suspend.reason}{until}"

    @property
    def logs_in(self) -> bool:
        """Whether credentials go to its remote: those of `auth`, or a password that PostgreSQL's client finds by itself."""
        return self.auth is not None or is_postgres(self.remote)

    def speaks_for(self, name: str) -> bool:
        """Whether a policy of that name exists only with a file: it is in scope, and removed without one."""
        settings = self.settings
        written = settings.scope is not None or not is_shared(self.remote)
        return written and settings.prune and settings.in_scope(name) and not matches(name, settings.protect)

    @property
    def decides(self) -> dict[str, Any]:
        """All settings that decide the content of a plan of this environment, as plain values; not auth and remote."""
        settings = self.settings
        return {
            "vars": {
                name: written_text(value) for name, value in self.vars.items()
            },  # the order of a mapping is visible to templates
            "include": _listed(self.include),
            **({"manage": ["policies", "models"]} if settings.models else {}),
            "scope": _listed(settings.scope),
            "prune": settings.prune,
            "protect": list(settings.protect),
            "allow_remove": list(settings.allow_remove),
            **({"allow_key_loss": list(settings.allow_key_loss)} if settings.allow_key_loss else {}),
            "limits": settings.limits._asdict(),
            "guards": {name: _plain(guard) for name, guard in settings.guards._asdict().items()},
            "guard_exceptions": [exception._asdict() for exception in settings.guard_exceptions],
        }

    @cached_property
    def digest(self) -> str:
        """A hash of what `decides`."""
        return digest(self.decides)

    @property
    def rules(self) -> str:
        """A hash of the safety settings: of `decides` without variables and `include`, whose effect the changes show, of what a
        watch may write, and of `suspend`."""
        found = {name: item for name, item in self.decides.items() if name not in ("vars", "include")}
        if self.watch.writes != WatchSettings().writes:
            found["watch"] = [*map(str, self.watch.writes)]
        if self.suspend is not None:
            found["suspend"] = [*map(str, self.suspend)]
        return digest(found)


class GatewayConnection(NamedTuple):
    """What a connection of the platform holds, for the gateway: a reference to a key, and an address."""

    api_key: str | None = None
    custom_host: str | None = None


class Receiver(NamedTuple):
    """Who is notified by a watch: an address or a reference to one (empty for an issue), the form of the messages, a reference
    to the secret that signs them, and the states to notify of."""

    name: str
    url: str = ""
    form: str = "json"
    secret: str | None = None
    states: tuple[str, ...] = ("drifted", "conflict", "fighting", "refused", "failed", "in_sync")


class Config(NamedTuple):
    """A policyctl.yaml that was read, or the defaults without one.

    `shared` is an environment without settings of its own. `written` are the settings as written, by dotted path, without
    variables and lint rules: they decide what is reached and how much may change. `source` is the file.

    `broken` are the generated environments that cannot be used, each with its problems, and `unlabelled` those of them whose
    labels are not known. `inventories` are the files that
    environments are generated from, and `origins` has for each generated one where its settings come from, by dotted path.
    `connections` are those that the gateway knows, by app id; `receivers` are notified by a watch.
    """

    path: Path | None
    environments: dict[str, Environment]
    default: str | None
    lint: Chosen = Chosen()
    shared: Environment = Environment(LOCAL)
    written: Mapping[str, Any] = MappingProxyType({"default": LOCAL, f"environments.{LOCAL}.remote": LOCAL})
    source: Source | None = None
    broken: Mapping[str, tuple[Problem, ...]] = MappingProxyType({})
    broken_labels: Mapping[str, Mapping[str, str]] = MappingProxyType({})
    unlabelled: frozenset[str] = frozenset()
    waves: tuple[Wave, ...] = ()
    inventories: tuple[Path, ...] = ()
    origins: Mapping[str, Mapping[str, str]] = MappingProxyType({})
    connections: Mapping[str, GatewayConnection] = MappingProxyType({})
    receivers: tuple[Receiver, ...] = ()

    @property
    def labels(self) -> dict[str, Mapping[str, str]]:
        """The labels of every environment by its name, also of those that cannot be used."""
        return {name: environment.labels for name, environment in self.environments.items()} | dict(self.broken_labels)

    def is_inventory(self, file: str) -> bool:
        """Whether environments are generated from a file, which then is not a policy file."""
        return bool(self.inventories) and os.path.abspath(file) in {os.path.abspath(one) for one in self.inventories}

    def environment(self, name: str | None) -> Environment:
        """The environment with that name, or the default one.

        Raises UsageError for an unknown name, or without a default, and InvalidInput for one that cannot be used.
        """
        chosen = name or self.default
        if chosen in self.environments and chosen not in self.broken:
            return self.environments[chosen]
        known = sorted([*self.environments, *self.broken])
        if chosen is None:
            raise UsageError(f"there are several environments and no default; choose one with --env: {listed_names(known)}")
        if chosen in self.broken:
            raise InvalidInput(self.broken[chosen])
        where = self.path or f"there is no {CONFIG_FILE}"
        raise UsageError(f"unknown environment {chosen}{did_you_mean(chosen, known)}; known: {listed_names(known)} ({where})")


def listed_names(names: Collection[str]) -> str:
    """Names of environments in a message, and what shows the rest."""
    return f"{listed(names)}{' (policyctl env list)' if len(names) > MOST_LISTED else ''}"


NO_CONFIG = Config(None, {LOCAL: Environment(LOCAL)}, LOCAL)


def _plain(guard: Any) -> Any:
    """A guard as a plain value, with other answers than statuses as text."""
    if not hasattr(guard, "_asdict"):
        return guard
    return {
        key: [one if isinstance(one, int) else str(one) for one in value] if isinstance(value, tuple) else value
        for key, value in guard._asdict().items()
    }


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by dotted path (see `dotted`); a list is one value."""
    for key, item in tree.items():
        if isinstance(item, Mapping):
            yield from leaves(item, f"{path}{dotted(key)}.")
        else:
            yield f"{path}{dotted(key)}", item


def dotted(*keys: object) -> str:
    """A dotted path in which each key is clear: one with a dot, such as the name of an environment, is in quotes."""
    return ".".join(json.dumps(key) if "." in key or key.startswith('"') else key for key in map(str, keys))


def parted(path: str) -> tuple[str, str]:
    """The first key of a dotted path, and the rest of it."""
    if not path.startswith('"'):
        first, _, rest = path.partition(".")
        return first, rest
    quoted, end = json.JSONDecoder().raw_decode(path)
    return quoted, path[end + 1 :]


def _listed(values: tuple[str, ...] | None) -> list[str] | None:
    return None if values is None else list(values)


UNSET = "P018"
_WHAT, _IN = "the variable ", " in environment"


def in_environment(problems: Iterable[Problem], environment: Environment) -> list[Problem]:
    """The problems, with the environment's name and what to do in those about unset variables."""
    return [name_environments(problem, [environment]) if problem.code == UNSET else problem for problem in problems]


def name_environments(problem: Problem, environments: Sequence[Environment]) -> Problem:
    """An unset variable's problem with the names of the environments that do not set it; names already in it are replaced."""
    if not problem.message.startswith(_WHAT):  # redacted, because its file is a link
        return problem
    what = problem.message.partition(_IN)[0]
    variable = what.split()[2]
    *most, last = (environment.name for environment in environments)
    named = [*most, last]
    names = f"s {listed(named)}" if len(named) > MOST_LISTED else f"s {', '.join(most)} and {last}" if most else f" {last}"
    guess = did_you_mean(variable, {name for environment in environments for name in environment.vars})
    where = f"the vars of each in {CONFIG_FILE}" if most else f"environments.{last}.vars in {CONFIG_FILE}"
    return problem._replace(message=f"{what}{_IN}{names}{guess or f' (add it to {where})'}")


_WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9_./-]*[A-Za-z0-9_])?"
_PARTS = late_pattern(r"(?:[^,()]|\([^()]*\))+")
_EQUALS = late_pattern(rf"(?P<key>{_WORD})\s*(?P<sign>==|=|!=)\s*(?P<value>{_WORD}|)")
_SET = late_pattern(rf"(?P<key>{_WORD})\s+(?P<sign>in|notin)\s+\(\s*(?P<values>{_WORD}(?:\s*,\s*{_WORD})*)\s*\)")
_EXISTS = late_pattern(rf"(?P<sign>!?)\s*(?P<key>{_WORD})")
_WRITE = "write key=value, key!=value, key in (a,b), key or !key"
_ALL = " (policyctl env list shows all)"
_GLOB = frozenset("*?[")
_LONGEST_TEXT = 200


class Requirement(NamedTuple):
    """One part of a selector: a label that must have one of some values or none of them; without values, be there or not."""

    key: str
    values: tuple[str, ...] | None
    holds: bool

    def fits(self, labels: Mapping[str, str]) -> bool:
        """Whether an environment with these labels meets it. One without the label meets `!=`, `notin` and `!key`."""
        has = self.key in labels if self.values is None else labels.get(self.key) in self.values
        return has is self.holds


def parse_selector(text: str) -> tuple[Requirement, ...]:
    """A selector such as `tier=gold,ring in (canary,1),!legacy`. Raises UsageError for one that is not."""
    parts = [part.strip() for part in _PARTS.findall(text)]
    if not parts or not all(parts) or len(parts) != len(_split(text)):
        raise UsageError(
            f"{text!r} is not a selector; write key=value, key!=value, key in (a,b), key or !key, with commas between"
        )
    return tuple(map(_requirement, parts))


def _split(text: str) -> list[str]:
    return re.split(r",(?![^()]*\))", text)


def _requirement(part: str) -> Requirement:
    if found := _EQUALS.fullmatch(part):
        return Requirement(found["key"], (found["value"],), found["sign"] != "!=")
    if found := _SET.fullmatch(part):
        return Requirement(found["key"], tuple(one.strip() for one in found["values"].split(",")), found["sign"] == "in")
    if found := _EXISTS.fullmatch(part):
        return Requirement(found["key"], None, not found["sign"])
    raise UsageError(f"{part!r} is not part of a selector; {_WRITE}")


def is_glob(name: str) -> bool:
    """Whether a name on the command line may mean several environments."""
    return not _GLOB.isdisjoint(name)


class EnvironmentFilter(NamedTuple):
    """The environments that a command line means: any of `names` (all without one), with all `selectors`, and none of
    `excluded`; names may be globs. `several` is whether the command line asks for more than one environment.
    `affected` is a revision: only environments that differ from there are meant (see `affected_since`).
    """

    names: tuple[str, ...] = ()
    selectors: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    several: bool = True
    affected: str | None = None

    @property
    def is_narrow(self) -> bool:
        """Whether the command line asks for several environments, but not simply for all."""
        return self.several and self != EnvironmentFilter()

    @property
    def text(self) -> str:
        """The selection as one text, which does not depend on the order of the options; `*` is every environment.

        It identifies the comment with the plans of these environments, which is not that of one environment of this name alone.
        A long one is replaced by its hash.
        """
        names = () if "*" in self.names else sorted(set(self.names))
        parts = [*names, *(f"-l {one}" for one in sorted(self.selectors)), *(f"!{one}" for one in sorted(self.excluded))]
        parts += [] if self.affected is None else ["affected"]
        text = " ".join(parts) or "*"
        text = f"only {text}" if self.several and len(parts) == 1 and names and not is_glob(text) else text
        return text if len(text) <= _LONGEST_TEXT else digest(text)

    def choose(self, labels: Mapping[str, Mapping[str, str]], unlabelled: Collection[str] = ()) -> tuple[str, ...]:
        """The names chosen, in the order of `labels`, which has every environment's labels by name. Those whose labels are not
        known (`unlabelled`) are chosen whatever the selectors, so that they are not left out unnoticed.

        `affected` does not count here. Raises UsageError for a name, glob or label that matches no environment, and if nothing
        is left.
        """
        for option, patterns in (("--env", self.names), ("--exclude-env", self.excluded)):
            for pattern in patterns:
                if not any(fnmatchcase(name, pattern) for name in labels):
                    raise UsageError(f"{option} {pattern} matches no environment{did_you_mean(pattern, labels) or _ALL}")
        wanted = [one for text in self.selectors for one in parse_selector(text)]
        self._raise_if_unknown(wanted, labels)
        chosen = tuple(name for name, own in labels.items() if self._fits(name, own, () if name in unlabelled else wanted))
        if not chosen:
            raise UsageError("no environment is selected, so nothing was done; policyctl env list shows all")
        return chosen

    def _fits(self, name: str, labels: Mapping[str, str], wanted: Iterable[Requirement]) -> bool:
        named = not self.names or any(fnmatchcase(name, pattern) for pattern in self.names)
        excluded = any(fnmatchcase(name, pattern) for pattern in self.excluded)
        return named and not excluded and all(one.fits(labels) for one in wanted)

    def _raise_if_unknown(self, wanted: Iterable[Requirement], labels: Mapping[str, Mapping[str, str]]) -> None:
        known = {key for own in labels.values() for key in own}
        for one in wanted:
            if one.key not in known:
                guess = did_you_mean(one.key, known) or (f" (known: {', '.join(sorted(known)[:10])})" if known else "")
                raise UsageError(f"no environment has a label {one.key}{guess}")


EVERY = EnvironmentFilter()


def lines_of(text: str) -> Iterator[str]:
    """The names in a list of environments, one a line; blank lines and comments (#) do not count."""
    for line in text.splitlines():
        if name := line.partition("#")[0].strip():
            yield name
