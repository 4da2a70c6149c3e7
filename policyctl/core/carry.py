"""What an update writes: the desired document, with everything of the live row that the format does not know."""

from __future__ import annotations

from typing import Any

from policyctl.core.pairing import pair_targets
from policyctl.model.normal import BODY_KEYS, KNOWN_KEYS, PART_KEYS, TARGET_KEYS, Document


def carry_unknown(row: Document, desired: Document) -> Document:
    """The document to write over a live row (its document, without the server's keys).

    For the format's own fields `desired` decides, absent means removed. Keys that the format does not know come from the
    row, at every level that is still there, and the row keeps its own spelling of the name. Nulls are never sent.
    """
    written = {**_unknown(row, KNOWN_KEYS), **desired, "name": row["name"]}
    written["policy"] = _group(row.get("policy"), desired["policy"], BODY_KEYS)
    return written


def _group(row: Any, desired: Document, known: frozenset[str]) -> Document:
    if not isinstance(row, dict):
        return desired
    written = {**_unknown(row, known), **desired}
    for key, part_keys in PART_KEYS.items():
        if isinstance(row.get(key), dict) and isinstance(desired.get(key), dict):
            written[key] = {**_unknown(row[key], part_keys), **desired[key]}
    if isinstance(row.get("targets"), list) and isinstance(desired.get("targets"), list):
        written["targets"] = _targets(row["targets"], desired["targets"])
    return written


def _targets(row: list[Any], desired: list[Any]) -> list[Any]:
    written = list(desired)
    for _, was, becomes in pair_targets(row, desired):
        if was is not None and becomes is not None and isinstance(desired[becomes], dict):
            written[becomes] = _group(row[was], desired[becomes], TARGET_KEYS)
    return written


def _unknown(row: Document, known: Any) -> Document:
    return {key: value for key, value in row.items() if key not in known and value is not None}
