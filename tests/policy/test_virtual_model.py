"""Virtual models: files, the normal form, live rows, and that what an update writes is what the file wants."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.errors import PolicyctlError
from policyctl.plan.diff import FieldChange, contents
from policyctl.plan.plan import document_to_write, equal, update
from policyctl.policy.document import Document, canonical_text, without_nulls
from policyctl.policy.model_schema import read_model
from policyctl.policy.model_settings import ALIASES, SECRETS, SENT_AS, SET, SETTINGS, alias_of, is_masked, sent_key, snake_case
from policyctl.policy.virtual_model import VirtualModel, addresses_in, masked_extras, normal_form, written_form
from policyctl.report.format import describe_value, field_values
from tests.virtual_models import camel_case, live_of

HEAD: Document = {"spec_version": "v1", "kind": "model"}


def model_of(**keys: Any) -> VirtualModel:
    model, found = read_model({**HEAD, "name": "openai/gpt-4o", **keys}, "gpt.yaml")
    assert model is not None, found
    return model


FILES: dict[str, tuple[Document, str, str]] = {
    "a secret": ({"provider_config": {"api_key": "abc"}}, "P110", "provider_config.api_key"),
    "a secret in camelCase": ({"provider_config": {"awsSecretAccessKey": "x"}}, "P110", "provider_config.awsSecretAccessKey"),
    "a secret as a template": ({"provider_config": {"api_key": "{{ key }}"}}, "P110", "provider_config.api_key"),
    "a user in a URL": ({"provider_config": {"custom_host": "https://u:p@host/v1"}}, "P110", "provider_config.custom_host"),
    "a secret among the parameters": ({"config": {"api_key": "abc"}}, "P110", "config.api_key"),
    "a secret deep in a mapping": (
        {"provider_config": {"metadata": {"a": [{"apiKey": "x"}]}}},
        "P110",
        "provider_config.metadata.a.0.apiKey",
    ),
    "a password in quotes": ({"provider_config": {"custom_host": "https://u:'p'@host"}}, "P110", "provider_config.custom_host"),
    "a user in a URL of the description": ({"description": "ask https://ana@wiki.example"}, "P110", "description"),
    "a user in a URL of a tag": ({"tags": ["https://u:p@host"]}, "P110", "tags"),
    "a user in a URL among the parameters": ({"config": {"proxy": "https://u:p@host"}}, "P110", "config.proxy"),
    "a header with its value": (
        {"provider_config": {"forward_headers": ["x: y"]}},
        "P110",
        "provider_config.forward_headers.0",
    ),
    "a service account": (
        {"provider_config": {"vertex_service_account_json": {"private_key": "k"}}},
        "P110",
        "provider_config.vertex_service_account_json",
    ),
    "a secret in the parameters": ({"config": {"extra": [{"authToken": "abc"}]}}, "P110", "config.extra.0.authToken"),
    "a secret in a hook": (
        {"provider_config": {"before_request_hooks": [{"headers": {"api-key": "abc"}}]}},
        "P110",
        "provider_config.before_request_hooks.0.headers.api-key",
    ),
    "a key that opens nothing, elsewhere": ({"config": {"api_key": "dummy"}}, "P110", "config.api_key"),
    "a mark for the id of a connection": ({"app_id": "id:0000"}, "P111", "app_id"),
    "the same, in its other spelling": ({"connection": "id:0000"}, "P111", "connection"),
    "the id of a connection": ({"connection_id": "0000"}, "P111", "connection_id"),
    "the path of a certificate": (
        {"provider_config": {"server_cert_file": "a.pem"}},
        "P111",
        "provider_config.server_cert_file",
    ),
    "a key of no provider": ({"provider_config": {"custom_hots": "x"}}, "P101", "provider_config.custom_hots"),
    "a misspelled key": ({"provder_config": {}}, "P101", "provder_config"),
    "both spellings": ({"provider_config": {"customHost": "a", "custom_host": "b"}}, "P109", "provider_config.customHost"),
    "two words for one key": (
        {"provider_config": {"azure_foundry_url": "a", "azure_inference_foundry_url": "a"}},
        "P109",
        "provider_config.azure_foundry_url",
    ),
    "two words for one key, one of them in camelCase": (
        {"provider_config": {"azureDeploymentName": "a", "azure_deployment_name": "b"}},
        "P109",
        "provider_config.azure_deployment_name",
    ),
    "a number in another word for a key": (
        {"provider_config": {"azure_extra_params": 1}},
        "P104",
        "provider_config.azure_extra_params",
    ),
    "a fraction": ({"provider_config": {"request_timeout": 1.5}}, "P104", "provider_config.request_timeout"),
    "a switch for text": (
        {"provider_config": {"mistral_fim_completion": False}},
        "P104",
        "provider_config.mistral_fim_completion",
    ),
    "tags of null": ({"tags": None}, "P104", "tags"),
    "a number that JSON does not have": ({"config": {"a": [{"b": float("nan")}]}}, "P103", "config.a.0.b"),
    "a name without provider": ({"name": "gpt-4o"}, "P108", "name"),
    "a name with the prefix of policies": ({"name": "virtual-policy/openai/x"}, "P108", "name"),
    "the same after that of models": ({"name": "virtual-model/virtual-policy/openai/x"}, "P108", "name"),
    "a name with its prefix twice": ({"name": "virtual-model/virtual-model/openai/x"}, "P108", "name"),
    "three prefixes": ({"name": "virtual-model/virtual-policy/virtual-model/openai/x"}, "P108", "name"),
    "an empty provider": ({"name": "virtual-model//x"}, "P108", "name"),
    "two connections": ({"app_id": "a", "connection": "b"}, "P109", "connection"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_with_an_error_is_no_model_and_the_message_names_the_place(case: str) -> None:
    keys, code, place = FILES[case]
    model, found = read_model({**HEAD, "name": "openai/gpt-4o", **keys}, "gpt.yaml")
    assert model is None
    assert [(one.code, ".".join(map(str, one.path))) for one in found if one.severity == "error"] == [(code, place)]


@pytest.mark.parametrize(
    ("keys", "remedy"),
    [
        ({"provider_config": {"server_cert_file": "a.pem"}}, "write the certificate's text as server_cert"),
        ({"connection_id": "0f3b"}, "write app_id with the connection's name"),
    ],
)
def test_what_a_file_cannot_have_is_refused_with_what_to_write(keys: Document, remedy: str) -> None:
    _, [found] = read_model({**HEAD, "name": "openai/gpt-4o", **keys}, "gpt.yaml")
    assert (found.code, remedy in found.message) == ("P111", True)


@pytest.mark.parametrize("secret", ["sk-live-0123456789", "{{ secret }}"])
def test_no_message_shows_a_secret(secret: str) -> None:
    for key in SECRETS:
        value: Any = {"private_key": secret} if SETTINGS[key].type == "mapping" else secret
        _, found = read_model({**HEAD, "name": "openai/x", "provider_config": {key: value}}, "gpt.yaml")
        assert found
        assert all(secret not in one.message for one in found)


@pytest.mark.parametrize("key", sorted(SECRETS))
def test_an_empty_secret_is_no_part_of_a_file(key: str) -> None:
    """It counts as absent where models are compared, so no plan would show that it is written over a key of the remote."""
    empty: Any = {} if SETTINGS[key].type == "mapping" else ""
    for spelling in {key, alias_of(key) or key}:
        model, found = read_model({**HEAD, "name": "openai/x", "provider_config": {spelling: empty}}, "gpt.yaml")
        assert (model, [(one.code, one.path) for one in found]) == (None, [("P110", ("provider_config", spelling))])
        assert "leave the key out" in found[0].message
    assert model_of(provider_config={key: None}).document["provider_config"] == {}


TAKEN: dict[str, tuple[Document, Document]] = {
    "text for a number": ({"provider_config": {"request_timeout": "500"}}, {"provider_config": {"request_timeout": 500}}),
    "an alias": ({"provider_config": {"resourceName": "r"}}, {"provider_config": {"azure_resource_name": "r"}}),
    "a provider of its own": ({"provider_config": {"provider": "groq"}}, {"provider_config": {}}),
    "a key that opens nothing": ({"provider_config": {"api_key": "ollama"}}, {"provider_config": {"api_key": "ollama"}}),
    "a connection": ({"connection": "creds"}, {"app_id": "creds"}),
    "nulls": ({"config": None, "description": None}, {"description": "virtual-model/openai/gpt-4o"}),
}


@pytest.mark.parametrize("case", TAKEN)
def test_what_the_platforms_own_cli_takes_is_taken(case: str) -> None:
    keys, expected = TAKEN[case]
    document = model_of(**keys).document
    assert {key: document.get(key) for key in expected} == expected


def test_a_key_that_no_model_has_is_left_out_with_a_warning() -> None:
    model, found = read_model({**HEAD, "name": "openai/x", "owner": "me", "created_by": "me"}, "gpt.yaml")
    assert model is not None
    assert "owner" not in model.document
    assert [(one.code, one.path, one.severity) for one in found] == [("P484", ("owner",), "warning")]


SAME: dict[str, tuple[Document, Document]] = {
    "texts that are the name without its prefix": ({}, {"display_name": "openai/gpt-4o", "description": "openai/gpt-4o"}),
    "no texts": ({}, {"display_name": None}),
    "no type": ({}, {"model_type": None}),
    "tags in another order, twice": ({"tags": ["b", "a"]}, {"tags": ["a", "b", "a"]}),
    "an empty config": ({}, {"config": {}}),
    "a whole number": ({"config": {"temperature": 1}}, {"config": {"temperature": 1.0}}),
    "what is derived": ({}, {"provider": "openai", "api_base": "x", "title": "y", "model_name": "gpt-4o"}),
    "what the server writes": ({}, {"tenant_id": "t", "created_on": "now", "updated_at": "now"}),
    "what is not known": ({}, {"billing": {"plan": 1}, "provider_config": {"apiBase": "x"}}),
    "a secret that only the remote has": ({}, {"provider_config": {"api_key": "abc"}}),
    "a key that opens nothing": ({"provider_config": {"api_key": "ollama"}}, {"provider_config": {"api_key": "***"}}),
}


@pytest.mark.parametrize("case", SAME)
def test_what_means_the_same_is_no_change(case: str) -> None:
    keys, row = SAME[case]
    assert update(model_of(**keys), live_of({"name": "virtual-model/openai/gpt-4o", **row})) is None


def test_what_is_shown_of_where_a_model_is_called_is_what_the_gateway_calls() -> None:
    """However a file spells it: of two spellings the one that counts, also where the other is null."""
    spellings = {"app_id": "a", "connection": "b", "api_key": "env:A", "apiKey": "env:B"}
    spellings |= {"custom_host": "https://a/v1", "customHost": "https://b/v1"}
    valid = 0
    for way in product(*[("absent", None, text) for text in spellings.values()]):
        data: Document = {name: item for name, item in zip(spellings, way, strict=True) if item != "absent"}
        top: Document = {name: data.pop(name) for name in ("app_id", "connection") if name in data}
        file: Document = {**HEAD, "name": "openai/gpt-4o", **top, "provider_config": data}
        model, _ = read_model(file, "gpt.yaml")
        if model is not None:
            valid += 1
            called = model.document["provider_config"] | {"app_id": model.document.get("app_id"), "api_key": model.key}
            assert addresses_in(file) == without_nulls(called), file
    assert valid > 50


@pytest.mark.parametrize("shown", ["***", "sk-live-0123456789", "dummy"])
def test_a_placeholder_that_is_written_over_a_key_is_shown_with_whatever_else_changes(shown: str) -> None:
    live = live_of({"name": "virtual-model/openai/gpt-4o", "provider_config": {"apiKey": shown}})
    change = update(model_of(provider_config={"api_key": "dummy"}, tags=["a"]), live)
    assert change is not None
    assert change.fields == (FieldChange("provider_config.api_key", "(set)", "dummy"), FieldChange("tags", None, ["a"]))
    assert [field_values(field)[1] for field in change.fields] == ["dummy", "[a]"]


def test_a_placeholder_of_a_new_model_is_shown() -> None:
    document = model_of(provider_config={"api_key": "ollama"}).document
    assert FieldChange("provider_config.api_key", None, "ollama") in contents(document, gone=False)
    assert "api_key ollama" in describe_value(document)


def test_the_limit_that_the_platforms_cli_adds_is_kept_where_the_file_has_none() -> None:
    row = {"name": "virtual-model/anthropic/claude", "config": {"max_tokens": 4096, "top_p": 1}}
    silent = model_of(name="anthropic/claude", config={"top_p": 1})
    assert update(silent, live_of(row)) is None
    other = update(model_of(name="anthropic/claude", config={"top_p": 0.5}), live_of(row))
    assert other is not None
    assert [field.path for field in other.fields] == ["config.top_p"]
    missing = update(model_of(name="anthropic/claude", config={"max_tokens": 4096}), live_of({"name": row["name"]}))
    assert missing is not None
    assert [field.path for field in missing.fields] == ["config.max_tokens"]


def test_a_connection_takes_the_place_of_a_secret() -> None:
    live = live_of({"name": "virtual-model/openai/gpt-4o", "provider_config": {"apiKey": "x", "api_key": "abc"}})
    change = update(model_of(app_id="creds"), live)
    assert change is not None
    assert [(field.path, field.before, field.after) for field in change.fields] == [
        ("app_id", None, "creds"),
        ("provider_config.api_key", SET, None),
    ]
    assert change.after is not None
    assert "api_key" not in document_to_write(live, change.after)["provider_config"]


def test_an_update_sends_back_a_secret_that_the_remote_shows_and_what_it_does_not_know() -> None:
    row = {
        "name": "openai/gpt-4o",
        "owner": "billing",
        "provider_config": {"api_key": "abc-0123456789", "fooBar": 1, "customHost": "old"},
    }
    live = live_of(row)
    change = update(model_of(provider_config={"custom_host": "new"}), live)
    assert change is not None
    assert "abc-0" not in repr((change, live))
    assert change.after is not None
    sent = document_to_write(live, change.after)
    assert sent["name"] == "openai/gpt-4o"
    assert sent["owner"] == "billing"
    assert sent["provider_config"] == {"provider": "openai", "api_key": "abc-0123456789", "foo_bar": 1, "custom_host": "new"}


MASKS = [
    *("***", "sk-***", "•••••", "<hidden>", "REDACTED", "xxxxxx", "sk-...cdef", "sk-…cdef", "XXXX-cdef", "xxxxxxxxcdef"),
    *(
        "sk-...4a2f",
        "XXXXXXXX4a2f",
        "**redacted** (4a2f)",
        "#####cdef",
        "**cdef",
        "••cdef",
        "●●cdef",
        "____",
        "(set)",
        "--------cdef",
        "[REDACTED] cdef",
        "encrypted",
        "none",
    ),
    *(
        "cdef",
        "3f9a",
        "9b1c4a2f",
        "sk-proj-",
        "****",
        "sk-a1b2c3",
        "last4: cdef",
        "ends with cdef",
        "ending in 4a2f, set in May",
    ),
    *(
        "sha256:9f86d081884c7d65",
        "hash(9f86d081884c7d65)",
        "{cipher}AQBzZWNyZXQ=",
        "vault:v1:8SDd3WHDOjf7mq",
        "ENC(AQBzZWNyZXQ=)",
    ),
    *("$2b$12$abcdefghijklmnopqrstuv", "gAAAAABlY2lwaGVydGV4dA==", "arn:aws:secretsmanager:eu:1:secret:a"),
]


@pytest.mark.parametrize("mask", [*MASKS, True, {"private_key": "****"}])
def test_a_mask_is_never_sent_back_as_a_secret(mask: Any) -> None:
    assert is_masked(mask)
    live = live_of({"name": "virtual-model/openai/gpt-4o", "provider_config": {"api_key": mask}})
    change = update(model_of(provider_config={"custom_host": "new"}), live)
    assert change is not None
    assert change.after is not None
    with pytest.raises(PolicyctlError, match="api_key"):
        document_to_write(live, change.after)


@pytest.mark.parametrize(
    "key",
    [
        *("sk-proj-Ab_c-12", "abc/def+ghi=jkl", "-----BEGIN PRIVATE KEY-----\nQUJD\n", "0123456789abcdef"),
        *("ollama", "Dummy", "gateway"),
        {"type": "service_account", "project_id": "p", "private_key": "-----BEGIN PRIVATE KEY-----\nQUJD\n"},
    ],
)
def test_a_whole_key_is_not_taken_for_a_mask(key: Any) -> None:
    assert not is_masked(key, "api_key")


@pytest.mark.parametrize(("text", "masked"), [("cdef", True), ("4a2f", True), ("hunter2", False), ("Passw0rd", False)])
def test_a_password_may_be_shorter_than_a_key(text: str, masked: bool) -> None:
    assert is_masked(text, "watsonx_cpd_password") == masked


@pytest.mark.parametrize(
    "row", [{"auth": "basic"}, {"hf_token": "gateway"}, {"credentials": {"region": "eu"}}, {"note": "cdef"}]
)
def test_a_short_word_that_is_no_part_of_a_key_stops_no_update(row: dict[str, Any]) -> None:
    assert masked_extras(live_of({"name": "virtual-model/openai/gpt-4o", **row})) == ()


@pytest.mark.parametrize(
    "row",
    [
        {"provider_config": {"my_api_key": "sk-…cdef"}},
        {"provider_config": {"extra_headers": {"Authorization": "none"}}},
        {"provider_config": {"proxyUrl": "https://user:********@host"}},
        {"credentials": [{"value": "********"}]},
        {"hf_token": "cdef"},
        {"provider_config": {"my_api_keys": ["4a2f"]}},
    ],
)
def test_a_mask_in_a_field_that_the_format_does_not_know_is_never_sent_back(row: dict[str, Any]) -> None:
    live = live_of({"name": "virtual-model/openai/gpt-4o", **row})
    change = update(model_of(description="longer"), live)
    assert change is not None
    assert change.after is not None
    with pytest.raises(PolicyctlError, match="only a mask"):
        document_to_write(live, change.after)


def test_every_alias_is_one_key_and_no_secret_has_two_names() -> None:
    assert all(snake_case(alias) == key for alias, key in ALIASES.items())
    assert all(key in SETTINGS for key in ALIASES.values())


LEAST: dict[str, tuple[Any, Any]] = {
    "text": ("", "x"),
    "number": (0, 1),
    "switch": (False, True),
    "texts": ([], ["x"]),
    "mapping": ({}, {"x": {}}),
    "mappings": ([], [{}]),
}


@pytest.mark.parametrize("key", sorted(SETTINGS.keys() - SECRETS))
def test_a_setting_of_a_file_is_compared_as_what_is_written(key: str) -> None:
    """Otherwise a change of it could be written that no plan shows, or be shown and not be written."""
    pages: dict[str, Document] = {}
    for spelling, value in product({key, alias_of(key) or key}, LEAST[SETTINGS[key].type]):
        document = model_of(provider_config={spelling: value}).document
        sent = without_provider(document_to_write(None, document))
        assert written_form(document)["provider_config"] == sent
        assert pages.setdefault(canonical_text(written_form(document)), sent) == sent
        assert equal(model_of(provider_config={spelling: value}), live_of(camel_case(document)))
    assert len(pages) == 2


def without_provider(sent: Document) -> Document:
    return {key: value for key, value in sent["provider_config"].items() if key != "provider"}


@pytest.mark.parametrize(("word", "key"), SENT_AS.items())
def test_what_a_file_calls_by_another_word_is_written_by_the_one_that_is_compared(word: str, key: str) -> None:
    """A live tenant's camelCase stands for both. A row in snake_case that has the other one alone differs."""
    for spelling in (word, key, alias_of(key) or key):
        desired = model_of(name="azure-ai/m", provider_config={spelling: "x"})
        assert without_provider(document_to_write(None, desired.document)) == {key: "x"}
        for same in (key, alias_of(key) or key):
            assert update(desired, live_of({"name": desired.name, "provider_config": {same: "x"}})) is None
        live = live_of({"name": desired.name, "provider_config": {word: "x"}})
        assert not equal(desired, live)
        change = update(desired, live)
        assert change is not None
        assert change.after is not None
        fields = {field.path: (field.before, field.after) for field in change.fields}
        assert fields == {f"provider_config.{word}": ("x", None), f"provider_config.{key}": (None, "x")}
        assert without_provider(document_to_write(live, change.after)) == {key: "x"}


