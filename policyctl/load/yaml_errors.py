"""libyaml's errors in plain words, each as the mistake that most likely caused it, at its place; and merge conflicts.

libyaml reports where it gave up and in which construct. The mistake is often earlier: a quote that includes the next lines,
a key without a space after its colon.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import PurePath
from typing import Any, NamedTuple

import yaml

from policyctl.errors import Mark, Problem
from policyctl.load.kinds import CONFIG_FILE
from policyctl.policy.findings import without_userinfo

_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # as YAML counts lines
_KEY = r"[\w.-]+"
_NO_SPACE = re.compile(rf"(?P<before>\s*(?:- +)*)(?P<key>{_KEY}):(?P<value>[^\s:].*)")
_EQUALS = re.compile(rf"\s*(?:- +)*(?P<key>{_KEY}) *= *(?P<value>.*)")
_NO_COLON = re.compile(rf"\s*(?:- +)*(?P<key>{_KEY})(?: +(?P<value>.+))?")
_TEMPLATE = re.compile(r"(?:^\s*|[:-]\s+|[\[,{]\s*)(?P<template>\{[{%#](?:.*[}%#]\})?[^,\]\[{}#]*)")
_LONGEST = 60  # characters of a value that a message repeats
_CLOSERS = {"]": "[", "}": "{"}

Slip = tuple[Any, str]  # a mark of libyaml's, and the message


def yaml_problem(error: yaml.MarkedYAMLError, text: str, file: str, loader: Any) -> Problem:
    """An error of the YAML parser as a problem; `loader` is the parser's class."""
    if (marker := left_over_marker(text, file)) is not None:
        return marker
    broken = _Broken(error, text, file, loader)
    found = next(filter(None, (diagnose(broken) for diagnose in _DIAGNOSES)), None)
    place, message = found or (broken.at, f"this is not YAML: {' '.join(filter(None, (error.problem, error.context)))}")
    return Problem(Mark(file, place.line + 1, place.column + 1), "P002", message)


def template_unquoted(template: str) -> str:
    """The complaint about a template that YAML reads as a mapping, because it is not quoted."""
    whole = without_userinfo(" ".join(template.split()))[:_LONGEST]
    whole = whole if whole.endswith(("}}", "%}", "#}")) or "}}" in whole else f"{whole.rstrip('} ')} }}}}"
    quote = "'" if '"' in whole else '"'
    return f"a template must be quoted, because {{ begins a mapping in YAML (write {quote}{whole}{quote})"


class _ErrorPlace:
    """A line and a column, as libyaml counts them: from 0."""

    def __init__(self, line: int, column: int) -> None:
        self.line = line
        self.column = column


class _Broken:
    """A text with a syntax error: where the parser stopped, in which construct, and the lines."""

    def __init__(self, error: yaml.MarkedYAMLError, text: str, file: str, loader: Any) -> None:
        self.loader = loader
        self.problem = error.problem or ""
        self.context = error.context or ""
        self.start: Any = error.context_mark or error.problem_mark or _ErrorPlace(0, 0)
        self.at: Any = error.problem_mark or self.start
        self.file = file
        self.text = text
        self.lines = _LINE_END.split(text)
        self.line = self._line(self.at.line)
        self.char = self.line[self.at.column : self.at.column + 1]

    def value(self, text: str) -> str:
        """A value as a message may repeat it. Values of the configuration are hidden: they may be secrets."""
        text = text.strip()
        return "…" if PurePath(self.file).name == CONFIG_FILE or len(text) > _LONGEST else without_userinfo(text)

    def _line(self, number: int) -> str:
        return self.lines[number] if 0 <= number < len(self.lines) else ""

    @property
    def start_line(self) -> str:
        return self._line(self.start.line)

    @property
    def above(self) -> tuple[int, str]:
        """The number and the text of the nearest line above that is neither empty nor a comment."""
        for number in range(min(self.at.line, len(self.lines)) - 1, -1, -1):
            if self.lines[number].strip() and not self.lines[number].lstrip().startswith("#"):
                return number, self.lines[number]
        return 0, ""

    @cached_property
    def before(self) -> _Before:
        """The last scalar before the error, and the brackets that are open there."""
        scalar: Any = None
        opened: list[tuple[Any, str]] = []
        here = (self.at.line, self.at.column)
        with suppress(yaml.YAMLError):
            for token in yaml.scan(self.text, Loader=self.loader):
                if (token.start_mark.line, token.start_mark.column) >= here:
                    break
                if isinstance(token, yaml.ScalarToken):
                    scalar = token
                elif isinstance(token, yaml.FlowSequenceStartToken | yaml.FlowMappingStartToken):
                    opened.append((token.start_mark, "[" if isinstance(token, yaml.FlowSequenceStartToken) else "{"))
                elif isinstance(token, yaml.FlowSequenceEndToken | yaml.FlowMappingEndToken) and opened:
                    opened.pop()
        return _Before(scalar, opened)


