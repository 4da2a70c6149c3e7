"""What is written as a virtual model's file reads back the same, whatever the live row is, and never has a secret."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.errors import errors_in
from policyctl.load.directory import read_contents
from policyctl.load.source import Source
from policyctl.load.style import styled
from policyctl.load.write import model_text, unrepresentable_reasons, what_files_lack
from policyctl.load.yaml import read_yaml
from policyctl.plan.plan import equal
from policyctl.policy.document import Document
from policyctl.policy.live import read_row
from policyctl.policy.virtual_model import LiveModel, VirtualModel, VirtualModelRow
from tests.strategies import SECRET, hostile, json_values, model_rows
from tests.virtual_models import camel_case, live_of


def read(text: str) -> VirtualModel:
    """The one model of a file's text; no problem with it, nor with how it is written."""
    documents = read_yaml(text, "x.yaml")
    assert [document.problems for document in documents] == [[]]
    contents = read_contents(Source("x.yaml", text, documents), {}, models=True)
    assert errors_in(contents.problems) == []
    (model,) = contents.virtual_models
    return model


# What only a remote could have: any value anywhere.
loose_rows = st.fixed_dictionaries(
    {"name": hostile},
    optional=dict.fromkeys(
        ("display_name", "description", "provider_config", "config", "tags", "model_type", "app_id"), json_values
    ),
)


@given(model_rows, st.booleans())
def test_a_model_of_any_texts_reads_back_without_a_difference(row: Document, camel: bool) -> None:
    live = live_of(camel_case(row) if camel else row)
    text = model_text(live.document)
    if isinstance(text, str):
        assert SECRET not in text
        assert "id:0123" not in text
        again = read(text)
        assert equal(again, live)
        assert model_text(again.document) == text
        assert styled(text.encode(), "x.yaml") == text
    else:
        assert unrepresentable_reasons(text)
        assert SECRET not in repr(text)


@given(loose_rows)
def test_any_row_reads_back_or_has_a_reason(row: Document) -> None:
    live = read_row(VirtualModelRow({"id": "1", **row}))
    if isinstance(live, LiveModel):
        text = model_text(live.document)
        assert equal(read(text), live) if isinstance(text, str) else unrepresentable_reasons(text)


def test_the_file_is_short_and_in_the_order_of_the_manual() -> None:
    live = live_of(
        {
            "model_type": "chat",
            "tags": ["b", "a"],
            "provider_config": {
                "provider": "openai",
                "requestTimeout": 500,
                "customHost": "https://x.example/v1",
                "api_key": "k",
            },
            "config": {"top_p": 1.0, "stop": ["a b", "c"], "limits": {"per": {}, "user": [{"id": 1}, [2]]}},
            "app_id": "creds",
            "name": "openai/gpt-4o",
            "description": "GPT",
            "display_name": "openai/gpt-4o",
            "tenant_id": "t",
            "owner": "me",
        }
    )
    assert model_text(live.document) == (
        "spec_version: v1\nkind: model\nname: virtual-model/openai/gpt-4o\ndescription: GPT\napp_id: creds\n"
        "provider_config:\n  custom_host: https://x.example/v1\n  request_timeout: 500\n"
        "config:\n  limits:\n    per: {}\n    user:\n      - id: 1\n      - [2]\n  stop:\n    - a b\n    - c\n  top_p: 1\n"
        "tags: [a, b]\n"
    )
    assert what_files_lack(live.document) == ("its own api_key", "owner")


IMPOSSIBLE: dict[str, tuple[Document, str]] = {
    "no provider": ({"name": "gpt-4o"}, "name: the name of a virtual model is <provider>/<model>"),
    "a user in a URL": (
        {"provider_config": {"custom_host": f"https://u:{SECRET}@x/v1"}},
        "provider_config.custom_host: custom_host has a user or password",
    ),
    "a secret in hooks": (
        {"provider_config": {"before_request_hooks": [{"headers": {"Authorization": SECRET}}]}},
        "provider_config.before_request_hooks[0].headers.Authorization: Authorization may be a secret",
    ),
    "a secret in config": ({"config": {"api_key": SECRET}}, "config.api_key: api_key may be a secret"),
    "a URL with a user in config": ({"config": {"base": f"https://{SECRET}@x"}}, "config.base: base has a user or password"),
    "text for a number": (
        {"provider_config": {"request_timeout": "500"}},
        "a file cannot hold its provider_config.request_timeout as it is on the remote",
    ),
    "tags that are not a list": ({"tags": "a"}, "tags must be a list"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_no_file_can_hold_has_a_reason_without_the_secret(case: str) -> None:
    more, reason = IMPOSSIBLE[case]
    row: dict[str, Any] = {"name": "openai/gpt-4o", **more}
    found = model_text(live_of(row).document)
    assert isinstance(found, list)
    reasons = unrepresentable_reasons(found)
    assert reasons[0].startswith(reason), reasons
    assert SECRET not in repr(reasons)
