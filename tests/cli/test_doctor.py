"""policyctl doctor: what would stop a plan, against real services, dead ports and embedded remotes."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from policyctl.cli.doctor import CHECKS
from policyctl.load.urls import postgres_identity as identity
from policyctl.reconcile.queue import JobQueue
from policyctl.report import schema_text
from tests.conftest import Policyctl, Project
from tests.git_repo import commit
from tests.postgres import PostgresServer
from tests.remote.fake_server import Reply, Seen, Silence, certificates, standing_in
from tests.server.serving import ServedHere, serving_here
from tests.sqlite_rows import put, row

PASSWORD = "hunter2-hunter2-hunter2"
SERVICE = ("secrets", "dns", "connection", "tls", "login", "list", "models", "clock", "rate limit")
AFTER_LOGIN = SERVICE[5:]


@pytest.fixture
def directory(project: Project) -> Project:
    project.write("anygem.yaml")
    commit(project.folder)
    return project


@pytest.fixture
def served(directory: Project) -> Iterator[ServedHere]:
    (directory.folder / "serve").mkdir()
    with serving_here(directory.folder / "serve" / "served.db", secret=PASSWORD) as one:
        yield one


SCHEMA = json.loads(schema_text("doctor"))


def test_the_schema_names_every_check_in_order() -> None:
    assert SCHEMA["properties"]["checks"]["items"]["properties"]["name"]["enum"] == [check.name for check in CHECKS]


def configure(project: Project, url: str, auth: str = "", more: str = "") -> None:
    login = f", auth: {{{auth}}}" if auth else ""
    project.write("policyctl.yaml", f'environments: {{prod: {{remote: "{url}"{login}{more}}}}}\n')


def found(policyctl: Policyctl, *args: str, code: int = 0) -> dict[str, tuple[str, str]]:
    """Status and detail of each check by its name."""
    ran = policyctl("doctor", "--format", "json", *args)
    assert (ran.code, ran.err) == (code, "")
    data = json.loads(ran.out)
    Draft202012Validator(SCHEMA).validate(data)
    assert PASSWORD not in ran.out
    return {one["name"]: (one["status"], one["detail"]) for one in data["checks"]}


def test_a_service_that_works_is_ok_from_end_to_end(
    directory: Project, served: ServedHere, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WXO_PASSWORD", PASSWORD)
    configure(directory, served.url, 'type: local, username: me, password: "env:WXO_PASSWORD"')
    assert policyctl("apply", "--yes").code == 0
    checks = found(policyctl)
    expected = ["policyctl", "git", "configuration", "url", "files", *SERVICE]
    assert [*checks] == expected
    bad = {name: one for name, one in checks.items() if one[0] != "ok"}
    assert {name: status for name, (status, _) in bad.items() if name not in ("clock", "rate limit", "models")} == {}
    assert checks["secrets"] == ("ok", "set: env:WXO_PASSWORD")
    assert checks["list"][1].startswith("1 live policy in ")
    assert checks["login"][1].startswith("local in ")


def test_a_wrong_password_stops_at_the_login(
    directory: Project, served: ServedHere, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WXO_PASSWORD", "another-password")
    configure(directory, served.url, 'type: local, username: me, password: "env:WXO_PASSWORD"')
    checks = found(policyctl, code=1)
    status, detail = checks["login"]
    assert (status, "refused the login" in detail, "check auth in policyctl.yaml" in detail) == ("failed", True, True)
    assert "another-password" not in str(checks)
    assert {checks[name][0] for name in AFTER_LOGIN} == {"not checked"}
    assert checks["list"][1] == "needs login"


def test_a_wrong_token_stops_at_the_list(
    directory: Project, served: ServedHere, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent as it is, so only the list shows whether it is accepted."""
    monkeypatch.setenv("TOKEN", "another-token-that-is-wrong")
    configure(directory, served.url, 'token: "env:TOKEN"')
    checks = found(policyctl, code=1)
    assert checks["login"][0] == "ok"
    assert (checks["list"][0], "check auth" in checks["list"][1]) == ("failed", True)
    assert checks["models"] == ("not checked", "needs list")


def test_a_variable_that_is_not_set_stops_the_login_and_not_the_way_to_the_service(
    directory: Project, served: ServedHere, policyctl: Policyctl
) -> None:
    configure(directory, served.url, 'type: local, username: me, password: "env:UNSET_PASSWORD"')
    checks = found(policyctl, code=1)
    assert checks["secrets"] == ("failed", "auth.password refers to env:UNSET_PASSWORD, which is not set or empty")
    assert {checks[name][0] for name in ("dns", "connection", "tls")} == {"ok"}
    assert checks["login"] == ("not checked", "needs secrets")


def test_a_secret_file_that_is_missing_is_named(directory: Project, served: ServedHere, policyctl: Policyctl) -> None:
    configure(directory, served.url, 'token: "file:no-such-file"')
    assert found(policyctl, code=1)["secrets"] == (
        "failed",
        "auth.token refers to file:no-such-file, which cannot be read: No such file or directory",
    )


