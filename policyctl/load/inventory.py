"""Inventories: the rows of a CSV, YAML or JSON file beside policyctl.yaml, from which environments are generated.

A file that cannot be read as a whole gives no rows at all: an environment must not go missing because a line was cut.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from policyctl.errors import InvalidInput, Mark, Problem
from policyctl.load.locate import to_problems
from policyctl.load.source import source_of
from policyctl.policy.findings import Finding, format_path
from policyctl.policy.memo import late_pattern

_COLUMN = late_pattern(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_NUMBER = late_pattern(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?")
MOST_ROWS = 100_000

ReadBeside = Callable[
    [str], tuple[bytes, str]
]  # the content of a file by its path from policyctl.yaml, and its name in messages


class Row(NamedTuple):
    """One row: where it is, and its columns. A cell of a CSV file is text, an empty one is absent."""

    mark: Mark
    columns: dict[str, Any]


class Inventory(NamedTuple):
    """The rows of a file, in its order, and the columns that any row may have."""

    file: str
    rows: tuple[Row, ...]
    columns: frozenset[str]


def read_inventory(path: str, read: ReadBeside) -> Inventory:
    """An inventory by its path from policyctl.yaml. Raises InvalidInput with every problem of the file."""
    content, file = read(path)
    if path.endswith(".csv"):
        return _csv(_text(content, file), file)
    return _documents(content, file)


def typed(cell: Any) -> Any:
    """A cell as the variable that policies see: a plain decimal number, true or false, else the text."""
    if not isinstance(cell, str):
        return cell
    if _NUMBER.fullmatch(cell):
        return float(cell) if "." in cell else int(cell)
    return {"true": True, "false": False}.get(cell, cell)


def _text(content: bytes, file: str) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InvalidInput([Problem(Mark(file, line, 1), "P006", "is not UTF-8; save the file as UTF-8")]) from None
    if "\0" in text:
        raise _bad(Mark(file, text[: text.index("\0")].count("\n") + 1, 1), "has a NUL character; save the file as UTF-8")
    return text


def _csv(text: str, file: str) -> Inventory:
    import csv  # most directories have no inventory

    reader = csv.reader(io.StringIO(text), strict=True)
    rows: list[Row] = []
    problems: list[Problem] = []
    header: list[str] = []
    line = 0
    try:
        for cells in reader:
            mark, line = Mark(file, line + 1, 1), reader.line_num
            if not header:
                header = [cell.strip() for cell in cells]
                problems += _header_problems(header, mark)
            elif cells and len(cells) != len(header):
                has = "1 field" if len(cells) == 1 else f"{len(cells)} fields"
                why = f"the row has {has}, and the header {len(header)}; add what is missing, or quote text with a comma"
                problems.append(_problem(mark, why))
            elif cells:
                named = zip(header, (cell.strip() for cell in cells), strict=True)
                rows.append(Row(mark, {column: cell for column, cell in named if cell}))
    except csv.Error as error:
        problems.append(_problem(Mark(file, line + 1, 1), f"is not CSV: {error}; correct it"))
    return _inventory(file, rows, frozenset(header), problems)


def _header_problems(header: list[str], mark: Mark) -> Iterator[Problem]:
    for column in dict.fromkeys(header):
        if not _COLUMN.fullmatch(column):
            yield _problem(mark, f"{format_path(column)} is not the name of a column; use letters, digits and _")
        elif header.count(column) > 1:
            yield _problem(mark, f"the column {column} is there twice; keep one")


def _documents(content: bytes, file: str) -> Inventory:
    source = source_of(content, file)
    problems = [problem for document in source.documents for problem in document.problems]
    if len(source.documents) > 1:
        problems.append(_problem(source.documents[1].mark, "an inventory is one document; merge the two"))
    items = source.documents[0].data if source.documents else []
    if not isinstance(items, list):
        raise _bad(
            source.documents[0].mark, f"an inventory is a list of rows, got {format_path(items)}; write one item for each"
        )
    found = [Finding((n,), "P310", _ROW) for n, item in enumerate(items) if not _is_row(item)]
    problems += to_problems(source, 0, found)
    marks = to_problems(source, 0, [Finding((n,), "P310", "") for n in range(len(items))])
    rows = [
        Row(at.mark, {key: cell for key, cell in item.items() if cell not in (None, "")})
        for at, item in zip(marks, items, strict=True)
        if _is_row(item)
    ]
    return _inventory(file, rows, frozenset(column for row in rows for column in row.columns), problems)


_ROW = "a row is a mapping from columns, in letters, digits and _, to values; correct it"


def _is_row(item: Any) -> bool:
    return isinstance(item, dict) and all(isinstance(key, str) and _COLUMN.fullmatch(key) for key in item)


def _inventory(file: str, rows: list[Row], columns: frozenset[str], problems: list[Problem]) -> Inventory:
    if not rows and not problems:
        problems.append(_problem(Mark(file), "has no rows, which is never meant: environments do not vanish; restore the file"))
    if len(rows) > MOST_ROWS:
        problems.append(_problem(Mark(file), f"has {len(rows):,} rows; at most {MOST_ROWS:,} are read"))
    if problems:
        raise InvalidInput(problems)
    return Inventory(file, tuple(rows), columns)


def _problem(mark: Mark, message: str) -> Problem:
    return Problem(mark, "P310", message)


def _bad(mark: Mark, message: str) -> InvalidInput:
    return InvalidInput([_problem(mark, message)])
