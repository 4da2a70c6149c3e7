"""Which file of a directory a policy or virtual model belongs in, and the live ones that `pull` writes there."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from policyctl.errors import errors_in
from policyctl.load.directory import Files, Loaded
from policyctl.load.documents import read_contents
from policyctl.load.environment import Environment
from policyctl.load.kinds import is_template
from policyctl.load.unread import UnreadFiles
from policyctl.load.write import file_text, unrepresentable_reasons
from policyctl.plan.plan import Desired, equal
from policyctl.plan.references import find_cycle
from policyctl.plan.settings import Settings
from policyctl.policy.document import Document, Policy, references
from policyctl.policy.findings import listed
from policyctl.policy.live import Live, LivePolicy, LiveRows
from policyctl.policy.names import bare_name, canonical, kind_of, short_model

SUFFIX = ".yaml"
MODELS = "models"  # the folder of new files of virtual models
_NAMED = 3  # environments of one version of a file, in a message
MAX_STEM = 100  # characters; file systems take 255 bytes, and a temporary file beside it needs some of them
_CLEAN = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9_])?")
_HASHED = re.compile(r".*-[0-9a-f]{10}")
# Names of devices on Windows, with any suffix.
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))})


def file_names(name: str) -> tuple[str, ...]:
    """The possible file names of a policy or virtual model, the preferred one first. The last one has a hash of the name, so
    it is unique.

    A name that is not a plain file name (`/`, blanks, capitals that some file systems ignore, `policyctl`, `x.test`, …) has
    only the hashed one. In the name of a model `/` becomes `-`, which may give the name of another model's file.
    """
    kind = kind_of(name)
    bare = short_model(name).replace("/", "-") if kind == "model" else bare_name(name)
    hashed = f"{_slug(bare) or kind}-{hashlib.sha256(_bytes(canonical(name))).hexdigest()[:10]}{SUFFIX}"
    return (bare + SUFFIX, hashed) if _is_clean(bare) else (hashed,)


def _is_clean(stem: str) -> bool:
    """Whether a name can be its file's name unchanged."""
    first, last = stem.partition(".")[0], stem.rpartition(".")[2]
    special = first == "policyctl" or first in _RESERVED or ("." in stem and last == "test")
    return len(stem) <= MAX_STEM and bool(_CLEAN.fullmatch(stem)) and not special and not _HASHED.fullmatch(stem)


