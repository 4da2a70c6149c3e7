"""The changes of a plan as unified YAML, as `git diff` shows files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import unified_diff

from policyctl.load.write import normal_text
from policyctl.plan.plan import Change, normal_of
from policyctl.policy.document import Document
from policyctl.report.format import Style, escape, json_text

_NOTHING = "/dev/null"
_LOOKS = {"+": "green", "-": "red", "@": "cyan"}


def plan_diff(changes: Iterable[Change], style: Style) -> str:
    """What is live and what the files want of each changed policy and model; empty without changes.

    Both sides are in normal form, which has no secrets. Lines are escaped, so that a policy's text controls no terminal.
    """
    return "".join(f"{line}\n" for change in changes for line in _change_lines(change, style))


def _change_lines(change: Change, style: Style) -> Iterator[str]:
    after = None if change.after is None else normal_of(change.after)
    old, new = _texts(change.before, after)
    names = (
        _NOTHING if change.before is None else f"live/{change.name}",
        _NOTHING if after is None else change.file or change.name,
    )
    yield from diff_lines(old, new, names, style)


def diff_lines(old: Sequence[str], new: Sequence[str], names: tuple[str, str], style: Style) -> Iterator[str]:
    """A unified diff of lines without line feeds, escaped; `names` are those of both sides."""
    for number, line in enumerate(unified_diff(old, new, *names, lineterm="")):
        yield style.paint(escape(line), *(["bold"] if number < 2 else _looks(line)))


def _looks(line: str) -> list[str]:
    look = _LOOKS.get(line[:1])
    return [look] if look else []


def _texts(before: Document | None, after: Document | None) -> tuple[list[str], list[str]]:
    """The lines of both sides: YAML, or JSON where YAML cannot hold one of them or would show no difference."""
    old, new = _yaml(before), _yaml(after)
    if old is None or new is None or old == new:
        old, new = ("" if one is None else json_text(one) for one in (before, after))
    return _lines(old), _lines(new)


def _yaml(document: Document | None) -> str | None:
    return "" if document is None else normal_text(document)


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n") if text else []
