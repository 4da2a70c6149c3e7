"""Many environments from few lines: templates that extend one another, and generators over inventories.

Precedence, lowest first: a chain of templates (its root first), a generator's `defaults`, the row, `environments.NAME`.
`vars`, `labels`, `limits`, `guards` and `auth` are merged by key; other values replace, and null takes away. Expressions are
rendered once, over the row's columns and the environment's variables; what was rendered is never rendered again.

An inventory is a CSV, YAML or JSON file beside policyctl.yaml. One that cannot be read as a whole gives no rows at all: an
environment must not go missing because a line was cut.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, NamedTuple

from policyctl.errors import InvalidInput, Mark, Problem
from policyctl.load.kinds import has_template, is_template
from policyctl.load.source import source_of
from policyctl.load.urls import POSTGRES, is_http, is_postgres, origin, postgres_servers
from policyctl.load.yaml import to_problems
from policyctl.policy.findings import FieldPath, Finding, did_you_mean, format_path, listed
from policyctl.policy.memo import late_pattern

Origin = Mark | FieldPath  # a row of an inventory, or a part of policyctl.yaml
_MERGED = frozenset(("vars", "labels", "limits", "guards", "auth", "watch"))
_RENDERED = frozenset(("remote", "auth", "ca_file", "labels", "vars"))
_SAFE = late_pattern(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_ADDRESSES: tuple[FieldPath, ...] = (("remote",), ("auth", "url"))  # where credentials go
_LITERAL_ORIGIN = late_pattern(r"https?://[^/{}]+(/.*)?")
ENVIRONMENT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")  # part of a file's name: that of an embedded remote


class Layered(NamedTuple):
    """A value of one environment: where it comes from, and whether it is an expression to render."""

    value: Any
    origin: Origin
    expression: bool = False


class Layer:
    """Settings of one origin. Only those of templates and `defaults` may have expressions."""

    def __init__(self, data: Mapping[str, Any], origin: Origin, *, rendered: bool = False) -> None:
        self.data = data
        self.origin = origin
        self.rendered = rendered


class Member:
    """An environment before it is rendered: its name and origin, its row (empty without one), and its layers."""

    def __init__(self, name: str, origin: Origin, row: Mapping[str, Any] | None = None, layers: Iterable[Layer] = ()) -> None:
        self.name = name
        self.origin = origin
        self.row = {} if row is None else row
        self.layers = list(layers)

    @property
    def is_plain(self) -> bool:
        """Whether it is written out in policyctl.yaml, with nothing to merge or to render."""
        return len(self.layers) == 1 and not self.layers[0].rendered and not isinstance(self.origin, Mark)


class Placed(NamedTuple):
    """What is wrong in policyctl.yaml (at a path) or in an inventory (at a mark)."""

    origin: Origin
    finding: Finding


class FleetDescription:
    """The members of a configuration's fleet, by name, and what is wrong with its description as a whole."""

    def __init__(self, data: Mapping[str, Any], read: ReadBeside) -> None:
        """`data` is a policyctl.yaml of the right form."""
        self.found: list[Placed] = []
        self.problems: list[Problem] = []
        self.members: dict[str, Member] = {}
        self._templates: Mapping[str, Any] = data.get("templates") or {}
        self._read = cache(lambda path: read_inventory(path, read))
        self._chain = cache(self._chain_of)
        for name in self._templates:
            self._chain(name)
            self._check_expressions(self._templates[name], ("templates", name))
        for place, generator in enumerate(data.get("fleet") or ()):
            self._generate(generator, ("fleet", place))
        for name, own in (data.get("environments") or {}).items():
            self._write(name, own or {})

    def _finding(self, path: FieldPath, message: str, code: str = "P309") -> None:
        self.found.append(Placed(path, Finding(path, code, message)))

    def _chain_of(self, name: str) -> tuple[Layer, ...]:
        """The templates from the root to this one; a finding for one that leads back to itself or to none."""
        chain: list[Layer] = []
        seen: dict[str, None] = {}
        current: str | None = name
        while current is not None:
            if current in seen:
                self._finding(("templates", name, "extends"), f"{' → '.join([*seen, current])} leads back; remove one extends")
                return ()
            seen[current] = None
            template = self._templates[current] or {}
            chain.insert(0, Layer(template, ("templates", current), rendered=True))
            above = template.get("extends")
            if above is not None and above not in self._templates:
                self._finding(("templates", current, "extends"), self._unknown(above))
                return ()
            current = above
        return tuple(chain)

    def _unknown(self, name: str) -> str:
        known = listed(self._templates) or "there are none"
        return f"unknown template {name}{did_you_mean(name, self._templates) or f' (known: {known})'}"

    def _check_expressions(self, settings: Mapping[str, Any], path: FieldPath) -> None:
        for key, value in (settings or {}).items():
            if key not in _RENDERED and has_template(value):
                self._finding((*path, key), f"expressions are not rendered in {key}; write the value out")

    def _generate(self, generator: Mapping[str, Any], path: FieldPath) -> None:
        """The members of one generator."""
        try:
            inventory = self._read(generator["from"])
        except InvalidInput as error:
            self.problems += error.problems
            return
        least = generator.get("min", 1)
        if len(inventory.rows) < least:
            message = (
                f"{inventory.file} has {len(inventory.rows):,} rows, fewer than {least:,}; restore the others, or lower min"
            )
            self._finding((*path, "min"), message, "P310")
        for key in ("labels", "vars"):
            for place, column in enumerate(generator.get(key) or ()):
                if column not in inventory.columns:
                    guess = did_you_mean(column, inventory.columns)
                    self._finding((*path, key, place), f"{inventory.file} has no column {column}{guess}")
        usual = generator.get("extends")
        if usual is not None and usual not in self._templates:
            self._finding((*path, "extends"), self._unknown(usual))
            return
        defaults = generator.get("defaults") or {}
        self._check_expressions(defaults, (*path, "defaults"))
        for row in inventory.rows:
            self._add_row(row, generator, Layer(defaults, (*path, "defaults"), rendered=True))

    def _add_row(self, row: Row, generator: Mapping[str, Any], defaults: Layer) -> None:
        name, error = rendered(generator["name"], row.columns)
        if error is not None:
            self.problems.append(Problem(row.mark, "P310", f"the row has no name: {error}"))
            return
        name = str(name)
        if not ENVIRONMENT_NAME.fullmatch(name):
            message = f"{format_path(name)} is not a name of an environment; use letters, digits, dots, dashes, _"
            self.problems.append(Problem(row.mark, "P307", message))
            return
        if name in self.members:
            first = self.members[name].origin
            self.problems.append(Problem(row.mark, "P310", f"a second row makes {name} (the first is at {first}); remove one"))
            return
        extends = row.columns.get("extends", generator.get("extends"))
        if extends is not None and extends not in self._templates:
            self.problems.append(Problem(row.mark, "P310", self._unknown(str(extends))))
            return
        own = {
            "labels": {key: row.columns[key] for key in generator.get("labels") or () if key in row.columns},
            "vars": {key: typed(row.columns[key]) for key in generator.get("vars") or () if key in row.columns},
        }
        chain = self._chain(extends) if extends is not None else ()
        self.members[name] = Member(name, row.mark, row.columns, [*chain, defaults, Layer(own, row.mark)])

    def _write(self, name: str, own: Mapping[str, Any]) -> None:
        """An entry of `environments`: merged over a member of that name, over a template, or by itself."""
        path, extends = ("environments", name), own.get("extends")
        if extends is not None and extends not in self._templates:
            self._finding((*path, "extends"), self._unknown(extends))
            return
        member = self.members.setdefault(name, Member(name, path))
        if extends is not None:
            member.layers = [*self._chain(extends), *(layer for layer in member.layers if not _is_template(layer))]
        member.layers.append(Layer(own, path))


