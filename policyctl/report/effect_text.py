"""What `effect` shows, for people: as text for a terminal and as markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policyctl.effect.gateway import ASSUMED, PROFILE
from policyctl.effect.uses import Names, Use
from policyctl.policy.document import Document
from policyctl.policy.names import bare_name
from policyctl.report.effect_json import FORMAT, VERSION
from policyctl.report.effect_rows import sections
from policyctl.report.effect_view import ComparisonView, View, model, percent
from policyctl.report.format import columns, count, escape, json_text, padded
from policyctl.report.markdown import code, naming, prose, row, strings_in
from policyctl.report.terminal import Style


def effect_text(views: Sequence[View], style: Style, assumed: str = ASSUMED) -> str:
    """A block a policy, and what it all rests on (`assumed`) in the last line."""
    blocks = []
    for view in views:
        against = f"  {style.paint(f'against {escape(view.against)}', 'dim')}" if isinstance(view, ComparisonView) else ""
        lines = [f"{style.paint(escape(view.name), 'bold')}  {style.paint(escape(view.file), 'dim')}{against}"]
        for title, rows in sections(view):
            lines += [f"  {style.paint(title, 'cyan')}", *(f"    {row}" for row in rows)]
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, style.paint(assumed, "dim")]) + "\n"


def effect_markdown(views: Sequence[View], documents: Iterable[Document], assumed: str = ASSUMED) -> str:
    """The same as markdown: a heading a policy, a list a section. `documents` are the policies that this may be about."""
    with naming(strings_in(documents)):
        return _page(views, assumed)


def _page(views: Sequence[View], assumed: str) -> str:
    blocks = []
    for view in views:
        against = f" against {code(view.against)}" if isinstance(view, ComparisonView) else ""
        lines = [f"### {code(view.name)}{against}"]
        for title, rows in sections(view):
            lines += ["", f"**{title}**", "", *(f"- {prose(row)}" for row in rows)]
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, f"_{prose(assumed)}_"]) + "\n"


_HEADS = ("traffic", "without it", "policy", "uses")


@dataclass(frozen=True, slots=True)
class Users:
    """What was asked (`pattern`), what it means (`wanted`), and its uses by the policies looked at, of which each has a file.

    `beyond` are target policies that cannot be followed, each with the policies that lead to it: whether these use what was
    asked for by way of it is not known. `untold` are the policies looked at of which it is not known what they use, each with
    the reason.
    """

    pattern: str
    wanted: Names
    uses: tuple[Use, ...]
    files: Mapping[str, str]
    beyond: Mapping[str, Sequence[str]]
    untold: Mapping[str, str]

    @property
    def sorted(self) -> list[Use]:
        """The uses by those with the most traffic first; then those that need the fewest failures, then what is never asked."""
        return sorted(self.uses, key=_weight)


def _weight(use: Use) -> tuple[bool, float, bool, int, str, str]:
    unknown = use.share is None
    return not unknown, -(use.share or 0.0), not use.asked, use.failing, use.policy, use.target


def users_text(users: Users, style: Style) -> str:
    """A line on what was found, and a line for each use."""
    lines = [style.paint(_found(users), "bold")]
    if users.uses:
        rows = [_cells(use) for use in users.sorted]
        widths = [max(map(columns, column)) for column in zip(_HEADS, *(cells[:4] for cells in rows), strict=True)]
        lines += ["", f"  {style.paint(_aligned(_HEADS, widths).rstrip(), 'dim')}"]
        for use, cells in zip(users.sorted, rows, strict=True):
            file = style.paint(f"  {escape(users.files[use.policy])}", "dim")
            lines.append(f"  {_aligned(cells, widths)}  {cells[4]}{file}")
        lines += ["", style.paint(_without(users.wanted), "dim")]
    notes = _notes(users)
    lines += ["", *(style.paint("note  ", "cyan") + note for note in notes)] if notes else []
    return "\n".join([*lines, "", style.paint(ASSUMED, "dim")]) + "\n"


def users_markdown(users: Users) -> str:
    """The same as markdown: a table."""
    parts = [f"### {prose(_found(users))}\n"]
    if users.uses:
        head = row((*_HEADS, "how", "file")) + "|--:|--:|---|---|---|---|\n"
        rows = [(*cells[:2], code(cells[2]), code(cells[3]), prose(cells[4])) for cells in map(_cells, users.sorted)]
        files = [code(users.files[use.policy]) for use in users.sorted]
        parts += [
            head + "".join(row((*cells, file)) for cells, file in zip(rows, files, strict=True)),
            f"_{_without(users.wanted)}_\n",
        ]
    notes = _notes(users)
    parts += ["".join(f"- {prose(note)}\n" for note in notes)] if notes else []
    return "\n".join([*parts, f"_{prose(ASSUMED)}_\n"])


def users_json(users: Users) -> str:
    """The same as JSON text; its schema is `schemas/effect.schema.json`. Shares are from 0 to 1."""
    data = {
        "format": FORMAT,
        "version": VERSION,
        "profile": PROFILE,
        "assumption": ASSUMED,
        "uses": users.pattern,
        "models": list(users.wanted.models),
        "policies": list(users.wanted.policies),
        "looked_at": len(users.files),
        "users": [_use(use, users.files[use.policy]) for use in users.sorted],
        "unfollowed": {name: list(policies) for name, policies in users.beyond.items()},
        "not_known": dict(users.untold),
    }
    return json_text(data)


def _without(wanted: Names) -> str:
    """What the column "without it" supposes."""
    models, policies = bool(wanted.models), bool(wanted.policies)
    gone = [*(["it answers every call with 404"] if models else []), *(["there is no such policy"] if policies else [])]
    return f"without it: the requests that are still served while {' or '.join(gone)}"


def _use(use: Use, file: str) -> dict[str, Any]:
    plain: dict[str, Any] = {"policy": use.policy, "file": file, "target": use.target, "through": list(use.through)}
    if use.why:
        return {**plain, "why": use.why}
    return {**plain, "share": use.share, "when": use.when, "asked": use.asked, "served_without": use.served}


def _found(users: Users) -> str:
    """`openai/gpt-4o: used by 2 of 6 policies`."""
    names = [*map(model, users.wanted.models), *map(escape, users.wanted.policies)]
    what = names[0] if len(names) == 1 else f"{escape(users.pattern)} ({', '.join(names)})"
    policies = len({use.policy for use in users.uses})
    looked = count(len(users.files), "policy") + (", as far as is known" if users.beyond or users.untold else "")
    return f"{what}: used by {policies:,} of {looked}" if policies else f"{what}: used by none of {looked}"


def _cells(use: Use) -> tuple[str, str, str, str, str]:
    """Traffic, what is served without it, the policy, the target, and how."""
    numbers = [("?" if share is None else percent(share)) for share in (use.share, use.served)]
    return numbers[0], numbers[1], escape(bare_name(use.policy)), model(use.target), _how(use)


def _how(use: Use) -> str:
    way = f", through {', '.join(escape(bare_name(name)) for name in use.through)}" if use.through else ""
    if use.why:
        return f"cannot be told: {escape(use.why)}{way}"
    if not use.asked:
        return f"named, but never asked{way}"
    if use.when:
        return f"only {escape(use.when)}{way}"
    if not use.share:
        return f"asked, but its answers are never used{way}"
    return f"{'first choice' if use.share == 1 else 'a share of the requests'}{way}"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Numbers to the right, names to the left."""
    traffic, without, *names = (cell for cell, _ in zip(cells, widths, strict=False))
    numbers = [f"{cell:>{width}}" for cell, width in zip((traffic, without), widths, strict=False)]
    return "  ".join([*numbers, *(padded(name, width) for name, width in zip(names, widths[2:], strict=True))])


def _notes(users: Users) -> list[str]:
    beyond = [
        f"{escape(name)} is not known here, so it is not known whether {', '.join(map(escape, map(bare_name, policies)))} "
        f"{'uses' if len(policies) == 1 else 'use'} {escape(users.pattern)} through it"
        for name, policies in users.beyond.items()
    ]
    said = escape(users.pattern)
    return beyond + [
        f"it is not known whether {escape(bare_name(name))} uses {said}: {escape(why)}" for name, why in users.untold.items()
    ]
