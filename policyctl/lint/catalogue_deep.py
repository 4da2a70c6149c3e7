"""The deep rules, P5xx: what the effect engine finds out about valid policies, by gateway profile portkey-1.15.2."""

from __future__ import annotations

from policyctl.lint.rule import Rule

DEEP_RULES = (
    Rule(
        "P501",
        "timeout-ends-chain",
        "warning",
        "A call that takes too long counts as 408, and this fallback's list lacks 408: a request whose model is slow fails, "
        "though another target would have served it. Add 408 to on_status_codes. Checked by validate --deep and by plan.",
    ),
    Rule(
        "P502",
        "call-amplification",
        "warning",
        "One request may become more than 12 calls when models fail: retries multiply with targets, and so do cost and load "
        "at the worst moment. Lower attempts or list fewer targets; a limit of your own is the guard max_calls in "
        "policyctl.yaml. Checked by validate --deep and by plan.",
    ),
    Rule(
        "P503",
        "single-point-of-failure",
        "info",
        "While one model, or one provider, answers every call with 500 or with 503, no request is served. Add a target of "
        "another provider under a fallback with these codes, or accept it; the guard survive in policyctl.yaml asks for "
        "more. Checked by validate --deep and by plan.",
    ),
)
