"""Who uses the policies and models of a tenant: agents, flows, knowledge bases, controls, the tenant's settings.

A name that is used is free text on the platform: nothing there checks it, and an agent may name a policy with its prefix or
without. What is known of each place is in the manual (consumers). The path of what has an unknown form is added to `odd`: it
may name a model that is not found. A source that could not be read is not an empty one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from policyctl.policy.document import Document, model_names
from policyctl.policy.findings import FieldPath
from policyctl.policy.names import MODEL_PREFIX, POLICY_PREFIX, bare_name, both_spellings, canonical_name, kind_of, provider_of

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


# Those that only narrow or guard what a model does: without the model they do nothing, and nothing fails.
MILD: frozenset[ConsumerKind] = frozenset({"control", "denylist"})
_NAMED = 3  # consumers of one kind in a phrase
_MAX_WAY = 20  # consumers between one and what it uses; agents may be collaborators of each other


class Consumer(NamedTuple):
    """What uses a model: its kind, its name, and the workspace that it is in, or the file (with a line, where that is known)
    that defines it."""

    kind: ConsumerKind
    name: str
    workspace: str = ""
    file: str = ""


class ConsumerUse(NamedTuple):
    """That a consumer uses a policy or model: the field that names it, and the consumers and policies in between.

    `through` is empty where the consumer names it directly; the last of it does.
    """

    consumer: Consumer
    field: str
    through: tuple[str, ...] = ()


class Sources(NamedTuple):
    """What was read of a tenant: the rows of each list, or why it could not be read.

    `agents` and the others are plain rows as the platform gives them; `unread` has a reason by the source's name, `absent`
    the sources that this deployment does not have.
    """

    agents: tuple[Document, ...] = ()
    others: Mapping[ConsumerKind, tuple[Document, ...]] = {}
    selection: Mapping[str, Any] = {}
    unread: Mapping[str, str] = {}
    absent: tuple[str, ...] = ()


class FoundConsumers(NamedTuple):
    """Who uses what a plan is about: the uses by canonical name, and by source why it could not be read."""

    uses: Mapping[str, tuple[ConsumerUse, ...]] = {}
    unread: Mapping[str, str] = {}

    def holding(self, name: str) -> list[ConsumerUse]:
        """The uses because of which the policy or model must stay: direct ones, not those of policies, which have a rule of
        their own, and not those that only narrow what a model does."""
        uses = self.uses.get(name, ())
        return [use for use in uses if not use.through and use.consumer.kind not in MILD | {"policy"}]


class Consumers:
    """Who uses what, directly and through others."""

    def __init__(
        self,
        unread: Mapping[str, str] = {},
        absent: Iterable[str] = (),
        released: Iterable[str] = (),
        listed: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        """`unread` and `absent` are as those of `Sources`; `released` are the agents with a version that was not inspected.

        `listed` gives the models that the remote lists, as it spells them. It is called when a name without a prefix may be
        that of a virtual model or of one of the platform's own.
        """
        self.unread = dict(unread)
        self.absent = tuple(absent)
        self.released = tuple(released)
        self.empty = True  # there is nothing but policies
        self.named: set[str] = set()  # canonical names that some consumer writes with their prefix
        self._listed = listed
        self._policies: set[str] = set()  # canonical names
        self._direct: defaultdict[str, dict[ConsumerUse, None]] = defaultdict(dict)  # by the name as a consumer writes it
        self._collaborates: defaultdict[str, dict[Consumer, None]] = defaultdict(dict)

    def add(self, consumer: Consumer, uses: Iterable[tuple[str, str]], collaborators: Iterable[str] = ()) -> None:
        """Take note of what one consumer names, as (field, name), and of the agents that it hands requests to, by id or
        name."""
        self.empty = self.empty and consumer.kind == "policy"
        for where, name in uses:
            self._direct[name][ConsumerUse(consumer, where)] = None
            if name.startswith((MODEL_PREFIX, POLICY_PREFIX)):
                self.named.add(name)
        for other in collaborators:
            self._collaborates[other][consumer] = None

    def policies(self, documents: Mapping[str, Document]) -> None:
        """Take note of what policies target, by their canonical names."""
        self._policies.update(documents)
        for name, document in documents.items():
            self.add(Consumer("policy", name), (("policy.targets", target) for target in dict.fromkeys(model_names(document))))

    def mark_odd(self, source: str, name: str, paths: Iterable[str]) -> None:
        """Take note that a source's entry of that name has something at these paths that is not as it is known."""
        if found := ", ".join(dict.fromkeys(paths)):
            self.unread.setdefault(source, f"{name} has {found} in a form that is not known")

    @property
    def notes(self) -> list[str]:
        """What is not seen, besides what could not be read."""
        absent = [f"this deployment does not have {', '.join(self.absent)}"] if self.absent else []
        return [*absent, *self.not_inspected(len(self.released))]

    def not_inspected(self, most: int) -> list[str]:
        """A line about the released agents, with the names of at most that many."""
        number, shown = len(self.released), ", ".join(self.released[:most])
        if number == 1:
            return [f"the released version of the agent {shown} was not inspected, and may use another model than its draft"]
        more = f" and {number - most:,} more" if number > most else ""
        about = f"the released versions of {number:,} agents were not inspected, and may use other models than their drafts"
        return [f"{about}: {shown}{more}"] if number else []

    def of(self, name: str) -> tuple[ConsumerUse, ...]:
        """Who uses a policy or model by its canonical name: direct uses first, each consumer once."""
        found: dict[Consumer, ConsumerUse] = {}
        pending = self._direct_uses(name)
        while pending:
            further: list[ConsumerUse] = []
            for use in sorted(pending, key=_order):
                if use.consumer not in found and len(use.through) < _MAX_WAY:
                    found[use.consumer] = use
                    further += self._users_of(use)
            pending = further
        return tuple(found.values())

    def _direct_uses(self, name: str) -> list[ConsumerUse]:
        """The uses that name a policy or model, in either spelling."""
        bare = both_spellings(name)[1]
        also = bare != name and bare in self._direct and self._is_meant(name, bare)
        return [*self._direct.get(name, ()), *(self._direct[bare] if also else ())]

    def _is_meant(self, name: str, bare: str) -> bool:
        """Whether a name without a prefix means this policy or virtual model.

        It means the policy of that name, if there is one, and one without a provider can mean nothing else. Otherwise it is
        one of the platform's own models, or, where the platform lists none of that name, the virtual model.
        """
        policy = canonical_name(bare)
        if kind_of(name) == "policy":
            return policy in self._policies or provider_of(bare) is None
        return policy not in self._policies and provider_of(bare) is not None and bare not in self._listed()

    def _users_of(self, use: ConsumerUse) -> Iterator[ConsumerUse]:
        """Those who use a consumer, and through it what it uses."""
        way = (use.consumer.name, *use.through)
        if use.consumer.kind == "policy":
            yield from (ConsumerUse(other.consumer, other.field, way) for other in self._direct_uses(use.consumer.name))
        for other in self._collaborates.get(use.consumer.name, ()):
            yield ConsumerUse(other, "collaborators", way)


