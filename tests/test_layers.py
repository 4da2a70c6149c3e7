"""The shape of the package: rooms import only those below them, libraries have owners, and modules and functions stay small."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import HEAVY, MANY, SLOW

TESTS = Path(__file__).parent
ROOT = TESTS.parent / "policyctl"

# Each room may import itself and every room on a later line.
ROOMS = (
    ("cli",),
    ("server", "gateway", "watch"),
    ("reconcile",),
    ("report",),
    ("ci",),
    ("remote",),
    ("lint",),
    ("load",),
    ("plan",),
    ("effect",),
    ("rules",),
    ("policy",),
    ("errors",),
)

# Library → the rooms or modules that may import it.
OWNERS = {
    "click": ("cli",),
    "yaml": ("load",),
    "croniter": ("load",),
    "httpx": ("remote",),
    "httpcore": ("remote",),
    "sqlite3": ("remote/sqlite.py",),
    "procrastinate": ("reconcile/queue.py",),
    "psycopg": ("remote/postgres", "reconcile/queue.py"),
    "deepdiff": ("plan/diff.py",),
    "jinja2": ("load", "report"),
    "starlette": ("server",),
    "uvicorn": ("server", "gateway/run.py"),
    "httptools": ("gateway/pool.py", "gateway/run.py"),
    "aiohappyeyeballs": ("gateway/pool.py",),
    "msgspec": ("gateway",),
    "prometheus_client": ("watch/telemetry.py",),
    "opentelemetry": ("watch/telemetry.py",),
    "pydantic": ("policy", "load", "plan/saved_plan.py", "remote", "server"),
    "subprocess": ("load/git/repository.py",),
}

# What decides must not look, wait or tell the time. Validating finds files by itself.
PURE_ROOMS = ("plan", "effect", "lint", "policy", "rules")
NOT_PURE = ("lint/validate.py",)
IMPURE = {"os", "pathlib", "time", "datetime", "logging", "socket", "subprocess", "sys", "io", "threading"}

MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


MOST_MODULES = 160
MODULE_LINES, FUNCTION_LINES = 600, 45  # at most


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def statements(path: Path) -> list[ast.stmt]:
    """Every statement of a file, wherever in it. Expressions, which most nodes are, contain none and are not looked at."""
    found: list[ast.stmt] = [*parsed(path).body]
    for one in found:  # grows meanwhile
        found += below(one)
    return found


def below(one: ast.stmt) -> Iterator[ast.stmt]:
    """The statements directly in another one."""
    for field in ("body", "orelse", "finalbody"):
        yield from getattr(one, field, ())
    for part in (*getattr(one, "handlers", ()), *getattr(one, "cases", ())):
        yield from part.body


def imports_of(path: Path, *, type_checking: bool = True) -> Iterator[str]:
    """Every module name that a file imports, wherever in it; with or without those that only type checking needs."""
    left_out = set() if type_checking else for_type_checking(path)
    for node in statements(path):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def for_type_checking(path: Path) -> set[ast.stmt]:
    """What a module has under `if TYPE_CHECKING`."""
    blocks = (node for node in statements(path) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    return {statement for block in blocks for statement in block.body}


@cache
def imports() -> dict[str, list[str]]:
    """What each module of the package imports."""
    return {module: list(imports_of(ROOT / module)) for module in MODULES}


def level(room: str) -> int:
    return next(index for index, rooms in enumerate(ROOMS) if room in rooms)


def room_of(module: str) -> str:
    return module.split("/")[0].removesuffix(".py")


def goes_down(module: str, name: str) -> bool:
    here, there = room_of(module), name.split(".")[1]
    return there == here or there == "__version__" or level(there) > level(here)


def test_imports_go_down_only() -> None:
    assert [
        f"{module} imports {name}"
        for module, names in imports().items()
        if not module.startswith("__")
        for name in names
        if name.startswith("policyctl.") and not goes_down(module, name)
    ] == []


def a_circle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes of one circle; none without one."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


def test_no_imports_go_in_a_circle() -> None:
    """Also within a room, and counting imports inside functions."""
    names = {
        f"policyctl.{module.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__"): module for module in MODULES
    }
    graph = {name: names.keys() & {*imports_of(ROOT / module, type_checking=False)} for name, module in names.items()}
    assert a_circle(graph) == []


def test_every_library_has_one_owner() -> None:
    assert [
        f"{module} imports {name}"
        for module, names in imports().items()
        for name in names
        if not module.startswith(OWNERS.get(name.split(".")[0], ""))
    ] == []


def test_what_decides_is_pure() -> None:
    assert [
        f"{module} imports {name}"
        for module, names in imports().items()
        if module.startswith(PURE_ROOMS) and module not in NOT_PURE
        for name in names
        if name.split(".")[0] in IMPURE
    ] == []


@pytest.mark.slow
def test_no_test_module_imports_another_test_module() -> None:
    """What two of them need is in a module of helpers, so that each can be read, run and deleted by itself."""
    assert [
        f"{path.relative_to(TESTS)} imports {name}"
        for path in sorted(TESTS.rglob("*.py"))
        for name in imports_of(path)
        if name.split(".")[0] == "tests" and any(part.startswith("test_") for part in name.split("."))
    ] == []


def test_every_place_of_slow_tests_is_there() -> None:
    assert [place for place in (*SLOW, *HEAVY, *MANY) if not (TESTS / place).exists()] == []


def test_no_two_classes_of_the_package_have_one_name() -> None:
    classes = (node for module in MODULES for node in parsed(ROOT / module).body if isinstance(node, ast.ClassDef))
    names = Counter(node.name for node in classes)
    assert [name for name, times in names.items() if times > 1] == []


def test_no_module_is_long() -> None:
    long = {module for module in MODULES if len((ROOT / module).read_text("utf-8").splitlines()) > MODULE_LINES}
    assert long == set()


def test_no_function_is_long() -> None:
    long = {
        f"{module} {node.name}"
        for module in MODULES
        for node in statements(ROOT / module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES
    }
    assert long == set()


def test_there_are_few_modules() -> None:
    """One more needs a reason why its neighbour is not the place."""
    assert len(MODULES) <= MOST_MODULES
