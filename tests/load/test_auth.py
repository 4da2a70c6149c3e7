"""How an environment describes its login, and what is wrong with that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policyctl.errors import InvalidInput
from policyctl.load.discovery import load_config
from policyctl.load.settings_file import AuthFile, login_type
from policyctl.load.urls import is_local, is_safe_for_secrets, origin, remote_url_error

KEY, PASSWORD, TOKEN, USER = {"api_key": "env:K"}, {"password": "env:P"}, {"token": "env:T"}, {"username": "u"}
INSTANCE = "https://api.us-south.watson-orchestrate.ibm.com/instances/x"


NO_INSTANCES = (
    "api.us-south.watson-orchestrate.cloud.ibm.com",
    "api.us-south.watson-orchestrate.ibm.com/",
    "api.us-south.watson.cloud.ibm.com/instances/",
    "API.us-south.watson.cloud.IBM.com/v1/orchestrate",
    "cpd.example.com/orchestrate/ns",
)
PLACEHOLDERS = (
    "api.us-south.watson-orchestrate.cloud.ibm.com/instances/…",
    "api.us-south.watson-orchestrate.cloud.ibm.com/instances/...",
    "api.us-south.watson-orchestrate.cloud.ibm.com/instances/<id>",
    "api.<region>.watson-orchestrate.cloud.ibm.com/instances/0d1f",
    "api.us-south.watson-orchestrate.cloud.ibm.com/instances/${INSTANCE}",
    "api.us-south.watson-orchestrate.cloud.ibm.com/instances/{id}/",
    "example.com/instances/YOUR_INSTANCE_ID",
    "example.com/instances/instance-id",
    "example.com/instances/xxxx",
    "example.com/instances/changeme",
)


def problems(tmp_path: Path, remote: str, auth: dict[str, Any]) -> list[str]:
    """What load reports about a configuration with one environment."""
    path = tmp_path / "policyctl.yaml"
    written = "".join(f"      {key}: {value}\n" for key, value in auth.items())
    path.write_text(f"environments:\n  prod:\n    remote: {remote}\n    auth:\n{written}")
    try:
        load_config(path)
    except InvalidInput as error:
        return [f"{problem.mark.line}:{problem.mark.column} {problem.code} {problem.message}" for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("auth", "remote", "kind"),
    [
        ({"type": "bearer", **TOKEN}, INSTANCE, "bearer"),
        ({"type": "cpd", **USER, **KEY}, "https://x.cloud.ibm.com/instances/x", "cpd"),
        ({"type": "ibm_iam", **KEY}, "http://localhost:1", "ibm_iam"),
        (TOKEN, INSTANCE, "bearer"),
        ({**USER, **PASSWORD}, "http://localhost:4321", "local"),
        ({**USER, **PASSWORD}, "http://127.0.0.1:4321", "local"),
        (KEY, "https://api.us-south.watson-orchestrate.cloud.ibm.com/instances/x", "ibm_iam"),
        ({**USER, **KEY}, "https://cpd-ns.apps.example.com/orchestrate/ns/instances/1", "cpd"),
        ({**USER, **KEY}, "https://CPD.example.com/orchestrate/ns/instances/1", "cpd"),
        (KEY, INSTANCE, "mcsp"),
        (KEY, "https://localhost:1", "mcsp"),
    ],
)
def test_the_way_to_log_in_is_the_one_written_else_the_urls(
    auth: dict[str, str], remote: str, kind: str, tmp_path: Path
) -> None:
    assert login_type(AuthFile.model_validate(auth), remote) == kind
    assert problems(tmp_path, remote, auth) == []


@pytest.mark.parametrize(
    ("remote", "auth", "said"),
    [
        (INSTANCE, {"type": "ibm_iam"}, "4:5 P308 auth of type ibm_iam needs api_key"),
        (INSTANCE, {"type": "ibm_iam", **KEY, **PASSWORD}, "7:7 P308 auth of type ibm_iam does not take password; remove it"),
        (
            INSTANCE,
            {"type": "bearer", **TOKEN, "url": "https://x"},
            "7:7 P308 auth of type bearer does not take url; remove it",
        ),
        (INSTANCE, {"type": "zen_api_key", **KEY}, "4:5 P308 auth of type zen_api_key needs username"),
        (INSTANCE, {"type": "cpd", **USER}, "4:5 P308 auth of type cpd needs exactly one of password and api_key"),
        (INSTANCE, {"type": "cpd", **USER, **KEY, **PASSWORD}, "4:5 P308 auth of type cpd needs exactly one of"),
        (INSTANCE, {"type": "local", **USER}, "4:5 P308 auth of type local needs password"),
        (INSTANCE, {**USER, **KEY}, "5:7 P308 auth for this remote (type mcsp) does not take username; remove it"),
        (INSTANCE, {"type": "nonsense", **KEY}, "5:13 P105 type must be ibm_iam, mcsp"),
        ("http://example.com", {"type": "bearer", **TOKEN}, "3:13 P308 remote must be an https:// URL, because auth"),
        (INSTANCE, {**KEY, "url": "http://example.com"}, "6:12 P308 url must be an https:// URL"),
        (INSTANCE, {**KEY, "url": "https://u:hunter2@example.com"}, "6:12 P308 url must not contain a user or password"),
        (INSTANCE, {**KEY, "url": "example.com"}, "6:12 P308 url must be an https:// URL"),
        ("postgresql://db/p", {"type": "bearer", **TOKEN}, "4:5 P308 auth does not apply to a postgresql: remote"),
        (INSTANCE, {"api_key": "hunter2"}, "5:16 P304 api_key must be a reference"),
    ],
)
def test_what_is_wrong_is_reported_at_its_place_and_never_shows_a_secret(
    remote: str, auth: dict[str, str], said: str, tmp_path: Path
) -> None:
    found = problems(tmp_path, remote, auth)
    assert any(problem.startswith(said) for problem in found), found
    assert "hunter2" not in "".join(found)


@pytest.mark.parametrize(
    ("remote", "said"),
    [
        ("https://u:p@example.com", "must not contain a user or password"),
        ("https://", "has no usable host"),
        ("https://x:99999", "is not a URL"),
        ("https://[::1", "is not a URL"),
        ("https://x/?a=b", "must not have a query or a fragment"),
        ("https://x/#a", "must not have a query or a fragment"),
        ("https://x\n.example.com", "has no usable host"),
        ("https://iam.cloud.ibm.c\u043em", "must have a host in ASCII"),
        ("https://iam.cloud.\u0131bm.com", "must have a host in ASCII"),
        ("ftp://x", "must be local, sqlite:///path, postgresql://host/database, git:REVISION, or an https:// URL"),
        ("sqlite://x", "must be sqlite:///path/to/file"),
        *((f"http://{host}", "is not a URL") for host in ("[127.0.0.1]", "[localhost]", "[]", "[::1::]:80", "a:b:c")),
        *((f"https://{host}/a", "is not a URL") for host in ("[::1].example.com", "[127.0.0.1]x", "[::1]x:80")),
        *((f"https://{url}", "does not name an instance") for url in NO_INSTANCES),
        *((f"https://{url}", "still has a placeholder in it") for url in PLACEHOLDERS),
    ],
)
def test_a_remote_that_cannot_be_one_is_reported(remote: str, said: str) -> None:
    assert (remote_url_error(remote) or "").startswith(said)


@pytest.mark.parametrize(
    "remote",
    [
        "local",
        "sqlite:///x.db",
        "https://x",
        "http://[::1]:1/a",
        "https://x:8443/instances/1",
        "https://api.us-south.watson-orchestrate.cloud.ibm.com/instances/0d1f-22/v1/orchestrate",
        "https://cpd.example.com/orchestrate/ns/instances/7",
        "https://myinstance.example.com/instances/my",
        "https://ibm.com.example.com",
    ],
)
def test_a_usable_remote_is_not_reported(remote: str) -> None:
    assert remote_url_error(remote) is None


@pytest.mark.parametrize(
    ("url", "local", "safe"),
    [
        ("http://localhost:4321", True, True),
        ("http://127.0.0.1", True, True),
        ("http://[::1]:1", True, True),
        ("http://0.0.0.0:1", True, False),
        ("http://host.docker.internal:1", True, False),
        ("http://127.0.0.10", True, True),
        ("http://localhost.example.com", True, False),
        ("https://localhost", False, True),
        ("http://LOCALHOST", False, True),
        ("http://127.0.0.2", False, True),
        ("http://example.com", False, False),
        ("https://example.com", False, True),
    ],
)
def test_what_is_local_is_the_vendors_rule_and_what_is_safe_is_ours(url: str, local: bool, safe: bool) -> None:
    assert (is_local(url), is_safe_for_secrets(url)) == (local, safe)


@pytest.mark.parametrize("host", ["[::1].example.com", "[127.0.0.1]x", "[127.0.0.1]", "[::1]x:80", "[]"])
def test_what_is_not_a_host_as_a_whole_has_no_origin(host: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        origin(f"http://{host}/")


def test_an_origin_is_written_one_way() -> None:
    assert origin("https://X.example.com/a") == origin("https://x.example.com:443/b")
    assert origin("https://x") != origin("http://x")
    assert origin("https://x") != origin("https://x:8443")
