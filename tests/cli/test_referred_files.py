"""plan --base: files of the repository that settings refer to are those of the base too, and a change of one is shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from policyctl.cli.plan import FORMS, ONLY_SEVERAL
from tests.conftest import Policyctl, Project
from tests.examples import crossed
from tests.git_repo import commit, git
from tests.remote.fake_server import Reply, StandIn, certificates, standing_in
from tests.watch.receivers import receiving

TOKEN, OTHER = "canary-token", "canary-other"
ROW = "environments.prod.auth.token: file:.keys/token → file:.keys/token, whose content this branch changes"


@pytest.fixture
def remote() -> Iterator[StandIn]:
    with standing_in(lambda _: Reply(200, [])) as server:
        yield server


def settings(project: Project, url: str, token: str = "file:.keys/token", more: str = "") -> None:
    auth = f"auth: {{type: bearer, token: '{token}'}}"
    project.write("policyctl.yaml", f"environments: {{prod: {{remote: '{url}', {auth}{more}}}}}\n")


@pytest.fixture
def branch(project: Project, remote: StandIn) -> Project:
    """A branch of a repository whose settings refer to a token that the repository has."""
    project.policy("a")
    project.write(".keys/token", TOKEN)
    settings(project, remote.url)
    commit(project.folder)
    git(project.folder, "checkout", "-q", "-b", "change")
    return project


def _changed(project: Project) -> None:
    project.write(".keys/token", OTHER)


def _gone(project: Project) -> None:
    (project.policies / ".keys" / "token").unlink()


def _link(project: Project) -> None:
    project.write(".keys/other", OTHER)
    _gone(project)
    (project.policies / ".keys" / "token").symlink_to("other")


def _link_to_the_same(project: Project) -> None:
    project.write(".keys/other", TOKEN)
    _gone(project)
    (project.policies / ".keys" / "token").symlink_to("other")
    git(project.folder, "add", ".")


def _link_above(project: Project) -> None:
    project.write("other/token", OTHER)
    shutil.rmtree(project.policies / ".keys")
    (project.policies / ".keys").symlink_to("other")


def _converted(project: Project) -> None:
    """In git it is another one, which a checkout writes as the one that it was."""
    (project.folder / ".gitattributes").write_text("token working-tree-encoding=UTF-16LE\n", "utf-8")
    path = project.policies / ".keys" / "token"
    path.write_bytes(OTHER.encode("utf-16-le"))
    git(project.folder, "add", ".")
    path.write_text(TOKEN, "utf-8")


def _led_by_words(project: Project) -> None:
    """The settings are the same, and lead from where they now are to another file."""
    (project.folder / ".keys").mkdir()
    (project.folder / ".keys" / "token").write_text(OTHER, "utf-8")
    (project.policies / "policyctl.yaml").rename(project.folder / "policyctl.yaml")


CHANGES: dict[str, Callable[[Project], None]] = {
    "changed": _changed,
    "gone": _gone,
    "a link": _link,
    "a link to the same": _link_to_the_same,
    "behind a link": _link_above,
    "converted on checkout": _converted,
    "led to by the same words from elsewhere": _led_by_words,
}


@pytest.mark.parametrize(("case", "committed"), crossed(CHANGES, [True, False]))
@pytest.mark.alike
def test_a_secret_that_the_branch_changes_is_sent_as_it_was_and_the_change_is_shown(
    case: str, committed: bool, branch: Project, remote: StandIn, policyctl: Policyctl
) -> None:
    CHANGES[case](branch)
    if committed and case != "converted on checkout":
        commit(branch.folder)
    ran = policyctl("plan", "--base", "main")
    assert ran.code == 0, ran
    assert {seen.authorization for seen in remote.seen} == {f"Bearer {TOKEN}"}
    assert ROW in ran.out.replace('"', "")
    assert "canary" not in ran.out + ran.err


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ONLY_SEVERAL])
@pytest.mark.alike
def test_the_change_is_shown_in_every_format_and_never_the_content(form: str, branch: Project, policyctl: Policyctl) -> None:
    _changed(branch)
    commit(branch.folder)
    for remote in ([], ["--remote", "git:main"]):
        ran = policyctl("plan", "--base", "main", "--format", form, *remote)
        assert ran.code == 0, ran
        assert "canary" not in ran.out + ran.err
        assert "environments.prod.auth.token" in ran.out
        assert "file:.keys/token, whose content this branch changes" in ran.out


def _same(project: Project) -> None:
    project.write(".keys/token", TOKEN)


def _windows(project: Project) -> None:
    project.write(".keys/token", f"{TOKEN}\r\n")


UNCHANGED = {"untouched": ("", _same), "with the ends of lines of Windows": ("\n", _windows)}


@pytest.mark.parametrize("case", UNCHANGED)
def test_a_file_that_the_branch_leaves_alone_is_not_shown(
    case: str, branch: Project, remote: StandIn, policyctl: Policyctl
) -> None:
    end, leave = UNCHANGED[case]
    branch.write(".keys/token", TOKEN + end)
    commit(branch.folder)
    leave(branch)
    ran = policyctl("plan", "--base", "HEAD", "--format", "json")
    assert json.loads(ran.out)["settings"] == []
    assert {seen.authorization for seen in remote.seen} == {f"Bearer {TOKEN}"}


def test_a_file_that_no_commit_has_is_the_machine_s_own(
    branch: Project, remote: StandIn, policyctl: Policyctl, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A CI service writes secrets into the checkout, or beside it; a branch has no hand in these."""
    beside = tmp_path_factory.mktemp("beside") / "token"
    beside.write_text(OTHER, "utf-8")
    for where in ("written", str(beside)):
        remote.seen.clear()
        settings(branch, remote.url, f"file:{where}")
        git(branch.folder, "add", "policies/policyctl.yaml")
        git(branch.folder, "commit", "-q", "-m", "x")
        branch.write("written", OTHER)
        ran = policyctl("plan", "--base", "HEAD", "--format", "json")
        assert json.loads(ran.out)["settings"] == []
        assert {seen.authorization for seen in remote.seen} == {f"Bearer {OTHER}"}


