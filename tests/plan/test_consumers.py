"""Consumers: each place that may name a model counts, both spellings are one, and what was not read is not nothing."""

from __future__ import annotations

from typing import Any

import pytest

from policyctl.plan.consumers import (
    Consumer,
    ConsumerKind,
    Consumers,
    Sources,
    agent_uses,
    consumers_of,
    control_uses,
    flow_uses,
    knowledge_base_uses,
)

GPT, ANYGEM = "virtual-model/openai/gpt-4o", "virtual-policy/anygem"
PLACES: dict[str, tuple[Any, dict[str, Any], list[str]]] = {
    "an agent's llm": (agent_uses, {"llm": GPT}, ["llm"]),
    "the model in its llm_config": (agent_uses, {"llm": "", "llm_config": {"model": GPT}}, ["llm_config.model"]),
    "its chat with documents": (
        agent_uses,
        {"chat_with_docs": {"vector_index": {"embeddings_model_name": GPT}, "generation": {"model_id": GPT}}},
        ["chat_with_docs.vector_index.embeddings_model_name", "chat_with_docs.generation.model_id"],
    ),
    "a knowledge base": (
        knowledge_base_uses,
        {
            "vector_index": {"embeddings_model_name": GPT},
            "conversational_search_tool": {"index_config": [{"milvus": {"embedding_model_id": GPT}}, None]},
        },
        ["vector_index.embeddings_model_name", "conversational_search_tool.index_config[0].milvus.embedding_model_id"],
    ),
    "a control's row": (control_uses, {"model_ids": [GPT, 1]}, ["model_ids"]),
    "a control's file": (control_uses, {"control": {"model_names": [GPT]}}, ["control.model_names"]),
    "a flow, and the flow in it": (
        flow_uses,
        {
            "binding": {
                "flow": {
                    "model": {
                        "metadata": {"llm_model": GPT},
                        "nodes": {
                            "ask": {"spec": {"llm": GPT}},
                            "each": {"nodes": {"read": {"spec": {"config": {"llm": GPT}, "kvp_model_name": GPT}}}},
                        },
                    }
                }
            }
        },
        [
            "metadata.llm_model",
            "nodes.ask.spec.llm",
            "nodes.each.nodes.read.spec.config.llm",
            "nodes.each.nodes.read.spec.kvp_model_name",
        ],
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_every_place_that_names_a_model_counts(place: str) -> None:
    uses, row, fields = PLACES[place]
    assert list(uses(row, [])) == [(field, GPT) for field in fields]


def test_every_node_of_a_large_flow_is_looked_at() -> None:
    nodes = {**{f"n{place}": {"spec": {}} for place in range(5000)}, "last": {"nodes": {"in": {"spec": {"llm": GPT}}}}}
    assert list(flow_uses({"binding": {"flow": {"model": {"nodes": nodes}}}}, [])) == [("nodes.last.nodes.in.spec.llm", GPT)]


@pytest.mark.parametrize("uses", [agent_uses, knowledge_base_uses, control_uses, flow_uses])
@pytest.mark.parametrize("value", [None, 1, "x", [], {}, [None], {"x": None}])
def test_a_row_of_any_shape_is_read(uses: Any, value: Any) -> None:
    keys = (
        "llm",
        "llm_config",
        "chat_with_docs",
        "vector_index",
        "conversational_search_tool",
        "model_ids",
        "control",
        "binding",
    )
    list(uses(dict.fromkeys((*keys, "nodes", "metadata"), value), []))


AGENT, TOOL = {"name": "x", "llm": None}, {"name": "x", "binding": {"python": {}}}
ODD: dict[str, tuple[Sources, str]] = {
    "a model that is an object": (Sources((AGENT | {"llm": {"model_id": GPT}},)), "agents"),
    "an agent without llm": (Sources(({"name": "x"},)), "agents"),
    "llm_config that is a text": (Sources((AGENT | {"llm_config": "gpt"},)), "agents"),
    "collaborators that are objects": (Sources((AGENT | {"collaborators": [{"id": "1"}]},)), "agents"),
    "collaborators by id": (Sources((AGENT | {"collaborators": {"1": {}}},)), "agents"),
    "a tool without its binding": (Sources(others={"flow": ({"name": "x"},)}), "tools"),
    "a binding that is a text": (Sources(others={"flow": ({"name": "x", "binding": "{}"},)}), "tools"),
    "a flow as text": (Sources(others={"flow": (TOOL | {"binding": {"flow": {"model": "{}"}}},)}), "tools"),
    "a flow without its model": (Sources(others={"flow": (TOOL | {"binding": {"flow": {"id": "1"}}},)}), "tools"),
    "nodes in a list": (Sources(others={"flow": (TOOL | {"binding": {"flow": {"model": {"nodes": [{}]}}}},)}), "tools"),
    "a node as text": (Sources(others={"flow": (TOOL | {"binding": {"flow": {"model": {"nodes": {"a": "b"}}}}},)}), "tools"),
    "indexes by name": (
        Sources(others={"knowledge base": ({"conversational_search_tool": {"index_config": {"milvus": {}}}},)}),
        "knowledge bases",
    ),
    "an index as text": (
        Sources(others={"knowledge base": ({"vector_index": "virtual-model/openai/x"},)}),
        "knowledge bases",
    ),
    "models of a control as objects": (Sources(others={"control": ({"model_ids": [{"id": "1"}]},)}), "controls"),
    "a default that is an object": (Sources(selection={"default_llm": {"id": GPT}}), "model selection"),
    "a denylist that is a text": (Sources(selection={"llm_denylist": GPT}), "model selection"),
}


@pytest.mark.parametrize("case", ODD)
def test_a_source_with_an_entry_of_an_unknown_form_counts_as_not_read(case: str) -> None:
    sources, source = ODD[case]
    assert consumers_of(sources).unread.keys() == {source}


def test_entries_that_use_nothing_are_of_a_known_form() -> None:
    agents = AGENT, {"name": "custom", "style": "custom"}, AGENT | {"llm": "", "llm_config": {}, "collaborators": []}
    flow = TOOL | {"binding": {"flow": {"model": {"nodes": {"a": {"spec": None}}}}}}
    others: dict[ConsumerKind, tuple[dict[str, Any], ...]] = {
        "flow": (TOOL, flow),
        "knowledge base": ({"name": "x"},),
        "control": ({"model_ids": None},),
    }
    assert consumers_of(Sources(agents, others, {"default_llm": None, "llm_denylist": []})).unread == {}


def test_both_spellings_of_a_policy_are_one() -> None:
    found = consumers_of(Sources(agents=({"name": "a", "llm": "anygem"}, {"name": "b", "llm": ANYGEM})))
    assert [use.consumer.name for use in found.of(ANYGEM)] == ["a", "b"]


BARE: dict[str, tuple[str, set[str], set[str], str | None]] = {
    # what is written, the policies there are, the models that the remote lists, and what is meant (None: nothing known)
    "the policy": ("anygem", {ANYGEM}, set(), ANYGEM),
    "a policy that does not exist": ("anygem", set(), set(), ANYGEM),
    "the virtual model": ("openai/gpt-4o", {ANYGEM}, {GPT}, GPT),
    "a model of the platform's own": ("openai/gpt-4o", {ANYGEM}, {GPT, "openai/gpt-4o"}, None),
    "a policy with a provider in its name": (
        "openai/gpt-4o",
        {"virtual-policy/openai/gpt-4o"},
        {GPT},
        "virtual-policy/openai/gpt-4o",
    ),
}


@pytest.mark.parametrize("case", BARE)
def test_a_name_without_a_prefix_means_what_exists(case: str) -> None:
    written, policies, listed, meant = BARE[case]
    found = consumers_of(Sources(agents=({"name": "a", "llm": written},)), lambda: listed)
    found.policies({name: {"policy": {"targets": []}} for name in policies})
    asked = (ANYGEM, GPT, "virtual-policy/openai/gpt-4o")
    assert [name for name in asked if found.of(name)] == ([meant] if meant else [])


def test_a_policy_targets_a_virtual_model_in_either_spelling() -> None:
    found = consumers_of(Sources(agents=({"name": "a", "llm": "anygem"},)))
    found.policies({ANYGEM: {"policy": {"targets": [{"model_name": "openai/gpt-4o"}]}}})
    assert [use.consumer.name for use in found.of(GPT)] == [ANYGEM, "a"]


def test_a_model_is_used_through_policies_and_collaborators_the_shortest_way() -> None:
    found = consumers_of(
        Sources(
            agents=(
                {"id": "1", "name": "direct", "llm": GPT},
                {"id": "2", "name": "by-policy", "llm": "anygem", "collaborators": ["3"]},
                {"id": "3", "name": "loop", "llm": "other", "collaborators": ["2"]},
            )
        )
    )
    found.policies({ANYGEM: {"policy": {"targets": [{"model_name": GPT}, {"model_name": GPT}]}}})
    ways = {use.consumer.name: (use.field, use.through) for use in found.of(GPT)}
    assert ways == {
        "direct": ("llm", ()),
        ANYGEM: ("policy.targets", ()),
        "by-policy": ("llm", (ANYGEM,)),
        "loop": ("collaborators", ("by-policy", ANYGEM)),
    }


def test_the_tenants_settings_are_consumers() -> None:
    found = consumers_of(Sources(selection={"default_llm": GPT, "llm_denylist": [GPT]}))
    assert [use.consumer.kind for use in found.of(GPT)] == ["denylist", "tenant default"]


def test_what_was_not_read_and_what_was_not_inspected_is_named() -> None:
    released = {"name": "billing", "llm": "x", "environments": [{"name": "draft"}, {"name": "live"}]}
    found = consumers_of(Sources(agents=(released,), unread={"tools": "403"}, absent=("controls",)))
    assert found.unread == {"tools": "403"}
    assert [("controls" in note, "billing" in note) for note in found.notes] == [(True, False), (False, True)]


def test_files_are_consumers_with_their_places() -> None:
    found = Consumers()
    found.add(Consumer("agent", "billing", file="agents/billing.yaml"), agent_uses({"llm": GPT}, []))
    assert found.of(GPT)[0].consumer.file == "agents/billing.yaml"
