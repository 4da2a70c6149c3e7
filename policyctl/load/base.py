"""policyctl.yaml as it was at a git revision; and the settings of a branch's base, which hold while the branch is reviewed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from policyctl.core.diff import Field
from policyctl.errors import InvalidInput, Mark, PolicyctlError, Problem, Refused
from policyctl.load.environment import NO_CONFIG, Config, Environment
from policyctl.load.git import Entry, Revision, merge_base
from policyctl.load.kinds import CONFIG_FILE
from policyctl.load.source import MAX_BYTES, source_of
from policyctl.load.urls import LOCAL


@dataclass(frozen=True, slots=True)
class Base:
    """The configuration where a branch left the revision that it is to be merged into; `revision` is as the user wrote it."""

    revision: str
    config: Config

    def choose(self, name: str | None, now: Config) -> Environment:
        """The branch's environment of a name; without one, of the base's default where the branch has that, else of its own."""
        return now.environment(name or (self.config.default if self.config.default in now.environments else None))

    def holds_for(self, now: Environment, *, own_remote: bool) -> Environment:
        """The branch's environment with everything but its variables and `include` as it is at the base.

        Raises Refused for one that is not there and has a remote: nobody has reviewed yet where it leads. With another remote
        than its `own_remote`, or the embedded one, what the base says for all environments holds.
        """
        then = self.config.environments.get(now.name)
        if then is None and own_remote and now.remote != LOCAL:
            raise Refused(
                f"environment {now.name} is new in this branch, so nobody has reviewed where it leads; merge it first, "
                f"or plan with --remote git:{self.revision}"
            )
        then = then or replace(self.config.shared, name=now.name)
        return replace(then, vars=now.vars, include=now.include)

    def settings(self, now: Config) -> tuple[Field, ...]:
        """What the branch changes in the settings, in any environment, by path in policyctl.yaml."""
        before, after = self.config.written, now.written
        paths = [*before, *(path for path in after if path not in before)]
        return tuple(Field(path, was, becomes) for path in paths if (was := before.get(path)) != (becomes := after.get(path)))


def read_base(directory: Path, revision: str) -> Base:
    """The base of the checked out branch with a revision.

    Raises PolicyctlError when there is none, or when its policyctl.yaml is not valid, and UsageError for an unknown revision.
    """
    then = Revision(directory, merge_base(directory, revision))
    try:
        config = config_at(then)
    except InvalidInput as error:
        first = error.problems[0]
        raise PolicyctlError(
            f"where this branch left {revision}, {CONFIG_FILE} is not valid, so its safety settings cannot hold: {first}; "
            f"mend it on {revision} first"
        ) from None
    return Base(revision, config if config.path is None else config._replace(path=then.top / config.path))


def config_at(revision: Revision) -> Config:
    """The configuration that a revision had for its directory. Raises InvalidInput with every problem."""
    folders = PurePosixPath(f"{revision.folder}{CONFIG_FILE}").parents
    found = revision.entries([str(folder / CONFIG_FILE) for folder in folders])
    if not found:
        return NO_CONFIG
    from policyctl.load.config import config_of  # pydantic and its models cost 0.1 s

    nearest = max(found, key=lambda entry: entry.path.count("/"))
    return config_of(source_of(content_at(nearest, revision.contents([nearest])), nearest.path))


def is_readable(entry: Entry) -> bool:
    """Whether an entry of a revision is a file that is read."""
    return entry.kind == "file" and entry.size <= MAX_BYTES


def content_at(entry: Entry, contents: Mapping[str, bytes]) -> bytes:
    """What an entry of a revision held. Raises InvalidInput when it is no file, or too big."""
    if entry.kind != "file":
        raise InvalidInput([Problem(Mark(entry.path), "P008", f"is a {entry.kind}, which is not followed at a git revision")])
    if not is_readable(entry):
        raise InvalidInput([Problem(Mark(entry.path), "P007", f"has more than {MAX_BYTES // (1024 * 1024)} MiB")])
    return contents[entry.path]
