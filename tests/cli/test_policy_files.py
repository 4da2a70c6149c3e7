"""Policy commands that write or print files: --save, export, show, list."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import jsonschema
import pytest

from tests.conftest import ANYGEM, Policyctl, Project
from tests.sqlite_rows import LEAF, LOCAL, live_documents, put, row

ADD = ("policy", "add", "--name", "x", "--strategy", "single", "--model", "virtual-model/a/one")

SAVED = """\
spec_version: v1
kind: model
name: virtual-policy/x
display_name: virtual-policy/x
description: virtual-policy/x
policy:
  strategy:
    mode: single
  targets:
    - model_name: virtual-model/a/one
"""


def test_save_writes_a_new_file_and_no_remote_and_apply_takes_it(bare: Path, policyctl: Policyctl) -> None:
    ran = policyctl(*ADD, "--save")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "+ virtual-policy/x  policies/x.yaml\n    single of a/one\nWrote policies/x.yaml.\n"
    assert Path("policies/x.yaml").read_text("utf-8") == SAVED
    assert not LOCAL.exists()
    assert policyctl(*ADD, "--save").out == "No changes: policies/x.yaml already matches.\n"
    assert policyctl("apply", "--yes").code == 0
    assert policyctl(*ADD) == (0, "No changes: the live policy already matches.\n", "")


def test_save_rewrites_the_file_that_has_the_policy_wherever_it_is(project: Project, policyctl: Policyctl) -> None:
    project.write("team/that.yml", ANYGEM)
    add = ("policy", "add", "--name", "anygem", "--strategy", "single", "--model", "virtual-model/a/one", "--save")
    assert policyctl(*add).code == 64
    ran = policyctl(*add, "--dry-run")
    assert ran.code == 0
    assert "~ virtual-policy/anygem  policies/team/that.yml\n" in ran.out
    assert "policy.strategy.mode: loadbalance → single" in ran.out
    assert Path("policies/team/that.yml").read_text("utf-8") == ANYGEM
    assert policyctl(*add, "--yes").code == 0
    assert "mode: single" in Path("policies/team/that.yml").read_text("utf-8")
    assert [path.name for path in Path("policies").rglob("*.y*ml")] == ["that.yml"]


CANNOT_SAVE: dict[str, tuple[dict[str, str], int, str]] = {
    "several documents": ({"a.yaml": f"{SAVED}---\n{ANYGEM}"}, 1, "error: policies/a.yaml has more than this policy"),
    "vars": (
        {
            "a.yaml": SAVED.replace("single", '"{{ mode }}"'),
            "policyctl.yaml": "environments: {dev: {vars: {mode: single}}}\n",
        },
        1,
        "error: policies/a.yaml depends on the environment's vars; edit it by hand",
    ),
    "JSON": (
        {"a.json": json.dumps({"spec_version": "v1", "kind": "model", **row("x"), "description": "JSON"})},
        1,
        "error: policies/a.json is JSON, and policyctl writes YAML",
    ),
    "a broken directory": ({"a.yaml": "a: ["}, 1, "policies/a.yaml:1:4: this [ is never closed; add the closing ] [P002]"),
    "out of scope": ({"policyctl.yaml": 'scope: ["team-*"]\n'}, 64, "error: virtual-policy/x is outside the scope of"),
    "not included": ({"policyctl.yaml": 'include: ["team/*"]\n'}, 1, "error: policies/x.yaml is not included by environment"),
}


@pytest.mark.parametrize("case", CANNOT_SAVE)
def test_save_never_writes_over_what_it_cannot_say(case: str, project: Project, policyctl: Policyctl) -> None:
    contents, code, message = CANNOT_SAVE[case]
    for name, text in contents.items():
        project.write(name, text)
    ran = policyctl(*ADD, "--save", "--yes")
    assert ran.code == code
    assert ran.err.startswith(message)
    assert {path.name: path.read_text("utf-8") for path in project.policies.iterdir()} == contents


def test_save_takes_another_name_where_the_file_is_there_already(project: Project, policyctl: Policyctl) -> None:
    project.write("X.yaml", ANYGEM)
    ran = policyctl(*ADD, "--save")
    assert ran.code == 0
    new = [path.name for path in project.policies.iterdir() if path.name != "X.yaml"]
    assert len(new) == 1
    assert new[0].startswith("x-")


def test_import_save_writes_the_rendered_policy(project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", "environments: {dev: {vars: {w: 0.5}}}\n")
    Path("vendor.yaml").write_text(ANYGEM.replace("0.75", '"{{ w }}"'), "utf-8")
    assert policyctl("policy", "import", "--file", "vendor.yaml", "--save").code == 0
    assert "weight: 0.5\n" in (project.policies / "anygem.yaml").read_text("utf-8")
    assert policyctl("validate").code == 0


def test_remove_save_deletes_the_file(project: Project, policyctl: Policyctl) -> None:
    put([row("x")])
    file = project.policy("x")
    remove = ("policy", "remove", "--name", "x", "--save")
    assert policyctl(*remove, "--dry-run").out == "- virtual-policy/x  policies/x.yaml\n"
    assert file.exists()
    assert policyctl(*remove).code == 64
    ran = policyctl(*remove, "--yes")
    assert (ran.code, ran.out) == (0, "- virtual-policy/x  policies/x.yaml\nDeleted policies/x.yaml.\n")
    assert not file.exists()
    assert "virtual-policy/x" in live_documents()
    ran = policyctl(*remove, "--yes")
    assert (ran.code, ran.err) == (1, "error: no file of policies has the policy virtual-policy/x\n")


STORED = row("team/chat", id="the-id", owner="me", tenant_id="t-1", description="{{ not }}\nReally", display_name=None)


@pytest.mark.parametrize("name", ["team/chat", "virtual-policy/team/chat"])
def test_an_exported_file_imports_to_an_empty_plan_and_has_the_same_bytes_again(
    name: str, bare: Path, policyctl: Policyctl
) -> None:
    put([STORED])
    ran = policyctl("policy", "export", "--name", name, "--output", "chat.yaml")
    assert ran == (0, "", "wrote chat.yaml\n")
    text = Path("chat.yaml").read_text("utf-8")
    assert "t-1" not in text
    assert "owner" not in text
    assert policyctl("policy", "export", "-n", name, "-o", "-").out == text
    assert policyctl("policy", "show", "-n", name).out == text
    assert policyctl("policy", "import", "--file", "chat.yaml").out == "No changes: the live policy already matches.\n"
    policyctl("policy", "import", "--file", "chat.yaml", "--remote", "sqlite:///new.db", "--yes")
    policyctl("policy", "export", "-n", name, "-o", "again.yaml", "--remote", "sqlite:///new.db")
    assert Path("again.yaml").read_text("utf-8") == text


@pytest.mark.parametrize(
    ("name", "entry"), [("team/chat", "chat.yaml"), ("a/..", "a-"), ("a/C:x", "a-c-x-"), ("A B", "A B.yaml")]
)
def test_an_exported_archive_has_the_vendors_layout_and_the_same_bytes_again(
    name: str, entry: str, bare: Path, policyctl: Policyctl
) -> None:
    put([row(name)])
    for output in ("out.zip", "sub/out.zip"):
        Path(output).parent.mkdir(exist_ok=True)
        assert policyctl("policy", "export", "-n", name, "-o", output).code == 0
    content = Path("out.zip").read_bytes()
    assert content == Path("sub/out.zip").read_bytes()
    with ZipFile(BytesIO(content)) as archive:
        (member,) = archive.namelist()
        assert member.startswith(f"out/models/{entry}")
        assert archive.read(member).decode() == policyctl("policy", "show", "-n", name).out


BAD_EXPORTS: dict[str, tuple[str, str, int, str]] = {
    "no such policy": (
        "nope",
        "a.yaml",
        1,
        "error: no policy virtual-policy/nope on local; see policyctl policy list",
    ),
    "no valid policy": (
        "percent",
        "a.yaml",
        1,
        "error: virtual-policy/percent cannot be a policy file: policy.targets[0].weight: ",
    ),
    "unreadable": ("broken", "a.yaml", 5, "error: virtual-policy/broken cannot be read: the row has no policy (id id-"),
    "another suffix": ("x", "a.json", 64, "error: --output: a.json must end in .yaml, .yml or .zip, or be -"),
    "no such folder": ("x", "nope/a.yaml", 1, "error: nope/a.yaml cannot be written: No such file or directory"),
}


@pytest.mark.parametrize("case", BAD_EXPORTS)
def test_what_cannot_be_exported_is_an_error_and_leaves_no_file(case: str, bare: Path, policyctl: Policyctl) -> None:
    name, output, code, message = BAD_EXPORTS[case]
    percent = {"strategy": {"mode": "fallback"}, "targets": [{**LEAF, "weight": 250}]}
    put([row("x"), row("percent", policy=percent), row("broken", policy=None)])
    Path("a.yaml").write_text("old", "utf-8")
    ran = policyctl("policy", "export", "--name", name, "--output", output)
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith(message)
    assert Path("a.yaml").read_text("utf-8") == "old"
    assert sorted(os.listdir()) == [".policyctl", "a.yaml"]


STRANGE: list[dict[str, Any]] = [
    row("good"),
    row("percent", policy={"strategy": {"mode": "fallback"}, "targets": [{**LEAF, "weight": 250}]}),
    row("esc\x1b[31m"),
    row("broken", policy=None),
    row("twin", id="1"),
    row("twin", id="2"),
]


def test_list_shows_every_row_in_one_line_and_nothing_that_a_terminal_obeys(bare: Path, policyctl: Policyctl) -> None:
    put(STRANGE)
    ran = policyctl("policy", "list")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == (
        "environment local, remote local\n\n"
        "virtual-policy/esc\\x1b[31m  not a valid policy: name must not contain control characters or invisible ones,"
        ' got "virtual-policy/esc\\u001b[31m"\n'
        "virtual-policy/good  single of a/one\n"
        "virtual-policy/percent  not a valid policy: policy.targets[0].weight: weight must be greater than 0 and at most 1,"
        " got 250\n"
        "blocked  virtual-policy/twin: the remote has several policies of this name; remove all but one by id (ids 1, 2)\n"
        "unreadable  the row has no policy (name virtual-policy/broken, id id-virtual-policy/broken)\n\n"
        "3 policies.\n"
    )


def test_an_empty_remote_lists_nothing_and_makes_no_file(bare: Path, policyctl: Policyctl) -> None:
    assert policyctl("policy", "list") == (0, "environment local, remote local\n\n0 policies.\n", "")
    assert os.listdir() == []


def test_the_json_of_list_and_show_follows_its_schema(bare: Path, policyctl: Policyctl) -> None:
    put(STRANGE)
    schema = json.loads(files("policyctl.report.schemas").joinpath("policies.schema.json").read_text("utf-8"))
    listed, shown = (
        json.loads(policyctl("policy", *command, "--format", "json").out)
        for command in (("list",), ("show", "--name", "percent"))
    )
    for data in (listed, shown):
        jsonschema.validate(data, schema)
    assert [policy["name"].removeprefix("virtual-policy/") for policy in listed["policies"]] == [
        "esc\x1b[31m",
        "good",
        "percent",
    ]
    assert listed["twins"] == [{"name": "virtual-policy/twin", "ids": ["1", "2"]}]
    assert shown["policies"] == [policy for policy in listed["policies"] if policy["name"] == "virtual-policy/percent"]


def test_what_is_not_a_valid_policy_is_shown_with_the_reason(bare: Path, policyctl: Policyctl) -> None:
    put(STRANGE)
    ran = policyctl("policy", "show", "--name", "percent")
    assert ran.code == 0
    assert ran.out.startswith("# not a valid policy: policy.targets[0].weight: weight must be greater than 0")
    assert json.loads(ran.out.partition("\n")[2])["policy"]["targets"] == [{**LEAF, "weight": 250}]


def test_a_file_name_that_a_terminal_would_obey_is_only_shown(bare: Path, policyctl: Policyctl) -> None:
    put([row("x")])
    ran = policyctl("policy", "export", "--name", "x", "--output", "x\x1b[2J.yaml")
    assert (ran.code, ran.err) == (0, "wrote x\\x1b[2J.yaml\n")


@pytest.mark.slow
def test_an_export_in_a_process_of_its_own_is_what_the_process_prints(bare: Path) -> None:
    """Through the program itself: standard output is the file and nothing else."""
    put([STORED])
    args = [sys.executable, "-m", "policyctl", "policy", "export", "-n", "team/chat", "-o"]
    printed = subprocess.run([*args, "-"], capture_output=True, check=True)
    subprocess.run([*args, "x.yaml"], check=True, capture_output=True)
    assert printed.stdout == Path("x.yaml").read_bytes()
    assert printed.stderr == b""
