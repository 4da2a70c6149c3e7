"""Where the rows and files of consumers name the models that they use.

The path of what has an unknown form is added to `odd`: it may name a model that is not found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from policyctl.policy.document import Document
from policyctl.policy.findings import FieldPath

ConsumerKind = Literal[
    "agent", "external agent", "assistant", "flow", "knowledge base", "control", "tenant default", "denylist", "policy"
]
Uses = Iterator[tuple[str, str]]  # the field and the name


def name_of(row: Document) -> str:
    """What a consumer is called, by its row or file."""
    return str(row.get("name") or row.get("id") or "without a name")


def agent_uses(row: Document, odd: list[str]) -> Uses:
    """What an agent's row or file names."""
    yield from _at(row, odd, "llm")
    yield from _at(row, odd, "llm_config", "model")
    yield from _at(row, odd, "chat_with_docs", "vector_index", "embeddings_model_name")
    yield from _at(row, odd, "chat_with_docs", "generation", "model_id")
    yield from _at(row, odd, "chat_with_docs", "query_rewrite", "model_id")


def live_agent_oddities(row: Document) -> list[str]:
    """What an agent's row lacks of what every whole row has: the platform writes the model into each agent but custom ones."""
    return [] if "llm" in row or row.get("style") == "custom" else ["no llm, which its whole row has,"]


def knowledge_base_uses(row: Document, odd: list[str]) -> Uses:
    """The same for a knowledge base."""
    yield from _at(row, odd, "vector_index", "embeddings_model_name")
    yield from _at(row, odd, "conversational_search_tool", "generation", "model_id")
    yield from _at(row, odd, "conversational_search_tool", "query_rewrite", "model_id")
    search = row.get("conversational_search_tool")
    indexes = search.get("index_config") if isinstance(search, dict) else None
    where = "conversational_search_tool.index_config"
    if not isinstance(indexes, list | None):
        odd.append(where)
    for position, index in enumerate(indexes if isinstance(indexes, list) else ()):
        for engine in ("milvus", "astradb", "open_search"):
            for _, name in _at(index, odd, engine, "embedding_model_id"):
                yield f"{where}[{position}].{engine}.embedding_model_id", name


def control_uses(row: Document, odd: list[str]) -> Uses:
    """The same for a control: its row has `model_ids`, its file `control.model_names`."""
    yield from (("model_ids", name) for name in texts(row.get("model_ids"), "model_ids", odd))
    control = row.get("control")
    names = control.get("model_names") if isinstance(control, dict) else None
    yield from (("control.model_names", name) for name in texts(names, "control.model_names", odd))


def flow_uses(row: Document, odd: list[str]) -> Uses:
    """The same for a flow: a tool whose row has the whole flow, or a flow's own file. Flows within flows count."""
    binding = row.get("binding")
    flow = binding.get("flow") if isinstance(binding, dict) else None
    model = flow.get("model") if isinstance(flow, dict) else row
    pending: list[tuple[str, Any]] = [("", model)]
    for path, one in pending:  # which grows
        if not isinstance(one, dict):
            odd.append(path.removesuffix(".") or "binding.flow.model")
            continue
        yield from ((f"{path}{where}", name) for where, name in _at(one, odd, "metadata", "llm_model"))
        nodes = one.get("nodes")
        if not isinstance(nodes, dict | None):
            odd.append(f"{path}nodes")
        for name, node in nodes.items() if isinstance(nodes, dict) else ():
            place = f"{path}nodes.{name}."
            for keys in (("spec", "llm"), ("spec", "config", "llm"), ("spec", "kvp_model_name")):
                yield from ((f"{place}{where}", used) for where, used in _at(node, odd, *keys))
            pending.append((place, node))


def live_flow_oddities(row: Document) -> list[str]:
    """What a tool's row lacks of what every whole row has: its binding, which shows whether it is a flow."""
    binding = row.get("binding")
    if not isinstance(binding, dict):
        return ["no binding, which its whole row has,"] if binding is None else ["binding"]
    return [] if isinstance(binding.get("flow"), dict | None) else ["binding.flow"]


def selection_uses(
    selection: Mapping[str, Any], odd: list[str]
) -> Iterator[tuple[ConsumerKind, str, tuple[tuple[str, str], ...]]]:
    """What a tenant's settings, or a file of them, name: the kind of consumer, its name, and what it names."""
    if default := tuple(_at(selection, odd, "default_llm")):
        yield "tenant default", "default_llm", default
    if denied := texts(selection.get("llm_denylist"), "llm_denylist", odd):
        yield "denylist", "llm_denylist", tuple(("llm_denylist", name) for name in denied)


class FileConsumer(NamedTuple):
    """A consumer as a file describes it: what it names, as (field, name), and the agents that it hands requests to."""

    kind: ConsumerKind
    name: str
    uses: tuple[tuple[str, str], ...]
    collaborators: tuple[str, ...] = ()


def consumers_in(document: Document) -> Iterator[FileConsumer]:
    """The consumers in a document of one of the platform's other kinds. A name with a template is not known, so it is left
    out."""
    odd: list[str] = []  # a file of another form is refused by the platform
    if (kind := document.get("kind")) == "model_selection":
        yield from (FileConsumer(*found) for found in selection_uses(document, odd))
    elif found := _FILES.get(str(kind)):
        uses = tuple((where, name) for where, name in found[1](document, odd) if "{{" not in name)
        collaborators = texts(document.get("collaborators"), "collaborators", odd) if found[0] == "agent" else ()
        spec = document.get("spec")  # where a flow has its name
        named = spec if "name" not in document and isinstance(spec, dict) else document
        yield FileConsumer(found[0], name_of(named), uses, tuple(collaborators))


_FILES: dict[str, tuple[ConsumerKind, Callable[[Document, list[str]], Uses]]] = {
    "agent": ("agent", agent_uses),
    "native": ("agent", agent_uses),
    "knowledge_base": ("knowledge base", knowledge_base_uses),
    "flow": ("flow", flow_uses),
    "workflow": ("flow", flow_uses),
    "tool": ("flow", flow_uses),
    "control": ("control", control_uses),
}


def path_of(where: str) -> FieldPath:
    """A field as a path: `nodes.ask.spec.llm`. Of a node whose name has a dot, the path leads as far as the nodes."""
    parts = re.findall(r"\[\d+\]|[^.\[\]]+", where)
    return tuple(int(part[1:-1]) if part.startswith("[") else part for part in parts)


def _at(value: Any, odd: list[str], *keys: str) -> Uses:
    """The name at a path, with the path as text; nothing where there is none."""
    for place, key in enumerate(keys):
        if value is None:
            return
        if not isinstance(value, dict):
            odd.append(".".join(keys[:place]) or "an entry that is not an object")
            return
        value = value.get(key)
    if isinstance(value, str) and value:
        yield ".".join(keys), value
    elif value not in (None, ""):
        odd.append(".".join(keys))


def texts(value: Any, where: str, odd: list[str]) -> list[str]:
    """The texts in a list."""
    if value is None:
        return []
    found = [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
    if not isinstance(value, list) or len(found) < len(value):
        odd.append(where)
    return found
