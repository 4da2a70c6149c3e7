"""Pages show when and where they were made, as far as that is known, and nothing secret."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.conftest import Policyctl, Project
from tests.git_repo import commit, git

TIME = {"SOURCE_DATE_EPOCH": "1764288000"}
HEAD, MERGE = "a" * 40, "b" * 40
GITHUB = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_REPOSITORY": "org/repo",
    "GITHUB_REF": "refs/pull/5/merge",
    "GITHUB_REF_NAME": "5/merge",
    "GITHUB_HEAD_REF": "topic",
    "GITHUB_SHA": MERGE,
    "GITHUB_TOKEN": "canary-token",
}
GITLAB = {
    "GITLAB_CI": "true",
    "CI_PROJECT_PATH": "group/project",
    "CI_MERGE_REQUEST_IID": "7",
    "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "topic",
    "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": HEAD,
    "CI_COMMIT_SHA": MERGE,
    "GITLAB_TOKEN": "canary-token",
}
SHOWN = {
    "github": (GITHUB, f"repository `org/repo`, branch `topic`, commit `{HEAD}`, pull request `#5`"),
    "main": (
        GITHUB | {"GITHUB_REF": "refs/heads/main", "GITHUB_REF_NAME": "main", "GITHUB_HEAD_REF": ""},
        f"repository `org/repo`, branch `main`, commit `{MERGE}`",
    ),
    "gitlab": (GITLAB, f"repository `group/project`, branch `topic`, commit `{HEAD}`, pull request `!7`"),
    "hostile": (
        GITLAB | {"CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "</sub>`@team\n::error::x"},
        f"repository `group/project`, branch ``</sub>`@team\\n::error::x``, commit `{HEAD}`, pull request `!7`",
    ),
}


def made(text: str) -> str:
    """The last line of a page as markdown."""
    (found,) = re.findall(r"^<sub>made (.*)</sub>$", text, re.MULTILINE)
    return str(found)


@pytest.mark.parametrize("chosen", [(), ("--all",)])
@pytest.mark.parametrize("case", SHOWN)
def test_a_page_names_what_the_service_names(
    case: str, chosen: tuple[str, ...], project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ, shown = SHOWN[case]
    event = project.folder.parent / "event.json"
    event.write_text(json.dumps({"pull_request": {"head": {"sha": HEAD}, "base": {"ref": "main"}}}), "utf-8")
    for name, value in {**TIME, **environ, "GITHUB_EVENT_PATH": str(event)}.items():
        monkeypatch.setenv(name, value)
    project.policy("a")
    page = policyctl("plan", *chosen, "--format", "markdown", "--report", "html=page.html").out
    assert made(page) == f"`2025-11-28 00:00 UTC`, {shown}, policyctl `{version('policyctl')}`"
    assert "canary" not in page + Path("page.html").read_text("utf-8")
    assert "<dt>Made</dt><dd>2025-11-28 00:00 UTC</dd>" in Path("page.html").read_text("utf-8")


def test_outside_a_service_it_is_the_commit_that_is_checked_out_and_the_digest_does_not_depend_on_it(
    project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", TIME["SOURCE_DATE_EPOCH"])
    project.policy("a")
    alone = policyctl("plan", "--all", "--format", "markdown").out
    assert made(alone) == f"`2025-11-28 00:00 UTC`, policyctl `{version('policyctl')}`"
    git(project.folder, "init", "--quiet", "--initial-branch=topic")
    git(project.folder, "remote", "add", "origin", "https://me:canary@example.org/repo.git")
    head = commit(project.folder)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    later = policyctl("plan", "--all", "--format", "markdown").out
    assert made(later) == f"`1970-01-01 00:00 UTC`, branch `topic`, commit `{head}`, policyctl `{version('policyctl')}`"
    assert "canary" not in later
    digests = [re.findall("shows (sha256:[0-9a-f]{64})", text) for text in (alone, later)]
    assert digests[0] == digests[1]
