"""Which models a name, a provider or a glob means."""

from __future__ import annotations

import pytest

from policyctl.policy.names import matching_models

GPT, MINI, CLAUDE, BARE = "virtual-model/openai/gpt-4o", "virtual-model/openai/gpt-4o-mini", "virtual-model/anthropic/c", "own"
MODELS = (GPT, MINI, CLAUDE, BARE)


@pytest.mark.parametrize(
    ("pattern", "models"),
    [
        (GPT, [GPT]),
        ("openai/gpt-4o", [GPT]),
        ("gpt-4o", [GPT]),
        ("openai", [GPT, MINI]),
        ("openai/*", [GPT, MINI]),
        ("gpt-4o*", [GPT, MINI]),
        ("*/c", [CLAUDE]),
        ("own", [BARE]),
        ("*", list(MODELS)),
        ("OpenAI", []),
        ("openai/", []),
        ("open", []),
        ("", []),
    ],
)
def test_a_model_has_four_names_and_any_of_them_may_fit(pattern: str, models: list[str]) -> None:
    assert list(matching_models(pattern, MODELS)) == models