def test_a_dead_port_stops_at_the_connection(directory: Project, policyctl: Policyctl) -> None:
    with socket.socket() as taken:  # bound and not listening, so that nothing else takes the port
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        checks = found(policyctl, "--remote", f"http://127.0.0.1:{port}", code=1)
    status, detail = checks["connection"]
    assert (status, detail.startswith(f"127.0.0.1:{port} cannot be reached: Connection refused; ")) == ("failed", True)
    assert checks["dns"] == ("ok", "127.0.0.1 is 127.0.0.1")
    assert {checks[name][0] for name in SERVICE[3:]} == {"not checked"}


def test_a_host_without_an_address_stops_at_its_name(directory: Project, policyctl: Policyctl) -> None:
    checks = found(policyctl, "--remote", "https://nowhere.invalid/x", code=1)
    assert (checks["dns"][0], checks["dns"][1].startswith("nowhere.invalid cannot be found: ")) == ("failed", True)
    assert (checks["connection"][0], checks["login"][0]) == ("not checked", "not checked")


@pytest.mark.parametrize("trusted", [True, False])
def test_a_certificate_is_checked_with_the_authorities_of_the_environment(
    trusted: bool, directory: Project, policyctl: Policyctl
) -> None:
    with standing_in(lambda _: Reply(200, []), tls=True) as server:
        configure(directory, server.url, more=f', ca_file: "{certificates() / "ca.pem"}"' if trusted else "")
        checks = found(policyctl, code=0 if trusted else 1)
    status, detail = checks["tls"]
    assert (status == "ok") == trusted
    assert ("is not trusted" in detail and "set ca_file to its authority" in detail) != trusted
    assert checks["list"][0] == ("ok" if trusted else "not checked")


def test_a_port_without_tls_is_recognised(directory: Project, policyctl: Policyctl) -> None:
    with standing_in(lambda _: Reply(200, [])) as server:
        checks = found(policyctl, "--remote", server.url.replace("http:", "https:"), code=1)
    assert (checks["tls"][0], "does not answer with TLS" in checks["tls"][1]) == ("failed", True)


