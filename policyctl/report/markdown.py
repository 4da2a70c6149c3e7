"""Text as GitHub's markdown that is only displayed: without effect as markup, link, mention, issue, command or formula.

One rule: everything but plain words and numbers of ours is in a code span, a code block or an HTML `<code>`, where GitHub
interprets neither markup nor mentions nor references.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from policyctl.plan.diff import FieldChange
from policyctl.plan.safety import Review
from policyctl.policy.document import Document, references
from policyctl.policy.names import bare_name
from policyctl.report.format import count, cut, escape, shortened

_LONGEST = 200  # characters of a name
_LONGEST_SENTENCE = 600
_TOKEN = re.compile(r"(\(?)(.*?)([,:;.?)]*)")
_WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*'?")
_NUMBER = re.compile(r"(?:\d{1,3}(?:,\d{3})+|\d{1,6})(?:\.\d+)?%?|[→×…]")
_REFERENCE = re.compile(r"[a-f]{7,40}|ghsa-.*|.*www", re.IGNORECASE)  # words that could refer to a commit or an advisory
_PARTS = re.compile(r"['-]")
# From the beginning of a word, to the end of the text if a cut took the rest.
_QUOTED = re.compile(r'(?<![^\s(\[{])"(?:[^"\\]|\\.)*(?:"|\\?$)')
_SPACE = "\ue000"  # a space inside a word; escaped text never contains it
_ITEM = re.compile(r"\d+[.)]")  # would start a list
_FEWER = "; then propose fewer changes at once, or start apply by hand with the plan's digest"


class _Foreign(NamedTuple):
    """Texts from policies: all of them, and those of several words."""

    words: frozenset[str] = frozenset()
    phrases: tuple[str, ...] = ()


_NONE = _Foreign()
_foreign: ContextVar[_Foreign] = ContextVar("foreign", default=_NONE)


def code(text: str, longest: int = _LONGEST) -> str:
    """A text in a code span, cut to the length of a name, or to another one."""
    return _span(cut(escape(text), longest))


@contextmanager
def naming(texts: Iterable[str]) -> Iterator[None]:
    """Within this context, every sentence shows these texts as code, even those that look like plain words."""
    shown = {form for text in map(str.strip, texts) if text for form in (escape(text), shortened(escape(text)))}
    before = _foreign.set(_Foreign(frozenset(shown), tuple(text for text in shown if " " in text)))
    try:
        yield
    finally:
        _foreign.reset(before)


def prose(text: str, longest: int = _LONGEST_SENTENCE) -> str:
    """A sentence: plain words and numbers stay, everything else becomes code, including every text given to `naming`.

    It is cut to `longest` characters.
    """
    done: list[str] = []
    names: list[str] = []  # neighbours, for one code span
    for token in cut(_joined(cut(escape(text), 2 * longest)), longest).split():
        before, name, after = _parts(token, not done and not names)
        if names and (before or not name):
            done.append(_span(" ".join(names)))
            names = []
        if not name:
            done.append(token)
        elif before or after:
            done.append(before + _span(" ".join([*names, name])) + after)
            names = []
        else:
            names.append(name)
    return " ".join([*done, *([_span(" ".join(names))] if names else [])])


def proses(texts: Sequence[str]) -> str:
    """Several sentences with the total length of one, shared equally."""
    return "; ".join(prose(text, _LONGEST_SENTENCE // len(texts)) for text in texts)


def html_code(text: str, longest: int | None = _LONGEST) -> str:
    """A text as code inside HTML, where markdown has no effect; cut to the length of a name, or to another one."""
    shown = escape(text)
    return f"<code>{html.escape(shown if longest is None else cut(shown, longest))}</code>"


def block(language: str, lines: Sequence[str]) -> str:
    """Lines in a code block that none of them can end. Each must be a single line."""
    fence = "`" * max(3, 1 + max(map(_longest_run, lines), default=0))
    return "\n".join((f"{fence}{language}", *lines, fence)) + "\n"


def row(cells: Sequence[str]) -> str:
    """A row of a table. A bar ends a cell even inside code, and cannot follow a backslash."""
    return "| " + " | ".join(cell.replace("\\|", "\\\\x7c").replace("|", "\\|") for cell in cells) + " |\n"


def _joined(text: str) -> str:
    """The text with each quoted text and each name made one word."""
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
    shown = shown.replace(_SPACE, " ") or " "  # an empty text has no code span
    ticks = "`" * (1 + _longest_run(shown))
    # A code span loses one space on both sides, and may not begin or end with a backtick.
    pad = " " if shown.strip() and (shown[0] in " `" or shown[-1] in " `") else ""
    return f"{ticks}{pad}{shown}{pad}{ticks}"


def _parts(token: str, first: bool) -> tuple[str, str, str]:
    """The part of a token that must be code, and the parts around it; three empty texts if the token can stay unchanged."""
    found = _TOKEN.fullmatch(token)
    assert found is not None  # noqa: S101 - the pattern matches any line
    before, core, after = found.groups()
    if first and _ITEM.fullmatch(token):
        return "", token, ""
    if core not in _foreign.get().words and (_NUMBER.fullmatch(core) or _is_word(core)):
        return "", "", ""
    return (before, core, after) if core else ("", token, "")


def _is_word(core: str) -> bool:
    """Whether this is a word without a meaning for GitHub, also in its parts."""
    return bool(_WORD.fullmatch(core)) and not any(map(_REFERENCE.fullmatch, (core, *_PARTS.split(core))))


def _longest_run(text: str) -> int:
    """The length of the longest run of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)


