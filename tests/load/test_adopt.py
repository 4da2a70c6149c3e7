"""Edits of what is live, taken over into the text of a file: exactly, in their places, with comments and templates kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from policyctl.load.adopt import edit_policy, override_text
from policyctl.load.directory import read_contents
from policyctl.load.source import source_of
from policyctl.policy.document import Document, canonical_text, normal_form
from tests.examples import examples
from tests.random_edits import random_edit, random_file

EDITS = 600


def document_in(text: str, file: str = "x.yaml", **variables: Any) -> Document:
    """The one policy that a text says."""
    found = read_contents(source_of(text.encode(), file), variables)
    assert found.problems == []
    (policy,) = found.policies
    return policy.document


def adopted(text: str, change: Callable[[Document], object], file: str = "x.yaml", **variables: Any) -> str:
    """The text with a change of what is live, which it then says."""
    now = document_in(text, file, **variables)
    live = copy.deepcopy(now)
    change(live)
    edited = edit_policy(source_of(text.encode(), file), 0, now, live)
    assert edited is not None
    says = canonical_text(normal_form(document_in(edited.text, file, **variables)))
    assert says == canonical_text(edited.normal)
    if not edited.templated:
        assert says == canonical_text(normal_form(live))
    return edited.text


@pytest.mark.parametrize("part", range(6))
def test_random_edits_are_adopted_exactly(part: int) -> None:
    """All of them in place: no file had to be written anew."""
    number = examples(EDITS // 6)
    for seed in range(part * number, (part + 1) * number):
        random = Random(seed)
        text = random_file(random)
        now = document_in(text)
        live = random_edit(random, now)
        edited = edit_policy(source_of(text.encode(), "x.yaml"), 0, now, live)
        assert edited is not None
        assert canonical_text(normal_form(document_in(edited.text))) == canonical_text(normal_form(live)), (seed, text)


FILE = """\
# Who owns this: the platform team
spec_version: v1
kind: model
name: chat   # a name
description: short
policy:
  strategy: {mode: fallback, on_status_codes: [503]}  # when to move on
  retry:
    # not more than that
    attempts: 1
  targets:
    - model_name: virtual-model/a/one   # the good one
      weight: 0.5
    # the cheap one
    - model_name: virtual-model/b/two
