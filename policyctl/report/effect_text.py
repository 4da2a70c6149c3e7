"""What `effect` shows, for people: as text for a terminal and as markdown for a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from policyctl.effect.profile import ASSUMED
from policyctl.model.normal import Document
from policyctl.report.effect_rows import sections
from policyctl.report.effect_views import Compared, View
from policyctl.report.foreign import texts_in
from policyctl.report.markdown import code, naming, prose
from policyctl.report.plain import plain
from policyctl.report.style import Style


def effect_text(views: Sequence[View], style: Style, assumed: str = ASSUMED) -> str:
    """A block a policy, and what it all rests on (`assumed`) in the last line."""
    blocks = []
    for view in views:
        against = f"  {style.paint(f'against {plain(view.against)}', 'dim')}" if isinstance(view, Compared) else ""
        lines = [f"{style.paint(plain(view.name), 'bold')}  {style.paint(plain(view.file), 'dim')}{against}"]
        for title, rows in sections(view):
            lines += [f"  {style.paint(title, 'cyan')}", *(f"    {row}" for row in rows)]
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, style.paint(assumed, "dim")]) + "\n"


def effect_markdown(views: Sequence[View], documents: Iterable[Document], assumed: str = ASSUMED) -> str:
    """The same as markdown: a heading a policy, a list a section. `documents` are the policies that this may be about."""
    with naming(texts_in(documents)):
        return _page(views, assumed)


def _page(views: Sequence[View], assumed: str) -> str:
    blocks = []
    for view in views:
        against = f" against {code(view.against)}" if isinstance(view, Compared) else ""
        lines = [f"### {code(view.name)}{against}"]
        for title, rows in sections(view):
            lines += ["", f"**{title}**", "", *(f"- {prose(row)}" for row in rows)]
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, f"_{prose(assumed)}_"]) + "\n"