def foreign_texts(review: Review) -> Iterator[str]:
    """Every text of others that a sentence about a plan may contain, whole and in parts: names, models and modes of policies,
    of what uses them, and of the settings that a branch changes."""
    yield from review.live
    yield from (use.consumer.name for uses in (review.consumers.uses.values() if review.consumers else ()) for use in uses)
    yield from (*review.declared.types.values(), *review.declared.then.types.values())
    yield from (warning.mark.file for warning in review.branch.warnings)
    yield from settings_texts(review.branch.settings)
    yield from map(bare_name, review.live)
    for block in review.plan.blocked:
        yield from (block.name, bare_name(block.name), *block.ids)
    for change in review.plan.changes:
        yield from (change.name, bare_name(change.name))
    yield from strings_in(_documents(review))


def settings_texts(settings: Iterable[FieldChange]) -> Iterator[str]:
    """Every text in settings that a branch changes, before and after."""
    return (text for one in settings for text in _strings([one.before, one.after]))


def strings_in(documents: Iterable[Document]) -> Iterator[str]:
    """Every text in policy documents, whole and in parts."""
    for document in documents:
        for text in _strings(document):
            yield text
            yield from _endings(text)


def _documents(review: Review) -> Iterator[Document]:
    """Both versions of each change, and the policies that these target, at any depth."""
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
    """`b/c`, `c` and `b` of `a/b/c`: a model without its prefix, and its provider."""
    parts = text.split("/")[:8]
    for place in range(1, len(parts)):
        yield "/".join(parts[place:])
        yield parts[place]


SUMMARY_BYTES = 1024 * 1024  # the limit of a step's summary; GitHub does not show a longer one at all


def alert(text: str) -> str:
    """One sentence as an alert, cut to the length of a sentence."""
    return f"> [!CAUTION]\n> {prose(text)}\n\n"


def fenced(text: str, room: int = SUMMARY_BYTES) -> str:
    """Text in a code block of at most `room` bytes; lines that do not fit are counted."""
    lines = text.splitlines()
    frame = len(block("text", lines)) - len("\n".join(lines)) + 100
    kept = _fitting(lines, room - frame)
    if kept < len(lines):
        lines[kept:] = [f"… and {count(len(lines) - kept, 'further line')}; the log of the step has all"]
    return block("text", lines) + "\n"


def _fitting(lines: Sequence[str], room: int) -> int:
    """How many of the first lines fit into `room` bytes."""
    for number, line in enumerate(lines):
        room -= len(line.encode(errors="backslashreplace")) + 1
        if room < 0:
            return number
    return len(lines)


def unseen_alert(rows: int, artifacts: str | None) -> str:
    """A warning that the page lacks settings, before everything else: what it does not show is not approved."""
    what = f"{count(rows, 'change')} of the safety settings"
    return _lacking(rows, what, artifacts, then=", and change the settings in smaller steps")


def overrides_alert(overrides: int, artifacts: str | None) -> str:
    """The same for what is overridden."""
    return _lacking(overrides, count(overrides, "override"), artifacts, "on this page as a whole", ", or override less")


def notes_alert(notes: int, artifacts: str | None) -> str:
    """The same for notes about the changes."""
    return _lacking(notes, f"{count(notes, 'note')} about the changes", artifacts, "on this page as a whole")


def missing_alert(number: int, items: int, artifacts: str | None) -> str:
    """The same for changes."""
    return _lacking(number, f"Of {count(items, 'change')} {number:,}", artifacts, "on this page as a whole")


def _lacking(number: int, what: str, artifacts: str | None, where: str = "on this page", then: str = _FEWER) -> str:
    if not number:
        return ""
    missing = f"{what} {'is' if number == 1 else 'are'} not {where}"
    return f"> [!CAUTION]\n> {missing}, so merging it approves no plan. Read {whole_plan(artifacts)}{then}.\n\n"


def whole_plan(artifacts: str | None) -> str:
    return f"[this run's artifacts]({artifacts})" if artifacts else "what `policyctl plan -v` prints"
