"""From a path in a document to a line and a column.

Only asked when there is a problem: the file is parsed a second time, with nodes, so that good files pay nothing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import yaml

from policyctl.errors import Mark, Problem
from policyctl.load.source import Source
from policyctl.load.yaml_text import Loader
from policyctl.model.complaints import Complaint

# Of each mapping's node (by identity) its pairs by key, and what is merged into it: one with many problems is read once.
Keys = dict[int, tuple[dict[Any, tuple[Any, Any]], list[Any]]]


def to_problems(source: Source, index: int, complaints: list[Complaint]) -> list[Problem]:
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


def _mark(file: str, root: Any, start: Mark, complaint: Complaint, keys: Keys) -> Mark:
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
