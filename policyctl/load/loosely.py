"""A file's policies as far as they can be made out: also those that are no valid policy files, to say what they would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from policyctl.effect.declared import Declared
from policyctl.errors import InvalidInput, Mark, Problem, errors_in
from policyctl.load.environment import Environment
from policyctl.load.kinds import Kind, kind_of
from policyctl.load.markers import has_template
from policyctl.load.policies import read_contents, render_document
from policyctl.load.source import Source
from policyctl.load.unset import in_environment
from policyctl.model.names import bare_name, canonical_name
from policyctl.model.policy import Policy, without_nulls


class Loose(NamedTuple):
    """What could be made out: the policies, each as a remote would hold it, what is wrong with the file, what it declares."""

    policies: list[Policy]
    problems: list[Problem]
    declared: Declared


def read_loosely(source: Source, environment: Environment) -> Loose:
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
            policies.append(_loose(source, index, document.data, environment))
    if not policies:
        none = Problem(Mark(source.file), "P016", "holds no policy; name a file that does")
        raise InvalidInput(problems or [none])
    return Loose(policies, errors_in(problems), Declared(contents.timeouts, contents.types))


def _loose(source: Source, index: int, data: dict[str, Any], environment: Environment) -> Policy:
    if has_template(data):
        data, unrendered = render_document(data, environment.vars)
        if unrendered:
            raise InvalidInput(in_environment(read_contents(source, environment.vars).problems, environment))
    name = data.get("name")
    canonical = canonical_name(name if isinstance(name, str) and bare_name(name) else Path(source.file).stem)
    return Policy(canonical, {"name": canonical, "policy": without_nulls(data["policy"])}, source.file, index)
