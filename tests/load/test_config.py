"""policyctl.yaml: what each setting means, where it wins, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.errors import InvalidInput, UsageError
from policyctl.load.discovery import find_config, load_config
from policyctl.load.environment import dotted, parted
from policyctl.plan.settings import Limits
from tests.conftest import Policyctl, Project
from tests.git_repo import commit
from tests.problem_lines import shows

FULL = """
default: dev
environments:
  dev: {remote: local, vars: {a: 1}}
  prod:
    remote: https://api.example.com/instances/1
    auth: {type: ibm_iam, api_key: "env:KEY"}
    scope: ["team-*"]
    prune: false
    limits: {max_removes: 0}
    include: ["prod/*"]
scope: ["*"]
protect: ["prod-*"]
limits: {max_removes: 7, max_change_percent: 50}
"""


def test_what_an_environment_sets_wins_there(project: Project) -> None:
    config = load_config(project.write("policyctl.yaml", FULL))
    dev, prod = config.environments["dev"], config.environments["prod"]
    assert (dev.settings.scope, prod.settings.scope) == (("*",), ("team-*",))
    assert (dev.settings.prune, prod.settings.prune) == (True, False)
    assert dev.settings.protect == prod.settings.protect == ("prod-*",)
    assert (dev.settings.limits, prod.settings.limits) == (Limits(7, 50), Limits(0, 50))
    assert (dev.include, prod.include) == (None, ("prod/*",))
    assert config.environment(None) is dev


def test_without_a_file_there_is_one_environment_the_embedded_remote(project: Project) -> None:
    config = load_config(None)
    assert (config.environment(None).name, config.environment(None).remote) == ("local", "local")
    assert config.environment(None).settings.limits == Limits(5, 30)


def test_an_empty_file_is_as_none(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    assert load_config(project.write("policyctl.yaml", "# nothing yet\n")).environment(None).name == "local"
    assert policyctl("plan").code == 0


def test_several_environments_without_a_default_need_env(project: Project) -> None:
    config = load_config(project.write("policyctl.yaml", "environments: {dev: {}, prod: {}}\n"))
    with pytest.raises(UsageError, match="choose one with --env: dev, prod"):
        config.environment(None)
    with pytest.raises(UsageError, match=r"unknown environment prd \(did you mean prod\?\)"):
        config.environment("prd")


def test_the_nearest_one_upward_holds_up_to_the_top_of_the_repository(project: Project) -> None:
    commit(project.folder)
    (project.folder / "policyctl.yaml").write_text("default: x\n")
    assert find_config(project.policies) == Path("policyctl.yaml")
    own = project.write("policyctl.yaml", "")
    assert find_config(project.policies) == own
    assert find_config(project.policies / "not" / "there") == own
    own.unlink()
    commit(project.policies)
    assert find_config(project.policies) is None


def test_the_digest_moves_with_the_order_that_templates_can_see(project: Project) -> None:
    def digest_of(variables: str) -> str:
        text = f"environments: {{dev: {{vars: {{{variables}}}}}}}\n"
        return load_config(project.write("policyctl.yaml", text)).environments["dev"].digest

    one = digest_of("a: {x: 1, z: [{b: 1, c: 2}]}, d: 1")
    assert digest_of("d: 1, a: {x: 1, z: [{b: 1, c: 2}]}") == one  # no template sees which variable came first
    assert digest_of("a: {z: [{b: 1, c: 2}], x: 1}, d: 1") != one
    assert digest_of("a: {x: 1, z: [{c: 2, b: 1}]}, d: 1") != one


def test_outside_a_repository_nothing_above_the_policy_directory_is_searched(project: Project) -> None:
    """Another user may have left a file in a directory that many share."""
    (project.folder / "policyctl.yaml").write_text("default: x\n")
    assert find_config(project.policies) is None
    own = project.write("policyctl.yaml", "")
    assert find_config(project.policies / "team") is None
    assert find_config(project.policies / "team", project.policies) == own


def test_the_digest_moves_with_what_decides_a_plan_and_not_with_auth(project: Project) -> None:
    digests = set()
    for text in (FULL, FULL.replace("env:KEY", "env:OTHER"), FULL.replace("max_removes: 0", "max_removes: 1")):
        digests.add(load_config(project.write("policyctl.yaml", text)).environments["prod"].digest)
    assert len(digests) == 2


BAD = {
    "unknown key": ("scopes: [a]", '1:1: unknown key "scopes" (did you mean scope?) [P101]'),
    "unknown key in an environment": (
        "environments: {dev: {remot: local}}",
        '1:22: unknown key "remot" (did you mean remote?) [P101]',
    ),
    "unknown key in limits": ("limits: {max_remove: 1}", '1:10: unknown key "max_remove" (did you mean max_removes?) [P101]'),
    "duplicate key": ("prune: true\nprune: false", "2:1: duplicate key [P003]"),
    "prune: no is read in two ways": ("prune: no", "1:8: no is false in YAML 1.1 and text in YAML 1.2 [P004]"),
    "prune as text": ('prune: "true"', '1:8: prune must be true or false, got "true" [P104]'),
    "a negative limit": ("limits: {max_removes: -1}", "1:23: max_removes must be 0 or more, got -1 [P103]"),
    "a percentage over 100": ("limits: {max_change_percent: 101}", "1:30: max_change_percent must be from 0 to 100 [P103]"),
    "models without policies": (
        "manage: [models]",
        "1:9: manage: needs policies too: models are managed beside them, never alone [P109]",
    ),
    "an empty scope": ("scope: []", "1:8: scope must not be empty [P106]"),
    "a scope that is not a list": ("scope: team-*", "1:8: scope must be a list [P104]"),
    "no environments": ("environments: {}", "1:15: environments must not be empty [P106]"),
    "an unknown default": (
        "default: prd\nenvironments: {prod: {}}",
        "1:10: unknown environment prd (did you mean prod?) [P302]",
    ),
    "a default without environments": ("default: prod", "1:10: unknown environment prod [P302]"),
    "a secret in place": (
        "environments: {p: {auth: {type: bearer, token: hunter2}}}",
        "token must be a reference, env:NAME or file:PATH [P304]",
    ),
    "a password in the remote": (
        "environments: {p: {remote: 'https://u:hunter2@x/'}}",
        "remote must not contain a user [P304]",
    ),
    "an unknown kind of remote": ("environments: {p: {remote: 'ftp://x'}}", "remote must be local, sqlite:///path [P304]"),
    "an unknown kind of auth": ("environments: {p: {auth: {type: basic}}}", "type must be ibm_iam, [P105]"),
    "a variable that is a secret": (
        "environments: {p: {vars: {key: 'env:HOME'}}}",
        "the variable key is a reference to a secret [P303]",
    ),
    "two documents": ("prune: true\n---\nprune: false", "2:1: policyctl.yaml is one document [P301]"),
    "a list": ("- a", "1:1: the document must be a mapping [P104]"),
    "an environment's name that is a path": (
        "environments: {../x: {}}",
        '1:16: "../x" is not a name; use letters, digits, dots, dashes, _ [P307]',
    ),
    "broken YAML": ("a: [", "this [ is never closed [P002]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_configurations(case: str, project: Project) -> None:
    text, expected = BAD[case]
    with pytest.raises(InvalidInput) as caught:
        load_config(project.write("policyctl.yaml", text))
    assert shows(expected, str(caught.value))
    assert "hunter2" not in str(caught.value)
    assert len(caught.value.problems) == 1


@given(st.lists(st.text('a.é "\\\\', min_size=1) | st.text(), min_size=1))
def test_a_dotted_path_has_each_of_its_keys(keys: list[str]) -> None:
    found, rest = [], dotted(*keys)
    for _ in keys:
        first, rest = parted(rest)
        found.append(first)
    assert (found, rest) == (keys, "")
