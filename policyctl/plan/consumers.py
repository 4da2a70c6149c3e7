"""Who uses the policies and models of a tenant: agents, flows, knowledge bases, controls, the tenant's settings.

A name that is used is free text on the platform: nothing there checks it, and an agent may name a policy with its prefix or
without. What is known of each place is in the manual (consumers). A source that could not be read is not an empty one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from policyctl.plan.uses import (
    ConsumerKind,
    Uses,
    agent_uses,
    control_uses,
    flow_uses,
    knowledge_base_uses,
    live_agent_oddities,
    live_flow_oddities,
    name_of,
    selection_uses,
    texts,
)
from policyctl.policy.document import Document, model_names
from policyctl.policy.names import MODEL_PREFIX, POLICY_PREFIX, bare_name, both_spellings, canonical_name, kind_of, provider_of

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
