"""The plans that every format is held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import pytest

from policyctl.plan.consumers import FoundConsumers, Sources, consumers_of
from policyctl.plan.diff import FieldChange
from policyctl.plan.plan import Desired
from policyctl.plan.safety import BranchChecks, Review, review
from policyctl.plan.settings import Guards, Limits, Override, Settings
from policyctl.policy.document import policy_from_file
from policyctl.policy.live import observe_rows
from policyctl.reconcile.plan import stale_changes
from tests.builders import model, model_row, plan, policy, row


def reviewed(desired: Sequence[Desired], rows: list[Any], settings: Settings = Settings()) -> Review:
    return review(plan(desired, rows, settings), observe_rows(rows), settings)


def stale() -> Review:
    """A saved plan, held against a remote that moved since."""
    desired = [policy("a", "one", "two"), policy("b", "x")]
    moved = observe_rows([row("a", "three")])
    saved = plan(desired, [row("a", "one")])
    return review(saved, moved, Settings())._replace(stale=stale_changes(saved, moved))


def affected() -> Review:
    """One policy changes; one of the directory and two of others lead to it, one of these not for any request."""
    chat = {"mode": "fallback", "on_status_codes": [429, 503]}
    claude, gpt = "virtual-model/anthropic/claude", "virtual-model/openai/gpt"
    desired = [policy("chat", claude, gpt, strategy={**chat, "on_status_codes": [429]}), policy("front", "virtual-policy/chat")]
    rows = [
        row("chat", claude, gpt, strategy=chat),
        row("front", "virtual-policy/chat"),
        row("theirs", "virtual-policy/front", gpt, retry={"attempts": 2}),
        row("unmoved", claude, "virtual-policy/front", strategy={"mode": "single"}),
        row("other", gpt),
    ]
    return reviewed(desired, rows, Settings(scope=("chat", "front")))


def balanced(weight: float, *more: str, **body: Any) -> dict[str, Any]:
    """A load balance of two models, the second one with this weight, and of more."""
    targets = [
        {"model_name": "virtual-model/openai/gpt-4o"},
        {"model_name": "virtual-model/anthropic/claude-sonnet-4", "weight": weight},
        *({"model_name": name} for name in more),
    ]
    return {"strategy": {"mode": "loadbalance"}, "targets": targets, **body}


def thousand() -> Review:
    """A thousand changes: of three policies one is new, one is gone, and one changes, in one of five ways."""
    desired, rows = [], []
    for number in range(1000):
        name, before = f"team-{number % 7}/p{number:03}", balanced(0.5)
        after = (
            balanced((number % 9 + 1) / 20),
            {**before, "strategy": {"mode": "fallback", "on_status_codes": [429, 503]}},
            balanced(0.5, "virtual-model/google/gemini-2.5-pro"),
            balanced(0.5, retry={"attempts": number % 4 + 1}),
            before,
        )[number % 5]
        if number % 3:
            rows.append({"id": f"id-{number}", "name": name, "policy": before})
        if number % 3 != 1:
            text = f"For team {number % 7}"
            desired.append(policy_from_file({"name": name, "description": text, "policy": after}, f"policies/{name}.yaml"))
    return reviewed(desired, rows, Settings(limits=Limits(1000, 100)))


def overridden() -> Review:
    """A plan that people let through a limit, that only brings back what was reviewed, and with which a test fails."""
    back, settings = policy("a", "one"), Settings(limits=Limits(0, 100))
    rows = [row("a", "two"), row("gone")]
    allowed = (Override("--max-removes", "1", f"{HOSTILE} is gone", "ana"), Override("--allow-guard", "max_calls"))
    made = plan([back], rows, settings)._replace(overrides=allowed)
    found = review(made, observe_rows(rows), Settings(limits=Limits(1, 100)), reviewed={back.name: back.document})
    return found._replace(
        branch=BranchChecks(failed_tests=(f"policies/a.test.yaml: {HOSTILE}: status: expected 200, got 503",))
    )


# The agents of five teams, by the policy that they name.
_AGENTS = {
    "billing": ("billing-bot", "dunning", "invoices", "refunds"),
    "chat": ("faq", "greeter", "small-talk"),
    "code": ("reviewer",),
    "search": ("finder", "librarian"),
    "support": ("first-line", "second-line"),
}


def used(plain: Review, agents: Mapping[str, Sequence[str]]) -> Review:
    """The review with these agents as the consumers of its policies, and through them of its models."""
    rows = ({"id": name, "name": name, "llm": f"virtual-policy/{policy}"} for policy, names in agents.items() for name in names)
    found = consumers_of(Sources(agents=tuple(rows)))
    found.policies({**plain.policies, **plain.policies_before})
    names = [*(change.name for change in plain.plan.changes), *(one.name for one in plain.affected)]
    return plain._replace(consumers=FoundConsumers({name: found.of(name) for name in names}))


def swapped() -> Review:
    """One model takes the place of another under five policies that twelve agents use, and the old one goes."""
    old, new, other = (f"virtual-model/{name}" for name in ("openai/gpt-4o", "openai/gpt-5", "anthropic/claude-sonnet-4"))
    names, codes = ("billing", "chat", "code", "search", "support"), {"mode": "fallback", "on_status_codes": [429, 503]}
    settings = {"custom_host": "https://gateway.example/v1", "request_timeout": 30000}
    desired: list[Desired] = [
        model("openai/gpt-5", app_id="openai_creds", provider_config=settings, config={"temperature": 0.2}, tags=["support"]),
        model("anthropic/claude-sonnet-4", app_id="anthropic_creds"),
        *(policy(name, new, other, strategy=codes) for name in names),
    ]
    rows = [
        model_row("openai/gpt-4o", app_id="openai_creds", provider_config=settings, tags=["support"]),
        model_row("anthropic/claude-sonnet-4", app_id="anthropic_creds"),
        *(row(name, old, other, strategy=codes) for name in names),
    ]
    return used(reviewed(desired, rows, Settings(models=True)), _AGENTS)


def models() -> Review:
    """Models alone: one is new, one gets a connection for its own key, one other texts, one keeps its key, one goes."""
    key = {"provider": "openai", "apiKey": "***", "customHost": "https://old.example/v1"}
    desired = [
        model("groq/llama", app_id="groq_creds", model_type="chat_vision", description="For pictures"),
        model("openai/gpt-4o", app_id="openai_creds", provider_config={"custom_host": "https://new.example/v1"}),
        model("openai/mini", description="Small and fast", provider_config={"custom_host": "https://old.example/v1"}),
        model("openai/plain", provider_config={"custom_host": "https://new.example/v1"}),
    ]
    rows = [
        model_row("openai/gpt-4o", provider_config=key, config={"temperature": 0.7}, tags=["support"]),
        model_row("openai/mini", provider_config={**key, "apiKey": "a key that is shown"}),
        model_row("openai/plain", provider_config={**key, "apiKey": "a key that is shown"}),
        model_row("a21/old", provider_config={"api_key": "***"}),
        row("chat", "virtual-model/openai/gpt-4o"),
    ]
    return reviewed([*desired, policy("chat", "virtual-model/openai/gpt-4o")], rows, Settings(models=True))


LONG = "A description that goes on and on, " * 8
HOSTILE = "\x1b[2J‮::error::</details>\n@team `x` | y"

MAKERS: dict[str, Callable[[], Review]] = {
    "none": lambda: reviewed([policy("a")], [row("a"), row("other")], Settings(scope=("a",))),
    "empty": lambda: reviewed([policy("a")], [row("a")]),
    "add": lambda: reviewed([policy("a", "virtual-model/google/g"), policy("b", "x", retry={"attempts": 1})], []),
    "update": lambda: reviewed(
        [policy("a", "one", "two", retry={"attempts": 3}, cache={"mode": "simple"})], [row("a", "two", "one", "three")]
    ),
    "equivalent": lambda: reviewed(
        [policy("a", "one", "two", description="new"), policy("b", "x", retry={"attempts": 0})],
        [row("a", "one", "two"), row("b", "x")],
    ),
    "settings": lambda: reviewed([policy("a")], [row("a")])._replace(
        branch=BranchChecks(
            settings=(
                FieldChange("limits.max_removes", 5, 50),
                FieldChange(f"environments.{HOSTILE}.protect", [HOSTILE, LONG], None),
            )
        ),
    ),
    "remove": lambda: reviewed([policy("a")], [row("a"), row("b"), row("c")]),
    "mixed": lambda: reviewed(
        [policy("new"), policy("changed", "b"), policy("same"), policy("twin"), policy("bad")],
        [
            row("changed"),
            row("same"),
            row("old"),
            row("twin"),
            row("virtual-policy/twin"),
            {"id": "7", "name": "bad"},
            {"id": "8"},
        ],
        Settings(allow_remove=("gone",)),
    ),
    "refused": lambda: reviewed(
        [policy("a")], [row("prod-a"), *(row(f"r{number}") for number in range(6))], Settings(protect=("prod-*",))
    ),
    "affected": affected,
    "unknown": lambda: reviewed(
        [policy("a", "one", "two"), policy("b", "virtual-policy/c")],
        [
            {**row("a", "one"), "policy": {"strategy": {"mode": "conditional"}, "targets": [{"name": "x"}]}},
            row("b", "one"),
            {**row("c"), "id": "1"},
            {**row("c"), "id": "2"},
        ],
        Settings(guards=Guards(max_traffic_shift=10, max_calls=9)),
    ),
    "retry-after": lambda: reviewed(
        [
            policy("a", "one", "two", retry={"attempts": 1, "use_retry_after_header": True}),
            policy("new", "one", retry={"attempts": 2, "on_status_codes": [429], "use_retry_after_header": True}),
        ],
        [row("a", "one", "two", retry={"attempts": 1})],
    ),
    "swapped": swapped,
    "losing": lambda: used(affected(), {"chat": ("billing-bot", "faq"), "front": ("sales",)}),
    "models": models,
    "new-models": lambda: reviewed(
        [model("openai/a", app_id="one"), policy("a", "virtual-model/openai/a"), policy("b", "virtual-model/openai/a")],
        [row("b", "virtual-model/openai/a")],
        Settings(models=True),
    ),
    "stale": stale,
    "overridden": overridden,
    "thousand": thousand,
    "hostile": lambda: reviewed(
        [policy("new"), policy("changed", f"virtual-model/{HOSTILE}")],
        [row("changed", LONG), {**row(HOSTILE), "description": HOSTILE}],
    ),
}


class Plans(Mapping[str, Review]):
    """The plans by their names, each made when a test asks for it: collecting the tests makes none."""

    def __getitem__(self, name: str) -> Review:
        return _made(name)

    def __iter__(self) -> Iterator[str]:
        return iter(MAKERS)

    def __len__(self) -> int:
        return len(MAKERS)


@cache
def _made(name: str) -> Review:
    return MAKERS[name]()


PLANS = Plans()
# The thousand changes take as long as all the others together, and twice that where coverage is measured.
_LARGE = (pytest.mark.slow, pytest.mark.no_cover)
CASES = [pytest.param(name, marks=_LARGE) if name == "thousand" else name for name in PLANS]
