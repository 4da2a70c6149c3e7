"""GitHub and GitLab as a workflow's step sees them: little servers that keep comments and issues, as the real ones answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.remote.fake_server import Reply, Seen, StandIn, standing_in

TOKEN = "canary-token"
OPENER = "opener"  # who opened pull request 5
ME = {"github": "github-actions[bot]", "gitlab": "project_7_bot"}
COMMIT = "c" * 40


@dataclass
class Forge:
    """What a service has: comments by pull request, issues, and which pull requests which commit merged."""

    kind: str
    comments: dict[int, list[dict[str, Any]]] = field(default_factory=lambda: {5: []})
    issues: list[dict[str, Any]] = field(default_factory=list)
    merges: list[dict[str, Any]] = field(default_factory=list)
    read_only: bool = False
    no_drafts: bool = False  # a token that may not turn a pull request into a draft
    knows_me: bool = False  # a workflow's own token may not ask who it is
    proposals: dict[int, tuple[str, str]] = field(default_factory=dict)  # each pull request's newest commit, and its target
    commit: str = COMMIT  # that steps run for
    head: str | None = COMMIT  # what main is at; None where the token may not ask
    changed: dict[str, list[str]] = field(default_factory=dict)  # commit → the files that changed from there to the head
    newer: list[str] | None = field(default_factory=list)  # files that changed in main since the pull request left it
    files: dict[int, list[str] | None] = field(default_factory=dict)  # of pull requests that change no policy; None: too many
    rights: dict[str, str | int] = field(default_factory=dict)  # what people may do here, as the service writes it
    next_id: int = 100
    now: int = 0  # seconds since the first day
    newest: str | None = COMMIT  # the pull request's newest commit; None where it is another one, or may not be asked
    pushed: int = 0  # when the newest commit came
    created: int = 0  # when the run that a step is of was created
    server: StandIn | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)  # pull requests that we opened
    branches: dict[str, dict[str, Any]] = field(default_factory=dict)  # branch → the commit that we pushed to it
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)  # trees and commits by id

    @property
    def environ(self) -> dict[str, str]:
        """The variables of a step that checks pull request 5."""
        assert self.server is not None
        if self.kind == "github":
            return {
                "GITHUB_ACTIONS": "true",
                "GITHUB_API_URL": self.server.url,
                "GITHUB_SERVER_URL": "https://forge.example",
                "GITHUB_REPOSITORY": "org/repo",
                "GITHUB_RUN_ID": "9",
                "GITHUB_REF": "refs/pull/5/merge",
                "GITHUB_SHA": self.commit,
                "GITHUB_TOKEN": TOKEN,
            }
        return {
            "GITLAB_CI": "true",
            "CI_API_V4_URL": self.server.url,
            "CI_PROJECT_ID": "7",
            "CI_MERGE_REQUEST_IID": "5",
            "CI_COMMIT_SHA": self.commit,
            "CI_PIPELINE_URL": "https://forge.example/run",
            "GITLAB_TOKEN": TOKEN,
        }

    @property
    def branch_environ(self) -> dict[str, str]:
        """The variables of a step that runs for main, once something was merged into it."""
        environ = self.environ
        if self.kind == "github":
            return {**environ, "GITHUB_REF": "refs/heads/main"}
        return {**environ, "CI_MERGE_REQUEST_IID": "", "CI_COMMIT_BRANCH": "main"}

    @property
    def bodies(self) -> list[str]:
        """The comments on the pull request."""
        return [one["body"] for one in self.comments[5]]

    @property
    def issue_texts(self) -> list[tuple[str, str]]:
        """The issues: open or closed, and their text."""
        return [(one["state"], one["body" if self.kind == "github" else "description"]) for one in self.issues]

    def write(self, body: str, user: str | None = None, number: int = 5) -> dict[str, Any]:
        """A comment by a user, by us if none is named."""
        self.next_id += 1
        name = user or ME[self.kind]
        self.now += 1
        made = {
            "id": self.next_id,
            "body": body,
            "user": {"login": name},
            "author": {"username": name, "id": _id_of(name)},
            "created_at": _moment(self.now),
            "updated_at": _moment(self.now),
        }
        self.comments.setdefault(number, []).append(made)
        return made

    def push(self) -> None:
        """A new commit of the pull request, and the run for it."""
        self.now += 1
        self.pushed = self.created = self.now

    def merge(self, number: int, commit: str = "", *, merged: bool = True) -> None:
        """A pull request that belongs to the commit, by itself the newest one of main."""
        head, target = self.proposals.get(number, (COMMIT, "main"))
        self.now += 1
        self.merges.append(
            {
                "number": number,
                "iid": number,
                "merged_at": _moment(self.now) if merged else None,
                "updated_at": _moment(self.now),
                "state": "merged" if merged else "opened",
                "merge_commit_sha": commit or self.head or self.commit,
                "head": {"sha": head},
                "base": {"ref": target},
                "sha": head,
                "target_branch": target,
            }
        )

    def answer(self, seen: Seen) -> Reply:
        header = seen.headers.get("authorization" if self.kind == "github" else "private-token", "")
        if header.removeprefix("Bearer ") != TOKEN:
            return Reply(401, {"message": "Bad credentials"})
        if seen.path == "/user":
            me = {"login": ME["github"], "username": ME["gitlab"]}
            return (
                Reply(200, me) if self.kind == "gitlab" or self.knows_me else Reply(403, {"message": "Resource not accessible"})
            )
        if self.read_only and seen.method != "GET":
            return Reply(403, {"message": "Resource not accessible by integration"})
        path = seen.path.removeprefix("/repos/org/repo").removeprefix("/projects/7")
        for pattern, handle in _ROUTES.items():
            if found := re.fullmatch(pattern, path):
                return handle(self, seen, *(part for part in found.groups() if part is not None))
        return Reply(404, {"message": "Not Found"})

    def _comments(self, seen: Seen, number: str) -> Reply:
        rows = self.comments.get(int(number), [])
        if self.kind == "gitlab" and dict(seen.query).get("sort") != "asc":
            rows = rows[::-1]
        return self._listed(seen, rows, lambda body: self.write(body["body"], number=int(number)))

    def _comment(self, seen: Seen, identifier: str) -> Reply:
        return self._changed(seen, identifier, [one for some in self.comments.values() for one in some])

    def _merges(self, seen: Seen) -> Reply:
        if seen.method == "POST" or dict(seen.query).get("state") in ("open", "opened"):
            return self._listed(seen, [one for one in self.requests if one["state"] == "open"], self._opened)
        rows = sorted(self.merges, key=lambda row: str(row["updated_at"]), reverse=True)
        return self._listed(seen, rows)

    def _opened(self, body: dict[str, Any]) -> dict[str, Any]:
        """A pull request that we open, which needs a branch."""
        branch = body.get("head") or body.get("source_branch")
        assert branch in self.branches
        made = self._issue(body)
        self.issues.remove(made)
        made |= {"head": {"ref": branch}, "source_branch": branch}
        self.requests.append(made)
        return made

    def _object(self, seen: Seen, kind: str, identifier: str = "") -> Reply:
        """A tree or a commit of GitHub's: made, or looked at."""
        if seen.method == "GET":
            return Reply(200, {"sha": identifier, "tree": {"sha": f"tree of {identifier}"}})
        self.next_id += 1
        made = f"{kind}-{self.next_id}"
        self.objects[made] = seen.json
        return Reply(201, {"sha": made})

    def _ref(self, seen: Seen, branch: str = "") -> Reply:
        """A branch of GitHub's: moved if it is there, or made."""
        if seen.method == "PATCH":
            if branch not in self.branches:
                return Reply(422, {"message": "Reference does not exist"})
            assert seen.json["force"]
        name = branch or seen.json["ref"].removeprefix("refs/heads/")
        commit = self.objects[seen.json["sha"]]
        tree = self.objects[commit["tree"]]
        assert tree["base_tree"] == f"tree of {commit['parents'][0]}"
        files = {one["path"]: one.get("content") for one in tree["tree"]}
        self.branches[name] = {"start": commit["parents"][0], "files": files, "message": commit["message"]}
        return Reply(201, {})

    def _pushed(self, seen: Seen) -> Reply:
        """A commit that GitLab makes of actions."""
        body = seen.json
        assert body["force"]
        files = {one["file_path"]: one.get("content") for one in body["actions"]}
        self.branches[body["branch"]] = {"start": body["start_sha"], "files": files, "message": body["commit_message"]}
        return Reply(201, {"id": COMMIT})

    def _branch(self, _: Seen) -> Reply:
        return Reply(403) if self.head is None else Reply(200, {"commit": {"sha": self.head, "id": self.head}})

    def _compare(self, _: Seen, since: str) -> Reply:
        files = self.changed.get(since)
        return Reply(404) if files is None else Reply(200, {"status": "ahead", "files": [{"filename": one} for one in files]})

    def _lacks(self, _: Seen) -> Reply:
        """What main has since a commit left it."""
        if self.newer is None:
            return Reply(200, {"status": "diverged", "files": [{}] * 300, "diffs": [], "compare_timeout": True})
        rows = [{"filename": one, "old_path": one, "new_path": one} for one in self.newer]
        return Reply(200, {"status": "diverged", "files": rows, "diffs": rows})

    def _files(self, seen: Seen, number: str) -> Reply:
        """The files that a pull request changed."""
        files = self.files.get(int(number), ["policies/p.yaml"])
        rows = [{"filename": one, "old_path": one, "new_path": one} for one in (["x"] * 3000 if files is None else files)]
        return self._listed(seen, rows)

    def _issues(self, seen: Seen) -> Reply:
        return self._listed(seen, [one for one in self.issues if one["state"] == "open"], self._issue)

    def _one_issue(self, seen: Seen, identifier: str) -> Reply:
        return self._changed(seen, identifier, self.issues)

    def _request(self, seen: Seen, number: str) -> Reply:
        """A pull request by itself."""
        if seen.method != "GET":
            assert "draft" not in seen.json, "only GraphQL changes that"
            return self._changed(seen, number, self.requests)
        if own := [one for one in self.requests if str(one["number"]) == number]:
            return Reply(200, {"draft": False, **own[0], "node_id": f"node {number}"})
        made = [one for one in self.merges if one["number"] == int(number)]
        opened: dict[str, Any] = {"user": {"login": OPENER}, "author": {"username": OPENER}, "merged_at": None, "state": "open"}
        opened["changes_count"] = "1000+" if self.files.get(int(number), []) is None else "1"
        opened["head"] = {"sha": self.newest, "ref": "feature", "repo": {"full_name": "org/repo"}}
        return Reply(200, {**opened, **(made[-1] if made else {})})

    def _graphql(self, seen: Seen) -> Reply:
        """A pull request of GitHub's becomes a draft, or ready."""
        if self.no_drafts:
            return Reply(200, {"errors": [{"message": "Resource not accessible by integration"}]})
        row = next(one for one in self.requests if f"node {one['number']}" == seen.json["variables"]["id"])
        row["draft"] = "{ convertPullRequestToDraft(" in seen.json["query"]
        assert row["draft"] or "{ markPullRequestReadyForReview(" in seen.json["query"]
        return Reply(200, {"data": {}})

    def _run(self, _: Seen) -> Reply:
        """The run that a step is of."""
        return Reply(403) if self.newest is None else Reply(200, {"id": 9, "created_at": _moment(self.created)})

    def _activity(self, seen: Seen) -> Reply:
        """The pushes to the branch of the pull request, the newest first."""
        assert dict(seen.query)["ref"] == "refs/heads/feature"
        return Reply(200, [{"ref": "refs/heads/feature", "after": self.newest, "timestamp": _moment(self.pushed)}])

    def _versions(self, _: Seen) -> Reply:
        return Reply(200, [{"head_commit_sha": self.newest, "created_at": _moment(self.pushed)}])

    def _rights(self, _: Seen, who: str) -> Reply:
        """What a user may do: on GitHub by name, on GitLab by number."""
        found = next((right for name, right in self.rights.items() if who in (name, str(_id_of(name)))), None)
        return Reply(404) if found is None else Reply(200, {"permission": found, "access_level": found})

    def _issue(self, body: dict[str, Any]) -> dict[str, Any]:
        self.next_id += 1
        name = ME[self.kind]
        made = {
            **body,
            "id": self.next_id,
            "number": self.next_id,
            "iid": self.next_id,
            "state": "open",
            "user": {"login": name},
            "author": {"username": name},
        }
        self.issues.append(made)
        return made

    def _listed(self, seen: Seen, rows: list[dict[str, Any]], make: Any = None) -> Reply:
        if seen.method == "POST" and make is not None:
            return Reply(201, make(seen.json))
        query = dict(seen.query)
        page, size = int(query["page"]), int(query["per_page"])
        found = [row for row in rows[(page - 1) * size : page * size] if not row.get("unreadable")]
        return Reply(200, found, {"X-Next-Page": str(page + 1) if page * size < len(rows) else ""})

    def _changed(self, seen: Seen, identifier: str, rows: list[dict[str, Any]]) -> Reply:
        assert seen.method == {"github": "PATCH", "gitlab": "PUT"}[self.kind]
        row = next(one for one in rows if str(one["id"]) == identifier)
        change = seen.json
        if change.pop("state_event", None) == "close":
            change["state"] = "closed"
        self.now += 1
        row.update({**change, "updated_at": _moment(self.now)})
        return Reply(200, row)


