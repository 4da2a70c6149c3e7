"""The repository's own policies: valid, and what the schema makes of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from policyctl.load.yaml import read_yaml
from policyctl.report import SCHEMAS, schema_text
from tests.conftest import ANYGEM, Policyctl

ROOT = Path(__file__).parent.parent
POLICIES = sorted((ROOT / "policies").glob("*.yaml"))
EXAMPLES = [path for path in POLICIES if path.name != "policyctl.yaml" and not path.name.endswith(".test.yaml")]
TESTS = [path for path in POLICIES if path.name.endswith(".test.yaml")]


def validator(name: str) -> Any:
    return jsonschema.Draft202012Validator(json.loads(schema_text(name)))


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_a_schema(name: str) -> None:
    schema = json.loads(schema_text(name))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.slow
def test_the_schemas_of_files_are_those_of_their_models() -> None:
    subprocess.run([sys.executable, ".ci/made", "--check"], cwd=ROOT, check=True)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_validates_against_the_schema_that_its_first_line_names(path: Path) -> None:
    first, *_ = path.read_text("utf-8").splitlines()
    schema = (path.parent / first.removeprefix("# yaml-language-server: $schema=")).resolve()
    assert json.loads(schema.read_text("utf-8")) == json.loads(schema_text("policy"))
    validator("policy").validate(yaml.safe_load(path.read_text("utf-8")))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_every_test_file_validates_against_the_schema_that_its_first_line_names(path: Path) -> None:
    first, *_ = path.read_text("utf-8").splitlines()
    schema = (path.parent / first.removeprefix("# yaml-language-server: $schema=")).resolve()
    assert json.loads(schema.read_text("utf-8")) == json.loads(schema_text("test"))
    for document in read_yaml(path.read_text("utf-8"), path.name, number_keys=True):
        validator("test").validate(document.data)


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_the_examples_own_tests_pass_in_every_environment(environment: str, policyctl: Policyctl) -> None:
    ran = policyctl("--dir", ROOT / "policies", "test", "--env", environment)
    assert (ran.code, ran.err) == (0, "")
    assert all(path.name in ran.out for path in TESTS)


def test_the_configuration_validates_against_its_schema() -> None:
    validator("config").validate(yaml.safe_load((ROOT / "policies/policyctl.yaml").read_text("utf-8")))


def test_there_are_six_to_ten_and_the_first_one_is_the_formats_own_example() -> None:
    assert 6 <= len(EXAMPLES) <= 10
    assert (ROOT / "policies/anygem.yaml").read_text("utf-8").partition("\n")[2] == ANYGEM


def test_the_examples_are_valid_in_every_environment(policyctl: Policyctl) -> None:
    ran = policyctl("validate", "--deep", ROOT / "policies")
    assert (ran.code, ran.err) == (0, "")
    assert "warning" not in ran.out


REFUSED_BY_BOTH = {
    "weight 75": ("0.75", "75"),
    "weight as text": ("0.75", '"0.75"'),
    "a wrong mode": ("loadbalance", "round-robin"),
    "an unknown key": ("weight", "wieght"),
    "retry without attempts": ("    attempts: 1\n", ""),
    "code 600": ("[503]", "[600]"),
    "no targets": (ANYGEM[ANYGEM.index("  targets") :], "  targets: []\n"),
    "another spec_version": ("v1", "v2"),
}


@pytest.mark.parametrize("case", REFUSED_BY_BOTH)
def test_schema_and_validate_agree(case: str, tmp_path: Path, policyctl: Policyctl) -> None:
    text = ANYGEM.replace(*REFUSED_BY_BOTH[case])
    assert text != ANYGEM
    assert not validator("policy").is_valid(yaml.safe_load(text))
    path = tmp_path / "x.yaml"
    path.write_text(text, "utf-8")
    assert policyctl("validate", path).code == 1
