"""Files that are made to use up a machine: each ends soon and within a gigabyte of memory, with a clear problem."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.problem_lines import shows

GIGABYTE = 1024**3
SECONDS = 20  # of the processor, whatever else this machine does
HEAD = "spec_version: v1\nkind: model\nname: x\n"
POLICY = HEAD + "policy:\n  strategy: {mode: single}\n  targets: [{model_name: virtual-model/a/b}]\n"
MANY = 100_000
DOCUMENT = {"spec_version": "v1", "kind": "model", "name": "x"}
GROUP_OF_TEN = "  - {strategy: {mode: single}, targets: [" + "{model_name: virtual-model/a/b}, " * 10 + "]}\n"


class Case(NamedTuple):
    """What lies in policies/, as a text by file name or as something that makes it, and what validate must say of it."""

    files: dict[str, str] | Callable[[Path], None]
    told: str


def described(text: str) -> str:
    return POLICY.replace("name: x\n", f"name: x\ndescription: {text}\n")


def billion_laughs() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    return "\n".join(lines) + "\n"


def deep_folders(policies: Path) -> None:
    here = os.getcwd()
    os.chdir(policies)
    for _ in range(80):
        os.mkdir("a")
        os.chdir("a")
    os.chdir(here)


def link_loop(policies: Path) -> None:
    (policies / "x.yaml").write_text(POLICY)
    (policies / "loop.yaml").symlink_to("loop.yaml")


BIG_VARS = "environments: {local: {vars: {v: [" + "0," * 100_000 + "0]}}}\n"
LONG_VARIABLE = f"environments: {{local: {{vars: {{v: {'x' * 60_000}}}}}}}\n"
CASES = {
    "8 MiB and a byte": Case({"a.yaml": "#" * (8 * 1024 * 1024 + 1)}, "has more than 8 MiB; split it [P007]"),
    "nested flow lists": Case({"a.yaml": "a: " + "[" * 900}, "nested more than 200 deep [P005]"),
    "nested flow lists without end": Case(
        {"a.yaml": "[" * 1_000_000}, "this is not YAML: exceeded maximum nesting depth [P002]"
    ),
    "nested block lists": Case({"a.yaml": "- " * 1_000_000}, "nested more than 200 deep [P005]"),
    "nested keys": Case({"a.yaml": "? " * 1_000_000}, "nested more than 200 deep [P005]"),
    "nested JSON lists": Case({"a.json": "[" * 1_000_000}, "nested more than 200 deep [P005]"),
    "JSON as deep as Python reads it": Case(
        {"a.json": '{"policy":' * 900 + "1" + "}" * 900}, "nested more than 200 deep [P005]"
    ),
    "groups in groups": Case(
        {"a.yaml": HEAD + "policy: " + "{strategy: {mode: single}, targets: [" * 90 + "]}" * 90},
        "groups are nested more than 64 [P107]",
    ),
    "many targets": Case(
        {
            "a.json": json.dumps(
                {
                    **DOCUMENT,
                    "policy": {"strategy": {"mode": "fallback"}, "targets": [{"model_name": "virtual-model/a/b"}] * MANY},
                }
            )
        },
        "the policy has more than 1,000 targets; split it into several policies [P109]",
    ),
    "many targets in groups": Case(
        {"a.yaml": HEAD + "policy:\n  strategy: {mode: fallback}\n  targets:\n" + GROUP_OF_TEN * 100},
        "the policy has more than 1,000 targets; split it into several policies [P109]",
    ),
    "aliases of aliases": Case({"a.yaml": billion_laughs()}, "the aliases expand to more than 10,000 values [P005]"),
    "many aliases": Case(
        {"a.yaml": "a: &a [1]\nb: [" + "*a, " * MANY + "]\n"}, "the aliases expand to more than 10,000 [P005]"
    ),
    "an alias in its own anchor": Case({"a.yaml": "a: &a [*a]\n"}, "the alias *a is inside the value that it refers to [P002]"),
    "many merges": Case({"a.yaml": "<<: {}\n" * 200_000}, "P010"),
    "many merges of one": Case(
        {"a.yaml": "a: &a {b: 1}\nc:\n" + "  <<: *a\n" * MANY}, "the aliases expand to more than [P005]"
    ),
    "documents": Case({"a.yaml": "---\n" * 10_001}, "more than 10,000 documents in one file; split it [P005]"),
    "many policies with comments": Case(
        {"a.yaml": "---\n".join(["# policyctl: ignore[P401]\n" + POLICY + "# {{ no }}\n"] * 8_000)},
        "virtual-policy/x is also [P201]",
    ),
    "one key again and again": Case({"a.json": "{" + ",".join(['"a":1'] * MANY) + "}"}, "99,899 more duplicate keys"),
    "many keys twice": Case(
        {"a.json": "{" + ",".join(f'"k{n}":1,"k{n}":1' for n in range(MANY)) + "}"}, "99,900 more duplicate keys"
    ),
    "many unknown keys": Case(
        {"a.yaml": POLICY + "".join(f"  k{n}: 1\n" for n in range(20_000))}, 'unknown key "k19999" [P101]'
    ),
    "a number of many digits": Case(
        {"a.yaml": POLICY + "  retry: {attempts: " + "9" * 1_000_000 + "}\n"}, "a number of 1000000 digits [P004]"
    ),
    "a JSON number of many digits": Case({"a.json": "9" * 1_000_000}, "a number has too many digits [P004]"),
    "attempts": Case(
        {"a.yaml": POLICY + "  retry: {attempts: 1000000000}\n"}, "attempts must be from 0 to 100, got 1000000000 [P103]"
    ),
    "a long name": Case(
        {"a.yaml": POLICY.replace("name: x", "name: " + "x" * 1_000_000)}, "name must have at most 512 characters [P108]"
    ),
    "a long template": Case(
        {"a.yaml": described('"{{ ' + "'" + "x" * 70_000 + "'" + ' }}"')}, "the template has 70,008 characters [P015]"
    ),
    "a template of many tokens": Case(
        {"a.yaml": described('"{{ ' + "1+" * 20_000 + '1 }}"')}, "the template has more than 1000 tokens [P015]"
    ),
    "a power": Case({"a.yaml": described('"{{ 9 ** 9 ** 9 }}"')}, "a template cannot raise to a power [P015]"),
    "a rounding": Case(
        {"a.yaml": described("\"{{ 1.5 | round(999999999, 'ceil') }}\"")}, "the template rounds to more than 30 [P015]"
    ),
    "a template's output": Case(
        {"a.yaml": described('"{{ [' + ",".join(["v"] * 400) + '] }}"'), "policyctl.yaml": LONG_VARIABLE},
        "the template produces more than 65,536 characters [P015]",
    ),
    "variables": Case(
        {"a.yaml": POLICY, "policyctl.yaml": BIG_VARS}, "vars hold more than 65,536 characters; shorten them [P005]"
    ),
    "directories": Case(deep_folders, "is nested more than 64 directories deep; flatten the directory [P005]"),
    "a link to itself": Case(link_loop, "is a link that leads back to itself; delete it [P008]"),
    "scenarios": Case(
        {"a.yaml": POLICY, "a.test.yaml": "kind: policy_test\nspec_version: v1\npolicy: x\ntests: " + "[" * 900},
        "nested more than 200 [P005]",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_that_is_too_much_is_a_clear_problem(name: str, tmp_path: Path) -> None:
    files, told = CASES[name]
    policies = tmp_path / "policies"
    policies.mkdir()
    if callable(files):
        files(policies)
    else:
        for file, text in files.items():
            (policies / file).write_text(text)
    ran = bounded(tmp_path, "validate")
    assert ran.returncode == 1
    assert ran.stderr == ""
    assert shows(told, ran.stdout)
    assert "Traceback" not in ran.stdout


ENDLESS = {
    "a plan": ({}, ("apply", "/dev/zero", "--yes"), "/dev/zero cannot be read: it has more than 268,435,456 bytes"),
    "a secret": ({"auth": '{token: "file:/dev/zero"}'}, ("plan",), "which cannot be read: it has more than 65,536 bytes"),
    "a ca_file": ({"ca_file": "/dev/zero"}, ("plan",), "ca_file /dev/zero cannot be read: it has more than 8,388,608 bytes"),
    "a secret of no file's name": (
        {"auth": '{token: "file:a\\0b"}'},
        ("plan",),
        "which cannot be read: a file name cannot contain a null byte",
    ),
    "a ca_file of no file's name": ({"ca_file": '"a\\0b"'}, ("plan",), "a file name cannot contain a null byte"),
    "a database of a long name": ({"remote": "sqlite:///" + "a" * 5000}, ("plan",), "File name too long"),
    "a database of no file's name": (
        {"remote": '"sqlite:///a\\0b"'},
        ("plan",),
        "remote must be sqlite:///path/to/file [P304]",
    ),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_file_that_never_ends_or_cannot_be_is_one_line(name: str, tmp_path: Path) -> None:
    keys, command, told = ENDLESS[name]
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/x.yaml").write_text(POLICY)
    settings = {"remote": "https://127.0.0.1:1/", **keys}
    lines = "".join(f"    {key}: {value}\n" for key, value in settings.items())
    (tmp_path / "policies/policyctl.yaml").write_text(f"environments:\n  local:\n{lines}")
    ran = bounded(tmp_path, *command)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert shows(told, ran.stderr)
    assert len(ran.stderr.splitlines()) == 1


def bounded(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run policyctl with a gigabyte of memory and some seconds of a processor; what takes more is killed."""
    return subprocess.run([sys.executable, "-c", _BOUNDED, *args], cwd=folder, capture_output=True, text=True, check=False)


_BOUNDED = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, ({GIGABYTE}, {GIGABYTE}))
resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS}))
from policyctl.cli.main import main
main()
"""