def _slug(bare: str) -> str:
    """The letters and digits of a name that are safe in any file name."""
    ascii_only = unicodedata.normalize("NFKD", bare.casefold()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_only).strip("-")[: MAX_STEM // 2].strip("-")


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class Placement:
    """The file of one policy or model: its path, what it holds at present (None for a new file), and why it cannot be
    written."""

    path: Path
    desired: Desired | None = None
    complaint: str | None = None


class FileLayout:
    """The file of each policy and virtual model in a directory. A new file name is used only once."""

    def __init__(self, directory: Path, files: Files, loaded: Loaded, unread: UnreadFiles, environment: Environment) -> None:
        self._directory = directory
        self._files = files
        self._unread = unread
        self._environment = environment
        self._desired = {one.name: one for one in loaded.desired}
        # Case-folded, because some file systems hold `A.yaml` and `a.yaml` for one file.
        self._taken = {
            folder: {entry.casefold() for entry in os.listdir(folder)} if folder.is_dir() else set()
            for folder in (directory, directory / MODELS)
        }

    def of(self, name: str) -> Placement:
        """The file of the policy or model with that canonical name."""
        desired = self._desired.get(name)
        if desired is not None:
            return Placement(Path(desired.file), desired, self._why_not(desired))
        folder = self._directory / MODELS if kind_of(name) == "model" else self._directory
        if folder.exists() and not folder.is_dir():
            return Placement(folder, complaint="is not a directory; move it away")
        if elsewhere := self._unread.where(name) or self._unread.maybe:
            return Placement(folder / file_names(name)[0], complaint=f"is not written: {elsewhere}")
        free = next((file for file in file_names(name) if file.casefold() not in self._taken[folder]), None)
        if free is None:
            path = folder / file_names(name)[-1]
            return Placement(path, complaint="already exists with other content; move it away")
        self._taken[folder].add(free.casefold())
        path = folder / free
        if not self._files.includes(str(path), self._environment):
            return Placement(path, complaint=f"is not included by environment {self._environment.name}")
        return Placement(path)

    def _why_not(self, desired: Desired) -> str | None:
        source = self._files.source(desired.file)
        if desired.file.endswith(".json"):
            return "is JSON, and policyctl writes YAML; edit it by hand"
        if sum(document.data is not None for document in source.documents) > 1:
            return f"has more than this {kind_of(desired.name)}; edit it by hand"
        if is_template(source.text) and errors_in(read_contents(source, {}, models=True).problems):
            return "depends on the environment's vars; edit it by hand"
        return None


@dataclass(slots=True)
class Pull:
    """What pulling would do: (path, text, whether it is new) to write, and the files that match what is live already.

    `wrote` has the name of what is written to each path. `kept` are files that differ and may not be overwritten, `left` is
    what is live and cannot be written; both as sentences by name. `names` are those of all live policies and models in scope.
    """

    writes: list[tuple[Path, str, bool]] = field(default_factory=list)
    same: list[Path] = field(default_factory=list)
    wrote: dict[Path, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def leave(self, path: Path, why: str) -> None:
        """Do not write a file after all."""
        self.writes = [one for one in self.writes if one[0] != path]
        self.left[self.wrote[path]] = f"{self.wrote[path]}: {why}"


@dataclass(slots=True)
class Adoption:
    """What was taken over: the files that change, by path, with their texts before (None: new) and after (None: deleted).

    `adopted` are the names of policies that are taken over as a whole, `left` those that are not, or not as a whole, with the
    reason. `documents` are the policies that the files then have (None: deleted), `whole` the files that were written anew,
    and `config` is the digest of the environment's settings then.
    """

    files: dict[Path, tuple[str | None, str | None]] = field(default_factory=dict)
    adopted: list[str] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    documents: dict[str, Document | None] = field(default_factory=dict)
    whole: list[Path] = field(default_factory=list)
    config: str = ""


def leave_contradictions(pulls: Mapping[str, Pull]) -> None:
    """Of several environments by name, leave out the files that would not be the same for all of them.

    A file is written once, and what one environment wants of it must not change what another one has.
    """
    variants: defaultdict[Path, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, pull in pulls.items():
        for path, text, _ in pull.writes:
            variants[path][text].append(name)
    for name, pull in pulls.items():
        for path in variants.keys() & {*pull.same}:
            variants[path][""].append(name)  # as it is on the disk, which no environment writes
    for path, found in variants.items():
        if len(found) > 1:
            who = "; ".join(listed(names, _NAMED) for names in found.values())
            why = f"{path} would not be the same for {who}; write a template, or give each its own directory with include"
            for name in (name for text, names in found.items() if text for name in names):
                pulls[name].leave(path, why)


def plan_pull(
    observed: LiveRows, homes: FileLayout, settings: Settings, spell: Callable[[Policy], Policy], *, overwrite: bool
) -> Pull:
    """Decide about every live policy and model in scope. Nothing is written here.

    `spell` returns a policy with its models as the remote spells them: a file that only differs in spelling does not change.
    """
    in_scope = {name: live for name, live in sorted(observed.live.items()) if settings.in_scope(name)}
    pull = Pull(names=tuple(in_scope))
    circular = set(_in_a_circle(in_scope))
    for name, live in in_scope.items():
        if name in circular:
            pull.left[name] = f"{name}: it targets itself, directly or through other policies; change it on the remote"
        else:
            _pull_one(live, homes, pull, spell, overwrite)
    for twins in observed.twins:
        if settings.in_scope(twins.name):
            ids = ", ".join(twins.ids)
            pull.left[twins.name] = f"{twins.name}: {twins.reason} (ids {ids})"
    return pull


def _pull_one(live: Live, homes: FileLayout, pull: Pull, spell: Callable[[Policy], Policy], overwrite: bool) -> None:
    home = homes.of(live.name)
    if home.desired is not None and _matches(home.desired, live, spell):
        pull.same.append(home.path)
        return
    text = file_text(live)
    if not isinstance(text, str):
        pull.left[live.name] = f"{live.name}: {'; '.join(unrepresentable_reasons(text))}"
    elif home.desired is not None and not overwrite:
        pull.kept[live.name] = f"{home.path} differs from the live {live.name}; use --overwrite to replace it"
    elif home.complaint is not None:
        pull.left[live.name] = f"{live.name}: {home.path} {home.complaint}"
    else:
        pull.writes.append((home.path, text, home.desired is None))
        pull.wrote[home.path] = live.name


def _matches(desired: Desired, live: Live, spell: Callable[[Policy], Policy]) -> bool:
    return equal(desired, live) or (isinstance(desired, Policy) and equal(spell(desired), live))


def _in_a_circle(live: Mapping[str, Live]) -> Iterator[str]:
    """The policies that target each other in a circle, which is invalid in files."""
    graph = {name: references(one.document) for name, one in live.items() if isinstance(one, LivePolicy)}
    while cycle := find_cycle(graph):
        for name in cycle[:-1]:
            del graph[name]
            yield name
