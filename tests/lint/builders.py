"""Short ways to write the body of a policy for the rules."""

from __future__ import annotations

from typing import Any

Target = dict[str, Any]


def model(name: str, weight: float | None = None) -> Target:
    """A target of that model."""
    return {"model_name": name if "/" in name else f"virtual-model/x/{name}"} | ({"weight": weight} if weight else {})


def group(mode: str, *targets: Target, codes: list[int] | None = None, **more: Any) -> Target:
    """A group (or a whole policy) of these targets."""
    strategy = {"mode": mode} | ({} if codes is None else {"on_status_codes": codes})
    return {"strategy": strategy, "targets": list(targets), **more}


def retry(attempts: int, codes: list[int] | None = None) -> dict[str, Any]:
    """A retry."""
    return {"attempts": attempts} | ({} if codes is None else {"on_status_codes": codes})


A, B, C = map(model, "abc")
