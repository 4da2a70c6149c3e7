"""pull: an existing remote becomes a directory whose plan is empty, whatever its policies are called and say."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from policyctl.policy.names import canonical_name, name_error
from tests.conftest import ANYGEM, Policyctl, Project, files_of
from tests.server.serving import serving
from tests.sqlite_rows import LEAF, put, row

NAMES = (
    "policyctl policyctl.x policyctl.yaml x.test x.test.yaml .x ..x .. . -x x- con NUL aux.yaml lpt1.x AnyGem ANYGEM anygem"
    " team/chat team-chat ../up ../../up /abs a//b a\\b c:x x.yaml {{name}} {%x%} no 12:30 0503 null & &a *a a&b=c#d+e%41"
    " ~ '\" ` $x é e\u0301 ſ s K k ß ss 日本 🙂 <<: - ? : | > !!str x:y @x , [] {}"
).split()
TEXTS = (
    "{{ x }}",
    "{% if %}",
    "{# no #}",
    "}} {{",
    "{{ '{{' }}",
    '{{ "a" }}',
    'it\'s "quoted" \\n',
    "two\nlines",
    "two\n\n  lines\n",
    "\n",
    " ",
    "",
    "tab\there",
    "\x00\x07\x1b[31mred\x7f\x85\x9b",
    "\u200b\u202e\u2028\u2029\ufeff\xa0\ue000",
    "no",
    "0503",
    "2024-01-01",
    "12:30:45",
    "null",
    "- a",
    "a: b # c",
    "---",
    "...",
    "# not a comment",
    "%YAML 1.1",
    "\\x41 \\u0041",
    "🙂 family 👨\u200d👩\u200d👧",
    "x" * 5_000,
    "\r\n\r",
)


def random_rows(number: int, seed: int) -> list[dict[str, Any]]:
    """That many policies with random names (the hostile ones among them), texts, bodies, and fields of the server's."""
    chance = random.Random(seed)
    names = [canonical_name(name) for name in NAMES if name_error(name) is None]
    names += [f"virtual-policy/{'n' * 180}{end}" for end in ("a", "A", "b")]
    while len(names) < number:
        parts = (chance.choice([*NAMES, *"abcXYZ019 ._-/"]) for _ in range(chance.randint(1, 6)))
        name = canonical_name("".join(parts))
        if name_error(name) is None and name not in names:
            names.append(name)
    return [_random_row(name, chance) for name in names]


def _random_row(name: str, chance: random.Random) -> dict[str, Any]:
    policy = {**_random_group(chance, 3), "unknown": 1}
    document: dict[str, Any] = {"name": name, "policy": policy, "tenant_id": "t-1", "owner": "me"}
    if chance.random() < 0.8:
        document["description"] = chance.choice(TEXTS) + chance.choice(("", "", chance.choice(TEXTS)))
    if chance.random() < 0.8:
        document["display_name"] = chance.choice([*TEXTS, *NAMES])
    if chance.random() < 0.3:
        document["policy"]["cache"] = {"mode": chance.choice(["simple", "no", "{{"])}
    return document


def _random_group(chance: random.Random, depth: int) -> dict[str, Any]:
    group: dict[str, Any] = {"strategy": {"mode": chance.choice(["loadbalance", "fallback", "single"])}}
    for part in (group["strategy"], group.setdefault("retry", {"attempts": chance.randint(0, 5)})):
        if chance.random() < 0.5:
            part["on_status_codes"] = chance.sample(range(100, 600), chance.randint(0, 4))
    if chance.random() < 0.5:
        group["retry"] = None
    group["targets"] = [_random_target(chance, depth) for _ in range(chance.randint(1, 3))]
    return group


def _random_target(chance: random.Random, depth: int) -> dict[str, Any]:
    nested = depth > 0 and chance.random() < 0.3
    target = _random_group(chance, depth - 1) if nested else {"model_name": f"virtual-model/x/{chance.choice([*NAMES, *'ab'])}"}
    weight = chance.choice([None, 1, 1.0, 0.25, 1e-07, chance.random() or 1])
    return target if weight is None else {**target, "weight": weight}


