"""plan and apply against a remote over http, as a person runs them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from policyctl.cli.main import run
from tests.remote.fake_server import Reply, Seen, Silence, StandIn, certificates, standing_in
from tests.remote.fake_tenant import Tenant
from tests.remote.http_helpers import row
from tests.server.serving import ServedHere, serving_here

POLICY = """\
spec_version: v1
kind: model
name: {name}
policy:
  strategy: {{mode: single}}
  targets:
    - model_name: {model}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A policy directory with one policy."""
    (tmp_path / "policies").mkdir()
    write(tmp_path / "policies", "one", "virtual-model/x/a")
    return tmp_path / "policies"


def write(directory: Path, name: str, model: str) -> None:
    (directory / f"{name}.yaml").write_text(POLICY.format(name=name, model=model))


def configure(directory: Path, **environments: dict[str, object]) -> None:
    """Write policyctl.yaml; JSON is YAML."""
    (directory / "policyctl.yaml").write_text(json.dumps({"environments": environments, "scope": ["*"]}))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedHere]:
    """A server that wants its secret."""
    database = tmp_path_factory.mktemp("commands") / "served.db"
    with serving_here(database, secret="s3cret") as running:
        yield running


@pytest.mark.parametrize(
    "auth",
    [
        {"type": "ibm_iam", "api_key": "env:KEY"},
        {"type": "mcsp", "api_key": "env:KEY"},
        {"type": "mcsp_v1", "api_key": "env:KEY"},
        {"type": "mcsp_v2", "api_key": "env:KEY"},
        {"type": "cpd", "username": "me", "password": "env:KEY"},
        {"type": "cpd", "username": "me", "api_key": "env:KEY"},
        {"type": "zen_api_key", "username": "me", "api_key": "env:KEY"},
        {"type": "local", "username": "me", "password": "env:KEY"},
        {"type": "bearer", "token": "file:key"},
        {"token": "env:KEY"},
    ],
    ids=lambda auth: " ".join(auth.values()),
)
@pytest.mark.alike
def test_apply_then_plan_is_empty_through_every_login_of_our_own_server(
    auth: dict[str, str],
    directory: Path,
    served: ServedHere,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = {"url": served.url} if auth.get("type", "").startswith(("ibm", "mcsp")) else {}
    configure(directory, prod={"remote": served.url, "auth": {**auth, **url}})
    (directory / "key").write_text("s3cret\n")
    monkeypatch.setenv("KEY", "s3cret")
    here = ["--dir", str(directory)]
    assert run(["plan", *here]) == 0
    assert run(["apply", "--yes", *here]) == 0, capsys.readouterr().err
    assert run(["plan", "--detailed-exitcode", *here]) == 0
    write(directory, "two", "virtual-model/x/b")
    assert run(["plan", "--detailed-exitcode", *here]) == 2
    assert run(["apply", "--yes", *here]) == 0
    (directory / "two.yaml").unlink()
    assert run(["apply", "--yes", *here]) == 0
    assert run(["plan", "--detailed-exitcode", *here]) == 0
    written = capsys.readouterr()
    assert "s3cret" not in written.out + written.err


@pytest.fixture
def other() -> Iterator[StandIn]:
    """Somebody else's server, which echoes what it is sent."""

    def handler(seen: Seen) -> Reply | Silence:
        return Reply(401, {"detail": f"you sent {seen.headers}"})

    with standing_in(handler) as server:
        yield server


