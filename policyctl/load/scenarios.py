"""From the documents of one file to scenario tests, for one environment's variables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from policyctl.core.scenario import Suite
from policyctl.errors import Mark, Problem
from policyctl.load.kinds import TEST_KIND, is_test_file
from policyctl.load.locate import to_problems
from policyctl.load.markers import has_template
from policyctl.load.policies import render_document
from policyctl.load.scenario_file import SuiteFile, scenario_of
from policyctl.load.source import Source
from policyctl.load.yaml_text import RawDocument, read_yaml
from policyctl.model.complaints import Complaint, did_you_mean, show
from policyctl.model.explain import complaints
from policyctl.model.names import canonical_name


def read_suites(source: Source, variables: Mapping[str, Any]) -> tuple[list[Suite], list[Problem]]:
    """The tests of one file and everything that is wrong with them. Tests of a document with a problem are not there."""
    everything = is_test_file(Path(source.file).name)
    suites: list[Suite] = []
    problems: list[Problem] = []
    for index, document in enumerate(_documents(source)):
        if document.data is None or not (everything or _is_test(document.data)):
            continue
        found = _read(source, index, document, variables)
        if isinstance(found, Suite):
            suites.append(found)
        else:
            problems += found
    if everything and not suites and not problems:
        problems.append(Problem(Mark(source.file, 1, 1), "P011", "the file is empty; write a test or delete it"))
    return suites, problems


def _documents(source: Source) -> list[RawDocument]:
    """The documents once more, with statuses as keys: `{503: 0.1}` needs no quotes here."""
    return source.documents if source.file.endswith(".json") else read_yaml(source.text, source.file, number_keys=True)


def _is_test(data: Any) -> bool:
    return isinstance(data, dict) and data.get("kind") == TEST_KIND


def _read(source: Source, index: int, document: RawDocument, variables: Mapping[str, Any]) -> Suite | list[Problem]:
    file, found = _checked(document.data, variables)
    if file is not None and not document.problems:
        return Suite(canonical_name(file.policy), tuple(map(scenario_of, file.tests)), source.file, index)
    # A scalar that cannot be read needs no second line about what it is not.
    known = {problem.mark for problem in document.problems}
    return [*document.problems, *(one for one in to_problems(source, index, found) if one.mark not in known)]


def _checked(data: Any, variables: Mapping[str, Any]) -> tuple[SuiteFile | None, list[Complaint]]:
    """The file behind a document's data, templates rendered, or everything that is wrong with it."""
    if found := _kind_complaints(data):
        return None, found
    if has_template(data):
        data, found = render_document(data, variables)
    try:
        file = SuiteFile.model_validate(data)
    except ValidationError:
        places = {complaint.path for complaint in found}  # what these would have been cannot be judged
        return None, [*found, *(one for one in complaints(data, SuiteFile) if one.path not in places)]
    return None if found else file, found


def _kind_complaints(data: Any) -> list[Complaint]:
    """Why a document cannot be one of tests at all."""
    if not isinstance(data, dict):
        return [Complaint((), "P104", f"a test file is a mapping, got {show(data)}")]
    if "kind" not in data:
        return [Complaint((), "P102", f"missing key kind (write kind: {TEST_KIND})", "key")]
    if not _is_test(data):
        kind = data["kind"]
        guess = did_you_mean(kind, [TEST_KIND]) if isinstance(kind, str) else ""
        return [Complaint(("kind",), "P105", f"kind must be {TEST_KIND} in a test file, got {show(kind)}{guess}")]
    return []
