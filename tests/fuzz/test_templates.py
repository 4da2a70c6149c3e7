"""Whatever an expression is, rendering it gives a plain value of bounded size, or one clear line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.load.template import _FILTERS, MAX_INT_BITS, MAX_OUTPUT, BadTemplate, render_scalar
from tests.examples import examples
from tests.strategies import json_values

VARS: dict[str, Any] = {"w": 0.75, "n": 7, "text": "x{{y", "list": [1, "a", None, [2]], "map": {"k": {"k": 1}}, "no": None}
VARS["hex"] = "f" * 400

_atoms = st.sampled_from(
    [
        *VARS,
        "nope",
        "1",
        "0",
        "-1",
        "1e308",
        "99999999999",
        "''",
        "'%s'",
        "'ß'",
        "true",
        "none",
        "[]",
        "{}",
        "self",
        "loop",
        "caller",
    ]
)
_arguments = st.sampled_from(
    ["", "(0)", "(99999999)", "(-5)", "(1, 'ceil')", "(999, 'floor')", "('x')", "(start=[])", "([])", "(0, 16)", "(0, 36)"]
)


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from([*"+ - * / // % ** ~ == < in and or | . is".split(), "not in", "is not"])
    return st.one_of(
        st.tuples(inner, operators, inner).map(" ".join),
        st.tuples(inner, st.sampled_from([*_FILTERS, "attr", "map", "format", "batch"]), _arguments).map(
            lambda parts: f"({parts[0]}) | {parts[1]}{parts[2]}"
        ),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]})[{pair[1]}]"),
        st.tuples(inner, inner, inner).map(lambda three: f"({three[0]} if {three[1]} else {three[2]})"),
        st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]"),
        st.tuples(inner, inner).map(lambda pair: f"{{{pair[0]}: {pair[1]}}}"),
        st.tuples(inner, st.sampled_from(["__class__", "__init__", "format", "k", "real"])).map(
            lambda pair: f"({pair[0]}).{pair[1]}"
        ),
        inner.map(lambda one: f"-({one})"),
        inner.map(lambda one: f"({one})()"),
    )


expressions = st.recursive(_atoms, _larger, max_leaves=12)


def size(value: Any) -> int:
    if isinstance(value, dict):
        return sum(len(key) + size(child) for key, child in value.items())
    return sum(map(size, value)) if isinstance(value, list) else len(value) if isinstance(value, str) else 1


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            yield from numbers(child)
    elif isinstance(value, int | float):
        yield value


def assert_bounded(text: str, variables: dict[str, Any]) -> None:
    try:
        result = render_scalar(text, variables)
    except BadTemplate as error:
        told = str(error)
    else:
        assert size(result) <= MAX_OUTPUT
        assert all(map(math.isfinite, numbers(result)))
        assert all(number.bit_length() <= MAX_INT_BITS for number in numbers(result) if isinstance(number, int))
        assert isinstance(result, str | int | float | list | dict | bool | None)
        return
    assert told
    assert "\n" not in told


@given(expressions, st.sampled_from(["{{{{ {} }}}}", "a {{{{ {} }}}} b", "{{{{- {} -}}}}{{{{ {} }}}}", "{{{{ {}"]))
@settings(max_examples=examples(400))
def test_any_expression(expression: str, around: str) -> None:
    assert_bounded(around.format(expression, expression), VARS)


@given(expressions, json_values, json_values)
@settings(max_examples=examples(150))
def test_any_expression_over_any_variables(expression: str, one: Any, two: Any) -> None:
    assert_bounded("{{ " + expression + " }}", {**VARS, "n": one, "list": two})


BOMBS = [
    "{{ 1.5 | round(999999999, 'ceil') }}",
    "{{ 1.5 | round(-999999999, 'floor') }}",
    "{{ n | round(w) }}",
    "{{ [list, list] | sum(start=[]) }}",
    "{{ [[1], [2]] | sum(start=[]) | length }}",
    "{{ " + "~".join(["big"] * 200) + " }}",
    "{{ [" + ", ".join(["big"] * 200) + "] }}",
    "{{ [[" + ", ".join(["big"] * 100) + "]] }}",
    "{{ {'a': big, 'b': big} }}",
    "{{ big }}" * 150,
    "{{ " + "-" * 900 + "1 }}",
    "{{ " + "[" * 450 + "]" * 450 + " }}",
]


@pytest.mark.parametrize("text", BOMBS, ids=lambda text: text[:40])
def test_bombs_are_refused(text: str) -> None:
    with pytest.raises(BadTemplate):
        render_scalar(text, {**VARS, "big": "x" * (MAX_OUTPUT - 1)})
