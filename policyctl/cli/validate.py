"""policyctl validate."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from policyctl.cli.environments import choose, with_environments_or_all
from policyctl.cli.options import Options, with_options
from policyctl.errors import PolicyctlError, UsageError
from policyctl.load.environment import EnvironmentFilter

if TYPE_CHECKING:
    from policyctl.lint.validate import Validation
    from policyctl.report.format import Style

EPILOG = """\b
Example:
  policyctl validate
  policyctl validate policies/anygem.yaml other/
  policyctl validate --deep -v
  policyctl validate -l 'ring=canary'
  policyctl validate --format json | jq -r '.problems[].code'"""


@click.command("validate", epilog=EPILOG)
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option("--deep", is_flag=True, help="Also check what the policies do to traffic, as plan does (rules P5).")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "full", "concise", "json", "github", "sarif"]),
    help="full: each problem with its line and a caret; concise: one line each; github: annotations of GitHub Actions, the "
    "default there; sarif: for code scanners.  [default: text: full on a terminal, else concise]",
)
@with_options("dir", "env", "color", "verbose", "quiet")
@with_environments_or_all
def validate(options: Options, paths: tuple[Path, ...], deep: bool, form: str | None, chosen: EnvironmentFilter) -> int:
    """Check policy files and directories, offline: every problem of every file, in every environment.

    Without a PATH it checks the policy directory. Environments that are chosen are checked alone; POLICYCTL_ENV is ignored.
    Exit code 0 means valid (warnings allowed), 1 invalid. Findings of severity info are shown with -v, or when lint.select in
    policyctl.yaml names their rules. To silence a lint rule (see policyctl rules) on a line, add a comment to it:
    # policyctl: ignore[P405]
    """
    if paths and chosen.affected is not None:
        raise UsageError("--affected compares the whole policy directory; leave out the paths")
    paths = paths or (options.dir,)
    if form in (None, "text") and _is_unchanged(paths):  # checked first, because most commits change nothing here
        click.echo("Nothing to check: the commit changes nothing here.")
        return 0
    from policyctl.cli.console import Console, is_github
    from policyctl.lint.validate import validate_paths

    console = Console(options)
    with console.progress.of("Checking", "file") as step:
        validation = validate_paths(
            paths,
            options.dir,
            environment=None if chosen.several or not chosen.names else chosen.names[0],
            choose=(lambda config: choose(options, config, chosen)) if chosen.is_narrow else None,
            infos=console.verbose,
            deep=deep,
            on_file=step,
        )
    if validation.environments == () and validation.valid:
        from policyctl.report.format import NONE_AFFECTED

        console.say(NONE_AFFECTED)
        return 0
    usual = "concise" if console.quiet else "text"
    console.result(_printed(validation, form or ("github" if is_github() else usual), console.out_style))
    return 0 if validation.valid else 1


def _is_unchanged(paths: tuple[Path, ...]) -> bool:
    """Whether this is the hook of a commit that changes nothing in these directories.

    Git sets GIT_INDEX_FILE for a commit hook only. validate reads the files on disk, so these are compared.
    """
    if "GIT_INDEX_FILE" not in os.environ or not all(path.is_dir() for path in paths):
        return False
    from policyctl.load.git.checkout import is_as_committed
    from policyctl.load.kinds import CONFIG_FILE

    try:
        return all(is_as_committed(path, CONFIG_FILE, _inventories(path)) for path in paths)
    except PolicyctlError:  # the check shows what is wrong
        return False


def _inventories(directory: Path) -> tuple[Path, ...]:
    """The files from which a directory's environments are generated, which may be beside it."""
    from policyctl.load.discovery import find_config, load_config
    from policyctl.load.source import read_bytes

    config = find_config(directory)
    # Most configurations have none, and reading those takes longer than all else here.
    return () if config is None or b"fleet" not in read_bytes(config) else load_config(config).inventories


def _printed(validation: Validation, form: str, style: Style) -> str:
    from policyctl.cli.console import streams_lines
    from policyctl.load.source import line_at
    from policyctl.report.problems import validation_json, validation_summary, validation_text

    if form == "json":
        return validation_json(validation)
    if form in ("text", "full", "concise"):
        full = form == "full" or (form == "text" and streams_lines(sys.stdout, os.environ))
        return validation_text(validation, style, line_at if full else None)
    if form == "github":
        from policyctl.cli.console import repository_path
        from policyctl.report.problems import github_annotations

        return github_annotations(validation.problems, repository_path) + validation_summary(validation, style)
    from policyctl.cli.console import repository_path
    from policyctl.report.problems import sarif

    return sarif(validation.problems, repository_path)
