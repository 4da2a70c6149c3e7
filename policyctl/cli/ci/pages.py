"""The files that plan leaves for the steps after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from policyctl.core.plan import Plan
from policyctl.core.saved import MAX_BYTES, read_plan
from policyctl.errors import PolicyctlError, UsageError
from policyctl.load.files import read_bounded
from policyctl.load.git.place import top_of
from policyctl.report.posts import MARKER, marker, shown_in

MAX_PAGE = 1024 * 1024  # bytes of a plan's page


def with_page(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command PAGE and --plan, the two files of one plan."""
    file = click.Path(path_type=Path, dir_okay=False)
    plan = click.option("--plan", "planfile", type=file, required=True, metavar="FILE", help="The plan that plan --out saved.")
    return click.argument("page", type=file)(plan(function))


def read_page(page: Path, planfile: Path, directory: str) -> tuple[str, Plan]:
    """A plan's page and the plan. Raises PolicyctlError when either cannot be had, when a commit brought it, or when the page
    does not show the plan, or not that of this directory (a path from the repository's top).

    Only the markdown page is taken: in the other formats names and descriptions would be read as markup, and mention people.
    """
    for path in (page, planfile):
        _raise_if_committed(path)
    text = _text(page, MAX_PAGE)
    if not text.startswith(MARKER):
        raise PolicyctlError(f"{page} is not a plan as markdown; write it with plan --report markdown={page}")
    plan = read_plan(_text(planfile, MAX_BYTES), str(planfile))
    shown = shown_in(text)
    if shown is None or shown.digest != plan.digest:
        other = "no plan" if shown is None else shown.digest
        raise PolicyctlError(
            f"{page} shows {other}, and {planfile} is {plan.digest}; "
            f"write both in one run of plan --out {planfile} --report markdown={page}"
        )
    if not text.startswith(marker(plan.environment, directory) + "\n"):
        raise PolicyctlError(f"{page} is not of environment {plan.environment} and directory {directory}; use the same --dir")
    return text, plan


def _raise_if_committed(path: Path) -> None:
    """Raise PolicyctlError for a file that the checked out commit has: a branch could bring any page, beside any plan."""
    folder = path.absolute().parent.resolve()
    top = top_of(folder)
    if top is None:
        return
    from policyctl.load.git.revision import Revision  # with git behind it

    below = (folder / path.name).relative_to(top).as_posix()
    try:
        held = Revision(folder, "HEAD").entries([below])
    except UsageError:  # there is no commit yet
        return
    if held:
        raise PolicyctlError(
            f"{path} is in the checked out commit, so it may not be what plan wrote; "
            "delete it there, and let plan write outside the checkout ($RUNNER_TEMP)"
        )


def _text(path: Path, most: int) -> str:
    try:
        return read_bounded(path, most).decode()
    except OSError as error:
        raise PolicyctlError(f"{path} cannot be read: {error.strerror}; did plan write it?") from None
    except UnicodeDecodeError:
        raise PolicyctlError(f"{path} is not text") from None
