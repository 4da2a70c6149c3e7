"""Templates: expressions with bounds, and one clear line for everything else."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.load.kinds import has_template
from policyctl.load.template import MAX_OUTPUT, BadTemplate, render, render_scalar
from tests.strategies import json_values

VARS = {"w": 0.75, "name": "x", "codes": [429, 503], "nested": {"a": {"b": 1}}, "yes": True, "none": None}

GOOD: dict[str, Any] = {
    "{{ w }}": 0.75,
    "{{w}}": 0.75,
    "{{- w -}}": 0.75,
    "{{ w }} ": "0.75 ",
    "{{ w }}{{ w }}": "0.750.75",
    "{{ 1 - w }}": 0.25,
    "{{ -w }}": -0.75,
    "{{ w * 2 }}": 1.5,
    "a-{{ name }}-b": "a-x-b",
    "{{ name ~ '-' ~ w }}": "x-0.75",
    "{{ codes }}": [429, 503],
    "{{ codes[0] }}": 429,
    "{{ nested.a.b }}": 1,
    "{{ nested['a'] }}": {"b": 1},
    "{{ w if yes else 1 }}": 0.75,
    "{{ nope | default(0.5) }}": 0.5,
    "{{ none }}": None,
    "{{ yes }}": True,
    "{{ '{{ literal }} {% x %} {# y #}' }}": "{{ literal }} {% x %} {# y #}",
    "{{ w | round(1) }}": 0.8,
    "{{ '5' | int }}": 5,
    "no template": "no template",
    "}} alone": "}} alone",
}


@pytest.mark.parametrize("text", GOOD)
def test_a_scalar_that_is_one_expression_takes_its_type_anything_else_is_text(text: str) -> None:
    rendered = render_scalar(text, VARS)
    assert (rendered, type(rendered)) == (GOOD[text], type(GOOD[text]))


# What floats would make of these is beside each.
EXACT: dict[str, Any] = {
    "{{ 1 - canary / 100 }}": 0.2,  # 0.19999999999999996
    "{{ 0.1 + 0.2 }}": 0.3,  # 0.30000000000000004
    "{{ 3 * share }}": 0.3,  # 0.30000000000000004
    "{{ 1 - 1 / 3 - 2 / 3 }}": 0.0,  # 1.1e-16
    "{{ 1 % 0.1 }}": 0.0,  # 0.09999999999999995
    "{{ 0.7 // 0.1 }}": 7.0,  # 6.0
    "{{ [share, 0.2] | sum }}": 0.3,
    "{{ [{'w': share}, {'w': 0.2}] | sum(attribute='w') }}": 0.3,
    "{{ 'equal' if share + 0.2 == 0.3 else 'not' }}": "equal",
    "{{ [1 - 0.8] }}": [0.2],
    "share-{{ 1 - 0.8 }}": "share-0.2",
    "{{ 'share-' ~ (1 - 0.8) }}": "share-0.2",
    "{{ -(1 - 0.8) }}": -0.2,
    "{{ 1 / 3 }}": 1 / 3,
    "{{ 7 // 2 }}": 3,
    "{{ 4 / 2 }}": 2.0,
}


@pytest.mark.parametrize("text", EXACT)
def test_arithmetic_is_that_of_decimal_numbers(text: str) -> None:
    """The digits that a person expects are in plans, digests and live policies, in the type that a file would give them."""
    rendered = render_scalar(text, {"canary": 80, "share": 0.1})
    assert (repr(rendered), type(rendered)) == (repr(EXACT[text]), type(EXACT[text]))


@given(st.decimals(0, 1, places=4), st.decimals(0, 1, places=4))
def test_sums_and_differences_of_written_numbers_are_exact(one: Decimal, other: Decimal) -> None:
    variables = {"a": float(one), "b": float(other)}
    assert render_scalar("{{ a + b }}", variables) == float(one + other)
    assert render_scalar("{{ a - b }}", variables) == float(one - other)
    assert render_scalar("{{ a * b }}", variables) == float(one * other)


def test_what_a_template_gives_is_never_rendered_again() -> None:
    assert render_scalar("{{ a }}", {"a": "{{ b }}"}) == "{{ b }}"


def complaint_about(text: str, variables: dict[str, Any]) -> str:
    try:
        render_scalar(text, variables)
    except BadTemplate as error:
        return str(error)
    return ""


BAD = {
    "{{ nope }}": "the variable nope is not set",
    "{% for i in codes %}x{% endfor %}": "only {{ expressions }} are rendered",
    "{# comment #}": "only {{ expressions }} are rendered",
    "{{": "never closed; end it with }}",
    "{{ }}": "this template is empty",
    "{{ w": "never closed; end it with }}",
    "{{ range(9) }}": "a template cannot call anything; use a filter",
    "{{ name.upper() }}": "a template cannot call anything; use a filter",
    "{{ codes[:1] }}": "a template cannot take a part of a list",
    "{{ name.__class__ }}": "there is no __class__ in this variable",
    "{{ name | attr('x') }}": "unknown filter attr (known: abs, ",
    "{{ 'a' * 1000000 }}": "a template takes * between two numbers only",
    "{{ '%1000000000d' % 1 }}": "a template takes % between two numbers only",
    "{{ 9 ** 9 ** 9 }}": "a template cannot raise to a power",
    "{{ " + " * ".join(["9999999999"] * 30) + " }}": "a number that is too large",
    "{{ " + "9" * 5000 + " }}": "digits",
    "{{ 1 / 0 }}": "divides by zero; correct",
    "{{ self }}": "a value that a file cannot contain",
    "{{ " + "(" * 400 + "1" + ")" * 400 + " }}": "nested too deeply",
    "{{ " + "1+" * 20_000 + "1 }}": "more than 1000 tokens",
    "{{ " + "not " * 9_000 + "1 }}": "more than 1000 tokens",
    "{{ 'a' }}" + "x" * 70_000: "characters; at most",
    "{{ a ~ a }}": "the variable a is not set",
    "{{ w }": "never closed; end it with }}",
    "{{ w + }}": "the expression ends too early",
    "{{ (w }}": "a ) is missing in the expression; add it",
    "{{ 'w }}": "a quote in the expression is never closed",
    "{{ w percent }}": "percent does not belong to the expression; remove it, or put an operator before it",
    "{{ w | rund(1) }}": "unknown filter rund (did you mean round?)",
    "{{ name + 1 }}": "a template takes + between two numbers only; to join texts, use ~",
    "{{ name - 1 }}": "a template takes - between two numbers only",
    "{{ codes | sum(start='a') }}": "can sum up numbers only",
    "{{ codes[5] }}": "there is no 5 in this variable",
    "{{ nested.a.c }}": "there is no c in this variable; correct the name, or add it to the variable",
    "{{ 1e308 * 10 }}": "a number that is too large",
    "{{ 1e400 - 1 }}": "a number that is too large",
}


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:30])
def test_bad_templates_are_one_clear_line(text: str) -> None:
    with pytest.raises(BadTemplate) as caught:
        render_scalar(text, VARS)
    assert BAD[text] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{{ big ~ big }}", "{{ big + big }}", "{{ big }}{{ big }}", "{{ [big, big] | join }}"])
def test_output_is_capped(text: str) -> None:
    with pytest.raises(BadTemplate):
        render_scalar(text, {"big": "x" * (MAX_OUTPUT - 1)})


LARGE = {
    "digits of base 16": "{{ hex | int(0, 16) }}",
    "digits of base 36": "{{ hex | int(0, 36) }}",
    "digits of base 10": "{{ nines | int }}",
    "in a list": "{{ [1, [hex | int(0, 16)]] }}",
    "as a key": "{{ {hex | int(0, 16): 1} }}",
    "as a value": "{{ {'a': hex | int(0, 16)} }}",
    "as text": "{{ hex | int(0, 16) }} bits",
    "in the middle of what is small": "{{ (hex | int(0, 16)) % 10 }}",
    "by a float": "{{ 1e308 | int }}",
    "by a sum": "{{ [nines | int, nines | int] | sum }}",
    "by a default": "{{ nope | default(hex | int(0, 16)) }}",
    "a literal": "{{ 0x" + "f" * 400 + " }}",
    "a variable": "{{ huge }}",
    "less than nothing": "{{ -(hex | int(0, 16)) }}",
    "a quotient": "{{ (hex | int(0, 16)) // 1 }}",
    "infinity": "{{ 1e308 * 10 }}",
    "infinity by a filter": "{{ '1e999' | float }}",
    "not a number": "{{ 1e308 * 10 - 1e308 * 10 }}",
    "quoted quotes": "{{ " + "[" * 40 + "quotes" + "] | string" * 40 + " }}",
    "letters that grow": "{{ (eszett ~ eszett) | upper }}",
    "one list many times": "{{ [" + ", ".join(["items"] * 200) + "] }}",
    "lists added up": "{{ " + " + ".join(["items"] * 200) + " }}",
}


@pytest.mark.parametrize("case", LARGE)
def test_no_filter_or_operator_makes_a_number_or_text_beyond_the_bounds(case: str) -> None:
    variables = {
        "hex": "f" * 4000,
        "nines": "9" * 100,
        "huge": 1 << 300,
        "quotes": "'\"\\",
        "eszett": "ß" * 30_000,
        "items": list(range(1000)),
    }
    with pytest.raises(BadTemplate) as caught:
        render_scalar(LARGE[case], variables)
    assert "\n" not in str(caught.value)


def test_every_bad_scalar_of_a_document_is_reported_with_its_path() -> None:
    value = {"a": "{{ nope }}", "b": [1, "{{ w }}", "{{"], "{{ key }}": "kept"}
    rendered, complaints = render(value, VARS)
    assert rendered == {"a": "{{ nope }}", "b": [1, 0.75, "{{"], "{{ key }}": "kept"}
    assert [path for path, _ in complaints] == [("a",), ("b", 2)]
    assert has_template(value)
    assert not has_template({"{{ key }}": ["x", {"y": "z"}]})


@given(st.text(st.sampled_from("{}%#-+*/|~()[]'\"w1. ,:\\\nif"), max_size=60) | st.text(max_size=40), json_values)
def test_no_text_whatever_makes_it_fail_otherwise(text: str, value: Any) -> None:
    for scalar in (text, "{{" + text + "}}", "{{ '" + text + "' }}"):
        assert "\n" not in complaint_about(scalar, {"w": value})
