"""From a path in a document to a line and a column, and the lines to show.

Only asked when there is a problem: the file is parsed a second time, with nodes, so that good files pay nothing.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from policyctl.errors import InvalidInput, Mark, Problem
from policyctl.load.kinds import CONFIG_FILE
from policyctl.load.source import Source, read_bytes
from policyctl.load.yaml import Loader
from policyctl.policy.findings import Finding

# Of each mapping's node (by identity) its pairs by key, and what is merged into it: one with many problems is read once.
Keys = dict[int, tuple[dict[Any, tuple[Any, Any]], list[Any]]]


def to_problems(source: Source, index: int, complaints: list[Finding]) -> list[Problem]:
    """Complaints about one document of a file, as problems at their places."""
    if not complaints:
        return []
    nodes = _nodes(source.text)
    root = nodes[index] if index < len(nodes) else None
    start = source.documents[index].mark
    keys: Keys = {}
    return [
        Problem(_mark(source.file, root, start, complaint, keys), complaint.code, complaint.message, complaint.severity)
        for complaint in complaints
    ]


@lru_cache(maxsize=1)
def _nodes(text: str) -> list[Any]:
    """The nodes of a text's documents; kept until the next file, since every document of a file may have problems."""
    try:
        return list(yaml.compose_all(text, Loader=Loader))
    except yaml.YAMLError:  # JSON that is no YAML: then the start of the file is the best there is
        return []


def _mark(file: str, root: Any, start: Mark, complaint: Finding, keys: Keys) -> Mark:
    if root is None:
        return start
    found = root
    for depth, part in enumerate(complaint.path):
        pair = _child(found, part, keys)
        if pair is None:
            break
        key, value = pair
        wants_key = complaint.at == "key" and depth == len(complaint.path) - 1
        found = key if wants_key else value
    return Mark(file, found.start_mark.line + 1, found.start_mark.column + 1)


def _child(node: Any, part: str | int, keys: Keys) -> tuple[Any, Any] | None:
    """The (key, value) nodes of one step down; for a list both are the item. `keys` is filled with what was looked through."""
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    if not isinstance(node, yaml.MappingNode):
        return None
    if id(node) not in keys:
        pairs = [(key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]
        keys[id(node)] = {key.value: (key, value) for key, value in reversed(pairs)}, [v for k, v in pairs if k.value == "<<"]
    written, merged = keys[id(node)]
    if part in written:
        return written[part]
    for value in merged:
        for mapping in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if (pair := _child(mapping, part, keys)) is not None:
                return pair
    return None


_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # as YAML counts lines


def line_at(mark: Mark) -> str | None:
    """The line that a mark is in; None for a whole file, for one that cannot be read, for a link, and for the configuration.

    A line of policyctl.yaml may hold a secret that was written there by mistake, and a link may lead to one.
    """
    if not mark.line or Path(mark.file).name == CONFIG_FILE or os.path.islink(mark.file):
        return None
    lines = _lines_of(mark.file)
    return lines[mark.line - 1] if mark.line <= len(lines) else None


@lru_cache(maxsize=1)  # problems are sorted by file
def _lines_of(file: str) -> list[str]:
    try:
        return _LINE_END.split(read_bytes(file).decode("utf-8-sig", errors="replace"))
    except InvalidInput:  # such as a file of a git revision
        return []
