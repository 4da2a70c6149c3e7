"""P48x: what is worth knowing of a virtual model that can be applied: its provider, settings that do nothing, credentials."""

from __future__ import annotations

from collections.abc import Iterator

from policyctl.policy.document import Document
from policyctl.policy.findings import Finding, did_you_mean, format_path
from policyctl.policy.model_schema import CONNECT
from policyctl.policy.model_settings import PROVIDERS, SERVER_PROVIDERS, SETTINGS, provider_key, required
from policyctl.policy.names import virtual_model
from policyctl.rules import finding


def check(document: Document) -> Iterator[Finding]:
    """What is worth knowing of a model that can be applied."""
    provider = provider_key(virtual_model(document["name"]))
    config = document.get("provider_config") or {}
    if provider not in PROVIDERS:
        note = "the platform's server documents it and its own CLI refuses it" if provider in SERVER_PROVIDERS else "unknown"
        guess = did_you_mean(str(provider), PROVIDERS) if provider not in SERVER_PROVIDERS else ""
        yield finding(("name",), "P481", f"provider {format_path(provider)}: {note}{guess}")
    for key in config:
        used_by = SETTINGS[key].providers if key in SETTINGS else ()
        if used_by and provider not in used_by:
            message = f"{key} is used by {' and '.join(used_by)} only, not by {provider} (remove it, or correct the name)"
            yield finding(("provider_config", key), "P482", message, "key")
    if not document.get("app_id"):
        missing = [" or ".join(keys) for keys in required(provider) if not any(config.get(key) for key in keys)]
        if missing:
            message = f"{provider} needs {' and '.join(missing)}, and no connection is named that may hold it: {CONNECT}"
            yield finding(("name",), "P483", message)
    if "anthropic" in document["name"] and "max_tokens" not in (document.get("config") or {}):
        message = "anthropic models have no default for max_tokens and calls without it fail; write config.max_tokens"
        yield finding(("name",), "P485", message)
