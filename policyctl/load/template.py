"""Templates inside scalars: `{{ expressions }}` over an environment's `vars`, after parsing, so that positions stay true.

A template is an expression, not a program. It cannot loop, grow without limit or reach the machine: there are no
statements, calls or Python attributes (`x.y` is `x["y"]`), few filters, and limits on numbers and sizes.
A scalar that is exactly one expression takes the expression's type; everything else becomes text, never parsed again.
Arithmetic is exact: `1 - 80 / 100` is 0.2 and not 0.19999999999999996, which would appear in plans and digests.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from functools import lru_cache, wraps
from itertools import islice
from typing import Any

from jinja2 import StrictUndefined, TemplateError, Undefined, UndefinedError, nodes, pass_environment
from jinja2.filters import do_round, make_attrgetter
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment

from policyctl.load.environment import UNSET
from policyctl.load.kinds import is_template
from policyctl.policy.findings import Finding, did_you_mean
from policyctl.policy.memo import late_pattern

MAX_OUTPUT = 65_536  # characters and items of one value, at every depth
MAX_INT_BITS = 256


class BadTemplate(Exception):
    """A template that cannot be rendered; the message describes why, and what to do."""


def bounded(value: Any) -> Any:
    """The value itself. Raises BadTemplate if it, or anything in it, is too large."""
    room, pending = MAX_OUTPUT, [value]
    while pending:
        item = pending.pop()
        if isinstance(item, int) and item.bit_length() > MAX_INT_BITS:
            raise BadTemplate("the template computes a number that is too large; simplify it")
        if isinstance(item, float) and not math.isfinite(item):
            raise BadTemplate(f"the template computes {item}, which a file cannot contain; correct it")
        if isinstance(item, str | list | tuple | dict):
            room -= len(item)
            if room < 0:
                raise BadTemplate(f"the template produces more than {MAX_OUTPUT:,} characters; shorten it")
        if isinstance(item, dict):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            pending += item
    return value


MAX_TEMPLATE = 65_536  # characters of one scalar
_MAX_EXACT_BITS = 4096  # of a fraction's parts; beyond, it is rounded as any float is
_MAX_PRECISION = 30  # digits that a number is rounded to
_MAX_TOKENS = 1_000  # of one scalar, white space counted; a string is one token, however long
_FILTERS = "abs default first float int last length lower max min round string sum title trim upper".split()
_FORBIDDEN = {
    nodes.Call: "cannot call anything; use a filter, such as {{ x | round(2) }}",
    nodes.CallBlock: "cannot call anything; use a filter, such as {{ x | round(2) }}",
    nodes.Slice: "cannot take a part of a list; write the items, such as {{ [x[0], x[1]] }}",
}
_UNSET = late_pattern(r"'(?P<name>\w+)' is undefined")
_NO_KEY = late_pattern(r"has no (?:attribute|element) '?(?P<name>.*?)'?$")


class UnsetVariable(BadTemplate):
    """A template with a variable that the environment does not set."""


def render_document(data: dict[str, Any], variables: Mapping[str, Any]) -> tuple[dict[str, Any], list[Finding]]:
    """The document with its templates rendered (except in `kind` and `spec_version`), and what could not be rendered."""
    fixed = {key: data[key] for key in ("kind", "spec_version") if key in data}
    rendered, failed = render({key: value for key, value in data.items() if key not in fixed}, variables)
    found = [Finding(path, UNSET if isinstance(error, UnsetVariable) else "P015", str(error)) for path, error in failed]
    return {**fixed, **rendered}, found


def render(value: Any, variables: Mapping[str, Any]) -> tuple[Any, list[tuple[tuple[str | int, ...], BadTemplate]]]:
    """The value with every scalar rendered, and (path, error) for each failure, which stays as written."""
    complaints: list[tuple[tuple[str | int, ...], BadTemplate]] = []

    def walk(item: Any, path: tuple[str | int, ...]) -> Any:
        if isinstance(item, dict):
            return {key: walk(child, (*path, key)) for key, child in item.items()}
        if isinstance(item, list):
            return [walk(child, (*path, position)) for position, child in enumerate(item)]
        if not isinstance(item, str) or not is_template(item):
            return item
        try:
            return render_scalar(item, variables)
        except BadTemplate as error:
            complaints.append((path, error))
            return item

    return walk(value, ()), complaints


def render_scalar(text: str, variables: Mapping[str, Any]) -> Any:
    """One scalar, rendered. Raises BadTemplate when it cannot be: bad syntax, an unset variable, too large."""
    try:
        return bounded(_compile(text)(variables))
    except BadTemplate:
        raise
    except UndefinedError as error:
        raise _undefined(_first_line(error)) from None
    except TemplateError as error:
        raise BadTemplate(_syntax(text, _first_line(error))) from None
    except ZeroDivisionError:
        raise BadTemplate("the template divides by zero; correct the expression, or the variable") from None
    except NameError:  # jinja2 writes a number that is not finite as a name
        raise _too_large_number() from None
    except (RecursionError, MemoryError, SyntaxError):
        raise BadTemplate("the template is nested too deeply; simplify it") from None
    except Exception as error:  # noqa: BLE001 - whatever an expression does wrong is the template's problem
        raise BadTemplate(f"the template cannot be computed: {_first_line(error)}; correct it") from None


@lru_cache(maxsize=4096)
def variables_of(text: str) -> frozenset[str]:
    """The names of the variables in a template; none if it cannot be read, which rendering reports."""
    try:
        return frozenset(find_undeclared_variables(_ENVIRONMENT.parse(text)))
    except TemplateError:
        return frozenset()


class _Sandbox(ImmutableSandboxedEnvironment):
    """Exact and bounded arithmetic: no operator can produce anything large."""

    intercepted_binops = frozenset(SandboxedEnvironment.default_binop_table)
    intercepted_unops = frozenset(SandboxedEnvironment.default_unop_table)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**":
            raise BadTemplate("a template cannot raise to a power; multiply instead")
        if not numbers and (operator != "+" or type(left) is not type(right)):
            raise BadTemplate(f"a template takes {operator} between two numbers only; to join texts, use ~")
        return bounded(_calculate(operator, left, right) if numbers else super().call_binop(context, operator, left, right))

    def call_unop(self, context: Any, operator: str, arg: Any) -> Any:
        return bounded(super().call_unop(context, operator, arg))

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Keys of mappings and positions of lists, never attributes of Python objects."""
        try:
            return obj[argument]
        except (TypeError, LookupError):
            return self.undefined(obj=obj, name=argument)


