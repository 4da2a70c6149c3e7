"""policyctl init."""

from __future__ import annotations

from pathlib import Path

import click

from policyctl.ci.starter_files import (
    CONFIG,
    DEPLOYS,
    EXAMPLE,
    EXAMPLE_TEST,
    SERVICES,
    DeployName,
    ServiceName,
    deployment,
    installable,
    pre_commit_config,
    workflows,
)
from policyctl.cli.console import Console
from policyctl.cli.options import Options, with_options
from policyctl.errors import InvalidInput
from policyctl.load.discovery import find_config, load_config
from policyctl.load.git import repository_top
from policyctl.load.git.checkout import default_branch
from policyctl.load.kinds import CONFIG_FILE
from policyctl.load.source import SUFFIXES, make_folder, write_atomically
from policyctl.report.format import escape

EPILOG = """\b
Example:
  policyctl init
  policyctl init --ci github
  policyctl init --deploy container --deploy kubernetes --deploy monitoring
  policyctl init --dir policies && policyctl validate && policyctl plan"""

_PRE_COMMIT = ".pre-commit-config.yaml"


@click.command("init", epilog=EPILOG)
@click.option("--ci", type=click.Choice(SERVICES), help="Also write workflows for this service: plan, apply on merge, drift.")
@click.option(
    "--deploy",
    type=click.Choice(DEPLOYS),
    multiple=True,
    help="Also write files to run watch, gateway and serve there, or to monitor them. Repeatable.",
)
@with_options("dir", "verbose")
def init(options: Options, ci: ServiceName | None, deploy: tuple[DeployName, ...]) -> int:
    """Make a policy directory to start from: policyctl.yaml with comments, an example policy with tests, and a
    pre-commit hook.

    Existing files are never changed, and no example is added to existing policies. To write the policies of a remote that is
    in use, run pull afterwards.
    """
    console = Console(options)
    folder = options.dir
    make_folder(folder)
    _write(find_config(folder) or folder / CONFIG_FILE, CONFIG, console)  # a second one would hide what is set above
    if not any(path.suffix in SUFFIXES and path.name != CONFIG_FILE for path in folder.rglob("*")):
        # Next to real policies the example would be applied with them.
        _write(folder / "example.yaml", EXAMPLE, console)
        _write(folder / "example.test.yaml", EXAMPLE_TEST, console)
    hooks = _repository(folder) / _PRE_COMMIT
    entry = pre_commit_config(_below(folder, hooks.parent))
    if not _write(hooks, f"repos:\n{entry}", console):
        console.result(f"\nAdd this below repos: in {escape(str(hooks))}, unless it is already there:\n\n{entry}")
    if ci is not None:
        _write_workflows(ci, folder, console)
    if deploy:
        _write_deployment(deploy, folder, console)
    where = "" if folder == Options().dir else f" --dir {folder}"
    console.say(f"next: edit the files in {folder}, then run policyctl validate{where} and policyctl plan{where}")
    return 0


def _write_workflows(service: ServiceName, folder: Path, console: Console) -> None:
    top, package, branch = _repository(folder), installable(), default_branch(folder) or "main"
    referred = _referred(folder, top)
    for name, text in workflows(service, _below(folder, top), package, branch, referred).items():
        make_folder((top / name).parent)
        if not _write(top / name, text, console) and service == "gitlab":
            console.result(f"\nAdd these jobs to it, unless it already has them:\n\n{text}")
    if service == "github" and branch != "main":
        console.say(
            f"the workflows apply what is merged into {branch}; if your main branch has another name, change it in them"
        )
    if package is None:
        console.say(
            "set POLICYCTL_PACKAGE in the workflows to what pip should install: here policyctl was installed from a directory"
        )


def _referred(folder: Path, top: Path) -> list[str]:
    """The files outside of the directory that its settings refer to, by their paths from the top of the repository: those of a
    configuration that is there already."""
    from policyctl.load.base_config import referred_paths  # with git behind it

    try:
        config = load_config(find_config(folder))
    except InvalidInput:  # the next command shows why
        return []
    inside = f"{_below(folder, top).as_posix()}/".removeprefix("./")
    return [one for one in dict.fromkeys(referred_paths(top.resolve(), config)) if not one.startswith(inside)]


def _write_deployment(kinds: tuple[DeployName, ...], folder: Path, console: Console) -> None:
    """The files are in a folder of their own, where they are not read as policies."""
    top, package, branch = _repository(folder), installable(), default_branch(folder) or "main"
    below = _below(folder, top)
    place = top / (".deploy" if below == Path() else "deploy")
    make_folder(place)
    for kind in kinds:
        for name, text in deployment(kind, below, package, branch).items():
            _write(place / name, text, console)
    if package is None and "container" in kinds:
        console.say(
            f"set POLICYCTL_PACKAGE in {place / 'Containerfile'} to what pip should install: here policyctl was installed from "
            "a directory"
        )
    console.say("policyctl help where-to-run shows what to do with these files")


def _write(path: Path, text: str, console: Console) -> bool:
    """Write a file unless it exists, and print what was done. Returns whether it was written."""
    if path.exists() or path.is_symlink():
        console.result(f"= {escape(str(path))} already exists, skipped\n")
        return False
    write_atomically(path, text)
    console.result(f"+ {escape(str(path))}\n")
    return True


def _repository(folder: Path) -> Path:
    """The top of the Git repository around the directory, else the directory's parent; relative to here if it is below."""
    absolute = folder.absolute()
    return _below(repository_top(absolute) or absolute.parent, Path.cwd())


def _below(path: Path, top: Path) -> Path:
    absolute, top = path.absolute(), top.absolute()
    return absolute.relative_to(top) if absolute.is_relative_to(top) else absolute
