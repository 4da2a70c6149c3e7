"""What a revision's name means: one commit, settled once, or an error."""

from __future__ import annotations

import re

from policyctl.errors import PolicyctlError, UsageError
from policyctl.load.git.repository import WHOLE_HISTORY, Repository
from policyctl.load.urls import revision_complaint

_FULL_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SHORT_ID = re.compile(r"[0-9a-f]{4,63}", re.IGNORECASE)
_SUFFIX = re.compile(r"[\^~:].*|@\{.*", re.DOTALL)
_FROM_REFS = ("refs/", "heads/", "tags/", "remotes/")
# Where git looks for a short name, and what is there.
_PLACES = {
    "refs/tags/{}": "a tag",
    "refs/heads/{}": "a branch",
    "refs/remotes/{}": "a remote branch",
    "refs/remotes/{}/HEAD": "the default branch of a remote",
    "refs/{}": "a reference",
}


def commit_of(repository: Repository, revision: str) -> str:
    """The full id of the commit that a revision names.

    Raises UsageError when git knows no such revision, or when its name has two meanings: whoever may push a tag must not
    decide what a branch's name means.
    """
    if complaint := revision_complaint(revision):
        raise UsageError(f"the git revision {complaint}")
    is_known = _is_one_thing(repository, _SUFFIX.sub("", revision))
    found = repository.run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if is_known and not found.returncode:
        return found.stdout.decode().split()[-1]
    if b"promisor remote" in found.stderr:
        repository.fail(found.stderr)
    if repository.is_shallow:
        raise UsageError(f"git knows no revision {revision!r}, and this clone is shallow; {WHOLE_HISTORY}")
    raise UsageError(f"git knows no revision {revision!r} (fetch it, or name another)")


def merge_base_of(repository: Repository, revision: str) -> str:
    """The id of the commit at which the checked out branch left a revision. Raises as `commit_of`, and without any."""
    ran = repository.run("merge-base", commit_of(repository, revision), commit_of(repository, "HEAD"))
    if ran.returncode:
        raise PolicyctlError(f"the checked out commit has no commit in common with {revision}; {WHOLE_HISTORY}")
    return ran.stdout.decode().strip()


def _is_one_thing(repository: Repository, name: str) -> bool:
    """Whether the name is not one that a tag only pretends to be. HEAD and full ids have one meaning in git itself.

    Raises UsageError for a name that could be read in more than one way.
    """
    if not name or name in ("HEAD", "@") or _FULL_ID.fullmatch(name):
        return True
    places = {place.format(name): what for place, what in _PLACES.items()}
    listed = _references(repository, name, *places)  # names may hold no wildcards, so others match nothing more
    if name.startswith(_FROM_REFS):  # git looks there first, and a tag may be called so too
        return f"refs/{name.removeprefix('refs/')}" in listed
    found = {place: what for place, what in places.items() if place in listed}
    meanings = [f"{what} ({place})" for place, what in found.items()]
    if found and _SHORT_ID.fullmatch(name):
        meanings += [f"a commit ({one})" for one in _commits(repository, name)]
    if len(meanings) > 1:
        raise UsageError(
            f"{name} has more than one meaning here: {', '.join(meanings)}; write the one that is meant in full, "
            "or delete the others"
        )
    if list(found) == [f"refs/tags/{name}"]:
        _refuse_a_tag_for_a_branch(repository, name)
    return True


def _refuse_a_tag_for_a_branch(repository: Repository, name: str) -> None:
    """Raise UsageError for a tag that is called as a branch of a remote is, or as one would be that was not fetched."""
    branches = [one for one in _references(repository, "refs/remotes/") if one.split("/", 3)[3:] == [name]]
    if branches:
        raise UsageError(f"{name} is a tag here, and a branch of a remote too; write refs/tags/{name} or {branches[0]}")
    if remote := _remote_of(repository, name):
        raise UsageError(
            f"{name} is a tag here, and {remote} has no branch of that name; fetch the branch, or write refs/tags/{name}"
        )


def _remote_of(repository: Repository, name: str) -> str | None:
    """The remote that a name such as origin/main would be a branch of."""
    remote, slash, _ = name.partition("/")
    return remote if slash and (remote == "origin" or _references(repository, f"refs/remotes/{remote}/")) else None


def _references(repository: Repository, *patterns: str) -> list[str]:
    listed = repository.output("for-each-ref", "--format=%(refname)", *patterns)
    return listed.decode(errors="replace").splitlines()


def _commits(repository: Repository, prefix: str) -> list[str]:
    return repository.output("rev-parse", f"--disambiguate={prefix}").decode().split()
