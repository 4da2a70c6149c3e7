"""One style for YAML files, which is that of what `load/write.py` writes. What is not style stays: comments, templates, the
order of keys, line breaks within long values, and whether a list or mapping is on one line.

The text is printed anew from libyaml's events. They have no comments; a `#` between two scalars begins one. Afterwards both
texts are read and compared, so that a mistake here never changes what a file means.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import takewhile
from typing import Any, NamedTuple

from yaml.events import AliasEvent, DocumentEndEvent, DocumentStartEvent, StreamEndEvent

from policyctl.errors import InvalidInput, PolicyctlError
from policyctl.load.kinds import is_template
from policyctl.load.source import source_of
from policyctl.load.write import is_plain, is_word, key_text, quoted, scalar_text
from policyctl.load.yaml import YamlNode, begin_of, comments_of, events_of, node_of, read_yaml, resolve

# Problems that make the meaning of a text unclear. A scalar that YAML 1.1 reads differently (P004) keeps its spelling.
_UNCLEAR = frozenset({"P002", "P003", "P005", "P012", "P013", "P014"})
_STEP = 2  # columns
_BLANKS = " \t"  # the white space of YAML; other spaces are text
_MARKS = re.compile(r"[&!]\S*(?:[ \t]+[&!]\S*)?")  # an anchor, a tag, or both
_HEADER = re.compile(r"(?P<style>[|>])[+-]?(?P<step>[1-9])?[+-]?(?=\s|$)")


def styled(content: bytes, file: str) -> str:
    """The text of a YAML file in policyctl's style; the same text if it has that already.

    Raises InvalidInput for a file that cannot be read, or whose meaning is not clear.
    """
    text = source_of(content, file).text.replace("\r\n", "\n")
    before = _meaning(text, file)
    try:
        new = _Printer(text).printed()
    except _Unusual:
        return text
    try:
        same = _meaning(new, file) == before
    except InvalidInput:
        same = False
    if not same:
        raise PolicyctlError(f"{file} cannot be formatted without changing what it means, so it is left as it is; report this")
    return new


def flow_text(value: Any) -> str:
    """A value on one line that is valid anywhere in a file: in flow style, with texts in quotes where they might be misread."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{flow_text(key)}: {flow_text(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(flow_text, value))}]"
    as_it_is = not isinstance(value, str) or is_template(value) or (is_word(value) and is_plain(value))
    return scalar_text(value, "") if as_it_is else quoted(value)


class _Unusual(Exception):
    """The text has something that no policy needs and that is not printed here: it stays as it is."""


def _meaning(text: str, file: str) -> tuple[list[str], list[tuple[str, str]], list[str]]:
    """What has to stay: the data with its types, the problems, and the comments."""
    documents = read_yaml(text, file, number_keys=True)
    problems = [problem for document in documents for problem in document.problems]
    if unclear := [problem for problem in problems if problem.code in _UNCLEAR]:
        raise InvalidInput(unclear)
    comments = [text[one.start : one.end] for one in comments_of(text, events_of(text))]
    return [repr(document.data) for document in documents], [(one.code, one.message) for one in problems], comments


class _Level(NamedTuple):
    """Where the lines of a list or mapping begin, before and now."""

    old: int
    new: int


