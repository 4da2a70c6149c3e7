"""What a git revision has: its policies and virtual models as a read-only remote, and which environments differ from it.

A pull request from a fork has no credentials; its plan against the branch it is for needs none. An environment is affected
unless it is proven to be what it was at the revision. Compared are all settings but labels, the content of the files that
they refer to, the lint rules, and what the files contain for an environment: policies, models, scenario tests, and documents
that use policies or models.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from policyctl.effect.tree import NOTHING, DeclaredModels
from policyctl.errors import InvalidInput, PolicyctlError, Problem, errors_in
from policyctl.load.base_config import CHANGES, BaseConfig, access_at, access_now, config_at, moves
from policyctl.load.directory import Files, model_addresses
from policyctl.load.discovery import find_files
from policyctl.load.environment import Config, Environment
from policyctl.load.git.revision import Revision
from policyctl.load.kinds import is_templated, is_test_file
from policyctl.load.past import files_at
from policyctl.load.urls import GIT, is_postgres
from policyctl.plan.diff import FieldChange
from policyctl.plan.plan import Desired
from policyctl.plan.settings import Settings
from policyctl.policy.document import canonical_text
from policyctl.policy.findings import which_of
from policyctl.policy.live import UnreadableRow, row_name
from policyctl.policy.virtual_model import VirtualModel, VirtualModelRow
from policyctl.remote import Closing

_POINTER = "P019"  # of a file in Git LFS


class GitReader(Closing):
    """Reads the policy directory at a revision, for one environment.

    Variables and `include` come from the same environment in the revision's own policyctl.yaml, so the rows are what an apply
    of that revision wrote, and a variable changed since is a change in the plan. If that environment does not exist there,
    today's is used. Virtual models are rows if they are managed today and were managed then. A directory that did not exist
    yet reads as empty. Files that are invalid at the revision are unreadable rows without a name, so that they do not block a
    plan that fixes them. A submodule that is checked out is read at the commit that the revision names.
    """

    embedded = True  # everything in the directory at that revision is the directory's own
    connections = None
    shows_keys = True

    def __init__(self, url: str, directory: Path, environment: Environment) -> None:
        """`url` is `git:REVISION`. Raises UsageError for an unknown revision, PolicyctlError without git or a repository."""
        self.identity = url
        self._revision = Revision(directory, url.removeprefix(GIT))
        self._environment = environment
        self._rows: list[Any] | None = None
        self._declared = NOTHING
        self._is_inventory: Callable[[str], bool] = lambda _: False

    def rows(self) -> list[Any]:
        if self._rows is None:
            environment, problems = self._environment_then()
            models = environment.settings.models and self._environment.settings.models
            self._rows = self._read(replace(environment, settings=Settings(models=models)), problems)
        return self._rows

    def find(self, names: Collection[str]) -> list[Any]:
        return [row for row in self.rows() if isinstance(row, dict) and row_name(row) in names]

    @property
    def declared(self) -> DeclaredModels:
        """What the files declared about models at the revision."""
        self.rows()
        return self._declared

    def models(self) -> frozenset[str]:
        return frozenset()

    def sources(self) -> None:
        """A revision has files alone."""

    def close(self) -> None:
        """There is nothing to close."""

    def _environment_then(self) -> tuple[Environment, Sequence[Problem]]:
        """The environment at the revision, else today's, and the problems of the configuration there."""
        try:
            config = config_at(self._revision)
        except InvalidInput as error:
            return self._environment, error.problems
        self._is_inventory = config.is_inventory
        return config.environments.get(self._environment.name, self._environment), ()

    def _read(self, environment: Environment, problems: Sequence[Problem]) -> list[Any]:
        """The rows: a document for every policy and virtual model, and one `UnreadableRow` for every file with errors."""
        files = files_at(self._revision, problems, self._is_inventory)
        loaded = files.load(environment)
        self._declared = loaded.declared
        self._refuse_pointers(loaded.problems)
        named = Counter(one.name for one in loaded.desired)
        single = [one for one in loaded.desired if named[one.name] == 1]
        return [*map(_row, single), *self._unreadable(errors_in(loaded.problems))]

    def _refuse_pointers(self, problems: Sequence[Problem]) -> None:
        """Raise PolicyctlError for a file in Git LFS: its content at the revision is unknown, so all of it would look new."""
        if pointer := next((problem for problem in problems if problem.code == _POINTER), None):
            raise PolicyctlError(
                f"{pointer.mark.file} is kept in Git LFS, so {self.identity} cannot be compared with; plan against the remote, "
                "or keep policies in git itself"
            )

    def _unreadable(self, problems: Sequence[Problem]) -> Iterator[UnreadableRow]:
        by_file: defaultdict[str, list[Problem]] = defaultdict(list)
        for problem in problems:
            by_file[problem.mark.file].append(problem)
        for file, found in by_file.items():
            more = f" (and {len(found) - 1} more in this file)" if len(found) > 1 else ""
            yield UnreadableRow(f"{self.identity.removeprefix(GIT)}:{found[0]}{more}", None, file)


