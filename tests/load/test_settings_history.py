"""How the settings of an environment changed in a branch: by its first parents, each change with the merge that may have
brought it."""

from __future__ import annotations

import pytest

from policyctl.errors import PolicyctlError
from policyctl.load.base_config import access_now
from policyctl.load.discovery import find_config, load_config
from policyctl.load.past import SettingsHistory
from policyctl.plan.approval import SettingsMarks, SettingsStep
from tests.conftest import Project
from tests.git_repo import commit, git

ROWS = "default: t-x\nfleet: [{from: rows.csv, name: 't-{{ t }}', extends: one}]\n"


class Branch:
    """A project of which commits change the safety settings, the way in, or neither."""

    def __init__(self, project: Project) -> None:
        self.project, self.states = project, dict[SettingsMarks | None, str]()

    def push(self, limit: int | None = None, way: str = "a", name: str = "prod") -> str:
        """A commit with these settings, or without a change of them."""
        if limit is None:
            self.project.write("notes.md", f"{way}\n")
        else:
            own = f"{name}: {{remote: 'sqlite:///{way}.db', limits: {{max_removes: {limit}}}}}"
            self.project.write("policyctl.yaml", f"environments: {{{own}}}\n")
        made = commit(self.project.folder)
        if limit is not None:
            self.states[self.now()] = f"{way}{limit}"
        return made

    def now(self, name: str = "prod") -> SettingsMarks | None:
        config = load_config(find_config(self.project.policies))
        own = config.environments.get(name)
        return None if own is None else SettingsMarks(access_now(self.project.policies, config)(own), own.rules)

    def steps(self, since: str | None, *ends: str) -> list[str]:
        """Each step: which of the ends it belongs to, and from where to where it leads."""
        config, now = load_config(find_config(self.project.policies)), self.now()
        assert now is not None
        found = SettingsHistory(self.project.policies, "HEAD", config).steps("prod", now, since, ends)
        names = self.states | {None: "-"}
        return [f"{ends.index(end) if end else '-'} {names[before]} {names[after]}" for end, before, after in found]


@pytest.fixture
def branch(project: Project) -> Branch:
    commit(project.folder)
    return Branch(project)


def test_each_change_since_a_commit_belongs_to_the_first_merge_that_has_it(branch: Branch) -> None:
    first = branch.push(1)
    made = [branch.push(2), branch.push(way="notes"), branch.push(2, "b"), branch.push(way="more"), branch.push(3)]
    assert branch.steps(first, *made) == ["0 a1 a2", "2 a2 b2", "4 b2 a3"]
    assert branch.steps(first, made[3]) == ["0 a1 a2", "0 a2 b2", "- b2 a3"]
    assert branch.steps(made[2], made[4]) == ["0 b2 a3"]
    assert branch.steps(made[4]) == []
    assert branch.steps(None, *made) == ["0 a1 a2", "2 a2 b2", "4 b2 a3"], "from the first ones"


def test_what_was_taken_back_is_two_steps(branch: Branch) -> None:
    first = branch.push(1)
    branch.push(2)
    branch.push(1)
    assert branch.steps(first) == ["- a1 a2", "- a2 a1"]


def test_where_the_environment_was_not_there_its_settings_are_none(branch: Branch) -> None:
    first = branch.push(1)
    branch.push(2, name="other")
    branch.states[None] = "-"
    branch.push(3)
    assert branch.steps(first) == ["- a1 -", "- - a3"]
    assert branch.steps(None) == ["- a1 -", "- - a3"]


def test_a_file_that_was_not_valid_has_no_settings(branch: Branch) -> None:
    first = branch.push(1)
    branch.project.write("policyctl.yaml", "environments: [\n")
    commit(branch.project.folder)
    branch.push(1)
    assert branch.steps(first) == ["- a1 -", "- - a1"]


def test_a_merge_is_one_step_whatever_its_branch_did(branch: Branch) -> None:
    first = branch.push(1)
    git(branch.project.folder, "checkout", "--quiet", "-b", "feature")
    branch.push(2)
    branch.push(3, "b")
    git(branch.project.folder, "checkout", "--quiet", "-")
    git(branch.project.folder, "merge", "--quiet", "--no-ff", "--no-edit", "feature")
    assert branch.steps(first, git(branch.project.folder, "rev-parse", "HEAD").strip()) == ["0 a1 b3"]


def test_what_is_on_the_disk_and_in_no_commit_is_the_last_step(branch: Branch) -> None:
    first = branch.push(1)
    branch.project.write("policyctl.yaml", "environments: {prod: {remote: 'sqlite:///a.db', limits: {max_removes: 9}}}\n")
    branch.states[branch.now()] = "a9"
    assert branch.steps(first, first) == ["- a1 a9"]


def test_the_first_configuration_is_taken_as_it_is_unless_something_was_merged_before(branch: Branch) -> None:
    def steps(*ends: str) -> list[SettingsStep]:
        config, now = load_config(find_config(branch.project.policies)), branch.now("local")
        assert now is not None
        return SettingsHistory(branch.project.policies, "HEAD", config).steps("local", now, None, ends)

    merged = commit(branch.project.folder)
    assert steps() == steps(merged) == [], "there never was one"
    made = branch.push(5, name="local")
    assert steps() == steps(made) == []
    assert steps(merged)


