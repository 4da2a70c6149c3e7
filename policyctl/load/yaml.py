"""YAML text as plain documents, built directly from libyaml's events; and what a text has and its data does not.

PyYAML's own loaders keep the last of two equal keys, turn `no` into False and `0503` into 323, and expand aliases without
a limit. Building from events is faster than composing nodes, and reports each of these as a problem at its place. Scalars
follow YAML 1.2; one that YAML 1.1 reads differently is a problem, because the next tool that reads the file may do so.

Positions are only needed when there is a problem: the file is parsed a second time, with nodes, so that valid files cost
nothing. Commands that write files in place read the events for comments, and for where a value ends.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from yaml.constructor import SafeConstructor
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from policyctl.errors import InvalidInput, Mark, Problem
from policyctl.load.kinds import MAX_DEPTH, RawDocument
from policyctl.policy.findings import Finding, format_path
from policyctl.policy.memo import late_pattern

if TYPE_CHECKING:
    from policyctl.load.source import Source


# PyYAML without libyaml is ten times slower, and gives the same events.
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MAX_ALIASED = 10_000  # values that the aliases of one file may expand to in all
MAX_DOCUMENTS = 10_000
_MAX_DIGITS = 400
_DOCUMENT_AGAIN = 3  # duplicate top-level keys that mean a missing ---

_STR, _MERGE = "tag:yaml.org,2002:str", "<<"
_PLAIN_TAGS = (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_CORE = (  # the scalars of YAML 1.2's core schema that are not strings
    (re.compile(r"~|null|Null|NULL|"), lambda _: None),
    (re.compile(r"true|True|TRUE|false|False|FALSE"), lambda text: text.lower() == "true"),
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+"), lambda text: int(text, 0)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text, 0)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)"), lambda text: float(text.replace(".", ""))),
    (re.compile(r"\.(nan|NaN|NAN)"), lambda _: float("nan")),
)
# Line breaks of YAML 1.1 that most editors and reviews do not show: text after a comment looks like part of it.
_HIDDEN_BREAK = re.compile("[\x85\u2028\u2029]|\r(?!\n)")
# YAML 1.1 of 2005 also has y and n; PyYAML does not, other loaders do.
_ONE_LETTER_BOOLEANS = {"y": True, "Y": True, "n": False, "N": False}


def read_yaml(text: str, file: str, *, number_keys: bool = False) -> list[RawDocument]:
    """The documents of a YAML text. Raises InvalidInput with one problem when the text cannot be parsed.

    `number_keys` allows whole numbers as keys, which become text.
    """
    if (hidden := _HIDDEN_BREAK.search(text)) is not None:
        raise InvalidInput([_hidden_break(text, hidden, file)])
    try:
        return _Builder(file, text, number_keys=number_keys).documents()
    except yaml.reader.ReaderError as error:
        raise InvalidInput([_unreadable(error, text, file)]) from None
    except yaml.MarkedYAMLError as error:
        from policyctl.load.yaml_errors import yaml_problem  # most texts are valid

        raise InvalidInput([yaml_problem(error, text, file, Loader)]) from None


class _Frame:
    """A mapping or list that is being built."""

    __slots__ = ("anchor", "key", "key_mark", "mark", "merge_mark", "merges", "start", "template", "value")

    def __init__(self, value: Any, anchor: str | None, start: int, mark: Any) -> None:
        self.value = value
        self.anchor = anchor
        self.start = start
        self.mark = mark
        self.merge_mark: Any = None
        self.key: Any = _NO_KEY
        self.key_mark: Any = None
        self.merges: list[Any] | None = None
        self.template = False  # these braces are an unquoted template


_NO_KEY = object()


class _Builder:
    """Turns the events of one text into documents. `stack` has the open mappings and lists, the innermost last."""

    def __init__(self, file: str, text: str, *, number_keys: bool) -> None:
        self.file = file
        self.text = text
        self.number_keys = number_keys
        self.next_event = Loader(text).get_event
        self.found: list[RawDocument] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.stack: list[_Frame] = []
        self.twice: list[tuple[int, int, str, Any]] = []  # duplicate keys: depth and number of the mapping, key, mark
        self.count = 0  # values so far, with aliases expanded
        self.aliased = 0

    def documents(self) -> list[RawDocument]:
        while True:
            event = self.next_event()
            kind = type(event)
            if kind is ScalarEvent:
                self.count += 1
                text = event.value
                # Nearly all scalars are plain and have no tag: a call for each would take as long as what it does.
                plain = event.tag is None and not event.style and text != _MERGE
                value, complaint = resolve(text) if plain else self._special(event)
                if complaint:
                    self._problem(event.start_mark, "P004", complaint)
                self._attach(value, event.start_mark, event.anchor, 1)
            elif kind is MappingStartEvent or kind is SequenceStartEvent:
                self._open(event, {} if kind is MappingStartEvent else [])
            elif kind is MappingEndEvent or kind is SequenceEndEvent:
                self._close(event)
            elif kind is AliasEvent:
                self._alias(event)
            elif kind is DocumentStartEvent:
                self._begin(event)
            elif kind is DocumentEndEvent:
                self._report_duplicates()
            elif kind is StreamEndEvent:
                return self.found

    def _begin(self, event: Any) -> None:
        if len(self.found) >= MAX_DOCUMENTS:
            self._fail(event, "P005", f"more than {MAX_DOCUMENTS:,} documents in one file; split it")
        self.found.append(RawDocument(None, self._mark(event.start_mark)))
        self.anchors = {}

    def _open(self, event: Any, value: Any) -> None:
        if len(self.stack) >= MAX_DEPTH:
            self._fail(event, "P005", f"nested more than {MAX_DEPTH} deep; flatten it")
        if event.tag not in _PLAIN_TAGS:
            self._problem(event.start_mark, "P012", f"the tag {format_path(event.tag)} has no meaning here; remove it")
        self.count += 1
        if value == {} and event.flow_style and self.stack:
            self._see_template(self.stack[-1], event.start_mark)
        self.stack.append(_Frame(value, event.anchor, self.count, event.start_mark))
        if event.anchor is not None:
            self.anchors.pop(event.anchor, None)

    def _close(self, event: Any) -> None:
        frame = self.stack.pop()
        if frame.merges is not None:
            self._merge(frame)
        value = self._unquoted(frame, event) if frame.template else frame.value
        self._attach(value, frame.mark, frame.anchor, self.count - frame.start + 1)

    def _see_template(self, frame: _Frame, inner: Any) -> None:
        """Mark a frame as an unquoted `{{ x }}`: braces directly within braces, where a key should be."""
        if type(frame.value) is dict and frame.key is _NO_KEY and inner.index == frame.mark.index + 1:
            frame.template = self.text[frame.mark.index : inner.index + 1] == "{{"

    def _unquoted(self, frame: _Frame, event: Any) -> str:
        """The template as the text that it should have been, so that this is its only problem."""
        from policyctl.load.yaml_errors import template_unquoted

        text = self.text[frame.mark.index : event.end_mark.index]
        start, problems = self._mark(frame.mark), self.found[-1].problems
        # Problems of the braces' content as YAML are not reported too.
        problems[:] = [problem for problem in problems if problem.mark < start]
        self._problem(frame.mark, "P002", template_unquoted(text))
        return text

    def _attach(self, value: Any, mark: Any, anchor: str | None, size: int) -> None:
        """Put a finished value where it belongs: the document, a list, or as key or value of a mapping."""
        if anchor is not None:
            self.anchors[anchor] = (value, size)
        if not self.stack:
            self.found[-1].data = value
            return
        frame = self.stack[-1]
        if type(frame.value) is list:
            frame.value.append(value)
        elif frame.key is _NO_KEY:
            usual = type(value) is str and value not in frame.value
            frame.key, frame.key_mark = value if usual else self._key(frame, value, mark), mark
        else:
            if frame.key is _MERGE_KEY:
                frame.merge_mark = frame.key_mark
                if frame.merges is None:
                    frame.merges = []
                frame.merges += value if isinstance(value, list) else [value]
            elif frame.key is not None:
                frame.value[frame.key] = value
            frame.key = _NO_KEY

    def _key(self, frame: _Frame, key: Any, mark: Any) -> Any:
        """The key to use; None if it is a problem, and its value is ignored."""
        if key is _MERGE_KEY:
            return key
        if self.number_keys and type(key) is int:
            key = str(key)
        if not isinstance(key, str):
            if not frame.template:
                self._problem(mark, "P013", f"a key must be text, got {format_path(key)} (quote it)")
            return None
        if key in frame.value:
            self.twice.append((len(self.stack), frame.start, key, mark))
            return None
        return key

    def _report_duplicates(self) -> None:
        """Report duplicate keys; several in one mapping mean a missing --- between documents, or a missing dash of a target."""
        mappings: dict[int, list[tuple[int, str, Any]]] = {}
        for depth, mapping, key, mark in self.twice:
            mappings.setdefault(mapping, []).append((depth, key, mark))
        for (depth, first, begins), *others in mappings.values():
            if depth == 1 and len(others) + 1 >= _DOCUMENT_AGAIN:
                self._problem(begins, "P003", "a second document begins here; write --- on the line above it")
            elif first == "model_name":
                self._problem(begins, "P003", "a second target begins here; write a dash before it (- model_name: …)")
            else:
                for key, mark in [(first, begins), *((key, mark) for _, key, mark in others)]:
                    self._problem(mark, "P003", f"duplicate key {format_path(key)}; keep one")
        self.twice = []

    def _special(self, event: Any) -> tuple[Any, str | None]:
        """The value of a scalar that is quoted, has a tag or is `<<`, and a complaint."""
        text: str = event.value
        if event.tag is not None and event.tag != _STR and event.tag != "!":
            self._problem(event.start_mark, "P012", f"the tag {format_path(event.tag)} has no meaning here; remove it")
            return text, None
        if event.style or event.tag is not None:
            return text, None
        if self.stack and self.stack[-1].key is _NO_KEY:
            return (_MERGE_KEY if type(self.stack[-1].value) is dict else text), None
        return resolve(text)

    def _alias(self, event: Any) -> None:
        if event.anchor not in self.anchors:
            inside = any(frame.anchor == event.anchor for frame in self.stack)
            why = (
                "is inside the value that it refers to; write the value out"
                if inside
                else f"has no anchor above it; mark the value with &{event.anchor}, or quote the alias if it is text"
            )
            self._fail(event, "P002", f"the alias *{event.anchor} {why}")
        value, size = self.anchors[event.anchor]
        self.count += size
        self.aliased += size
        if self.aliased > MAX_ALIASED:
            self._fail(event, "P005", f"the aliases expand to more than {MAX_ALIASED:,} values; write them out")
        self._attach(value, event.start_mark, None, size)

    def _merge(self, frame: _Frame) -> None:
        """YAML 1.1's merge key: keys that the mapping lacks come from the merged mappings, the first one winning."""
        for merged in frame.merges or ():
            if not isinstance(merged, dict):
                self._problem(frame.merge_mark, "P014", "<< takes a mapping or a list of mappings")
                return
            for key, value in merged.items():
                frame.value.setdefault(key, value)

    def _mark(self, mark: Any) -> Mark:
        return Mark(self.file, mark.line + 1, mark.column + 1)

    def _problem(self, mark: Any, code: str, message: str) -> None:
        self.found[-1].problems.append(Problem(self._mark(mark), code, message))

    def _fail(self, event: Any, code: str, message: str) -> None:
        raise InvalidInput([Problem(self._mark(event.start_mark), code, message)])


