"""From the documents of one file to policies, for one environment's variables."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from policyctl.effect.declared import USUAL_TYPE
from policyctl.errors import Mark, Problem
from policyctl.lint.catalogue import DEFAULT_CODES, LINT_CODES
from policyctl.lint.families import lint
from policyctl.lint.placeholders import in_name
from policyctl.load.contents import Contents
from policyctl.load.kinds import Kind, is_test_file, kind_of
from policyctl.load.locate import to_problems
from policyctl.load.markers import has_template, is_template
from policyctl.load.source import Source
from policyctl.load.unset import UNSET
from policyctl.load.yaml_text import RawDocument
from policyctl.model.complaints import Complaint
from policyctl.model.explain import complaints, too_big
from policyctl.model.names import canonical_model
from policyctl.model.normal import is_server_key, references
from policyctl.model.policy import Policy, policy_from_file
from policyctl.model.policy_file import Body, PolicyFile

_OURS = ("spec_version", "kind")  # the server adds these to a row, and a file must have them


def read_contents(
    source: Source, variables: Mapping[str, Any], codes: Collection[str] = DEFAULT_CODES, *, deep: bool = False
) -> Contents:
    """The policies of one file and everything that is wrong with it. A policy with an error is not among the policies.

    `codes` are those of the lint rules to run, those of the effect engine only with `deep`, and only on policies that target
    no other: what they find in one that does is for the whole directory to tell. Comments that suppress a finding are not
    looked at here.
    """
    contents = Contents()
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


def _deep(policy: Policy, codes: Collection[str]) -> Iterator[Complaint]:
    from policyctl.lint.deep import check  # with the effect engine behind it, which few commands ask here

    return check(policy.document, {}, codes)


def _read_document(
    source: Source,
    index: int,
    document: RawDocument,
    variables: Mapping[str, Any] | None,
    contents: Contents,
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
    if isinstance(kind, Complaint):
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


def _read_model(data: dict[str, Any], contents: Contents) -> list[Complaint]:
    name = data.get("name")
    if not isinstance(name, str) or not name:
        return [Complaint((), "P102", "missing key name (add it: a virtual model declares a name)", "key")]
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
    source: Source, index: int, document: RawDocument, variables: Mapping[str, Any] | None, contents: Contents
) -> list[Complaint]:
    # The platform's own CLI exports a row with the server's bookkeeping, and such a file is a policy file too.
    data = {key: value for key, value in document.data.items() if key in _OURS or not is_server_key(key)}
    unrendered: list[Complaint] = []
    if variables is not None and has_template(data):
        data, unrendered = render_document(data, variables)
    if deep := too_big(data):
        return [*unrendered, deep]
    try:
        PolicyFile.model_validate(data)
    except ValidationError:
        places = {complaint.path for complaint in unrendered}  # what these would have been cannot be judged
        return [*unrendered, *(found for found in _complaints(data) if found.path not in places)]
    if not document.problems and not unrendered:
        contents.policies.append(policy_from_file(data, source.file, index))
    return unrendered


def _complaints(data: dict[str, Any]) -> list[Complaint]:
    """What is wrong with a policy. Where its parts stand beside `policy` instead of below, that is one complaint."""
    beside = [key for key in data if key in Body.model_fields] if data.get("policy") is None else []
    if not beside:
        return complaints(data, PolicyFile)
    rest = {key: value for key, value in data.items() if key not in beside and key != "policy"}
    found = complaints({**rest, "policy": {key: data[key] for key in beside}}, PolicyFile)
    these = f"{', '.join(beside[:-1])} and {beside[-1]}" if len(beside) > 1 else beside[0]
    them = "them" if len(beside) > 1 else "it"
    mend = f"indent {them}" if "policy" in data else f"write policy: above {them}, and indent {them}"
    moved = Complaint((beside[0],), "P101", f"{these} must stand below policy ({mend})", "key")
    return [moved, *(_without_policy(one) for one in found)]


def _without_policy(complaint: Complaint) -> Complaint:
    return complaint._replace(path=complaint.path[1:]) if complaint.path[:1] == ("policy",) else complaint


def render_document(data: dict[str, Any], variables: Mapping[str, Any]) -> tuple[dict[str, Any], list[Complaint]]:
    """The document with its templates rendered (never in `kind` and `spec_version`), and what could not be rendered."""
    fixed = {key: data[key] for key in ("kind", "spec_version") if key in data}
    from policyctl.load.template import UnsetVariable, render  # with jinja2 behind it

    rendered, failed = render({key: value for key, value in data.items() if key not in fixed}, variables)
    found = [Complaint(path, UNSET if isinstance(error, UnsetVariable) else "P015", str(error)) for path, error in failed]
    return {**fixed, **rendered}, found
