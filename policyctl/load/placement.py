"""Which file of a directory a policy belongs in, and the live policies that `pull` writes there."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from policyctl.errors import errors_in
from policyctl.load.directory import Files, Loaded
from policyctl.load.documents import read_contents
from policyctl.load.environment import Environment
from policyctl.load.kinds import is_template
from policyctl.load.unread import UnreadFiles
from policyctl.load.write import policy_text, unrepresentable_reasons
from policyctl.plan.change import equal
from policyctl.plan.references import find_cycle
from policyctl.plan.settings import Settings
from policyctl.policy.document import Policy, references
from policyctl.policy.live import LivePolicy, LiveRows
from policyctl.policy.names import bare_name, canonical_name

SUFFIX = ".yaml"
MAX_STEM = 100  # characters; file systems take 255 bytes, and a temporary file beside it needs some of them
_CLEAN = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9_])?")
_HASHED = re.compile(r".*-[0-9a-f]{10}")
# Names of devices on Windows, with any suffix.
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))})


def file_names(name: str) -> tuple[str, ...]:
    """The possible file names of a policy, the preferred one first. The last one has a hash of the name, so it is unique.

    A name that is not a plain file name (`/`, blanks, capitals that some file systems ignore, `policyctl`, `x.test`, …) has
    only the hashed one.
    """
    bare = bare_name(name)
    hashed = f"{_slug(bare)}-{hashlib.sha256(_bytes(canonical_name(name))).hexdigest()[:10]}{SUFFIX}"
    return (bare + SUFFIX, hashed) if _is_clean(bare) else (hashed,)


def _is_clean(stem: str) -> bool:
    """Whether a policy's name can be its file's name unchanged."""
    first, last = stem.partition(".")[0], stem.rpartition(".")[2]
    special = first == "policyctl" or first in _RESERVED or ("." in stem and last == "test")
    return len(stem) <= MAX_STEM and bool(_CLEAN.fullmatch(stem)) and not special and not _HASHED.fullmatch(stem)


def _slug(bare: str) -> str:
    """The letters and digits of a name that are safe in any file name."""
    ascii_only = unicodedata.normalize("NFKD", bare.casefold()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_only).strip("-")[: MAX_STEM // 2].strip("-") or "policy"


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class Placement:
    """The file of one policy: its path, its present policy (None for a new file), and why it cannot be written."""

    path: Path
    policy: Policy | None = None
    complaint: str | None = None


class FileLayout:
    """The file of each policy in a directory. A new file name is used only once."""

    def __init__(self, directory: Path, files: Files, loaded: Loaded, unread: UnreadFiles, environment: Environment) -> None:
        self._directory = directory
        self._files = files
        self._unread = unread
        self._environment = environment
        self._policies = {policy.name: policy for policy in loaded.policies}
        # Case-folded, because some file systems hold `A.yaml` and `a.yaml` for one file.
        self._taken = {entry.casefold() for entry in os.listdir(directory)} if directory.is_dir() else set()

    def of(self, name: str) -> Placement:
        """The file of the policy with that canonical name."""
        policy = self._policies.get(name)
        if policy is not None:
            return Placement(Path(policy.file), policy, self._why_not(policy))
        if elsewhere := self._unread.where(name) or self._unread.maybe:
            return Placement(self._directory / file_names(name)[0], complaint=f"is not written: {elsewhere}")
        free = next((file for file in file_names(name) if file.casefold() not in self._taken), None)
        if free is None:
            path = self._directory / file_names(name)[-1]
            return Placement(path, complaint="already exists with other content; move it away")
        self._taken.add(free.casefold())
        path = self._directory / free
        if not self._files.includes(str(path), self._environment):
            return Placement(path, complaint=f"is not included by environment {self._environment.name}")
        return Placement(path)

    def _why_not(self, policy: Policy) -> str | None:
        source = self._files.source(policy.file)
        if policy.file.endswith(".json"):
            return "is JSON, and policyctl writes YAML; edit it by hand"
        if sum(document.data is not None for document in source.documents) > 1:
            return "has more than this policy; edit it by hand"
        if is_template(source.text) and errors_in(read_contents(source, {}).problems):
            return "depends on the environment's vars; edit it by hand"
        return None


@dataclass(slots=True)
class Pull:
    """What pulling would do: (path, text, whether it is new) to write, and how many files match the live policy already.

    `kept` are files that differ and may not be overwritten, `left` are live policies that cannot be written; both as
    sentences. `names` are those of all live policies in scope.
    """

    writes: list[tuple[Path, str, bool]] = field(default_factory=list)
    unchanged: int = 0
    kept: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    names: tuple[str, ...] = ()


def plan_pull(
    observed: LiveRows, homes: FileLayout, settings: Settings, spell: Callable[[Policy], Policy], *, overwrite: bool
) -> Pull:
    """Decide about every live policy in scope. Nothing is written here.

    `spell` returns a policy with its models as the remote spells them: a file that only differs in spelling does not change.
    """
    in_scope = {name: live for name, live in sorted(observed.policies.items()) if settings.in_scope(name)}
    pull = Pull(names=tuple(in_scope))
    circular = set(_in_a_circle(in_scope))
    for name, live in in_scope.items():
        if name in circular:
            pull.left.append(f"{name}: it targets itself, directly or through other policies; change it on the remote")
        else:
            _pull_one(live, homes, pull, spell, overwrite)
    for twins in observed.twins:
        if settings.in_scope(twins.name):
            ids = ", ".join(twins.ids)
            pull.left.append(f"{twins.name}: {twins.reason} (ids {ids})")
    return pull


def _pull_one(live: LivePolicy, homes: FileLayout, pull: Pull, spell: Callable[[Policy], Policy], overwrite: bool) -> None:
    home = homes.of(live.name)
    if home.policy is not None and (equal(home.policy, live) or equal(spell(home.policy), live)):
        pull.unchanged += 1
        return
    text = policy_text(live.document)
    if not isinstance(text, str):
        pull.left.append(f"{live.name}: {'; '.join(unrepresentable_reasons(text))}")
    elif home.policy is not None and not overwrite:
        pull.kept.append(f"{home.path} differs from the live {live.name}; use --overwrite to replace it")
    elif home.complaint is not None:
        pull.left.append(f"{live.name}: {home.path} {home.complaint}")
    else:
        pull.writes.append((home.path, text, home.policy is None))


def _in_a_circle(policies: Mapping[str, LivePolicy]) -> Iterator[str]:
    """The policies that target each other in a circle, which is invalid in files."""
    graph = {name: references(live.document) for name, live in policies.items()}
    while cycle := find_cycle(graph):
        for name in cycle[:-1]:
            del graph[name]
            yield name