_ROUTES: dict[str, Callable[..., Reply]] = {
    r"/(?:issues/(\d+)/comments|merge_requests/(\d+)/notes)": Forge._comments,
    r"/(?:issues/comments|merge_requests/\d+/notes)/(\d+)": Forge._comment,
    r"/(?:pulls|merge_requests)": Forge._merges,
    r"/(?:pulls|merge_requests)/(\d+)": Forge._request,
    r"/(?:pulls|merge_requests)/(\d+)/(?:files|diffs)": Forge._files,
    r"/(?:repository/)?branches/main": Forge._branch,
    r"/compare/\w+\.\.\.main": Forge._lacks,
    r"/repository/compare": Forge._lacks,
    r"/compare/(\w+)\.\.\.\w+": Forge._compare,
    r"/(?:collaborators/([\w-]+)/permission|members/all/(\d+))": Forge._rights,
    r"/actions/runs/9": Forge._run,
    r"/activity": Forge._activity,
    r"/merge_requests/5/versions": Forge._versions,
    r"/git/(trees|commits)(?:/(\w+))?": Forge._object,
    r"/git/refs(?:/heads/(.+))?": Forge._ref,
    r"/repository/commits": Forge._pushed,
    r"/graphql": Forge._graphql,
    r"/issues": Forge._issues,
    r"/issues/(\d+)": Forge._one_issue,
}


def _moment(seconds: int) -> str:
    return f"2026-01-01T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}Z"


def _id_of(name: str) -> int:
    return sum(map(ord, name))


@contextmanager
def forge_of(kind: str) -> Iterator[Forge]:
    """Run a service for a while."""
    forge = Forge(kind)
    with standing_in(forge.answer) as server:
        forge.server = server
        yield forge