def test_which_configuration_was_the_first_is_not_chosen_by_what_is_merged_into_which(branch: Branch) -> None:
    made = branch.push(1)
    git(branch.project.folder, "checkout", "--quiet", "--orphan", "other")
    branch.push(2, "evil")
    git(branch.project.folder, "merge", "--quiet", "--no-edit", "--strategy=ours", "--allow-unrelated-histories", "main")
    with pytest.raises(PolicyctlError, match="more than one first configuration"):
        branch.steps(None)
    assert branch.steps(made) == ["- a1 evil2"]


@pytest.mark.parametrize("how", ["merged", "squashed"])
def test_the_first_configuration_may_come_with_a_merge_whose_branch_had_it_first(how: str, branch: Branch) -> None:
    git(branch.project.folder, "checkout", "--quiet", "-b", "first")
    branch.push(1)
    made = branch.push(2)
    git(branch.project.folder, "checkout", "--quiet", "main")
    way = ("--squash",) if how == "squashed" else ("--no-ff", "--no-edit")
    git(branch.project.folder, "merge", "--quiet", *way, made)
    commit(branch.project.folder)
    branch.push(3)
    assert branch.steps(None) == ["- a2 a3"]


@pytest.mark.parametrize("removed_before", [True, False])
def test_a_configuration_that_moved_is_not_the_first_one(removed_before: bool, branch: Branch) -> None:
    """It is the first one of its directory, and nothing shows that others were in use before."""
    branch.push(1)
    top = branch.project.folder
    here, moved = branch.project.policies / "policyctl.yaml", top / "moved" / "policyctl.yaml"
    moved.parent.mkdir()
    if removed_before:
        here.rename(top / "kept.yaml")
        commit(top)
        (top / "kept.yaml").rename(moved)
    else:
        here.rename(moved)
    commit(top)
    config = load_config(moved)
    own = config.environments["prod"]
    now = SettingsMarks(access_now(moved.parent, config)(own), own.rules)
    history = SettingsHistory(moved.parent, "HEAD", config)
    assert [one.before for one in history.steps("prod", now, None, ())] == [None]
    assert history.why_unknown(None) == "there was a policyctl.yaml elsewhere before the first one of this directory"


def test_the_values_of_an_inventory_are_settings(project: Project) -> None:
    project.write("policyctl.yaml", 'templates: {one: {remote: "sqlite:///{{ at }}.db"}}\n' + ROWS)
    for at in ("a", "b", "a", "c"):
        project.write("rows.csv", f"t,at\nx,{at}\n")
        commit(project.folder)
    config = load_config(find_config(project.policies))
    own = config.environments["t-x"]
    now = SettingsMarks(access_now(project.policies, config)(own), own.rules)
    assert len(SettingsHistory(project.policies, "HEAD", config).steps("t-x", now, None, ())) == 3


@pytest.mark.parametrize("since", ["", "HEAD", "f" * 40, "--all", "the commit of another branch"])
def test_a_branch_that_does_not_go_back_to_a_commit_has_no_history_since_it(branch: Branch, since: str) -> None:
    branch.push(1)
    git(branch.project.folder, "checkout", "--quiet", "-b", "feature")
    made = branch.push(2)
    git(branch.project.folder, "checkout", "--quiet", "-")
    with pytest.raises(PolicyctlError):
        branch.steps(made if " " in since else since)


@pytest.mark.parametrize("limit", [None, 3])
def test_main_may_go_on_with_a_branch_into_which_it_was_merged(branch: Branch, limit: int | None) -> None:
    """Then what was main before is not among the first parents of what it is now."""
    branch.push(1)
    git(branch.project.folder, "checkout", "--quiet", "-b", "feature")
    branch.push(limit, "notes" if limit is None else "a")
    git(branch.project.folder, "checkout", "--quiet", "main")
    branch.project.write("beside.md", "main")
    since = commit(branch.project.folder)
    git(branch.project.folder, "checkout", "--quiet", "feature")
    git(branch.project.folder, "merge", "--quiet", "--no-edit", "main")
    git(branch.project.folder, "branch", "--quiet", "--force", "main", "feature")
    head = git(branch.project.folder, "rev-parse", "main").strip()
    assert branch.steps(since, head) == ([] if limit is None else ["0 a1 a3"])


def test_a_file_that_settings_named_counts_while_they_did(branch: Branch) -> None:
    def push(name: str, text: str) -> str:
        branch.project.write(name, text)
        own = f"prod: {{remote: 'sqlite:///a.db', ca_file: {name}}}"
        branch.project.write("policyctl.yaml", f"environments: {{{own}}}\n")
        made = commit(branch.project.folder)
        branch.states[branch.now()] = f"{name[0]}{text}"
        return made

    first, second, third = push("a.pem", "1"), push("a.pem", "2"), push("b.pem", "2")
    assert branch.steps(first, second, third) == ["0 a1 a2", "1 a2 b2"]


def test_a_shallow_clone_has_no_history(branch: Branch) -> None:
    first = branch.push(1)
    last = branch.push(2)
    (branch.project.folder / ".git" / "shallow").write_text(f"{last}\n", "ascii")
    with pytest.raises(PolicyctlError, match="history of the branch is not known here"):
        branch.steps(first)


def test_an_environment_that_comes_after_the_first_configuration_is_a_step(branch: Branch) -> None:
    branch.push(1, name="other")
    branch.push(2)
    assert branch.steps(None) == ["- - a2"]
