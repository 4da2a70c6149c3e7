"""The lint rules about virtual models, P48x."""

from __future__ import annotations

from policyctl.errors import Rule

MODEL_RULES = (
    Rule(
        "P481",
        "unknown-provider",
        "warning",
        "The provider in a virtual model's name is not one that the platform's own CLI knows. Its server may take it all the "
        "same. Correct the name, or try the model before policies use it.",
    ),
    Rule(
        "P482",
        "setting-without-use",
        "warning",
        "A key of provider_config that the model's provider does not use. It is sent, and does nothing. Remove it, or correct "
        "the provider in the model's name.",
    ),
    Rule(
        "P483",
        "no-credentials",
        "warning",
        "What the provider needs is not in the file, and the model names no connection that may hold it. A new model cannot "
        "serve requests so; a live one keeps what its remote shows of it. Make a connection and write its app_id.",
    ),
    Rule(
        "P484",
        "not-sent",
        "warning",
        "A key that a virtual model does not have. The platform's own CLI sends it, and policyctl leaves it out. Remove it.",
    ),
    Rule(
        "P485",
        "no-max-tokens",
        "warning",
        "Anthropic's models have no default for max_tokens, and a call that does not set it fails. The platform's own CLI adds "
        "4096 when it imports a file without it; policyctl writes what the file has. Write config.max_tokens.",
    ),
)
