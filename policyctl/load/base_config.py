"""policyctl.yaml as it was at a git revision, and the settings of a branch's base, which apply to its pull requests.

So do the files of the base that settings refer to (`ca_file`, `file:` in auth, notify and gateway, and those that the URL of a
PostgreSQL database names): such a file decides who receives a login or a notification, and which login. While a branch is
reviewed, a change to it is a change of settings, and that of an environment is part of the access that a merge approves.
"""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from policyctl.errors import InvalidInput, Mark, PolicyctlError, Problem, Refused, UsageError
from policyctl.load.environment import NO_CONFIG, Config, Environment, EnvironmentFilter, dotted, parted
from policyctl.load.git.repository import named_in
from policyctl.load.git.revision import Revision, TreeEntry, commit_of, merge_base_of, required_repository, staged
from policyctl.load.kinds import CONFIG_FILE
from policyctl.load.source import MAX_BYTES, SUFFIXES, Source, bounded, read_bounded, source_of
from policyctl.load.urls import LOCAL, is_http, postgres_files
from policyctl.plan.approval import WAY_KEYS, of_several
from policyctl.plan.diff import FieldChange
from policyctl.policy.document import canonical_text, digest, hidden_mark
from policyctl.policy.findings import HIDDEN, which_of
from policyctl.policy.memo import Memo

_TEMPLATES = "templates."  # begins the origin of a setting
_LEADING = WAY_KEYS | {"gateway", "notify"}  # keys of what decides where credentials go


class BaseCommits(NamedTuple):
    """The commit of the revision that a branch will be merged into, and the one where the checked-out branch left it. Where
    these are not known, the revision as the user wrote it."""

    revision: str
    left: str | None = None


def base_commits(directory: Path, revision: str) -> BaseCommits:
    """The commits of a base, for the checked-out branch.

    Raises UsageError for an unknown revision, PolicyctlError without git, a repository, or a common commit.
    """
    repository, _ = required_repository(directory)
    commit = commit_of(repository, revision)
    return BaseCommits(commit, merge_base_of(repository, revision, commit))


@dataclass(frozen=True, slots=True)
class BaseConfig:
    """The configuration at the revision that a branch will be merged into; `revision` is as the user wrote it.

    `then` is its commit, `held` the content there of the files that the configuration refers to. `left` is the same for the
    commit where the branch left the revision, if the revision has moved on: differences from there are the branch's own.
    """

    revision: str
    config: Config
    then: Revision
    held: Held
    left: BaseConfig | None = None

    @property
    def start(self) -> BaseConfig:
        """The configuration where the branch left the revision, with which the branch's own changes begin."""
        return self.left or self

    @property
    def commits(self) -> BaseCommits:
        """The commit of the revision, and the one where the branch left it."""
        return BaseCommits(self.then.commit, self.start.then.commit)

    def choose(self, name: str | None, now: Config) -> Environment:
        """The branch's environment of that name. Without a name: the base's default if the branch has it, else its own."""
        return now.environment(name or (self.config.default if self.config.default in now.environments else None))

    def holds_for(self, now: Environment, *, own_remote: bool) -> Environment:
        """The branch's environment with everything except its variables and `include` as at the base.

        An environment that the base does not have gets the base's shared settings. Raises Refused if its `own_remote` is used
        and is not the embedded one: that address has not been reviewed yet.
        """
        then = self.config.environments.get(now.name)
        if then is None and own_remote and now.remote != LOCAL:
            raise Refused(
                f"environment {now.name} is new in this branch, so its remote has not been reviewed; merge it first, "
                f"or plan with --remote git:{self.revision}"
            )
        then = then or replace(self.config.shared, name=now.name)
        return replace(then, vars=now.vars, include=now.include)

    def access(self, environment: Environment) -> str:
        """How the remote of an environment from `holds_for` is reached (see `access_at`)."""
        return access_at(self.then, self.config, environment)

    def settings(self, now: Config, environment: str) -> tuple[FieldChange, ...]:
        """What the branch changes in the settings, by path in policyctl.yaml, and which files that they refer to it changes.

        First what applies to this environment, beginning with where credentials go; then the other environments, one by one.
        What a template changes in several environments is one line.
        """

        left = self.start
        before, after = ({**one.written, **dict(_addressed(one))} for one in (left.config, now))
        paths = [*before, *(path for path in after if path not in before)]
        fields = [
            FieldChange(path, was, becomes) for path in paths if (was := before.get(path)) != (becomes := after.get(path))
        ]
        was, becomes = (one.path and os.path.relpath(one.path, left.then.top) for one in (left.config, now))
        if was and becomes and was != becomes:
            fields.append(FieldChange(CONFIG_FILE, was, becomes))  # paths in it start from there
        fields += changed_since(left.then, left.config, left.held, now)
        return tuple(_once_a_template(sorted(fields, key=partial(_rank, environment)), left.config, now))


