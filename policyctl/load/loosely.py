"""A file's policies as far as they can be made out: also those that are no valid policy files, to say what they would do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from policyctl.errors import InvalidInput, Mark, Problem
from policyctl.load.kinds import Kind, kind_of
from policyctl.load.markers import has_template
from policyctl.load.policies import read_contents, render_document
from policyctl.load.source import Source
from policyctl.model.names import bare_name, canonical_name
from policyctl.model.policy import Policy, without_nulls


def read_loosely(source: Source, variables: Mapping[str, Any]) -> tuple[list[Policy], list[Problem]]:
    """The policies of a file, each as a remote would hold it, and what is wrong with the file.

    Raises InvalidInput when it cannot be told what the file says: text that does not parse, templates that do not render,
    or no policy at all.
    """
    contents = read_contents(source, variables)
    valid = {policy.index: policy for policy in contents.policies}
    policies = []
    for index, document in enumerate(source.documents):
        if index in valid:
            policies.append(valid[index])
        elif kind_of(document.data) is Kind.POLICY and "policy" in document.data:
            if document.problems:
                raise InvalidInput(contents.problems)
            policies.append(_loose(source, index, document.data, variables))
    if not policies:
        none = Problem(Mark(source.file), "P016", "holds no policy")
        raise InvalidInput(contents.problems or [none])
    return policies, [problem for problem in contents.problems if problem.severity == "error"]


def _loose(source: Source, index: int, data: dict[str, Any], variables: Mapping[str, Any]) -> Policy:
    if has_template(data):
        data, unrendered = render_document(data, variables)
        if unrendered:
            raise InvalidInput(read_contents(source, variables).problems)
    name = data.get("name")
    canonical = canonical_name(name if isinstance(name, str) and bare_name(name) else Path(source.file).stem)
    return Policy(canonical, {"name": canonical, "policy": without_nulls(data["policy"])}, source.file, index)
