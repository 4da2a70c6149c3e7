"""policyctl fmt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import click

from policyctl.cli.console import Console
from policyctl.cli.options import Options, with_options
from policyctl.errors import InvalidInput, Problem
from policyctl.load.discovery import find_files
from policyctl.load.source import read_bytes, redact_linked, refuse_link, write_atomically
from policyctl.load.style import styled
from policyctl.report.format import Style, count, diff_lines

EPILOG = """\b
Example:
  policyctl fmt
  policyctl fmt --check --diff
  policyctl fmt policies/anygem.yaml"""

_YAML = (".yaml", ".yml")
_UNREAD = ("P001", "P005", "P008")  # of what is there and cannot be read, or is a link that is not followed


@click.command("fmt", epilog=EPILOG)
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option("--check", is_flag=True, help="Write nothing, and exit with 1 if a file would change.")
@click.option("--diff", is_flag=True, help="Write nothing, and show what would change.")
@with_options("dir", "color", "verbose", "quiet")
def fmt(options: Options, paths: tuple[Path, ...], check: bool, diff: bool) -> int:
    """Write YAML files in one style, that of the files which pull and --save write, and print the names of those that change.
    Without a PATH all of the policy directory.

    Indentation, quotes, spaces and empty lines become alike. Comments, templates, the order of keys, line breaks within a
    value, and whether a list or mapping is on one line stay as they are. A file means the same afterwards; one that cannot be
    read is reported and not touched.
    """
    console = Console(options)
    found = _Found(console)
    total, changed = 0, 0
    for file in _files(paths or (options.dir,), found):
        total += 1
        if (change := _change_of(file, found)) is None:
            continue
        changed += 1
        if check or diff or not console.quiet:
            console.result(_diff(change, console.out_style) if diff else f"{file}\n")
        if not (check or diff):
            write_atomically(Path(file), change.after)
    would = "would be formatted" if check or diff else "formatted"
    unread = f", {found.unread:,} not read" if found.unread else ""
    console.say(f"{count(changed, 'file')} {would}, {total - changed - found.unread:,} unchanged{unread}")
    if found.problems:
        raise InvalidInput(found.problems)
    return 1 if check and changed else 0


@dataclass
class _Found:
    """What is wrong with the files, one problem for each, and how many of them could not be read."""

    console: Console
    problems: list[Problem] = field(default_factory=list)
    unread: int = 0

    def add(self, error: InvalidInput) -> None:
        """Add the first problem of a file, or of a path without one."""
        self.problems += redact_linked(error.problems[:1])


class _Change(NamedTuple):
    file: str
    before: str
    after: str


def _files(paths: tuple[Path, ...], found: _Found) -> Iterator[str]:
    """The YAML files at these paths, each once."""
    seen = set[str]()
    for path in paths:
        try:
            files = _at(path, found)
        except InvalidInput as error:
            found.add(error)
            continue
        for file in files:
            if file.endswith(_YAML) and file not in seen:
                seen.add(file)
                yield file


def _at(path: Path, found: _Found) -> list[str]:
    if path.is_dir():
        below = find_files(path)
        found.problems += (one for one in below.problems if one.code in _UNREAD)
        return sorted([*below.files, *map(str, below.configs)])
    refuse_link(path)
    if not str(path).endswith(_YAML):
        found.console.say(f"{path} is left as it is: only *.yaml and *.yml files are formatted")
    return [str(path)]


def _change_of(file: str, found: _Found) -> _Change | None:
    """The file's text before and after; None for one that stays as it is."""
    try:
        content = read_bytes(file)
        after = styled(content, file)
    except InvalidInput as error:
        found.add(error)
        found.unread += 1
        return None
    return None if after.encode() == content else _Change(file, content.decode(), after)


def _diff(change: _Change, style: Style) -> str:
    names = (f"{change.file} (now)", f"{change.file} (formatted)")
    before, after = (text.split("\n") for text in (change.before, change.after))
    return "".join(f"{line}\n" for line in diff_lines(before, after, names, style))