"""


def policy(**changes: Any) -> Callable[[Document], None]:
    return lambda document: document["policy"].update(changes)


def targets(*places: int) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        document["policy"]["targets"] = [document["policy"]["targets"][place] for place in places]

    return change


# The change, and the lines that go and come.
CHANGES: dict[str, tuple[Callable[[Document], None], list[str], list[str]]] = {
    "a number": (policy(retry={"attempts": 3}), ["    attempts: 1"], ["    attempts: 3"]),
    "a value beside a comment": (
        lambda document: document["policy"]["targets"][0].update(weight=0.25),
        ["      weight: 0.5"],
        ["      weight: 0.25"],
    ),
    "a weight that was not written": (
        lambda document: document["policy"]["targets"][1].update(weight=0.25),
        [],
        ["      weight: 0.25"],
    ),
    "a value in flow style": (
        policy(strategy={"mode": "fallback", "on_status_codes": [429, 503]}),
        ["  strategy: {mode: fallback, on_status_codes: [503]}  # when to move on"],
        ["  strategy: {mode: fallback, on_status_codes: [429, 503]}  # when to move on"],
    ),
    "a key that comes": (policy(cache={"mode": "simple"}), [], ["  cache:", "    mode: simple"]),
    "a key that goes, with its comment inside": (
        lambda document: document["policy"].pop("retry"),
        ["  retry:", "    # not more than that", "    attempts: 1"],
        [],
    ),
    "a text of several lines": (
        lambda document: document.update(description="one\ntwo"),
        ["description: short"],
        ["description: |-", "  one", "  two"],
    ),
    "a text that was not written, in its place": (
        lambda document: document.update(display_name="Chat"),
        [],
        ["display_name: Chat"],
    ),
    "a target that goes, with the comment above it": (
        targets(0),
        ["    # the cheap one", "    - model_name: virtual-model/b/two"],
        [],
    ),
    "a target that comes": (
        lambda document: document["policy"]["targets"].append({"model_name": "virtual-model/c/three"}),
        [],
        ["    - model_name: virtual-model/c/three"],
    ),
    "another order, each with its comments": (targets(1, 0), [], []),
}


@pytest.mark.parametrize("case", CHANGES)
def test_only_what_changed_is_edited(case: str) -> None:
    change, gone, come = CHANGES[case]
    before, after = FILE.splitlines(), adopted(FILE, change).splitlines()
    assert sorted(set(before) - set(after)) == sorted(gone)
    assert sorted(set(after) - set(before)) == sorted(come)


def test_an_order_that_matters_moves_whole_blocks() -> None:
    lines = adopted(FILE, targets(1, 0)).splitlines()
    assert lines[-4:] == [
        "    # the cheap one",
        "    - model_name: virtual-model/b/two",
        "    - model_name: virtual-model/a/one   # the good one",
        "      weight: 0.5",
    ]


def test_json_stays_json() -> None:
    text = '{"spec_version": "v1", "kind": "model", "name": "x", "policy": {"strategy": {"mode": "single"},\n'
    text += '  "targets": [{"model_name": "virtual-model/a/one"}]}}\n'
    edited = adopted(text, lambda document: document.update(description="by hand"), "x.json")
    assert edited == text.replace("}]}}\n", '}]}, "description": "by hand"}\n')


TEMPLATED = FILE.replace("weight: 0.5", 'weight: "{{ share }}"').replace("attempts: 1", 'attempts: "{{ n + 1 }}"')


def test_what_a_template_gives_is_reported_and_the_rest_is_edited() -> None:
    now = document_in(TEMPLATED, share=0.5, n=0)
    live = copy.deepcopy(now)
    live["policy"]["targets"][0]["weight"] = 0.25
    live["policy"]["retry"]["attempts"] = 4
    live["description"] = "by hand"
    edited = edit_policy(source_of(TEMPLATED.encode(), "x.yaml"), 0, now, live)
    assert edited is not None
    assert edited.text == TEMPLATED.replace("description: short", "description: by hand")
    assert set(edited.templated) == {
        ("policy.targets[a/one].weight", "{{ share }}", 0.25),
        ("policy.retry.attempts", "{{ n + 1 }}", 4),
    }


def test_a_target_with_a_template_is_not_removed() -> None:
    now = document_in(TEMPLATED, share=0.5, n=0)
    live = copy.deepcopy(now)
    del live["policy"]["targets"][0]
    edited = edit_policy(source_of(TEMPLATED.encode(), "x.yaml"), 0, now, live)
    assert edited is not None
    assert edited.text == TEMPLATED
    assert edited.templated == (("policy.targets[a/one]", "{{ share }}", None),)


# policyctl.yaml, and what it becomes when prod gets share: 0.25.
CONFIGS = {
    "a variable that is there": (
        "environments:\n  prod:\n    remote: local\n    vars: {share: 0.5, n: 1}  # both\n",
        "environments:\n  prod:\n    remote: local\n    vars: {share: 0.25, n: 1}  # both\n",
    ),
    "a variable that is new": (
        "environments:\n  prod:\n    remote: local\n    vars:\n      n: 1\n  dev: {remote: local}\n",
        "environments:\n  prod:\n    remote: local\n    vars:\n      n: 1\n      share: 0.25\n  dev: {remote: local}\n",
    ),
    "an environment without variables": (
        "environments: {prod: {remote: local}}\n",
        "environments: {prod: {remote: local, vars: {share: 0.25}}}\n",
    ),
    "a generated environment": (
        "environments:\n  dev: {remote: local}\nprune: true\n",
        "environments:\n  dev: {remote: local}\n  prod:\n    vars:\n      share: 0.25\nprune: true\n",
    ),
    "no environment of its own": ("prune: true\n", "prune: true\nenvironments:\n  prod:\n    vars:\n      share: 0.25\n"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_variable_is_set_for_one_environment(case: str) -> None:
    before, after = CONFIGS[case]
    assert override_text(source_of(before.encode(), "policyctl.yaml"), "prod", {"share": 0.25}) == after
