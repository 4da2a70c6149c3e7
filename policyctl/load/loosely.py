"""A file's policies as far as they can be made out: also those that are no valid policy files, to say what they would do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from policyctl.effect.declared import Declared
from policyctl.errors import InvalidInput, Mark, Problem
from policyctl.load.kinds import Kind, kind_of
from policyctl.load.markers import has_template
from policyctl.load.policies import read_contents, render_document
from policyctl.load.source import Source
from policyctl.model.names import bare_name, canonical_name
from policyctl.model.policy import Policy, without_nulls


class Loose(NamedTuple):
    """What could be made out: the policies, each as a remote would hold it, what is wrong with the file, what it declares."""

    policies: list[Policy]
    problems: list[Problem]
    declared: Declared


def read_loosely(source: Source, variables: Mapping[str, Any]) -> Loose:
    """What a file says.

    Raises InvalidInput when it cannot be told what the file says: text that does not parse, templates that do not render,
    or no policy at all.
    """
    contents = read_contents(source, variables)
    valid = {policy.index: policy for policy in contents.policies}
    policies = []
    for index, document in enumerate(source.documents):
        if index in valid:
            policies.append(valid[index])
        elif kind_of(document.data) is Kind.POLICY:
            if document.problems:
                raise InvalidInput(contents.problems)
            policies.append(_loose(source, index, document.data, variables))
    if not policies:
        none = Problem(Mark(source.file), "P016", "holds no policy")
        raise InvalidInput(contents.problems or [none])
    errors = [problem for problem in contents.problems if problem.severity == "error"]
    return Loose(policies, errors, Declared(contents.timeouts, contents.types))


def _loose(source: Source, index: int, data: dict[str, Any], variables: Mapping[str, Any]) -> Policy:
    if has_template(data):
        data, unrendered = render_document(data, variables)
        if unrendered:
            raise InvalidInput(read_contents(source, variables).problems)
    name = data.get("name")
    canonical = canonical_name(name if isinstance(name, str) and bare_name(name) else Path(source.file).stem)
    return Policy(canonical, {"name": canonical, "policy": without_nulls(data["policy"])}, source.file, index)
