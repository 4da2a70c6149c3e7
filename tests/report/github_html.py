"""Markdown as GitHub would show it: through its own parser, with what its page does to the result besides."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import NamedTuple

from cmarkgfm import github_flavored_markdown_to_html
from cmarkgfm.cmark import Options

# The elements that a plan's page is made of.
TAGS = {"h3", "p", "strong", "b", "code", "pre", "table", "thead", "tbody", "tr", "th", "td", "details", "summary"}
TAGS |= {"ul", "li", "blockquote", "a"}

_VOID = {"br", "hr", "img", "input"}
# What the page makes links or pictures of in text outside code: mentions, issues, commits, advisories, emoji, formulas.
_MAGIC = re.compile(r"@\w|#\d|\bGH-\d|\b[0-9a-f]{7,40}\b|\b(?:CVE|GHSA)-|:\w+:|\$|https?://|www\.|\w@\w", re.IGNORECASE)


class Element(NamedTuple):
    """A tag with its attributes, and the text directly and indirectly in it."""

    tag: str
    attributes: dict[str, str | None]
    text: str


class Page(HTMLParser):
    """The elements of a page, the text that is in no code, and what is wrong with its nesting."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.wrong: list[str] = []
        self.prose: list[str] = []
        self.comments: list[str] = []
        self._open: list[tuple[str, dict[str, str | None], list[str]]] = []
        # Unsafe: nothing is taken out, so that all that policies could smuggle in is seen.
        self.feed(github_flavored_markdown_to_html(markdown, Options.CMARK_OPT_UNSAFE))
        self.close()
        self.wrong += [f"{tag} is left open" for tag, _, _ in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _VOID:
            self.elements.append(Element(tag, dict(attrs), ""))
        else:
            self._open.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1][0] != tag:
            self.wrong.append(f"{tag} ends inside {self._open[-1:]}")
            return
        name, attributes, text = self._open.pop()
        self.elements.append(Element(name, attributes, "".join(text)))

    def handle_data(self, data: str) -> None:
        for _, _, text in self._open:
            text.append(data)
        if not any(tag in ("code", "pre") for tag, _, _ in self._open):
            self.prose.append(data)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data.strip())

    def texts(self, tag: str) -> list[str]:
        return [element.text for element in self.elements if element.tag == tag]

    @property
    def magic(self) -> list[str]:
        """What the page would make more of than text."""
        return [found[0] for text in self.prose for found in _MAGIC.finditer(text)]