class _Printer:
    """Prints one text. `lines` is what is printed, `levels` are the lists and mappings around the last line, the outermost
    first."""

    def __init__(self, text: str) -> None:
        self.text = text
        events = events_of(text)
        self._left = comments_of(text, events)[::-1]
        self._events = iter(events[1:])
        self.lines: list[str] = []
        self.levels = [_Level(0, 0)]

    def printed(self) -> str:
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                self._document(event)
            elif isinstance(event, DocumentEndEvent) and event.explicit:
                self._lead(begin_of(event), 0)
                self.lines.append("...")
            elif isinstance(event, StreamEndEvent):
                self._lead(len(self.text), 0, blank=False)
        return "".join(f"{line}\n" for line in self.lines)

    def _document(self, event: Any) -> None:
        if event.version or event.tags:
            raise _Unusual
        self._lead(begin_of(event), 0, blank=event.explicit)
        if event.explicit:
            self.lines.append("---")
        root = node_of(next(self._events), self._events)
        if root.is_block:
            if root.is_marked:
                raise _Unusual
            self._block(root, 1)
        elif not root.is_empty:
            self._lead(root.start, 0)
            self._put(self._inline(root, 0), 0, new=True)

    def _lead(self, position: int, depth: int, *, blank: bool = True) -> bool:
        """Print the comments before a position, and one of the empty lines before it; whether there were comments.

        What follows is of the list or mapping of this depth; a comment further right is still of one that just ended.
        """
        any_before = False
        while self._left and self._left[-1].start < position:
            comment, any_before = self._left.pop(), True
            words = self.text[comment.start : comment.end]
            if comment.alone:
                self._blank_before(comment.start)
                self.lines.append(" " * self._level_of(comment.column, depth).new + words)
            else:
                before = self.text[comment.start - comment.column : comment.start]
                self.lines[-1] += (before[len(before.rstrip()) :] or " ") + words
        del self.levels[depth + 1 :]
        if blank:
            self._blank_before(position)
        return any_before

    def _level_of(self, column: int, depth: int) -> _Level:
        if column > self.levels[depth].old:
            inner = [level for level in self.levels[depth + 1 :] if level.old <= column]
            return inner[-1] if inner else self.levels[depth]
        return self.levels[depth]

    def _blank_before(self, position: int) -> None:
        """Print an empty line if there is one above the line that begins with this position."""
        line = self.text.rfind("\n", 0, position) + 1
        above = self.text.rfind("\n", 0, max(line - 1, 0)) + 1
        begins = line > 0 and not self.text[line:position].strip(_BLANKS)
        if begins and not self.text[above : line - 1].strip(_BLANKS) and self.lines and self.lines[-1]:
            self.lines.append("")

    def _put(self, texts: list[str], indent: int, *, new: bool) -> None:
        """Print a value of one or several lines: on a new line, or at the end of the last one."""
        first, *rest = texts
        if new:
            self.lines.append(" " * indent + first)
        else:
            self.lines[-1] += f" {first}"
        self.lines += rest

    def _block(self, node: YamlNode, depth: int, *, inline: bool = False) -> None:
        """Print a list or mapping on lines of its own, the first one `inline` at the end of the last line."""
        first = self._dash(node.children[0].start) if not node.is_mapping else node.children[0].start
        indent = self.levels[depth - 1].new + (_STEP if depth > 1 else 0)
        self.levels[depth:] = [_Level(first - self.text.rfind("\n", 0, first) - 1, indent)]
        print_one = self._pair if node.is_mapping else self._item
        step = 2 if node.is_mapping else 1
        for place in range(0, len(node.children), step):
            print_one(node.children[place : place + step], depth, inline and place == 0)

    def _begin(self, position: int, depth: int, words: str, inline: bool) -> None:
        """Print the beginning of a line of a list or mapping."""
        if not inline:
            self._lead(position, depth)
        self._put([words], self.levels[depth].new, new=not inline)

    def _pair(self, pair: list[YamlNode], depth: int, inline: bool) -> None:
        key, value = pair
        if not key.is_scalar or key.is_empty or "\n" in self._raw(key) or self._is_explicit(key):
            raise _Unusual
        self._begin(key.start, depth, f"{self._key(key)}:", inline)
        if value.is_block:
            self._mark(value)
            self._block(value, depth + 1)
        else:
            self._value(value, depth)

    def _item(self, item: list[YamlNode], depth: int, inline: bool) -> None:
        (value,) = item
        self._begin(self._dash(value.start), depth, "-", inline)
        if not value.is_block:
            self._value(value, depth)
            return
        # What is between the dash and the first line goes with that line, which is further right.
        first = value.children[0].start if value.is_mapping else self._dash(value.children[0].start)
        own = self._left and self._left[-1].start < first
        self._mark(value)
        self._block(value, depth + 1, inline=not (own or value.is_marked))

    def _value(self, value: YamlNode, depth: int) -> None:
        """Print a value that is not on lines of its own, after its key or dash."""
        if value.is_empty:
            return
        indent = self.levels[depth].new
        new = bool(self._left) and self._left[-1].start < value.start
        if new:
            self._lead(value.start, depth)
        self._put(self._inline(value, depth), indent + _STEP, new=new)

    def _mark(self, node: YamlNode) -> None:
        """Print the anchor or tag of a list or mapping."""
        if node.is_marked:
            found = _MARKS.match(self.text, node.start)
            self.lines[-1] += "".join(f" {word}" for word in found[0].split()) if found else ""

    def _dash(self, before: int) -> int:
        """Where the dash of a list's item is that begins before this position."""
        at = self.text.rfind("-", 0, before)
        for comment in [*takewhile(lambda one: one.start < before, reversed(self._left))][::-1]:
            if comment.start <= at < comment.end:
                at = self.text.rfind("-", 0, comment.start)
        return at

    def _is_explicit(self, key: YamlNode) -> bool:
        return "?" in self.text[self.text.rfind("\n", 0, key.start) + 1 : key.start]

    def _raw(self, node: YamlNode) -> str:
        return self.text[node.start : node.end]

    def _key(self, key: YamlNode) -> str:
        if not key.event.style or key.is_marked or is_template(key.event.value):
            return self._raw(key)
        return key_text(key.event.value)

    def _inline(self, node: YamlNode, depth: int) -> list[str]:
        """A scalar, an alias, or a list or mapping in brackets: its lines, all but the first with their indent."""
        level = self.levels[depth]
        raw = self._raw(node)
        if isinstance(node.event, AliasEvent):
            return [raw]
        if not node.is_scalar:
            if "\n" in raw:
                while self._left and self._left[-1].start < node.end:
                    self._left.pop()
                return _shifted(raw, lambda line: max(level.new, _indent(line) + level.new - level.old))
            return [self._flow(node) or raw]
        if node.event.style in ("|", ">"):
            return _block_scalar(raw, level, root=depth == 0)
        if "\n" in raw:
            return _shifted(raw, lambda _: level.new + _STEP if depth else _STEP)
        return self._scalar(node, raw, " " * (level.new + _STEP)).split("\n")

    def _scalar(self, node: YamlNode, raw: str, indent: str) -> str:
        """A scalar on one line."""
        value = node.event.value
        if node.is_marked or is_template(value):
            return raw
        if not node.event.style:
            found, complaint = resolve(value)
            return raw if complaint or (found is not None and not isinstance(found, bool)) else scalar_text(found, indent)
        new = scalar_text(value, indent)
        rest = self.text[node.end :].partition("\n")[0]
        return raw if "\n" in new and "#" in rest else new

    def _flow(self, node: YamlNode) -> str | None:
        """A list or mapping in brackets on one line; None for what has no plain form."""
        if isinstance(node.event, AliasEvent):
            return self._raw(node)
        if node.is_scalar:
            return None if node.is_empty else self._flow_scalar(node)
        texts = [self._flow(child) for child in node.children]
        whole = [text for text in texts if text is not None]
        if node.is_marked or self.text[node.start] not in "[{" or len(whole) < len(texts):
            return None
        if not node.is_mapping:
            return f"[{', '.join(whole)}]"
        if not all(key.is_scalar for key in node.children[::2]):
            return None
        return f"{{{', '.join(f'{key}: {value}' for key, value in zip(whole[::2], whole[1::2], strict=True))}}}"

    def _flow_scalar(self, node: YamlNode) -> str:
        value = node.event.value
        if not node.event.style or node.is_marked or is_template(value):
            return self._raw(node)
        return value if is_word(value) and is_plain(value) else quoted(value)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(_BLANKS))


