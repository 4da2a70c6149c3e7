"""A random tenant and a random directory for it: 50 to 500 changes, neighbours out of scope, references between policies."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from policyctl.policy.document import Policy, canonical_text, normal_form, policy_from_file
from policyctl.policy.names import POLICY_PREFIX, canonical_name
from tests.strategies import MODELS

SCOPE = ("virtual-policy/in-*",)
# What names may hold that URLs, queries and shells have their own use for; none is two names in any spelling.
_MARKS = ("", "", "", "", "", "&x", "#1", " y", "+z", "%41", "é", "'q")


@dataclass(frozen=True)
class World:
    """What is live, what is desired, and how many changes lie between: by name what each policy was and is to be."""

    rows: tuple[dict[str, Any], ...]
    desired: tuple[dict[str, Any], ...]
    changes: dict[str, str]  # canonical name → add, update, remove

    def policies(self) -> list[Policy]:
        return [policy_from_file(document, f"policies/{number}.yaml") for number, document in enumerate(self.desired)]

    def wanted(self) -> dict[str, str]:
        """The normal form of every desired policy, by canonical name."""
        return {policy.name: canonical_text(normal_form(policy.document)) for policy in self.policies()}


def make_world(rng: random.Random, least: int = 50, most: int = 500) -> World:
    """Draw one. Most plans are small, for the sake of the time; one in twelve is of any size up to the most."""
    count = rng.randint(least, most if rng.random() < 1 / 12 else min(most, least + 20))
    shares = [rng.random() + 0.1 for _ in range(3)]
    adds, updates = (int(count * share / sum(shares)) for share in shares[:2])
    same = rng.randrange(20)
    names = [f"in-{number:03}{rng.choice(_MARKS)}" for number in range(count + same)]
    rng.shuffle(names)
    added, updated = names[:adds], names[adds : adds + updates]
    removed, kept = names[adds + updates : count], names[count:]
    before: dict[str, dict[str, Any]] = {}
    for name in [*removed, *updated, *kept]:
        before[name] = _document(rng, name, list(before))
    desired = {name: before[name] for name in kept if not _refers(before[name], removed)}
    anew: list[str] = []
    for name in [*(name for name in kept if name not in desired), *updated, *added]:
        desired[name] = _document(rng, name, anew, display=f"now {name}")  # targets only new ones, so there is no circle
        anew.append(name)
    changed = [name for name in anew if name in before]
    changes = dict.fromkeys(added, "add") | dict.fromkeys(changed, "update") | dict.fromkeys(removed, "remove")
    outside = [_stored(rng, _document(rng, f"out-{number:02}", [])) for number in range(rng.randrange(3, 30))]
    rows = [_stored(rng, document) for document in before.values()]
    return World(
        tuple(_shuffled(rng, rows + outside)),
        tuple(_shuffled(rng, list(desired.values()))),
        {canonical_name(name): action for name, action in changes.items()},
    )


def _document(rng: random.Random, name: str, others: list[str], display: str | None = None) -> dict[str, Any]:
    """A policy over one to three targets, now and then another policy."""
    targets = [{"model_name": model} for model in rng.sample(MODELS, rng.randint(1, 3))]
    if others and rng.random() < 0.2:
        targets.append({"model_name": POLICY_PREFIX + rng.choice(others)})
    mode = rng.choice(("fallback", "loadbalance"))
    body: dict[str, Any] = {"strategy": {"mode": mode}, "targets": targets}
    if rng.random() < 0.3:
        body["retry"] = {"attempts": rng.randint(1, 4), "on_status_codes": [429, 503]}
    return {"name": POLICY_PREFIX + name, "display_name": display or f"was {name}", "description": name, "policy": body}


def _refers(document: dict[str, Any], names: list[str]) -> bool:
    return bool({target["model_name"] for target in document["policy"]["targets"]} & {POLICY_PREFIX + name for name in names})


def _stored(rng: random.Random, document: dict[str, Any]) -> dict[str, Any]:
    """A live row: its name perhaps without the prefix, perhaps with fields that no file knows."""
    name = document["name"].removeprefix(POLICY_PREFIX)
    spelled = {**document, "name": name} if rng.random() < 0.3 else document
    return {**spelled, "id": f"id-{name}", **({"limits": {"rpm": rng.randrange(100)}} if rng.random() < 0.5 else {})}


def _shuffled(rng: random.Random, items: list[Any]) -> list[Any]:
    return rng.sample(items, len(items))