class _Exact(float):
    """A float with the exact fraction that it was rounded from."""

    __slots__ = ("exact",)

    def __new__(cls, exact: Fraction) -> _Exact:
        try:
            number = super().__new__(cls, exact)
        except OverflowError:
            raise _too_large_number() from None
        number.exact = exact
        return number

    exact: Fraction


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}


def _calculate(sign: str, left: int | float, right: int | float) -> int | float:
    """The result of an operator on two numbers, exact as on paper: each float counts as the decimal number as written."""
    work = _ARITHMETIC[sign]
    if isinstance(left, int) and isinstance(right, int) and sign != "/":
        result: int | float = work(left, right)
        return result
    exact = _fraction(left), _fraction(right)
    if None in exact:
        return float(work(left, right))
    fraction = Fraction(work(*exact))
    if max(fraction.numerator.bit_length(), fraction.denominator.bit_length()) > _MAX_EXACT_BITS:
        return float(fraction)
    return _Exact(fraction)


def _fraction(number: int | float) -> Fraction | None:
    """The number as it is written, exactly; None for one that is not finite."""
    if isinstance(number, _Exact):
        return number.exact
    if isinstance(number, int):
        return Fraction(number)
    return Fraction(repr(number)) if math.isfinite(number) else None


def _environment() -> SandboxedEnvironment:
    environment = _Sandbox(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.globals.clear()
    filters = {name: environment.filters[name] for name in _FILTERS} | {"round": _round, "sum": _sum}
    environment.filters = {name: _within_bounds(filter_) for name, filter_ in filters.items()}
    return environment


def _within_bounds(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter with bounded arguments and a bounded result."""

    @wraps(function)  # keeps jinja's marks on the function
    def bounded_filter(*values: Any, **named: Any) -> Any:
        bounded([value for value in (*values, *named.values()) if not isinstance(value, SandboxedEnvironment)])
        return bounded(function(*values, **named))

    return bounded_filter


def _round(value: Any, precision: int = 0, method: str = "common") -> Any:
    """jinja's `round`, which with `ceil` and `floor` computes 10 to the power of the precision."""
    if not isinstance(precision, int) or abs(precision) > _MAX_PRECISION:
        raise BadTemplate(f"the template rounds to more than {_MAX_PRECISION} digits; round to fewer")
    return do_round(value, precision, method)  # type: ignore[arg-type]  # a wrong method is the template's problem


@pass_environment
def _sum(environment: _Sandbox, values: Any, attribute: Any = None, start: Any = 0) -> Any:
    """jinja's `sum`, of numbers only: lists would be copied again and again."""
    if not isinstance(start, int | float):
        raise BadTemplate("a template can sum up numbers only; to join texts, use ~")
    items: Iterable[Any] = values if attribute is None else map(make_attrgetter(environment, attribute), values)
    for item in items:
        start = environment.call_binop(None, "+", start, item)
    return start


_ENVIRONMENT = _environment()


@lru_cache(maxsize=4096)
def _compile(text: str) -> Any:
    """A function from variables to the rendered value."""
    if len(text) > MAX_TEMPLATE:
        raise BadTemplate(f"the template has {len(text):,} characters; at most {MAX_TEMPLATE:,} are rendered; shorten it")
    tokens = [kind for _, kind, _ in islice(_ENVIRONMENT.lex(text), _MAX_TOKENS + 1)]
    if len(tokens) > _MAX_TOKENS:
        raise BadTemplate(f"the template has more than {_MAX_TOKENS} tokens; simplify it")
    if "block_begin" in tokens or "comment_begin" in tokens:
        raise BadTemplate("only {{ expressions }} are rendered; to write the characters, use {{ '{%' }}")
    tree = _ENVIRONMENT.parse(text)
    _refuse_programs(tree)
    expression = _whole_expression(text, tree)
    if expression is None:
        template = _ENVIRONMENT.from_string(tree)
        return lambda variables: template.render(variables)
    compiled = _ENVIRONMENT.compile_expression(expression, undefined_to_none=False)
    return lambda variables: _plain(compiled(variables))


def _refuse_programs(tree: nodes.Template) -> None:
    for kind, limit in _FORBIDDEN.items():
        if tree.find(kind) is not None:
            raise BadTemplate(f"a template {limit}")


def _whole_expression(text: str, tree: nodes.Template) -> str | None:
    """The source of the one expression that the scalar consists of, or None when there is more to it."""
    if len(tree.body) != 1 or not isinstance(tree.body[0], nodes.Output):
        return None
    parts = tree.body[0].nodes
    if len(parts) != 1 or isinstance(parts[0], nodes.TemplateData) or not text.startswith("{{"):
        return None
    inside = text.strip()[2:-2]
    return inside.removeprefix("-").removesuffix("-") if inside[:1] == "-" or inside[-1:] == "-" else inside


def _plain(value: Any) -> Any:
    """The expression's value, if a file could contain it."""
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()
    if isinstance(value, float):
        return float(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    raise BadTemplate("the template produces a value that a file cannot contain; make it a number, a text or a list")


def _too_large_number() -> BadTemplate:
    return BadTemplate("the template computes a number that is too large; simplify it")


def _undefined(message: str) -> BadTemplate:
    """What jinja2 finds undefined: a variable, or something in one."""
    if found := _UNSET.fullmatch(message):
        return UnsetVariable(f"the variable {found['name']} is not set")
    found = _NO_KEY.search(message)
    what = f"there is no {found['name']} in this variable" if found else message
    return BadTemplate(f"{what}; correct the name, or add it to the variable")


def _syntax(text: str, message: str) -> str:
    """jinja2's syntax error in plain words, with what to do."""
    if text.count("{{") > text.count("}}"):
        return "this template is never closed; end it with }}"
    if message.startswith("Expected an expression"):
        return "this template is empty; write a variable between the braces, or remove them"
    if found := re.fullmatch(r"No filter named '(?P<name>.*)'\.", message):
        known = sorted(_ENVIRONMENT.filters)
        guess = did_you_mean(found["name"], known) or f" (known: {', '.join(known)})"
        return f"unknown filter {found['name']}{guess}"
    if found := re.fullmatch(r"expected token 'end of print statement', got '?(?P<rest>.*?)'?", message):
        return f"{found['rest']} does not belong to the expression; remove it, or put an operator before it"
    if message == "unexpected 'end of print statement'":
        return "the expression ends too early; write what is missing before }}"
    if found := re.fullmatch(r"unexpected '.*', expected '(?P<closer>.)'", message):
        return f"a {found['closer']} is missing in the expression; add it"
    if message.startswith(('unexpected char "\'"', "unexpected char '\"'")):
        return "a quote in the expression is never closed; add the closing one"
    return f"this template cannot be read: {message.rstrip('.')}; correct it"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
