"""What a document is: a policy, a virtual model, a test, something of the platform's that is not ours, or a problem."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

from policyctl.model.complaints import Complaint, did_you_mean, near, show

CONFIG_FILE = "policyctl.yaml"
TEST_KIND = "policy_test"

# The platform's other kinds, as its ADK 2.19 names them in `kind:`. Such documents are not policyctl's business.
_OTHER_KINDS = frozenset(
    "agent agent_style assistant connection external flow knowledge_base mcp native plugin python skill tool toolkit "
    "voice_config voice_configuration workflow".split()
)
_MODEL_KEYS = frozenset({"provider_config", "config", "connection_id", "tags", "model_type"})
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


def kind_of(data: Any) -> Kind | Complaint:
    """What a document is, or why it is none of the things that may stand in a policy directory.

    A misspelled `policy:` must never read as "this policy is gone", so what is not recognised is a problem.
    """
    if not isinstance(data, dict):
        return Complaint((), "P010", f"a policy file is a mapping, got {show(data)}")
    kind = data.get("kind")
    if kind == TEST_KIND:
        return Kind.TEST
    if "policy" in data:
        return Kind.POLICY
    if isinstance(kind, str) and kind in _OTHER_KINDS:
        return Kind.OTHER
    unknown = [key for key in data if key not in _MODEL_KEYS and key not in _POLICY_TOP]
    for key in unknown:
        if near(key, ["policy"], cutoff=0.7):
            return Complaint((key,), "P101", f"unknown key {show(key)} (did you mean policy?)", "key")
    if kind == "model" and not _MODEL_KEYS.isdisjoint(data):
        return Kind.MODEL
    if kind == "model":
        return Complaint((), "P010", "this is neither a policy (no key policy) nor a virtual model", "key")
    if kind is None:
        return Complaint((), "P010", "this is no policy: it has neither kind nor policy (move it elsewhere)", "key")
    known = sorted({"model", *_OTHER_KINDS})
    guess = did_you_mean(kind, known) if isinstance(kind, str) else ""
    return Complaint(("kind",), "P010", f"{show(kind)} is no kind that belongs here{guess or ' (move it elsewhere)'}")