def phrase(uses: Iterable[ConsumerUse]) -> str:
    """`used by 5 agents (billing-bot, faq, sales, …), through others by 1 flow (intake); on the denylist`; empty for none."""
    found = each_once(uses)
    direct = counted_consumers(use.consumer for use in found if not use.through)
    others = counted_consumers(use.consumer for use in found if use.through)
    parts = [f"used by {direct}"] if direct else []
    parts += [f"{'' if direct else 'used '}through others by {others}"] if others else []
    listed = [", ".join(parts)] if parts else []
    return "; ".join([*listed, *(["on the denylist"] if any(use.consumer.kind == "denylist" for use in found) else [])])


def each_once(uses: Iterable[ConsumerUse]) -> list[ConsumerUse]:
    """Uses without those of files whose consumer is live too."""
    found = list(uses)
    live = {(use.consumer.kind, use.consumer.name) for use in found if not use.consumer.file}
    return [use for use in found if not use.consumer.file or (use.consumer.kind, use.consumer.name) not in live]


def counted_consumers(consumers: Iterable[Consumer], *, named: bool = True) -> str:
    """Consumers by their kind: how many, and if `named` the names of the first few."""
    by_kind: defaultdict[ConsumerKind, list[str]] = defaultdict(list)
    for consumer in consumers:
        by_kind[consumer.kind].append(bare_name(consumer.name))
    parts = []
    for kind, names in by_kind.items():
        if kind == "tenant default":
            parts.append("the tenant's default model")
        elif kind != "denylist":
            plural = "policies" if kind == "policy" else f"{kind}s"
            more = ", …" if len(names) > _NAMED else ""
            shown = f" ({', '.join(names[:_NAMED])}{more})" if named else ""
            parts.append(f"{len(names):,} {plural if len(names) != 1 else kind}{shown}")
    return ", ".join(parts)


def _order(use: ConsumerUse) -> tuple[bool, Consumer]:
    return use.consumer.kind == "policy", use.consumer


# The source that a kind of consumer is read from, and what its rows name.
_SOURCES: dict[ConsumerKind, tuple[str, Callable[[Document, list[str]], Uses]]] = {
    "flow": ("tools", flow_uses),
    "knowledge base": ("knowledge bases", knowledge_base_uses),
    "control": ("controls", control_uses),
}


def consumers_of(sources: Sources, listed: Callable[[], Collection[str]] = frozenset) -> Consumers:
    """Who uses what by the rows of a tenant; `listed` is as that of `Consumers`. A source with a row that is not as it is known
    counts as not read: what that row uses is not known."""
    released = sorted(name_of(row) for row in sources.agents if _is_released(row))
    found = Consumers(sources.unread, sources.absent, released, listed)
    lists = (sources.agents, sources.others.get("external agent", ()), sources.others.get("assistant", ()))
    names = {str(row["id"]): name_of(row) for rows in lists for row in rows if "id" in row}
    whole = {row.get("id") for row in sources.agents if "llm" in row}  # one list may show what another one leaves out
    for row in sources.agents:
        odd = [] if row.get("id") in whole else live_agent_oddities(row)
        uses = tuple(agent_uses(row, odd))
        others = [names.get(one, one) for one in texts(row.get("collaborators"), "collaborators", odd)]
        found.add(Consumer("agent", name_of(row), str(row.get("workspace_id") or "")), uses, others)
        found.mark_odd("agents", name_of(row), odd)
    for kind, (source, uses_of) in _SOURCES.items():
        for row in sources.others.get(kind, ()):
            odd = live_flow_oddities(row) if kind == "flow" else []
            found.add(Consumer(kind, name_of(row)), tuple(uses_of(row, odd)))
            found.mark_odd(source, name_of(row), odd)
    odd = []
    for kind, where, uses in selection_uses(sources.selection, odd):
        found.add(Consumer(kind, where), uses)
    found.mark_odd("model selection", "it", odd)
    return found


def _is_released(row: Document) -> bool:
    environments = row.get("environments")
    return isinstance(environments, list) and any(isinstance(one, dict) and one.get("name") == "live" for one in environments)
