"""The files that plan leaves for the steps after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from policyctl.core.plan import Plan
from policyctl.core.saved import MAX_BYTES, read_plan
from policyctl.errors import PolicyctlError
from policyctl.load.files import read_bounded
from policyctl.report.posts import MARKER

MAX_PAGE = 1024 * 1024  # bytes of a plan's page


def with_page(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command PAGE and --plan, the two files of one plan."""
    file = click.Path(path_type=Path, dir_okay=False)
    plan = click.option("--plan", "planfile", type=file, required=True, metavar="FILE", help="The plan that plan --out saved.")
    return click.argument("page", type=file)(plan(function))


def read_page(page: Path, planfile: Path) -> tuple[str, Plan]:
    """A plan's page and the plan. Raises PolicyctlError when either is not to be had.

    Only the markdown page is taken: in the other formats names and descriptions would be read as markup, and mention people.
    """
    text = _text(page, MAX_PAGE)
    if not text.startswith(MARKER):
        raise PolicyctlError(f"{page} is no plan as markdown; write it with plan --report markdown={page}")
    return text, read_plan(_text(planfile, MAX_BYTES), str(planfile))


def _text(path: Path, most: int) -> str:
    try:
        return read_bounded(path, most).decode()
    except OSError as error:
        raise PolicyctlError(f"{path} cannot be read: {error.strerror}; did plan write it?") from None
    except UnicodeDecodeError:
        raise PolicyctlError(f"{path} is not text") from None
