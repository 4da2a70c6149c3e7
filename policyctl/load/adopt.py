"""What is live, in files: which file of a directory a policy or virtual model belongs in, and that file with what is live.

`pull` writes whole files. A file that is there changes as little as possible: each value is edited where it is, comments and
order stay. Positions are those of the parsed nodes. The text is not trusted: the caller loads and renders it again, and
compares the result with what was intended.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from policyctl.errors import errors_in
from policyctl.load.directory import Files, Loaded, read_contents
from policyctl.load.discovery import UnreadFiles
from policyctl.load.environment import Environment
from policyctl.load.kinds import is_template
from policyctl.load.source import Source
from policyctl.load.style import flow_text
from policyctl.load.write import file_text, lines_of, unrepresentable_reasons
from policyctl.load.yaml import Loader
from policyctl.plan.diff import Pair, pair_targets
from policyctl.plan.plan import Desired, equal
from policyctl.plan.references import find_cycle
from policyctl.plan.settings import Settings
from policyctl.policy.document import Document, Policy, normal_form, order_matters, references
from policyctl.policy.findings import listed
from policyctl.policy.live import Live, LivePolicy, LiveRows
from policyctl.policy.names import bare_name, canonical, canonical_model, kind_of, short_model

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


# The order of a file, by which what is added finds its place.
_KEYS = (
    "spec_version kind name display_name description policy model_name weight mode attempts on_status_codes "
    "use_retry_after_header strategy retry cache targets"
).split()


class Templated(NamedTuple):
    """A value that a template gives and that is something else on the remote: its path, the template, and the live value."""

    path: str
    template: str
    live: Any


class Edited(NamedTuple):
    """The text of a file, the normal form that it should have, and what was left as it is because a template gives it."""

    text: str
    normal: Document
    templated: tuple[Templated, ...]


def edit_policy(source: Source, index: int, rendered: Document, live: Document) -> Edited | None:
    """The text of a file in which one document's policy is changed from `rendered` to `live`.

    None if its values have no places, as in JSON that is not YAML.
    """
    try:
        root = list(yaml.compose_all(source.text, Loader=Loader))[index]
    except (yaml.YAMLError, IndexError):
        return None
    editor = _Editor(source.text, json.dumps if source.file.endswith(".json") else flow_text)
    now, then = normal_form(rendered, sort=False), normal_form(live, sort=False)
    found = editor.mapping(root, now, {**then, "name": now["name"]}, "")
    return Edited(editor.result(), normal_form(found), tuple(editor.templated))


@dataclass
class _Item:
    """A target of a list as it will be: where it was, its value, and its text if that was edited. A `new` one has no text."""

    place: int | None
    value: Any
    text: str | None = None
    new: bool = False


@dataclass
class _Editor:
    """Collects edits of a text. Every method returns the value that the text will have where it edits."""

    text: str
    flow: Callable[[Any], str]
    templated: list[Templated] = field(default_factory=list)
    edits: list[tuple[int, int, str]] = field(default_factory=list)

    def result(self, start: int = 0, end: int | None = None, since: int = 0) -> str:
        """A part of the text with the edits made `since` some number of them."""
        end = len(self.text) if end is None else end
        text = self.text[:end]
        for first, last, new in sorted(self.edits[since:], reverse=True):
            text = text[:first] + new + text[last:]
        return text[start:]

    def mapping(self, node: Any, now: Document, then: Document, path: str) -> Document:
        """Edit a mapping key by key, from one normal form to another."""
        found = dict(now)
        for key in dict.fromkeys((*now, *then)):
            before, after = now.get(key), then.get(key)
            if before == after or (key == "model_name" and _is_same_model(before, after)):
                continue
            value = self._pair(node, key, before, after, f"{path}.{key}".removeprefix("."), order_matters(then))
            if value is None:
                found.pop(key, None)
            else:
                found[key] = value
        return found

    def _pair(self, node: Any, key: str, now: Any, then: Any, path: str, ordered: bool) -> Any:
        """Edit one key of a mapping: change, add or remove it."""
        place = next((place for place, (name, _) in enumerate(node.value) if name.value == key), None)
        if place is None:
            if then is not None:
                self._add(node, key, _tidy(then))
            return then
        value = node.value[place][1]
        if key == "targets" and isinstance(value, yaml.SequenceNode) and isinstance(now, list) and isinstance(then, list):
            return self._targets(value, now, then, path, ordered)
        if isinstance(value, yaml.MappingNode) and isinstance(now, dict) and isinstance(then, dict) and then:
            return self.mapping(value, now, then, path)
        if self._is_given(value, path, then):
            return now
        if then is None:
            self._remove(node, place)
        else:
            self._replace(node, place, _tidy(then))
        return then

    def put(self, node: Any, path: list[str], value: Any) -> None:
        """Set the value at a path of keys, adding what is missing of it."""
        key, *rest = path
        nested = value
        for one in reversed(rest):
            nested = {one: nested}
        if not isinstance(node, yaml.MappingNode) or not (node.value or node.flow_style):
            self._insert(len(self.text), "".join(f"{line}\n" for line in lines_of({key: nested}, "")))
            return
        place = next((place for place, (name, _) in enumerate(node.value) if name.value == key), None)
        if place is None:
            self._add(node, key, nested)
        elif rest and isinstance(node.value[place][1], yaml.MappingNode):
            self.put(node.value[place][1], rest, value)
        else:
            self._replace(node, place, nested)

    def _is_given(self, node: Any, path: str, live: Any) -> bool:
        """Whether a template gives a value, or anything in it; that is noted. One without variables only quotes a text."""
        scalars = [one for one in _scalars(node) if is_template(one.value)]
        if scalars:
            from policyctl.load.template import variables_of  # imports jinja2

            scalars = [one for one in scalars if variables_of(one.value)]
        if scalars:
            self.templated.append(Templated(path, scalars[0].value, live))
        return bool(scalars)

    def _targets(self, node: Any, now: list[Any], then: list[Any], path: str, ordered: bool) -> list[Any]:
        """Edit a list of targets. Those that stay keep their place, unless the order matters and is another one."""
        began, items = len(self.edits), list[tuple[Pair, _Item]]()
        blocks = [(node.start_mark.index, 0)] if node.flow_style else self._blocks(node)
        for pair in pair_targets(now, then):
            if pair.before is None:
                items.append((pair, _Item(None, then[pair.after or 0], new=True)))
                continue
            since, item = len(self.edits), self._target(node.value[pair.before], now, then, pair, f"{path}[{pair.label}]")
            if item is not None and not node.flow_style and since < len(self.edits):
                start, end = blocks[pair.before]
                item.text = self.result(start, end, since)
            if item is not None:
                items.append((pair, item))
        arranged = _arranged(items, ordered)
        values = [item.value for item in arranged]
        stays = [item.place for item in arranged[: len(now)]] == list(range(len(now)))
        if stays and len(arranged) == len(now) and not any(item.new for item in arranged):
            return values
        del self.edits[began:]
        self._write_list(node, arranged, blocks)
        return values

    def _target(self, node: Any, now: list[Any], then: list[Any], pair: Pair, path: str) -> _Item | None:
        """Edit one target that was there; None if it is removed. One that becomes a group, or a model, is written anew."""
        place = pair.before or 0
        if pair.after is None:
            return _Item(place, now[place]) if self._is_given(node, path, None) else None
        before, after = now[place], then[pair.after]
        if isinstance(node, yaml.MappingNode) and isinstance(before, dict) and ("targets" in before) == ("targets" in after):
            return _Item(place, self.mapping(node, before, after, path))
        if self._is_given(node, path, after):
            return _Item(place, before)
        return _Item(place, after, new=True)

    def _write_list(self, node: Any, items: list[_Item], blocks: list[tuple[int, int]]) -> None:
        """Write a list anew: what stays with its own text and comments, in the order of the items."""
        if node.flow_style:
            self.edits.append((node.start_mark.index, node.end_mark.index, self.flow([_tidy(item.value) for item in items])))
            return
        indent = " " * node.start_mark.column
        texts = []
        for item in items:
            if item.new:
                first, *rest = lines_of(_tidy(item.value), f"{indent}  ")
                texts.append("".join(f"{line}\n" for line in (f"{indent}- {first.strip()}", *rest)))
            else:
                text = item.text if item.text is not None else self.text[slice(*blocks[item.place or 0])]
                texts.append(text if text.endswith("\n") else f"{text}\n")
        self.edits.append((blocks[0][0], blocks[-1][1], "".join(texts)))

    def _blocks(self, node: Any) -> list[tuple[int, int]]:
        """Where each item of a list in block style begins and ends, in whole lines; comments above an item belong to it."""
        starts = []
        for number, item in enumerate(node.value):
            line = self._line_start(item.start_mark.index)
            while self.text[line + node.start_mark.column : line + node.start_mark.column + 1] != "-":
                line = self._line_start(line - 1)
            least = self._line_end(node.value[number - 1]) if number else line
            while line > least and self.text[self._line_start(line - 1) : line].lstrip().startswith("#"):
                line = self._line_start(line - 1)
            starts.append(line)
        return list(zip(starts, [*starts[1:], self._line_end(node.value[-1])], strict=True))

    def _add(self, node: Any, key: str, value: Any) -> None:
        """Add a key to a mapping, before the first one that comes later in a file."""
        if node.flow_style:
            comma = ", " if node.value else ""
            at = node.end_mark.index - 1
            self.edits.append((at, at, f"{comma}{self.flow(key)}: {self.flow(value)}"))
            return
        later = [name for name, _ in node.value if _rank(name.value) > _rank(key)]
        alone = [
            name for name in later if not self.text[self._line_start(name.start_mark.index) : name.start_mark.index].strip()
        ]
        at = self._line_start(alone[0].start_mark.index) if alone else self._line_end(node.value[-1][1])
        lines = lines_of({key: value}, " " * node.value[0][0].start_mark.column)
        self._insert(at, "".join(f"{line}\n" for line in lines))

    def _remove(self, node: Any, place: int) -> None:
        """Remove a key of a mapping, with its line in block style."""
        key, value = node.value[place]
        following = node.value[place + 1][0].start_mark.index if place + 1 < len(node.value) else None
        start, line = key.start_mark.index, self._line_start(key.start_mark.index)
        if node.flow_style:
            before = node.value[place - 1][1].end_mark.index if place else start
            self.edits.append((start, following, "") if following else (before, value.end_mark.index, ""))
        elif not self.text[line:start].strip():
            self.edits.append((line, self._line_end(value), ""))
        else:  # after the dash of a list
            self._replace(node, place, None) if following is None else self.edits.append((start, following, ""))

    def _replace(self, node: Any, place: int, value: Any) -> None:
        """Replace the value of a key."""
        key, old = node.value[place]
        start, end = old.start_mark.index, self._end(old)
        inline = node.flow_style or (getattr(old, "flow_style", False) and not isinstance(old, yaml.ScalarNode))
        if inline:
            text = self.flow(value)
        else:
            lines = list(lines_of({key.value: value}, " " * key.start_mark.column))
            text = "\n".join(lines).strip().partition(":")[2]
            if len(lines) == 1 and end > key.end_mark.index + 1:
                text = text.strip()
            else:  # begin right after the colon
                start = self.text.index(":", key.end_mark.index) + 1
                end = max(start, end)
        first, _, rest = text.partition("\n")  # a comment behind the old value stays on its line
        self.edits.append((start, end, f"{first}\n" if end > start and self.text[end - 1] == "\n" else first))
        if rest:
            self._insert(self._line_end(old), f"{rest}\n")

    def _insert(self, at: int, lines: str) -> None:
        """Insert whole lines, where the last line of the text may have no end."""
        self.edits.append((at, at, lines if at == 0 or self.text[at - 1] == "\n" else f"\n{lines}"))

    def _end(self, node: Any) -> int:
        """Where the content of a node ends. A mapping in block style itself ends where the next thing begins."""
        while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
            last = node.value[-1]
            node = last[1] if isinstance(last, tuple) else last
        return int(node.end_mark.index)

    def _line_end(self, node: Any) -> int:
        """The begin of the line after a node."""
        end = self._end(node)
        if end and self.text[end - 1] == "\n":
            return end
        found = self.text.find("\n", end)
        return len(self.text) if found < 0 else found + 1

    def _line_start(self, at: int) -> int:
        return self.text.rfind("\n", 0, max(at, 0)) + 1


def _arranged(items: list[tuple[Pair, _Item]], ordered: bool) -> list[_Item]:
    """The items of a list in their new order: that of the file with new ones at the end, or the live one if it matters. What
    would be removed and stays keeps its number."""
    stay = sorted((item for _, item in items if item.place is not None), key=lambda item: item.place or 0)
    if not ordered:
        return [*stay, *(item for _, item in items if item.place is None)]
    arranged = [item for pair, item in sorted(items, key=lambda one: one[0].after or 0) if pair.after is not None]
    for pair, item in items:
        if pair.after is None:
            arranged.insert(item.place or 0, item)
    return arranged


def _rank(key: str) -> int:
    return _KEYS.index(key) if key in _KEYS else len(_KEYS)


def _tidy(value: Any) -> Any:
    """A value of the normal form as a file has it: in order, and without the weight that is the default."""
    if isinstance(value, list):
        return [*map(_tidy, value)]
    if not isinstance(value, dict):
        return value
    kept = {key: value[key] for key in sorted(value, key=_rank)}
    return {key: _tidy(item) for key, item in kept.items() if key != "weight" or item != 1}


def _is_same_model(one: Any, other: Any) -> bool:
    return isinstance(one, str) and isinstance(other, str) and canonical_model(one) == canonical_model(other)


def _scalars(node: Any) -> list[Any]:
    """The scalars at and below a node, without keys."""
    if isinstance(node, yaml.ScalarNode):
        return [node]
    children = [child[1] if isinstance(child, tuple) else child for child in node.value]
    return [scalar for child in children for scalar in _scalars(child)]


def override_text(source: Source, environment: str, variables: dict[str, Any]) -> str:
    """The text of a policyctl.yaml in which one environment has these variables, whatever it is generated from."""
    text = source.text
    for name, value in variables.items():
        editor = _Editor(text, flow_text)
        root = next(iter(yaml.compose_all(text, Loader=Loader)), None)
        editor.put(root, ["environments", environment, "vars", name], value)
        text = editor.result()
    return text
