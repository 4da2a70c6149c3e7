"""What a document is: a policy, a virtual model, a test, something of the platform's that is not ours, or a problem."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

from policyctl.policy.findings import Finding, closest, did_you_mean, format_path

CONFIG_FILE = "policyctl.yaml"
TEST_KIND = "policy_test"

# The platform's other kinds, as its ADK 2.19 names them in `kind:`. Such documents are not policyctl's business.
_OTHER_KINDS = frozenset(
    "agent agent_style assistant connection external flow knowledge_base mcp native plugin python skill tool toolkit "
    "voice_config voice_configuration workflow".split()
)
_MODEL_KEYS = frozenset({"provider_config", "config", "connection_id", "tags", "model_type"})
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
    """What a document is, or why it is none of the things that may stand in a policy directory.

    A misspelled `policy:` must never read as "this policy is gone", so what is not recognised is a problem; and where it can
    be seen that a policy is meant, it is one, so that all of its problems are found.
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
    is_model = not _MODEL_KEYS.isdisjoint(data)
    if not is_model and (misspelled_policy(data) or data.keys() >= _POLICY_PARTS):
        return Kind.POLICY
    if kind == "model":
        message = "this is neither a policy nor a virtual model (add policy, or provider_config)"
        return Kind.MODEL if is_model else Finding((), "P010", message, "key")
    if kind is None:
        return Finding((), "P010", "this is not a policy: it has neither kind nor policy (move it elsewhere)", "key")
    known = sorted({"model", *_OTHER_KINDS})
    guess = did_you_mean(kind, known) if isinstance(kind, str) else ""
    return Finding(("kind",), "P010", f"{format_path(kind)} is not a kind that belongs here{guess or ' (move it elsewhere)'}")


def misspelled_policy(data: dict[str, Any]) -> str | None:
    """The key of a document that must mean `policy`, or None."""
    return next((key for key in data if key not in _POLICY_TOP and closest(key, ["policy"], cutoff=0.7)), None)


def _suggestion(data: Any) -> str:
    if isinstance(data, list) and data and all(isinstance(item, dict) for item in data):
        return " (remove the dash, and put --- between policies)"
    return " (write a policy, or move the file elsewhere)"
