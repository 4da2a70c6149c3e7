"""A model has one name, whichever way it is spelled, and the spelling that is known where it is written."""

from __future__ import annotations

from itertools import product

import pytest

from policyctl.policy.model_settings import provider_key
from policyctl.policy.names import (
    MODEL_PREFIX,
    POLICY_PREFIX,
    PREFIXES,
    bare_name,
    both_spellings,
    canonical_model,
    canonical_name,
    matches,
    matching_models,
    model_names_in,
    model_spelling,
    name_error,
    provider_of,
    row_names,
    short_model,
    spellings,
    virtual_model,
)
from policyctl.policy.schema import PolicyFile, findings_of

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


@pytest.mark.parametrize("bare", ["x", "openai/x"])
def test_a_name_with_its_prefix_twice_is_another_name(bare: str) -> None:
    """Nothing that is meant for the policy or model with the prefix once is for it."""
    doubled = f"virtual-policy/virtual-policy/{bare}"
    assert (bare_name(doubled), canonical_name(doubled), set(spellings(doubled))) == (doubled, doubled, {doubled})
    assert not matches(doubled, [bare, f"virtual-policy/{bare}"])
    model = f"virtual-model/virtual-model/{bare}"
    assert (short_model(model), canonical_model(model), virtual_model(model)) == (model, model, model)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("virtual-policy/virtual-policy/x", "once, at most"),
        ("virtual-model/openai/x", "not virtual-model/"),
        ("virtual-policy/virtual-model/openai/x", "not virtual-model/"),
        ("cha[t]", "patterns"),
        ("prod-*", "patterns"),
        ("a  b", "spaces"),
        ("ch\\u0430t", "backslash"),
        ('x"y', "quotation mark"),
        ("x\ufe0f", "invisible"),
        ("x\u034f", "invisible"),
        ("\u3164", "invisible"),
        ("a\u2800b", "invisible"),
        ("x\U000e0100", "invisible"),
        ("a\u200bb", "invisible"),
    ],
)
def test_a_name_that_looks_like_another_is_refused_in_a_file(name: str, said: str) -> None:
    assert said in (name_error(name) or "")


@pytest.mark.parametrize("prefixes", [prefixes for most in range(4) for prefixes in product(PREFIXES, repeat=most)])
@pytest.mark.parametrize("rest", ["x-ai/m", "x-ai/virtual-policy/m", "x-ai/", "m"])
def test_guards_judge_the_provider_that_is_written(prefixes: tuple[str, ...], rest: str) -> None:
    """Whatever the name of a live model is: a target that begins with the prefix of policies alone is none."""
    name = "".join(prefixes) + rest
    assert provider_of(virtual_model(name)) == provider_key(virtual_model(name)) == ("x-ai" if "/" in rest else None)
    assert provider_of(name) == (None if name.startswith(POLICY_PREFIX) else provider_key(virtual_model(name)))


@pytest.mark.parametrize("rest", ["openai/m", "m"])
@pytest.mark.parametrize("prefixes", list(product(PREFIXES, repeat=2)))
def test_a_live_name_with_a_second_prefix_is_matched_and_shown_as_a_whole(prefixes: tuple[str, str], rest: str) -> None:
    """Otherwise a scope, a protection or an exception for one kind would be one for the other, or for another name."""
    first, second = prefixes
    name = first + second + rest
    other = MODEL_PREFIX if first == POLICY_PREFIX else POLICY_PREFIX
    assert all(matches(name, [glob]) for glob in (name, f"{first}*", f"{first}{second}*", "*"))
    assert not any(matches(name, [glob]) for glob in (f"{other}*", second + rest, rest, f"{rest[0]}*"))
    assert both_spellings(name) == (name, name)
    assert (short_model(name), bare_name(name)) == (name, name)
    assert canonical_name(name) == name or first == MODEL_PREFIX
    if first == MODEL_PREFIX:
        assert matching_models(name, [name]) == matching_models(f"{first}*", [name]) == (name,)
        assert not any(matching_models(glob, [name]) for glob in (f"{POLICY_PREFIX}*", second + rest))
        assert name in model_names_in(name)


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("virtual-policy/x", "x"),
        ("virtual-model/openai/m", "openai/m"),
        ("virtual-model/virtual-policy/openai/m", "virtual-policy/openai/m"),
        ("virtual-policy/virtual-model/openai/m", "virtual-model/openai/m"),
        ("virtual-model/virtual-model/openai/m", "virtual-model/virtual-model/openai/m"),
        ("virtual-policy/virtual-policy/x", "virtual-policy/virtual-policy/x"),
    ],
)
def test_a_row_of_any_name_is_looked_up_by_both_names_that_it_may_have(name: str, bare: str) -> None:
    assert row_names(name) == (name, bare)
    read = virtual_model if name.startswith(MODEL_PREFIX) else canonical_name
    assert {read(one) for one in row_names(name)} == {name}


@pytest.mark.parametrize("prefixes", list(product(PREFIXES, repeat=2)))
def test_a_target_of_a_file_has_one_prefix(prefixes: tuple[str, str]) -> None:
    """With two it would be shown as what it is not, or reach another provider than it seems to."""
    target = {"model_name": "".join(prefixes) + "openai/x"}
    file = {"spec_version": "v1", "kind": "model", "name": "p", "policy": {"strategy": {"mode": "single"}, "targets": [target]}}
    [found] = findings_of(file, PolicyFile)
    assert (found.code, found.path) == ("P108", ("policy", "targets", 0, "model_name"))
    assert "once, at most" in found.message


def test_a_declaration_may_leave_the_prefix_out() -> None:
    assert virtual_model(BARE) == virtual_model(VIRTUAL) == VIRTUAL
