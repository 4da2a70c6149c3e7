"""policyctl help shows the pages of the manual: through a pager on a terminal, as they are elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from policyctl.cli.main import COMMANDS
from policyctl.cli.main import policyctl as main
from policyctl.cli.reference import TOPICS
from tests.conftest import Policyctl
from tests.readme_blocks import MANUAL
from tests.terminal import on_terminal

# A pager that shows that it was used, and how much it was given.
PAGER = f"{sys.executable} -c \"import sys; print('PAGED', len(sys.stdin.read()))\""

UNKNOWN = {
    "tutorail": " (did you mean tutorial?); policyctl help lists all",
    "guard": " (did you mean guards?); policyctl help lists all",
    "xyz": "; policyctl help lists all",
    "plam": " (did you mean plan?); policyctl help lists all",
    "P401": "; policyctl rules P401 explains the rule",
}


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_is_its_page(topic: str, policyctl: Policyctl) -> None:
    assert policyctl("help", topic) == (0, (MANUAL / f"{topic}.md").read_text("utf-8"), "")


@pytest.mark.parametrize("topic", UNKNOWN)
def test_an_unknown_topic_is_one_line_with_a_suggestion(topic: str, policyctl: Policyctl) -> None:
    assert policyctl("help", topic) == (64, "", f"error: unknown topic {topic}{UNKNOWN[topic]}\n")


def test_the_help_of_a_command_is_that_of_its_option(policyctl: Policyctl) -> None:
    for words in (["plan"], ["policy"], ["policy", "add"], ["ci", "comment"], ["env", "list"]):
        assert policyctl("help", *words) == policyctl(*words, "--help")


def test_what_is_no_command_of_another_one_is_one_line(policyctl: Policyctl) -> None:
    see = "policyctl help policy explains it"
    assert policyctl("help", "policy", "ad") == (64, "", f"error: policy has no command ad (did you mean add?); {see}\n")
    ran = policyctl("help", "plan", "more")
    assert ran == (64, "", "error: plan has no command more; policyctl help plan explains it\n")


def test_the_list_has_every_page_and_every_command(policyctl: Policyctl) -> None:
    out = policyctl("help").out
    for name in (*TOPICS, *COMMANDS):
        assert f"\n  {name} " in out


def test_on_a_terminal_a_page_opens_in_the_pager_and_the_list_does_not() -> None:
    with on_terminal("-m", "policyctl", "help", "guards", environ={"PAGER": PAGER}) as terminal:
        terminal.until("PAGED")
        assert terminal.end() == 0
        assert "max_traffic_shift" not in terminal.shown
    with on_terminal("-m", "policyctl", "help", environ={"PAGER": PAGER}) as terminal:
        assert terminal.end() == 0
        assert "PAGED" not in terminal.shown
        assert "tutorial" in terminal.shown


def test_redirected_output_is_not_paged(tmp_path: Path) -> None:
    with (tmp_path / "page.md").open("wb") as file:
        arguments = ("-m", "policyctl", "help", "guards")
        with on_terminal(*arguments, stdout=file.fileno(), environ={"PAGER": PAGER}) as terminal:
            assert terminal.end() == 0
    assert (tmp_path / "page.md").read_bytes() == (MANUAL / "guards.md").read_bytes()


def contexts(command: click.Command, context: click.Context) -> Iterator[click.Context]:
    """A context for the command, and for each of its subcommands at any depth."""
    yield context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None, f"{name} is listed and cannot be found"
            yield from contexts(found, click.Context(found, info_name=name, parent=context))


@pytest.mark.parametrize("width", [80, 200])
def test_no_help_shows_a_value_that_is_not_set(width: int) -> None:
    """Neither as a default nor as the end of a range, in the help of any command."""
    settings = {**main.context_settings, "terminal_width": width, "max_content_width": width}
    root = click.Context(main, info_name="policyctl", **settings)  # click keeps the first help option that it makes
    helps = {one.command_path: one.command.get_help(one) for one in contexts(main, root)}
    assert {"policyctl", "policyctl policy add", "policyctl ci comment"} <= helps.keys()
    assert "[default: 512; x>=1]" in helps["policyctl serve"]
    assert [path for path, text in helps.items() if "None" in text] == []
