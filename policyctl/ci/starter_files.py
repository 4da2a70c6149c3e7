"""The files that `init` writes: configuration, an example with tests, the hook, the workflows, and what runs policyctl.

This repository's own workflows are made from the same templates, in `workflows/`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path
from string import Template
from typing import Literal, get_args

from policyctl.load.urls import http_url_error

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


ServiceName = Literal["github", "gitlab"]
SERVICES: tuple[ServiceName, ...] = get_args(ServiceName)

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
    return {Path(name): _Text(_read(file)).substitute(values) for name, file in _FILES[service].items()}


DeployName = Literal["systemd", "container", "kubernetes", "monitoring"]
DEPLOYS: tuple[DeployName, ...] = get_args(DeployName)

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


def _read(name: str) -> str:
    return (Path(__file__).parent / "workflows" / name).read_text("utf-8")


def _quoted(path: str) -> str:
    """A path as systemd reads it in a command line."""
    text = path.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
    return text if re.fullmatch(r"[\w./=-]+", text) else json.dumps(text, ensure_ascii=False)


def _scalar(text: str) -> str:
    """A string as YAML, unquoted if that is certainly the same."""
    return text if re.fullmatch(r"[A-Za-z][\w./=-]*", text) else json.dumps(text, ensure_ascii=False)
