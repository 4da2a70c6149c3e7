"""A directory of policy files as one set of policies, with the rules that hold across files."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from policyctl.effect.context import NOTHING, DeclaredModels
from policyctl.errors import InvalidInput, Mark, PolicyctlError, Problem, errors_in
from policyctl.load.contents import FileResult, holds_tests
from policyctl.load.environment import Environment
from policyctl.load.idle import better_glob
from policyctl.load.kinds import CONFIG_FILE, is_test_file
from policyctl.load.reading import Reading
from policyctl.load.source import (
    SUFFIXES,
    Source,
    link_in_directory_finding,
    read_bytes,
    redact_linked,
    refuse_link,
    unreadable,
)
from policyctl.load.suppressions import Suppressions
from policyctl.load.unread import CONFIG_LOOKALIKES, inspect_checkout, possible_gaps, similar_names, why_nothing
from policyctl.load.variables import in_environment
from policyctl.plan.order import find_cycle
from policyctl.policy.document import Policy
from policyctl.policy.findings import Finding
from policyctl.policy.names import canonical_model
from policyctl.rules.catalogue import DEEP_CODES, DEFAULT_CODES, LINT_CODES, REFERENCE_CODES

if TYPE_CHECKING:
    from policyctl.load.git.checkout import Checkout
    from policyctl.plan.scenario import Suite


class Loaded(NamedTuple):
    """What a directory says for one environment. `policies` are those without errors, sorted by name.

    `models` are the virtual models that it declares, `declared` what they say of themselves; `mark_of` gives a complaint about
    one of the policies, or about its tests, its place. `suites` are the scenario tests without problems; `test_problems` stop
    nobody who only plans or applies. `included` are the files that it was read from, `left_out` the policies of those that
    `include` leaves out, with their files.
    """

    policies: tuple[Policy, ...]
    models: frozenset[str]
    problems: tuple[Problem, ...]
    skipped: Counter[str]
    files: int
    mark_of: Callable[[Policy | Suite, Finding], Problem]
    declared: DeclaredModels = NOTHING
    suites: tuple[Suite, ...] = ()
    test_problems: tuple[Problem, ...] = ()
    included: tuple[str, ...] = ()
    left_out: Mapping[str, str] = MappingProxyType({})

    @property
    def names(self) -> frozenset[str]:
        """The canonical names of the policies."""
        return frozenset(policy.name for policy in self.policies)


_NOTHING = FileResult()  # of a file that was not read


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
        tests: bool = True,
        read: Callable[[str], bytes] = read_bytes,
        on_file: Callable[[], object] = lambda: None,
    ) -> None:
        """`problems` are those of finding the files; `root` is what `include` patterns are relative to.

        `codes` are those of the lint rules to run. `whole` says that these are all files of their directory, so that a
        name that none of them declares is declared nowhere. `deep` asks for the rules of the effect engine too. Without
        `tests` the scenario tests are left alone, and files that hold nothing else are not read. `read` gives what a file
        holds, or raises InvalidInput. `on_file` is called for each one that was read.
        """
        self.root = root
        self.codes = codes if deep else codes - DEEP_CODES
        self.whole = whole
        self.problems = [problem for problem in problems if problem.code not in LINT_CODES or problem.code in self.codes]
        self._linted: dict[str, None] = {}  # the files without errors so far, in order
        self._broken: set[str] = set()
        self._tests_too = tests
        self._files: list[str] = []
        contents: dict[str, bytes] = {}
        for file in files:
            try:
                if tests or not is_test_file(file):
                    contents[file] = read(file)
                self._files.append(file)
            except InvalidInput as error:
                self.problems += error.problems
            on_file()
        self._reading = Reading(contents, self.codes)
        self._ignored = Suppressions(contents)

    def load(self, environment: Environment, on_file: Callable[[], object] = lambda: None) -> Loaded:
        """What the files say for one environment; `on_file` is told of each one that had to be read."""
        everything, tests, included = FileResult(problems=list(self.problems)), [], []
        left_out: dict[str, str] = {}
        known = self._reading.contents(environment.vars, on_file)
        for file in self._files:
            contents = known.get(file, _NOTHING)
            if isinstance(contents, InvalidInput):
                everything.problems += contents.problems
            elif self.includes(file, environment):
                everything.add(contents)
                self._linted[file] = None
                included.append(file)
                if self._tests_too and holds_tests(file, contents):
                    tests.append(file)
            else:
                left_out.update((policy.name, file) for policy in contents.policies)
        everything.problems += self._across_files(everything, environment)
        errors = errors_in(everything.problems)
        self._broken.update(problem.mark.file for problem in errors)
        if self.whole and not errors:
            everything.problems += self._unknown(everything, environment)
        mixed = list(self._mixed(everything)) if self.whole and not errors else []
        anew = {problem.mark.file for problem in mixed}  # what was found there counts on models that never serve
        everything.problems = [one for one in everything.problems if one.mark.file not in anew or one.code not in DEEP_CODES]
        everything.problems += [problem for problem in mixed if problem.code in self.codes]
        everything.problems += self._deep(everything, anew)
        suites, test_problems = self._tests(tests, environment, None if errors else everything.policies)
        policies = sorted(everything.policies, key=lambda policy: policy.name)
        found = in_environment(everything.problems, environment)
        problems = sorted(set(redact_linked(self._ignored.without_ignored(found))))
        return Loaded(
            tuple(policies),
            frozenset(everything.models),
            tuple(problems),
            Counter(everything.skipped),
            len(included),
            self.mark_of,
            DeclaredModels(everything.timeouts, everything.types),
            suites,
            tuple(redact_linked(test_problems)),
            tuple(included),
            left_out,
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
        relative = self._relative(file)
        return any(fnmatchcase(relative, pattern) for pattern in environment.include)

    def idle_globs(self, environment: Environment, more: Iterable[str] = ()) -> list[tuple[int, str, str | None]]:
        """The globs of `include` that match no file, nor one of `more`: each with its position and a better spelling, if one
        is known. Only for whole directories, since a part of one proves nothing."""
        if not self.whole or environment.include is None or self.root is None:
            return []
        names = [self._relative(file) for file in (*self._files, *more)]
        idle = [glob for glob in environment.include if not any(fnmatchcase(name, glob) for name in names)]
        return [(environment.include.index(glob), glob, better_glob(glob, names, self.root.name)) for glob in idle]

    def _relative(self, file: str) -> str:
        """A file's path from the directory, with `/`."""
        prefix = f"{self.root}{os.sep}"
        return file.removeprefix(prefix) if file.startswith(prefix) else Path(os.path.relpath(file, self.root)).as_posix()

    def mark_of(self, about: Policy | Suite, complaint: Finding) -> Problem:
        """A complaint about a policy of these files, or about tests, as a problem at its place."""
        from policyctl.load.locate import to_problems

        return redact_linked(to_problems(self.source(about.file), about.index, [complaint]))[0]

    def _tests(
        self, files: list[str], environment: Environment, policies: list[Policy] | None
    ) -> tuple[tuple[Suite, ...], tuple[Problem, ...]]:
        """The scenario tests and what is wrong with them; `policies` are all there are, None when that is not known."""
        if not files:
            return (), ()
        from policyctl.load.scenarios import read_suites
        from policyctl.plan.scenario import misfits  # with the effect engine behind it, and pydantic behind the other

        suites: list[Suite] = []
        problems: list[Problem] = []
        for file in files:
            own, found = read_suites(self.source(file), environment.vars)
            suites += own
            problems += in_environment(found, environment)
        if self.whole and policies is not None:
            documents = {policy.name: policy.document for policy in policies}
            problems += [self.mark_of(suite, complaint) for suite in suites for complaint in misfits(suite, documents)]
        return tuple(suites), tuple(sorted(problems))

    def _across_files(self, everything: FileResult, environment: Environment) -> Iterator[Problem]:
        policies = everything.policies
        yield from self._duplicates(policies)
        for policy in policies:
            if not environment.settings.in_scope(policy.name):
                message = f"{policy.name} is outside the scope of environment {environment.name}; widen scope or rename it"
                yield self.mark_of(policy, Finding(("name",), "P203", message))
        if cycle := find_cycle(everything.references):
            first = next(policy for policy in policies if policy.name == cycle[0])
            circle = f"policies target each other in a circle: {' → '.join(cycle)}; remove one of these targets"
            message = circle if len(set(cycle)) > 1 else f"{cycle[0]} targets itself; remove that target"
            yield self.mark_of(first, Finding(("name",), "P202", message))

    def _unknown(self, everything: FileResult, environment: Environment) -> Iterator[Problem]:
        """Targets that no file declares; only where that is certain to be all there is."""
        if not everything.models and not everything.references:
            return
        from policyctl.lint.references import check as check_references

        policies = frozenset(policy.name for policy in everything.policies)
        models = frozenset(map(canonical_model, everything.models))
        for policy in everything.policies:
            if models or policy.name in everything.references:
                for complaint in check_references(policy.document, policies, models, environment.speaks_for):
                    if complaint.code in self.codes:
                        yield self.mark_of(policy, complaint)

    def _mixed(self, everything: FileResult) -> Iterator[Problem]:
        """Targets of a policy whose models are declared to be of different types, whether or not that rule is chosen."""
        if len(set(everything.types.values())) < 2:
            return
        from policyctl.lint.references import check_types  # with the effect engine behind it

        declared = DeclaredModels(everything.timeouts, everything.types)
        documents = {policy.name: policy.document for policy in everything.policies}
        for policy in everything.policies:
            for complaint in check_types(policy.document, documents, declared):
                yield self.mark_of(policy, complaint)

    def _deep(self, everything: FileResult, anew: Collection[str]) -> Iterator[Problem]:
        """What the effect engine finds in policies that target others, which do what those do, and in the files `anew`."""
        codes = self.codes & DEEP_CODES
        if not codes or not (everything.references or anew):
            return
        from policyctl.lint.deep import check as check_deep

        declared = DeclaredModels(everything.timeouts, everything.types)
        documents = {policy.name: policy.document for policy in everything.policies}
        for policy in everything.policies:
            if policy.name in everything.references or policy.file in anew:
                for complaint in check_deep(policy.document, documents, codes, declared):
                    yield self.mark_of(policy, complaint)

    def _duplicates(self, policies: list[Policy]) -> Iterator[Problem]:
        by_name: defaultdict[str, list[Policy]] = defaultdict(list)
        for policy in policies:
            by_name[policy.name].append(policy)
        for name, same in by_name.items() if len(by_name) < len(policies) else ():
            if len(same) > 1:
                places = [self.mark_of(policy, Finding(("name",), "P201", "")).mark for policy in same]
                others = ", ".join(str(place) for place in places[1:])
                yield Problem(places[0], "P201", f"{name} is also written at {others}; keep one")