class _Before(NamedTuple):
    """The last scalar before an error, and each bracket or brace that is open there, with its mark."""

    scalar: Any
    opened: list[tuple[Any, str]]


def _tab(broken: _Broken) -> Slip | None:
    indentation = broken.line[: len(broken.line) - len(broken.line.lstrip())]
    if broken.char == "\t" or "\t" in indentation:
        return broken.at, "YAML does not indent with tabs; use spaces"
    return None


def _template(broken: _Broken) -> Slip | None:
    """`weight: {{ x }}`, on the line of the error or of the mapping that it seems to begin."""
    for number, line in ((broken.start.line, broken.start_line), (broken.at.line, broken.line)):
        found = _TEMPLATE.search(line)
        if found and not {'"', "'", "#"} & set(line[: found.start("template")]):
            return _ErrorPlace(number, found.start("template")), template_unquoted(found["template"])
    return None


def _open_quote(broken: _Broken) -> Slip | None:
    if broken.context != "while scanning a quoted scalar":
        return None
    quote = broken.start_line[broken.start.column : broken.start.column + 1]
    return broken.start, f"this {quote} is never closed; add the closing {quote}"


def _after_quote(broken: _Broken) -> Slip | None:
    """Text directly after a quoted scalar: the quote closed too early, or closed one that was opened lines above."""
    scalar = broken.before.scalar
    if scalar is None or scalar.style not in ("'", '"'):
        return None
    begin, end, quote = scalar.start_mark, scalar.end_mark, scalar.style
    if end.line != broken.at.line or broken.line[end.column : broken.at.column].strip() or broken.char in ":,]}":
        return None
    if begin.line < end.line:
        return begin, f"this {quote} is not closed on its line; the next one is on line {end.line + 1}; add the closing {quote}"
    inside = "\\" + quote if quote == '"' else quote * 2
    return broken.at, f"text follows the closing quote (to write {quote} inside the quotes, write {inside})"


def _no_colon(broken: _Broken) -> Slip | None:
    """A line where a key should be, without `: `."""
    if broken.context != "while scanning a simple key":
        return None
    return broken.start, _suggest_key(broken, broken.start_line[broken.start.column :])


def _suggest_key(broken: _Broken, text: str) -> str:
    if found := _NO_SPACE.match(text):
        return f"a space is missing after the colon (write {found['key']}: {broken.value(found['value'])})"
    if found := _EQUALS.match(text):
        return f"YAML takes a colon, not = (write {found['key']}: {broken.value(found['value'])})"
    if found := _NO_COLON.match(text):
        return (
            f"a colon is missing after {found['key']} (write {found['key']}: {broken.value(found['value'] or '')}".rstrip()
            + ")"
        )
    return "this line is neither a key nor a list item (write key: value)"


def _second_colon(broken: _Broken) -> Slip | None:
    """A colon where no key can be: in a value, or on a line that continues the one above."""
    if broken.problem != "mapping values are not allowed in this context":
        return None
    before = broken.line[: broken.at.column]
    if found := re.match(rf"\s*(?:- +)*{_KEY}: +", before):
        value = broken.value(broken.line[found.end() :])
        quote = "'" if '"' in value else '"'
        return _ErrorPlace(
            broken.at.line, found.end()
        ), f"a value with a colon in it must be quoted (write {quote}{value}{quote})"
    number, above = broken.above
    column = len(above) - len(above.lstrip())
    if _NO_SPACE.match(above) or ":" not in above:
        return _ErrorPlace(number, column), _suggest_key(broken, above)
    first = len(before) - len(before.lstrip())
    return _ErrorPlace(broken.at.line, first), (
        f"this line is indented more than line {number + 1}, which already has a value; align it with the key there"
    )


def _misaligned(broken: _Broken) -> Slip | None:
    kinds = {"did not find expected key": "mapping", "did not find expected '-' indicator": "list"}
    if broken.problem not in kinds:
        return None
    if found := re.match(r"\s*-(?=[^\s-])", broken.line):
        return _ErrorPlace(
            broken.at.line, found.end() - 1
        ), "a space is missing after the dash that begins a list item (write - key: value)"
    around = f"the {kinds[broken.problem]} around it begins on line {broken.start.line + 1}"
    return broken.at, f"the indentation of this line fits nothing above it; align it with what it belongs to ({around})"


