"""policyctl init, and the files that it writes: configuration, an example with tests, the hook, the workflows, and what runs
policyctl.

This repository's own workflows are made from the same templates, in `ci/workflows/`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path
from string import Template
from typing import Literal, get_args

import click

from policyctl.cli.console import Console
from policyctl.cli.options import Options, with_options
from policyctl.errors import InvalidInput
from policyctl.load.discovery import find_config, load_config
from policyctl.load.git import repository_top
from policyctl.load.git.checkout import default_branch
from policyctl.load.kinds import CONFIG_FILE
from policyctl.load.source import SUFFIXES, make_folder, write_atomically
from policyctl.load.urls import http_url_error
from policyctl.report.format import escape

EPILOG = """\b
Example:
  policyctl init
  policyctl init --ci github
  policyctl init --deploy container --deploy kubernetes --deploy monitoring
  policyctl init --dir policies && policyctl validate && policyctl plan"""

_PRE_COMMIT = ".pre-commit-config.yaml"

ServiceName = Literal["github", "gitlab"]
SERVICES: tuple[ServiceName, ...] = get_args(ServiceName)
DeployName = Literal["systemd", "container", "kubernetes", "monitoring"]
DEPLOYS: tuple[DeployName, ...] = get_args(DeployName)


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


CONFIG = """\
# Where the policies of this directory go, and how much one apply may change.
# Every key is optional; without this file there is one environment, local, the embedded remote.

default: local                     # the environment when no --env is given

environments:
  local: {}                        # the embedded remote: a SQLite file in .policyctl/ beside this directory

  # prod:
  #   remote: https://api.us-south.watson-orchestrate.cloud.ibm.com/instances/<id>
  #   auth:
  #     type: ibm_iam
  #     api_key: env:WXO_API_KEY     # secrets are references, env:NAME or file:PATH, never values
  #   vars:
  #     flash_weight: 0.75           # for templates in policy files: weight: "{{ flash_weight }}"

manage: [policies, models]         # without models, files of virtual models are only declarations

# The names that this directory manages; what else is live is left alone. Needed to remove anything on a real remote.
# scope: ["virtual-policy/*", "virtual-model/*"]

# Whether to remove what is live, in scope, and has no file.
# prune: true

# Policies and models that are never removed, and exceptions.
# protect: ["virtual-policy/prod-*"]
# allow_remove: ["virtual-policy/prod-old"]

# How much one plan may change: the number of removals, and updates plus removals in percent of the live policies.
# limits: {max_removes: 5, max_change_percent: 30}
"""

EXAMPLE = """\
spec_version: v1
kind: model
name: example
display_name: Example
description: Shares requests between two models, three to one
policy:
  strategy:
    mode: loadbalance              # or fallback (the next target when one fails), or single
  retry:
    attempts: 1
    on_status_codes: [429, 503]
  targets:
    - model_name: virtual-model/google/gemini-2.0-flash
      weight: 0.75                 # greater than 0, at most 1
    - model_name: virtual-model/google/gemini-2.0-flash-lite
      weight: 0.25
"""

EXAMPLE_TEST = """\
spec_version: v1
kind: policy_test
policy: example
tests:
  - name: three quarters of the requests go to flash
    expect: {served_by: {gemini-2.0-flash: 0.75, gemini-2.0-flash-lite: 0.25}}
  - name: a load balance does not move on, so requests fail while their model is down
    given: {gemini-2.0-flash: 503}
    expect: {status: {200: 0.25, 503: 0.75}}
"""

_HOOK = """\
  - repo: local
    hooks:
      - id: policyctl-validate
        name: policyctl validate
        entry: policyctl validate
        args: [{folder}]
        language: system
        files: {pattern}
        pass_filenames: false
        always_run: true               # a commit may only delete or rename files