def _brought(project: Project) -> None:
    project.write(".missing/token", OTHER)


def _brought_behind_a_link(project: Project) -> None:
    project.write("other/token", OTHER)
    (project.policies / ".missing").symlink_to("other")


def _brought_where_links_of_the_machine_lead(project: Project) -> None:
    project.write("other", OTHER)
    commit(project.folder)
    (project.policies / ".missing").mkdir()
    (project.policies / ".missing" / "token").symlink_to("../other")


@pytest.mark.parametrize("bring", [_brought, _brought_behind_a_link, _brought_where_links_of_the_machine_lead])
def test_a_file_that_the_branch_brings_is_not_sent(
    bring: Callable[[Project], None], branch: Project, remote: StandIn, policyctl: Policyctl
) -> None:
    settings(branch, remote.url, "file:.missing/token")
    commit(branch.folder)
    git(branch.folder, "branch", "-q", "-f", "main")
    bring(branch)
    if bring is not _brought_where_links_of_the_machine_lead:
        commit(branch.folder)
    ran = policyctl("plan", "--base", "main")
    assert (ran.code, ran.out, remote.seen) == (3, "", [])
    assert ran.err.endswith(
        "/policies/.missing/token, which environment prod refers to, is new in this branch; merge that first\n"
    )
    shown = policyctl("plan", "--base", "main", "--remote", "git:main")
    assert (shown.code, "file:.missing/token, whose content this branch changes" in shown.out) == (0, True)


def test_a_link_at_the_base_is_not_followed(branch: Project, remote: StandIn, policyctl: Policyctl) -> None:
    _link(branch)
    commit(branch.folder)
    ran = policyctl("plan", "--base", "HEAD")
    assert (ran.code, ran.out, remote.seen) == (3, "", [])
    assert "is a link at the base, or below one, which is not followed at a revision; merge that first" in ran.err


@pytest.fixture
def authorities(project: Project) -> Path:
    """Two authorities, of which the first has certified the stand-in, as `ca.pem` and `other.pem`."""
    folder = project.folder.parent / f"{project.folder.name}-authorities"
    folder.mkdir()
    shutil.copy(certificates() / "ca.pem", folder)
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    return folder


