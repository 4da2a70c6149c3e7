"""A model has one name, whichever way it is spelled, and the spelling that is known where it is written."""

from __future__ import annotations

import pytest

from policyctl.model.names import canonical_model, model_spelling, virtual_model

VIRTUAL, BARE = "virtual-model/openai/gpt-4o", "openai/gpt-4o"


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        (VIRTUAL, VIRTUAL),
        (BARE, VIRTUAL),
        ("groq/openai/gpt-oss-120b", "virtual-model/groq/openai/gpt-oss-120b"),
        ("virtual-model/groq/openai/gpt-oss-120b", "virtual-model/groq/openai/gpt-oss-120b"),
        ("gpt-4o", "gpt-4o"),
        ("virtual-model/gpt-4o", "gpt-4o"),
        ("virtual-policy/team/x", "virtual-policy/team/x"),
        ("", ""),
    ],
)
def test_both_spellings_of_a_model_are_one_name(name: str, canonical: str) -> None:
    assert canonical_model(name) == canonical
    assert canonical_model(canonical) == canonical


@pytest.mark.parametrize(
    ("name", "known", "virtual", "written"),
    [
        (BARE, {VIRTUAL}, False, VIRTUAL),
        (VIRTUAL, {BARE}, False, BARE),
        (BARE, {BARE}, True, BARE),
        (VIRTUAL, {BARE}, True, BARE),
        (BARE, {BARE, VIRTUAL}, False, BARE),
        (BARE, {BARE, VIRTUAL}, True, VIRTUAL),
        (BARE, {"openai/gpt-4"}, True, BARE),
        (VIRTUAL, set(), False, VIRTUAL),
        ("gpt-4o", {"virtual-model/gpt-4o"}, False, "virtual-model/gpt-4o"),
    ],
)
def test_a_model_is_written_in_the_spelling_that_is_known(name: str, known: set[str], virtual: bool, written: str) -> None:
    assert model_spelling(name, known, virtual=virtual) == written


def test_a_declaration_may_leave_the_prefix_out() -> None:
    assert virtual_model(BARE) == virtual_model(VIRTUAL) == VIRTUAL
