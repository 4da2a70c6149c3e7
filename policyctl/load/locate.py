"""What a YAML text has and its data does not: positions, the lines to show, comments, and where a value ends.

Positions are only needed when there is a problem: the file is parsed a second time, with nodes, so that valid files cost
nothing. Commands that write files in place read its events.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yaml.events import MappingEndEvent, MappingStartEvent, ScalarEvent, SequenceEndEvent, SequenceStartEvent, StreamEndEvent

from policyctl.errors import InvalidInput, Mark, Problem
from policyctl.load.kinds import CONFIG_FILE
from policyctl.load.source import Source, read_bytes
from policyctl.load.yaml import Loader
from policyctl.policy.findings import Finding
from policyctl.policy.memo import late_pattern

# For each mapping node (by identity) its pairs by key and the mappings merged into it, so that each is read once.
Keys = dict[int, tuple[dict[Any, tuple[Any, Any]], list[Any]]]


def to_problems(source: Source, index: int, complaints: list[Finding]) -> list[Problem]:
    """Findings about one document of a file, as problems at their places."""
    if not complaints:
        return []
    nodes = _nodes(source.text)
    root = nodes[index] if index < len(nodes) else None
    start = source.documents[index].mark
    keys: Keys = {}
    return [
        Problem(_mark(source.file, root, start, complaint, keys), complaint.code, complaint.message, complaint.severity)
        for complaint in complaints
    ]


@lru_cache(maxsize=1)
def _nodes(text: str) -> list[Any]:
    """The nodes of a text's documents; the last text is cached, since each of its documents may have problems."""
    try:
        return list(yaml.compose_all(text, Loader=Loader))
    except yaml.YAMLError:  # JSON that is not YAML: problems are at the start of the file
        return []


def _mark(file: str, root: Any, start: Mark, complaint: Finding, keys: Keys) -> Mark:
    if root is None:
        return start
    found = root
    for depth, part in enumerate(complaint.path):
        pair = _child(found, part, keys)
        if pair is None:
            break
        key, value = pair
        wants_key = complaint.at == "key" and depth == len(complaint.path) - 1
        found = key if wants_key else value
    return Mark(file, found.start_mark.line + 1, found.start_mark.column + 1)


