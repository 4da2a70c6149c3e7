"""A desired policy."""

from __future__ import annotations

from policyctl.policy.document import Policy


def test_a_policy_is_the_same_from_its_document_and_from_its_text() -> None:
    document = {"name": "virtual-policy/a", "policy": {"targets": [{"model_name": "x", "weight": 0.1}], "strategy": {}}}
    one = Policy("virtual-policy/a", document, "a.yaml")
    other = Policy("virtual-policy/a", one.text, "a.yaml")
    one.keep_text()
    assert (one.document, one.text) == (other.document, other.text) == (document, other.text)
