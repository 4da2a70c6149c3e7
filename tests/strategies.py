"""Random policies, good ones and ones that only a remote could hold, and random sets of them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from policyctl.policy.model_settings import SECRETS, SETTINGS
from policyctl.policy.names import name_error

MODELS = [f"virtual-model/{provider}/{model}" for provider in ("google", "openai", "x") for model in ("a", "b", "c")]
# Names that look like the label of another target, like several, or like a private variable.
ODD_MODELS = ["virtual-model/0", "0 before", "virtual-model/x/a#2", "virtual-model/__x/a", "x/a, x/b", '"a"', "\u00b2"]

codes = st.lists(st.integers(100, 599), max_size=4)
weights = st.one_of(st.just(1), st.floats(0.001, 1, allow_nan=False))
modes = st.sampled_from(["loadbalance", "fallback", "single"])


def _optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def _merged(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(*parts).map(lambda dicts: {key: value for one in dicts for key, value in one.items()})


strategy = _merged(st.fixed_dictionaries({"mode": modes}), _optional(on_status_codes=codes))
retry = _merged(
    st.fixed_dictionaries({"attempts": st.integers(0, 5)}),
    _optional(on_status_codes=codes, use_retry_after_header=st.booleans()),
)
leaf = _merged(st.fixed_dictionaries({"model_name": st.sampled_from([*MODELS, *ODD_MODELS])}), _optional(weight=weights))


def _group(targets: st.SearchStrategy[Any], **more: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    required = st.fixed_dictionaries({"strategy": strategy, "targets": st.lists(targets, min_size=1, max_size=4)})
    return _merged(required, _optional(retry=retry, **more))


targets = st.recursive(leaf, lambda inner: _group(inner, weight=weights), max_leaves=6)
bodies = _group(targets, cache=st.fixed_dictionaries({"mode": st.just("simple")}))
names = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S"), exclude_characters="*?["), min_size=1, max_size=20
).filter(lambda name: name_error(name) is None)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=30)


def documents(name: st.SearchStrategy[str] = names) -> st.SearchStrategy[dict[str, Any]]:
    """Documents that a file may say."""
    required = st.fixed_dictionaries({"name": name, "policy": bodies})
    return _merged(required, _optional(display_name=texts, description=texts))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)

_loose_codes = st.lists(st.integers(-5, 700) | st.sampled_from([True, "503", 503.0, None]), max_size=4) | json_values
_loose_part = _optional(
    mode=modes | json_values,
    attempts=st.integers(-3, 9) | json_values,
    on_status_codes=_loose_codes,
    use_retry_after_header=st.booleans() | json_values,
)
_loose_leaf = _optional(model_name=st.sampled_from(MODELS) | json_values, weight=weights | json_values, extra=json_values)


def _loose_group(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    part = _loose_part | json_values
    return _optional(
        strategy=part,
        retry=part,
        cache=part,
        weight=weights | json_values,
        extra=json_values,
        targets=st.lists(inner | json_values, max_size=4) | json_values,
    )


loose_bodies = st.recursive(_loose_leaf, _loose_group, max_leaves=6)
loose_documents = _merged(
    st.fixed_dictionaries({"name": names, "policy": loose_bodies}),
    _optional(display_name=texts | json_values, description=texts | json_values, extra=json_values),
)

# Texts that a file must quote, escape or write as a template.
_SYNTAX = ("{{", "}}", "{%", "%}", "{#", "#}", "{{-", "'", '"', "\\", "\n", "\r", "\t", " ", ": ", " #", "-", "---", "...")
_LETTERS = ("x", "0", "é", "日本", "🙂")
_HIDDEN = ("\x00", "\x1b[31m", "\x7f", "\x85", "\xa0", "\u200b", "\u2028", "\u202e", "\ufeff", "\ufffe", "\U000e0001")
_hostile_parts = st.sampled_from((*_SYNTAX, *_LETTERS, *_HIDDEN))
hostile = st.one_of(
    st.lists(_hostile_parts, max_size=12).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.sampled_from(
        "no y Y on 0503 12:30 1_0 1e3 0o7 0x1f 1. .5 .inf .nan ~ null NULL true True = << <<: 2024-01-01 +1 -0 0b1 1e-07 ! & *a"
        " - ? : | > % @ ` [] {} {a: !!str --- ...".split()
    ),
    st.integers(-(10**30), 10**30).map(str),
    st.floats().map(str),
)

SECRET = "canary-of-a-live-model"
# Rows of virtual models, with any texts and with secrets of their own.
_setting_values = {
    "text": hostile,
    "number": st.integers(-9, 10**9),
    "switch": st.booleans(),
    "texts": st.lists(hostile.filter(lambda text: ":" not in text), max_size=3),
    "mapping": st.dictionaries(hostile, json_values, max_size=3),
    "mappings": st.lists(st.dictionaries(hostile, json_values, max_size=2), max_size=2),
}
_provider_configs = st.lists(st.sampled_from(sorted(SETTINGS.keys() - SECRETS)), max_size=4, unique=True).flatmap(
    lambda keys: st.fixed_dictionaries({key: _setting_values[SETTINGS[key].type] for key in keys})
)
_own_secrets = st.lists(st.sampled_from(sorted(SECRETS)), max_size=2, unique=True).map(
    lambda keys: {key: {"private_key": SECRET} if SETTINGS[key].type == "mapping" else SECRET for key in keys}
)
model_rows = st.fixed_dictionaries(
    {"name": st.sampled_from(["openai/x", "virtual-model/anthropic/y", "virtual-model/azure-ai/z:0", "strange/a b"])},
    optional={
        "display_name": hostile,
        "description": hostile,
        "provider_config": st.tuples(_provider_configs, _own_secrets).map(
            lambda both: {**both[0], **both[1], "unknownKey": SECRET}
        ),
        "config": st.dictionaries(hostile, json_values, max_size=4),
        "tags": st.lists(hostile, max_size=4),
        "model_type": st.sampled_from(["chat", "embedding", "strange"]),
        "app_id": st.sampled_from(["creds", "id:0123", "{{ x }}"]),
        "owner": json_values,
    },
)
