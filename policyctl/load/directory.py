"""A directory of policy files as one set of policies, with the rules that hold across files."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from policyctl.core.order import find_cycle
from policyctl.errors import InvalidInput, Mark, Problem, errors_in
from policyctl.lint.catalogue import DEEP_CODES, DEFAULT_CODES, REFERENCE_CODES
from policyctl.load.cache import Cache
from policyctl.load.contents import Contents, holds_tests
from policyctl.load.environment import Environment
from policyctl.load.ignoring import Ignored
from policyctl.load.kinds import CONFIG_FILE
from policyctl.load.reading import Reading
from policyctl.load.source import SUFFIXES, Source, read_bytes
from policyctl.model.complaints import Complaint
from policyctl.model.names import full_model
from policyctl.model.policy import Policy

if TYPE_CHECKING:
    from policyctl.core.scenario import Suite


class Loaded(NamedTuple):
    """What a directory says for one environment. `policies` are those without errors, sorted by name.

    `models` are the virtual models that it declares, `timeouts` what they say of their own (seconds, by full name);
    `mark_of` gives a complaint about one of the policies, or about its tests, its place. `suites` are the scenario tests
    without problems; `test_problems` stop nobody who only plans or applies.
    """

    policies: tuple[Policy, ...]
    models: frozenset[str]
    problems: tuple[Problem, ...]
    skipped: Counter[str]
    files: int
    mark_of: Callable[[Policy | Suite, Complaint], Problem]
    timeouts: Mapping[str, float] = MappingProxyType({})
    suites: tuple[Suite, ...] = ()
    test_problems: tuple[Problem, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """The canonical names of the policies."""
        return frozenset(policy.name for policy in self.policies)


class Files:
    """Policy files, each read and parsed once, whatever is asked of them afterwards."""

    def __init__(
        self,
        files: Iterable[str],
        problems: Iterable[Problem] = (),
        root: Path | None = None,
        *,
        codes: frozenset[str] = DEFAULT_CODES,
        whole: bool = False,
        deep: bool = False,
        read: Callable[[str], bytes] = read_bytes,
        cache: Cache | None = None,
        on_file: Callable[[], object] = lambda: None,
    ) -> None:
        """`problems` are those of finding the files; `root` is what `include` patterns are relative to.

        `codes` are those of the lint rules to run. `whole` says that these are all files of their directory, so that a
        name that none of them declares is declared nowhere. `deep` asks for the rules of the effect engine too. `read` gives
        what a file holds, or raises InvalidInput. `cache` may know what files say. `on_file` is told of each one that was read.
        """
        self.root = root
        self.codes = codes if deep else codes - DEEP_CODES
        self.whole = whole
        self.problems = list(problems)
        self._linted: dict[str, None] = {}  # the files without errors so far, in order
        self._broken: set[str] = set()
        contents: dict[str, bytes] = {}
        for file in files:
            try:
                contents[file] = read(file)
            except InvalidInput as error:
                self.problems += error.problems
            on_file()
        self._reading = Reading(contents, self.codes, cache or Cache())
        self._ignored = Ignored(contents)

    def load(self, environment: Environment, on_file: Callable[[], object] = lambda: None) -> Loaded:
        """What the files say for one environment; `on_file` is told of each one that had to be read."""
        everything, tests, files = Contents(problems=list(self.problems)), [], 0
        for file, contents in self._reading.contents(environment.vars, on_file).items():
            if isinstance(contents, InvalidInput):
                everything.problems += contents.problems
            elif self.includes(file, environment):
                everything.add(contents)
                self._linted[file] = None
                files += 1
                if holds_tests(file, contents):
                    tests.append(file)
        everything.problems += self._across_files(everything, environment)
        errors = errors_in(everything.problems)
        self._broken.update(problem.mark.file for problem in errors)
        if self.whole and not errors:
            everything.problems += self._unknown(everything, environment)
        everything.problems += self._deep(everything)
        suites, test_problems = self._tests(tests, environment, None if errors else everything.policies)
        policies = sorted(everything.policies, key=lambda policy: policy.name)
        problems = sorted(set(self._ignored.without_ignored(everything.problems)))
        return Loaded(
            tuple(policies),
            frozenset(everything.models),
            tuple(problems),
            Counter(everything.skipped),
            files,
            self.mark_of,
            everything.timeouts,
            suites,
            test_problems,
        )

    def source(self, file: str) -> Source:
        """One of the files, parsed once more."""
        return self._reading.source(file)

    def comment_problems(self) -> list[Problem]:
        """What is wrong with the ignore comments; asked when every environment was loaded, since each may need them."""
        judged = self.codes if self.whole and not self._broken else self.codes - REFERENCE_CODES - DEEP_CODES
        files = [file for file in self._linted if file not in self._broken]
        return [problem for problem in self._ignored.problems(judged, files) if problem.code in self.codes]

    def includes(self, file: str, environment: Environment) -> bool:
        """Whether a file of the directory is one of those that the environment takes."""
        if environment.include is None or self.root is None:
            return True
        relative = Path(file).relative_to(self.root).as_posix()
        return any(fnmatchcase(relative, pattern) for pattern in environment.include)

    def mark_of(self, about: Policy | Suite, complaint: Complaint) -> Problem:
        """A complaint about a policy of these files, or about tests, as a problem at its place."""
        from policyctl.load.locate import to_problems

        return to_problems(self.source(about.file), about.index, [complaint])[0]

    def _tests(
        self, files: list[str], environment: Environment, policies: list[Policy] | None
    ) -> tuple[tuple[Suite, ...], tuple[Problem, ...]]:
        """The scenario tests and what is wrong with them; `policies` are all there are, None when that is not known."""
        if not files:
            return (), ()
        from policyctl.core.judge import misfits  # with the effect engine behind it, and pydantic behind the other
        from policyctl.load.scenarios import read_suites

        suites: list[Suite] = []
        problems: list[Problem] = []
        for file in files:
            own, found = read_suites(self.source(file), environment.vars)
            suites += own
            problems += found
        if self.whole and policies is not None:
            documents = {policy.name: policy.document for policy in policies}
            problems += [self.mark_of(suite, complaint) for suite in suites for complaint in misfits(suite, documents)]
        return tuple(suites), tuple(sorted(problems))

    def _across_files(self, everything: Contents, environment: Environment) -> Iterator[Problem]:
        policies = everything.policies
        yield from self._duplicates(policies)
        for policy in policies:
            if not environment.settings.in_scope(policy.name):
                message = f"{policy.name} is outside the scope of environment {environment.name}; widen scope or rename it"
                yield self.mark_of(policy, Complaint(("name",), "P203", message))
        if cycle := find_cycle(everything.references):
            first = next(policy for policy in policies if policy.name == cycle[0])
            message = f"policies target each other in a circle: {' → '.join(cycle)}"
            yield self.mark_of(first, Complaint(("name",), "P202", message))

    def _unknown(self, everything: Contents, environment: Environment) -> Iterator[Problem]:
        """Targets that no file declares; only where that is certain to be all there is."""
        if not everything.models and not everything.references:
            return
        from policyctl.lint.references import check as check_references

        policies = frozenset(policy.name for policy in everything.policies)
        models = frozenset(map(full_model, everything.models))
        for policy in everything.policies:
            if models or policy.name in everything.references:
                for complaint in check_references(policy.document, policies, models, environment.speaks_for):
                    if complaint.code in self.codes:
                        yield self.mark_of(policy, complaint)

    def _deep(self, everything: Contents) -> Iterator[Problem]:
        """What the effect engine finds in policies that target others; such a target does what that policy does."""
        codes = self.codes & DEEP_CODES
        if not codes or not everything.references:
            return
        from policyctl.lint.deep import check as check_deep

        documents = {policy.name: policy.document for policy in everything.policies}
        for policy in everything.policies:
            if policy.name in everything.references:
                for complaint in check_deep(policy.document, documents, codes):
                    yield self.mark_of(policy, complaint)

    def _duplicates(self, policies: list[Policy]) -> Iterator[Problem]:
        by_name: defaultdict[str, list[Policy]] = defaultdict(list)
        for policy in policies:
            by_name[policy.name].append(policy)
        for name, same in by_name.items() if len(by_name) < len(policies) else ():
            if len(same) > 1:
                places = [self.mark_of(policy, Complaint(("name",), "P201", "")).mark for policy in same]
                others = ", ".join(str(place) for place in places[1:])
                yield Problem(places[0], "P201", f"{name} is also written at {others}; keep one")


MAX_FOLDERS = 64  # directories within directories; a path of more is no layout that anybody made


@dataclass(slots=True)
class Found:
    """What lies below a directory: policy files, configurations, and what is wrong with the rest."""

    files: list[str] = field(default_factory=list)
    configs: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def find_files(root: Path) -> Found:
    """Everything below a directory that concerns policyctl, sorted; hidden files are left out.

    Raises InvalidInput when there is no such directory, or no policy file in it: nothing to read never means "remove all".
    """
    if not root.is_dir():
        missing = "there is no such directory; make one with policyctl init, or name another with --dir"
        why = "is not a directory; name one with --dir" if root.exists() else missing
        raise InvalidInput([Problem(Mark(str(root)), "P016", why)])
    found = Found()
    _walk(root, root.resolve(), found, MAX_FOLDERS)
    if not found.files and not found.problems:
        raise InvalidInput([Problem(Mark(str(root)), "P016", "holds no policy file (*.yaml, *.yml or *.json)")])
    return found


def _walk(folder: Path, top: Path, found: Found, deeper: int) -> None:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        found.problems.append(Problem(Mark(str(folder)), "P001", f"cannot be read: {error.strerror}"))
        return
    prefix = str(folder / "_")[:-1]
    for entry in entries:
        name, path = entry.name, prefix + entry.name
        if name.startswith("."):
            continue
        stem, suffix = os.path.splitext(name)
        if entry.is_symlink() and (complaint := _link_complaint(Path(path), top)):
            if suffix in SUFFIXES or Path(path).is_dir():  # the entry itself would fail on a link to itself
                found.problems.append(Problem(Mark(path), "P008", complaint))
        elif entry.is_dir() and not deeper:
            message = f"is nested more than {MAX_FOLDERS} directories deep; flatten the directory"
            found.problems.append(Problem(Mark(path), "P005", message))
        elif entry.is_dir():
            _walk(Path(path), top, found, deeper - 1)
        elif name == CONFIG_FILE:
            found.configs.append(Path(path))
        elif suffix in SUFFIXES:
            _take(path, stem, found)


def _take(path: str, stem: str, found: Found) -> None:
    if stem == "policyctl":
        found.problems.append(Problem(Mark(path), "P017", f"the configuration is called {CONFIG_FILE}; rename it"))
    else:
        found.files.append(path)


def _link_complaint(path: Path, top: Path) -> str | None:
    try:
        target = path.resolve()
    except RuntimeError:  # Python before 3.13 refuses to resolve it
        return "is a link that leads back to itself; delete it"
    if not target.is_relative_to(top):
        return "is a link that leads out of the directory; copy the file instead"
    return "is a link to a directory; links to directories are not followed" if target.is_dir() else None
