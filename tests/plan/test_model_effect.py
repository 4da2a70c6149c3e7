"""What a plan reports of an update of a virtual model: foremost where requests and credentials may go to another host."""

from __future__ import annotations

from typing import Any

import pytest

from policyctl.effect.analysis import Effect
from policyctl.plan.diff import fields_written
from policyctl.plan.effects import _of_model
from policyctl.plan.plan import Change
from policyctl.plan.safety import Review
from policyctl.plan.settings import Limits, Settings
from policyctl.policy.model_settings import DESTINATIONS, SETTINGS
from policyctl.policy.virtual_model import normal_form
from policyctl.report.format import Style
from policyctl.report.plan_html import plan_html
from policyctl.report.plan_markdown import plan_markdown
from policyctl.report.plan_text import plan_text
from policyctl.report.plan_view import PlanView
from tests.builders import model, model_row
from tests.report.plans import reviewed

NAME = {"name": "virtual-model/openai/m"}
OTHER = "its calls are made with other settings, and what answers them is not modelled"
DEFAULT = "its tag default changes, by which the platform chooses the model for new agents"
CONNECTION = "its connection changes, which decides the credentials of its calls and may decide their host"
ONE, TWO = "https://one.example/v1", "https://two.example/v1"
Document = dict[str, Any]


def effect(before: Document, after: Document) -> Effect:
    live = normal_form(NAME | before)
    return _of_model(Change("update", NAME["name"], "1", live, NAME | after, fields_written(live, NAME | after)))


def settings(**some: Any) -> Document:
    return {"provider_config": some}


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        (
            settings(api_key="k", custom_host=ONE),
            settings(api_key="(set)", custom_host=TWO),
            "its requests and its own api_key may go to another host, since custom_host changes",
        ),
        (
            {**settings(custom_host=ONE), "app_id": "one"},
            {**settings(url_to_fetch=TWO), "app_id": "one"},
            "its requests and the credentials of its connection may go to another host, since custom_host, url_to_fetch change",
        ),
        (
            {**settings(custom_host=ONE), "app_id": "one"},
            settings(custom_host=TWO),
            "its requests and the credentials of its connection may go to another host, since custom_host changes; "
            + CONNECTION,
        ),
        (
            settings(custom_host=ONE),
            settings(custom_host=TWO),
            "its requests may go to another host, since custom_host changes",
        ),
        (
            {**settings(api_key="k", custom_host=ONE), "config": {"top_p": 1}, "tags": ["default"]},
            {**settings(api_key="(set)", custom_host=TWO), "config": {"top_p": 0.5}, "tags": []},
            f"its requests and its own api_key may go to another host, since custom_host changes; {DEFAULT}; {OTHER}",
        ),
        ({"app_id": "one"}, {"app_id": "two"}, CONNECTION),
        ({}, {"app_id": "two"}, CONNECTION),
        ({"app_id": "one"}, {}, CONNECTION),
        ({"app_id": "one", "config": {"top_p": 1}}, {"app_id": "two"}, f"{CONNECTION}; {OTHER}"),
    ],
)
def test_credentials_that_may_go_to_another_host_come_first(before: Document, after: Document, shown: str) -> None:
    """Whichever they are, beside all else that is to be known; and a headline shows them."""
    found = effect(before, after)
    assert found.unknown == shown
    assert found.brief is not None
    assert (DEFAULT in found.brief, "another host" in found.brief) == (DEFAULT in shown, "another host" in shown)


