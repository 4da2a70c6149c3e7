"""Scenario test files: their strict model, and the tests in them for one environment's variables."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, PlainValidator, Tag, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from policyctl.effect.gateway import Answer, with_remainder
from policyctl.errors import Mark, Problem
from policyctl.load.kinds import TEST_KIND, RawDocument, has_template, is_test_file
from policyctl.load.settings_file import AnswerKey, OneAnswer, invalid
from policyctl.load.source import Source
from policyctl.load.yaml import read_yaml, to_problems
from policyctl.plan.scenario import Amount, Expect, Scenario, Suite, read_amount
from policyctl.policy.findings import Finding, did_you_mean, format_path
from policyctl.policy.names import canonical_name
from policyctl.policy.schema import FileModel, Text, findings_of

if TYPE_CHECKING:
    from policyctl.effect.course import Given

# Tags of the unions, unlike any key of the format.
_ONE, _ORDER, _PARTS = "<one>", "<order>", "<parts>"
_TEMPLATE = {"type": "string", "pattern": r"\{\{"}


def _check_status_key(key: Any) -> int:
    if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) == 3 and key >= "200":
        return int(key)
    raise invalid("must be a status from 200 to 999, got {got}", format_path(key))


def _check_amount(value: Any) -> Amount:
    if type(value) in (int, float) and 0 <= value <= 1:
        return Amount(value)
    try:
        if isinstance(value, str):
            return read_amount(value)
    except ValueError:
        pass
    raise invalid('must be a number from 0 to 1, or a comparison such as ">= 0.99", got {got}', format_path(value))


def _check_chances(chances: dict[Answer, float]) -> Mapping[Answer, float]:
    total = sum(chances.values())
    if total > 1 + 1e-9 or (200 in chances and total < 1 - 1e-9):
        raise invalid(
            "has chances that sum to {got}; they must sum to 1 (where 200 has none it gets what is left)", f"{total:.9g}"
        )
    return with_remainder(chances)


def _shape(value: Any) -> str:
    """Which shape a value has."""
    return _PARTS if isinstance(value, Mapping) else _ORDER if isinstance(value, list | tuple) else _ONE


def _one_or_parts(value: Any) -> str:
    return _PARTS if isinstance(value, Mapping) else _ONE


_STATUS_SCHEMA = {"type": "string", "pattern": "^[2-9][0-9][0-9]$"}
_AMOUNT_SCHEMA = {
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": 1},
        {"type": "string", "pattern": r"^\s*(>=|<=|>|<|=)?\s*(0?\.[0-9]+|0|1(\.0+)?)\s*$|\{\{"},
    ]
}

_CHANCE_SCHEMA = {"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 1}, _TEMPLATE]}
_ONLY_THESE: Any = Field(min_length=1, json_schema_extra={"additionalProperties": False})

StatusKey = Annotated[int, PlainValidator(_check_status_key), WithJsonSchema(_STATUS_SCHEMA)]
Part = Annotated[Amount, PlainValidator(_check_amount), WithJsonSchema(_AMOUNT_SCHEMA)]
Chance = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False), WithJsonSchema(_CHANCE_SCHEMA)]

OrderedAnswers = Annotated[tuple[OneAnswer, ...], Field(strict=False, min_length=1)]
Chances = Annotated[dict[AnswerKey, Chance], _ONLY_THESE, AfterValidator(_check_chances)]
GivenAnswers = Annotated[
    Annotated[OneAnswer, Tag(_ONE)] | Annotated[OrderedAnswers, Tag(_ORDER)] | Annotated[Chances, Tag(_PARTS)],
    Discriminator(_shape),
]
Statuses = Annotated[
    Annotated[int, Field(ge=200, le=999), Tag(_ONE)] | Annotated[dict[StatusKey, Part], _ONLY_THESE, Tag(_PARTS)],
    Discriminator(_one_or_parts),
]
Servers = Annotated[
    Annotated[Text, Tag(_ONE)] | Annotated[dict[Text, Part], Field(min_length=1), Tag(_PARTS)],
    Discriminator(_one_or_parts),
]


class ExpectFile(FileModel):
    """What must hold. Parts of all requests are numbers from 0 to 1 or comparisons; what is not named is not checked."""

    status: Annotated[Statuses | None, Field(description="The status of every request, or statuses with their parts.")] = None
    served: Annotated[Part | None, Field(description="The part of the requests that succeed.")] = None
    served_by: Annotated[
        Servers | None,
        Field(description="The model that serves every request, or models, providers or globs with their parts."),
    ] = None
    never: Annotated[
        tuple[Text, ...] | None,
        Field(strict=False, min_length=1, description="Models, providers or globs that are never called."),
    ] = None
    max_calls: Annotated[int | None, Field(ge=0, description="The most calls that one request may make.")] = None
    max_wait_seconds: Annotated[
        float | None, Field(ge=0, allow_inf_nan=False, description="The most back-off of one request, in seconds.")
    ] = None


def _check_given(given: "dict[str, Given]") -> "dict[str, Given]":
    if {tuple, dict} <= {type(answers) for answers in given.values()}:
        message = "has answers in order beside chances, which cannot be combined; write two tests"
        raise PydanticCustomError("scenario", message)
    return given


def _check_expect(expect: ExpectFile) -> ExpectFile:
    if all(value is None for _, value in expect):
        raise PydanticCustomError(
            "scenario", "must expect something (known: {keys})", {"keys": ", ".join(ExpectFile.model_fields)}
        )
    return expect


class ScenarioFile(FileModel):
    """One test: given what models answer, what to expect."""

    name: Annotated[Text, Field(description="What must hold, in words.")]
    streamed: Annotated[
        bool | None, Field(description="Whether the requests ask for a stream; then a broken-body is a 200. Default: false.")
    ] = None
    given: Annotated[
        dict[Text, GivenAnswers],
        AfterValidator(_check_given),
        Field(
            description="A model, provider or glob, with its answer, a list of answers in order (the last one repeats), or "
            "answers with their chances. The last entry that matches a model wins; all other models answer 200."
        ),
    ] = Field(default_factory=dict)
    expect: Annotated[ExpectFile, AfterValidator(_check_expect), Field(description="What must hold; at least one key.")]


class SuiteFile(FileModel):
    """Scenario tests of one policy."""

    spec_version: Annotated[Literal["v1"], Field(description="The version of the format.")]
    kind: Annotated[Literal["policy_test"], Field(description="Marks a document of scenario tests.")]
    policy: Annotated[Text, Field(description="The name of a policy in the directory.")]
    tests: Annotated[tuple[ScenarioFile, ...], Field(strict=False, min_length=1, description="The tests; at least one.")]


def scenario_of(file: ScenarioFile) -> Scenario:
    """The test in a file's entry."""
    expect = file.expect
    answers: Mapping[str, Given] = file.given
    if file.streamed:
        from policyctl.effect.course import streamed  # few tests are

        answers = {pattern: streamed(given) for pattern, given in answers.items()}
    return Scenario(
        file.name,
        answers,
        Expect(expect.status, expect.served, expect.served_by, expect.never or (), expect.max_calls, expect.max_wait_seconds),
    )


