"""A model's own secret goes back to the remote that it was read from, and nowhere else."""

from __future__ import annotations

import json
import traceback

import pytest

from policyctl.errors import RemoteError
from policyctl.plan.plan import document_to_write, update
from policyctl.policy.live import read_row
from policyctl.policy.model_settings import comparable
from policyctl.policy.virtual_model import LiveModel
from tests.builders import model, model_row
from tests.remote.fake_server import Reply, Seen, standing_in
from tests.remote.http_helpers import reach

SECRETS = {
    "api_key": "sk-live-0123456789",
    "awsSecretAccessKey": "abc/def+ghi=jkl",
    "vertex_service_account_json": {"private_key": '-----BEGIN KEY-----\nQUJD"\n', "client": {"id": "inner-secret-77"}},
    "custom_host": "https://reader:hunter2222@host.example/v1",
    "novelSetting": "what the format does not know",
}
LEAKS = ("sk-live-0123456789", "abc/def+ghi=jkl", "QUJD", "inner-secret-77", "what the format does not know")


def echo(asked: Seen, status: int, form: str) -> Reply:
    """An answer that repeats what was sent: as an object, as a text within one, or as a page."""
    text = asked.body.decode()
    bodies = {"object": {"detail": asked.json}, "text": {"detail": f"refused: {text}"}, "page": f"<p>{text}</p>".encode()}
    return Reply(status, bodies[form], {"Content-Type": "text/html"} if form == "page" else {})


@pytest.mark.parametrize("form", ["object", "text", "page"])
@pytest.mark.parametrize("status", [400, 403, 404, 409, 412, 422, 429, 500, 503])
def test_a_refused_update_shows_nothing_of_the_secrets_that_it_kept(status: int, form: str) -> None:
    live = read_row(model_row("openai/gpt-4o", provider_config=SECRETS, description="short"))
    assert isinstance(live, LiveModel)
    change = update(model("openai/gpt-4o", description="longer"), live)
    assert change is not None
    assert change.after is not None
    body = document_to_write(live, change.after)
    assert all(json.dumps(secret)[1:-1] in json.dumps(body) for secret in LEAKS), "the update keeps what it does not know"
    with standing_in(lambda asked: echo(asked, status, form)) as server, reach(server.url) as remote:
        with pytest.raises(RemoteError) as caught:
            remote.update(live.id, body, kind="model")
        assert server.asked("PUT")
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.details) + repr(live) + repr(change)
    assert [secret for secret in LEAKS if secret in shown] == []
    assert "hunter2222" not in shown


def test_a_word_that_opens_nothing_is_not_taken_out_of_a_message() -> None:
    body = {"name": "virtual-model/ollama/x", "provider_config": {"api_key": "ollama"}}
    with (
        standing_in(lambda _: Reply(422, {"detail": "ollama is not there"})) as server,
        reach(server.url) as remote,
        pytest.raises(RemoteError, match="ollama is not there"),
    ):
        remote.add(body, "model")


@pytest.mark.parametrize("status", [200, 400, 500])
def test_the_report_of_a_test_shows_no_secret_that_was_sent_back(status: int) -> None:
    body = {"name": "virtual-model/openai/x", "provider_config": {"api_key": SECRETS["api_key"]}}
    report = {
        "overall_status": "failed",
        "tests": [{"message": f"wrong key: {SECRETS['api_key']}"}],
        "detail": SECRETS["api_key"],
    }

    def answer(asked: Seen) -> Reply:
        return Reply(status, report) if asked.path.endswith("/validate") else Reply(200, {})

    with standing_in(answer) as server, reach(server.url) as remote:
        remote.update("m1", body, kind="model")
        try:
            shown = json.dumps(remote.test_model("virtual-model/openai/x"))
        except RemoteError as error:
            shown = f"{error} {error.details}"
    assert "***" in shown
    assert "sk-live" not in shown


@pytest.mark.parametrize(
    "headers", ["Authorization: sk-live-1", [{"Authorization": "sk-live-1"}], {"Authorization": "sk-live-1"}]
)
def test_headers_of_any_shape_are_compared_without_their_values(headers: object) -> None:
    assert "sk-live" not in json.dumps(comparable({"forwardHeaders": headers}))
