"""From the documents of one file to policies, strictly for plan and apply, leniently for `effect`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from policyctl.effect.context import USUAL_TYPE, DeclaredModels
from policyctl.errors import InvalidInput, Mark, Problem, errors_in
from policyctl.lint.check import lint
from policyctl.lint.placeholders import in_name
from policyctl.load.contents import FileResult
from policyctl.load.environment import Environment
from policyctl.load.kinds import Kind, is_test_file, kind_of
from policyctl.load.locate import to_problems
from policyctl.load.source import Source
from policyctl.load.variables import UNSET, has_template, in_environment, is_template
from policyctl.load.yaml import RawDocument
from policyctl.policy.document import Policy, is_server_key, policy_from_file, references, without_nulls
from policyctl.policy.findings import Finding
from policyctl.policy.names import bare_name, canonical_model, canonical_name
from policyctl.policy.schema import PolicyBody, PolicyFile
from policyctl.policy.validation_errors import findings_of, too_big
from policyctl.rules.catalogue import DEFAULT_CODES, LINT_CODES

_OURS = ("spec_version", "kind")  # the server adds these to a row, and a file must have them


def read_contents(
    source: Source, variables: Mapping[str, Any], codes: Collection[str] = DEFAULT_CODES, *, deep: bool = False
) -> FileResult:
    """The policies of one file and everything that is wrong with it. A policy with an error is not among the policies.

    `codes` are those of the lint rules to run, those of the effect engine only with `deep`, and only on policies that target
    no other: what they find in one that does is for the whole directory to tell. Comments that suppress a finding are not
    looked at here.
    """
    contents = FileResult()
    if is_test_file(Path(source.file).name):
        return contents
    written = [(index, document) for index, document in enumerate(source.documents) if document.data is not None]
    if not written:
        contents.problems.append(Problem(Mark(source.file, 1, 1), "P011", "the file is empty; write a policy or delete it"))
    templated = is_template(source.text)  # asked once: the text may be long, and the documents many
    for index, document in written:
        _read_document(source, index, document, variables if templated else None, contents, codes)
    for policy in contents.policies:
        found = list(lint(policy.document, codes))
        if names := references(policy.document):
            contents.references[policy.name] = names
        elif deep:
            found += _deep(policy, codes)
        contents.problems += to_problems(source, policy.index, found)
    return contents


def _deep(policy: Policy, codes: Collection[str]) -> Iterator[Finding]:
    from policyctl.lint.deep import check  # with the effect engine behind it, which few commands ask here

    return check(policy.document, {}, codes)


def _read_document(
    source: Source,
    index: int,
    document: RawDocument,
    variables: Mapping[str, Any] | None,
    contents: FileResult,
    codes: Collection[str],
) -> None:
    """Add what a document says; without `variables` its file holds no template."""
    kind = kind_of(document.data)
    if kind is Kind.TEST:
        contents.tests = True
        return
    if kind is Kind.OTHER:
        contents.skip(str(document.data["kind"]))
        return
    if isinstance(kind, Finding):
        found = [kind]
    elif kind is Kind.MODEL:
        found = [
            complaint
            for complaint in _read_model(document.data, contents)
            if complaint.code not in LINT_CODES.difference(codes)
        ]
    else:
        found = _read_policy(source, index, document, variables, contents)
    # A scalar that cannot be read needs no second line about what it is not.
    known = {problem.mark for problem in document.problems}
    contents.problems += document.problems
    contents.problems += [problem for problem in to_problems(source, index, found) if problem.mark not in known]


def _read_model(data: dict[str, Any], contents: FileResult) -> list[Finding]:
    name = data.get("name")
    if not isinstance(name, str) or not name:
        return [Finding((), "P102", "missing key name (add it: a virtual model declares a name)", "key")]
    contents.models.add(name)
    provider = data.get("provider_config")
    timeout = provider.get("request_timeout") if isinstance(provider, dict) else None
    if isinstance(timeout, int | float) and timeout > 0:
        contents.timeouts[canonical_model(name)] = timeout / 1000  # the gateway takes milliseconds
    model_type = data.get("model_type")
    if model_type is None or (isinstance(model_type, str) and not is_template(model_type)):
        contents.types[canonical_model(name)] = model_type or USUAL_TYPE
    return list(in_name(("name",), name))


def _read_policy(
    source: Source, index: int, document: RawDocument, variables: Mapping[str, Any] | None, contents: FileResult
) -> list[Finding]:
    # The platform's own CLI exports a row with the server's bookkeeping, and such a file is a policy file too.
    data = {key: value for key, value in document.data.items() if key in _OURS or not is_server_key(key)}
    unrendered: list[Finding] = []
    if variables is not None and has_template(data):
        data, unrendered = render_document(data, variables)
    if deep := too_big(data):
        return [*unrendered, deep]
    try:
        PolicyFile.model_validate(data)
    except ValidationError:
        places = {complaint.path for complaint in unrendered}  # what these would have been cannot be judged
        return [*unrendered, *(found for found in _findings(data) if found.path not in places)]
    if not document.problems and not unrendered:
        contents.policies.append(policy_from_file(data, source.file, index))
    return unrendered


def _findings(data: dict[str, Any]) -> list[Finding]:
    """What is wrong with a policy. Where its parts stand beside `policy` instead of below, that is one complaint."""
    beside = [key for key in data if key in PolicyBody.model_fields] if data.get("policy") is None else []
    if not beside:
        return findings_of(data, PolicyFile)
    rest = {key: value for key, value in data.items() if key not in beside and key != "policy"}
    found = findings_of({**rest, "policy": {key: data[key] for key in beside}}, PolicyFile)
    these = f"{', '.join(beside[:-1])} and {beside[-1]}" if len(beside) > 1 else beside[0]
    them = "them" if len(beside) > 1 else "it"
    mend = f"indent {them}" if "policy" in data else f"write policy: above {them}, and indent {them}"
    moved = Finding((beside[0],), "P101", f"{these} must stand below policy ({mend})", "key")
    return [moved, *(_without_policy(one) for one in found)]


def _without_policy(complaint: Finding) -> Finding:
    return complaint._replace(path=complaint.path[1:]) if complaint.path[:1] == ("policy",) else complaint


def render_document(data: dict[str, Any], variables: Mapping[str, Any]) -> tuple[dict[str, Any], list[Finding]]:
    """The document with its templates rendered (never in `kind` and `spec_version`), and what could not be rendered."""
    fixed = {key: data[key] for key in ("kind", "spec_version") if key in data}
    from policyctl.load.template import UnsetVariable, render  # with jinja2 behind it

    rendered, failed = render({key: value for key, value in data.items() if key not in fixed}, variables)
    found = [Finding(path, UNSET if isinstance(error, UnsetVariable) else "P015", str(error)) for path, error in failed]
    return {**fixed, **rendered}, found


class LenientPolicies(NamedTuple):
    """What could be made out: the policies, each as a remote would hold it, what is wrong with the file, what it declares."""

    policies: list[Policy]
    problems: list[Problem]
    declared: DeclaredModels


def read_leniently(source: Source, environment: Environment) -> LenientPolicies:
    """What a file says.

    Raises InvalidInput when it cannot be told what the file says: text that does not parse, templates that do not render,
    or no policy at all.
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
        none = Problem(Mark(source.file), "P016", "holds no policy; name a file that does")
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
