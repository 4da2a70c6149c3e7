"""The JSON Schemas that policyctl ships: of its files (made from their models, see .ci/made) and of its own output."""

from __future__ import annotations

from importlib.resources import files

SCHEMAS = ("policy", "test", "config", "plan", "validate", "policies", "effect", "history")


def schema_text(name: str) -> str:
    """The text of one of `SCHEMAS`."""
    return files(__name__).joinpath(f"{name}.schema.json").read_text("utf-8")