class _MergeKey(str):
    """The key `<<` written plainly."""

    __slots__ = ()


_MERGE_KEY = _MergeKey(_MERGE)


@lru_cache(maxsize=8192)
def resolve(text: str) -> tuple[Any, str | None]:
    """The value of a plain scalar in YAML 1.2, and a complaint if YAML 1.1 reads it differently or it is not usable."""
    old_resolvers = Loader.yaml_implicit_resolvers.get(text[:1], [])
    if not old_resolvers and text not in _ONE_LETTER_BOOLEANS:
        return text, None
    if len(text) > _MAX_DIGITS:
        numeric = text.lstrip("+-").replace("_", "").isdigit()
        return text, f"a number of {len(text)} digits is too long; shorten it" if numeric else None
    new = next((make(text) for pattern, make in _CORE if pattern.fullmatch(text)), text)
    old = _yaml11(text, old_resolvers)
    if type(old) is type(new) and (old == new or old != old):
        return new, None
    means = f"{text} is {_yaml_problem(old)} in YAML 1.1 and {_yaml_problem(new)} in YAML 1.2"
    return new, f"{means}; quote it, or write the value plainly"


def _yaml11(text: str, resolvers: list[tuple[str, Any]]) -> Any:
    """The value of a plain scalar in PyYAML, a YAML 1.1 reader."""
    if text in _ONE_LETTER_BOOLEANS:
        return _ONE_LETTER_BOOLEANS[text]
    tag = next((tag for tag, pattern in resolvers if pattern.match(text)), _STR)
    try:
        return SafeConstructor().construct_object(yaml.ScalarNode(tag, text))
    except (
        ValueError,
        yaml.YAMLError,
    ):  # `2024-13-45` looks like a date, `=` and `<<` are values of their own
        return _Special(text)


