"""From the documents of one file to policies, strictly for plan and apply, leniently for `effect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from policyctl.effect.tree import USUAL_TYPE, DeclaredModels
from policyctl.errors import InvalidInput, Mark, Problem, errors_in
from policyctl.load.environment import UNSET, Environment, in_environment
from policyctl.load.kinds import Kind, RawDocument, has_template, is_template, is_test_file, kind_of
from policyctl.load.source import Source
from policyctl.load.yaml import to_problems
from policyctl.plan.consumers import FileConsumer, consumers_in
from policyctl.policy.document import Policy, is_server_key, policy_from_file, references, without_nulls
from policyctl.policy.findings import Finding
from policyctl.policy.names import bare_name, canonical_model, canonical_name, short_model
from policyctl.policy.schema import PolicyBody, PolicyFile, findings_of, too_big
from policyctl.policy.virtual_model import VirtualModel, addresses_in

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
                data, _ = render_document(data, variables)
            yield short_model(str(data["name"])), addresses_in(data)


def _read_virtual_model(
    source: Source, index: int, document: RawDocument, variables: Mapping[str, Any] | None, contents: FileResult
) -> list[Finding]:
    """Add a virtual model that is to be reconciled, and return what is wrong with it."""
    from policyctl.policy.model_schema import read_model  # few directories have any

    data, unrendered = document.data, list[Finding]()
    if variables is not None and has_template(data):
        data, unrendered = render_document(data, variables)
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
        data, unrendered = render_document(data, variables)
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


def render_document(data: dict[str, Any], variables: Mapping[str, Any]) -> tuple[dict[str, Any], list[Finding]]:
    """The document with its templates rendered (except in `kind` and `spec_version`), and what could not be rendered."""
    fixed = {key: data[key] for key in ("kind", "spec_version") if key in data}
    from policyctl.load.template import UnsetVariable, render  # imports jinja2

    rendered, failed = render({key: value for key, value in data.items() if key not in fixed}, variables)
    found = [Finding(path, UNSET if isinstance(error, UnsetVariable) else "P015", str(error)) for path, error in failed]
    return {**fixed, **rendered}, found


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
        data, unrendered = render_document(data, environment.vars)
        if unrendered:
            raise InvalidInput(in_environment(read_contents(source, environment.vars).problems, environment))
    name = data.get("name")
    canonical = canonical_name(name if isinstance(name, str) and bare_name(name) else Path(source.file).stem)
    return Policy(canonical, {"name": canonical, "policy": without_nulls(data["policy"])}, source.file, index)
