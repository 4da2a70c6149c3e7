"""The JSON Schemas that policyctl ships, by name."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

SCHEMAS = ("policy", "config", "plan", "validate")


def schema_of(name: str) -> dict[str, Any]:
    """One of `SCHEMAS`: of the files from their models, of our own output as written beside this module."""
    if name == "policy":
        from policyctl.model.schema import policy_schema

        return policy_schema()
    if name == "config":
        from policyctl.load.config import ConfigFile
        from policyctl.model.schema import model_schema

        return model_schema(ConfigFile, "policyctl.yaml")
    text = files("policyctl.report").joinpath(f"{name}.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
