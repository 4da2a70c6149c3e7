"""A directory of policy files of realistic size: 2 to 5 targets each, one in five nested, about 550 bytes.

It is well kept: no rule warns of anything in it, not even those of the effect engine.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

_PROVIDERS = ("openai", "anthropic", "google", "mistral", "watsonx")
_MODELS = [f"virtual-model/{provider}/model-{number}" for provider in _PROVIDERS for number in range(20)]
_CODES = (429, 500, 502, 503, 504, 529)


def write_corpus(folder: Path, count: int, seed: int = 1) -> None:
    """Write `count` policy files into a folder; the same seed gives the same bytes."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"policy-{number:06}.yaml").write_text(_policy(rng, number), "utf-8")


def _policy(rng: random.Random, number: int) -> str:
    lines = [
        "spec_version: v1",
        "kind: model",
        f"name: policy-{number:06}",
        f"display_name: Policy {number}",
        f"description: Spreads and guards requests of team {rng.randrange(100)}",
        "policy:",
    ]
    models = iter(rng.sample(_MODELS, 8))
    lines += _group(rng, models, "  ", rng.randint(2, 5), nested=rng.random() < 0.2)
    return "\n".join(lines) + "\n"


def _group(rng: random.Random, models: Iterator[str], indent: str, size: int, *, nested: bool) -> list[str]:
    mode = rng.choice(("loadbalance", "fallback"))
    codes = ", ".join(map(str, sorted((408, *rng.sample(_CODES, 2)))))
    lines = [f"{indent}strategy:", f"{indent}  mode: {mode}"]
    if mode == "fallback":
        lines.append(f"{indent}  on_status_codes: [{codes}]")
    lines += [f"{indent}retry:", f"{indent}  attempts: 1", f"{indent}  on_status_codes: [429, 503]"]
    lines.append(f"{indent}targets:")
    for position in range(size):
        if nested and position == 0:
            inner = _group(rng, models, f"{indent}    ", 2, nested=False)
            lines += [f"{indent}  - {inner[0].strip()}", *inner[1:]]
        else:
            lines.append(f"{indent}  - model_name: {next(models)}")
        if mode == "loadbalance":
            lines.append(f"{indent}    weight: {round(1 / size, 3)}")
    return lines