def _brackets(broken: _Broken) -> Slip | None:
    """A bracket or brace without its counterpart, or a comma that is missing between them."""
    if not broken.context.startswith("while parsing a flow "):
        return None
    opened = broken.before.opened
    start, bracket = opened[-1] if opened else (broken.start, "[" if "sequence" in broken.context else "{")
    closer = "]" if bracket == "[" else "}"
    if broken.char in _CLOSERS and _CLOSERS[broken.char] not in [char for _, char in opened]:
        return (
            broken.at,
            f"this {broken.char} has no opening counterpart; remove it, or add the {_CLOSERS[broken.char]} that it belongs to",
        )
    if broken.char in _CLOSERS or broken.at.line > start.line:
        return start, f"this {bracket} is never closed; add the closing {closer}"
    return broken.at, f"a comma or the closing {closer} is missing before this; add it"


def _first_character(broken: _Broken) -> Slip | None:
    """A value that begins with a character that has another meaning in YAML."""
    for problem, char, meaning in _FIRST_CHARACTERS:
        if problem in (broken.problem, broken.context):
            place = broken.start if broken.context and problem == broken.context else broken.at
            here = char or broken.char
            return place, f"{here} {meaning or 'cannot begin a value in YAML'}; quote the value"
    return None


_FIRST_CHARACTERS = (
    ("found character that cannot start any token", "", ""),
    ("did not find expected node content", "", ""),
    ("while scanning an alias", "*", "begins an alias in YAML"),
    ("while scanning an anchor", "&", "begins an anchor in YAML"),
    ("while scanning a tag", "!", "begins a tag in YAML"),
    ("found undefined tag handle", "!", "begins a tag in YAML"),
    ("mapping keys are not allowed in this context", "?", "begins a key in YAML"),
)


def _escape(broken: _Broken) -> Slip | None:
    if broken.problem != "found unknown escape character":
        return None
    escape = broken.line[broken.at.column : broken.at.column + 2]
    return broken.at, f"{escape} is not an escape in double quotes (write \\{escape}, or use single quotes)"


def _block_text(broken: _Broken) -> Slip | None:
    if broken.context != "while scanning a block scalar":
        return None
    sign = broken.start_line[broken.start.column : broken.start.column + 1]
    return broken.start, f"{sign} begins a text of several lines in YAML; quote the value, or begin the text on the next line"


def _list_on_the_line(broken: _Broken) -> Slip | None:
    if broken.problem != "block sequence entries are not allowed in this context":
        return None
    return broken.at, "a list cannot begin on the line of its key; begin it on the next line"


def _documents(broken: _Broken) -> Slip | None:
    if broken.problem == "did not find expected <document start>":
        return broken.at, "this line does not belong to the document above it; begin a new document with ---"
    if broken.problem in ("found incompatible YAML document", "found duplicate %YAML directive"):
        return broken.at, "policyctl reads YAML 1.1 and 1.2; remove the line that begins with %YAML"
    return None


_DIAGNOSES: tuple[Callable[[_Broken], Slip | None], ...] = (
    _tab,
    _template,
    _open_quote,
    _after_quote,
    _no_colon,
    _second_colon,
    _misaligned,
    _brackets,
    _first_character,
    _escape,
    _block_text,
    _list_on_the_line,
    _documents,
)


# `=======` alone may be valid text; the other two markers are not.
_ENDS = re.compile(r"^(?:<{7}|>{7})(?: .*)?\r?$", re.MULTILINE)
_ANY = re.compile(r"^(?:<{7}|>{7}|\|{7}|={7})(?: .*)?\r?$", re.MULTILINE)


def conflict_in(text: str, file: str) -> Problem | None:
    """The first merge conflict in a text, or None. Also found if the text happens to be valid."""
    first = _ENDS.search(text)
    if first is None:
        return None
    if first[0].startswith(">"):
        return _left_over(text, first, file)
    line = _line(text, first.start())
    end = next((found for found in _ENDS.finditer(text, first.end()) if found[0].startswith(">")), None)
    where = f"lines {line} to {_line(text, end.start())}" if end else f"line {line}"
    message = f"the merge conflict on {where} is not resolved; finish the merge: keep the right lines and delete the markers"
    return Problem(Mark(file, line, 1), "P002", message)


def left_over_marker(text: str, file: str) -> Problem | None:
    """A lone line of a merge conflict in a text that cannot be parsed, or None."""
    found = _ANY.search(text)
    return _left_over(text, found, file) if found else None


def _left_over(text: str, found: re.Match[str], file: str) -> Problem:
    marker = found[0][:7]
    message = f"this line, {marker}, is left over from a merge conflict; finish the merge: delete it"
    return Problem(Mark(file, _line(text, found.start()), 1), "P002", message)


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
