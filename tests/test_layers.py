"""Who may import whom: rooms only those below them, libraries only in the rooms that own them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "policyctl"

# Each room may import itself and every room on a later line.
ROOMS = (
    ("cli",),
    ("server",),
    ("reconcile",),
    ("report", "remote"),
    ("load",),
    ("lint",),
    ("core",),
    ("effect",),
    ("model",),
    ("errors",),
)

# Library → the rooms or modules that may import it.
OWNERS = {
    "click": ("cli",),
    "yaml": ("load",),
    "httpx": ("remote",),
    "httpcore": ("remote",),
    "sqlite3": ("remote",),
    "deepdiff": ("core/diff.py",),
    "jinja2": ("load", "report"),
    "starlette": ("server",),
    "uvicorn": ("server",),
    "pydantic": ("model", "load", "core/saved.py", "remote", "server"),
    "subprocess": ("load/git/repository.py",),
}

# What decides must not look, wait or tell the time.
PURE_ROOMS = ("core", "effect", "lint", "model")
IMPURE = {"os", "pathlib", "time", "datetime", "logging", "socket", "subprocess", "sys", "io", "threading"}

MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def imports(module: str) -> Iterator[str]:
    """Every module name that a module imports, wherever in it; type-checking imports count too."""
    for node in ast.walk(ast.parse((ROOT / module).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            yield node.module or ""


def level(room: str) -> int:
    return next(index for index, rooms in enumerate(ROOMS) if room in rooms)


def room_of(module: str) -> str:
    return module.split("/")[0].removesuffix(".py")


@pytest.mark.parametrize("module", [module for module in MODULES if not module.startswith("__")])
def test_imports_go_down_only(module: str) -> None:
    here = room_of(module)
    for name in imports(module):
        if name.startswith("policyctl."):
            there = name.split(".")[1]
            assert there == here or level(there) > level(here), f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_every_library_has_one_owner(module: str) -> None:
    for name in imports(module):
        owners = OWNERS.get(name.split(".")[0])
        assert owners is None or module.startswith(owners), f"{module} imports {name}"


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith(PURE_ROOMS)])
def test_what_decides_is_pure(module: str) -> None:
    assert not IMPURE & {name.split(".")[0] for name in imports(module)}
