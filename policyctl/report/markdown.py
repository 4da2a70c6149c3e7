"""Text as GitHub's markdown in which it is only shown: no markup, link, mention, issue, command or formula.

One rule: what is not a plain word or number of ours stands in a code span, a block of code or an HTML `<code>`; there GitHub
neither reads markup nor looks for mentions and references.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from policyctl.plan.safety import Review
from policyctl.policy.document import Document, references
from policyctl.policy.names import bare_name
from policyctl.report.format import count, cut, escape, shortened

_LONGEST = 200  # characters of a name
_LONGEST_SENTENCE = 600
_TOKEN = re.compile(r"(\(?)(.*?)([,:;.?)]*)")
_WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*'?")
_NUMBER = re.compile(r"(?:\d{1,3}(?:,\d{3})+|\d{1,6})(?:\.\d+)?%?|[→×…]")
_REFERENCE = re.compile(r"[a-f]{7,40}|ghsa-.*|.*www", re.IGNORECASE)  # words that may be a commit's or an advisory's name
_PARTS = re.compile(r"['-]")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_SPACE = "\ue000"  # stands for a space that does not end a word; no text that is shown has it
_ITEM = re.compile(r"\d+[.)]")  # would begin a list


class _Foreign(NamedTuple):
    """Texts that are not this program's: all of them, and those of several words."""

    words: frozenset[str] = frozenset()
    phrases: tuple[str, ...] = ()


_NONE = _Foreign()
_foreign: ContextVar[_Foreign] = ContextVar("foreign", default=_NONE)


def code(text: str) -> str:
    """A text in a code span, cut to what a line can hold."""
    return _span(cut(escape(text), _LONGEST))


@contextmanager
def naming(texts: Iterable[str]) -> Iterator[None]:
    """Take these texts of others for code in all sentences that are made meanwhile, though they may look like plain words."""
    shown = {form for text in texts if text for form in (escape(text), shortened(escape(text)))}
    before = _foreign.set(_Foreign(frozenset(shown), tuple(text for text in shown if " " in text)))
    try:
        yield
    finally:
        _foreign.reset(before)


def prose(text: str, longest: int = _LONGEST_SENTENCE) -> str:
    """A sentence with names in it: plain words and numbers stay, everything else is code, and so is all that `naming` names.

    Of more than `longest` characters the end is left out.
    """
    said: list[str] = []
    names: list[str] = []  # that stand side by side, and so in one code span
    for token in cut(_joined(cut(escape(text), 2 * longest)), longest).split():
        before, name, after = _parts(token, not said and not names)
        if names and (before or not name):
            said.append(_span(" ".join(names)))
            names = []
        if not name:
            said.append(token)
        elif before or after:
            said.append(before + _span(" ".join([*names, name])) + after)
            names = []
        else:
            names.append(name)
    return " ".join([*said, *([_span(" ".join(names))] if names else [])])


