"""Who uses a model, a provider or a policy: a table for people, the most traffic first, and JSON for machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policyctl.effect.profile import ASSUMED, PROFILE
from policyctl.effect.uses import Names, Use
from policyctl.model.names import bare_name
from policyctl.report.effect_json import FORMAT, VERSION
from policyctl.report.effect_views import model, percent
from policyctl.report.markdown import code, prose, row
from policyctl.report.plain import columns, count, json_text, padded, plain
from policyctl.report.style import Style

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
            file = style.paint(f"  {plain(users.files[use.policy])}", "dim")
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
    names = [*map(model, users.wanted.models), *map(plain, users.wanted.policies)]
    what = names[0] if len(names) == 1 else f"{plain(users.pattern)} ({', '.join(names)})"
    policies = len({use.policy for use in users.uses})
    looked = count(len(users.files), "policy") + (", as far as is known" if users.beyond or users.untold else "")
    return f"{what}: used by {policies:,} of {looked}" if policies else f"{what}: used by none of {looked}"


def _cells(use: Use) -> tuple[str, str, str, str, str]:
    """Traffic, what is served without it, the policy, the target, and how."""
    numbers = [("?" if share is None else percent(share)) for share in (use.share, use.served)]
    return numbers[0], numbers[1], plain(bare_name(use.policy)), model(use.target), _how(use)


def _how(use: Use) -> str:
    way = f", through {', '.join(plain(bare_name(name)) for name in use.through)}" if use.through else ""
    if use.why:
        return f"cannot be told: {plain(use.why)}{way}"
    if not use.asked:
        return f"named, but never asked{way}"
    if use.when:
        return f"only {plain(use.when)}{way}"
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
        f"{plain(name)} is not known here, so it is not known whether {', '.join(map(plain, map(bare_name, policies)))} "
        f"{'uses' if len(policies) == 1 else 'use'} {plain(users.pattern)} through it"
        for name, policies in users.beyond.items()
    ]
    said = plain(users.pattern)
    return beyond + [
        f"it is not known whether {plain(bare_name(name))} uses {said}: {plain(why)}" for name, why in users.untold.items()
    ]