_HIDDEN_CONFIGS = frozenset(f".policyctl{suffix}" for suffix in SUFFIXES)
MAX_FOLDERS = 64  # directories within directories; a path of more is no layout that anybody made


@dataclass(slots=True)
class Found:
    """What lies below a directory: policy files, configurations, and what is wrong with the rest.

    `others` are the regular files that are read by nothing, `hidden` what begins with a dot, with everything below it.
    `checkout` is what git has of the directory; where there is a repository and git cannot be asked, `unasked` says why.
    """

    files: list[str] = field(default_factory=list)
    configs: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    checkout: Checkout | None = None
    unasked: str | None = None


def find_files(root: Path, *, may_be_empty: bool = False) -> Found:
    """Everything below a directory that concerns policyctl, sorted; hidden files are left out.

    What should be read and is not is among the problems: files that only git has, and files that look like policies.
    Unless it `may_be_empty`, raises InvalidInput when there is no such directory, or no policy file in it: nothing to read
    never means "remove all".
    """
    refuse_link(root)
    found = Found()
    try:
        found.checkout = inspect_checkout(root)
    except PolicyctlError as error:
        found.unasked = str(error)
    if root.is_dir():
        _walk(root, root.resolve(), found, MAX_FOLDERS)
    missing = _nothing_there(root) if not found.files and not found.problems else None
    if missing and not (may_be_empty and (root.is_dir() or not root.exists())):
        mend = "; write one, or name another directory with --dir" if root.is_dir() else ""
        why = missing + (why_nothing(root, possible_gaps(root, found.checkout)) or mend)
        raise InvalidInput([Problem(Mark(str(root)), "P016", why)])
    found.problems += similar_names([*found.others, *(path for path in found.hidden if path.endswith(SUFFIXES))])
    return found


