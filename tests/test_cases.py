"""The cases below `cases/` are what a policy file may be, must not be, and had better not be.

* `valid`: `policyctl validate CASE` finds nothing, and the file is one by the JSON Schema too;
* `invalid`: it prints exactly `CASE.txt` and exits with 1. Most have one mistake, and are told one problem; a name that ends
  in a number is another shape of the same mistake;
* `linted`: `policyctl validate -v CASE` prints exactly `CASE.txt` and exits with 0;
* `deep`: `policyctl validate --deep -v CASE` does.

A case is a file or a directory. To add one, write it, run the command in its directory and read what you keep.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from policyctl.cli.main import run
from policyctl.load.source import read_source
from policyctl.policy.schema import policy_schema
from policyctl.rules import RULES
from tests.case_files import CASES, cases, copied
from tests.problem_lines import shows

# Codes that no stored case can have, and why.
WITHOUT_CASE = {
    "P007": "a file of more than 8 MiB is made by the test below",
    "P204": "found by plan and apply, which know the remote's models",
    "P305": "found by plan and apply, which read one directory",
    "P471": "needs a repository; tests/load/test_checkout.py has one",
}


# Cases with several mistakes, each of which must be found beside the others.
SEVERAL = {
    "P003-duplicate-keys.yaml",
    "P004-yaml-versions.yaml",
    "P008-links",
    "P012-tags.yaml",
    "P013-keys.yaml",
    "P015-templates.yaml",
    "P020-suffix",
    "P101-misspelled-policy-and-more.yaml",
    "P101-typos.yaml",
    "P102-missing-keys.yaml",
    "P103-status-codes.yaml",
    "P103-weights.yaml",
    "P104-attempts.yaml",
    "P104-retry-after.yaml",
    "P104-shapes.yaml",
    "P104-status-codes.yaml",
    "P104-weights.yaml",
    "P105-choices.yaml",
    "P106-empty-texts.yaml",
    "P108-names.yaml",
    "P109-scenarios.test.yaml",
    "P10x-in-the-configuration",
    "P110-virtual-models",
    "P205-no-such-policy",
    "P206-no-such-model",
    "P303-secret-variable",
    "P304-values",
    "P306-lint",
    "P308-login",
}
# A sentence that ends in what to do: after a semicolon or in parentheses, or by saying what must be there.
WHAT_TO_DO = re.compile(
    r"(?:[;(:,] (?:or )?|\()(?:add|align|begin|break|change|choose|close|copy|correct|define|delete|did you mean|end|finish"
    r"|flatten|give|indent|it has|keep|known|list|make|mark|mend|merge|move|multiply|name|plan|policyctl rules|put|quote|remove"
    r"|rename|round|run|save|shorten|simplify|split|to |use|widen|write)\b|\bmust\b|\btakes\b|\bneeds\b"
)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def validated(kind: str, name: str, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    """The exit code and the output of validate; nothing may be on standard error."""
    copied(kind, name, Path.cwd())
    code = run(["validate", *options, name])
    output = capsys.readouterr()
    assert output.err == ""
    return code, output.out


@pytest.mark.parametrize("name", cases("valid"))
def test_a_valid_file_has_no_problem(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Not one finding, infos included: the summary line is all there is."""
    code, output = validated("valid", name, capsys, "-v")
    assert code == 0
    assert re.fullmatch(r"Valid: \d polic(y|ies)( and \d tests?)? in \d files?(, skipped: 1 agent)?\.\n", output)


