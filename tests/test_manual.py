"""README and manual: their console blocks, links, commands, and the pages that are made from the code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

from policyctl.cli.main import policyctl as cli
from policyctl.cli.reference import TOPICS
from policyctl.rules import RULES
from tests.conftest import Policyctl, Project
from tests.readme_blocks import MANUAL, PAGES, README, ROOT, rerun

DOCUMENTS = [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / ".github").glob("*.md"))]
IDS = [path.name for path in PAGES]
PLACEHOLDERS = {"COMMAND"}


def page(topic: str) -> str:
    """The text of a page of the manual."""
    return (MANUAL / f"{topic}.md").read_text("utf-8")


def tree(folder: Path) -> dict[str, bytes]:
    """The files below a folder, with their content."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_code(text: str) -> str:
    """Markdown without its code blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def command_at(words: list[str]) -> tuple[click.Command, click.Context]:
    """The command that these words lead to, as far as they are commands."""
    found: click.Command = cli
    context = click.Context(cli, **cli.context_settings)  # click keeps the first help option that it makes
    for word in words:
        inner = found.get_command(context, word) if isinstance(found, click.Group) else None
        if inner is None:
            break
        found, context = inner, click.Context(inner, parent=context, info_name=word)
    return found, context


def test_help_lists_exactly_the_pages_that_there_are(policyctl: Policyctl) -> None:
    assert sorted(TOPICS) == sorted(path.stem for path in MANUAL.glob("*.md"))
    pages, _, _ = policyctl("help").out.partition("\npolicyctl help COMMAND")
    listed = re.findall(r"^  (\S+)  +(\S.*)$", pages, re.MULTILINE)
    assert listed == [(topic, page(topic).split("\n")[0].removeprefix("# ")) for topic in TOPICS]


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_is_part_of_the_package_and_linked_from_the_readme(topic: str) -> None:
    assert files("policyctl").joinpath("manual", f"{topic}.md").read_text("utf-8") == page(topic)
    assert f"(policyctl/manual/{topic}.md)" in README.read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_console_blocks_show_what_is_printed_and_leave_the_checkout_as_it_was(path: Path, tmp_path: Path) -> None:
    text = path.read_text("utf-8")
    assert rerun(text, tmp_path) == text
    assert "Traceback" not in text
    assert tree(tmp_path / "checkout") == {f"policies/{name}": content for name, content in tree(ROOT / "policies").items()}


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_a_page_names_commands_and_options_that_exist(path: Path) -> None:
    text = path.read_text("utf-8")
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    for line in [*re.findall(r"`(policyctl [^`]+)`", text), *re.findall(r"^policyctl .+$", blocks, re.MULTILINE)]:
        _, *words = re.sub(r"'[^']*'", "x", line).split()
        if words[0] in PLACEHOLDERS:
            continue
        command, context = command_at([word for word in words if not word.startswith("-")])
        assert command is not cli or words[0].startswith("--"), line
        known = {option for param in command.get_params(context) for option in param.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


@pytest.mark.parametrize("path", DOCUMENTS, ids=[path.name for path in DOCUMENTS])
def test_every_link_and_anchor_leads_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", without_code(path.read_text("utf-8"))):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text("utf-8")), link


def test_every_rule_has_an_anchor_and_the_text_that_the_command_shows(policyctl: Policyctl) -> None:
    text = page("rules")
    assert {code.lower() for code in RULES} <= anchors(text)
    sections = dict(re.findall(r"^### (P\d+)\n\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))
    plain = {code: re.sub(r"^\*\*(.*?)\*\*|\\(.)", r"\1\2", section) for code, section in sections.items()}
    assert [code for code in RULES if f"{code} {plain[code]}".split() != policyctl("rules", code).out.split()] == []


def test_every_command_has_an_anchor_and_its_help(policyctl: Policyctl) -> None:
    text = page("commands")
    found = anchors(text)
    for name, section in re.findall(r"^## policyctl (.+?)\n\n```text\n(.*?)```", text, re.MULTILINE | re.DOTALL):
        assert f"policyctl-{name.replace(' ', '-')}" in found
        assert section.split() == policyctl(*name.split(), "--help").out.split()


@pytest.mark.parametrize(
    ("topic", "schema"),
    [("configuration", "config"), ("policy-files", "policy"), ("virtual-models", "model"), ("tests", "test")],
)
def test_every_key_of_a_file_has_a_description_in_its_schema_and_a_row_in_its_page(
    topic: str, schema: str, policyctl: Policyctl
) -> None:
    data = json.loads(policyctl("schema", schema).out)
    text = page(topic)
    for definition in [data, *data["$defs"].values()]:
        for key, about in definition.get("properties", {}).items():
            if about:  # the platform's own keys, which are accepted and ignored
                assert about.get("description"), key
                assert f"| `{key}`" in text, key


def test_the_example_of_a_policy_file_is_one(project: Project, policyctl: Policyctl) -> None:
    example = re.findall(r"```yaml\n(.*?)```", page("policy-files"), re.DOTALL)[0]
    project.write("anygem.yaml", example)
    project.write("policyctl.yaml", "environments: {dev: {vars: {lite: 0.25}}}\n")
    assert policyctl("validate") == (0, "Valid: 1 policy in 1 file.\n", "")


def test_the_example_of_a_virtual_model_is_one_and_fits_its_schema(project: Project, policyctl: Policyctl) -> None:
    config, example = re.findall(r"```yaml\n(.*?)```", page("virtual-models"), re.DOTALL)[:2]
    project.write("gpt.yaml", example)
    project.write("policyctl.yaml", f"{config}\nenvironments: {{dev: {{}}}}\n")
    ran = policyctl("plan")
    assert (ran.code, "1 model to add" in ran.out) == (0, True), ran
    schema = jsonschema.Draft202012Validator(json.loads(policyctl("schema", "model").out))
    document = yaml.safe_load(example)
    schema.validate(document)
    schema.validate({**document, "provider_config": {"customHost": "https://gateway.example/v1"}})
    assert not schema.is_valid({**document, "provider_config": {"custom_hots": "x"}})


@pytest.mark.parametrize("topic", ["configuration", "guards", "orchestrate"])
def test_the_example_of_a_configuration_is_one(topic: str, project: Project, policyctl: Policyctl) -> None:
    """It may warn about names and globs that match nothing among other policies, and about nothing else."""
    example = re.findall(r"```yaml\n(.*?)```", page(topic), re.DOTALL)[0]
    project.policy("chat")
    project.write("policyctl.yaml", example.replace("instances/…", "instances/1"))
    ran = policyctl("validate", "--format", "json")
    assert ran.code == 0
    assert {problem["code"] for problem in json.loads(ran.out)["problems"]} <= {"P461", "P462"}


def test_every_path_that_the_architecture_page_names_exists() -> None:
    named = re.findall(r"`((?:policyctl|tests|\.ci|\.github)/[\w./-]+)`", page("architecture"))
    assert len(named) > 30
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_name_that_the_architecture_page_gives_for_an_edit_is_in_the_file_beside_it() -> None:
    """`headline` in `policyctl/report/headline.py`: a name before a path, at least one in each row."""
    section = page("architecture").partition("## Where do I edit")[2].partition("\n## ")[0]
    rows = [row for row in section.splitlines() if row.startswith("| ") and "to change" not in row]
    assert len(rows) >= 5
    for row in rows:
        named = re.findall(r"`(\w+)`(?:[^`|;]*?`(\w+)`)?[^`|;]*? in `(policyctl/[\w/]+\.py)`", row)
        assert named, f"{row} names nothing to edit"
        for *names, path in named:
            for name in filter(None, names):
                text = (ROOT / path).read_text("utf-8")
                assert re.search(rf"\b(?:def|class) {name}\b|^{name}\b", text, re.MULTILINE), (name, path)


def test_code_cites_only_pages_that_exist_and_rules_that_they_have() -> None:
    """`architecture.md, safety rule 9` in a comment or docstring."""
    rules = set(re.findall(r"^(\d+)\. ", page("architecture").partition("## Safety rules")[2], re.MULTILINE))
    for path in (ROOT / "policyctl").rglob("*.py"):
        text = path.read_text("utf-8")
        assert all((MANUAL / name).exists() for name in re.findall(r"manual/([\w-]+\.md)", text)), path
        assert set(re.findall(r"safety rules? (\d+)", text)) <= rules, path
        assert not re.search(r"\bdesign:|\bdesign\.md", text), path


# What the manual asks jq, asked in Python: jq is not everywhere.
ASKED: dict[str, tuple[Callable[[Any], Any], Any]] = {
    """.changes[] | "\\(.action) \\(.name)\"""": (
        lambda plan: [f"{change['action']} {change['name']}" for change in plan["changes"]],
        ["add virtual-policy/added", "update virtual-policy/changed"],
    ),
    ".changes[], .affected[] | select(.effect.worse) | .name": (
        lambda plan: [one["name"] for one in (*plan["changes"], *plan["affected"]) if one.get("effect", {}).get("worse")],
        ["virtual-policy/changed"],
    ),
    "[(.changes[], .affected[]).effect.traffic_moved // 0] | max <= 0.25": (
        lambda plan: (
            max(one.get("effect", {}).get("traffic_moved", 0) for one in (*plan["changes"], *plan["affected"])) <= 0.25
        ),
        False,
    ),
}


def test_what_the_manual_asks_jq_is_known_here() -> None:
    assert re.findall(r"^policyctl plan --format json \| jq -\w '(.*)'", page("formats"), re.MULTILINE) == list(ASKED)


@pytest.mark.parametrize("asked", ASKED)
def test_what_the_manual_asks_jq_has_an_answer(asked: str, project: Project, policyctl: Policyctl) -> None:
    project.policy("changed", "virtual-model/x/a", "virtual-model/x/b")
    policyctl("apply", "--yes")
    project.policy("changed", "virtual-model/x/b")
    project.policy("added")
    ask, expected = ASKED[asked]
    assert ask(json.loads(policyctl("plan", "--format", "json").out)) == expected