@pytest.mark.parametrize(("word", "key"), SENT_AS.items())
@pytest.mark.parametrize("before", ["x", "y"])
def test_a_row_with_both_words_for_a_key_differs_from_a_file_whatever_they_hold(word: str, key: str, before: str) -> None:
    live = live_of({"name": "virtual-model/azure-ai/m", "provider_config": {word: before, key: "x"}})
    change = update(model_of(name="azure-ai/m", provider_config={key: "x"}), live)
    assert change is not None
    assert change.fields == (FieldChange(f"provider_config.{word}", before, None),)


texts = st.text("abc", min_size=1, max_size=3)
values = {
    "text": texts,
    "number": st.integers(1, 9),
    "switch": st.booleans(),
    "texts": st.lists(texts, max_size=2),
    "mapping": st.dictionaries(texts, texts, max_size=2),
    "mappings": st.just([{"a": "b"}]),
}
open_keys = sorted(SETTINGS.keys() - SECRETS)
configs = st.lists(st.sampled_from(open_keys), max_size=4, unique_by=sent_key).flatmap(
    lambda keys: st.fixed_dictionaries({key: values[SETTINGS[key].type] for key in keys})
)
files = st.fixed_dictionaries(
    {"name": st.sampled_from(["openai/x", "virtual-model/anthropic/y", "azure-ai/z"])},
    optional={
        "display_name": texts,
        "description": texts,
        "provider_config": configs,
        "config": st.dictionaries(st.sampled_from(["max_tokens", "temperature"]), st.sampled_from([1, 4096, 0.5])),
        "tags": st.lists(texts, max_size=3),
        "model_type": st.sampled_from(["chat", "embedding"]),
        "app_id": texts,
    },
)
secrets = st.dictionaries(st.sampled_from(["api_key", "aws_session_token"]), st.just("abc-0123456789"))


