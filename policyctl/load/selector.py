"""Which environments are meant: names and globs, and labels in the grammar that kubectl has for them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from policyctl.errors import UsageError
from policyctl.policy.document import digest
from policyctl.policy.findings import did_you_mean
from policyctl.policy.memo import late_pattern

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
