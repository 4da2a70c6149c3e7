"""Values in, text out: nothing here decides anything or writes. `schemas/` has the JSON Schemas that policyctl ships."""

from __future__ import annotations

from pathlib import Path

# Of its files (`.ci/made` writes these from their models) and of its own output.
SCHEMAS = (
    "policy",
    "model",
    "test",
    "config",
    "plan",
    "apply",
    "drift",
    "fleet",
    "validate",
    "policies",
    "models",
    "effect",
    "calibration",
    "history",
    "consumers",
    "environments",
    "status",
    "watch",
    "runs",
    "doctor",
)


def schema_text(name: str) -> str:
    """The text of one of `SCHEMAS`."""
    return (Path(__file__).parent / "schemas" / f"{name}.schema.json").read_text("utf-8")