def _addressed(config: Config) -> Iterator[tuple[str, Any]]:
    """Where keys of the gateway and notifications go, by path in policyctl.yaml."""
    for name, connection in config.connections.items():
        yield from ((dotted("gateway", "connections", name, key), item) for key, item in connection._asdict().items())
    for one in config.receivers:
        shown = one._asdict() | {"url": _shown_address(one.url), "states": list(one.states)}
        yield from ((dotted("notify", one.name, key), item) for key, item in shown.items() if key != "name")


def _shown_address(url: str) -> str:
    """A reference as it is; of an address its server and a hash of the rest, since a path may be as good as a password."""
    parts = urlsplit(url)
    if not is_http(url) or parts.path in ("", "/"):
        return url
    return f"{parts.scheme}://{parts.netloc}/{HIDDEN} ({hidden_mark(url)})"


def _rank(environment: str, field: FieldChange) -> tuple[bool, str, bool]:
    head, rest = parted(field.path)
    elsewhere = parted(rest)[0] if head == "environments" and parted(rest)[0] != environment else ""
    leads = not _LEADING.isdisjoint(field.path.split("."))
    return bool(elsewhere), elsewhere, not leads


def _once_a_template(fields: Sequence[FieldChange], then: Config, now: Config) -> Iterator[FieldChange]:
    """The changes, with those that a template makes in several environments once: at the template, with how many they are.

    Environments that are new, or that the branch gives other templates, are named: their template may not have changed at all.
    """
    found: dict[tuple[_Place, bool, str], list[tuple[str, FieldChange]]] = {}
    for one in fields:
        name, place = _place_of(one.path, now) or _place_of(one.path, then) or ("", _Place(one.path))
        moved = _templates_of(name, now) != _templates_of(name, then)
        found.setdefault((place, moved, canonical_text([one.before, one.after])), []).append((name, one))
    for (place, moved, _), same in found.items():
        names = [name for name, _ in same]
        which = ", ".join(names) if moved else which_of(names, _having(place.template, then, now))
        template = f"{dotted('templates', place.template)}.{place.setting} ({len(names):,} environments: {which})"
        path = f"{place.setting} of {which}" if moved else template
        yield same[0][1] if len(same) == 1 else same[0][1]._replace(path=path)


class _Place(NamedTuple):
    """Where a setting of an environment is written: in a template, or at a path of its own."""

    setting: str
    template: str = ""


def _place_of(path: str, config: Config) -> tuple[str, _Place] | None:
    """`prod`, and `limits.max_removes` of the template gold, for a setting of a generated environment that comes from there."""
    head, rest = parted(path)
    name, setting = parted(rest)
    if head != "environments" or name not in config.origins:
        return None
    above = [setting, setting.rpartition(".")[0], setting.partition(".")[0]]
    origin = next((config.origins[name][one] for one in above if one in config.origins[name]), "")
    return (name, _Place(setting, origin.removeprefix(_TEMPLATES))) if origin.startswith(_TEMPLATES) else None


def _having(template: str, then: Config, now: Config) -> list[str]:
    """The environments that are in both configurations, and have or had settings from a template."""
    both = (name for name in now.origins if name in then.origins)
    return [name for name in both if f"{_TEMPLATES}{template}" in _templates_of(name, then) | _templates_of(name, now)]


def _templates_of(name: str, config: Config) -> frozenset[str]:
    """The templates that an environment has settings from."""
    return frozenset(one for one in config.origins.get(name, {}).values() if one.startswith(_TEMPLATES))


def read_base(directory: Path, revision: str) -> BaseConfig:
    """The base of the checked out branch: a revision as it is now, not where the branch started.

    Raises PolicyctlError when the two have no common commit or a policyctl.yaml there is invalid, UsageError for an unknown
    revision.
    """
    then = Revision(directory, revision)
    left = merge_base_of(then.repository, revision, then.commit)
    base = _base_of(revision, then, f"on {revision}")
    if left == then.commit:
        return base
    return replace(base, left=_base_of(revision, Revision(directory, left), f"where this branch left {revision}"))