def _row(desired: Desired) -> dict[str, Any]:
    row = {"id": f"{desired.file}#{desired.index + 1}", **desired.document}
    return VirtualModelRow(row) if isinstance(desired, VirtualModel) else row


def affected_since(directory: Path, now: Config, names: Sequence[str], revision: str) -> tuple[str, ...]:
    """Those of the environments that differ from a revision; one that is new, or cannot be used, is among them.

    Raises UsageError for an unknown revision, and InvalidInput if a policyctl.yaml there is not valid.
    """
    then = Revision(directory, revision)
    before = config_at(then)
    before = before if before.path is None else before._replace(path=then.top / before.path)
    if _place(before) != _place(now) or before.lint != now.lint:  # paths in settings start from the file's folder
        return tuple(names)
    own = _Contents(_files_now(directory, now))
    old = _Contents(files_at(then, is_inventory=before.is_inventory, several=True, tests=True))
    reached = _SameAccess(directory, now, then, before)

    def differs(name: str) -> bool:
        one, other = now.environments.get(name), before.environments.get(name)
        if one is None or other is None or _settings(one) != _settings(other) or not reached(one, other):
            return True
        content = own.of(one)
        return content is None or bool(content != old.of(other))

    return tuple(name for name in names if differs(name))


def _files_now(directory: Path, now: Config) -> Files:
    found = [file for file in find_files(directory, may_be_empty=True).files if not now.is_inventory(file)]
    return Files(found, root=directory, several=True)


def _place(config: Config) -> Path | None:
    return None if config.path is None else config.path.resolve()


def _settings(environment: Environment) -> tuple[Any, ...]:
    share = environment.settings.partial
    return environment.digest, share, environment.remote, environment.auth, environment.ca_file, environment.suspend


class _SameAccess:
    """Whether files that equal settings refer to have the same content: asked once for each way to log in."""

    def __init__(self, directory: Path, now: Config, then: Revision, before: Config) -> None:
        self._own = access_now(directory, now)
        self._old = partial(access_at, then, before)
        self._known: dict[str, bool] = {}

    def __call__(self, one: Environment, other: Environment) -> bool:
        auth = None if one.auth is None else one.auth.model_dump(exclude_none=True)
        remote = one.remote if is_postgres(one.remote) else ""  # which names files too
        key = canonical_text([one.ca_file, auth, remote])
        if key not in self._known:
            self._known[key] = self._own(replace(one, remote=remote)) == self._old(replace(other, remote=remote))
        return self._known[key]