def test_a_remote_of_another_origin_is_sent_no_auth(
    directory: Path, other: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(directory, prod={"remote": "https://prod.example.com/instances/x", "auth": {"token": "env:KEY"}})
    monkeypatch.setenv("KEY", "t0ps3cret")
    assert run(["plan", "--dir", str(directory), "--remote", other.url]) == 1
    assert [seen.authorization for seen in other.seen] == [None]
    told = capsys.readouterr().err
    assert "check auth in policyctl.yaml (it only goes to the origin of the environment's own remote)" in told
    assert "t0ps3cret" not in told


def test_another_path_of_the_same_origin_is_sent_the_auth_and_an_echo_is_hidden(
    directory: Path, other: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(directory, prod={"remote": f"{other.url}/instances/x", "auth": {"token": "env:KEY"}})
    monkeypatch.setenv("KEY", "t0ps3cret")
    assert run(["plan", "--dir", str(directory), "--remote", f"{other.url}/instances/y"]) == 1
    assert [seen.authorization for seen in other.seen] == ["Bearer t0ps3cret"]
    told = capsys.readouterr()
    assert "t0ps3cret" not in told.out + told.err
    assert "***" in told.err


def test_an_unknown_model_is_a_problem_at_its_place(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(directory, "two", "virtual-model/x/aa")
    write(directory, "three", "two")
    with standing_in(Tenant(models=["virtual-model/x/a"])) as server:
        configure(directory, prod={"remote": server.url})
        assert run(["plan", "--dir", str(directory)]) == 1
        place = f'{directory / "two.yaml"}:7:19: the remote knows no model "virtual-model/x/aa"'
        assert f"{place} (did you mean virtual-model/x/a?) [P204]" in capsys.readouterr().err
        assert run(["apply", "--yes", "--dir", str(directory)]) == 1
        assert server.asked("POST") == []


def test_a_model_that_the_directory_declares_is_known(directory: Path) -> None:
    (directory / "model.yaml").write_text("spec_version: v1\nkind: model\nname: virtual-model/x/a\nconfig: {}\n")
    with standing_in(Tenant(models=["virtual-model/x/other"])) as server:
        configure(directory, prod={"remote": server.url})
        assert run(["apply", "--yes", "--dir", str(directory)]) == 0


def test_a_policy_that_is_only_live_may_be_targeted(directory: Path) -> None:
    write(directory, "one", "elsewhere")
    tenant = Tenant(models=["virtual-model/x/a"])
    tenant.put(row("virtual-policy/elsewhere"))
    with standing_in(tenant) as server:
        configure(directory, prod={"remote": server.url, "scope": ["one"]})
        assert run(["apply", "--yes", "--dir", str(directory)]) == 0


def test_a_policy_that_does_not_change_is_not_checked(directory: Path) -> None:
    tenant = Tenant(models=["virtual-model/x/other"])
    tenant.put(row("virtual-policy/one", "virtual-model/x/a"))
    with standing_in(tenant) as server:
        configure(directory, prod={"remote": server.url})
        assert run(["plan", "--detailed-exitcode", "--dir", str(directory)]) == 0
        assert "GET /v1/models/list" not in server.asked()
        write(directory, "two", "virtual-model/x/other")
        assert run(["plan", "--detailed-exitcode", "--dir", str(directory)]) == 2


def test_a_remote_that_knows_no_models_reports_once_that_nothing_was_checked(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(directory, "two", "virtual-model/x/b")
    with standing_in(Tenant()) as server:
        configure(directory, prod={"remote": server.url})
        assert run(["plan", "--dir", str(directory)]) == 0
    assert capsys.readouterr().out.count("the remote knows no models") == 1


def test_a_saved_plan_is_for_one_remote(directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = str(tmp_path / "plan.json")
    tenant = Tenant()
    with standing_in(tenant) as server, standing_in(Tenant()) as another:
        configure(directory, prod={"remote": server.url})
        assert run(["plan", "--out", saved, "--dir", str(directory)]) == 0
        assert run(["apply", saved, "--yes", "--dir", str(directory), "--remote", another.url]) == 1
        assert f"is a plan for {server.url}, not for {another.url}" in capsys.readouterr().err
        assert run(["apply", saved, "--yes", "--dir", str(directory)]) == 0
    assert len(tenant.rows) == 1


def test_twins_block_and_are_left_alone_and_an_unreadable_row_is_noted(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant = Tenant()
    tenant.put(
        {**row("one"), "id": "1"}, {**row("virtual-policy/one"), "id": "2"}, {"id": "3", "name": "broken", "policy": None}
    )
    before = dict(tenant.rows)
    with standing_in(tenant) as server:
        configure(directory, prod={"remote": server.url})
        assert run(["apply", "--yes", "--dir", str(directory)]) == 5
    assert tenant.rows == before
    told = capsys.readouterr()
    assert "ids 1, 2" in told.out
    assert "the row has no policy" in told.out


def test_a_row_that_no_file_may_be_is_repaired(directory: Path) -> None:
    tenant = Tenant()
    odd = {"targets": [{"model_name": "virtual-model/x/a", "weight": 250}, "nonsense"], "retry": {"on_status_codes": [99999]}}
    tenant.put({"id": "1", "name": "one", "policy": odd})
    with standing_in(tenant) as server:
        configure(directory, prod={"remote": server.url})
        assert run(["apply", "--yes", "--dir", str(directory)]) == 0
        assert run(["plan", "--detailed-exitcode", "--dir", str(directory)]) == 0
    assert tenant.rows["1"]["name"] == "one"


def test_without_a_written_scope_nothing_is_removed_over_http(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tenant = Tenant()
    tenant.put(row("virtual-policy/one", "virtual-model/x/a"), row("virtual-policy/theirs"))
    with standing_in(tenant) as server:
        assert run(["plan", "--detailed-exitcode", "--dir", str(directory), "--remote", server.url]) == 0
    assert "1 unmanaged" in capsys.readouterr().out


def test_a_ca_file_is_found_beside_the_configuration(directory: Path) -> None:
    (directory / "ca.pem").write_bytes((certificates() / "ca.pem").read_bytes())
    with standing_in(lambda _: Reply(200, []), tls=True) as server:
        configure(directory, prod={"remote": server.url, "ca_file": "ca.pem"})
        assert run(["plan", "--dir", str(directory)]) == 0


def test_plan_writes_nothing(directory: Path) -> None:
    with standing_in(Tenant()) as server:
        configure(directory, prod={"remote": server.url})
        assert run(["plan", "--dir", str(directory)]) == 0
        assert {seen.method for seen in server.seen} == {"GET"}


def test_a_refused_login_ends_apply_with_one_line_and_writes_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KEY", "t0ps3cret")
    with standing_in(lambda seen: Reply(400, {"errorMessage": f"no such key {seen.form['apikey']}"})) as server:
        configure(directory, prod={"remote": server.url, "auth": {"type": "ibm_iam", "api_key": "env:KEY", "url": server.url}})
        assert run(["apply", "--yes", "--dir", str(directory)]) == 1
        assert server.asked() == ["POST /identity/token"]
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "no such key ***" in told


@pytest.mark.parametrize("status", [401, 403])
def test_a_remote_that_wants_a_login_where_none_is_configured(
    directory: Path, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with standing_in(lambda _: Reply(status)) as server:
        configure(directory, prod={"remote": server.url})
        assert run(["--dir", str(directory), "plan"]) == 1
    assert "; auth is not configured for environment prod; add it in policyctl.yaml" in capfd.readouterr().err


def test_verbose_shows_what_was_asked_of_whom_and_when(directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with standing_in(lambda _: Reply(200, []), tls=True) as server:
        configure(directory, prod={"remote": server.url})
        assert run(["--dir", str(directory), "plan"]) == 1
        (error,) = capfd.readouterr().err.splitlines()
        assert run(["--dir", str(directory), "plan", "-v"]) == 1
        assert [re.sub(r"\d+\.\d s", "0 s", line) for line in capfd.readouterr().err.splitlines()] == [
            error,
            f"  GET {server.url}/v1/orchestrate/model_policy",
            "  no proxy",
            f"  attempt 1, 0 s to 0 s: {error.removeprefix('error: ')}",
        ]


def test_rows_that_are_not_objects_are_one_note(directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with standing_in(lambda seen: Reply(404 if "models" in seen.path else 200, [0] * 1000)) as server:
        configure(directory, prod={"remote": server.url})
        assert run(["--dir", str(directory), "plan"]) == 0
    notes = [line for line in capfd.readouterr().out.splitlines() if "left alone" in line]
    assert notes == ["note  1,000 rows of the remote are left alone: the row is not an object (name unknown, id unknown)"]


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
def test_what_a_plan_rests_on_is_shown_once_below_what_it_holds_for(
    form: str, directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The profile, and that models were not checked."""
    with standing_in(Tenant()) as server:
        configure(directory, prod={"remote": server.url})
        assert run(["--dir", str(directory), "plan", "--format", form]) == 0
    said = capfd.readouterr().out.replace("\\", "")
    for once in ("portkey-1.15.2", "the remote knows no models"):
        assert said.count(once) == 1
        assert said.index(once) > said.rindex("x/a")