def _nothing_there(root: Path) -> str:
    """Why there is nothing to read in a directory."""
    if root.is_dir():
        return "holds no policy file (*.yaml, *.yml or *.json)"
    if root.exists():
        return "is not a directory; name one with --dir"
    return "there is no such directory; make one with policyctl init, or name another with --dir"


def _walk(folder: Path, top: Path, found: Found, deeper: int) -> None:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        found.problems.append(Problem(Mark(str(folder)), "P001", unreadable(folder, error)))
        return
    prefix = str(folder / "_")[:-1]
    for entry in entries:
        name, path = entry.name, prefix + entry.name
        stem, suffix = os.path.splitext(name)
        if name.startswith("."):
            found.hidden.append(path)
            if name in _HIDDEN_CONFIGS:
                found.problems.append(Problem(Mark(path), "P017", f"the configuration is called {CONFIG_FILE}; rename it"))
        elif name == CONFIG_FILE:
            found.configs.append(Path(path))
        elif entry.is_symlink() and (complaint := link_in_directory_finding(Path(path), top)):
            if suffix in SUFFIXES or Path(path).is_dir():  # the entry itself would fail on a link to itself
                found.problems.append(Problem(Mark(path), "P008", complaint))
        elif entry.is_dir() and not deeper:
            message = f"is nested more than {MAX_FOLDERS} directories deep; flatten the directory"
            found.problems.append(Problem(Mark(path), "P005", message))
        elif entry.is_dir():
            _walk(Path(path), top, found, deeper - 1)
        else:
            _take(path, stem, suffix, found)


def _take(path: str, stem: str, suffix: str, found: Found) -> None:
    if stem.casefold() == "policyctl" and suffix.casefold() in CONFIG_LOOKALIKES:
        found.problems.append(Problem(Mark(path), "P017", f"the configuration is called {CONFIG_FILE}; rename it"))
    elif suffix in SUFFIXES:
        found.files.append(path)
    elif suffix.casefold() in SUFFIXES:
        message = f"only *.yaml, *.yml and *.json are read, so this file is passed over; rename it to {stem}{suffix.casefold()}"
        found.problems.append(Problem(Mark(path), "P020", message))
    else:
        found.others.append(path)