def read_suites(source: Source, variables: Mapping[str, Any]) -> tuple[list[Suite], list[Problem]]:
    """The tests of one file and all their problems. Documents with a problem give no tests."""
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
    """The documents with statuses as keys: `{503: 0.1}` needs no quotes here. Tests beside policies are parsed anew."""
    fits = is_test_file(source.file) or source.file.endswith(".json")
    return source.documents if fits else read_yaml(source.text, source.file, number_keys=True)


def _is_test(data: Any) -> bool:
    return isinstance(data, dict) and data.get("kind") == TEST_KIND


def _read(source: Source, index: int, document: RawDocument, variables: Mapping[str, Any]) -> Suite | list[Problem]:
    file, found = _checked(document.data, variables)
    if file is not None and not document.problems:
        return Suite(canonical_name(file.policy), tuple(map(scenario_of, file.tests)), source.file, index)
    # A scalar that cannot be read needs no second line about what it is not.
    known = {problem.mark for problem in document.problems}
    return [*document.problems, *(one for one in to_problems(source, index, found) if one.mark not in known)]


def _checked(data: Any, variables: Mapping[str, Any]) -> tuple[SuiteFile | None, list[Finding]]:
    """A document's data with templates rendered, or everything that is wrong with it."""
    if found := _kind_findings(data):
        return None, found
    if has_template(data):
        from policyctl.load.template import render_document  # imports jinja2

        data, found = render_document(data, variables)
    try:
        file = SuiteFile.model_validate(data)
    except ValidationError:
        places = {complaint.path for complaint in found}  # their rendered values are unknown
        return None, [*found, *(one for one in findings_of(data, SuiteFile) if one.path not in places)]
    return None if found else file, found


def _kind_findings(data: Any) -> list[Finding]:
    """Why a document is not one of tests."""
    if not isinstance(data, dict):
        return [Finding((), "P104", f"a test file is a mapping, got {format_path(data)}")]
    if "kind" not in data:
        return [Finding((), "P102", f"missing key kind (write kind: {TEST_KIND})", "key")]
    if not _is_test(data):
        kind = data["kind"]
        guess = did_you_mean(kind, [TEST_KIND]) if isinstance(kind, str) else ""
        return [Finding(("kind",), "P105", f"kind must be {TEST_KIND} in a test file, got {format_path(kind)}{guess}")]
    return []
