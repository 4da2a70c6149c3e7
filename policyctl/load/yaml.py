"""YAML text as plain documents, built directly from libyaml's events.

PyYAML's own loaders keep the last of two equal keys, turn `no` into False and `0503` into 323, and expand aliases without
a limit. Building from events is faster than composing nodes, and reports each of these as a problem at its place. Scalars
follow YAML 1.2; one that YAML 1.1 reads differently is a problem, because the next tool that reads the file may do so.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

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
from policyctl.policy.findings import format_path

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
