"""Live virtual models, as a remote shows them."""

from __future__ import annotations

from policyctl.policy.document import Document
from policyctl.policy.live import read_row
from policyctl.policy.model_settings import alias_of
from policyctl.policy.virtual_model import LiveModel, VirtualModelRow


def live_of(row: Document) -> LiveModel:
    found = read_row(VirtualModelRow({"id": "1", **row}))
    assert isinstance(found, LiveModel)
    return found


def camel_case(document: Document, provider: str = "openai") -> Document:
    """A document as a live tenant answers with it: settings in camelCase, with the derived provider."""
    config = {alias_of(key) or key: value for key, value in document.get("provider_config", {}).items()}
    return {**document, "provider_config": {**config, "provider": provider}}