@given(files, files, secrets, st.booleans(), st.booleans())
def test_what_is_written_over_any_live_row_is_what_the_file_wants(
    file: Document, before: Document, own: Document, camel: bool, merges: bool
) -> None:
    """Whether the remote answers in camelCase or not, replaces what it has or merges into it (but for the connection)."""
    desired = model_of(**file)
    was = model_of(**{**before, "name": file["name"]})
    row = document_to_write(None, was.document)
    row["provider_config"] |= own
    live = live_of(camel_case(row) if camel else row)
    change = update(desired, live)
    assert (change is None) == equal(desired, live)
    if change is None:
        return
    assert change.fields
    assert change.after is not None
    sent = document_to_write(live, change.after)
    now = {**row, **sent} if merges and ("app_id" in sent or "app_id" not in row) else sent
    assert equal(desired, live_of(camel_case(now) if camel else now))
    assert normal_form(normal_form(now)) == normal_form(now)


def test_an_update_sends_back_nulls_within_what_only_the_row_has() -> None:
    live = live_of({"name": "openai/gpt-4o", "provider_config": {"region": {"zone": None}, "other": None}})
    change = update(model_of(description="new"), live)
    assert change is not None
    assert change.after is not None
    sent = document_to_write(live, change.after)["provider_config"]
    assert sent == {"provider": "openai", "region": {"zone": None}}


