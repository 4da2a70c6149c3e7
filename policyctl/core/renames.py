"""Policies that a plan adds under one name and removes under another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from policyctl.core.change import Change
from policyctl.core.plan import Plan
from policyctl.model.normal import Document, canonical_text, normal_form


def renames(plan: Plan) -> Iterator[str]:
    """A sentence for every added policy that says just what a removed one says: who calls the old name gets nothing then."""
    removed: defaultdict[str, list[Change]] = defaultdict(list)
    for change in plan.changes:
        if change.action == "remove" and change.before is not None:
            removed[_content(change.before)].append(change)
    for change in plan.changes if removed else ():
        if change.action == "add" and change.after is not None and (same := removed.get(_content(normal_form(change.after)))):
            old = " or ".join(one.name for one in same)
            yield f"{change.name} is added with the content of the removed {old}: a rename? Requests for the old name will fail"


def _content(normal: Document) -> str:
    """What a policy says besides its name, which is also what its texts say where none are written."""
    texts = [None if normal[key] == normal["name"] else normal[key] for key in ("display_name", "description")]
    return canonical_text([texts, normal["policy"]])
