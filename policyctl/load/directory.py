"""A directory of policy files as one set of policies, with the rules that hold across files."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from policyctl.effect.tree import NOTHING, DeclaredModels
from policyctl.errors import InvalidInput, Problem, errors_in
from policyctl.load.documents import ConsumerDocument, FileResult, ModelDocument, read_contents
from policyctl.load.environment import Environment, in_environment
from policyctl.load.kinds import is_templated, is_test_file
from policyctl.load.source import (
    Source,
    read_bytes,
    redact_linked,
    source_of,
)
from policyctl.load.yaml import to_problems
from policyctl.plan.references import find_cycle
from policyctl.policy.document import Policy
from policyctl.policy.findings import Finding
from policyctl.policy.virtual_model import VirtualModel

if TYPE_CHECKING:
    from policyctl.plan.plan import Desired
    from policyctl.plan.scenario import Suite


class Loaded(NamedTuple):
    """What a directory contains for one environment. `policies` are those without errors, sorted by name.

    `model_documents` are the virtual models that it declares, `declared` their timeouts and types; `references` are the
    policies that the targets of a policy may mean, by its name. `mark_of` gives a finding about a policy, a model or tests its
    place. `suites` are the scenario tests without problems; `test_problems` do not stop plan and apply. `included` are the
    files that were read, `left_out` what `include` leaves out, by name, with its file. `virtual_models` are those that are
    reconciled, `consumers` what uses policies or models among the documents that are skipped. `tested` are the included files
    with scenario tests.
    """

    policies: tuple[Policy, ...]
    problems: tuple[Problem, ...]
    skipped: Counter[str]
    mark_of: Callable[[Desired | ModelDocument | ConsumerDocument | Suite, Finding], Problem]
    model_documents: tuple[ModelDocument, ...] = ()
    declared: DeclaredModels = NOTHING
    references: Mapping[str, frozenset[str]] = MappingProxyType({})
    suites: tuple[Suite, ...] = ()
    test_problems: tuple[Problem, ...] = ()
    included: tuple[str, ...] = ()
    left_out: Mapping[str, str] = MappingProxyType({})
    virtual_models: tuple[VirtualModel, ...] = ()
    consumers: tuple[ConsumerDocument, ...] = ()
    tested: tuple[str, ...] = ()

    @property
    def desired(self) -> tuple[Desired, ...]:
        """Everything that is to be on the remote."""
        return (*self.policies, *self.virtual_models)

    @property
    def names(self) -> frozenset[str]:
        """The canonical names of the policies, and of the virtual models that are reconciled."""
        return frozenset(one.name for one in self.desired)

    @property
    def models(self) -> frozenset[str]:
        """The names of the declared virtual models, as written."""
        return frozenset(model.name for model in self.model_documents)


class Files:
    """Policy files, each read once, and parsed once for each set of variables that changes what it contains."""

    def __init__(
        self,
        files: Iterable[str],
        problems: Iterable[Problem] = (),
        root: Path | None = None,
        *,
        whole: bool = False,
        tests: bool = True,
        several: bool = False,
        read: Callable[[str], bytes] = read_bytes,
    ) -> None:
        """`problems` are those of finding the files; `root` is what `include` patterns are relative to.

        `whole` means that these are all files of their directory, so that a name without a declaration in them has none.
        Without `tests`, scenario tests are not read. `several` keeps what was parsed, for loading several environments.
        `read` returns the content of a file, or raises InvalidInput.
        """
        self.root = root
        self.whole = whole
        self.names: list[str] = []
        self.contents: dict[str, bytes] = {}
        self._problems = list(problems)
        self._tests_too = tests
        self._known: dict[tuple[str, bool], FileResult] | None = {} if several else None  # of the files without templates
        self.source = lru_cache(maxsize=256)(self._source)  # one file is often asked for several times in a row
        for file in files:
            try:
                if tests or not is_test_file(file):
                    self.contents[file] = read(file)
                self.names.append(file)
            except InvalidInput as error:
                self._problems += error.problems

    def load(self, environment: Environment, on_file: Callable[[], object] = lambda: None, *, suites: bool = True) -> Loaded:
        """What the files contain for one environment. `on_file` is called after each file. Without `suites`, scenario tests are
        not parsed."""
        everything = FileResult(self._problems)
        included, tests, left_out = list[str](), list[str](), dict[str, str]()
        for file in self.names:
            result = self._read(file, environment)
            on_file()
            if result.unreadable:
                everything.problems += result.problems
            elif self.includes(file, environment):
                everything.add(result)
                included.append(file)
                if self._tests_too and (result.tests or is_test_file(file)):
                    tests.append(file)
            else:
                own: list[Desired] = [*result.policies, *result.virtual_models]
                left_out.update((one.name, file) for one in own)
        everything.problems += self._across_files(everything, environment)
        policies = sorted(everything.policies, key=lambda policy: policy.name)
        known = None if errors_in(everything.problems) else policies
        parsed, test_problems = self._tests(tests if suites else [], environment, known)
        return Loaded(
            tuple(policies),
            tuple(sorted(set(redact_linked(in_environment(everything.problems, environment))))),
            Counter(everything.skipped),
            self.mark_of,
            tuple(everything.models),
            DeclaredModels(everything.timeouts, everything.types),
            everything.references,
            parsed,
            tuple(redact_linked(test_problems)),
            tuple(included),
            left_out,
            tuple(sorted(everything.virtual_models, key=attrgetter("name"))),
            tuple(everything.consumers),
            tuple(tests),
        )

    def _read(self, file: str, environment: Environment) -> FileResult:
        managed = environment.settings.models
        if self._known is not None and (file, managed) in self._known:
            return self._known[file, managed]
        if file not in self.contents:  # of tests only, which are left alone
            return FileResult()
        try:
            result = read_contents(self.source(file), environment.vars, models=managed)
        except InvalidInput as error:
            result = FileResult(error.problems, unreadable=True)
        for policy in result.policies:
            policy.keep_text()
        if self._known is not None and not is_templated(self.contents[file]):
            self._known[file, managed] = result
        return result

    def _source(self, file: str) -> Source:
        """A file's text and documents, parsed. Raises InvalidInput."""
        return source_of(self.contents[file], file)

    def includes(self, file: str, environment: Environment) -> bool:
        """Whether an environment includes a file of the directory."""
        if environment.include is None or self.root is None:
            return True
        relative = self.relative(file)
        return any(fnmatchcase(relative, pattern) for pattern in environment.include)

    def relative(self, file: str) -> str:
        """A file's path from `root`, with `/`; the path itself without a root."""
        if self.root is None:
            return file
        prefix = f"{self.root}{os.sep}"
        return file.removeprefix(prefix) if file.startswith(prefix) else Path(os.path.relpath(file, self.root)).as_posix()

    def mark_of(self, about: Desired | ModelDocument | ConsumerDocument | Suite, complaint: Finding) -> Problem:
        """A finding about a policy, a model or tests of these files, as a problem at its place."""
        return redact_linked(to_problems(self.source(about.file), about.index, [complaint]))[0]

    def _tests(
        self, files: list[str], environment: Environment, policies: list[Policy] | None
    ) -> tuple[tuple[Suite, ...], tuple[Problem, ...]]:
        """The scenario tests and their problems; `policies` are all there are, None when that is not known."""
        if not files:
            return (), ()
        from policyctl.load.scenarios import read_suites  # imports the effect engine, as the next one does
        from policyctl.plan.scenario import misfits

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
        desired: list[Desired] = [*policies, *everything.virtual_models]
        yield from self._duplicates(desired)
        for one in desired:
            if not environment.settings.in_scope(one.name):
                message = f"{one.name} is outside the scope of environment {environment.name}; widen scope or rename it"
                yield self.mark_of(one, Finding(("name",), "P203", message))
        if cycle := find_cycle(everything.references):
            first = next(policy for policy in policies if policy.name == cycle[0])
            circle = f"policies target each other in a circle: {' → '.join(cycle)}; remove one of these targets"
            message = circle if len(set(cycle)) > 1 else f"{cycle[0]} targets itself; remove that target"
            yield self.mark_of(first, Finding(("name",), "P202", message))

    def _duplicates(self, desired: list[Desired]) -> Iterator[Problem]:
        by_name: defaultdict[str, list[Desired]] = defaultdict(list)
        for one in desired:
            by_name[one.name].append(one)
        for name, same in by_name.items() if len(by_name) < len(desired) else ():
            if len(same) > 1:
                places = [self.mark_of(one, Finding(("name",), "P201", "")).mark for one in same]
                others = ", ".join(str(place) for place in places[1:])
                yield Problem(places[0], "P201", f"{name} is also written at {others}; keep one")
