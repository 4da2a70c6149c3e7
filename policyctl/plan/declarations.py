"""What files declare of models now, and declared otherwise before: what is said of traffic rests on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from policyctl.effect.context import DeclaredModels
from policyctl.policy.document import Document, model_names
from policyctl.policy.names import canonical_model, short_model

_NAMED = 5  # policies in a sentence


def redeclared(declared: DeclaredModels, *policies: Mapping[str, Document]) -> Iterator[str]:
    """A sentence for every model that one of the policies targets and of which something else was declared before."""
    then = declared.then
    changed = {
        model: said
        for model in sorted({*declared.types, *then.types, *declared.timeouts, *then.timeouts})
        if (said := ", ".join(_moved(model, then, declared)))
    }
    users: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for name, document in (one for some in (policies if changed else ()) for one in some.items()):
        for model in changed.keys() & set(map(canonical_model, model_names(document))):
            users[model][name] = None
    for model, said in changed.items():
        if names := sorted(users[model]):
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            yield (
                f"the declaration of {short_model(model)} changes ({said}); what is shown of before and after rests on it for "
                f"{', '.join(names[:_NAMED])}{more}"
            )


def _moved(model: str, then: DeclaredModels, now: DeclaredModels) -> Iterator[str]:
    for what, before, after in (
        ("model_type", then.types, now.types),
        ("request_timeout", then.timeouts, now.timeouts),
    ):
        if before.get(model) != after.get(model):
            yield f"{what} {_said(before.get(model))} → {_said(after.get(model))}"


def _said(value: str | float | None) -> str:
    return "not declared" if value is None else f"{value:g} s" if isinstance(value, int | float) else value
