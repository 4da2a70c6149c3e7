"""Random policy files as people write them, with comments and in every style, and random edits of what is live."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from random import Random
from typing import Any

from policyctl.load.style import flow_text
from policyctl.load.write import lines_of
from policyctl.policy.document import Document

MODELS = [f"virtual-model/p{number}/m{number}" for number in range(6)]
TEXTS = ["plain words", "with: colon", "a # hash", "two\nlines\nof text", "x" * 90, "yes", "1.0", "é ü", "'q' \"d\"", "{{ x"]


def random_file(random: Random) -> str:
    """The text of a valid policy file called x."""
    data: Document = {"spec_version": "v1", "kind": "model", "name": "x"}
    if random.random() < 0.6:
        data["description"] = random.choice(TEXTS)
    if random.random() < 0.4:
        data["display_name"] = "X"
    data["policy"] = _group(random)
    return "\n".join(_written(random, data, 0)) + random.choice(["\n", ""])


def random_edit(random: Random, document: Document) -> Document:
    """The document after one to three edits."""
    edited = copy.deepcopy(document)
    for _ in range(random.randint(1, 3)):
        groups = [edited["policy"]]
        for group in groups:
            groups += [target for target in group["targets"] if "targets" in target]
        _edit(random, edited, random.choice(groups))
    return edited


def _group(random: Random, depth: int = 0) -> Document:
    mode = random.choice(["loadbalance", "fallback", "single"])
    targets = [
        _target(random, model, depth) for model in random.sample(MODELS, 1 if mode == "single" else random.randint(1, 4))
    ]
    group: Document = {"strategy": {"mode": mode}}
    if random.random() < 0.5:
        group["strategy"]["on_status_codes"] = sorted(random.sample([408, 429, 500, 502, 503], 2))
    if random.random() < 0.6:
        group["retry"] = {"attempts": random.randint(1, 5)} | ({"on_status_codes": [429]} if random.random() < 0.5 else {})
    if depth == 0 and random.random() < 0.4:
        group["cache"] = {"mode": "simple"}
    return {**group, "targets": targets}


def _target(random: Random, model: str, depth: int) -> Document:
    target = _group(random, depth + 1) if depth < 2 and random.random() < 0.2 else {"model_name": model}
    return {**target, "weight": random.choice([0.1, 0.25, 0.5, 0.75])} if random.random() < 0.6 else target


def _written(random: Random, data: Document, indent: int) -> Iterator[str]:
    margin = " " * indent
    for key, value in data.items():
        if random.random() < 0.15:
            yield f"{margin}# about {key}"
        if isinstance(value, dict) and random.random() < 0.6:
            yield f"{margin}{key}:"
            yield from _written(random, value, indent + 2)
        elif isinstance(value, list) and isinstance(value[0], dict) and random.random() < 0.9:
            yield f"{margin}{key}:{random.choice(['', '', '  # in order'])}"
            yield from _items(random, value, indent + random.choice([0, 2]))
        elif isinstance(value, str) and random.random() < 0.5:
            yield from lines_of({key: value}, margin)
        else:
            yield f"{margin}{key}: {flow_text(value)}{random.choice(['', '   # note'])}"


def _items(random: Random, values: list[Any], indent: int) -> Iterator[str]:
    margin = " " * indent
    for value in values:
        if random.random() < 0.2:
            yield f"{margin}# why this one"
        if random.random() < 0.25:
            yield f"{margin}- {flow_text(value)}"
            continue
        keys = random.sample([*value], len(value))
        lines = list(_written(random, {key: value[key] for key in keys}, indent + 2))
        while lines[0].lstrip().startswith("#"):
            del lines[0]
        yield f"{margin}- {lines[0].lstrip()}"
        yield from lines[1:]


def _edit(random: Random, document: Document, group: Document) -> None:
    targets, kind = group["targets"], random.randrange(10)
    if kind < 2:
        document[("description", "display_name")[kind]] = random.choice(TEXTS)
    elif kind == 2:
        random.choice(targets)["weight"] = random.choice([0.1, 0.2, 0.33, 1])
    elif kind == 3:
        targets.insert(random.randint(0, len(targets)), {"model_name": random.choice(MODELS), "weight": 0.4})
    elif kind == 4 and len(targets) > 1:
        targets.pop(random.randrange(len(targets)))
    elif kind == 5:
        random.shuffle(targets)
    elif kind == 6:
        group["retry"] = {"attempts": random.randint(1, 5)}
    elif kind == 7:
        group.pop("retry", None)
    elif kind == 8:
        group["strategy"] = _group(random, 3)["strategy"]
    else:
        targets[random.randrange(len(targets))] = {**_group(random, 1), "weight": 0.5}