ANSWERS: dict[str, tuple[Reply | Silence, str, str, str]] = {
    "an error": (Reply(500), "list", "failed", "500"),
    "too many requests": (Reply(429, headers={"Retry-After": "30"}), "list", "failed", "asks to wait 30 s"),
    "the wrong URL": (Reply(404), "list", "failed", "the URL of the remote is probably wrong"),
    "no list": (Reply(200, {}), "list", "failed", "without a list of policies"),
    "a reset": (Silence.RESET, "list", "failed", "closed the connection"),
    "no models": (Reply(200, []), "models", "warning", "targets are not checked"),
    "an unreadable row": (Reply(200, [{"id": "1"}]), "list", "warning", "1 row cannot be used"),
    "few requests left": (Reply(200, [], {"X-RateLimit-Remaining": "3"}), "rate limit", "warning", "3 requests left"),
    "many requests left": (Reply(200, [], {"RateLimit-Remaining": "300"}), "rate limit", "ok", "300 requests left"),
    "no rate limit": (Reply(200, []), "rate limit", "not checked", "does not send what is left"),
    "the same time": (Reply(200, []), "clock", "ok", "agrees with"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_what_a_service_answers_is_judged(case: str, directory: Project, policyctl: Policyctl) -> None:
    """Each once: what would be tried again by a plan is not waited for."""
    reply, name, status, text = ANSWERS[case]
    with standing_in(lambda _: reply) as server:
        checks = found(policyctl, "--remote", server.url, code=1 if status == "failed" else 0)
        assert len(server.asked()) <= 2
    assert (checks[name][0], text in checks[name][1]) == (status, True)


@pytest.mark.parametrize(("seconds", "text"), [(-3600, "s ahead of that of 127.0.0.1"), (3600, "s behind that of 127.0.0.1")])
def test_a_wrong_clock_is_a_warning(seconds: int, text: str, directory: Project, policyctl: Policyctl) -> None:
    def answer(_: Seen) -> Reply:
        return Reply(200, [], {"Date": formatdate(time.time() + seconds, usegmt=True)})

    with standing_in(answer) as server:
        status, detail = found(policyctl, "--remote", server.url)["clock"]
    assert (status, text in detail) == ("warning", True)


def test_an_embedded_remote_has_no_network(directory: Project, policyctl: Policyctl) -> None:
    checks = found(policyctl, "--remote", "sqlite:///none.db")
    assert [*checks] == ["policyctl", "git", "configuration", "url", "files", "list", "models"]
    assert checks["list"][1].startswith("0 live policies in ")
    assert not Path("none.db").exists()
    put([row("a", id="1"), row("a", id="2", canonical="a")], directory.folder / "twins.db")
    checks = found(policyctl, "--remote", "sqlite:///twins.db")
    assert (checks["list"][0], "cannot be used" in checks["list"][1]) == ("warning", True)


def test_a_revision_is_a_remote_too(directory: Project, policyctl: Policyctl) -> None:
    assert found(policyctl, "--remote", "git:HEAD")["list"][1].startswith("1 live policy in ")


CONFIGURATIONS: dict[str, tuple[str, tuple[str, ...], str, str]] = {
    "broken": ("environments: [\n", (), "configuration", "policies/policyctl.yaml:"),
    "an unknown environment": ("environments: {dev: {}}\n", ("--env", "prod"), "configuration", "unknown environment prod"),
    "an unknown kind of remote": ("", ("--remote", "ftp://x"), "url", "must be local, sqlite:///path"),
    "a password in the remote": ("", ("--remote", f"https://me:{PASSWORD}@x.example"), "url", "user or password"),
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_what_is_wrong_with_the_configuration_leaves_the_rest_unchecked(
    case: str, directory: Project, policyctl: Policyctl
) -> None:
    config, args, name, text = CONFIGURATIONS[case]
    if config:
        directory.write("policyctl.yaml", config)
    checks = found(policyctl, *args, code=1)
    assert (checks[name][0], text in checks[name][1]) == ("failed", True)
    assert {checks[one][0] for one in ("files", "list", "models")} == {"not checked"}
    assert {checks[one][0] for one in ("policyctl", "git")} == {"ok"}


def test_files_with_errors_would_stop_a_plan(directory: Project, policyctl: Policyctl) -> None:
    directory.write("a.yaml", "name: [\n")
    directory.write("b.yaml", "name: [\n")
    status, detail = found(policyctl, code=1)["files"]
    assert (status, detail.startswith("policies/a.yaml:"), "more, which policyctl validate shows" in detail) == (
        "failed",
        True,
        True,
    )


def test_a_directory_outside_git_is_a_warning(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    assert found(policyctl)["git"] == ("warning", "policies is not in a git repository; git init makes one")


def test_auth_that_goes_to_another_origin_is_not_sent(directory: Project, policyctl: Policyctl) -> None:
    configure(directory, "https://one.example", 'token: "env:UNSET"')
    with standing_in(lambda _: Reply(200, [])) as server:
        checks = found(policyctl, "--remote", server.url)
    assert (checks["url"][0], "auth is not sent there" in checks["url"][1]) == ("warning", True)
    assert checks["secrets"] == ("ok", "none is needed")


def test_text_has_a_line_for_each_check(directory: Project, policyctl: Policyctl) -> None:
    ran = policyctl("doctor", "--color", "always")
    lines = ran.out.splitlines()
    assert (ran.code, ran.err, len(lines)) == (0, "", 7)
    assert lines[0].startswith("\x1b[32mok         \x1b[0m  policyctl      ")


def test_behind_a_proxy_name_port_and_certificate_are_left_to_it(
    directory: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    with standing_in(lambda _: Reply(200, [])) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("://", f"://me:{PASSWORD}@"))
        checks = found(policyctl, "--remote", "http://nowhere.invalid/x")
    left = ("ok", f"left to the proxy {proxy.url.removeprefix('http://')}")
    assert (checks["dns"], checks["connection"], checks["list"][0]) == (left, left, "ok")
    assert checks["tls"] == ("warning", "not used; take an https:// URL")


def test_a_suspended_environment_is_a_warning(directory: Project, policyctl: Policyctl) -> None:
    directory.write("policyctl.yaml", "environments: {dev: {suspend: {reason: a freeze}}}\n")
    status, detail = found(policyctl)["configuration"]
    assert (status, "suspended" in detail, "a freeze" in detail) == ("warning", True, True)


def test_the_queue_and_the_audit_record_that_are_named_are_checked(
    directory: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch, database: str, postgres: PostgresServer
) -> None:
    assert "queue" not in found(policyctl)
    name = database.rpartition("/")[2]
    for variable in ("POLICYCTL_DATABASE", "POLICYCTL_AUDIT"):
        monkeypatch.setenv(variable, database)
    before = found(policyctl)
    assert before["queue"] == ("warning", f"{identity(database)}, which has no queue yet; start policyctl worker")
    assert before["audit"] == ("ok", f"the audit table in {identity(database)} is made by the first apply")
    assert postgres.execute("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'policyctl%'", name) == [(0,)]
    JobQueue(database)
    assert policyctl("apply", "--yes").code == 0
    after = found(policyctl)
    assert after["queue"] == ("warning", f"{identity(database)}, where no worker is at work; start policyctl worker")
    assert after["audit"] == ("ok", f"the audit table in {identity(database)}")
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")
    gone = found(policyctl, code=1)
    assert {gone[one][0] for one in ("queue", "audit")} == {"failed"}