@pytest.mark.slow
def test_hundreds_of_policies_with_hostile_names_and_texts_become_a_directory_with_an_empty_plan(
    bare: Path, policyctl: Policyctl
) -> None:
    put(random_rows(300, seed=1))
    ran = policyctl("pull")
    assert ran.code == 0, ran.err
    assert ran.out.endswith("Pulled: 300 files written, 0 unchanged; the plan is empty.\n")
    plan = json.loads(policyctl("plan", "--format", "json").out)
    assert (plan["changes"], plan["summary"]["unchanged"]) == ([], 300)
    contents = files_of(Path("policies"))
    assert len({name.casefold() for name in contents}) == 300
    assert all("/" not in name and name.isascii() for name in contents)
    assert "t-1" not in "".join(contents.values())

    again = policyctl("pull", "--overwrite")
    note, _, summary = again.out.splitlines()
    assert note.endswith(" and 297 more also have policy.unknown; it is kept, and effects on traffic ignore it")
    assert summary == "Pulled: 0 files written, 300 unchanged; the plan is empty."
    Path("policies").rename("first")
    policyctl("pull")
    assert files_of(Path("policies")) == files_of(Path("first"))


@pytest.mark.slow
def test_a_served_tenant_becomes_a_directory_with_an_empty_plan(bare: Path, policyctl: Policyctl) -> None:
    """The same policies over HTTP, whose list and look-ups by name must bring every name back as it is."""
    database = bare / "served.db"
    put(random_rows(300, seed=2), database)
    with serving(database) as served:
        assert policyctl("pull", "--remote", served.url).out.endswith("300 files written, 0 unchanged; the plan is empty.\n")
        assert policyctl("plan", "--remote", served.url, "--detailed-exitcode").code == 0


def test_a_policy_that_a_file_has_stays_in_that_file(project: Project, policyctl: Policyctl) -> None:
    project.write("team/gem.yml", ANYGEM)
    policyctl("apply", "--yes")
    ran = policyctl("pull")
    assert (ran.code, ran.out) == (0, "Pulled: 0 files written, 1 unchanged; the plan is empty.\n")
    assert files_of(project.policies) == {"team/gem.yml": ANYGEM}


def test_a_file_that_differs_is_kept_unless_overwrite(project: Project, policyctl: Policyctl) -> None:
    project.write("team/gem.yml", ANYGEM)
    put([row("anygem"), row("new")])
    ran = policyctl("pull")
    assert ran.code == 5
    assert "+ policies/new.yaml\n" in ran.out
    assert "kept  policies/team/gem.yml differs from the live virtual-policy/anygem; use --overwrite to replace" in ran.out
    assert "the plan is not empty: 1 to update." in ran.out
    assert "1 live policy not pulled" in ran.err
    assert files_of(project.policies)["team/gem.yml"] == ANYGEM
    ran = policyctl("pull", "--overwrite")
    assert ran.code == 0
    assert ran.out == "~ policies/team/gem.yml\n\nPulled: 1 file written, 1 unchanged; the plan is empty.\n"


def test_a_pulled_text_with_template_syntax_can_be_pulled_over(bare: Path, policyctl: Policyctl) -> None:
    put([row("a", description="{{ x }}")])
    policyctl("pull")
    policyctl("policy", "add", "-n", "a", "-s", "single", "-m", "virtual-model/x/a", "-d", "{{ y }}", "--yes")
    assert policyctl("pull", "--overwrite").out.startswith("~ policies/a.yaml\n")


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_no_file_of_something_else_is_ever_overwritten(
    overwrite: tuple[str, ...], project: Project, policyctl: Policyctl
) -> None:
    project.write("new.yaml", ANYGEM)
    project.write("notes.txt", "mine")
    put([row("anygem"), row("new"), row("notes")])
    policyctl("policy", "import", "--file", "policies/new.yaml", "--yes")
    assert policyctl("pull", *overwrite).code == 0
    contents = files_of(project.policies)
    assert contents["new.yaml"] == ANYGEM
    assert contents["notes.txt"] == "mine"
    assert sum(name.startswith("new-") for name in contents) == 1


