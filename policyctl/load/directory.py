"""A directory of policy files as one set of policies, with the rules that hold across files.

The documents of each file become policies, strictly for plan and apply, and leniently for `effect`.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from policyctl.effect.tree import NOTHING, USUAL_TYPE, DeclaredModels
from policyctl.errors import InvalidInput, Mark, Problem, errors_in
from policyctl.load.environment import Environment, in_environment
from policyctl.load.kinds import Kind, RawDocument, has_template, is_template, is_templated, is_test_file, kind_of
from policyctl.load.source import (
    Source,
    read_bytes,
    redact_linked,
    source_of,
)
from policyctl.load.yaml import to_problems
from policyctl.plan.consumers import FileConsumer, consumers_in
from policyctl.plan.references import find_cycle
from policyctl.policy.document import Policy, is_server_key, policy_from_file, references, without_nulls
from policyctl.policy.findings import Finding
from policyctl.policy.names import bare_name, canonical_model, canonical_name, short_model
from policyctl.policy.schema import PolicyBody, PolicyFile, findings_of, too_big
from policyctl.policy.virtual_model import VirtualModel, addresses_in

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


# What a model's file says besides that the model exists, and of which type.
_SETTINGS = ("provider_config", "config", "app_id", "connection", "connection_id", "tags")
_OURS = ("spec_version", "kind")  # the server adds these to a row, and a file must have them


class ModelDocument:
    """A virtual model that a file declares: its name as written, and which document of which file declares it.

    `has_settings` is whether the document has more than a declaration needs, so that the model could be reconciled.
    """

    __slots__ = ("file", "has_settings", "index", "name")

    def __init__(self, name: str, file: str, index: int, *, has_settings: bool) -> None:
        self.name = name
        self.file = file
        self.index = index
        self.has_settings = has_settings


class ConsumerDocument:
    """What uses policies or models, as a skipped document describes it, and which document of which file that is."""

    __slots__ = ("consumer", "file", "index")

    def __init__(self, consumer: FileConsumer, file: str, index: int) -> None:
        self.consumer = consumer
        self.file = file
        self.index = index


class FileResult:
    """What one file (or a whole directory) contains.

    `models` are the virtual models that are declared, and `virtual_models` those that are to be reconciled. `consumers` are
    what uses policies or models among the skipped documents.
    `references` are the policies that a policy's targets may mean, by its name, where there are any. `timeouts` (seconds) and
    `types` are those of the virtual models, by canonical name. `tests` is whether a document of scenario tests is among the
    others. An `unreadable` file could not be parsed: there is nothing but its problems.
    """

    def __init__(self, problems: Iterable[Problem] = (), *, unreadable: bool = False) -> None:
        self.policies: list[Policy] = []
        self.references: dict[str, frozenset[str]] = {}
        self.models: list[ModelDocument] = []
        self.virtual_models: list[VirtualModel] = []
        self.timeouts: dict[str, float] = {}
        self.types: dict[str, str] = {}
        self.problems = list(problems)
        self.skipped: Counter[str] = Counter()
        self.consumers: list[ConsumerDocument] = []
        self.tests = False
        self.unreadable = unreadable

    def add_policy(self, policy: Policy) -> None:
        self.policies.append(policy)
        if names := references(policy.document):
            self.references[policy.name] = names

    def add(self, other: FileResult) -> None:
        self.policies += other.policies
        self.problems += other.problems
        if other.references:
            self.references |= other.references
        if other.models:
            self.models += other.models
            self.virtual_models += other.virtual_models
            self.timeouts |= other.timeouts
            self.types |= other.types
        if other.skipped:
            self.skipped += other.skipped
            self.consumers += other.consumers


def read_contents(source: Source, variables: Mapping[str, Any], *, models: bool = False) -> FileResult:
    """The policies of one file and all of its errors. A policy with an error is not among the policies.

    With `models` virtual models are read as strictly; otherwise they are only declarations.
    """
    contents = FileResult()
    if is_test_file(Path(source.file).name):
        return contents
    written = [(index, document) for index, document in enumerate(source.documents) if document.data is not None]
    if not written:
        contents.problems.append(Problem(Mark(source.file, 1, 1), "P011", "the file is empty; write a policy or delete it"))
    templates = variables if is_template(source.text) else None  # asked once: the text may be long, and the documents many
    for index, document in written:
        match kind_of(document.data):
            case Kind.TEST:
                contents.tests = True
                continue
            case Kind.OTHER:
                contents.skipped[str(document.data["kind"])] += 1
                found_there = consumers_in(document.data)
                contents.consumers += [
                    ConsumerDocument(one, source.file, index) for one in found_there if one.uses or one.collaborators
                ]
                continue
            case Kind.POLICY:
                data, found = _checked_policy(document, templates)
                if data is not None:
                    contents.add_policy(policy_from_file(data, source.file, index))
            case Kind.MODEL:
                found = _read_model(source, index, document.data, contents)
                if models and not found:
                    found = _read_virtual_model(source, index, document, templates, contents)
            case complaint:
                found = [complaint]
        # A scalar that cannot be read needs no second line about what it is not.
        known = {problem.mark for problem in document.problems}
        contents.problems += document.problems
        contents.problems += [problem for problem in to_problems(source, index, found) if problem.mark not in known]
    return contents


def _read_model(source: Source, index: int, data: dict[str, Any], contents: FileResult) -> list[Finding]:
    name = data.get("name")
    if not isinstance(name, str) or not name:
        return [Finding((), "P102", "missing key name (add it: a virtual model declares a name)", "key")]
    provider = data.get("provider_config")
    contents.models.append(ModelDocument(name, source.file, index, has_settings=any(data.get(key) for key in _SETTINGS)))
    timeout = provider.get("request_timeout") if isinstance(provider, dict) else None
    if isinstance(timeout, int | float) and timeout > 0:
        contents.timeouts[canonical_model(name)] = timeout / 1000  # the gateway takes milliseconds
    model_type = data.get("model_type")
    if model_type is None or (isinstance(model_type, str) and not is_template(model_type)):
        contents.types[canonical_model(name)] = model_type or USUAL_TYPE
    return []


def model_addresses(source: Source, variables: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    """The virtual models that a file declares, by short name, each with where the gateway sends requests to it and with which
    key; see `addresses_in`."""
    for document in source.documents:
        data = document.data
        if kind_of(data) is Kind.MODEL and isinstance(data.get("name"), str):
            if is_template(source.text) and has_template(data):
                data, _ = _rendered(data, variables)
            yield short_model(str(data["name"])), addresses_in(data)


def _read_virtual_model(
    source: Source, index: int, document: RawDocument, variables: Mapping[str, Any] | None, contents: FileResult
) -> list[Finding]:
    """Add a virtual model that is to be reconciled, and return what is wrong with it."""
    from policyctl.policy.model_schema import read_model  # few directories have any

    data, unrendered = document.data, list[Finding]()
    if variables is not None and has_template(data):
        data, unrendered = _rendered(data, variables)
    if deep := too_big(data):
        return [*unrendered, deep]
    model, found = read_model(data, source.file, index)
    places = {complaint.path for complaint in unrendered}
    if model is not None and not document.problems and not unrendered:
        contents.virtual_models.append(model)
    return [*unrendered, *(one for one in found if one.path not in places)]


def _checked_policy(document: RawDocument, variables: Mapping[str, Any] | None) -> tuple[dict[str, Any] | None, list[Finding]]:
    """A policy's data with its templates rendered, None if anything is wrong, and what that is."""
    # The platform's own CLI exports a row with the server's bookkeeping, and such a file is a policy file too.
    data = {key: value for key, value in document.data.items() if key in _OURS or not is_server_key(key)}
    unrendered: list[Finding] = []
    if variables is not None and has_template(data):
        data, unrendered = _rendered(data, variables)
    if deep := too_big(data):
        return None, [*unrendered, deep]
    try:
        PolicyFile.model_validate(data)
    except ValidationError:
        places = {complaint.path for complaint in unrendered}  # their rendered values are unknown
        return None, [*unrendered, *(found for found in _findings(data) if found.path not in places)]
    return None if document.problems or unrendered else data, unrendered


