"""plan --base: where a branch leads the gateway's traffic, its keys and notifications is on the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from policyctl.cli.plan import FORMS, ONLY_SEVERAL
from tests.conftest import Policyctl, Project
from tests.examples import crossed
from tests.git_repo import commit, git

MODEL = 'spec_version: v1\nkind: model\nname: openai/m\nprovider_config: {custom_host: "HOST", api_key: "env:OPENAI_API_KEY"}\n'
HOST, ELSEWHERE = "https://api.openai.com/v1", "https://evil.example/v1"
MOVED = f"models.openai/m.custom_host: {HOST} → {ELSEWHERE}"
TITLE = "Where the gateway sends requests, or its keys, change in files of models; the old ones apply until the merge:\n"
CONFIG = "manage: [MANAGED]\nenvironments: {dev: {vars: {host: 'dev'}}, prod: {vars: {host: 'prod'}}}\n"
# Where models are managed, what such a test needs is a problem, or has no room, by itself.
UNMANAGED = pytest.mark.parametrize("branch", ["policies"], indirect=True)


@pytest.fixture(params=["policies", "policies, models"])
def branch(request: pytest.FixtureRequest, project: Project) -> Project:
    """A branch of a repository with a model and a policy."""
    project.write("policyctl.yaml", CONFIG.replace("MANAGED", request.param))
    project.write("m.yaml", MODEL.replace("HOST", HOST))
    project.policy("chat", "virtual-model/openai/m")
    commit(project.folder)
    git(project.folder, "checkout", "-q", "-b", "change")
    return project


def shown(policyctl: Policyctl, *args: str) -> str:
    ran = policyctl("plan", "--base", "main", *args)
    assert ran.code == 0, ran.err
    return ran.out


def test_a_model_that_is_led_to_another_host_is_a_line_of_its_own(branch: Project, policyctl: Policyctl) -> None:
    branch.write("m.yaml", MODEL.replace("HOST", ELSEWHERE))
    assert shown(policyctl, "--env", "prod").startswith(f"{TITLE}    {MOVED}\n\nenvironment prod")
    assert f"{TITLE}    {MOVED}\n" in shown(policyctl, "--all")


@pytest.mark.parametrize(
    ("form", "which"), crossed([one for one in FORMS if one not in ONLY_SEVERAL], [("--env", "prod"), ("--all",)])
)
@pytest.mark.alike
def test_it_is_shown_in_every_format(form: str, which: tuple[str, ...], branch: Project, policyctl: Policyctl) -> None:
    branch.write("m.yaml", MODEL.replace("HOST", ELSEWHERE))
    page = shown(policyctl, *which, "--format", form)
    assert "openai/m.custom_host" in page
    assert "evil.example/v1" in page


@pytest.mark.parametrize(
    ("written", "row"),
    [
        (MODEL.replace("env:OPENAI_API_KEY", "env:WXO_API_KEY"), "api_key: env:OPENAI_API_KEY → env:WXO_API_KEY"),
        (MODEL.replace(', api_key: "env:OPENAI_API_KEY"', ""), "api_key: env:OPENAI_API_KEY → absent"),
        (f"{MODEL}app_id: gateway\n", "app_id: absent → gateway"),
        (f"{MODEL}connection: gateway\n", "app_id: absent → gateway"),
        (MODEL.replace("custom_host", "customHost").replace("HOST", ELSEWHERE), f"custom_host: {HOST} → {ELSEWHERE}"),
    ],
)
@pytest.mark.alike
def test_so_is_its_key_and_its_connection(written: str, row: str, branch: Project, policyctl: Policyctl) -> None:
    branch.write("m.yaml", written.replace("HOST", HOST))
    assert f"    models.openai/m.{row}\n" in shown(policyctl, "--env", "prod")


def test_a_new_model_is_shown_and_one_that_goes_too(branch: Project, policyctl: Policyctl) -> None:
    branch.write("m.yaml", MODEL.replace("openai/m", "openai/n").replace("HOST", ELSEWHERE))
    branch.policy("chat", "virtual-model/openai/n")
    found = shown(policyctl, "--env", "prod")
    assert f"models.openai/n.custom_host: absent → {ELSEWHERE}" in found
    assert f"models.openai/m.custom_host: {HOST} → absent" in found


def test_what_moves_nothing_is_not_shown(branch: Project, policyctl: Policyctl) -> None:
    (branch.policies / "m.yaml").rename(branch.policies / "other.yaml")
    branch.policy("chat", "virtual-model/openai/m", retry="{attempts: 2}")
    assert "models." not in shown(policyctl, "--env", "prod")


def test_a_variable_that_leads_it_elsewhere_counts_and_its_environment_is_named(branch: Project, policyctl: Policyctl) -> None:
    branch.write("m.yaml", MODEL.replace("HOST", "https://{{ host }}.example/v1"))
    commit(branch.folder)
    git(branch.folder, "branch", "-f", "main")
    config = (branch.policies / "policyctl.yaml").read_text("utf-8")
    branch.write("policyctl.yaml", config.replace("host: 'prod'", "host: 'evil'"))
    row = "models.openai/m.custom_host in prod: https://prod.example/v1 → https://evil.example/v1"
    assert row in shown(policyctl, "--env", "prod")
    assert row in shown(policyctl, "--all")


SIX = ("d1", "d2", "d3", "d4", "gw", "prod")
WHICH = {
    "d1, d4, prod, gw": "all but d2, d3",
    "d1, d2, d3, d4": "d1, d2, d3, d4",
    "d1, d2, d3, d4, gw": "all but prod",
    "d1, d2, prod": "d1, d2, prod",
}


@pytest.mark.parametrize("led", WHICH)
def test_it_shows_which_of_many_environments_are_led_elsewhere(led: str, branch: Project, policyctl: Policyctl) -> None:
    def environments(*evil: str) -> str:
        hosts = {name: "evil" if name in evil else "good" for name in SIX}
        return "".join(f"  {name}: {{vars: {{host: {host}}}}}\n" for name, host in hosts.items())

    branch.write("m.yaml", MODEL.replace("HOST", "https://{{ host }}.example/v1"))
    branch.write("policyctl.yaml", f"environments:\n{environments()}")
    commit(branch.folder)
    git(branch.folder, "branch", "-f", "main")
    branch.write("policyctl.yaml", f"environments:\n{environments(*led.split(', '))}")
    row = f"models.openai/m.custom_host in {WHICH[led]}: https://good.example/v1 → https://evil.example/v1"
    assert row in shown(policyctl, "--env", "prod")


ENVIRONMENTS = """\
environments:
  prod: {vars: {host: prod}}
  gw: {vars: {host: gw}, include: [m.yaml, chat.yaml]}
