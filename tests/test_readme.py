"""The README is true."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyctl.cli.main import COMMANDS
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