def _base_of(revision: str, then: Revision, where: str) -> BaseConfig:
    try:
        config = config_at(then)
    except InvalidInput as error:
        first = error.problems[0]
        raise PolicyctlError(
            f"{where}, {CONFIG_FILE} is not valid, so its safety settings are unknown: {first}; fix it on {revision} first"
        ) from None
    config = config if config.path is None else config._replace(path=then.top / config.path)
    return BaseConfig(revision, config, then, held_at(then, config))


_AT = Memo[Config]()


def config_at(revision: Revision) -> Config:
    """The configuration of a revision for its directory. Raises InvalidInput with every problem."""
    return _AT.of(lambda: (str(revision.top), revision.commit, revision.folder), lambda: _config_at(revision))


def in_checkout(config: Config, then: Revision) -> Config:
    """A configuration of a revision, whose paths start at the top of the repository, with its paths in the checkout."""
    if config.path is None:
        return config
    return config._replace(path=then.top / config.path, inventories=tuple(then.top / one for one in config.inventories))


def _config_at(revision: Revision) -> Config:
    paths = config_paths(revision.folder)
    found = {entry.path: entry for entry in revision.entries(paths)}

    def content(path: str) -> bytes | None:
        entries = [found[path]] if path in found else revision.entries([path])
        return reading_base(revision, entries)(path) if entries else None

    nearest = next((path for path in paths if path in found), None)
    return NO_CONFIG if nearest is None else config_in(nearest, content)


def config_paths(folder: str) -> list[str]:
    """Where the configuration of a directory may be, the nearest first. All paths are from the repository's top."""
    return [str(above / CONFIG_FILE) for above in PurePosixPath(f"{folder}{CONFIG_FILE}").parents]


def config_in(file: str, content: Callable[[str], bytes | None]) -> Config:
    """The configuration in a file. `content` returns that of a path from the repository's top; None if there is no such file.

    Raises InvalidInput with every problem.
    """
    from policyctl.load.config import config_of  # pydantic and its models cost 0.1 s

    def beside(name: str) -> tuple[bytes, str]:
        path = str(PurePosixPath(file).parent / name)
        found = content(path)
        if found is None:
            raise InvalidInput([Problem(Mark(path), "P001", "the file does not exist; correct the path")])
        return found, path

    return config_of(source_of(content(file) or b"", file), beside)


def mark_of_several(config: Config, chosen: EnvironmentFilter, mark: Callable[[Environment], str]) -> str | None:
    """One hash for that of each of the chosen environments of a configuration; None if there are none."""
    try:
        names = chosen.choose(config.labels, config.unlabelled)
    except UsageError:  # it has none of these
        return None
    found = [config.environments[name] for name in names if name in config.environments]
    return of_several({one.name: mark(one) for one in found})


def access_and_rules(directory: Path, config: Config, names: Collection[str]) -> tuple[str, str]:
    """How the remotes of several environments are reached now, and their safety settings, as hashes."""
    found = [config.environments[name] for name in names if name in config.environments]
    access_of = access_now(directory, config)
    access = of_several({one.name: access_of(one) for one in found})
    return access, of_several({one.name: one.rules for one in found})


def sources_at(files: Sequence[Path], revision: str) -> dict[Path, Source]:
    """These files at a revision of their repositories, read together; files that did not exist are left out.

    The sources are named `REVISION:path`. Raises UsageError for an unknown revision, PolicyctlError without git or outside a
    repository, Refused for a path with a link, and InvalidInput for content that cannot be parsed.
    """
    by_folder: defaultdict[Path, list[Path]] = defaultdict(list)
    homes = cache(named_in)  # which refuses a link on the way to any of them
    for file in files:
        home = homes(file.parent)
        by_folder[home[0].top if home else file.parent].append(file)
    found: dict[Path, Source] = {}
    for group in by_folder.values():
        folder = Path(os.path.commonpath([os.path.abspath(file.parent) for file in group]))
        then = Revision(folder, revision)
        entries = {entry.path: entry for entry in then.files() if entry.kind == "file"}
        wanted = {path: file for file in group if (path := f"{then.folder}{_below(file, folder)}") in entries}
        read = reading_base(then, [entries[path] for path in wanted])
        found |= {file: source_of(read(path), f"{revision}:{file}") for path, file in wanted.items()}
    return found


def _below(file: Path, folder: Path) -> str:
    return Path(os.path.relpath(file, folder)).as_posix()


