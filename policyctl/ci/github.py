"""GitHub's REST API, with a workflow's own token or another one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from policyctl.ci.forge import LABEL, PAGE, Author, CiService, Comment, Merge, NotAllowed, moment_in, name_in, token
from policyctl.errors import PolicyctlError
from policyctl.plan.approval import Proposal

_BOT = "github-actions[bot]"  # who a workflow's own token writes as; it may not ask who it is
_PULL = re.compile(r"refs/pull/([0-9]+)/(?:merge|head)")
_QUEUE = re.compile(r"refs/heads/gh-readonly-queue/.+/pr-([0-9]+)-[0-9a-f]{40}")
_MOST_FILES = 300  # of one comparison; there may be more where there are so many
_MAY_APPROVE = ("admin", "maintain", "write")


class GitHub:
    """A `Forge`. The documentation of GitHub's REST API is where its paths and keys come from."""

    longest = 65_536

    def __init__(self, environ: Mapping[str, str]) -> None:
        api = environ.get("GITHUB_API_URL", "https://api.github.com")
        self._service = CiService(api, "Authorization: Bearer ", token("GITHUB_TOKEN", environ))
        self._repository = f"/repos/{environ.get('GITHUB_REPOSITORY', '')}"
        self._ref = environ.get("GITHUB_REF", "")
        self.commit = environ.get("GITHUB_SHA", "")
        server, run = environ.get("GITHUB_SERVER_URL", "https://github.com"), environ.get("GITHUB_RUN_ID", "")
        self._run = run
        self.link = f"{server}/{environ.get('GITHUB_REPOSITORY', '')}/actions/runs/{run}"
        self.queued = _QUEUE.fullmatch(self._ref) is not None
        self.branch = None if self.queued or not self._ref.startswith("refs/heads/") else self._ref.removeprefix("refs/heads/")
        self.proposal = _proposed(environ.get("GITHUB_EVENT_PATH"))
        self.close = self._service.close
        self._me = cache(self._who_am_i)

    def comments(self) -> list[Comment]:
        return self._comments(self._number())

    def comment(self, body: str, old: Comment | None) -> None:
        if old is None:
            self._service.ask("POST", f"{self._repository}/issues/{self._number()}/comments", {"body": body})
        else:
            self.rewrite(old, body)

    def is_merged(self) -> bool:
        try:
            found = self._service.ask("GET", f"{self._repository}/pulls/{self._number()}")
        except NotAllowed:  # a token that may only comment
            return False
        return isinstance(found, dict) and bool(found.get("merged_at"))

    def said(self) -> list[Author]:
        rows = self._service.rows(f"{self._repository}/issues/{self._number()}/comments")
        people = [(name_in(row, "user", "login"), row) for row in rows]
        return [Author(who, "", str(row.get("body") or ""), moment_in(row, "created_at")) for who, row in people if who]

    def since(self) -> datetime | None:
        # A run is for one commit, is made once that was pushed, and keeps its moment when it is started again. What a commit
        # gives as its own time is chosen by its author.
        if self.queued:
            return None
        return moment_in(self._service.fields(f"{self._repository}/actions/runs/{self._run}"), "created_at")

    def may_approve(self, said: Author) -> bool:
        pull = self._service.fields(f"{self._repository}/pulls/{self._number()}")
        opened = name_in(pull, "user", "login")
        if opened is None or opened.lower() == said.who.lower():
            return False
        try:
            found = self._service.fields(f"{self._repository}/collaborators/{quote(said.who, safe='')}/permission")
        except NotAllowed:
            return False
        return found.get("permission") in _MAY_APPROVE

    def head(self, branch: str) -> str:
        found = self._service.fields(f"{self._repository}/branches/{quote(branch, safe='')}").get("commit")
        return str(found.get("sha") or "") if isinstance(found, dict) else ""

    def changed(self, until: str) -> list[str] | None:
        found = self._service.fields(f"{self._repository}/compare/{self.commit}...{until}")
        files = found.get("files")
        if found.get("status") != "ahead" or not isinstance(files, list) or len(files) >= _MOST_FILES:
            return None
        return [str(name) for file in files for name in (file.get("filename"), file.get("previous_filename")) if name]

    def merges(self, branch: str) -> Iterator[Merge]:
        query = {"state": "closed", "base": branch, "sort": "updated", "direction": "desc"}
        rows = list(self._service.rows(f"{self._repository}/pulls", query, PAGE))
        found = [row for row in rows if row.get("merged_at") and _in(row, "base", "ref") in (None, branch)]
        for row in sorted(found, key=lambda row: (str(row["merged_at"]), int(row.get("number") or 0)), reverse=True):
            what = Proposal(_in(row, "head", "sha") or "", _in(row, "base", "ref") or "")
            yield Merge(str(row.get("number")), f"#{row.get('number')}", str(row["merged_at"]), what)

    def comments_on(self, merge: Merge) -> list[Comment]:
        return self._comments(merge.number)

    def rewrite(self, old: Comment, body: str) -> None:
        self._service.ask("PATCH", old.path, {"body": body})

    def issues(self) -> list[Comment]:
        rows = self._service.rows(f"{self._repository}/issues", {"state": "open", "labels": LABEL})
        # GitHub lists pull requests among the issues.
        return self._ours((row for row in rows if "pull_request" not in row), "issues", "number")

    def issue(self, title: str, body: str, old: Comment | None) -> None:
        if old is None:
            self._service.ask("POST", f"{self._repository}/issues", {"title": title, "body": body, "labels": [LABEL]})
        else:
            self.rewrite(old, body)

    def close_issue(self, old: Comment) -> None:
        self._service.ask("PATCH", old.path, {"state": "closed"})

    def _comments(self, number: str) -> list[Comment]:
        return self._ours(self._service.rows(f"{self._repository}/issues/{number}/comments"), "issues/comments", "id")

    def _ours(self, rows: Iterator[dict[str, Any]], folder: str, key: str) -> list[Comment]:
        """Those rows that the token's user wrote: anyone may write what looks like ours."""
        found = list(rows)
        me = self._me() if found else None
        mine = [row for row in found if me is not None and name_in(row, "user", "login") == me]
        return [Comment(f"{self._repository}/{folder}/{row.get(key)}", str(row.get("body") or "")) for row in mine]

    def _who_am_i(self) -> str:
        try:
            found = self._service.ask("GET", "/user")
        except NotAllowed:
            return _BOT
        name = found.get("login") if isinstance(found, dict) else None
        return name if isinstance(name, str) else _BOT

    def _number(self) -> str:
        found = _PULL.fullmatch(self._ref) or _QUEUE.fullmatch(self._ref)
        if found is None:
            raise PolicyctlError(f"this run is not for a pull request (GITHUB_REF is {self._ref!r})")
        return found[1]


def _in(row: Mapping[str, Any], side: str, key: str) -> str | None:
    """What a row says of a pull request's head or base, if it does."""
    found = row.get(side)
    return str(found[key]) if isinstance(found, dict) and found.get(key) else None


def _proposed(event: str | None) -> Proposal | None:
    """The pull request that a run was started for, as the file of its event has it."""
    try:
        found = json.loads(Path(event).read_text("utf-8")) if event else {}
    except (OSError, ValueError):
        return None
    pull = found.get("pull_request") if isinstance(found, dict) else None
    head, into = (_in(pull, *where) for where in (("head", "sha"), ("base", "ref"))) if isinstance(pull, dict) else (None, None)
    return Proposal(head, into) if head and into else None
