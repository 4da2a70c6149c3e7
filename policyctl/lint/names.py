"""P44x: names of targets that the platform would take and then fail to call."""

from __future__ import annotations

from collections.abc import Iterator

from policyctl.effect.shares import provider_of
from policyctl.lint.catalogue import finding
from policyctl.lint.places import Place
from policyctl.model.complaints import Complaint
from policyctl.model.names import MODEL_PREFIX, POLICY_PREFIX, canonical_model


def check(place: Place) -> Iterator[Complaint]:
    """Names in one group that lack a part."""
    for position, target in enumerate(place.targets):
        name = target.get("model_name")
        if name is None or name.startswith(POLICY_PREFIX):
            continue
        path = (*place.path, "targets", position, "model_name")
        if not name.startswith(MODEL_PREFIX):
            read = f", and is read as the model {canonical_model(name)}" if provider_of(name) else ""
            message = f"{name} begins with neither {MODEL_PREFIX} nor {POLICY_PREFIX}{read} (write the whole name)"
            yield finding(path, "P441", message)
            continue
        provider, _, model = name[len(MODEL_PREFIX) :].partition("/")
        if not provider or not model:
            message = f"{name} lacks its provider or its model (write {MODEL_PREFIX}<provider>/<model>)"
            yield finding(path, "P442", message)
