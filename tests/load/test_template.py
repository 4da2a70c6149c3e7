"""Templates: expressions with bounds, and one clear line for everything else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.load.markers import has_template
from policyctl.load.template import BadTemplate, render, render_scalar
from policyctl.load.template_limits import MAX_OUTPUT
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


def test_what_a_template_gives_is_never_rendered_again() -> None:
    assert render_scalar("{{ a }}", {"a": "{{ b }}"}) == "{{ b }}"


def complaint_about(text: str, variables: dict[str, Any]) -> str:
    try:
        render_scalar(text, variables)
    except BadTemplate as error:
        return str(error)
    return ""


BAD = {
    "{{ nope }}": "'nope' is undefined (vars of this environment: codes, name, nested, none, w, yes)",
    "{% for i in codes %}x{% endfor %}": "only {{ expressions }} are rendered",
    "{# comment #}": "only {{ expressions }} are rendered",
    "{{": "not a template",
    "{{ }}": "not a template",
    "{{ w": "not a template",
    "{{ range(9) }}": "templates have no calls",
    "{{ name.upper() }}": "templates have no calls",
    "{{ codes[:1] }}": "templates have no slices",
    "{{ name.__class__ }}": "no attribute '__class__'",
    "{{ name | attr('x') }}": "No filter named 'attr'",
    "{{ 'a' * 1000000 }}": "on something other than two numbers",
    "{{ '%1000000000d' % 1 }}": "on something other than two numbers",
    "{{ 9 ** 9 ** 9 }}": "on something other than two numbers, or **",
    "{{ " + " * ".join(["9999999999"] * 30) + " }}": "a number that is too large",
    "{{ " + "9" * 5000 + " }}": "digits",
    "{{ 1 / 0 }}": "division by zero",
    "{{ self }}": "which no file can say",
    "{{ " + "(" * 400 + "1" + ")" * 400 + " }}": "nested too deeply",
    "{{ " + "1+" * 20_000 + "1 }}": "more than 1000 tokens",
    "{{ " + "not " * 9_000 + "1 }}": "more than 1000 tokens",
    "{{ 'a' }}" + "x" * 70_000: "characters; at most",
    "{{ a ~ a }}": "'a' is undefined",
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


def test_every_bad_scalar_of_a_document_is_told_with_its_path() -> None:
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