def _is_template(layer: Layer) -> bool:
    return isinstance(layer.origin, tuple) and layer.origin[0] == "templates"


def merged(member: Member) -> dict[FieldPath, Layered]:
    """The settings of a member by path, not rendered yet. Those in `_MERGED` have a path of two keys, others of one."""
    found: dict[FieldPath, Layered] = {}
    for layer in member.layers:
        for key, value in layer.data.items():
            if key == "extends":
                continue
            if key in _MERGED and isinstance(value, Mapping):
                parts: dict[FieldPath, Any] = {(key, one): item for one, item in value.items()}
            else:
                parts = {(key,): value}
                for path in [path for path in found if path[0] == key]:
                    del found[path]
            for path, item in parts.items():
                found.pop(path, None)  # the order is that of the last one to write it
                if item is not None:  # null takes away
                    expression = layer.rendered and key in _RENDERED and has_template(item)
                    found[path] = Layered(item, layer.origin, expression)
    return found


class Rendered(NamedTuple):
    """A member's settings by path, rendered, and what is wrong with them; a finding's path is that of the setting."""

    settings: dict[FieldPath, Layered]
    wrong: tuple[Placed, ...]

    def data(self) -> dict[str, Any]:
        """The settings as an entry of `environments` would have them."""
        tree: dict[str, Any] = {}
        for path, setting in self.settings.items():
            if len(path) == 1:
                tree[str(path[0])] = setting.value
            else:
                tree.setdefault(str(path[0]), {})[path[1]] = setting.value
        return tree

    def place_of(self, path: FieldPath, member: Member) -> Origin:
        """Where the setting with that path, or the nearest above it, is to be corrected: if it is rendered, at the row."""
        found = next((one for length in (2, 1) if (one := self.settings.get(path[:length])) is not None), None)
        found = found or next((one for key, one in self.settings.items() if path and key[0] == path[0]), None)
        return member.origin if found is None or found.expression else found.origin


