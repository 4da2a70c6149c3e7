"""Overrides that do not come from the command line: a command in a comment, a workflow's input, a file between two steps."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from policyctl.cli.selecting import override_options, overrides_of
from policyctl.core.settings import Override
from policyctl.errors import PolicyctlError, UsageError
from policyctl.load.files import read_bounded, write_atomically

FORMAT = "policyctl/overrides"
VERSION = 1
MAX_BYTES = 64 * 1024  # of a file of overrides
MOST = 20  # overrides of one plan, so that they fit above it
_LONGEST = 300  # characters of a reason
_COMMAND = re.compile(r"^/policyctl[ \t]+allow[ \t]+(\S.*)$", re.MULTILINE)
# A block of code and an HTML comment, each up to its end or that of the text.
_NOT_SAID = re.compile(r"<!--.*?(?:-->|\Z)|^ {0,3}(`{3,}|~{3,}).*?(?:^ {0,3}\1|\Z)", re.DOTALL | re.MULTILINE)
_BECAUSE = re.compile(r"(.+?)\s+because\s+(\S.*)", re.DOTALL)


def commands_in(comment: str) -> list[str]:
    """The overrides that a comment asks for: the rest of each line that begins with `/policyctl allow`.

    Lines in a block of code or in an HTML comment are examples, or not seen by the people who allow something.
    """
    return [found[1].strip() for found in _COMMAND.finditer(_NOT_SAID.sub("", comment.replace("\r\n", "\n")))]


def parse_overrides(text: str, by: str) -> tuple[Override, ...]:
    """`--max-removes 12 --allow-guard max_calls=chat because …`, said by a person, as overrides.

    Raises UsageError when an option is unknown or wrong, when there is none, and without a reason.
    """
    found = _BECAUSE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"the override {text!r} gives no reason; write: OPTIONS because REASON")
    reason = " ".join(found[2].split())
    if len(reason) > _LONGEST:
        raise UsageError(f"the reason of an override has {len(reason)} characters; at most {_LONGEST} are shown")
    parser = click.Command("allow", params=[*override_options()], add_help_option=False)
    try:
        values = parser.make_context("allow", shlex.split(found[1])).params
    except (click.UsageError, ValueError) as error:
        said = error.format_message() if isinstance(error, click.UsageError) else str(error)
        raise UsageError(f"the override {found[1]!r} is not understood: {said}") from None
    given = overrides_of(values, reason, by)
    if not given:
        raise UsageError(f"{found[1]!r} overrides nothing; write for example --max-removes 12")
    return given


def write_overrides(file: Path, overrides: Sequence[Override]) -> None:
    """Write overrides for a later step. Raises PolicyctlError when they cannot be written."""
    data = {"format": FORMAT, "version": VERSION, "overrides": [one._asdict() for one in overrides]}
    write_atomically(file, json.dumps(data, indent=2) + "\n", private=True)


def read_overrides(file: Path) -> tuple[Override, ...]:
    """The overrides of a file that `write_overrides` wrote, each checked as on the command line.

    Raises PolicyctlError for any other file.
    """
    try:
        data = json.loads(read_bounded(file, MAX_BYTES))
    except OSError as error:
        raise PolicyctlError(f"{file} cannot be read: {error.strerror}; write it with ci overrides --out {file}") from None
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or data.get("format") != FORMAT or data.get("version") != VERSION:
        raise PolicyctlError(f"{file} is not a file of overrides; write it with ci overrides --out {file}")
    rows = data.get("overrides")
    if not isinstance(rows, list) or not all(map(_is_override, rows)) or len(rows) > MOST:
        raise PolicyctlError(f"{file} is not a whole file of overrides; write it again with ci overrides --out {file}")
    for row in rows:
        words = shlex.join((row["option"], row["value"]))
        parse_overrides(f"{words} because {row['reason'] or 'of what the command line says'}", row["by"])
    return tuple(Override(**row) for row in rows)


def _is_override(row: Any) -> bool:
    return isinstance(row, dict) and row.keys() == set(Override._fields) and all(isinstance(one, str) for one in row.values())
