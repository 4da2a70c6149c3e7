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
    "8 MiB and a byte": Case({"a.yaml": "#" * (8 * 1024 * 1024 + 1)}, "P007 has more than 8 MiB; split it"),
    "nested flow lists": Case({"a.yaml": "a: " + "[" * 900}, "P005 nested more than 200 deep"),
    "nested flow lists without end": Case({"a.yaml": "[" * 1_000_000}, "P002 this is not YAML: exceeded maximum nesting depth"),
    "nested block lists": Case({"a.yaml": "- " * 1_000_000}, "P005 nested more than 200 deep"),
    "nested keys": Case({"a.yaml": "? " * 1_000_000}, "P005 nested more than 200 deep"),
    "nested JSON lists": Case({"a.json": "[" * 1_000_000}, "P005 nested more than 200 deep"),
    "JSON as deep as Python reads it": Case({"a.json": '{"policy":' * 900 + "1" + "}" * 900}, "P005 nested more than 200 deep"),
    "groups in groups": Case(
        {"a.yaml": HEAD + "policy: " + "{strategy: {mode: single}, targets: [" * 90 + "]}" * 90},
        "P107 groups are nested more than 64",
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
        "P109 the policy has more than 1,000 targets; split it into several policies",
    ),
    "many targets in groups": Case(
        {"a.yaml": HEAD + "policy:\n  strategy: {mode: fallback}\n  targets:\n" + GROUP_OF_TEN * 100},
        "P109 the policy has more than 1,000 targets; split it into several policies",
    ),
    "aliases of aliases": Case({"a.yaml": billion_laughs()}, "P005 the aliases expand to more than 10,000 values"),
    "many aliases": Case({"a.yaml": "a: &a [1]\nb: [" + "*a, " * MANY + "]\n"}, "P005 the aliases expand to more than 10,000"),
    "an alias in its own anchor": Case({"a.yaml": "a: &a [*a]\n"}, "P002 the alias *a is inside the value that it refers to"),
    "many merges": Case({"a.yaml": "<<: {}\n" * 200_000}, "P010"),
    "many merges of one": Case({"a.yaml": "a: &a {b: 1}\nc:\n" + "  <<: *a\n" * MANY}, "P005 the aliases expand to more than"),
    "documents": Case({"a.yaml": "---\n" * 10_001}, "P005 more than 10,000 documents in one file; split it"),
    "many policies with comments": Case(
        {"a.yaml": "---\n".join(["# policyctl: ignore[P401]\n" + POLICY + "# {{ no }}\n"] * 8_000)},
        "P201 virtual-policy/x is also",
    ),
    "one key again and again": Case({"a.json": "{" + ",".join(['"a":1'] * MANY) + "}"}, "99,899 more duplicate keys"),
    "many keys twice": Case(
        {"a.json": "{" + ",".join(f'"k{n}":1,"k{n}":1' for n in range(MANY)) + "}"}, "99,900 more duplicate keys"
    ),
    "many unknown keys": Case({"a.yaml": POLICY + "".join(f"  k{n}: 1\n" for n in range(20_000))}, 'P101 unknown key "k19999"'),
    "a number of many digits": Case(
        {"a.yaml": POLICY + "  retry: {attempts: " + "9" * 1_000_000 + "}\n"}, "P004 a number of 1000000 digits"
    ),
    "a JSON number of many digits": Case({"a.json": "9" * 1_000_000}, "P004 a number has too many digits"),
    "attempts": Case(
        {"a.yaml": POLICY + "  retry: {attempts: 1000000000}\n"}, "P103 attempts must be from 0 to 100, got 1000000000"
    ),
    "a long name": Case(
        {"a.yaml": POLICY.replace("name: x", "name: " + "x" * 1_000_000)}, "P108 name must have at most 512 characters"
    ),
    "a long template": Case(
        {"a.yaml": described('"{{ ' + "'" + "x" * 70_000 + "'" + ' }}"')}, "P015 the template has 70,008 characters"
    ),
    "a template of many tokens": Case(
        {"a.yaml": described('"{{ ' + "1+" * 20_000 + '1 }}"')}, "P015 the template has more than 1000 tokens"
    ),
    "a power": Case({"a.yaml": described('"{{ 9 ** 9 ** 9 }}"')}, "P015 a template cannot raise to a power"),
    "a rounding": Case(
        {"a.yaml": described("\"{{ 1.5 | round(999999999, 'ceil') }}\"")}, "P015 the template rounds to more than 30"
    ),
    "a template's output": Case(
        {"a.yaml": described('"{{ [' + ",".join(["v"] * 400) + '] }}"'), "policyctl.yaml": LONG_VARIABLE},
        "P015 the template produces more than 65,536 characters",
    ),
    "variables": Case(
        {"a.yaml": POLICY, "policyctl.yaml": BIG_VARS}, "P005 vars hold more than 65,536 characters; shorten them"
    ),
    "directories": Case(deep_folders, "P005 is nested more than 64 directories deep; flatten the directory"),
    "a link to itself": Case(link_loop, "P008 is a link that leads back to itself; delete it"),
    "scenarios": Case(
        {"a.yaml": POLICY, "a.test.yaml": "kind: policy_test\nspec_version: v1\npolicy: x\ntests: " + "[" * 900},
        "P005 nested more than 200",
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
    assert told in ran.stdout
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
    "a database of no file's name": ({"remote": '"sqlite:///a\\0b"'}, ("plan",), "P304 remote must be sqlite:///path/to/file"),
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
    assert told in ran.stderr
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
