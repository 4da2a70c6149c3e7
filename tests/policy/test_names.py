"""A model has one name, whichever way it is spelled, and the spelling that is known where it is written."""

from __future__ import annotations

from itertools import product

import pytest

from policyctl.policy.model_settings import provider_key
from policyctl.policy.names import (
    POLICY_PREFIX,
    PREFIXES,
    bare_name,
    canonical_model,
    canonical_name,
    matches,
    model_spelling,
    name_error,
    provider_of,
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
