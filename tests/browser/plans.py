"""Plans to look at, as pages."""

from __future__ import annotations

from typing import Any

from policyctl.effect.tree import DeclaredModels
from policyctl.plan.safety import Review, review
from policyctl.plan.settings import Settings
from policyctl.policy.document import Policy, policy_from_file
from policyctl.policy.live import observe_rows
from tests.builders import plan

FLASH, LITE = "virtual-model/google/gemini-2.0-flash", "virtual-model/google/gemini-2.0-flash-lite"
GPT, CLAUDE, GRANITE = "virtual-model/openai/gpt-4o", "virtual-model/anthropic/claude", "virtual-model/watsonx/ibm/granite"
HOSTILE = (
    "\x1b[2J‮::error::x</details></title></style><script>window.pwned = 1</script>"
    "<img src=x onerror='window.pwned = 1'><svg onload=pwned=1>\n@team `x` | y \" ' {{ 7 * 7 }}"
)


def balanced(*targets: tuple[Any, float], **more: Any) -> dict[str, Any]:
    """A load balance over these models or groups."""
    made = [
        {"model_name": one, "weight": weight} if isinstance(one, str) else {**one, "weight": weight} for one, weight in targets
    ]
    return {"strategy": {"mode": "loadbalance"}, "targets": made, **more}


def guarded(*targets: Any, codes: list[int] | None = None, **more: Any) -> dict[str, Any]:
    """A fallback over these models or groups."""
    strategy = {"mode": "fallback"} if codes is None else {"mode": "fallback", "on_status_codes": codes}
    return {"strategy": strategy, "targets": [{"model_name": one} if isinstance(one, str) else one for one in targets], **more}


def reviewed(desired: dict[str, dict[str, Any]], live: dict[str, dict[str, Any]], settings: Settings = Settings()) -> Review:
    """The plan from live to desired; both say by name a body, or a whole document."""
    policies: list[Policy] = [
        policy_from_file(_document(name, said), f"policies/{place}.yaml") for place, (name, said) in enumerate(desired.items())
    ]
    rows = [{"id": f"id-{place}", **_document(name, said)} for place, (name, said) in enumerate(live.items())]
    timeouts = {FLASH: 30.0, LITE: 30.0, GPT: 60.0, CLAUDE: 60.0, GRANITE: 45.0}
    return review(plan(policies, rows, settings), observe_rows(rows), settings, DeclaredModels(timeouts))


def _document(name: str, said: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, **(said if "policy" in said else {"policy": said})}


def mixed() -> Review:
    """Seven changes: an add, two removes of which one is refused, and updates of every kind."""
    group = balanced((GPT, 0.8), (CLAUDE, 0.2))
    return reviewed(
        {
            "anygem": balanced((FLASH, 0.5), (LITE, 0.5), retry={"attempts": 1}),
            "assistant": guarded(group, GRANITE, codes=[429, 503], retry={"attempts": 3}),
            "chat": {"policy": guarded(GPT, CLAUDE), "description": "new words"},
            "support": {"policy": guarded(CLAUDE, GRANITE), "description": "Answers customers"},
            "code": guarded(CLAUDE, GPT),
        },
        {
            "anygem": balanced((FLASH, 0.75), (LITE, 0.25), retry={"attempts": 1}),
            "assistant": guarded(group, GRANITE, codes=[429, 500, 503], retry={"attempts": 1}),
            "chat": {"policy": guarded(GPT, CLAUDE), "description": "old words"},
            "code": guarded(CLAUDE),
            "old-router": group,
            "summarizer": guarded(CLAUDE, GRANITE),
        },
        Settings(protect=("old-*",), allow_remove=("gone",)),
    )


def hostile() -> Review:
    """Everything that people can write is written by a person who means harm."""
    return reviewed(
        {
            "new": {"policy": guarded(f"virtual-model/{HOSTILE}"), "description": HOSTILE, "display_name": HOSTILE},
            "changed": {"policy": guarded(HOSTILE, GPT), "description": HOSTILE},
        },
        {
            "changed": {"policy": guarded(f"virtual-model/{HOSTILE}/x"), "description": "A" * 10_000},
            HOSTILE: {"policy": guarded(GPT), "description": HOSTILE},
            "odd": {"policy": {"strategy": {"mode": HOSTILE}, "targets": [{}, {"strategy": {}}]}},
            "itself": guarded("itself", GPT),
        },
        Settings(allow_remove=(HOSTILE,)),
    )


def many() -> Review:
    """1,000 changes."""
    before, after = balanced((FLASH, 0.75), (LITE, 0.25)), balanced((FLASH, 0.5), (LITE, 0.5))
    updated, added = [f"team-{number:04}" for number in range(600)], [f"new-{number:04}" for number in range(300)]
    live = {
        **dict.fromkeys(updated, before),
        **dict.fromkeys((f"old-{number:04}" for number in range(100)), guarded(GPT, CLAUDE)),
    }
    return reviewed({**dict.fromkeys(updated, after), **dict.fromkeys(added, guarded(CLAUDE, GRANITE))}, live)
