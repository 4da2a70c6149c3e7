"""The connections of models that a plan writes: what stops the plan, what is noted, and what is never claimed."""

from __future__ import annotations

from typing import Any

import pytest

from policyctl.errors import RemoteError
from policyctl.load.environment import Environment
from policyctl.plan.plan import Desired, Selection
from policyctl.plan.safety import Review
from policyctl.plan.settings import Settings
from policyctl.policy.document import Document
from policyctl.policy.virtual_model import VirtualModel, VirtualModelRow
from policyctl.reconcile.plan import plan_directory
from policyctl.remote import SECRETS_SHOWN
from policyctl.remote.orchestrate import OrchestrateReader
from policyctl.remote.redaction import Redactor
from policyctl.remote.sqlite import SqliteRemote
from tests.builders import model, model_row, policy
from tests.remote.fake_server import Handler, Reply, Seen, Silence, standing_in
from tests.remote.http_helpers import reach

SETTINGS = Settings(models=True)
MODEL, OAUTH = model("openai/gpt-4o", app_id="creds"), model("openai-oauth2-client-creds/gpt", app_id="creds")


def entry(environment: str | None, scheme: str | None = "key_value_creds", *, entered: bool = True, **more: Any) -> Any:
    shown = {"environment": environment, "security_scheme": scheme, "credentials_entered": entered}
    return {"connection_id": "c-1", "app_id": "creds", **shown, **more}


def tenant(answer: Reply, *, single: Reply = Reply(404)) -> Handler:
    """A tenant without policies and models; `answer` is its list of connections, `single` what it says of one app id."""

    def handle(asked: Seen) -> Reply:
        if asked.path.endswith("/connections/applications"):
            return single if dict(asked.query).get("app_id") else answer
        return Reply(404) if asked.path.endswith("/list") else Reply(200, [])

    return handle


def rows(*entries: Any) -> Reply:
    return Reply(200, {"page": 1, "limit": 50, "total": len(entries), "applications": list(entries)})


def planned(handler: Handler, *desired: Desired, settings: Settings = SETTINGS) -> tuple[Review, list[str]]:
    """The plan that adds these, and what was asked for it."""
    with standing_in(handler) as server, reach(server.url) as remote:
        reader = OrchestrateReader(server.url, remote._sender, Redactor(), models=True)
        return plan_directory(reader, desired, Environment("dev", server.url), settings, Selection()), server.asked()


