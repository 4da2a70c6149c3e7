"""Fourteen plans that a reviewer meets, each with what a careful reader would report of it after ten minutes."""

from __future__ import annotations

from typing import Any

from policyctl.plan.safety import Review
from policyctl.plan.settings import Guards, Settings, Survive
from tests.builders import policy, row
from tests.report.plans import models, reviewed, swapped

GPT, CLAUDE, FLASH = (
    "virtual-model/openai/gpt-4o",
    "virtual-model/anthropic/claude-sonnet-4",
    "virtual-model/google/gemini-2.0-flash",
)
Body = dict[str, Any]


def fallback(*targets: Any, codes: list[int] | None = None, **more: Any) -> Body:
    return group({"mode": "fallback"} if codes is None else {"mode": "fallback", "on_status_codes": codes}, targets, more)


def balance(*targets: Any, **more: Any) -> Body:
    return group({"mode": "loadbalance"}, targets, more)


def group(strategy: Body, targets: tuple[Any, ...], more: Body) -> Body:
    return {"strategy": strategy, **more, "targets": list(map(target, targets))}


def target(one: Any) -> Body:
    """A model, a model and its weight, or a group."""
    if isinstance(one, tuple):
        return {"model_name": one[0], "weight": one[1]}
    return {"model_name": one} if isinstance(one, str) else dict(one)


def changed(before: Body, after: Body) -> Review:
    return reviewed([policy("chat", **after)], [row("chat", **before)])


CODES = [408, 429, 500, 502, 503, 504]
RETRY = {"retry": {"attempts": 3, "on_status_codes": [429, 500, 503]}}
LIVE = fallback(GPT, CLAUDE, codes=CODES)
FRONT = "virtual-policy/chat"

PLANS: dict[str, Review] = {
    "lost retries": changed(fallback(GPT, codes=CODES, **RETRY), fallback(GPT, codes=CODES)),
    "lost codes": changed(fallback(GPT, CLAUDE, codes=[402, *CODES, 529]), fallback(GPT, CLAUDE, codes=[429, 503])),
    "swapped order": changed(LIVE, fallback(CLAUDE, GPT, codes=CODES)),
    "canary shift": changed(balance((GPT, 0.95), (FLASH, 0.05)), balance((GPT, 0.8), (FLASH, 0.2))),
    "provider swap": changed(fallback(GPT, CLAUDE, codes=CODES), fallback(FLASH, CLAUDE, codes=CODES)),
    "removal in use": reviewed([policy("front", FRONT)], [row("front", FRONT), row("chat", **LIVE)]),
    "removal unused": reviewed([policy("keep", **LIVE)], [row("keep", **LIVE), row("old", **LIVE)]),
    "dependent broken": reviewed(
        [
            policy("chat", **fallback(GPT, CLAUDE, codes=[429])),
            policy("front", FRONT),
            policy("agents", "virtual-policy/front"),
        ],
        [row("chat", **LIVE), row("front", FRONT), row("agents", "virtual-policy/front")],
        Settings(guards=Guards(survive=Survive("provider", (500, 503)))),
    ),
    "equivalent rewrite": changed(LIVE, {**LIVE, "retry": {"attempts": 0}}),
    "nested group reweighted": changed(
        fallback(balance((GPT, 0.5), (FLASH, 0.5)), CLAUDE, codes=CODES),
        fallback(balance((GPT, 0.9), (FLASH, 0.1)), CLAUDE, codes=CODES),
    ),
    "new policy": reviewed([policy("chat", **fallback(GPT, CLAUDE, codes=[429, 503], **RETRY))], []),
    "model swapped": swapped(),
    "models only": models(),
    "mixed of all": reviewed(
        [
            policy("chat", **fallback(GPT, CLAUDE, codes=[429])),
            policy("batch", **fallback(FLASH, GPT, codes=CODES)),
            policy("search", **balance((GPT, 0.8), (FLASH, 0.2))),
            policy("new", **LIVE),
            policy("docs", **{**LIVE, "retry": {"attempts": 5}}),
        ],
        [
            row("chat", **LIVE),
            row("batch", **fallback(GPT, FLASH, codes=CODES)),
            row("search", **balance((GPT, 0.95), (FLASH, 0.05))),
            row("old", **LIVE),
            row("docs", **LIVE),
        ],
    ),
}
