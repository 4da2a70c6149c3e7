"""Policies that a plan adds under one name and removes under another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from policyctl.core.change import Action
from policyctl.core.plan import Plan
from policyctl.model.normal import Document, canonical_text, normal_form


def renames(plan: Plan) -> Iterator[str]:
    """A sentence for every added policy that says just what one removed policy says, where no other says the same."""
    added, removed = _by_content(plan, "add"), _by_content(plan, "remove")
    for content, names in added.items():
        if len(names) == len(old := removed.get(content, [])) == 1:
            yield f"{names[0]} is added with the content of the removed {old[0]}: a rename? Requests for the old name will fail"


def _by_content(plan: Plan, action: Action) -> dict[str, list[str]]:
    """The names of the policies that are added, or removed, by what they say."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for change in plan.changes:
        document = change.after or change.before
        if change.action == action and document is not None:
            found[_content(normal_form(document))].append(change.name)
    return found


def _content(normal: Document) -> str:
    """What a policy says besides its name, which is also what its texts say where none are written."""
    texts = [None if normal[key] == normal["name"] else normal[key] for key in ("display_name", "description")]
    return canonical_text([texts, normal["policy"]])
