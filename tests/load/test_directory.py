"""Directories: what is read, what is left out, and the rules that hold across files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from policyctl.load.directory import Files
from policyctl.load.discovery import find_config, find_files, load_config
from policyctl.load.source import source_of
from tests.call_counts import calls
from tests.conftest import ANYGEM, Policyctl, Project
from tests.problem_lines import shows


def test_files_are_found_at_any_depth_and_hidden_ones_left_out(project: Project, policyctl: Policyctl) -> None:
    project.write("a.yaml", ANYGEM.replace("name: anygem", "name: a"))
    project.write("deep/er/b.yml", ANYGEM.replace("name: anygem", "name: b"))
    project.write(".hidden.yaml", "nonsense: [")
    project.write(".hidden/c.yaml", "nonsense: [")
    project.write("README.md", "# not a policy")
    assert policyctl("validate").out == "Valid: 2 policies in 2 files.\n"


def test_json_files_are_policies_too(project: Project, policyctl: Policyctl) -> None:
    project.write(
        "a.json",
        r'{"spec_version": "v1", "kind": "model", "name": "a", "description": "\ud83d\ude00",'
        r' "policy": {"strategy": {"mode": "single"}, "targets": [{"model_name": "virtual-model/x/a"}]}}',
    )
    assert policyctl("validate").out == "Valid: 1 policy in 1 file.\n"


def test_a_file_that_the_vendors_cli_exported_is_a_policy_file(project: Project, policyctl: Policyctl) -> None:
    """Its export keeps whatever the server added to the row."""
    exported = ANYGEM + "id: 7c1\netag: 2\ntenant_id: t\ntenant_name: x\ncreated_on: now\nupdated_at: now\n"
    project.write("anygem.yaml", exported)
    assert policyctl("validate").out == "Valid: 1 policy in 1 file.\n"
    assert policyctl("apply", "--yes").code == 0
    project.write("anygem.yaml")
    assert policyctl("plan", "--detailed-exitcode").code == 0


def test_half_a_surrogate_pair_is_a_problem(project: Project, policyctl: Policyctl) -> None:
    project.write(
        "a.json",
        r'{"spec_version": "v1", "kind": "model", "name": "a", "description": "\ud83d",'
        r' "policy": {"strategy": {"mode": "single"}, "targets": [{"model_name": "virtual-model/x/a"}]}}',
    )
    assert shows("description must be valid Unicode text [P104]", policyctl("validate").out)


def test_all_problems_of_all_files_in_one_run(project: Project, policyctl: Policyctl) -> None:
    project.write("a.yaml", ANYGEM.replace("0.75", "75").replace("attempts: 1", "attempts: -1"))
    project.write("b.yaml", "a: [")
    project.write("c.yaml", ANYGEM.replace("policy:", "polcy:"))
    ran = policyctl("validate")
    assert ran.code == 1
    assert ran.out.splitlines() == [
        "policies/a.yaml:10:15: attempts must be from 0 to 100, got -1 [P103]",
        "policies/a.yaml:14:15: weight must be greater than 0 and at most 1, got 75 (did you mean 0.75?) [P103]",
        "policies/b.yaml:1:4: this [ is never closed; add the closing ] [P002]",
        'policies/c.yaml:6:1: unknown key "polcy" (did you mean policy?) [P101]',
        "Not valid: 4 errors (0 policies in 3 files).",
    ]


def test_two_files_with_one_policy_are_one_problem_naming_both(project: Project, policyctl: Policyctl) -> None:
    project.write("a.yaml")
    project.write("b.yaml", ANYGEM.replace("name: anygem", "name: virtual-policy/anygem"))
    assert policyctl("validate").out.splitlines()[:-1] == [
        "policies/a.yaml:3:7: virtual-policy/anygem is also written at policies/b.yaml:3:7; keep one [P201]"
    ]


def test_policies_that_target_each_other_in_a_circle_are_one_problem_naming_it(project: Project, policyctl: Policyctl) -> None:
    for name, target in (("a", "b"), ("b", "c"), ("c", "a")):
        project.policy(name, f"virtual-policy/{target}")
    ran = policyctl("plan")
    assert ran.code == 1
    assert ran.err == (
        "policies/a.yaml:3:7: policies target each other in a circle: "
        "virtual-policy/a → virtual-policy/b → virtual-policy/c → virtual-policy/a; remove one of these targets [P202]\n"
    )


def test_a_policy_outside_the_scope_is_a_problem_where_it_is(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    project.write("policyctl.yaml", "environments: {dev: {}, prod: {scope: ['team-*']}}\ndefault: dev\n")
    assert policyctl("plan").code == 0
    ran = policyctl("plan", "--env", "prod")
    assert ran.code == 1
    assert ran.err == (
        "policies/anygem.yaml:3:7: virtual-policy/anygem is outside the scope of environment prod; "
        "widen scope or rename it [P203]\n"
    )
    assert "outside the scope of environment prod" in policyctl("validate").out


UNSET = "the variable lite is not set in"


def test_include_chooses_files_by_environment(project: Project, policyctl: Policyctl) -> None:
    project.write("both/a.yaml", ANYGEM.replace("name: anygem", "name: a"))
    project.write("prod/b.yaml", ANYGEM.replace("name: anygem", "name: b"))
    project.write("policyctl.yaml", "default: dev\nenvironments: {dev: {include: ['both/*']}, prod: {}}\n")
    assert "Plan: 1 to add" in policyctl("plan").out
    assert "Plan: 2 to add" in policyctl("plan", "--env", "prod").out


def test_what_an_environment_alone_gets_wrong_is_reported_with_its_name(project: Project, policyctl: Policyctl) -> None:
    project.write("a.yaml", ANYGEM.replace("0.25", '"{{ lite }}"'))
    project.write("policyctl.yaml", "default: a\nenvironments: {a: {vars: {lite: 0.25}}, b: {vars: {lite: 25}}, c: {}}\n")
    assert policyctl("validate").out.splitlines()[:-1] == [
        f"policies/a.yaml:16:15: {UNSET} environment c (add it to environments.c.vars in policyctl.yaml) [P018]",
        (
            "policies/a.yaml:16:15: weight must be greater than 0 and at most 1, got 25 (did you mean 0.25?) "
            "(environment b) [P103]"
        ),
    ]
    assert policyctl("plan").code == 0


def test_a_variable_that_several_environments_lack_is_one_problem_that_names_them(
    project: Project, policyctl: Policyctl
) -> None:
    """And plan, which looks at one environment, names that one."""
    place = f"policies/a.yaml:16:15: {UNSET}"
    project.write("a.yaml", ANYGEM.replace("0.25", '"{{ lite }}"'))
    project.write("policyctl.yaml", "default: a\nenvironments: {a: {}, b: {vars: {lite: 0.25}}, c: {}}\n")
    assert policyctl("validate").out.splitlines()[0] == (
        f"{place} environments a and c (add it to the vars of each in policyctl.yaml) [P018]"
    )
    assert policyctl("plan").err == f"{place} environment a (add it to environments.a.vars in policyctl.yaml) [P018]\n"
    project.write("policyctl.yaml", "default: a\nenvironments: {a: {vars: {light: 1}}, b: {}, c: {}}\n")
    assert policyctl("validate").out.splitlines()[0] == f"{place} environments a, b and c (did you mean light?) [P018]"


def test_each_file_answers_to_the_nearest_configuration(project: Project, policyctl: Policyctl) -> None:
    templated = ANYGEM.replace("0.25", '"{{ lite }}"')
    project.write("a/a.yaml", templated.replace("name: anygem", "name: a"))
    project.write("a/policyctl.yaml", "environments: {dev: {vars: {lite: 0.25}}}\n")
    project.write("b.yaml", templated)
    assert policyctl("validate").out.splitlines()[:-1] == [
        f"policies/b.yaml:16:15: {UNSET} environment local (add it to environments.local.vars in policyctl.yaml) [P018]"
    ]
    assert policyctl("validate", "policies/a/a.yaml").code == 0
    assert shows("a second configuration [P305]", policyctl("plan").err)


OTHERS = {
    "another kind of the platform's": ("kind: agent\nname: x\n", "1 policy in 2 files, skipped: 1 agent"),
    "a virtual model": (
        "".join(
            f"---\nspec_version: v1\nkind: model\nname: virtual-model/google/gemini-2.0-{model}\nprovider_config: {{}}\n"
            for model in ("flash", "flash-lite")
        ),
        "1 policy in 2 files",
    ),
    "a test": (
        "spec_version: v1\nkind: policy_test\npolicy: anygem\ntests: [{name: it answers, expect: {status: {200: 1}}}]\n",
        "1 policy and 1 test in 2 files",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_documents_that_are_not_policies_are_counted(case: str, project: Project, policyctl: Policyctl) -> None:
    text, counted = OTHERS[case]
    project.write("anygem.yaml")
    project.write("other.yaml", text)
    assert policyctl("validate").out == f"Valid: {counted}.\n"


def test_each_test_is_counted_once_whatever_environments_there_are(project: Project, policyctl: Policyctl) -> None:
    """A document of two tests and another file of one, loaded for three environments: three tests."""
    project.write("anygem.yaml")
    one, other = (f"{{name: {name}, expect: {{status: {{200: 1}}}}}}" for name in ("one", "other"))
    head = "spec_version: v1\nkind: policy_test\npolicy: anygem\ntests:"
    project.write("a.test.yaml", f"{head} [{one}, {other}]\n")
    project.write("b.yaml", f"{head} [{one}]\n")
    project.write("policyctl.yaml", "environments: {a: {}, b: {}, c: {include: ['an*', 'a.*']}}\n")
    assert policyctl("validate").out == "Valid: 1 policy and 3 tests in 3 files.\n"
    assert json.loads(policyctl("validate", "--format", "json").out)["tests"] == 3


def test_a_test_file_is_never_a_policy(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    project.write("anygem.test.yaml")
    assert policyctl("plan").out.endswith("Plan: 1 to add, 0 to update, 0 to remove.\n")


NO_DIRECTORY = {
    "no directory": lambda project: project.policies.rmdir(),
    "an empty directory": lambda project: None,
    "only hidden files": lambda project: project.write(".a.yaml"),
    "only a configuration": lambda project: project.write("policyctl.yaml", ""),
    "a file": lambda project: (project.policies.rmdir(), project.policies.write_text("")),
    "only tests": lambda project: project.write("a.test.yaml"),
    "only other kinds": lambda project: project.write("a.yaml", "kind: agent\n"),
}


@pytest.mark.parametrize("command", ["plan", "apply"])
@pytest.mark.parametrize("case", NO_DIRECTORY)
def test_nothing_to_read_never_means_remove_everything(case: str, command: str, project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    assert policyctl("apply", "--yes").code == 0
    before = Path(".policyctl/local.db").read_bytes()
    (project.policies / "anygem.yaml").unlink()
    NO_DIRECTORY[case](project)
    ran = policyctl(command, *(["--yes"] if command == "apply" else []))
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, "", 1)
    assert shows("policies: [P016]", ran.err)
    assert Path(".policyctl/local.db").read_bytes() == before


@pytest.mark.parametrize("case", ["no directory", "an empty directory", "a file"])
def test_validate_shows_in_the_same_words_that_there_is_nothing_to_read(
    case: str, project: Project, policyctl: Policyctl
) -> None:
    NO_DIRECTORY[case](project)
    assert policyctl("validate").out == f"{policyctl('plan').err}Not valid: 1 error (0 policies in 0 files).\n"


def test_links_and_odd_files(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    (project.folder / "outside.yaml").write_text(ANYGEM)
    (project.folder / "folder").mkdir()
    (project.policies / "out.yaml").symlink_to("../outside.yaml")
    (project.policies / "broken.yaml").symlink_to("nowhere.yaml")
    (project.policies / "folder").symlink_to("../folder")
    (project.policies / "inside").mkdir()
    (project.policies / "loop").symlink_to("inside")
    (project.policies / "notes.txt").symlink_to("../outside.yaml")
    os.mkfifo(project.policies / "pipe.yaml")
    (project.policies / "policyctl.yml").write_text("")
    assert policyctl("validate").out.splitlines()[:-1] == [
        "policies/broken.yaml: is a link that leads nowhere; delete it [P001]",
        "policies/folder: is a link that leads out of the directory; copy the file instead [P008]",
        "policies/loop: is a link to a directory, which is not followed; copy the directory instead [P008]",
        "policies/out.yaml: is a link that leads out of the directory; copy the file instead [P008]",
        "policies/pipe.yaml: is not a regular file; leave it out of the directory [P001]",
        "policies/policyctl.yml: the configuration is called policyctl.yaml; rename it [P017]",
    ]


def test_a_link_inside_the_directory_is_the_file_it_leads_to(project: Project, policyctl: Policyctl) -> None:
    """As a mounted configuration map has it: `anygem.yaml -> ..data/anygem.yaml`."""
    project.write("..data/anygem.yaml")
    (project.policies / "anygem.yaml").symlink_to("..data/anygem.yaml")
    assert policyctl("validate").out == "Valid: 1 policy in 1 file.\n"


def test_a_file_that_may_not_be_read(project: Project, policyctl: Policyctl) -> None:
    path = project.write("anygem.yaml")
    path.unlink()
    path.mkdir()
    assert policyctl("validate", path, "nowhere.yaml").out.splitlines() == [
        "nowhere.yaml: the file does not exist; correct the path [P001]",
        f"{path}: contains no policy file (*.yaml, *.yml or *.json); write one, or name another directory with --dir [P016]",
        "Not valid: 2 errors (0 policies in 1 file).",
    ]


@pytest.mark.parametrize("template", ["{{ x | first }}", "{{ x }}", "{{ [x] | last }}", "{{ w.z | last }}"])
def test_the_order_of_a_mapping_in_the_variables_decides_like_its_values(
    template: str, project: Project, policyctl: Policyctl
) -> None:
    project.write("a.yaml", ANYGEM.replace("description: Balances", f'description: "{template} balances"  #'))
    config = "environments: {dev: {vars: {x: {%s}, w: {z: {%s}}}}}\n"
    project.write("policyctl.yaml", config % ("openai: 1, google: 2", "openai: 1, google: 2"))
    assert policyctl("apply", "--yes").code == 0
    project.write("policyctl.yaml", config % ("google: 2, openai: 1", "google: 2, openai: 1"))
    assert policyctl("plan", "--detailed-exitcode").code == 2


def test_each_file_is_parsed_once_for_all_environments(project: Project) -> None:
    project.write("plain.yaml")
    project.write("templated.yaml", ANYGEM.replace("anygem", "{{ name }}"))
    project.write("policyctl.yaml", "environments: {one: {vars: {name: a}}, two: {vars: {name: b}}}\n")
    config = load_config(find_config(project.policies))
    files = Files(find_files(project.policies).files, root=project.policies, several=True)

    def load() -> None:
        for environment in config.environments.values():
            files.load(environment)

    assert calls(load, source_of) == [2]
