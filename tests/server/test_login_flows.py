"""Every way to log in, from policyctl's client to the server, over a socket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from policyctl.errors import RemoteError
from policyctl.load.settings_file import AuthFile
from policyctl.remote.open import Access, open_reader, open_writer
from tests.server.serving import Served, serving

SECRET = "the-secret-of-all-flows"

# A host that is not called local gets the instances' layout; IBM's test for local is for the letters.
ELSEWHERE = "LOCALHOST"

# Instance below the server's root, and what `auth` holds; {url} is the server's, and secrets are in the files good and bad.
FLOWS: dict[str, tuple[str, dict[str, Any]]] = {
    "ibm_iam": ("/instances/x", {"type": "ibm_iam", "api_key": "file:{which}", "url": "{url}"}),
    "mcsp": ("/instances/x", {"type": "mcsp", "api_key": "file:{which}", "url": "{url}"}),
    "mcsp_v1": ("/instances/x", {"type": "mcsp_v1", "api_key": "file:{which}", "url": "{url}"}),
    "mcsp_v2": ("/instances/x", {"type": "mcsp_v2", "api_key": "file:{which}", "url": "{url}"}),
    "cpd with a password": ("/orchestrate/ns/instances/x", {"type": "cpd", "username": "u", "password": "file:{which}"}),
    "cpd with a key": ("/orchestrate/ns/instances/x", {"type": "cpd", "username": "u", "api_key": "file:{which}"}),
    "cpd elsewhere": ("/x", {"type": "cpd", "username": "u", "api_key": "file:{which}", "url": "{url}"}),
    "zen_api_key": ("/orchestrate/ns/instances/x", {"type": "zen_api_key", "username": "u", "api_key": "file:{which}"}),
    "bearer": ("/instances/x", {"type": "bearer", "token": "file:{which}"}),
    "local": ("", {"type": "local", "username": "u", "password": "file:{which}"}),
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("flows")
    (folder / "good").write_text(SECRET + "\n")
    (folder / "bad").write_text("canary-5420\n")
    with serving(folder / "flows.db", "--token-from", "file:good") as running:
        yield running


def reach(guarded: Served, case: str, which: str) -> tuple[str, Access]:
    """The remote's URL and how to log in to it, with the good secret or the bad one."""
    path, fields = FLOWS[case]
    auth = AuthFile(**{key: text.format(which=which, url=guarded.url) for key, text in fields.items()})
    root = guarded.url if case == "local" else guarded.url.replace("127.0.0.1", ELSEWHERE)
    return root + path, Access(auth, base=guarded.log.parent)


@pytest.mark.parametrize("case", FLOWS)
def test_a_login_reaches_the_policies(guarded: Served, case: str) -> None:
    url, access = reach(guarded, case, "good")
    name = f"virtual-policy/{case}"
    with open_writer(url, access) as writer:
        writer.add({"name": name, "display_name": name, "description": name, "policy": {"strategy": {"mode": "single"}}})
        (row,) = writer.find([name])
        writer.remove(row["id"], row["etag"])
        assert writer.find([name]) == []


@pytest.mark.parametrize("case", FLOWS)
@pytest.mark.alike
def test_a_wrong_secret_is_one_clear_line_without_it(guarded: Served, case: str) -> None:
    url, access = reach(guarded, case, "bad")
    with open_reader(url, access) as reader, pytest.raises(RemoteError) as caught:
        reader.rows()
    assert "401" in str(caught.value)
    assert "canary-5420" not in str(caught.value)
