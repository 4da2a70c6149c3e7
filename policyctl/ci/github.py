"""GitHub's REST API, with a workflow's own token or another one. Paths and keys are those of GitHub's documentation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from policyctl.ci.forge import (
    DRAFT,
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
from policyctl.remote.http import Request

_BOT = "github-actions[bot]"  # the author of what a workflow's own token writes; that token may not ask who it is
_PULL = re.compile(r"refs/pull/([0-9]+)/(?:merge|head)")
_QUEUE = re.compile(r"refs/heads/gh-readonly-queue/.+/pr-([0-9]+)-[0-9a-f]{40}")
_MOST_FILES = 300  # GitHub lists no more in one comparison, so a list of that length may be incomplete
_MOST_OF_PULL = 3000  # nor here
_MAY_APPROVE = ("admin", "maintain", "write")


class GitHub(ForgeClient):
    """A `Forge`."""

    longest = 65_536
    edits = "PATCH"
    closing = ("state", "closed")
    author = ("user", "login")

    def __init__(self, environ: Mapping[str, str]) -> None:
        api = environ.get("GITHUB_API_URL", "https://api.github.com")
        super().__init__(api, "Authorization: Bearer ", "GITHUB_TOKEN", environ)
        self._repository = f"/repos/{environ.get('GITHUB_REPOSITORY', '')}"
        self._ref = environ.get("GITHUB_REF", "")
        self.commit = environ.get("GITHUB_SHA", "")
        server, run = environ.get("GITHUB_SERVER_URL", "https://github.com"), environ.get("GITHUB_RUN_ID", "")
        self._run = run
        self.link = f"{server}/{environ.get('GITHUB_REPOSITORY', '')}/actions/runs/{run}"
        self.again = environ.get("GITHUB_RUN_ATTEMPT", "1") != "1"
        self.queued = _QUEUE.fullmatch(self._ref) is not None
        self.branch = None if self.queued or not self._ref.startswith("refs/heads/") else self._ref.removeprefix("refs/heads/")
        self.proposal = proposal_in(environ.get("GITHUB_EVENT_PATH"))

    def comments(self) -> list[Comment]:
        return self._comments()

    def is_merged(self) -> bool:
        try:
            return bool(text_in(self.ask("GET", self._pull()), "merged_at"))
        except NotAllowed:  # a token that may only comment
            return False

    def remarks(self) -> list[Remark]:
        return self.remarks_in(self.rows(self.discussion()))

    def since(self) -> datetime | None:
        # A run belongs to one commit, and keeps its time when it is started again, also once the branch had other commits and
        # came back. GitHub records each push to a branch. The times of a commit are chosen by its author.
        if self.queued:
            return None
        pull = self.fields(self._pull())
        head, branch = text_in(pull, "head", "sha"), text_in(pull, "head", "ref")
        if branch is None or (self.proposal is not None and head != self.proposal.head):
            return None
        repository = text_in(pull, "head", "repo", "full_name")  # where a fork keeps the branch
        pushes = f"/repos/{repository}/activity" if repository else f"{self._repository}/activity"
        push = next(self.rows(pushes, {"ref": f"refs/heads/{branch}"}, most=1), {})
        run = self.fields(f"{self._repository}/actions/runs/{self._run}")
        pushed, created = moment_in(push, "timestamp"), moment_in(run, "created_at")
        return max(pushed, created) if push.get("after") == head and pushed and created else None

    def may_approve(self, remark: Remark) -> bool:
        opened = text_in(self.fields(self._pull()), *self.author)
        if opened is None or opened.lower() == remark.who.lower():
            return False
        try:
            found = self.fields(f"{self._repository}/collaborators/{quote(remark.who, safe='')}/permission")
        except NotAllowed:
            return False
        return found.get("permission") in _MAY_APPROVE

    def head(self, branch: str) -> str:
        return text_in(self.fields(f"{self._repository}/branches/{quote(branch, safe='')}"), "commit", "sha") or ""

    def changed(self, until: str) -> list[str] | None:
        return self._changed(until, "ahead")

    def lacks(self, branch: str) -> list[str] | None:
        return self._changed(quote(branch, safe=""), "ahead", "behind", "identical", "diverged")

    def _changed(self, until: str, *related: str) -> list[str] | None:
        """The files that changed up to a commit, if it is so related to the current one, since where the two parted."""
        found = self.fields(f"{self._repository}/compare/{self.commit}...{until}")
        files = found.get("files")
        if found.get("status") not in related or not isinstance(files, list) or len(files) >= _MOST_FILES:
            return None
        return _names(files)

    def merges(self, branch: str) -> Iterator[Merge]:
        query = {"state": "closed", "base": branch, "sort": "updated", "direction": "desc"}
        rows = self.rows(f"{self._repository}/pulls", query)
        merged = (row for row in rows if row.get("merged_at") and text_in(row, "base", "ref") in (None, branch))
        return newest_first(merged, "number", "#", _proposal)

    def files(self, merge: Merge) -> list[str] | None:
        found = list(self.rows(f"{self._repository}/pulls/{merge.number}/files"))
        return _names(found) if len(found) < _MOST_OF_PULL else None

    def comments_on(self, merge: Merge) -> list[Comment]:
        return self._comments(merge.number)

    def issues(self) -> list[Comment]:
        rows = self.rows(f"{self._repository}/issues", {"state": "open", "labels": LABEL})
        # GitHub lists pull requests among the issues.
        return self.ours((row for row in rows if "pull_request" not in row), f"{self._repository}/issues", "number")

    def issue(self, title: str, body: str, old: Comment | None) -> None:
        if old is None:
            self.ask("POST", f"{self._repository}/issues", {"title": title, "body": body, "labels": [LABEL]})
        else:
            self.rewrite(old, body)

    def requests(self, branch: str) -> list[Comment]:
        owner = self._repository.split("/")[2]
        path = f"{self._repository}/pulls"
        rows = self.rows(path, {"state": "open", "head": f"{owner}:{branch}"})
        return self.ours((row for row in rows if text_in(row, "head", "ref") == branch), path, "number")

    def push(self, what: Proposed) -> None:
        data = f"{self._repository}/git"
        tree = [
            {"path": path, "mode": "100644", "type": "blob", **({"sha": None} if text is None else {"content": text})}
            for path, text in what.files.items()
        ]
        before = text_in(self.fields(f"{data}/commits/{what.start}"), "tree", "sha")
        made = self._made(f"{data}/trees", {"base_tree": before, "tree": tree})
        commit = self._made(f"{data}/commits", {"message": what.title, "tree": made, "parents": [what.start]})
        try:
            self.ask("PATCH", f"{data}/refs/heads/{quote(what.branch)}", {"sha": commit, "force": True})
        except RemoteError:  # there is no such branch yet
            self.ask("POST", f"{data}/refs", {"ref": f"refs/heads/{what.branch}", "sha": commit})

    def _made(self, path: str, body: Mapping[str, Any]) -> str:
        """The id of an object that a request makes."""
        found = text_in(self.ask("POST", path, body), "sha")
        if found is None:
            raise RemoteError("GitHub did not answer with the id of what it was asked to make")
        return found

    def request(self, what: Proposed, old: Comment | None) -> str | None:
        text = {"title": what.title, "body": what.body}
        if old is None:
            made = {**text, "head": what.branch, "base": what.into, "draft": what.draft}
            self.ask("POST", f"{self._repository}/pulls", made)
            return None
        self.ask("PATCH", old.path, text)
        try:
            self._set_draft(what, old)
        except RemoteError as error:
            return str(error)
        return None

    def _set_draft(self, what: Proposed, old: Comment) -> None:
        """Make a pull request that is there already a draft, or ready if it was one of ours; only GraphQL can."""
        now = self.fields(old.path)
        if bool(now.get("draft")) == what.draft or not (what.draft or DRAFT in old.body):
            return
        change = "convertPullRequestToDraft" if what.draft else "markPullRequestReadyForReview"
        query = f"mutation($id: ID!) {{ {change}(input: {{pullRequestId: $id}}) {{ clientMutationId }} }}"
        body = {"query": query, "variables": {"id": text_in(now, "node_id")}}
        answer = self.send(Request("POST", f"{self._api.removesuffix('/v3')}/graphql", (), body, headers=self._headers)).content
        errors = answer.get("errors") if isinstance(answer, dict) else None
        if errors:
            why = text_in(errors[0], "message") if isinstance(errors, list) else None
            raise RemoteError(f"GitHub did not carry out {change}: {why or 'no reason given'}")

    def discussion(self, number: str | None = None) -> str:
        return f"{self._repository}/issues/{self._number() if number is None else number}/comments"

    def _comments(self, number: str | None = None) -> list[Comment]:
        return self.ours(self.rows(self.discussion(number)), f"{self._repository}/issues/comments", "id")

    def user(self) -> str:
        return self._named() or _BOT

    def knows_me(self) -> bool:
        return self._named() is not None

    def _named(self) -> str | None:
        try:
            return text_in(self.ask("GET", "/user"), "login")
        except NotAllowed:
            return None

    def _pull(self) -> str:
        return f"{self._repository}/pulls/{self._number()}"

    def _number(self) -> str:
        if number := pull_number(self._ref):
            return number
        raise PolicyctlError(f"this run is not for a pull request (GITHUB_REF is {self._ref!r})")


def pull_number(reference: str) -> str | None:
    """The number of the pull request that a run is for, also in a merge queue; None for any other run."""
    found = _PULL.fullmatch(reference) or _QUEUE.fullmatch(reference)
    return found[1] if found else None


def _names(files: list[dict[str, Any]]) -> list[str]:
    """The paths of changed files, also those that were renamed."""
    return [str(name) for file in files for name in (file.get("filename"), file.get("previous_filename")) if name]


def _proposal(pull: Mapping[str, Any]) -> Proposal:
    """The commit and the target branch of a pull request."""
    return Proposal(text_in(pull, "head", "sha") or "", text_in(pull, "base", "ref") or "")


def proposal_in(event: str | None) -> Proposal | None:
    """The proposal of the pull request that a run was started for, read from the file of its event."""
    try:
        found = json.loads(Path(event).read_text("utf-8")) if event else {}
    except (OSError, ValueError):
        return None
    pull = found.get("pull_request") if isinstance(found, dict) else None
    proposal = _proposal(pull) if isinstance(pull, dict) else None
    return proposal if proposal and all(proposal) else None
