"""A YAML text as libyaml's events, with what these do not have: comments, and where a value ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from yaml.events import MappingEndEvent, MappingStartEvent, ScalarEvent, SequenceEndEvent, SequenceStartEvent, StreamEndEvent

from policyctl.load.yaml import Loader


def events_of(text: str) -> list[Any]:
    """The events of a text that can be parsed, up to its end."""
    parser, found = Loader(text), []
    while True:
        found.append(parser.get_event())
        if isinstance(found[-1], StreamEndEvent):
            return found


def begin_of(event: Any) -> int:
    """Where an event begins."""
    index: int = event.start_mark.index
    return index


def end_of(event: Any) -> int:
    """Where an event ends."""
    index: int = event.end_mark.index
    return index


class YamlComment(NamedTuple):
    """A comment: where it begins and ends, its column, and whether it is alone on its line."""

    start: int
    end: int
    column: int
    alone: bool


def comments_of(text: str, events: list[Any]) -> list[YamlComment]:
    """The comments of a text, in order: whatever begins with `#` between its scalars."""
    found, position = [], 0
    spans = [(begin_of(one), end_of(one)) for one in events if isinstance(one, ScalarEvent)]
    for start, end in [*spans, (len(text), len(text))]:
        while (at := text.find("#", position, start)) >= 0:
            line = text.rfind("\n", 0, at) + 1
            stop = text.find("\n", at)
            stop = len(text) if stop < 0 else stop
            found.append(YamlComment(at, at + len(text[at:stop].rstrip()), at - line, not text[line:at].strip()))
            position = stop
        position = max(position, end)
    return found


@dataclass
class YamlNode:
    """A value: its event, where it ends, and what is in it; of a mapping keys and values in turn."""

    event: Any
    end: int
    children: list[YamlNode] = field(default_factory=list)

    @property
    def start(self) -> int:
        """Where it begins, with its anchor and tag."""
        return begin_of(self.event)

    @property
    def is_block(self) -> bool:
        """Whether it is a list or mapping on lines of its own."""
        return isinstance(self.event, MappingStartEvent | SequenceStartEvent) and not self.event.flow_style

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.event, MappingStartEvent)

    @property
    def is_scalar(self) -> bool:
        return isinstance(self.event, ScalarEvent)

    @property
    def is_marked(self) -> bool:
        """Whether it has an anchor or a tag."""
        return self.event.anchor is not None or getattr(self.event, "tag", None) is not None

    @property
    def is_empty(self) -> bool:
        return self.is_scalar and self.start == self.end


def node_of(event: Any, events: Iterator[Any]) -> YamlNode:
    """The value that begins with an event; `events` are read up to its end."""
    node = YamlNode(event, end_of(event))
    if isinstance(event, MappingStartEvent | SequenceStartEvent):
        while not isinstance(inner := next(events), MappingEndEvent | SequenceEndEvent):
            node.children.append(node_of(inner, events))
        node.end = end_of(inner)
    return node
