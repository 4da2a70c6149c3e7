"""Pages for a browser: each is a single file that needs no network, and runs no script but its own."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from markupsafe import escape as html_escape

from policyctl.report.effect_rows import percent
from policyctl.report.format import escape

_NOTHING = "default-src 'none'; base-uri 'none'"  # no network, no frames


def filled_page(template: str, *, styles: Sequence[str], script: str = "", forms: str = "'none'", **values: Any) -> str:
    """A page with these values, a style and perhaps a script. `forms` is where its forms may lead to."""
    page = _environment()
    style = Markup("").join(_asset(page, name) for name in styles)
    code = _asset(page, script) if script else ""
    scripts = f"script-src {_hash(code)}; " if script else ""
    allowed = f"{_NOTHING}; form-action {forms}; {scripts}style-src {_hash(style)}"
    return page.get_template(template).render(script=code, style=style, allowed=allowed, **values)


@cache  # with the templates that it compiled, which takes longer than to fill them in
def _environment() -> Environment:
    """The templates. Every value in them is escaped twice, so that it contains neither markup nor invisible characters."""
    page = Environment(
        loader=PackageLoader("policyctl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    page.filters["share"] = lambda share: None if share is None else percent(share)
    page.filters["folds"] = lambda name: html_escape(escape(name)).replace("/", Markup("/<wbr>"))
    page.filters["wide"] = lambda share: f"{share * 100:.4g}"
    return page


def _visible(value: Any) -> Any:
    return escape(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _asset(page: Environment, name: str) -> Markup:
    """A script or style of ours, included unchanged."""
    return Markup(page.get_template(name).render())  # noqa: S704 - it contains no values


def _hash(text: str) -> str:
    """The source expression by which a content security policy allows a script or a style."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