"""
KEY = "env:OPENAI_API_KEY"
LED_ELSEWHERE: dict[str, tuple[str, list[str]]] = {
    "a variable": (
        ENVIRONMENTS.replace("host: gw", "host: evil"),
        ["custom_host in gw: https://gw.example/v1 → https://evil.example/v1"],
    ),
    "a file more": (
        ENVIRONMENTS.replace("[m.yaml, ", "[m.yaml, more.yaml, "),
        ['custom_host in gw: https://gw.example/v1 → "https://gw.example/v1, https://more.example/v1"'],
    ),
    "a file less": (
        ENVIRONMENTS.replace("[m.yaml, ", "["),
        [f"api_key in gw: {KEY} → absent", "custom_host in gw: https://gw.example/v1 → absent"],
    ),
    "another name": (
        ENVIRONMENTS.replace("gw: {vars: {host: gw}", "new: {vars: {host: evil}"),
        [f"api_key in new: absent → {KEY}", "custom_host in new: absent → https://evil.example/v1"],
    ),
    "a new one": (
        f"{ENVIRONMENTS}  new: {{vars: {{host: evil}}, include: [m.yaml, chat.yaml]}}\n",
        [f"api_key in new: absent → {KEY}", "custom_host in new: absent → https://evil.example/v1"],
    ),
    "a new one that leads where another one does": (
        f"{ENVIRONMENTS}  new: {{vars: {{host: gw}}, include: [m.yaml, chat.yaml]}}\n",
        [],
    ),
}


@UNMANAGED
@pytest.mark.parametrize("case", LED_ELSEWHERE)
@pytest.mark.alike
def test_where_an_environment_leads_that_is_not_planned_is_shown(case: str, branch: Project, policyctl: Policyctl) -> None:
    """A gateway may run as any of them, and a merge of this page is for all."""
    settings, rows = LED_ELSEWHERE[case]
    branch.write("policyctl.yaml", ENVIRONMENTS)
    branch.write("m.yaml", MODEL.replace("HOST", "https://{{ host }}.example/v1"))
    branch.write("more.yaml", MODEL.replace("HOST", "https://more.example/v1"))
    commit(branch.folder)
    git(branch.folder, "branch", "-f", "main")
    branch.write("policyctl.yaml", settings)
    for which in (("--env", "prod"), ("--all",)):
        page = shown(policyctl, *which)
        found = [line.strip() for line in page.splitlines() if line.startswith("    models.")]
        assert found == [f"models.openai/m.{one}" for one in rows]


@UNMANAGED
def test_a_second_declaration_hides_nothing(branch: Project, policyctl: Policyctl) -> None:
    branch.write("a.yaml", MODEL.replace("HOST", ELSEWHERE))
    assert "evil.example" in shown(policyctl, "--env", "prod")


@UNMANAGED
def test_no_secret_of_an_address_is_shown_but_that_it_changed(branch: Project, policyctl: Policyctl) -> None:
    branch.write("m.yaml", MODEL.replace("HOST", "https://user:canary@evil.example/v1?key=canary"))
    found = shown(policyctl, "--env", "prod")
    assert "models.openai/m.custom_host" in found
    assert "canary" not in found


@UNMANAGED
def test_a_change_that_has_no_room_approves_nothing(branch: Project, policyctl: Policyctl) -> None:
    long = f"https://evil.example/{'x' * 180}"
    branch.write("more.yaml", "---\n".join(MODEL.replace("m\n", f"m{n}\n").replace("HOST", long) for n in range(200)))
    page = shown(policyctl, "--env", "prod", "--format", "markdown")
    assert "of the safety settings are not on this page, so merging it approves no plan" in page
    assert "approves none" in page.partition("\n### ")[0]


def test_files_of_the_base_that_cannot_be_read_are_one_line(branch: Project, policyctl: Policyctl) -> None:
    (branch.policies / "chat.yaml").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 3\n", "utf-8"
    )
    commit(branch.folder)
    git(branch.folder, "branch", "-f", "main")
    branch.policy("chat", "virtual-model/openai/m")
    found = shown(policyctl, "--env", "prod")
    assert "where the gateway sends requests may change: the files of the base cannot be read" in found


def test_an_environment_whose_model_is_led_elsewhere_is_affected(branch: Project, policyctl: Policyctl) -> None:
    branch.write("m.yaml", MODEL.replace("OPENAI_API_KEY", "WXO_API_KEY").replace("HOST", HOST))
    assert "api_key" in shown(policyctl, "--affected", "main")


# In policyctl.yaml

GATEWAY = "gateway: {connections: {c1: {api_key: 'env:WXO_API_KEY', custom_host: 'https://evil.example/v1'}}}\n"
NOTIFY = "notify: [{name: team, url: 'https://hooks.example/T/canary', secret: 'env:HOOK', states: [failed]}]\n"


def test_connections_of_the_gateway_are_settings(branch: Project, policyctl: Policyctl) -> None:
    config = (branch.policies / "policyctl.yaml").read_text("utf-8")
    branch.write("policyctl.yaml", config + GATEWAY)
    rows = (
        "    gateway.connections.c1.api_key: absent → env:WXO_API_KEY\n"
        "    gateway.connections.c1.custom_host: absent → https://evil.example/v1\n"
    )
    assert rows in shown(policyctl, "--env", "prod")
    assert rows in shown(policyctl, "--all")
    branch.write("m.yaml", MODEL.replace("HOST", ELSEWHERE))
    found = shown(policyctl, "--env", "prod")
    assert found.startswith(
        "Safety settings, and where the gateway sends requests, change; the old ones apply until the merge:\n"
    )


def test_receivers_of_notifications_are_settings_and_no_address_is_given_away(branch: Project, policyctl: Policyctl) -> None:
    config = (branch.policies / "policyctl.yaml").read_text("utf-8")
    branch.write("policyctl.yaml", config + NOTIFY)
    found = json.loads(shown(policyctl, "--env", "prod", "--format", "json"))["settings"]
    rows = {one["path"]: one["after"] for one in found}
    address = rows.pop("notify.team.url")
    assert address.startswith("https://hooks.example/*** (sha256:")
    assert rows == {"notify.team.form": "json", "notify.team.secret": "env:HOOK", "notify.team.states": ["failed"]}
    commit(branch.folder)
    git(branch.folder, "branch", "-f", "main")
    branch.write("policyctl.yaml", config + NOTIFY.replace("canary", "other"))
    Path("page.md").write_text(shown(policyctl, "--env", "prod", "--format", "markdown"), "utf-8")
    page = Path("page.md").read_text("utf-8")
    assert "notify.team.url" in page
    assert "canary" not in page
