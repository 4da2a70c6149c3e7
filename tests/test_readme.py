"""The README: short enough to be read, with every command, and examples that work."""

from __future__ import annotations

import re

import pytest

from policyctl.cli.main import COMMANDS
from tests.conftest import Policyctl, Project
from tests.readme_blocks import README

TEXT = README.read_text("utf-8")


def test_it_has_at_most_200_lines_and_9_kilobytes() -> None:
    assert len(TEXT.splitlines()) <= 200
    assert len(TEXT.encode()) <= 9_000


@pytest.mark.parametrize("command", COMMANDS)
def test_it_names_every_command(command: str) -> None:
    assert f"policyctl {command}" in TEXT


def test_it_has_two_setup_commands_one_line_each() -> None:
    block = TEXT.split("```sh setup\n")[1].split("```")[0]
    assert len(block.splitlines()) == 2


def test_its_policy_its_test_and_its_configuration_fit_together(project: Project, policyctl: Policyctl) -> None:
    """Somewhere else than on the platform, whose URL is shown without the instance."""
    policy, suite, config = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    project.write("chat.yaml", policy)
    project.write("chat.test.yaml", suite)
    project.write("policyctl.yaml", config.replace("instances/…", "instances/1"))
    assert policyctl("validate", "--deep").code == 0
    assert policyctl("test").out.endswith("1 passed\n")
    assert policyctl("apply", "--yes").code == 0
