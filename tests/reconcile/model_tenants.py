"""Random lists of models, as others may have written them, and random tenants that a directory wants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from policyctl.plan.plan import Desired
from policyctl.policy.document import Policy, policy_from_file
from policyctl.policy.model_schema import read_model
from policyctl.policy.model_settings import SECRETS, SETTINGS, alias_of, sent_key, snake_case
from policyctl.policy.virtual_model import VirtualModel
from tests.remote.model_tenant import CONNECTIONS
from tests.strategies import json_values

# Names that a URL, a query or a pattern could misread.
NAMES = ["openai/a", "openai/a&b=c", "x/a#1", "x/a+b", "x/%41", "anthropic/claude: 3 x", "x/A", "a21/a/b"]
ELSEWHERE = "virtual-model/else/where"
CANARY = "zqCANARYMODELqz"

_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": st.sampled_from(["", "x", "https://h.example/v1"]),
    "number": st.integers(0, 3),
    "switch": st.booleans(),
    "texts": st.lists(st.sampled_from(["x-a", "x-b"]), max_size=2),
    "mapping": st.dictionaries(st.sampled_from("ab"), st.integers(0, 2), max_size=2),
    "mappings": st.lists(st.dictionaries(st.sampled_from("ab"), st.integers(0, 2), max_size=1), max_size=2),
}


def _settings(keys: Iterable[str], *, loose: bool) -> st.SearchStrategy[dict[str, Any]]:
    def one(key: str) -> st.SearchStrategy[tuple[str, Any]]:
        value = _VALUES[SETTINGS[key].type]
        if loose:
            value = st.sampled_from([f"sk-{CANARY}", "***", "", None, {"k": CANARY}]) if key in SECRETS else value | json_values
        return st.tuples(st.sampled_from([key, alias_of(key) or key]), value)

    pairs = st.sampled_from(sorted(keys)).flatmap(one)
    # A file has one word for each key that is sent; a row may have both words.
    return st.lists(pairs, max_size=4, unique_by=lambda pair: (snake_case if loose else sent_key)(pair[0])).map(dict)


def _optional(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keys)


def _merged(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(*parts).map(lambda dicts: {key: value for one in dicts for key, value in one.items()})


texts = st.sampled_from(["", "One", "a: b"])
files = _optional(
    display_name=texts,
    description=texts,
    provider_config=_settings(SETTINGS.keys() - SECRETS - {"forward_headers"}, loose=False),
    config=_optional(temperature=st.floats(0, 1), max_tokens=st.sampled_from([1, 4096]), stop=st.lists(texts, max_size=1)),
    tags=st.lists(st.sampled_from(["a", "b", "default"]), max_size=3),
    model_type=st.sampled_from(["chat", "embedding"]),
    app_id=st.sampled_from(sorted(CONNECTIONS)),
)
_loose_settings = _merged(
    _settings(SETTINGS.keys(), loose=True),
    _optional(provider=st.sampled_from(["openai", 5]), newKey=json_values, region=json_values),
)
loose_rows = _optional(
    display_name=texts | json_values,
    description=texts | json_values,
    provider_config=_loose_settings | json_values,
    config=st.dictionaries(st.sampled_from(["temperature", "max_tokens", "top"]), st.sampled_from([1, 4096, None]))
    | json_values,
    tags=st.lists(st.sampled_from(["a", "b", None, 3])) | json_values,
    model_type=st.sampled_from(["chat", "embedding"]) | json_values,
    connection_id=st.sampled_from([*CONNECTIONS.values(), "gone", ""]) | json_values,
    app_id=json_values,
    limits=json_values,
    title=json_values,
)
some_names = st.sampled_from(NAMES)
live_names = some_names.flatmap(lambda name: st.sampled_from([name, f"virtual-model/{name}"])) | st.sampled_from([None, 5, ""])


@st.composite
def row_sets(draw: st.DrawFn) -> list[Any]:
    """A list of models: most rows are usable, some have no id, no name, share a name, or are no objects at all."""
    found: list[Any] = []
    for number in range(draw(st.integers(0, 5))):
        row = {"id": f"m {number}/{number}#", "name": draw(live_names), **draw(loose_rows)}
        if draw(st.integers(0, 9)) == 0:
            row = draw(st.sampled_from([{**row, "id": None}, 5, None, "row", [row]]))
        found.append(row)
    return found


@st.composite
def tenants(draw: st.DrawFn) -> list[Desired]:
    """What a directory wants: models, and policies over some of them."""
    found: dict[str, Desired] = {}
    for name in draw(st.lists(some_names, max_size=5, unique=True)):
        model = wanted_model(name, **draw(files))
        found[model.name] = model
    targets = st.sampled_from(sorted(found) or [ELSEWHERE])
    for name in draw(st.lists(st.sampled_from("pqr"), max_size=3, unique=True)):
        policy = policy_over(name, draw(st.lists(targets, min_size=1, max_size=2, unique=True)))
        found[policy.name] = policy
    return list(found.values())


def wanted_model(name: str, **keys: Any) -> VirtualModel:
    model, found = read_model({"spec_version": "v1", "kind": "model", "name": name, **keys}, "m.yaml")
    assert model is not None, found
    return model


def policy_over(name: str, models: list[str]) -> Policy:
    targets = [{"model_name": model} for model in models]
    return policy_from_file({"name": name, "policy": {"strategy": {"mode": "fallback"}, "targets": targets}}, f"{name}.yaml")
