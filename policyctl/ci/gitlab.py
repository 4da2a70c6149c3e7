"""GitLab's REST API, with an access token of a user, a group or a project; a job's own token may not write notes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import quote

from policyctl.ci.forge import LABEL, PAGE, Author, CiService, Comment, Merge, NotAllowed, moment_in, name_in, token
from policyctl.errors import PolicyctlError, RemoteError
from policyctl.plan.approval import Proposal

_DEVELOPER = 30  # the least access level that may approve a merge request


class GitLab:
    """A `Forge`. The documentation of GitLab's REST API is where its paths and keys come from."""

    longest = 1_000_000

    def __init__(self, environ: Mapping[str, str]) -> None:
        api = environ.get("CI_API_V4_URL", "https://gitlab.com/api/v4")
        self._service = CiService(api, "PRIVATE-TOKEN: ", token("GITLAB_TOKEN", environ))
        self._project = f"/projects/{environ.get('CI_PROJECT_ID', '')}"
        self._number = environ.get("CI_MERGE_REQUEST_IID", "")
        self.commit = environ.get("CI_COMMIT_SHA", "")
        # Of a merged result the commit is the merge, and the branch's own stands beside it.
        self._pushed = environ.get("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA") or self.commit
        self.link = environ.get("CI_PIPELINE_URL", "")
        self.branch = None if self._number else environ.get("CI_COMMIT_BRANCH") or None
        self.queued = environ.get("CI_MERGE_REQUEST_EVENT_TYPE") == "merge_train"
        into = environ.get("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "")
        self.proposal = Proposal(self._pushed, into) if self._pushed and into else None
        self.close = self._service.close
        self._me = cache(self._who_am_i)

    def comments(self) -> list[Comment]:
        return self._ours(f"{self._request()}/notes", "id", "body")

    def comment(self, body: str, old: Comment | None) -> None:
        if old is None:
            self._service.ask("POST", f"{self._request()}/notes", {"body": body})
        else:
            self.rewrite(old, body)

    def is_merged(self) -> bool:
        try:
            found = self._service.ask("GET", self._request())
        except NotAllowed:
            return False
        return isinstance(found, dict) and found.get("state") == "merged"

    def said(self) -> list[Author]:
        # What GitLab itself notes under a person's name, such as a new title, that person did not write.
        rows = [row for row in self._service.rows(f"{self._request()}/notes") if not row.get("system")]
        people = [(name_in(row, "author", "username"), row) for row in rows]
        return [
            Author(who, str(row["author"].get("id")), str(row.get("body") or ""), moment_in(row, "created_at"))
            for who, row in people
            if who
        ]

    def since(self) -> datetime | None:
        # GitLab notes each push to a merge request as a version of it.
        newest = next(self._service.rows(f"{self._request()}/versions", most=1), {})
        return moment_in(newest, "created_at") if newest.get("head_commit_sha") == self._pushed else None

    def may_approve(self, said: Author) -> bool:
        opened = name_in(self._service.fields(self._request()), "author", "username")
        if opened in (None, said.who) or not said.id.isdigit():
            return False
        try:
            level = self._service.fields(f"{self._project}/members/all/{said.id}").get("access_level")
        except NotAllowed:
            return False
        return isinstance(level, int) and level >= _DEVELOPER

    def head(self, branch: str) -> str:
        found = self._service.fields(f"{self._project}/repository/branches/{quote(branch, safe='')}").get("commit")
        return str(found.get("id") or "") if isinstance(found, dict) else ""

    def changed(self, until: str) -> list[str] | None:  # noqa: ARG002 - every commit of the branch has a pipeline of its own
        return None

    def merges(self, branch: str) -> Iterator[Merge]:
        query = {"state": "merged", "target_branch": branch, "order_by": "updated_at", "sort": "desc"}
        rows = list(self._service.rows(f"{self._project}/merge_requests", query, PAGE))
        found = [row for row in rows if row.get("state") == "merged" and row.get("target_branch", branch) == branch]
        for row in sorted(found, key=lambda row: (str(row.get("merged_at")), int(row.get("iid") or 0)), reverse=True):
            what = Proposal(str(row.get("sha") or ""), str(row.get("target_branch") or ""))
            yield Merge(str(row.get("iid")), f"!{row.get('iid')}", str(row.get("merged_at")), what)

    def comments_on(self, merge: Merge) -> list[Comment]:
        return self._ours(f"{self._project}/merge_requests/{merge.number}/notes", "id", "body")

    def rewrite(self, old: Comment, body: str) -> None:
        self._service.ask("PUT", old.path, {"body": body})

    def issues(self) -> list[Comment]:
        return self._ours(f"{self._project}/issues", "iid", "description", {"state": "opened", "labels": LABEL})

    def issue(self, title: str, body: str, old: Comment | None) -> None:
        if old is None:
            self._service.ask("POST", f"{self._project}/issues", {"title": title, "description": body, "labels": LABEL})
        else:
            self._service.ask("PUT", old.path, {"description": body})

    def close_issue(self, old: Comment) -> None:
        self._service.ask("PUT", old.path, {"state_event": "close"})

    def _ours(self, path: str, key: str, text: str, query: Mapping[str, str] = {}) -> list[Comment]:
        """Those rows of a list that the token's user wrote: anyone may write what looks like ours."""
        found = list(self._service.rows(path, query))
        me = self._me() if found else None
        mine: list[dict[str, Any]] = [row for row in found if me is not None and name_in(row, "author", "username") == me]
        return [Comment(f"{path}/{row.get(key)}", str(row.get(text) or "")) for row in mine]

    def _who_am_i(self) -> str:
        name = self._service.fields("/user").get("username")
        if not isinstance(name, str):
            raise RemoteError("GitLab does not say whose the token in GITLAB_TOKEN is; use an access token with the scope api")
        return name

    def _request(self) -> str:
        if not self._number.isdigit():
            raise PolicyctlError("this pipeline is not for a merge request (CI_MERGE_REQUEST_IID is not set)")
        return f"{self._project}/merge_requests/{self._number}"