@pytest.mark.parametrize(("base", "becomes", "code"), [("ca.pem", "other.pem", 0), ("other.pem", "ca.pem", 1)])
def test_the_authorities_are_those_of_the_base(
    base: str,
    becomes: str,
    code: int,
    authorities: Path,
    project: Project,
    policyctl: Policyctl,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that the branch brings would let a machine between the two read the token."""
    monkeypatch.setenv("TOKEN", TOKEN)
    with standing_in(lambda _: Reply(200, []), tls=True) as server:
        project.policy("a")
        settings(project, server.url, "env:TOKEN", ", ca_file: ca.pem")
        shutil.copy(authorities / base, project.policies / "ca.pem")
        commit(project.folder)
        shutil.copy(authorities / becomes, project.policies / "ca.pem")
        commit(project.folder)
        ran = policyctl("plan", "--base", "HEAD^1")
        assert (ran.code, bool(server.seen)) == (code, code == 0)
        if code:
            assert "has a certificate that is not trusted" in ran.err
        shown = policyctl("plan", "--base", "HEAD^1", "--remote", "git:HEAD^1")
        assert "environments.prod.ca_file: ca.pem → ca.pem, whose content this branch changes" in shown.out.replace('"', "")


# What no environment has: receivers of notifications, and connections of the gateway

SHARED = {
    "notify.team.url": "notify: [{name: team, url: 'file:hook'}]\n",
    "notify.team.secret": "notify: [{name: team, url: 'https://hooks.example/', secret: 'file:hook'}]\n",
    "gateway.connections.c1.api_key": "gateway: {connections: {c1: {api_key: 'file:hook'}}}\n",
}


@pytest.mark.parametrize("key", SHARED)
def test_a_changed_file_of_a_setting_of_all_environments_is_shown(key: str, project: Project, policyctl: Policyctl) -> None:
    project.policy("a")
    project.write("policyctl.yaml", f"environments: {{prod: {{remote: local}}, eu: {{remote: local}}}}\n{SHARED[key]}")
    project.write("hook", "https://hooks.example/canary-one")
    commit(project.folder)
    for form in ("text", "markdown", "json"):
        for chosen in (["--env", "prod"], ["--all"]):
            project.write("hook", "https://hooks.example/canary-one")
            assert key not in policyctl("plan", "--base", "HEAD", "--format", form, *chosen).out
            project.write("hook", "https://hooks.example/canary-two")
            ran = policyctl("plan", "--base", "HEAD", "--format", form, *chosen)
            assert (ran.code, ran.out.count("file:hook, whose content this branch changes")) == (0, 1), ran
            assert key in ran.out
            assert "canary" not in ran.out + ran.err


def test_a_changed_file_with_the_key_of_a_model_is_shown(project: Project, policyctl: Policyctl) -> None:
    """The gateway sends what it has, whether models are managed or not; the model's own file may be as it was."""
    project.policy("a", "virtual-model/openai/m")
    key = "provider_config: {api_key: 'file:keys/openai'}"
    project.write("m.yaml", f"spec_version: v1\nkind: model\nname: openai/m\n{key}\n")
    project.write("policyctl.yaml", "environments: {prod: {remote: local}, eu: {remote: local}}\n")
    project.write("keys/openai", "canary-one")
    commit(project.folder)
    for content, shown in (("canary-two", True), ("canary-one", False)):
        project.write("keys/openai", content)
        for chosen in (["--env", "prod"], ["--all"]):
            ran = policyctl("plan", "--base", "HEAD", *chosen)
            assert ran.code == 0, ran
            row = 'models.openai/m.api_key: file:keys/openai → "file:keys/openai, whose content this branch changes"\n'
            assert (row in ran.out) == ("whose content" in ran.out) == shown
            assert "canary" not in ran.out + ran.err


def test_a_watch_of_a_branch_notifies_at_the_address_that_its_commit_has(project: Project, policyctl: Policyctl) -> None:
    with receiving() as hook:
        project.policy("a")
        receiver = "{name: team, url: 'file:hook', secret: 'file:../signs', states: [pending]}"
        project.write("policyctl.yaml", f"environments: {{prod: {{remote: local}}}}\nnotify: [{receiver}]\n")
        project.write("hook", hook.url)
        (project.folder / "signs").write_text("canary", "utf-8")
        commit(project.folder)
        project.write("hook", "https://hooks.example/edited-here")
        ran = policyctl("watch", "--once", "--source", str(project.folder), "--state", "state")
        assert ran.code == 0, ran
        assert [one.names for one in hook.got] == [["prod"]]
        assert hook.got[0].headers["X-Policyctl-Signature"].startswith("v1=")
