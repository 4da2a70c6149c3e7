"""Virtual models on a real `policyctl serve`, and on servers that answer in unusual shapes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from policyctl.load.environment import Environment
from policyctl.plan.plan import GOOD, Desired, Selection
from policyctl.plan.settings import Settings
from policyctl.reconcile.apply import apply_changes
from policyctl.reconcile.observe import verify
from policyctl.reconcile.plan import plan_directory
from policyctl.remote import Backoff
from policyctl.remote.orchestrate import OrchestrateRemote
from policyctl.server.api import Variant
from tests.conftest import Policyctl, Project
from tests.examples import examples
from tests.reconcile.model_tenants import tenants
from tests.remote.fake_server import Reply, Seen, standing_in
from tests.remote.http_helpers import reach
from tests.remote.model_tenant import CONNECTIONS
from tests.server.serving import ServedHere, loopback, serving_here

NAMES = ["openai/a&b", "x/a#1", "x/a+b", "x/%41", "x/A", "x/a:b", "x/a b", "x/a/b"]
SERVERS = {
    "merging": Variant(),
    "replacing": Variant(replace_models=True),
    "merging, camelCase": Variant(camel_case=True),
    "replacing, camelCase": Variant(replace_models=True, camel_case=True),
}


# The inner loop tries one of them.
@pytest.fixture(scope="module", params=["merging", *(pytest.param(one, marks=pytest.mark.slow) for one in list(SERVERS)[1:])])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedHere]:
    folder: Path = tmp_path_factory.mktemp("served")
    with serving_here(folder / "served.db", variant=SERVERS[request.param]) as running:
        for app_id in CONNECTIONS:
            answer = loopback.post(f"{running.url}/v1/connections/applications", json={"app_id": app_id})
            assert answer.is_success, answer.text
        yield running


@given(tenants(), tenants())
@settings(max_examples=examples(8), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_tenant_becomes_any_other(served: ServedHere, first: list[Desired], second: list[Desired]) -> None:
    """The connection alone has no empty value: where a PUT merges, the apply reports that it is still there."""
    with reach(served.url, models=True) as writer:
        for desired in (first, second, []):
            reported = applied(writer, desired)
            changes = planned(writer, desired).plan.changes
            assert {change.name for change in changes} == reported
            assert all(field.path == "app_id" for change in changes for field in change.fields)
        assert list(writer.rows()) == []


def planned(writer: OrchestrateRemote, desired: list[Desired]) -> Any:
    return plan_directory(writer, desired, Environment("dev"), Settings(scope=("*",), models=True), Selection())


def applied(writer: OrchestrateRemote, desired: list[Desired]) -> set[str]:
    """Apply everything; the names that the report has as not applied."""
    plan = planned(writer, desired).plan
    outcomes = apply_changes(
        plan.changes, writer, parallelism=4, on_outcome=lambda _: None, stopped=lambda: False, patience=Backoff()
    )
    assert {outcome.status for outcome in outcomes} <= GOOD
    lines = verify(outcomes, writer, lambda _: None)
    return {change.name for change in plan.changes if any(f"{change.name} " in line for line in lines)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.alike
def test_a_name_survives_every_part_of_a_request(name: str, served: ServedHere, project: Project, policyctl: Policyctl) -> None:
    config = {"manage": ["policies", "models"], "environments": {"dev": {"remote": served.url}}, "scope": ["*"]}
    project.write("policyctl.yaml", json.dumps({**config, "limits": {"max_change_percent": 100}}))
    head = {"spec_version": "v1", "kind": "model"}
    body = {"strategy": {"mode": "single"}, "targets": [{"model_name": f"virtual-model/{name}"}]}
    for description in ("one", "two"):
        project.write("m.json", json.dumps({**head, "name": name, "description": description, "provider_config": {}}))
        project.write("p.json", json.dumps({**head, "name": "p", "policy": body}))
        assert policyctl("apply", "--yes").code == 0
        assert policyctl("plan", "--detailed-exitcode").code == 0
    (row,) = loopback.get(f"{served.url}/v1/models").json()
    assert (row["name"], row["description"]) == (f"virtual-model/{name}", "two")
    for kind in ("model_policy", "models"):  # the scope is never emptied by an apply
        for row in loopback.get(f"{served.url}/v1/{kind}").json():
            assert loopback.delete(f"{served.url}/v1/{kind}/{row['id']}").status_code == 204


ROW = {"id": "m-1", "name": "virtual-model/x/a"}
SHAPES: dict[str, tuple[Reply, int, str]] = {
    "nothing": (Reply(200, []), 0, "+ virtual-model/x/a"),
    "one row": (Reply(200, [ROW]), 0, "1 unchanged"),
    "a missing collection": (Reply(404, {"detail": "Not Found"}), 1, "the URL of the remote is probably wrong"),
    "an envelope that has all": (Reply(200, {"models": [ROW], "page": 1, "limit": 50, "total": 1}), 0, "1 unchanged"),
    "an envelope of nothing": (Reply(200, {"models": [], "total": 0}), 0, "+ virtual-model/x/a"),
    "an envelope that is cut short": (Reply(200, {"models": [ROW], "total": 2}), 1, "its list has 2 entries and shows 1"),
    "an envelope with two lists": (Reply(200, {"models": [ROW], "more": [], "total": 1}), 1, "without a list of models"),
    "an envelope that says not how many there are": (Reply(200, {"resources": [ROW]}), 1, "without a list of models"),
    "null": (Reply(200, b"null"), 1, "without a list of models"),
    "a page": (Reply(200, [ROW], {"Link": '</v1/models?page=2>; rel="next"'}), 1, "one page of a list"),
    "an error": (Reply(500, {"detail": "no"}), 1, "answered 500"),
    "two rows of the name": (Reply(200, [ROW, {**ROW, "id": "m-2"}]), 5, "m-1, m-2"),
    "a row without an id": (Reply(200, [{"name": "x/a"}]), 5, "no usable id"),
    "a row with and a row without an id": (Reply(200, [ROW, {"name": "x/a"}]), 5, "no usable id"),
    "a row without an id of another name": (Reply(200, [ROW, {"name": "x/b"}]), 0, "name virtual-model/x/b, id unknown"),
    "rows of no kind": (Reply(200, [ROW, 5, None, "x", []]), 0, "4 rows of the remote are left alone"),
}


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.slow if case == "an error" else ()) for case in SHAPES])
def test_a_list_of_models_of_any_shape_is_read_or_refused(case: str, project: Project, policyctl: Policyctl) -> None:
    reply, code, text = SHAPES[case]

    def answer(seen: Seen) -> Reply:
        if seen.path.endswith("/v1/models"):
            return reply
        return Reply(200, []) if seen.path.endswith("/model_policy") else Reply(404)

    with standing_in(answer) as remote:
        write_one(project, remote.url)
        ran = policyctl("plan")
        assert (ran.code, text in ran.out + ran.err) == (code, True), ran
        assert remote.asked("POST") == []


def test_a_list_of_models_in_pages_is_read_as_a_whole(project: Project, policyctl: Policyctl) -> None:
    rows = [ROW, {"id": "m-2", "name": "virtual-model/x/b"}, {"id": "m-3", "name": "virtual-model/x/c"}]

    def answer(seen: Seen) -> Reply:
        if seen.method != "GET":
            return Reply(204)
        if seen.path.endswith("/v1/models"):
            names = [value for key, value in seen.query if key == "name"]
            found = [row for row in rows if not names or row["name"] in names]
            page = int(dict(seen.query).get("page", 1))
            return Reply(200, {"models": found[2 * page - 2 : 2 * page], "page": page, "total": len(found)})
        return Reply(200, []) if seen.path.endswith("/model_policy") else Reply(404)

    with standing_in(answer) as remote:
        write_one(project, remote.url)
        ran = policyctl("plan", "--allow-unseen-consumers")
        assert (ran.code, "changes   2 models to remove" in ran.out, "1 unchanged" in ran.out) == (0, True, True), ran
        assert [dict(seen.query).get("page") for seen in remote.seen if seen.path.endswith("/v1/models")] == [None, "2"]


def test_a_model_in_use_that_the_remote_does_not_remove_is_reported(project: Project, policyctl: Policyctl) -> None:
    """An agent, which no plan may see, or a policy that came meanwhile."""
    other = {"id": "m-2", "name": "virtual-model/x/used"}

    def answer(seen: Seen) -> Reply:
        if seen.method == "DELETE":
            return Reply(409, {"detail": "used by the agent billing-bot"})
        if seen.path.endswith("/v1/models"):
            names = [value for key, value in seen.query if key == "name"]
            return Reply(200, [row for row in (ROW, other) if not names or row["name"] in names])
        return Reply(200, []) if seen.path.endswith("/model_policy") else Reply(404)

    with standing_in(answer) as remote:
        write_one(project, remote.url)
        ran = policyctl("apply", "--yes", "--allow-unseen-consumers")
        assert ran.code == 5
        assert "409 Conflict: used by the agent billing-bot" in ran.out + ran.err


def write_one(project: Project, url: str) -> None:
    config = {"manage": ["policies", "models"], "environments": {"dev": {"remote": url}}, "scope": ["*"]}
    project.write("policyctl.yaml", json.dumps({**config, "limits": {"max_change_percent": 100}}))
    project.write("a.yaml", "spec_version: v1\nkind: model\nname: x/a\nprovider_config: {}\n")
