"""A document before it is checked: its data and kind, and whether it has templates. Imports neither pydantic nor jinja2."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from typing import Any

from policyctl.errors import Mark, Problem
from policyctl.policy.findings import Finding, closest, did_you_mean, format_path
from policyctl.policy.model_settings import PROVIDERS, provider_key
from policyctl.policy.names import MODEL_PREFIX

CONFIG_FILE = "policyctl.yaml"
MAX_DEPTH = 200  # of mappings and lists; 64 nested groups need 130
TEST_KIND = "policy_test"

# The platform's other kinds, as ADK 2.19 names them in `kind:`. Such documents are skipped.
_OTHER_KINDS = frozenset(
    "agent agent_style assistant connection control external flow knowledge_base mcp model_selection native plugin python "
    "skill tool toolkit voice_config voice_configuration workflow".split()
)
_MODEL_KEYS = frozenset({"provider_config", "config", "connection_id", "connection", "app_id", "tags", "model_type"})
_POLICY_PARTS = frozenset({"strategy", "targets"})
_POLICY_TOP = ("policy", "name", "kind", "spec_version", "display_name", "description")


class Kind(Enum):
    """What to do with a document."""

    POLICY = auto()
    MODEL = auto()
    TEST = auto()
    OTHER = auto()


def is_test_file(name: str) -> bool:
    """Whether a file holds scenario tests by its name: `*.test.yaml` (or `.yml`, `.json`)."""
    stem, _, _ = name.rpartition(".")
    return stem.endswith(".test")


def kind_of(data: Any) -> Kind | Finding:
    """What a document is, or why it does not belong in a policy directory.

    A misspelled `policy:` must never mean "this policy is gone", so an unrecognised document is a problem. One that is
    clearly meant to be a policy counts as one, so that all of its problems are found.
    """
    if not isinstance(data, dict):
        return Finding((), "P010", f"a policy file is a mapping, got {format_path(data)}{_suggestion(data)}")
    kind = data.get("kind")
    if kind == TEST_KIND:
        return Kind.TEST
    if "policy" in data:
        return Kind.POLICY
    if isinstance(kind, str) and kind in _OTHER_KINDS:
        return Kind.OTHER
    is_model = not _MODEL_KEYS.isdisjoint(data) or (kind == "model" and _names_a_model(data))
    if not is_model and (misspelled_policy(data) or data.keys() >= _POLICY_PARTS):
        return Kind.POLICY
    if kind == "model":
        message = "this is neither a policy nor a virtual model (add policy or provider_config)"
        return Kind.MODEL if is_model else Finding((), "P010", message, "key")
    if kind is None:
        return Finding((), "P010", "this is not a policy: it has neither kind nor policy (move it elsewhere)", "key")
    known = sorted({"model", *_OTHER_KINDS})
    guess = did_you_mean(kind, known) if isinstance(kind, str) else ""
    return Finding(("kind",), "P010", f"{format_path(kind)} is not a kind that belongs here{guess or ' (move it elsewhere)'}")


def _names_a_model(data: dict[str, Any]) -> bool:
    """Whether a document without more than a name can only be a virtual model."""
    name = data.get("name")
    known = isinstance(name, str) and (name.startswith(MODEL_PREFIX) or provider_key(name) in PROVIDERS)
    return known and not misspelled_policy(data) and not data.keys() >= _POLICY_PARTS


def misspelled_policy(data: dict[str, Any]) -> str | None:
    """The key of a document that is a misspelled `policy`, or None."""
    return next((key for key in data if key not in _POLICY_TOP and closest(key, ["policy"], cutoff=0.7)), None)


def _suggestion(data: Any) -> str:
    if isinstance(data, list) and data and all(isinstance(item, dict) for item in data):
        return " (remove the dash, and put --- between policies)"
    return " (write a policy, or move the file elsewhere)"


class RawDocument:
    """One document of a file: its data, where it starts, and what was wrong with its text."""

    __slots__ = ("data", "mark", "problems")

    def __init__(self, data: Any, mark: Mark, problems: Iterable[Problem] = ()) -> None:
        self.data = data
        self.mark = mark
        self.problems = list(problems)


MAX_VARIABLES = 65_536  # characters of all variables of an environment together
_MARKERS = ("{{", "{%", "{#")
_BYTES = tuple(marker.encode() for marker in _MARKERS)


def is_templated(content: bytes) -> bool:
    """Whether a file's content depends on the environment."""
    return b"{" in content and any(marker in content for marker in _BYTES)


def is_template(text: str) -> bool:
    """Whether a scalar has any template syntax."""
    return "{" in text and any(marker in text for marker in _MARKERS)


def has_template(value: Any) -> bool:
    """Whether any scalar in a plain value has a template (keys do not count)."""
    if isinstance(value, str):
        return is_template(value)
    if isinstance(value, dict):
        return any(map(has_template, value.values()))
    return isinstance(value, list) and any(map(has_template, value))