def is_policy_file(entry: TreeEntry, folder: str) -> bool:
    """Whether loading the directory at a path from the top would read an entry: no hidden path, no configuration."""
    path = PurePosixPath(entry.path.removeprefix(folder))
    if any(part.startswith(".") for part in path.parts) or path.stem == "policyctl":
        return False
    return entry.kind == "submodule" or path.suffix in SUFFIXES


def reading_base(revision: Revision, entries: Sequence[TreeEntry]) -> Callable[[str], bytes]:
    """A function that returns the content of each of these entries, by path; all are read at once.

    It raises InvalidInput for an entry that is not a file, or is too big. Raises PolicyctlError, with the remedy, if the
    repository lacks the content of one.
    """
    kinds = {entry.path: entry.kind for entry in entries}
    files = [entry for entry in entries if entry.kind == "file"]
    sizes = revision.sizes(files)
    contents = revision.contents([entry for entry in files if (sizes[entry.path] or 0) <= MAX_BYTES])

    def read(path: str) -> bytes:
        if kinds[path] != "file":
            why = f"is a {kinds[path]}, which is not followed at a git revision; copy the file instead"
            raise InvalidInput([Problem(Mark(path), "P008", why)])
        if path not in contents:
            raise InvalidInput([Problem(Mark(path), "P007", f"has more than {MAX_BYTES // (1024 * 1024)} MiB; split it")])
        return contents[path]

    return read


_FILE = "file:"
CHANGES = ", whose content this branch changes"
_SECRETS = ("api_key", "password", "token")  # the references of auth
Held = Mapping[Path, bytes | str]  # the content of a file, or as text the reason why it cannot be read


def held_at(then: Revision, config: Config) -> dict[Path, bytes | str]:
    """The content of the files that a base's settings refer to, by path; `config` is the base's, with its path here.

    Files outside any repository are left out, such as secrets that a CI service writes or certificates of the machine. Raises
    PolicyctlError if git cannot be asked, or lacks the content of a file.
    """
    found: dict[Path, bytes | str] = {}
    for path in dict.fromkeys(_folder(config) / one.path for one in _references(config)):
        if (content := _content(then, path)) is not None:
            found[path] = content
    return found


def changed_since(then: Revision, base: Config, held: Held, now: Config) -> Iterator[FieldChange]:
    """A field for each setting that refers to the same file by the same path in a branch, where the file's content differs."""
    before = {one.key: one.path for one in _references(base)}
    is_same = cache(partial(_is_same, then))  # many environments may refer to one file
    for one in _references(now):
        at, path = _folder(base) / one.path, _folder(now) / one.path
        if before.get(one.key) == one.path and (was := held.get(at)) is not None and not is_same(at, was, path):
            yield FieldChange(one.key, one.shown, f"{one.shown}{CHANGES}")


def moves(then: Revision, base: Config, now: Config, reference: str) -> bool:
    """Whether a branch changes the content of the repository's file at a reference of both, such as `file:keys/openai`."""
    where = reference.removeprefix(_FILE)
    was = _content(then, _folder(base) / where) if reference.startswith(_FILE) else None
    return was is not None and not _is_same(then, _folder(base) / where, was, _folder(now) / where)


def read_referred(held: Held, path: Path, most: int) -> bytes:
    """The content of a file that a setting refers to: what is held, else what the disk has. Raises OSError if it cannot be
    read or has more than `most` bytes."""
    content = held.get(path)
    if isinstance(content, str):
        raise OSError(errno.EINVAL, f"it {content}")
    return read_bounded(path, most) if content is None else bounded(content, most)


def access_at(then: Revision, config: Config, environment: Environment) -> str:
    """A hash of a remote's address, how to log in and which authorities to trust: the settings, and the content at a revision
    of the repository's files that they refer to. `config` is that revision's, with its path in this checkout.

    It covers references to secrets and hashes of committed files, never a secret that a CI service writes. Raises
    PolicyctlError if git cannot be asked.
    """

    def mark(path: Path) -> str | None:
        entry = _first(then.at, then.top, path)
        if entry is None:
            return None
        content = _content(then, path)
        return f"{entry.kind} {entry.id}" if content is None or isinstance(content, str) else _mark(content)

    return _access(config, mark, environment)


def access_now(directory: Path, config: Config) -> Callable[[Environment], str]:
    """What gives the same for environments in the checkout, with files as they are on the disk: git may convert a file when it
    writes it. The repository is looked for once."""
    if (found := named_in(directory)) is None:
        return partial(_access, config, lambda _: None)
    repository = found[0]

    def mark(path: Path) -> str | None:
        entry = _first(partial(staged, repository), repository.top, path)  # a repository may have no commit yet
        if entry is None:
            return None
        try:
            content = _mark(read_bounded(path, MAX_BYTES))
        except OSError:
            content = "unreadable"
        return content if entry.kind == "file" else f"{entry.kind} {entry.id} {content}"

    return partial(_access, config, mark)


