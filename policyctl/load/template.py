"""Templates inside scalars: `{{ expressions }}` over an environment's `vars`, after parsing, so that positions stay true.

A template is an expression, not a program. What could loop, explode or reach the machine is not in the language: no
statements, no calls, no Python attributes (`x.y` is `x["y"]`), a short list of filters, bounded arithmetic, bounded sizes.
A scalar that is exactly one expression takes the expression's type; everything else becomes text, never parsed again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from itertools import islice
from typing import Any

from jinja2 import StrictUndefined, TemplateError, Undefined, UndefinedError, nodes, pass_environment
from jinja2.filters import do_round, do_sum
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment

from policyctl.load.markers import is_template
from policyctl.load.template_limits import BadTemplate, bounded

MAX_TEMPLATE = 65_536  # characters of one scalar
_MAX_PRECISION = 30  # digits that a number is rounded to
_MAX_TOKENS = 1_000  # of one scalar, white space counted; a string is one token, however long
_FILTERS = "abs default first float int last length lower max min round string sum title trim upper".split()
_FORBIDDEN = {
    nodes.Call: "calls",
    nodes.CallBlock: "calls",
    nodes.Slice: "slices",
}


def render(value: Any, variables: Mapping[str, Any]) -> tuple[Any, list[tuple[tuple[str | int, ...], str]]]:
    """The value with every scalar rendered, and (path, message) for each that could not be (it stays as written)."""
    complaints: list[tuple[tuple[str | int, ...], str]] = []

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
            complaints.append((path, str(error)))
            return item

    return walk(value, ()), complaints


def render_scalar(text: str, variables: Mapping[str, Any]) -> Any:
    """One scalar, rendered. Raises BadTemplate when it cannot be: bad syntax, an unknown variable, too large."""
    try:
        return bounded(_compile(text)(variables))
    except BadTemplate:
        raise
    except UndefinedError as error:
        known = ", ".join(sorted(variables)) or "none"
        raise BadTemplate(f"{_first_line(error)} (vars of this environment: {known})") from None
    except TemplateError as error:
        raise BadTemplate(f"this is not a template: {_first_line(error)}") from None
    except (RecursionError, MemoryError, SyntaxError):
        raise BadTemplate("the template is nested too deeply; simplify it") from None
    except Exception as error:  # noqa: BLE001 - whatever an expression does wrong is the template's problem
        raise BadTemplate(f"the template fails: {_first_line(error)}") from None


class _Sandbox(ImmutableSandboxedEnvironment):
    """Arithmetic with bounds: no operator may make anything large."""

    intercepted_binops = frozenset(SandboxedEnvironment.default_binop_table)
    intercepted_unops = frozenset(SandboxedEnvironment.default_unop_table)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" or (operator in "%*" and not numbers):
            raise BadTemplate(f"the template uses {operator} on something other than two numbers, or **")
        return bounded(super().call_binop(context, operator, left, right))

    def call_unop(self, context: Any, operator: str, arg: Any) -> Any:
        return bounded(super().call_unop(context, operator, arg))

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Keys of mappings and positions of lists; never an attribute of the Python object behind."""
        try:
            return obj[argument]
        except (TypeError, LookupError):
            return self.undefined(obj=obj, name=argument)


def _environment() -> SandboxedEnvironment:
    environment = _Sandbox(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.globals.clear()
    filters = {name: environment.filters[name] for name in _FILTERS} | {"round": _round, "sum": _sum}
    environment.filters = {name: _within_bounds(filter_) for name, filter_ in filters.items()}
    return environment


def _within_bounds(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that neither takes nor gives what is too large, whatever it does between."""

    @wraps(function)  # with jinja's mark of what it passes on besides the value
    def bounded_filter(*values: Any, **named: Any) -> Any:
        bounded([value for value in (*values, *named.values()) if not isinstance(value, SandboxedEnvironment)])
        return bounded(function(*values, **named))

    return bounded_filter


def _round(value: Any, precision: int = 0, method: str = "common") -> Any:
    """jinja's `round`, which with `ceil` and `floor` computes 10 to the power of the precision."""
    if not isinstance(precision, int) or abs(precision) > _MAX_PRECISION:
        raise BadTemplate(f"the template rounds to more than {_MAX_PRECISION} digits")
    return do_round(value, precision, method)  # type: ignore[arg-type]  # a wrong method is the template's problem


@pass_environment
def _sum(environment: Any, values: Any, attribute: Any = None, start: Any = 0) -> Any:
    """jinja's `sum`, of numbers only: lists would be copied again and again."""
    if not isinstance(start, int | float):
        raise BadTemplate("the template adds up something other than numbers")
    return do_sum(environment, values, attribute, start)


_ENVIRONMENT = _environment()


@lru_cache(maxsize=4096)
def _compile(text: str) -> Any:
    """A function from variables to the rendered value."""
    if len(text) > MAX_TEMPLATE:
        raise BadTemplate(f"the template has {len(text):,} characters; at most {MAX_TEMPLATE:,} are rendered")
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
    for kind, name in _FORBIDDEN.items():
        if tree.find(kind) is not None:
            raise BadTemplate(f"templates have no {name}")


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
    """The expression's value, if it is one that a file could have said itself."""
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    raise BadTemplate(f"the template gives a {type(value).__name__}, which no file can say")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
