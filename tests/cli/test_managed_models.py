"""Virtual models through the commands: the same rules and the same files as for policies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from policyctl.plan.diff import fields_between
from policyctl.plan.plan import remove
from policyctl.plan.references import ordered
from policyctl.plan.saved_plan import read_plan, write_plan
from policyctl.policy.virtual_model import LiveModel
from policyctl.reconcile.observe import observe
from policyctl.remote.sqlite import SqliteReader
from tests.conftest import Policyctl, Project
from tests.git_repo import commit, git
from tests.sqlite_rows import LOCAL

PLAN = Path("plan.json")
MODEL = "virtual-model/openai/{}"


def write_model(project: Project, name: str, **keys: Any) -> Path:
    document = {"spec_version": "v1", "kind": "model", "name": f"openai/{name}", "app_id": "creds", **keys}
    return project.write(f"models/{name}.json", json.dumps(document))


@pytest.fixture
def managed(project: Project, policyctl: Policyctl) -> Project:
    """Models a and b with a policy over each of them, applied and committed."""
    project.write("policyctl.yaml", "manage: [policies, models]\nlimits: {max_change_percent: 100}\n")
    for name in "ab":
        write_model(project, name)
        project.policy(f"p{name}", MODEL.format(name))
    commit(project.folder)
    assert policyctl("apply", "--yes", "--audit", "audit.jsonl").code == 0
    return project


def summary(policyctl: Policyctl, *args: str) -> str:
    """The changes of a plan, as `+ name`; the problem if there is none."""
    ran = policyctl("plan", "--format", "json", *args)
    if not ran.out:
        return f"{ran.code} {ran.err}"
    symbols = {"add": "+", "update": "~", "remove": "-"}
    found = [f"{symbols[one['action']]} {one['name']}" for one in json.loads(ran.out)["changes"]]
    return ", ".join([str(ran.code), *found])


def live_models() -> dict[str, LiveModel]:
    with SqliteReader(LOCAL, models=True) as reader:
        return dict(observe(reader).models)


SELECTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "all": ((), "0, + virtual-model/openai/new, + virtual-policy/pnew"),
    "a policy without its new model": (("--only", "pnew"), "3 error: virtual-policy/pnew targets the new model"),
    "all but the new model": (("--exclude", "openai/new"), "3 error: virtual-policy/pnew targets the new model"),
    "a model by its short name": (("--only", "openai/new"), "0, + virtual-model/openai/new"),
    "a model by its whole name": (("--only", MODEL.format("new")), "0, + virtual-model/openai/new"),
    "models by a glob": (("--only", "virtual-model/*"), "0, + virtual-model/openai/new"),
    "both": (("--only", "pnew", "--only", "openai/*"), "0, + virtual-model/openai/new, + virtual-policy/pnew"),
    "neither": (("--exclude", "pnew", "--exclude", "virtual-model/*"), "0"),
}


@pytest.mark.parametrize("case", SELECTIONS)
@pytest.mark.alike
def test_a_selection_takes_models_by_name_and_never_a_policy_without_its_new_model(
    case: str, managed: Project, policyctl: Policyctl
) -> None:
    args, expected = SELECTIONS[case]
    write_model(managed, "new")
    managed.policy("pnew", MODEL.format("new"))
    found = summary(policyctl, *args)
    assert found == expected if "error" not in expected else expected in found


BOTH = ", - virtual-policy/pb, - virtual-model/openai/b"
REMOVALS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], str]] = {
    "with its policy": ("", ("models/b.json", "pb.yaml"), (), f"0{BOTH}"),
    "without its policy": ("", ("models/b.json",), (), "3, - virtual-model/openai/b"),
    "protected": ("protect: ['virtual-model/*']", ("models/b.json", "pb.yaml"), (), f"3{BOTH}"),
    "protected by the short name": (
        "protect: [openai/b]",
        ("models/b.json", "pb.yaml"),
        (),
        f"3{BOTH}",
    ),
    "protected and allowed": (
        "protect: ['virtual-model/*']",
        ("models/b.json", "pb.yaml"),
        ("--allow-remove", MODEL.format("b")),
        f"0{BOTH}",
    ),
    "more than the limit": ("", ("models/b.json", "pb.yaml"), ("--max-removes", "1"), f"3{BOTH}"),
    "not pruned": ("prune: false", ("models/b.json", "pb.yaml"), (), "0"),
    "outside the scope": ("scope: ['p*', 'openai/a']", ("models/b.json", "pb.yaml"), (), "0, - virtual-policy/pb"),
    "all models": ("", ("models/a.json", "models/b.json", "pa.yaml"), (), "3"),
}  # fmt: skip


@pytest.mark.parametrize("case", REMOVALS)
@pytest.mark.alike
def test_a_model_is_removed_by_the_rules_for_policies(case: str, managed: Project, policyctl: Policyctl) -> None:
    setting, gone, args, expected = REMOVALS[case]
    config = (managed.policies / "policyctl.yaml").read_text("utf-8")
    managed.write("policyctl.yaml", f"{config}{setting}\n")
    for file in gone:
        (managed.policies / file).unlink()
    commit(managed.folder)
    assert summary(policyctl, *args).startswith(expected)


def test_a_model_whose_file_is_only_missing_on_the_disk_is_kept(managed: Project, policyctl: Policyctl) -> None:
    for file in ("models/b.json", "pb.yaml"):
        git(managed.folder, "update-index", "--skip-worktree", f"policies/{file}")  # as in a sparse checkout
        (managed.policies / file).unlink()
    ran = policyctl("plan")
    assert ran.code == 3
    assert "virtual-policy/pb, virtual-model/openai/b may not be gone, so nothing is removed" in ran.out


@pytest.mark.parametrize("change", ["rename", "include"])
def test_a_model_in_a_file_that_is_not_read_is_named(change: str, managed: Project, policyctl: Policyctl) -> None:
    (managed.policies / "pb.yaml").unlink()
    if change == "rename":
        (managed.policies / "models/b.json").rename(managed.policies / "models/b.json.off")
    else:
        managed.write("policyctl.yaml", "manage: [policies, models]\ninclude: ['*.yaml', 'models/a.json']\n")
    commit(managed.folder)
    assert "no file that is read has virtual-model/openai/b, but policies/models/b.json" in policyctl("plan").out


def test_a_saved_plan_is_applied_once_and_its_digest_is_that_of_the_plan(managed: Project, policyctl: Policyctl) -> None:
    write_model(managed, "a", config={"temperature": 0.5})
    write_model(managed, "new")
    plan = json.loads(policyctl("plan", "--out", PLAN, "--format", "json").out)
    wrong = policyctl("apply", "--yes", "--expect-digest", "sha256:" + "0" * 64)
    assert (wrong.code, sorted(live_models())) == (4, [MODEL.format("a"), MODEL.format("b")])
    assert read_plan(PLAN.read_text("utf-8"), "plan.json").digest == plan["digest"]
    assert policyctl("apply", PLAN, "--yes", "--audit", "audit.jsonl").code == 0
    assert policyctl("plan", "--detailed-exitcode").code == 0
    again = policyctl("apply", PLAN, "--yes")
    assert (again.code, "already" in again.err + again.out) == (0, True)
    ran = policyctl("history", "openai/a", "--diff", "--audit", "audit.jsonl")
    assert "~ virtual-model/openai/a  applied" in ran.out
    assert "config.temperature: absent → 0.5" in ran.out


EDITS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a secret": (lambda after: after["provider_config"].update(api_key="sk-1"), "api_key is a secret"),
    "a mark of a secret that is not set": (
        lambda after: after["provider_config"].update(api_key="(set)"),
        "a secret that it does",
    ),
    "another name": (lambda after: after.update(name=MODEL.format("b")), "is not a virtual model"),
    "a key that no file can have": (lambda after: after.update(connection_id="c"), "write app_id"),
    "another spelling": (lambda after: after["provider_config"].update(customHost="x"), "not written as plan writes it"),
    "nothing": (lambda after: after.pop("config"), "changes nothing"),
}


@pytest.mark.parametrize("case", EDITS)
@pytest.mark.alike
def test_an_edited_saved_plan_is_refused(case: str, managed: Project, policyctl: Policyctl) -> None:
    edit, expected = EDITS[case]
    write_model(managed, "a", config={"temperature": 0.5})
    assert policyctl("plan", "--out", PLAN).code == 0
    plan = read_plan(PLAN.read_text("utf-8"), "plan.json")
    (change,) = plan.changes
    after = json.loads(json.dumps(change.after))
    edit(after)
    fields = fields_between(change.before or {}, after)
    PLAN.write_text(
        write_plan(plan._replace(changes=(change._replace(after=after, fields=fields),))),
        "utf-8",
    )
    before = LOCAL.read_bytes()
    ran = policyctl("apply", PLAN, "--yes")
    assert ran.code in (1, 3, 4)
    assert expected in ran.err + ran.out
    assert LOCAL.read_bytes() == before


def test_a_saved_plan_that_removes_a_model_in_use_is_refused(managed: Project, policyctl: Policyctl) -> None:
    write_model(managed, "new")
    assert policyctl("plan", "--out", PLAN).code == 0
    plan = read_plan(PLAN.read_text("utf-8"), "plan.json")
    changes = ordered([*plan.changes, remove(live_models()[MODEL.format("b")])])
    PLAN.write_text(write_plan(plan._replace(changes=changes)), "utf-8")
    ran = policyctl("apply", PLAN, "--yes")
    assert ran.code == 3
    assert "virtual-model/openai/b would be removed, but virtual-policy/pb still targets it" in ran.out + ran.err


def test_a_git_revision_has_models_as_rows(managed: Project, policyctl: Policyctl) -> None:
    assert summary(policyctl, "--remote", "git:main") == "0"
    write_model(managed, "a", config={"temperature": 0.5})
    write_model(managed, "new")
    (managed.policies / "models/b.json").unlink()
    managed.policy("pb", MODEL.format("new"))
    assert summary(policyctl, "--remote", "git:main") == (
        "0, ~ virtual-model/openai/a, + virtual-model/openai/new, ~ virtual-policy/pb, - virtual-model/openai/b"
    )


@pytest.mark.parametrize(("then", "now"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_git_revision_has_models_as_rows_where_they_are_managed_then_and_now(
    then: bool, now: bool, project: Project, policyctl: Policyctl
) -> None:
    manage = {True: "manage: [policies, models]\n", False: "manage: [policies]\n"}
    project.write("policyctl.yaml", manage[then])
    write_model(project, "a")
    project.policy("pa", MODEL.format("a"))
    commit(project.folder)
    project.write("policyctl.yaml", manage[now])
    assert summary(policyctl, "--remote", "git:main") == ("0, + virtual-model/openai/a" if now and not then else "0")


def test_a_change_back_to_the_base_is_a_restoration_where_models_change_too(managed: Project, policyctl: Policyctl) -> None:
    audit = ("--audit", ".git/audit.jsonl")
    for model, recorded in (("b", audit), ("a", audit), ("b", ())):
        managed.policy("pa", MODEL.format(model))
        assert policyctl("apply", "--yes", *recorded).code == 0
    managed.policy("pa", MODEL.format("a"))
    write_model(managed, "b", config={"temperature": 0.5})
    ran = policyctl("plan", "--base", "main", *audit)
    assert ran.code == 0, ran.err
    assert "restoration" in ran.out


def test_a_directory_of_models_alone_is_applied(project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", "manage: [policies, models]\n")
    write_model(project, "a")
    assert policyctl("apply", "--yes").code == 0
    assert summary(policyctl) == "0"


def test_the_last_policy_is_removed_by_name_beside_models(managed: Project, policyctl: Policyctl) -> None:
    for name in ("pa", "pb"):
        assert policyctl("policy", "remove", "--name", name, "--yes").code == 0
    assert sorted(live_models()) == [MODEL.format("a"), MODEL.format("b")]