def _findings(data: dict[str, Any]) -> list[Finding]:
    """What is wrong with a policy. Parts written beside `policy` instead of below it are one finding."""
    beside = [key for key in data if key in PolicyBody.model_fields] if data.get("policy") is None else []
    if not beside:
        return findings_of(data, PolicyFile)
    rest = {key: value for key, value in data.items() if key not in beside and key != "policy"}
    found = findings_of({**rest, "policy": {key: data[key] for key in beside}}, PolicyFile)
    these = f"{', '.join(beside[:-1])} and {beside[-1]}" if len(beside) > 1 else beside[0]
    them = "them" if len(beside) > 1 else "it"
    remedy = f"indent {them}" if "policy" in data else f"write policy: above {them}, and indent {them}"
    moved = Finding((beside[0],), "P101", f"{these} belong below policy ({remedy})", "key")
    return [moved, *(_without_policy(one) for one in found)]


def _without_policy(complaint: Finding) -> Finding:
    return complaint._replace(path=complaint.path[1:]) if complaint.path[:1] == ("policy",) else complaint


def _rendered(data: dict[str, Any], variables: Mapping[str, Any]) -> tuple[dict[str, Any], list[Finding]]:
    """The document with its templates rendered, and what could not be rendered."""
    from policyctl.load.template import render_document  # imports jinja2

    return render_document(data, variables)


class LenientPolicies(NamedTuple):
    """What was readable: the policies, each as a remote would have it, the errors of the file, and the models it declares."""

    policies: list[Policy]
    problems: list[Problem]
    declared: DeclaredModels


def read_leniently(source: Source, environment: Environment) -> LenientPolicies:
    """The policies of a file, valid or not.

    Raises InvalidInput when they cannot be determined: text that does not parse, templates that do not render, no policy.
    """
    contents = read_contents(source, environment.vars)
    problems = in_environment(contents.problems, environment)
    valid = {policy.index: policy for policy in contents.policies}
    policies = []
    for index, document in enumerate(source.documents):
        if index in valid:
            policies.append(valid[index])
        elif kind_of(document.data) is Kind.POLICY and "policy" in document.data:
            if document.problems:
                raise InvalidInput(problems)
            policies.append(_lenient(source, index, document.data, environment))
    if not policies:
        none = Problem(Mark(source.file), "P016", "contains no policy; name a file that does")
        raise InvalidInput(problems or [none])
    return LenientPolicies(policies, errors_in(problems), DeclaredModels(contents.timeouts, contents.types))


def _lenient(source: Source, index: int, data: dict[str, Any], environment: Environment) -> Policy:
    if has_template(data):
        data, unrendered = _rendered(data, environment.vars)
        if unrendered:
            raise InvalidInput(in_environment(read_contents(source, environment.vars).problems, environment))
    name = data.get("name")
    canonical = canonical_name(name if isinstance(name, str) and bare_name(name) else Path(source.file).stem)
    return Policy(canonical, {"name": canonical, "policy": without_nulls(data["policy"])}, source.file, index)
