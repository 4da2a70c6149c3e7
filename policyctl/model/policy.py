"""A desired policy: what one document of a file says, once it was found valid (see `policy_file`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from policyctl.model.names import canonical_name


@dataclass(frozen=True, slots=True)
class Policy:
    """One desired policy.

    `document` is what the remote is to hold: canonical name, texts filled, no nulls, targets in the file's order.
    `file` and `index` say which document of which file wrote it.
    """

    name: str
    document: dict[str, Any]
    file: str
    index: int = 0


def policy_from_file(data: dict[str, Any], file: str, index: int = 0) -> Policy:
    """The policy that a valid file's data (see `PolicyFile`) stands for, defaults filled and nulls dropped."""
    name = canonical_name(data["name"])
    document = {
        "name": name,
        "display_name": _or(data.get("display_name"), name),
        "description": _or(data.get("description"), name),
        "policy": without_nulls(data["policy"]),
    }
    return Policy(name, document, file, index)


def _or(text: str | None, default: str) -> str:
    return default if text is None else text


def without_nulls(value: Any) -> Any:
    """The same plain value with every null key dropped, at any depth; null means absent in this format."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value