class _Special(str):
    """A plain scalar that YAML 1.1 reads as something else than a plain value."""

    __slots__ = ()


def _yaml_problem(value: Any) -> str:
    if isinstance(value, _Special):
        return "a special value"
    if isinstance(value, str):
        return "text"
    if value is None or isinstance(value, bool | int | float):
        return format_path(value)
    return f"the date {value}"


def _hidden_break(text: str, found: re.Match[str], file: str) -> Problem:
    at = found.start()
    mark = Mark(file, text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))
    which = f"U+{ord(found[0]):04X}"
    message = (
        f"{which} is a line break in YAML 1.1 only; end lines with a line feed, or write {which} as an escape in double quotes"
    )
    return Problem(mark, "P004", message)


def _unreadable(error: yaml.reader.ReaderError, text: str, file: str) -> Problem:
    bad = next((i for i, char in enumerate(text) if not (char.isprintable() or char in "\t\n\r\x85\u2028\u2029")), 0)
    before = text[:bad]
    mark = Mark(file, before.count("\n") + 1, bad - (before.rfind("\n") + 1) + 1)
    return Problem(mark, "P002", f"{error.reason}; remove this one")


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


LINE_END = late_pattern("\r\n|[\n\r\x85\u2028\u2029]")  # as YAML counts lines
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
    starts = [0, *(end.end() for end in LINE_END.finditer(text))]
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
