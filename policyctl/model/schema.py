"""The JSON Schema (draft 2020-12) of a policy file, for editors.

It is the strict model's own schema with one thing added: `load` renders templates before it validates, so wherever the
format wants something other than free text, a string with a `{{ … }}` in it may stand instead.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from policyctl.model.normal import SERVER_KEYS, SERVER_PREFIXES
from policyctl.model.policy_file import PolicyFile

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TEMPLATE = {"type": "string", "pattern": r"\{\{", "description": "A template, rendered before validation."}
_NEVER_TEMPLATED = ("kind", "spec_version")


def policy_schema() -> dict[str, Any]:
    """The schema of one policy document, as a plain value."""
    schema = templated_schema(PolicyFile, "policyctl policy file")
    # What the platform's own CLI leaves in an exported file; accepted and left out.
    schema["properties"] |= {key: {} for key in SERVER_KEYS if key not in schema["properties"]}
    schema["patternProperties"] = {f"^{prefix}": {} for prefix in SERVER_PREFIXES}
    return schema


def templated_schema(model: type[BaseModel], title: str) -> dict[str, Any]:
    """The schema of a kind of document in which templates may stand."""
    schema = model_schema(model, title)
    for definition in [schema, *schema["$defs"].values()]:
        fields = definition.get("properties", {})
        fields.update((name, _or_template(field)) for name, field in fields.items() if name not in _NEVER_TEMPLATED)
    schema["$defs"]["Template"] = _TEMPLATE
    return schema


def model_schema(model: type[BaseModel], title: str) -> dict[str, Any]:
    """A pydantic model's schema with its dialect and title; class names and field titles are left out."""
    schema = model.model_json_schema()
    _untitle(schema)
    return {"$schema": DIALECT, "title": title, **schema}


def _or_template(field: dict[str, Any]) -> dict[str, Any]:
    """The field's schema with a template beside each thing that is not free text; descriptions stay outermost."""
    about = {key: field[key] for key in ("description",) if key in field}
    rest = {key: value for key, value in field.items() if key not in ("description", "default")}
    choices = rest.get("anyOf") or rest.get("oneOf") or [rest]
    if any(choice.get("type") == "string" and "enum" not in choice for choice in choices):
        return {**about, **rest}
    choices = [
        {**choice, "items": _or_template(choice["items"])} if choice.get("type") == "array" else choice for choice in choices
    ]
    return {**about, "anyOf": [*choices, {"$ref": "#/$defs/Template"}]}


def _untitle(node: Any) -> None:
    if isinstance(node, dict):
        if isinstance(node.get("title"), str):
            del node["title"]
        for value in node.values():
            _untitle(value)
    elif isinstance(node, list):
        for value in node:
            _untitle(value)