"""


def pre_commit_config(folder: Path) -> str:
    """The pre-commit entry that checks a directory (a path from the top of the repository) before each commit."""
    path = folder.as_posix()
    below = "" if path == "." else f"^{re.escape(path)}/"
    return _HOOK.format(folder=json.dumps(path), pattern=json.dumps(below))


_FILES: dict[ServiceName, dict[str, str]] = {
    "github": {f".github/workflows/policyctl-{name}.yml": f"github-{name}.yml" for name in ("plan", "apply", "drift")},
    "gitlab": {".gitlab-ci.yml": "gitlab.yml"},
}
# By commit, because a tag can be moved. The version is for readers and for tools that update it.
_ACTIONS = {
    "checkout": "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1",
    "upload": "actions/upload-artifact@bbbca2ddaa5d8feaa63e36b76fdaad77386f024f # v7.0.0",
}
_PATTERN = re.compile(r"[*?+\[\]!\\]")  # special characters in the path filters of GitHub


class _Text(Template):
    delimiter = "@@"  # $ and {{ are the workflows' own


PLACEHOLDER = "policyctl @ git+https://example.invalid/policyctl@COMMIT"  # fails until it is replaced


def workflows(
    service: ServiceName, folder: Path, package: str | None, branch: str = "main", referred: Iterable[str] = ()
) -> dict[Path, str]:
    """The files for a service, by their path from the top of the repository.

    `folder` is the policy directory, also from there; `package` the requirement by which pip installs policyctl, if known;
    `branch` the one whose merges are applied (GitLab knows its default branch); `referred` are the files outside of the
    directory that its settings refer to.
    """
    path = folder.as_posix()
    below, *beside = (_PATTERN.sub(lambda found: chr(92) + found[0], one) for one in (path, *referred))
    within = "**" if path == "." else f"{below}/**"
    filters = (within, "**/policyctl.yaml", *beside, ".github/workflows/policyctl-*.yml")
    values = {
        "folder": _scalar(path),
        "package": _scalar(package or PLACEHOLDER),
        "branch": branch,
        "paths": ", ".join(map(json.dumps, filters)),
        **_ACTIONS,
    }
    return {Path(name): _Text(_template(file)).substitute(values) for name, file in _FILES[service].items()}


_DEPLOY_FILES: dict[DeployName, tuple[str, ...]] = {
    "systemd": (
        "policyctl-watch.service",
        "policyctl-gateway.service",
        "policyctl-pull.service",
        "policyctl-pull.timer",
        "pull.sh",
    ),
    "container": ("Containerfile",),
    "kubernetes": ("repository.yaml", "watch.yaml", "gateway.yaml", "serve.yaml"),
    "monitoring": ("alerts.yml", "dashboard.json"),
}
_EXTRAS = "gateway,otel,postgres,server,watch"
_SPEC = re.compile(r"policyctl(?= @|==)")


def deployment(kind: DeployName, folder: Path, package: str | None, branch: str = "main") -> dict[str, str]:
    """The files that run `watch`, `gateway` and `serve` there, or watch over them, by name; arguments as for `workflows`."""
    path, here = folder.as_posix(), Path(__file__).parent.parent / "deploy"
    script = (here / "pull.sh").read_text("utf-8").rstrip()
    values = {
        "folder": _quoted(path),
        "pulled": _quoted(f"repository/current/{path}"),
        "path": json.dumps(path, ensure_ascii=False)[1:-1],
        "script": "".join(f"    {line}\n" for line in script.splitlines()).strip(),
        "package": f'"{_SPEC.sub(f"policyctl[{_EXTRAS}]", package or PLACEHOLDER)}"',
        "version": distribution("policyctl").version,
        "branch": branch,
    }
    return {name: _Text((here / name).read_text("utf-8")).substitute(values) for name in _DEPLOY_FILES[kind]}


def installable(origin: str | None = None) -> str | None:
    """The requirement by which pip installs this policyctl elsewhere: its version on an index, or the commit it came from.

    `origin` is pip's record of its source (direct_url.json). None if that is a local directory: a guess could install
    another package of this name.
    """
    own = distribution("policyctl")
    kept = origin or own.read_text("direct_url.json")
    if kept is None:
        return f"policyctl=={own.version}"
    found = json.loads(kept)
    url, commit = found.get("url", ""), found.get("vcs_info", {}).get("commit_id")
    return f"policyctl @ git+{url}@{commit}" if commit and http_url_error(url) is None else None


def _template(name: str) -> str:
    return (Path(__file__).parent.parent / "ci" / "workflows" / name).read_text("utf-8")


def _quoted(path: str) -> str:
    """A path as systemd reads it in a command line."""
    text = path.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
    return text if re.fullmatch(r"[\w./=-]+", text) else json.dumps(text, ensure_ascii=False)


def _scalar(text: str) -> str:
    """A string as YAML, unquoted if that is certainly the same."""
    return text if re.fullmatch(r"[A-Za-z][\w./=-]*", text) else json.dumps(text, ensure_ascii=False)