MOVED: dict[str, tuple[Document, Document, str]] = {
    "a URL in config": ({"config": {"base": ONE}}, {"config": {"base": TWO}}, "config.base"),
    "a host in config": ({"config": {"apiBase": "a.example"}}, {"config": {"apiBase": "b.example"}}, "config.apiBase"),
    "deep in config": ({"config": {"a": {"b": [ONE]}}}, {"config": {"a": {"b": [ONE, TWO]}}}, "config.a.b"),
    "a new hook": ({}, settings(before_request_hooks=[{"parameters": {"webhookURL": ONE}}]), "before_request_hooks"),
    "a hook that goes": (settings(after_request_hooks=[{"x": ONE}]), {}, "after_request_hooks"),
    "metadata": (settings(metadata={"x": {"proxy": "a"}}), settings(metadata={"x": {"proxy": "b"}}), "metadata.x.proxy"),
    "a region": (settings(aws_region="us-east-1"), settings(aws_region="x@two.example/"), "aws_region"),
    "another port": (settings(custom_host=ONE), settings(custom_host="https://one.example:444/v1"), "custom_host"),
    "another scheme": (settings(custom_host=ONE), settings(custom_host="http://one.example/v1"), "custom_host"),
    "a user": (settings(custom_host=ONE), settings(custom_host="https://one.example@two.example/v1"), "custom_host"),
    "a backslash": (settings(custom_host=ONE), settings(custom_host="https://one.example\\@two.example/v1"), "custom_host"),
    "a tab": (settings(custom_host=ONE), settings(custom_host="https://one.example\t.two.example/v1"), "custom_host"),
    "capitals": ({"config": {"x": ONE}}, {"config": {"x": "HTTPS://TWO.EXAMPLE/v1"}}, "config.x"),
    "within a text": ({"config": {"x": "to"}}, {"config": {"x": f"to {TWO}"}}, "config.x"),
    "of a quoted key": ({"config": {"a.url": "a"}}, {"config": {"a.url": "b"}}, 'config."a.url"'),
}


@pytest.mark.parametrize("case", MOVED)
def test_another_host_is_noticed_wherever_it_is(case: str) -> None:
    before, after, where = MOVED[case]
    assert effect(before, after).brief == f"its requests may go to another host, since {where} changes"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (settings(api_key="k", customHost=ONE), settings(api_key="(set)", custom_host=ONE, request_timeout=9)),
        (settings(api_key="k", custom_host=ONE), settings(api_key="(set)", custom_host="https://ONE.example/v2")),
        ({"config": {"x": "one"}}, {"config": {"x": "two"}}),
        ({"model_type": "chat"}, {"model_type": "chat_vision"}),
    ],
)
def test_the_same_host_is_not_reported_as_another_one(before: Document, after: Document) -> None:
    found = effect(before, after)
    assert (found.unknown, found.brief) == (OTHER, None)


def test_of_many_settings_the_known_destinations_are_named_first_and_the_rest_counted() -> None:
    config = {f"{'a' * 100}{number}_url": "x" for number in range(50)}
    shown = effect({}, {**settings(custom_host=TWO), "config": config}).brief
    assert shown is not None
    assert shown.startswith("its requests may go to another host, since custom_host, config.aaa")
    assert shown.endswith("… and 48 more change")
    assert len(shown) < 300


def test_every_destination_is_a_setting_and_no_other_setting_is_named_after_a_host() -> None:
    assert SETTINGS.keys() >= DESTINATIONS
    named = {key for key in SETTINGS if key.endswith(("host", "url", "endpoint", "hostname", "region"))}
    assert named <= DESTINATIONS


def many() -> Review:
    """Three hundred updates of models, of which one, in the middle, changes the host."""
    names = [f"openai/m{number:03}" for number in range(300)]
    hosts = {"openai/m150": TWO}
    desired = [
        model(one, app_id="creds", config={"top_p": 0.5}, provider_config={"custom_host": hosts.get(one, ONE)}) for one in names
    ]
    rows = [model_row(one, app_id="creds", config={"top_p": 1}, provider_config={"custom_host": ONE}) for one in names]
    return reviewed(desired, rows, Settings(models=True, limits=Limits(1000, 100)))


@pytest.mark.slow
def test_another_host_is_shown_first_in_every_format_however_much_a_page_has_to_cut() -> None:
    review = many()
    subject = PlanView(review, "local")
    told = "m150: the effect on traffic is not known: its requests and credentials may go to another host"
    assert told in plan_text(review, "local", Style())[:500]
    page = plan_html(subject)
    assert "another host" in page[: page.index("</header>")]
    for room in (8_000, 64_000):
        text = plan_markdown(subject, room)
        head = text.index("| change |")
        assert "virtual-model/openai/m150" in text[:head]
        assert "its requests and credentials may go to another host" in text[:head]
        (first, *_) = (line for line in text[head:].splitlines() if line.startswith("| update"))
        assert "m150" in first
        assert "another host" in first
    assert "approves none" in plan_markdown(subject, 8_000).splitlines()[1]