def render_member(member: Member, allow_origins: tuple[str, ...]) -> Rendered:
    """A member's settings, rendered over its row and variables."""
    settings, wrong = merged(member), list[Placed]()
    known = dict(member.row) | {
        str(path[1]): one.value for path, one in settings.items() if path[0] == "vars" and not one.expression
    }
    for step in (True, False):  # the variables first, since the others may use them
        for path, setting in settings.items():
            if setting.expression and (path[0] == "vars") is step:
                value, error = _render_setting(path, setting.value, known)
                error = error or _leads_astray(path, setting.value, value, allow_origins)
                error = error or _unsafe_part(path, setting.value, value, known)
                if error is not None:
                    place = member.origin if member.row else setting.origin
                    wrong.append(Placed(place, Finding(path, "P311", f"{'.'.join(map(str, path))}: {error}")))
                settings[path] = setting._replace(value=value)
        if step:
            known |= {str(path[1]): one.value for path, one in settings.items() if path[0] == "vars"}
    return Rendered(settings, tuple(wrong))


def _render_setting(path: FieldPath, value: Any, known: Mapping[str, Any]) -> tuple[Any, str | None]:
    """A setting rendered; those other than variables become text."""
    if path[0] == "vars" and not isinstance(value, str):
        from policyctl.load.template import render

        found, complaints = render(value, known)
        return found, str(complaints[0][1]) if complaints else None
    found, error = rendered(value, known)
    return (found if path[0] == "vars" or error else _as_text(found)), error


def _unsafe_part(path: FieldPath, written: Any, value: Any, known: Mapping[str, Any]) -> str | None:
    """Why a rendered setting may not be used: what a row puts into a path, a login or the URL of a database is not harmless
    there. A parameter of such a URL could turn off TLS."""
    if path[0] not in ("auth", "ca_file") and not (path == ("remote",) and str(value).startswith(("sqlite:", POSTGRES))):
        return None
    from policyctl.load.template import variables_of

    for name in variables_of(written):
        if name in known and not _SAFE.fullmatch(str(known[name])):
            where = "the URL of a database" if is_postgres(str(value)) else "a path or a login"
            allowed = "only letters, digits, ., _ and - may be, and no . at the beginning"
            return f"{name} is {format_path(known[name])}, but in {where} {allowed}; correct it"
    return None


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def rendered(text: str, known: Mapping[str, Any]) -> tuple[Any, str | None]:
    """A text rendered, or unchanged with the reason why it cannot be."""
    if not is_template(text):
        return text, None
    from policyctl.load.template import BadTemplate, render_scalar  # imports jinja2

    try:
        return render_scalar(text, known), None
    except BadTemplate as error:
        return text, str(error)


def _leads_astray(path: FieldPath, written: Any, value: Any, allow_origins: tuple[str, ...]) -> str | None:
    """Why a rendered remote, or the `url` of a login, may not be used: its server is decided by a row, and is not one that
    policyctl.yaml allows."""
    if path == ("remote",) and is_postgres(value) and postgres_servers(value) != postgres_servers(written):
        return "a row decides which server it is, and so where a password goes; write out its host, port or service"
    if path not in _ADDRESSES or not is_http(value) or _LITERAL_ORIGIN.fullmatch(written):
        return None
    try:
        server = origin(value)
    except ValueError:
        return None  # the form of a remote is checked afterwards
    if any(_allows(one, server.scheme, server.host, server.port) for one in allow_origins):
        return None
    where = format_path(f"{server.scheme}://{server.host}")
    return f"credentials would go to {where}, which allow_origins does not have; correct the row, or add it there"


def _allows(pattern: str, scheme: str, host: str, port: int | None) -> bool:
    """Whether a server fits `https://api.*.example.com[:PORT]`; a * does not match a dot."""
    try:
        own = origin(pattern)
    except ValueError:
        return False
    theirs, ours = host.split("."), own.host.split(".")
    fits = len(theirs) == len(ours) and all(fnmatchcase(one, glob) for one, glob in zip(theirs, ours, strict=True))
    return fits and (own.scheme, own.port) == (scheme, port)


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