def proses(texts: Sequence[str]) -> str:
    """Sentences in a row, in the room of one: none pushes another out."""
    return "; ".join(prose(text, _LONGEST_SENTENCE // len(texts)) for text in texts)


def html_code(text: str) -> str:
    """A text as code inside HTML, where markdown is not read."""
    return f"<code>{html.escape(cut(escape(text), _LONGEST))}</code>"


def block(language: str, lines: Sequence[str]) -> str:
    """Lines in a block of code that none of them can end; each must be one line already."""
    fence = "`" * max(3, 1 + max(map(_longest_run, lines), default=0))
    return "\n".join((f"{fence}{language}", *lines, fence)) + "\n"


def row(cells: Sequence[str]) -> str:
    """A table's row. A bar ends a cell even inside code, and cannot be written behind a backslash."""
    return "| " + " | ".join(cell.replace("\\|", "\\\\x7c").replace("|", "\\|") for cell in cells) + " |\n"


def _joined(text: str) -> str:
    """The text with each quoted or named part of several words as one word."""
    for name in _foreign.get().phrases:
        if name in text:
            text = text.replace(name, name.replace(" ", _SPACE))
    return _with_whole_values(_QUOTED.sub(lambda found: found[0].replace(" ", _SPACE), text))


def _with_whole_values(text: str) -> str:
    """The text with each value in brackets, `{attempts: 1, on_status_codes: [503]}`, as one word."""
    parts: list[str] = []
    begun, done = [], 0
    for at, char in enumerate(text):
        if char in "{[":
            begun.append(at)
        elif char in "}]" and begun:
            start = begun.pop()
            if not begun:
                parts += [text[done:start], text[start : at + 1].replace(" ", _SPACE)]
                done = at + 1
    return "".join([*parts, text[done:]])


def _span(shown: str) -> str:
    shown = shown.replace(_SPACE, " ") or " "  # none is no code span
    ticks = "`" * (1 + _longest_run(shown))
    # A code span loses one space on both sides, and may not begin or end with a backtick.
    pad = " " if shown.strip() and (shown[0] in " `" or shown[-1] in " `") else ""
    return f"{ticks}{pad}{shown}{pad}{ticks}"


def _parts(token: str, first: bool) -> tuple[str, str, str]:
    """What of a token must be code, with what stands around it; nothing when the token can stay as it is."""
    found = _TOKEN.fullmatch(token)
    assert found is not None  # noqa: S101 - it takes any line
    before, core, after = found.groups()
    if first and _ITEM.fullmatch(token):
        return "", token, ""
    if core not in _foreign.get().words and (_NUMBER.fullmatch(core) or _is_word(core)):
        return "", "", ""
    return (before, core, after) if core else ("", token, "")


def _is_word(core: str) -> bool:
    """Whether this is a word that means nothing to GitHub, nor does any part of it."""
    return bool(_WORD.fullmatch(core)) and not any(map(_REFERENCE.fullmatch, (core, *_PARTS.split(core))))


def _longest_run(text: str) -> int:
    """How many backticks stand in a row, at most."""
    return max(map(len, re.findall("`+", text)), default=0)


def foreign_texts(review: Review) -> Iterator[str]:
    """Every text that a sentence about a plan may hold of a policy: names, models, providers, modes; as whole and in parts."""
    yield from review.live
    yield from map(bare_name, review.live)
    for block in review.plan.blocked:
        yield from (block.name, bare_name(block.name), *block.ids)
    for change in review.plan.changes:
        yield from (change.name, bare_name(change.name))
    yield from strings_in(_documents(review))


def strings_in(documents: Iterable[Document]) -> Iterator[str]:
    """Every text of policy documents, as whole and in parts."""
    for document in documents:
        for text in _strings(document):
            yield text
            yield from _endings(text)


def _documents(review: Review) -> Iterator[Document]:
    """Both versions of what changes, and the policies that these target, at any depth."""
    pending = [document for change in review.plan.changes for document in (change.before, change.after) if document is not None]
    pending += [review.policies[one.name] for one in review.affected if one.name in review.policies]
    seen: set[str] = set()
    while pending:
        document = pending.pop()
        yield document
        new = references(document) - seen
        seen |= new
        pending += [known[name] for known in (review.policies_before, review.policies) for name in new if name in known]


def _strings(value: Any) -> Iterator[str]:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending += item.values()
        elif isinstance(item, list):
            pending += item
        elif isinstance(item, str):
            yield item


def _endings(text: str) -> Iterator[str]:
    """`b/c`, `c` and `a`, `b` of `a/b/c`: a model without what all share, and its provider."""
    parts = text.split("/")[:8]
    for place in range(1, len(parts)):
        yield "/".join(parts[place:])
        yield parts[place]


SUMMARY_BYTES = 1024 * 1024  # that a step's summary may have; a longer one is not shown at all


def alert(text: str) -> str:
    """One sentence that nobody overlooks, of less than a few thousand bytes."""
    return f"> [!CAUTION]\n> {prose(text)}\n\n"


def fenced(text: str, room: int = SUMMARY_BYTES) -> str:
    """Text in a block of code that nothing in the text can end, in at most `room` bytes."""
    lines = text.splitlines()
    frame = len(block("text", lines)) - len("\n".join(lines)) + 100
    kept = _fitting(lines, room - frame)
    if kept < len(lines):
        lines[kept:] = [f"… and {count(len(lines) - kept, 'further line')}; the step's log has all"]
    return block("text", lines) + "\n"


def _fitting(lines: Sequence[str], room: int) -> int:
    """How many of the first lines have at most `room` bytes together."""
    for number, line in enumerate(lines):
        room -= len(line.encode(errors="backslashreplace")) + 1
        if room < 0:
            return number
    return len(lines)
