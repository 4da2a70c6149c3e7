"""plan --base: while a branch is reviewed, the remote, auth and safety settings of policyctl.yaml are those of its base."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Policyctl, Project
from tests.git_repo import commit, git
from tests.remote.fake_server import Reply, StandIn, standing_in
from tests.sqlite_rows import put, row

LEAD = "Safety settings change in policyctl.yaml; the old ones apply until the merge:\n"
NAMES = "abcdef"


@pytest.fixture
def branch(project: Project, policyctl: Policyctl) -> Project:
    """A branch of a repository whose main has six policies, all applied to the embedded remote."""
    project.write("policyctl.yaml", "limits: {max_removes: 1}\nprotect: [f]\n")
    (project.folder / ".gitignore").write_text(".policyctl/\n", "utf-8")
    for name in NAMES:
        project.policy(name)
    commit(project.folder)
    put([row(name) for name in NAMES])
    assert policyctl("apply", "--yes").code == 0
    git(project.folder, "checkout", "-q", "-b", "change")
    return project


def planned(policyctl: Policyctl, *args: str) -> dict[str, object]:
    ran = policyctl("plan", "--format", "json", *args)
    assert ran.out, ran.err
    found: dict[str, object] = json.loads(ran.out)
    return found


def test_without_a_change_of_settings_it_is_the_plan_that_it_would_be(branch: Project, policyctl: Policyctl) -> None:
    branch.policy("new")
    for args in ((), ("--detailed-exitcode",), ("--format", "json"), ("--remote", "git:main")):
        assert policyctl("plan", "--base", "main", *args) == policyctl("plan", *args)


def test_what_loosens_a_rule_is_reported_first_and_does_not_count_yet(branch: Project, policyctl: Policyctl) -> None:
    branch.write("policyctl.yaml", "limits: {max_removes: 5}\n")
    for name in "ef":
        (branch.policies / f"{name}.yaml").unlink()
    assert policyctl("plan").code == 0
    ran = policyctl("plan", "--base", "main")
    assert ran.code == 3
    assert ran.out.startswith(
        f"{LEAD}    protect: [f] → absent\n    limits.max_removes: 1 → 5\n\nenvironment local, remote local\n"
    )
    assert "virtual-policy/f is protected and would be removed" in ran.out
    assert "2 policies would be removed, more than max_removes 1" in ran.out


def test_settings_of_the_planned_environment_come_before_those_of_others(branch: Project, policyctl: Policyctl) -> None:
    """However many others a branch adds, and wherever those would log in; each of these stays together."""
    login = "auth: {type: bearer, token: 'env:T'}, ca_file: ca.pem, limits: {max_removes: 9}"
    others = "".join(f"  e{n:02}: {{remote: https://x.example/{n}, {login}}}\n" for n in range(40))
    branch.write("policyctl.yaml", "environments: {prod: {guards: {max_calls: 2}}}\nlimits: {max_removes: 1}\nprotect: [f]\n")
    commit(branch.folder)
    git(branch.folder, "branch", "--force", "main")
    branch.write("policyctl.yaml", f"environments:\n{others}  prod: {{guards: {{max_calls: 9}}}}\nlimits: {{max_removes: 5}}\n")
    found = planned(policyctl, "--base", "main", "--env", "prod")["settings"]
    assert isinstance(found, list)
    paths = [one["path"] for one in found]
    assert set(paths[:4]) == {"environments.prod.guards.max_calls", "limits.max_removes", "protect", "default"}
    later = [path.split(".")[1] for path in paths[4:]]
    assert later == sorted(later)
    assert later[0] == "e00"


def test_a_configuration_that_a_branch_makes_a_link_is_refused_before_it_stops_every_later_branch(
    branch: Project, policyctl: Policyctl
) -> None:
    config = branch.policies / "policyctl.yaml"
    config.rename(branch.policies / "settings.txt")
    config.symlink_to("settings.txt")
    ran = policyctl("plan", "--base", "main")
    assert (ran.code, ran.out, ran.err.count("\n")) == (3, "", 1)
    assert "is a link, which is not followed at a git revision; put the file itself in its place" in ran.err
    assert policyctl("plan").code == 0


# What is written on main, what in the branch, and what is said of it.
CHANGES = {
    "scope": ("scope: [a]", "scope: ['*']", ['scope: [a] → ["*"]']),
    "prune": ("prune: false", "", ["prune: false → absent"]),
    "a guard": (
        "guards: {max_calls: 2, deny_new: model}",
        "guards: {max_calls: 9}",
        ["guards.max_calls: 2 → 9", "guards.deny_new: model → absent"],
    ),
    "an exception": (
        "",
        "guard_exceptions: [{policy: a, guard: max_calls, reason: why}]",
        ["guard_exceptions: absent → [{policy: a, guard: max_calls, reason: why}]"],
    ),
    "lint": ("", "lint: {ignore: [P433]}", ["lint.ignore: absent → [P433]"]),
    "effect": ("", "effect: {partial: 0.2}", ["effect.partial: absent → 0.2"]),
    "include": ("", "include: ['[ab].yaml']", ['include: absent → ["[ab].yaml"]']),
    "allow_remove": ("allow_remove: [a]", "allow_remove: [b]", ["allow_remove: [a] → [b]"]),
    "another environment": (
        "default: x\nenvironments: {x: {}, prod: {remote: 'https://a.example'}}",
        "default: x\nenvironments: {x: {}, prod: {remote: 'https://b.example', limits: {max_removes: 99}}}",
        [
            "environments.prod.remote: https://a.example → https://b.example",
            "environments.prod.limits.max_removes: absent → 99",
        ],
    ),
    "auth": (
        "environments: {prod: {remote: 'https://a.example', auth: {token: 'env:A'}}}",
        "environments: {prod: {remote: 'https://a.example', auth: {token: 'env:B'}, ca_file: x.pem}}",
        ["environments.prod.auth.token: env:A → env:B", "environments.prod.ca_file: absent → x.pem"],
    ),
    "the default": (
        "default: x\nenvironments: {x: {}, z: {}}",
        "default: z\nenvironments: {x: {}, z: {}}",
        ["default: x → z"],
    ),
    "other words for the same": ("prune: true  # yes", "# no\nprune: true\nlimits: {}", []),
    "variables": ("", "environments: {local: {vars: {a: 1}}}", []),
    "no file, and one that says what holds without one": (None, "default: local\nenvironments: {local: {}}", []),
    "the first file": (None, "scope: [a]", ["scope: absent → [a]"]),
    "the file goes": ("scope: [a]", None, ["scope: [a] → absent"]),
}


@pytest.mark.parametrize("case", CHANGES)
@pytest.mark.alike
def test_every_safety_setting_that_the_branch_changes_is_reported(case: str, project: Project, policyctl: Policyctl) -> None:
    before, after, said = CHANGES[case]
    config = project.policies / "policyctl.yaml"
    project.policy("a")
    if before is not None:
        project.write("policyctl.yaml", before)
    commit(project.folder)
    config.unlink(missing_ok=True)
    if after is not None:
        project.write("policyctl.yaml", after)
    ran = policyctl("plan", "--base", "main", "--remote", "git:main")
    assert ran.code == 0, ran.err
    lead, _, rest = ran.out.rpartition("environment ")
    assert rest.startswith(("local", "x", "prod"))
    assert lead == (LEAD + "".join(f"    {line}\n" for line in said) + "\n" if said else "")


def test_a_rule_that_the_base_has_got_since_holds_for_an_older_branch(branch: Project, policyctl: Policyctl) -> None:
    """Else a branch from before the rule would go round it, or log in where the remote was."""
    git(branch.folder, "checkout", "-q", "main")
    branch.write("policyctl.yaml", "limits: {max_removes: 0}\n")
    git(branch.folder, "commit", "-q", "-m", "x", "policies/policyctl.yaml")
    git(branch.folder, "checkout", "-q", "change")
    (branch.policies / "e.yaml").unlink()
    ran = policyctl("plan", "--base", "main")
    assert ran.code == 3
    assert "1 policy would be removed, more than max_removes 0" in ran.out
    assert LEAD not in ran.out


def test_it_is_in_the_json_and_among_the_outputs(
    branch: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", str(branch.folder / "out"))
    branch.write("policyctl.yaml", "limits: {max_removes: 5}\n")
    assert planned(policyctl, "--base", "main")["settings"] == [
        {"path": "protect", "before": ["f"]},
        {"path": "limits.max_removes", "before": 1, "after": 5},
    ]
    assert "\nsettings=2\n" in (branch.folder / "out").read_text("utf-8")


def test_what_the_base_got_since_the_branch_left_it_is_not_the_branch_s_doing(branch: Project, policyctl: Policyctl) -> None:
    commit(branch.folder)
    git(branch.folder, "checkout", "-q", "main")
    branch.write("policyctl.yaml", "limits: {max_removes: 9}\n")
    commit(branch.folder)
    git(branch.folder, "checkout", "-q", "change")
    assert planned(policyctl, "--base", "main")["settings"] == []


@pytest.fixture
def two() -> Iterator[tuple[StandIn, StandIn]]:
    """Two remotes without policies: the one that was reviewed, and another."""
    with standing_in(lambda _: Reply(200, [])) as reviewed, standing_in(lambda _: Reply(200, [])) as other:
        yield reviewed, other


def environment(server: StandIn, reference: str) -> str:
    return f"environments: {{prod: {{remote: '{server.url}', auth: {{type: bearer, token: 'env:{reference}'}}}}}}\n"


def test_a_branch_cannot_lead_credentials_elsewhere(
    two: tuple[StandIn, StandIn], project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    reviewed, other = two
    monkeypatch.setenv("GOOD", "canary-good")
    monkeypatch.setenv("EVIL", "canary-evil")
    project.policy("a")
    project.write("policyctl.yaml", environment(reviewed, "GOOD"))
    commit(project.folder)
    git(project.folder, "checkout", "-q", "-b", "change")
    project.write("policyctl.yaml", environment(other, "EVIL"))
    ran = policyctl("plan", "--base", "main")
    assert ran.code == 0
    assert f"environments.prod.remote: {reviewed.url} → {other.url}\n" in ran.out
    assert "environments.prod.auth.token: env:GOOD → env:EVIL\n" in ran.out
    assert "canary" not in ran.out + ran.err
    assert (bool(reviewed.seen), other.seen) == (True, [])
    assert {seen.authorization for seen in reviewed.seen} == {"Bearer canary-good"}


def test_a_new_environment_leads_nowhere_until_it_was_merged(
    two: tuple[StandIn, StandIn], project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVIL", "canary-evil")
    project.policy("a")
    commit(project.folder)
    project.write("policyctl.yaml", environment(two[1], "EVIL"))
    ran = policyctl("plan", "--base", "main")
    assert (ran.code, ran.out, two[1].seen) == (3, "", [])
    assert ran.err == (
        "error: environment prod is new in this branch, so its remote has not been reviewed; merge it first, "
        "or plan with --remote git:main\n"
    )
    assert policyctl("plan", "--base", "main", "--remote", "git:main").code == 0


def test_a_new_environment_has_what_the_base_sets_for_all(project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", "protect: [b]\n")
    for name in "ab":
        project.policy(name)
    commit(project.folder)
    project.write("policyctl.yaml", "environments: {next: {prune: true}}\n")
    (project.policies / "b.yaml").unlink()
    ran = policyctl("plan", "--base", "main", "--remote", "git:main")
    assert (ran.code, "is protected" in ran.out) == (3, True)


def test_relative_paths_of_the_base_start_from_its_own_file(
    project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.policy("a")
    (project.folder / "policyctl.yaml").write_text("environments: {x: {remote: 'sqlite:///here.db'}}\n", "utf-8")
    commit(project.folder)
    (project.folder / "policyctl.yaml").rename(project.policies / "policyctl.yaml")
    for folder, name in ((project.folder, "policies"), (project.policies, ".")):
        monkeypatch.chdir(folder)
        assert planned(policyctl, "--base", "main", "--dir", name)["remote"] == f"sqlite:///{project.folder}/here.db"


def test_where_the_file_moves_is_shown_since_paths_in_it_start_from_there(project: Project, policyctl: Policyctl) -> None:
    """With the same words it may trust another authority, or log in with another secret."""
    project.policy("a")
    (project.folder / "policyctl.yaml").write_text("environments: {x: {ca_file: ../ca.pem}}\n", "utf-8")
    commit(project.folder)
    (project.folder / "policyctl.yaml").rename(project.policies / "policyctl.yaml")
    found = planned(policyctl, "--base", "main", "--remote", "git:main")["settings"]
    assert found == [{"path": "policyctl.yaml", "before": "policyctl.yaml", "after": "policies/policyctl.yaml"}]


def test_the_digest_is_that_of_the_plan_after_the_merge(branch: Project, policyctl: Policyctl) -> None:
    branch.policy("new")
    branch.write("policyctl.yaml", "limits: {max_removes: 2}\nprotect: [f]\n")
    digest = planned(policyctl, "--base", "main")["digest"]
    commit(branch.folder)
    git(branch.folder, "checkout", "-q", "main")
    (branch.folder / "unrelated.txt").write_text("x", "utf-8")
    commit(branch.folder)
    git(branch.folder, "merge", "-q", "--no-ff", "--message=x", "change")
    assert policyctl("apply", "--yes", "--expect-digest", str(digest)).code == 0
    assert policyctl("plan", "--detailed-exitcode").code == 0


OTHER = (
    "spec_version: v1\nkind: model\nname: {}\n"
    "policy: {{strategy: {{mode: single}}, targets: [{{model_name: virtual-model/x/b}}]}}\n"
)
MOVES = {
    "a policy": ("new.yaml", OTHER.format("new")),
    "a policy that it did not have": ("other.yaml", OTHER.format("other")),
    "a safety setting": ("policyctl.yaml", "limits: {max_removes: 3}\nprotect: [f]\n"),
}


@pytest.mark.parametrize("case", MOVES)
def test_another_digest_is_refused_when_something_moved_that_counts(case: str, branch: Project, policyctl: Policyctl) -> None:
    branch.policy("new")
    digest = planned(policyctl, "--base", "main")["digest"]
    branch.write(*MOVES[case])
    assert policyctl("apply", "--yes", "--expect-digest", str(digest)).code == 4


def _unrelated(folder: Path) -> str:
    git(folder, "checkout", "-q", "--orphan", "lonely")
    commit(folder)
    return "main"


def _broken(folder: Path) -> str:
    (folder / "policies" / "policyctl.yaml").write_text("limit: 5\n", "utf-8")
    commit(folder)
    (folder / "policies" / "policyctl.yaml").write_text("limits: {max_removes: 5}\n", "utf-8")
    return "change"


LONELY = """\
the checked out commit has no commit in common with main; fetch the whole history (actions/checkout: fetch-depth: 0, \
GitLab: GIT_DEPTH: 0)
"""
BROKEN = """\
on change, policyctl.yaml is not valid, so its safety settings are unknown: \
policies/policyctl.yaml:1:1: unknown key \"limit\" (did you mean limits?) [P101]; fix it on change first
"""
WRONG = {
    "no such revision": (lambda _: "nope", 64, "unknown git revision 'nope' (fetch it, or name another)\n"),
    "an option": (lambda _: "--all", 64, "the git revision must not begin with -, / or ^\n"),
    "no commit in common": (_unrelated, 1, LONELY),
    "an invalid file at the base": (_broken, 1, BROKEN),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.alike
def test_what_cannot_be_a_base_is_one_clear_line(case: str, branch: Project, policyctl: Policyctl) -> None:
    prepare, code, said = WRONG[case]
    ran = policyctl("plan", f"--base={prepare(branch.folder)}")
    assert (ran.code, ran.out, ran.err) == (code, "", f"error: {said}")


def test_a_shallow_clone_is_told_to_fetch_more(branch: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch) -> None:
    branch.policy("new")
    commit(branch.folder)
    git(branch.folder, "clone", "-q", "--no-local", "--depth=1", "--no-single-branch", ".", "shallow")
    monkeypatch.chdir(branch.folder / "shallow")
    ran = policyctl("plan", "--base", "origin/main")
    assert (ran.code, ran.out) == (1, "")
    assert "fetch the whole history (actions/checkout: fetch-depth: 0" in ran.err


def test_outside_a_repository_it_is_one_clear_line(project: Project, policyctl: Policyctl) -> None:
    project.policy("a")
    ran = policyctl("plan", "--base", "main")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "error: policies is not in a git repository, so it cannot be compared with a revision\n"
