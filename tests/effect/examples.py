"""Two models, and a load balance over them that becomes a fallback."""

from __future__ import annotations

A, B = "virtual-model/google/a", "virtual-model/openai/b"
OLD = {
    "strategy": {"mode": "loadbalance"},
    "retry": {"attempts": 3},
    "targets": [{"model_name": A, "weight": 3}, {"model_name": B, "weight": 1}],
}
NEW = {
    "strategy": {"mode": "fallback", "on_status_codes": [429, 503]},
    "retry": {"attempts": 3},
    "targets": [{"model_name": A}, {"model_name": B}],
}