def referred_paths(top: Path, config: Config) -> list[str]:
    """The paths, from a repository's top, of the files in it that a configuration refers to, inventories too."""
    paths = [*(_folder(config) / one.path for one in _references(config)), *config.inventories]
    return [below.as_posix() for path in paths for below in _within(top, path)]


def _access(config: Config, mark: Callable[[Path], str | None], environment: Environment) -> str:
    auth = None if environment.auth is None else environment.auth.model_dump(exclude_none=True)
    access: dict[str, Any] = {"remote": environment.remote, "auth": auth, "ca_file": environment.ca_file}
    marks = {one.key: found for one in _of(environment) if (found := mark(_folder(config) / one.path)) is not None}
    return digest(access | ({"files": marks} if marks else {}))


def _mark(content: bytes) -> str:
    return sha256(_lines(content)).hexdigest()


class _Reference(NamedTuple):
    """A setting that refers to a file: its key, the file's path as written, and how a change of it is shown."""

    key: str
    path: str
    shown: str


def _references(config: Config) -> Iterator[_Reference]:
    """The settings that refer to files, by their paths in policyctl.yaml."""
    for name, environment in config.environments.items():
        yield from (one._replace(key=f"{dotted('environments', name)}.{one.key}") for one in _of(environment))
    for name, connection in config.connections.items():
        yield from _secret(dotted("gateway", "connections", name, "api_key"), connection.api_key)
    for receiver in config.receivers:
        yield from _secret(dotted("notify", receiver.name, "url"), receiver.url)
        yield from _secret(dotted("notify", receiver.name, "secret"), receiver.secret)


def _of(environment: Environment) -> Iterator[_Reference]:
    """The settings of an environment that refer to files, by key."""
    if (file := environment.ca_file) is not None:
        yield _Reference("ca_file", file, file)
    for key, path in postgres_files(environment.remote).items():
        yield _Reference(f"remote.{key}", path, os.path.relpath(path))
    for key in _SECRETS if environment.auth is not None else ():
        yield from _secret(f"auth.{key}", getattr(environment.auth, key))


def _secret(key: str, reference: str | None) -> Iterator[_Reference]:
    if reference is not None and reference.startswith(_FILE):
        yield _Reference(key, reference.removeprefix(_FILE), reference)


def _folder(config: Config) -> Path:
    return Path() if config.path is None else config.path.parent


def _content(then: Revision, path: Path) -> bytes | str | None:
    """The content of a file; None if neither the revision nor the checked out branch has it."""
    entry = _first(then.at, then.top, path)
    if entry is None:
        return None if _first(then.staged, then.top, path) is None else "is new in this branch"
    if entry.kind != "file":
        return f"is a {entry.kind} at the base, or below one, which is not followed at a revision"
    if (then.sizes([entry])[entry.path] or 0) > MAX_BYTES:
        return f"has more than {MAX_BYTES:,} bytes at the base"
    return then.contents([entry])[entry.path]


def _is_same(then: Revision, at: Path, was: bytes | str, path: Path) -> bool:
    """Whether a branch leaves a file unchanged, both in git and on the disk."""
    before, after = _first(then.at, then.top, at), _first(then.staged, then.top, path)
    if isinstance(was, str) or before is None or after is None or (before.kind, before.id) != (after.kind, after.id):
        return False
    try:
        return _lines(read_bounded(path, MAX_BYTES)) == _lines(was)
    except OSError:
        return False


def _lines(content: bytes) -> bytes:
    return content.replace(b"\r\n", b"\n")


def _first(look: Callable[[str], TreeEntry | None], top: Path, path: Path) -> TreeEntry | None:
    """What git has at a path as written, else at the path that links outside the repository lead to."""
    return next((entry for one in _within(top, path) if (entry := look(one.as_posix()))), None)


def _within(top: Path, path: Path) -> list[Path]:
    """A path from the top, as written and with links followed; nothing for a path outside."""
    if "\0" in str(path):  # not a file name
        return []
    named, real = Path(os.path.abspath(path)), Path(os.path.realpath(path))
    below = [named.relative_to(above) for above in named.parents if os.path.realpath(above) == str(top)][:1]
    return below + ([real.relative_to(top)] if real.is_relative_to(top) else [])
