"""A desired policy: what one document of a file says, once it was found valid (see `policy_file`)."""

from __future__ import annotations

import json
from typing import Any

from policyctl.model.names import canonical_name
from policyctl.model.normal import Document, canonical_text


class Policy:
    """One desired policy.

    `document` is what the remote is to hold: canonical name, texts filled, no nulls, targets in the file's order; `text` is
    the canonical text of that. Either is made from the other when it is asked for: of most policies one is enough. `file` and
    `index` say which document of which file wrote it.
    """

    __slots__ = ("_document", "_text", "file", "index", "name")

    def __init__(self, name: str, document: Document | str, file: str, index: int = 0) -> None:
        """`document` is the document, or its canonical text."""
        self.name = name
        self.file = file
        self.index = index
        self._text = document if isinstance(document, str) else None
        self._document = None if isinstance(document, str) else document

    @property
    def document(self) -> Document:
        if self._document is None:
            document: Document = json.loads(self.text)
            self._document = document
        return self._document

    @property
    def text(self) -> str:
        if self._text is None:
            self._text = canonical_text(self._document)
        return self._text

    def keep_text(self) -> None:
        """Drop the document: of many policies, the texts alone take a fraction of the memory."""
        self._text, self._document = self.text, None


def policy_from_file(data: dict[str, Any], file: str, index: int = 0) -> Policy:
    """The policy that a valid file's data (see `PolicyFile`) stands for, defaults filled and nulls dropped."""
    name = canonical_name(data["name"])
    document = {
        "name": name,
        "display_name": _or(data.get("display_name"), name),
        "description": _or(data.get("description"), name),
        "policy": without_nulls(data["policy"]),
    }
    return Policy(name, document, file, index)


def _or(text: str | None, default: str) -> str:
    return default if text is None else text


def without_nulls(value: Any) -> Any:
    """The same plain value with every null key dropped, at any depth; null means absent in this format."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value
