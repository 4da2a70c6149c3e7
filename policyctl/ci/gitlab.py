"""GitLab's REST API, with an access token of a user, a group or a project: a job's own token may not write notes.

Paths and keys are those of GitLab's documentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from policyctl.ci.forge import (
    LABEL,
    Comment,
    ForgeClient,
    Merge,
    NotAllowed,
    Proposed,
    Remark,
    moment_in,
    newest_first,
    text_in,
)
from policyctl.errors import PolicyctlError, RemoteError
from policyctl.plan.approval import Proposal

_MOST_FILES = 1000  # GitLab lists no more in one comparison by default, so a list of that length may be incomplete
_OLDEST_FIRST = {"order_by": "created_at", "sort": "asc"}  # notes; GitLab lists the newest first otherwise
_DEVELOPER = 30  # the lowest access level that may approve a merge request


class GitLab(ForgeClient):
    """A `Forge`."""

    longest = 1_000_000
    edits = "PUT"
    closing = ("state_event", "close")
    author = ("author", "username")

    def __init__(self, environ: Mapping[str, str]) -> None:
        api = environ.get("CI_API_V4_URL", "https://gitlab.com/api/v4")
        super().__init__(api, "PRIVATE-TOKEN: ", "GITLAB_TOKEN", environ)
        self._project = f"/projects/{environ.get('CI_PROJECT_ID', '')}"
        self._number = environ.get("CI_MERGE_REQUEST_IID", "")
        self.commit = environ.get("CI_COMMIT_SHA", "")
        # In a pipeline for merged results CI_COMMIT_SHA is the merge, and this is the branch's own commit.
        self._pushed = environ.get("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA") or self.commit
        self.link = environ.get("CI_PIPELINE_URL", "")
        self.branch = None if self._number else environ.get("CI_COMMIT_BRANCH") or None
        self.again = False  # no variable shows it
        self.queued = environ.get("CI_MERGE_REQUEST_EVENT_TYPE") == "merge_train"
        into = environ.get("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "")
        self.proposal = Proposal(self._pushed, into) if self._pushed and into else None

    def comments(self) -> list[Comment]:
        return self._ours(self.discussion())

    def is_merged(self) -> bool:
        try:
            return text_in(self.ask("GET", self._pull()), "state") == "merged"
        except NotAllowed:
            return False

    def remarks(self) -> list[Remark]:
        # Notes that GitLab writes itself, such as one about a new title, have a person as their author too.
        return self.remarks_in(row for row in self.rows(self.discussion(), _OLDEST_FIRST) if not row.get("system"))

    def since(self) -> datetime | None:
        # GitLab records each push to a merge request as a version of it.
        newest = next(self.rows(f"{self._pull()}/versions", most=1), {})
        return moment_in(newest, "created_at") if newest.get("head_commit_sha") == self._pushed else None

    def may_approve(self, remark: Remark) -> bool:
        opened = text_in(self.fields(self._pull()), *self.author)
        if opened in (None, remark.who) or not remark.id.isdigit():
            return False
        try:
            level = self.fields(f"{self._project}/members/all/{remark.id}").get("access_level")
        except NotAllowed:
            return False
        return isinstance(level, int) and level >= _DEVELOPER

    def head(self, branch: str) -> str:
        return text_in(self.fields(f"{self._project}/repository/branches/{quote(branch, safe='')}"), "commit", "id") or ""

    def changed(self, _until: str, /) -> list[str] | None:
        return None  # not asked for: each commit of the branch has a pipeline of its own, and only the newest one applies

    def lacks(self, branch: str) -> list[str] | None:
        found = self.fields(f"{self._project}/repository/compare", {"from": self.commit, "to": branch})
        files = found.get("diffs")
        if found.get("compare_timeout") or not isinstance(files, list) or len(files) >= _MOST_FILES:
            return None
        return [str(file.get(key)) for file in files for key in ("old_path", "new_path")]

    def merges(self, branch: str) -> Iterator[Merge]:
        query = {"state": "merged", "target_branch": branch, "order_by": "updated_at", "sort": "desc"}
        rows = self.rows(f"{self._project}/merge_requests", query)
        merged = (row for row in rows if row.get("state") == "merged" and row.get("target_branch", branch) == branch)
        return newest_first(merged, "iid", "!", _proposal)

    def files(self, merge: Merge) -> list[str] | None:
        path = f"{self._project}/merge_requests/{merge.number}"
        if not str(self.fields(path).get("changes_count")).isdigit():  # "1000+" for more than GitLab keeps
            return None
        return [str(file.get(key)) for file in self.rows(f"{path}/diffs") for key in ("old_path", "new_path")]

    def comments_on(self, merge: Merge) -> list[Comment]:
        return self._ours(self.discussion(merge.number))

    def issues(self) -> list[Comment]:
        path = f"{self._project}/issues"
        return self.ours(self.rows(path, {"state": "opened", "labels": LABEL}), path, "iid", "description")

    def issue(self, title: str, body: str, old: Comment | None) -> None:
        if old is None:
            self.ask("POST", f"{self._project}/issues", {"title": title, "description": body, "labels": LABEL})
        else:
            self.ask("PUT", old.path, {"description": body})

    def requests(self, branch: str) -> list[Comment]:
        path = f"{self._project}/merge_requests"
        rows = self.rows(path, {"state": "opened", "source_branch": branch})
        return self.ours((row for row in rows if row.get("source_branch") == branch), path, "iid", "description")

    def push(self, what: Proposed) -> None:
        actions = [
            {"action": "delete", "file_path": path}
            if text is None
            else {"action": "create" if path in what.created else "update", "file_path": path, "content": text}
            for path, text in what.files.items()
        ]
        commit = {"branch": what.branch, "start_sha": what.start, "force": True, "commit_message": what.title}
        self.ask("POST", f"{self._project}/repository/commits", {**commit, "actions": actions})

    def request(self, what: Proposed, old: Comment | None) -> None:  # its title decides whether it is a draft
        text = {"title": f"Draft: {what.title}" if what.draft else what.title, "description": what.body}
        if old is None:
            made = {**text, "source_branch": what.branch, "target_branch": what.into}
            self.ask("POST", f"{self._project}/merge_requests", made)
        else:
            self.ask("PUT", old.path, text)

    def discussion(self, number: str | None = None) -> str:
        return f"{self._pull() if number is None else f'{self._project}/merge_requests/{number}'}/notes"

    def _ours(self, path: str) -> list[Comment]:
        return self.ours(self.rows(path, _OLDEST_FIRST), path, "id")

    def user(self) -> str:
        name = text_in(self.fields("/user"), "username")
        if name is None:
            raise RemoteError("GitLab does not name the user of GITLAB_TOKEN; use an access token with the scope api")
        return name

    def _pull(self) -> str:
        if not self._number.isdigit():
            raise PolicyctlError("this pipeline is not for a merge request (CI_MERGE_REQUEST_IID is not set)")
        return f"{self._project}/merge_requests/{self._number}"


def _proposal(request: Mapping[str, Any]) -> Proposal:
    """The commit and the target branch of a merge request."""
    return Proposal(text_in(request, "sha") or "", text_in(request, "target_branch") or "")