class _Contents:
    """What files contain, computed once for environments with the same settings."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._known: dict[str, Any] = {}
        self._hashes: dict[str, str] = {}
        self._addresses = _Addresses(files)

    def of(self, environment: Environment) -> Any:
        """All that a plan or a test sees of the files, as one comparable value; None where they have errors."""
        if environment.digest not in self._known:
            self._known[environment.digest] = self._content(environment)
        return self._known[environment.digest]

    def _content(self, environment: Environment) -> Any:
        loaded = self._files.load(environment, suites=False)
        if errors_in(loaded.problems):
            return None
        return (
            sorted((one.name, canonical_text(one.document)) for one in loaded.desired),
            sorted(loaded.models),
            canonical_text([dict(loaded.declared.timeouts), dict(loaded.declared.types)]),
            sorted((model, sorted(settings)) for model, settings in self._addresses.of(environment).items()),
            sorted(repr(one.consumer) for one in loaded.consumers),
            sorted((self._files.relative(file), self._hash(file)) for file in loaded.tested),
            sorted(problem.message for problem in loaded.problems),
        )

    def _hash(self, file: str) -> str:
        if file not in self._hashes:
            self._hashes[file] = sha256(self._files.contents[file]).hexdigest()
        return self._hashes[file]


_Models = Mapping[str, frozenset[tuple[str, str]]]  # by a model's short name its settings, with where they lead
_UNREAD = FieldChange("models", None, "where the gateway sends requests may change: the files of the base cannot be read")


class _Addresses:
    """Where the gateway sends the requests to each model that files declare, and with which key, by environment."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.unread = False  # whether the content of a file is not known
        self._known: dict[tuple[str, str], list[tuple[str, dict[str, str]]]] = {}

    def of(self, environment: Environment) -> _Models:
        """What leads each model. Where one is declared twice, both are kept."""
        found: defaultdict[str, frozenset[tuple[str, str]]] = defaultdict(frozenset)
        variables = canonical_text(environment.vars)
        for file, content in self.files.contents.items():
            if not is_test_file(file) and self.files.includes(file, environment):
                key = file, variables if is_templated(content) else ""
                if key not in self._known:
                    self._known[key] = self._read(file, environment)
                for model, settings in self._known[key]:
                    if settings:
                        found[model] = found[model].union(settings.items())
        return found

    def _read(self, file: str, environment: Environment) -> list[tuple[str, dict[str, str]]]:
        try:
            return list(model_addresses(self.files.source(file), environment.vars))
        except InvalidInput as error:  # nothing runs with what cannot be parsed
            self.unread = self.unread or any(problem.code == _POINTER for problem in error.problems)
            return []


def moved_addresses(directory: Path, now: Config, base: BaseConfig) -> tuple[FieldChange, ...]:
    """What a branch changes in where the gateway sends the requests to models, and with which key. A gateway may run as any
    environment, so all count. What is the same in several is one row, which names them unless it is for all.

    A model of a new environment has not changed if an environment of the base has it in the same way. If files of the base
    cannot be read, that is a row too.
    """
    left = base.start
    before = left.config.environments
    own = _Addresses(_files_now(directory, now))
    try:
        old = _Addresses(files_at(left.then, is_inventory=left.config.is_inventory, several=True))
    except PolicyctlError:
        return (_UNREAD,)
    if all(name in before and before[name].include == one.include for name, one in now.environments.items()):
        _leave_out_equal(own.files, old.files)
    known = cache(lambda: {item for one in before.values() for item in old.of(one).items()})
    changes = cache(partial(moves, left.then, left.config, now))
    found: dict[FieldChange, list[str]] = {}
    for name, environment in now.environments.items():
        after = own.of(environment)
        if name in before:
            then = old.of(before[name])
        else:
            then = {model: settings for model, settings in after.items() if (model, settings) in known()}
        for row in _moved(then, after, changes):
            found.setdefault(row, []).append(name)
    if old.unread:
        found[_UNREAD] = [*now.environments]
    every = [*now.environments]
    return tuple(
        row if names == every else row._replace(path=f"{row.path} in {which_of(names, every)}") for row, names in found.items()
    )


def _leave_out_equal(own: Files, old: Files) -> None:
    """Leave out the files without templates and references to files that both have: they lead to the same place in every
    environment."""
    then = {old.relative(file): content for file, content in old.contents.items()}
    now = {own.relative(file): content for file, content in own.contents.items()}
    equal = {
        path
        for path, content in now.items()
        if then.get(path) == content and not (is_templated(content) or b"file:" in content)
    }
    for files in (own, old):
        files.contents = {file: content for file, content in files.contents.items() if files.relative(file) not in equal}


def _moved(then: _Models, now: _Models, changes: Callable[[str], bool]) -> Iterator[FieldChange]:
    """What leads models elsewhere; `changes` is whether the branch changes the content at a reference."""
    for model in sorted(then.keys() | now.keys()):
        was, becomes = (_texts(models.get(model, frozenset())) for models in (then, now))
        for key in sorted(was.keys() | becomes.keys()):
            if was.get(key) != becomes.get(key):
                yield FieldChange(f"models.{model}.{key}", was.get(key), becomes.get(key))
            elif key == "api_key" and changes(was[key]):
                yield FieldChange(f"models.{model}.{key}", was[key], f"{was[key]}{CHANGES}")


def _texts(settings: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, text in sorted(settings):
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found