@pytest.mark.parametrize("name", cases("invalid"))
def test_every_problem_of_an_invalid_file_is_reported(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where, what, and what to do: to the letter."""
    assert validated("invalid", name, capsys) == (1, (CASES / "invalid" / f"{name}.txt").read_text("utf-8"))


@pytest.mark.parametrize("name", cases("linted"))
def test_a_doubtful_file_is_valid_with_findings(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """To the letter too."""
    assert validated("linted", name, capsys, "-v") == (0, (CASES / "linted" / f"{name}.txt").read_text("utf-8"))


@pytest.mark.parametrize("name", cases("deep"))
def test_what_only_the_effect_engine_finds(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Found when it is asked for, and only then."""
    assert validated("deep", name, capsys, "--deep", "-v") == (0, (CASES / "deep" / f"{name}.txt").read_text("utf-8"))
    assert run(["validate", "-v", name]) == 0
    assert not re.search("P50|P491", capsys.readouterr().out)


def problems_of(name: str) -> list[str]:
    """The problems that an invalid case has: without the summary, and without its own name."""
    lines = (CASES / "invalid" / f"{name}.txt").read_text("utf-8").splitlines()[:-1]
    return [line.replace(name, "CASE") for line in lines]


def test_one_mistake_is_one_problem() -> None:
    """A second line about the same mistake sends people to a place where nothing is wrong."""
    assert [name for name in cases("invalid") if name not in SEVERAL and len(problems_of(name)) != 1] == []


def test_every_problem_shows_where_what_and_what_to_do() -> None:
    for name in cases("invalid"):
        for line in problems_of(name):
            assert re.match(r"CASE(/[\w.-]+)?(:[1-9]\d*:[1-9]\d*)?: \S.* \[P\d{3}\]$", line), (name, line)
            assert WHAT_TO_DO.search(line), (name, line)


def test_two_different_mistakes_do_not_read_alike() -> None:
    """What is left of a message without the names and numbers of its file belongs to one mistake."""
    by_message: dict[str, set[str]] = {}
    for name in set(cases("invalid")) - SEVERAL:
        (problem,) = problems_of(name)
        mistake = re.sub(r"(-\d+)?(\.test)?(\.yaml|\.json)?$", "", name)
        by_message.setdefault(problem.split(": ", 1)[1], set()).add(mistake)
    assert [mistakes for mistakes in by_message.values() if len(mistakes) > 1] == []


def test_at_least_sixty_mistakes_are_reported_one_by_one() -> None:
    assert len({re.sub(r"-\d+\.", ".", name) for name in set(cases("invalid")) - SEVERAL}) >= 60


def test_every_code_has_a_case_and_every_case_named_after_a_code_has_it() -> None:
    """A problem that no case shows is a problem that was never seen."""
    shown = {path.name: set(re.findall(r"(?m) \[(P\d{3})\]$", path.read_text("utf-8"))) for path in CASES.glob("*/*.txt")}
    assert set().union(*shown.values()) == RULES.keys() - WITHOUT_CASE.keys()
    for name, codes in shown.items():
        if re.match(r"P\d{3}-", name):
            assert name[:4] in codes, name


def test_every_expectation_belongs_to_a_case() -> None:
    """One that is left over would be checked by nothing."""
    assert all(path.with_suffix("").exists() for path in CASES.glob("*/*.txt"))


@pytest.mark.parametrize("kind", ["valid", "linted"])
def test_valid_policies_are_valid_by_the_json_schema(kind: str) -> None:
    """What validate accepts, no editor marks as wrong."""
    validator = Draft202012Validator(policy_schema())
    for path in (CASES / kind).rglob("*.y*ml"):
        for data in [document.data for document in read_source(path).documents]:
            if data and "policy" in data and data["kind"] == "model":
                assert [error.message for error in validator.iter_errors(data)] == [], path.name


def test_a_file_of_more_than_8_mib_is_not_read(capsys: pytest.CaptureFixture[str]) -> None:
    """One line, at once, whatever is in it."""
    Path("large.yaml").write_text("# padding\n" * 900_000)
    assert run(["validate", "large.yaml"]) == 1
    assert capsys.readouterr().out.splitlines()[0] == "large.yaml: has more than 8 MiB; split it [P007]"


def test_a_second_configuration_stops_plan(capsys: pytest.CaptureFixture[str]) -> None:
    """Its settings would not hold."""
    for folder in ("policies", "policies/team"):
        Path(folder).mkdir()
        Path(folder, "policyctl.yaml").write_text("default: local\n")
        shutil.copy(CASES / "valid" / "minimal.yaml", folder)
    assert run(["plan"]) == 1
    assert shows(
        "policies/team/policyctl.yaml: a second configuration; plan this directory by itself [P305]", capsys.readouterr().err
    )