WHO = "connection creds (of virtual-model/openai/gpt-4o)"
UNKNOWN = "it is not known whether models can use creds, because connections cannot be read: "
CASES: dict[str, tuple[Reply, tuple[str, ...], tuple[str, ...]]] = {
    "usable in both": (rows(entry("draft"), entry("live")), (), ()),
    "as a bare list": (Reply(200, [entry("draft"), entry("live")]), (), ()),
    "unknown": (
        rows({**entry("draft"), "app_id": "other"}),
        (f"{WHO} does not exist (orchestrate connections add -a creds, or correct app_id)",),
        (),
    ),
    "none at all": (rows(), (f"{WHO} does not exist (orchestrate connections add -a creds, or correct app_id)",), ()),
    "bare": (
        rows(entry(None, None, entered=False)),
        (f"{WHO} is configured neither for draft nor for live (orchestrate connections configure -a creds)",),
        (),
    ),
    "marked as not configured": (
        rows(entry("draft", is_configured=False), entry("live", is_configured=False)),
        (f"{WHO} is configured neither for draft nor for live (orchestrate connections configure -a creds)",),
        (),
    ),
    "draft only": (rows(entry("draft")), (), (f"{WHO} is not configured for live, so models cannot use it there",)),
    "another scheme in both": (
        rows(entry("draft", "basic_auth"), entry("live", "oauth2")),
        (f"{WHO} has basic_auth in draft and oauth2 in live, and a model of this provider needs key_value_creds",),
        (),
    ),
    "another scheme in the only one": (
        rows(entry("live", "basic_auth")),
        (f"{WHO} has basic_auth in live, and a model of this provider needs key_value_creds",),
        (),
    ),
    "another scheme in one": (
        rows(entry("draft"), entry("live", "basic_auth")),
        (),
        (f"{WHO} has basic_auth in live, where a model of this provider cannot use it: it needs key_value_creds",),
    ),
    "no scheme shown": (
        rows(entry("draft", None), entry("live")),
        (),
        (f"{WHO}: its kind of credentials in draft is not shown, so it is not checked",),
    ),
    "nothing entered": (
        rows(entry("draft"), entry("live", entered=False)),
        (),
        (f"{WHO} has no credentials in live yet (orchestrate connections set-credentials -a creds --env live)",),
    ),
    "beside entries that are odd": (
        rows("odd", None, {"x": 1}, {"connection_id": 5, "app_id": "creds"}, entry("draft"), entry("live")),
        (),
        (),
    ),
    "with fields that are odd": (
        rows({**entry("draft"), "environment": ["draft"]}, {**entry("draft"), "security_scheme": {"x": 1}}, entry("live")),
        (),
        (f"{WHO}: its kind of credentials in draft is not shown, so it is not checked",),
    ),
    "only odd entries": (
        rows("odd", {"x": 1}),
        (f"{UNKNOWN}its list has entries that are not objects with an id or a name",),
        (),
    ),
    "no list": (Reply(404), (), ("connections are not checked: this remote has no list of them (creds)",)),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_plan_says_of_a_connection(case: str) -> None:
    answer, refusals, notes = CASES[case]
    review, _ = planned(tenant(answer), MODEL)
    assert (review.refusals, review.notes) == (refusals, notes)


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_list_that_cannot_be_read_refuses_the_plan_as_not_known(status: int) -> None:
    review, _ = planned(tenant(Reply(status)), MODEL)
    (refusal,) = review.refusals
    assert refusal.startswith("it is not known whether models can use creds, because connections cannot be read: 127.0.0.1")


def test_a_connection_that_only_a_look_up_finds_is_not_called_missing() -> None:
    found = Reply(200, {"connection_id": "c-1", "app_id": "creds"})
    review, _ = planned(tenant(rows({**entry("draft"), "app_id": "other"}), single=found), MODEL)
    assert review.refusals == ()
    assert review.notes == (f"{WHO} is not checked: the list of connections does not have it",)


def test_a_model_that_needs_oauth2_is_refused_another_connection() -> None:
    good, _ = planned(tenant(rows(entry("draft", "oauth2"), entry("live", "oauth2"))), OAUTH)
    assert (good.refusals, good.notes) == ((), ())
    bad, _ = planned(tenant(rows(entry("draft"), entry("live"))), OAUTH)
    assert "needs oauth2" in bad.refusals[0]


@pytest.mark.parametrize("desired", [model("openai/gpt-4o"), policy("a", "virtual-model/openai/gpt-4o")])
def test_connections_are_not_read_for_a_plan_that_needs_none(desired: Desired) -> None:
    _, asked = planned(tenant(Reply(500)), desired)
    assert [one for one in asked if "connections" in one] == []


def test_nothing_is_checked_on_an_embedded_remote(tmp_path: Any) -> None:
    with SqliteRemote(tmp_path / "x.db", models=True) as remote:
        review = plan_directory(remote, [MODEL], Environment("dev"), SETTINGS, Selection())
    assert (review.refusals, review.notes) == ((), ())


def test_a_connection_whose_app_id_leads_to_another_keeps_its_own_id() -> None:
    other = {**entry("draft"), "connection_id": "c-2"}
    with standing_in(tenant(rows(entry("draft"), entry("live"), other))) as server, reach(server.url) as remote:
        named = [remote.connections.app_id_of(one) for one in ("c-1", "c-2")]
        assert [remote.connections.id_of(one) for one in named] == ["c-1", "c-2"]


def reviewed_update(desired: VirtualModel, row: VirtualModelRow, *allowed: str, promised: bool = False) -> Review:
    """The review of a plan that updates one live model, on a tenant that may promise to show every key."""
    change = {"description": "longer"}
    desired = VirtualModel(desired.name, desired.document | change, desired.file)

    def handle(asked: Seen) -> Reply | Silence:
        if asked.path.endswith("/models"):
            return Reply(200, [dict(row)], dict((SECRETS_SHOWN,)) if promised else {})
        return tenant(rows(entry("draft"), entry("live")))(asked)

    review, _ = planned(handle, desired, settings=SETTINGS._replace(allow_key_loss=allowed))
    assert [(change.action, change.kind) for change in review.plan.changes] == [("update", "model")]
    return review


HIDDEN = [
    ("openai/gpt-4o", {}),
    ("openai/gpt-4o", {"api_key": None}),
    ("novel/x", {"apiKey": ""}),
    ("bedrock/x", {"custom_host": "https://h.example"}),
    ("bedrock/x", {"awsAccessKeyId": "AKIAIOSFODNN7EXAMPLE"}),  # half of what opens something: the other half is hidden
]


@pytest.mark.parametrize(("name", "shown"), HIDDEN)
@pytest.mark.parametrize("written", [{}, {"api_key": "dummy"}])
def test_an_update_that_may_remove_a_key_that_is_not_shown_is_refused(name: str, shown: Document, written: Document) -> None:
    (refusal,) = reviewed_update(model(name, provider_config=written), model_row(name, provider_config=shown)).refusals
    assert refusal.startswith(f"virtual-model/{name}: this remote shows neither a key nor a connection of it; if it has a key")
    assert "app_id" in refusal
    assert f"--allow-key-loss virtual-model/{name}" in refusal


def test_a_provider_for_which_a_word_is_enough_needs_that_word() -> None:
    assert reviewed_update(model("ollama/x"), model_row("ollama/x")).refusals


@pytest.mark.parametrize("allowed", ["virtual-model/openai/x", "openai/x", "openai/*"])
def test_the_loss_of_a_key_that_is_not_shown_is_allowed_by_name(allowed: str) -> None:
    review = reviewed_update(model("openai/x"), model_row("openai/x"), "openai/y", allowed)
    assert review.refusals == ()
    assert review.notes[0].endswith("this update may remove it, which is allowed")
    assert reviewed_update(model("openai/x"), model_row("openai/x"), "openai/y").refusals


def test_a_remote_that_shows_every_key_has_none_to_lose() -> None:
    assert reviewed_update(model("openai/x"), model_row("openai/x"), promised=True).refusals == ()


NO_KEY_AT_RISK: dict[str, tuple[VirtualModel, VirtualModelRow]] = {
    "key shown": (model("openai/x"), model_row("openai/x", provider_config={"apiKey": "sk-proj-0123456789"})),
    "key in the connection": (model("openai/x", app_id="creds"), model_row("openai/x", connection_id="c-1")),
    "connection in the file": (model("openai/x", app_id="creds"), model_row("openai/x")),
    "connection removed": (model("openai/x"), model_row("openai/x", connection_id="c-1")),
    "both halves of a key shown": (
        model("bedrock/x"),
        model_row("bedrock/x", provider_config={"awsAccessKeyId": "AKIAIOSFODNN7EXAMPLE", "awsSecretAccessKey": "w" * 40}),
    ),
    "word in the file, where a word is enough": (
        model("ollama/x", provider_config={"api_key": "ollama"}),
        model_row("ollama/x"),
    ),
    "provider with a connection alone": (model("openai-oauth2-client-creds/x"), model_row("openai-oauth2-client-creds/x")),
}


@pytest.mark.parametrize("case", NO_KEY_AT_RISK)
def test_an_update_that_can_remove_no_unseen_key_is_not_refused_for_it(case: str) -> None:
    review = reviewed_update(*NO_KEY_AT_RISK[case])
    assert (review.refusals, [note for note in review.notes if "key of its own" in note]) == ((), [])


CREDS = entry("draft")
LOOK_UPS: dict[str, tuple[Any, str | None]] = {
    "the connection": (CREDS, "creds"),
    "a list of one": ([CREDS], "creds"),
    "a filter that is ignored": ([{**CREDS, "app_id": "other", "connection_id": "c-2"}, CREDS], "creds"),
    "another connection": ({**CREDS, "app_id": "other", "connection_id": "c-2"}, "id:c-1"),
    "no entry of a list": ([{**CREDS, "app_id": "other", "connection_id": "c-2"}], "id:c-1"),
    "an empty list": ([], "id:c-1"),
    "one page of several": ({"applications": [], "total": 60}, None),
    "an object of another form": ({"application": CREDS}, None),
    "a text": ("creds", None),
}


@pytest.mark.parametrize("case", LOOK_UPS)
def test_a_look_up_of_a_connection_is_understood_or_not_known(case: str) -> None:
    content, app_id = LOOK_UPS[case]
    handle = tenant(Reply(200, []), single=Reply(200, content))

    def answer(asked: Seen) -> Reply | Silence:
        single = asked.path.endswith("/connections/applications") and not dict(asked.query).get("include_details")
        return Reply(200, content) if single else handle(asked)

    with standing_in(answer) as server, reach(server.url) as remote:
        if app_id is None:
            with pytest.raises(RemoteError):
                remote.connections.app_id_of("c-1")
        else:
            assert remote.connections.app_id_of("c-1") == app_id
