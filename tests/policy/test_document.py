"""A desired policy."""

from __future__ import annotations

from policyctl.policy.document import Policy, digest, hidden_mark


def test_a_policy_is_the_same_from_its_document_and_from_its_text() -> None:
    document = {"name": "virtual-policy/a", "policy": {"targets": [{"model_name": "x", "weight": 0.1}], "strategy": {}}}
    one = Policy("virtual-policy/a", document, "a.yaml")
    other = Policy("virtual-policy/a", one.text, "a.yaml")
    one.keep_text()
    assert (one.document, one.text) == (other.document, other.text) == (document, other.text)


def test_two_hidden_texts_whose_hashes_begin_alike_are_shown_as_two() -> None:
    """Their author can find two that share 48 bits in minutes."""
    host = "https://hooks.slack.com/services"
    one, other = f"{host}/T0TEAM/B0ONCALL/cb3961b04206", f"{host}/T0EVIL/B0THIEF/bb35b6ae513f"
    assert digest(one)[:19] == digest(other)[:19]
    assert hidden_mark(one) != hidden_mark(other)
