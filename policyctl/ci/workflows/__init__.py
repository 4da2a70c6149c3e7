"""The workflows that plan, apply and look for drift, as files of a repository. This repository's own are made from them."""

from __future__ import annotations

import json
import re
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Literal, get_args

from policyctl.load.urls import http_url_error

ServiceName = Literal["github", "gitlab"]
SERVICES: tuple[ServiceName, ...] = get_args(ServiceName)

_FILES: dict[ServiceName, dict[str, str]] = {
    "github": {f".github/workflows/policyctl-{name}.yml": f"github-{name}.yml" for name in ("plan", "apply", "drift")},
    "gitlab": {".gitlab-ci.yml": "gitlab.yml"},
}
# By commit, as a tag can be moved; the version is for those who read, and for what updates them.
_ACTIONS = {
    "checkout": "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1",
    "upload": "actions/upload-artifact@bbbca2ddaa5d8feaa63e36b76fdaad77386f024f # v7.0.0",
}
_PATTERN = re.compile(r"[*?+\[\]!\\]")  # what the filters of GitHub read as more than itself


class _Text(Template):
    delimiter = "@@"  # $ and {{ are the workflows' own


PLACEHOLDER = "policyctl @ git+https://example.invalid/policyctl@COMMIT"  # fails, until somebody says where it comes from


def workflows(service: ServiceName, folder: Path, package: str | None, branch: str = "main") -> dict[Path, str]:
    """The files for a service, by path from the repository's top.

    `folder` is the policy directory from there; `package` is what pip installs to have policyctl, where that is known;
    `branch` the one that is applied when something is merged into it (GitLab knows it by itself).
    """
    path = folder.as_posix()
    below = "**" if path == "." else f"{_PATTERN.sub(lambda found: chr(92) + found[0], path)}/**"
    filters = (below, "**/policyctl.yaml", ".github/workflows/policyctl-*.yml")
    values = {
        "folder": _scalar(path),
        "package": _scalar(package or PLACEHOLDER),
        "branch": branch,
        "paths": ", ".join(map(json.dumps, filters)),
        **_ACTIONS,
    }
    return {Path(name): _Text(_read(file)).substitute(values) for name, file in _FILES[service].items()}


def installable(origin: str | None = None) -> str | None:
    """What pip installs to have this policyctl elsewhere: the version of an index or the commit that it was installed from.

    `origin` is what pip keeps of where it got it from (direct_url.json). None for a directory of this machine: a guess could
    install what somebody else calls policyctl.
    """
    own = distribution("policyctl")
    kept = origin or own.read_text("direct_url.json")
    if kept is None:
        return f"policyctl=={own.version}"
    found = json.loads(kept)
    url, commit = found.get("url", ""), found.get("vcs_info", {}).get("commit_id")
    return f"policyctl @ git+{url}@{commit}" if commit and http_url_error(url) is None else None


def _read(name: str) -> str:
    return files(__name__).joinpath(name).read_text("utf-8")


def _scalar(text: str) -> str:
    """A string as YAML, plain where that is certain to be the same."""
    return text if re.fullmatch(r"[A-Za-z][\w./=-]*", text) else json.dumps(text, ensure_ascii=False)
