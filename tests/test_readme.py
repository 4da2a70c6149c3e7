"""The README is true."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from policyctl.cli.main import COMMANDS
from tests.conftest import Policyctl, Project
from tests.readme import README, rerun

TEXT = README.read_text("utf-8")


def test_its_transcripts_are_what_the_commands_print(tmp_path: Path) -> None:
    assert rerun(TEXT, tmp_path) == TEXT


@pytest.mark.parametrize("command", COMMANDS)
def test_it_names_every_command(command: str) -> None:
    assert f"policyctl {command}" in TEXT


def test_it_has_two_setup_commands_one_line_each() -> None:
    block = TEXT.split("```sh setup\n")[1].split("```")[0]
    assert len(block.splitlines()) == 2


# What the README asks jq, asked in Python: jq is not everywhere.
ASKED: dict[str, tuple[Callable[[Any], Any], Any]] = {
    """.changes[] | "\\(.action) \\(.name)\"""": (
        lambda plan: [f"{change['action']} {change['name']}" for change in plan["changes"]],
        ["add virtual-policy/added", "update virtual-policy/changed"],
    ),
    ".changes[] | select(.effect.worse) | .name": (
        lambda plan: [change["name"] for change in plan["changes"] if change.get("effect", {}).get("worse")],
        ["virtual-policy/changed"],
    ),
    "[.changes[].effect.traffic_moved // 0] | max <= 0.25": (
        lambda plan: max(change.get("effect", {}).get("traffic_moved", 0) for change in plan["changes"]) <= 0.25,
        False,
    ),
}


def test_what_it_asks_jq_is_known_here() -> None:
    assert re.findall(r"^policyctl plan --format json \| jq -\w '(.*)'", TEXT, re.MULTILINE) == list(ASKED)


@pytest.mark.parametrize("asked", ASKED)
def test_what_it_asks_jq_has_an_answer(asked: str, project: Project, policyctl: Policyctl) -> None:
    project.policy("changed", "virtual-model/x/a", "virtual-model/x/b")
    policyctl("apply", "--yes")
    project.policy("changed", "virtual-model/x/b")
    project.policy("added")
    ask, expected = ASKED[asked]
    assert ask(json.loads(policyctl("plan", "--format", "json").out)) == expected