def _child(node: Any, part: str | int, keys: Keys) -> tuple[Any, Any] | None:
    """The (key, value) nodes of one step down; for a list both are the item. `keys` is filled with what was looked through."""
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    if not isinstance(node, yaml.MappingNode):
        return None
    if id(node) not in keys:
        pairs = [(key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]
        keys[id(node)] = {key.value: (key, value) for key, value in reversed(pairs)}, [v for k, v in pairs if k.value == "<<"]
    written, merged = keys[id(node)]
    if part in written:
        return written[part]
    for value in merged:
        for mapping in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if (pair := _child(mapping, part, keys)) is not None:
                return pair
    return None


_LINE_END = late_pattern("\r\n|[\n\r\x85\u2028\u2029]")  # as YAML counts lines


def line_at(mark: Mark) -> str | None:
    """The line of a mark; None for a whole file, an unreadable one, a link, and the configuration.

    A line of policyctl.yaml may have a secret by mistake, and a link may lead to one.
    """
    if not mark.line or Path(mark.file).name == CONFIG_FILE or os.path.islink(mark.file):
        return None
    lines = _lines_of(mark.file)
    return lines[mark.line - 1] if mark.line <= len(lines) else None


@lru_cache(maxsize=1)  # problems are sorted by file
def _lines_of(file: str) -> list[str]:
    try:
        return _LINE_END.split(read_bytes(file).decode("utf-8-sig", errors="replace"))
    except InvalidInput:  # such as a file of a git revision
        return []


_COMMENT = late_pattern(r"#[ \t]*policyctl:[ \t]*ignore\b[ \t]*(?P<codes>\[[^\]\r\n]*\])?")
_CODE = late_pattern(r"[^\s,\[\]]+")


class IgnoreComment(NamedTuple):
    """A comment `# policyctl: ignore[P405, P431]`: its place, and each code as written with its place."""

    mark: Mark
    codes: tuple[tuple[str, Mark], ...]


def ignore_comments(content: bytes, file: str) -> tuple[IgnoreComment, ...]:
    """The ignore comments of a YAML file, in order. Text inside a scalar is not a comment."""
    text = content.decode("utf-8-sig")
    found = list(_COMMENT.finditer(text))
    if not found:
        return ()
    begins, ends = _scalars(text)
    starts = [0, *(end.end() for end in _LINE_END.finditer(text))]
    return tuple(
        _comment(match, starts, file)
        for match in found
        if not (before := bisect_right(begins, match.start())) or match.start() >= ends[before - 1]
    )


def _comment(match: re.Match[str], starts: list[int], file: str) -> IgnoreComment:
    def mark(position: int) -> Mark:
        line = bisect_right(starts, position)
        return Mark(file, line, position - starts[line - 1] + 1)

    listed, offset = match["codes"] or "", match.start("codes")
    codes = tuple((code.group(), mark(offset + code.start())) for code in _CODE.finditer(listed))
    return IgnoreComment(mark(match.start()), codes)


def _scalars(text: str) -> tuple[list[int], list[int]]:
    """The begins and ends of the scalars of a valid YAML text, in order."""
    marks = [(event.start_mark, event.end_mark) for event in yaml.parse(text, Loader) if isinstance(event, yaml.ScalarEvent)]
    both = [(start.index, end.index) for start, end in marks if start and end]
    return [start for start, _ in both], [end for _, end in both]


def events_of(text: str) -> list[Any]:
    """The events of a text that can be parsed, up to its end."""
    parser, found = Loader(text), []
    while True:
        found.append(parser.get_event())
        if isinstance(found[-1], StreamEndEvent):
            return found


def begin_of(event: Any) -> int:
    """Where an event begins."""
    index: int = event.start_mark.index
    return index


def end_of(event: Any) -> int:
    """Where an event ends."""
    index: int = event.end_mark.index
    return index


class YamlComment(NamedTuple):
    """A comment: where it begins and ends, its column, and whether it is alone on its line."""

    start: int
    end: int
    column: int
    alone: bool


def comments_of(text: str, events: list[Any]) -> list[YamlComment]:
    """The comments of a text, in order: whatever begins with `#` between its scalars."""
    found, position = [], 0
    spans = [(begin_of(one), end_of(one)) for one in events if isinstance(one, ScalarEvent)]
    for start, end in [*spans, (len(text), len(text))]:
        while (at := text.find("#", position, start)) >= 0:
            line = text.rfind("\n", 0, at) + 1
            stop = text.find("\n", at)
            stop = len(text) if stop < 0 else stop
            found.append(YamlComment(at, at + len(text[at:stop].rstrip()), at - line, not text[line:at].strip()))
            position = stop
        position = max(position, end)
    return found


class YamlNode:
    """A value: its event, where it ends, and what is in it; of a mapping keys and values in turn."""

    __slots__ = ("children", "end", "event")

    def __init__(self, event: Any, end: int) -> None:
        self.event = event
        self.end = end
        self.children: list[YamlNode] = []

    @property
    def start(self) -> int:
        """Where it begins, with its anchor and tag."""
        return begin_of(self.event)

    @property
    def is_block(self) -> bool:
        """Whether it is a list or mapping on lines of its own."""
        return isinstance(self.event, MappingStartEvent | SequenceStartEvent) and not self.event.flow_style

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.event, MappingStartEvent)

    @property
    def is_scalar(self) -> bool:
        return isinstance(self.event, ScalarEvent)

    @property
    def is_marked(self) -> bool:
        """Whether it has an anchor or a tag."""
        return self.event.anchor is not None or getattr(self.event, "tag", None) is not None

    @property
    def is_empty(self) -> bool:
        return self.is_scalar and self.start == self.end


def node_of(event: Any, events: Iterator[Any]) -> YamlNode:
    """The value that begins with an event; `events` are read up to its end."""
    node = YamlNode(event, end_of(event))
    if isinstance(event, MappingStartEvent | SequenceStartEvent):
        while not isinstance(inner := next(events), MappingEndEvent | SequenceEndEvent):
            node.children.append(node_of(inner, events))
        node.end = end_of(inner)
    return node