def test_nothing_that_is_compared_holds_a_secret_of_a_live_row() -> None:
    """Neither under its own key, nor in a URL, a header, or a mapping, in whatever spelling the remote has them."""
    row = {
        "name": "openai/gpt-4o",
        "config": {"temperature": 0.1, "api_key": "secret", "extra": [{"apiKey": "secret"}]},
        "provider_config": {
            "apiKey": "secret",
            "customHost": "https://user:secret@host/v1",
            "urlToFetch": "https://user:a@'secret@host/v1",
            "forwardHeaders": ["X-Key: secret", "X-Trace"],
            "metadata": {"azureAdToken": "secret", "team": "support"},
            "vertexServiceAccountJson": {"private_key": "secret"},
        },
    }
    shown = live_of(row).normal
    assert "secret" not in str(shown)
    assert shown["config"] == {"temperature": 0.1, "api_key": SET, "extra": [{"apiKey": SET}]}
    assert shown["provider_config"]["custom_host"] == "https://***@host/v1"
    assert shown["provider_config"]["url_to_fetch"] == "https://***@host/v1"
    assert shown["provider_config"]["forward_headers"] == ["X-Key: (set)", "X-Trace"]
    assert shown["provider_config"]["metadata"] == {"azureAdToken": SET, "team": "support"}
