"""The pages of the manual: part of the package, linked from the README, and true where they name commands and options."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import click
import pytest

from policyctl.cli.main import policyctl as cli
from tests.readme import README

PAGES = [Path(str(page)) for page in sorted(files("policyctl").joinpath("manual").iterdir(), key=lambda page: page.name)]
ROOT = Path(__file__).parent.parent


def command_at(words: list[str]) -> tuple[click.Command, click.Context]:
    """The command that these words lead to, as far as they are commands."""
    found: click.Command = cli
    context = click.Context(cli)
    for word in words:
        inner = found.get_command(context, word) if isinstance(found, click.Group) else None
        if inner is None:
            break
        found, context = inner, click.Context(inner, parent=context, info_name=word)
    return found, context


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_linked_from_the_readme(page: Path) -> None:
    assert f"(policyctl/manual/{page.name})" in README.read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_commands_and_options_that_there_are(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    for line in [*re.findall(r"`(policyctl [^`]+)`", text), *re.findall(r"^policyctl .+$", blocks, re.MULTILINE)]:
        _, *words = re.sub(r"'[^']*'", "x", line).split()
        command, context = command_at([word for word in words if not word.startswith("-")])
        assert command is not cli, line
        known = {option for param in command.get_params(context) for option in param.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_every_link_of_a_page_leads_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (ROOT / "policyctl" / "manual" / link).exists(), link