def _shifted(raw: str, indent: Callable[[str], int]) -> list[str]:
    """The lines of a value, all but the first with another indent; white space at their ends means nothing."""
    stripped = ((line, line.rstrip(_BLANKS)) for line in raw.split("\n"))
    first, *rest = (line if text.endswith("\\") else text for line, text in stripped)
    return [first, *(" " * indent(line) + line.lstrip(_BLANKS) if line.strip(_BLANKS) else "" for line in rest)]


def _block_scalar(raw: str, level: _Level, *, root: bool) -> list[str]:
    """The lines of a text after `|` or `>`, with the indent of its place."""
    header, _, body = raw.partition("\n")
    found = _HEADER.search(header)
    if found is None or (found["step"] and root):
        raise _Unusual
    lines = body.removesuffix("\n").split("\n")
    keeps = "+" in found[0] and body.endswith("\n")
    if not body.endswith("\n"):  # it ends with the file, and so without the line feed that is added there
        header = f"{header[: found.start()]}{found['style']}{found['step'] or ''}-{header[found.end() :]}"
    filled = [line for line in lines if line.strip(" ")]
    if not filled:
        raise _Unusual
    step = int(found["step"] or 0)
    old = level.old + step if step else _indent(filled[0])
    new = level.new + (step or _STEP)
    texts = [line[old:] for line in lines]
    while not keeps and not texts[-1]:
        texts.pop()
    return [header.rstrip(), *(" " * new + text if text else "" for text in texts)]