UNWRITABLE = [
    (
        row("percent", policy={"strategy": {"mode": "single"}, "targets": [{**LEAF, "weight": 250}]}),
        "weight must be greater than 0",
    ),
    (row("modeless", policy={"targets": [LEAF]}), "policy: missing key strategy"),
    (row("empty", policy={"strategy": {"mode": "single"}, "targets": []}), "policy.targets: targets must not be empty"),
    (row("half", description="\ud800"), "description must be valid Unicode text"),
    (row("bell\x07"), "name must not contain control characters or invisible"),
    (row("cha[t]"), "name must not contain *, ? or ["),
    (row("n" * 600), "name must have at most 512 characters"),
    (row("long", description="{{" + "x" * 70_000), "description: it holds template syntax and is longer"),
    (row("self", policy={"strategy": {"mode": "single"}, "targets": [{"model_name": "self"}]}), "it targets itself"),
]


def test_what_no_file_may_contain_is_listed_with_the_reason_and_the_rest_is_pulled(bare: Path, policyctl: Policyctl) -> None:
    twins = [row("twin", id="1"), row("twin", id="2")]
    put([row("good"), *(bad for bad, _ in UNWRITABLE), *twins, row("broken", policy=None)])
    ran = policyctl("pull")
    assert ran.code == 5
    for _, reason in UNWRITABLE:
        assert any(line.startswith("not pulled  virtual-policy/") and reason in line for line in ran.out.splitlines()), reason
    assert "virtual-policy/twin: the remote has several policies of this name; remove all but one by id (ids 1, 2)" in ran.out
    assert "note  a row of the remote is left alone: the row has no policy (name virtual-policy/broken" in ran.out
    assert f"the plan is not empty: {len(UNWRITABLE)} to remove." in ran.out
    assert "10 live policies not pulled; see above. Read the plan before you apply" in ran.err
    assert "\x07" not in ran.out
    assert list(files_of(Path("policies"))) == ["good.yaml"]


def test_policies_that_target_each_other_in_a_circle_are_not_pulled_and_those_beside_it_are(
    bare: Path, policyctl: Policyctl
) -> None:
    def over(target: str) -> dict[str, Any]:
        return {"strategy": {"mode": "single"}, "targets": [{"model_name": target}]}

    put(
        [
            row("a", policy=over("b")),
            row("b", policy=over("a")),
            row("c", policy=over("a")),
            row("d", policy=over("e")),
            row("e"),
        ]
    )
    ran = policyctl("pull")
    assert ran.code == 5
    assert sorted(files_of(Path("policies"))) == ["c.yaml", "d.yaml", "e.yaml"]


def test_only_what_is_in_scope_is_pulled(project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", 'scope: ["team-*"]\n')
    put([row("team-a"), row("other")])
    ran = policyctl("pull")
    assert (ran.code, ran.err) == (0, "")
    assert sorted(files_of(project.policies)) == ["policyctl.yaml", "team-a.yaml"]


def test_a_file_that_the_environment_would_not_read_is_not_written(project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", 'include: ["team/*"]\n')
    put([row("a")])
    ran = policyctl("pull")
    assert ran.code == 5
    assert "not pulled  virtual-policy/a: policies/a.yaml is not included by environment local" in ran.out
    assert sorted(files_of(project.policies)) == ["policyctl.yaml"]


@pytest.mark.parametrize("text", [ANYGEM.replace("0.75", "75"), "a: ["])
def test_a_directory_with_errors_is_not_pulled_into(text: str, project: Project, policyctl: Policyctl) -> None:
    project.write("broken.yaml", text)
    put([row("a")])
    ran = policyctl("pull")
    assert ran.code == 1
    assert ran.err.startswith("policies/broken.yaml:")
    assert list(files_of(project.policies)) == ["broken.yaml"]


def test_an_empty_remote_gives_no_directory(bare: Path, policyctl: Policyctl) -> None:
    assert policyctl("pull") == (0, "Nothing to pull. The remote has nothing in scope.\n", "")
    assert not Path("policies").exists()


def test_a_file_instead_of_a_directory_is_an_error(bare: Path, policyctl: Policyctl) -> None:
    put([row("a")])
    Path("policies").write_text("mine", "utf-8")
    ran = policyctl("pull")
    assert (ran.code, ran.err) == (1, "policies: is not a directory; name one with --dir [P016]\n")


def test_files_whose_policy_is_not_live_are_left_and_counted(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    put([row("a")])
    ran = policyctl("pull")
    assert ran.code == 0
    assert ran.out == "+ policies/a.yaml\n\nPulled: 1 file written, 0 unchanged; the plan is not empty: 1 to add.\n"
