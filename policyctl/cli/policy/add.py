"""policyctl policy add."""

from __future__ import annotations

from typing import Any, get_args

import click

from policyctl.cli.console import Console
from policyctl.cli.options import NAMES, Options, with_options
from policyctl.cli.policy.change import ChangeOptions, with_change_options, with_name, write_policy
from policyctl.cli.session import open_session
from policyctl.errors import UsageError
from policyctl.lint.check import lint
from policyctl.load.write import policy_text
from policyctl.policy.document import Document, Policy, policy_from_file
from policyctl.policy.findings import Finding
from policyctl.policy.schema import Mode
from policyctl.rules.catalogue import DEFAULT_CODES

EPILOG = """\b
Example:
  policyctl policy add anygem --strategy loadbalance \\
    --model virtual-model/google/gemini-2.0-flash --weight 0.75 \\
    --model virtual-model/google/gemini-2.0-flash-lite --weight 0.25
  policyctl policy add safe --strategy fallback --strategy-on-code 503 --model virtual-model/a/x \\
    --model virtual-model/b/y --retry-attempts 2 --retry-on-code 429 --retry-on-code 503 --dry-run"""

# Which option a part of the policy comes from, to name it in a complaint.
_OPTIONS = {
    "name": "--name",
    "display_name": "--display-name",
    "description": "--description",
    "policy.strategy.mode": "--strategy",
    "policy.strategy.on_status_codes": "--strategy-on-code",
    "policy.retry.attempts": "--retry-attempts",
    "policy.retry.on_status_codes": "--retry-on-code",
    "policy.targets": "--model",
    "policy.targets.model_name": "--model",
    "policy.targets.weight": "--weight",
}


@click.command("add", epilog=EPILOG)
@with_name
@click.option("--model", "-m", "models", multiple=True, required=True, metavar="MODEL", help="A target; repeatable.")
@click.option("--strategy", "-s", type=click.Choice(get_args(Mode)), required=True, help="How a target is chosen.")
@click.option("--weight", "weights", type=float, multiple=True, metavar="W", help="One for each --model, in the same order.")
@click.option(
    "--strategy-on-code", type=int, multiple=True, metavar="CODE", help="A status after which a fallback moves on; repeatable."
)
@click.option("--retry-on-code", type=int, multiple=True, metavar="CODE", help="A status that is asked again; repeatable.")
@click.option("--retry-attempts", type=int, metavar="N", help="How often it is asked again.")
@click.option("--display-name", metavar="TEXT", help="The name that people see.  [default: the name]")
@click.option("--description", "-d", metavar="TEXT", help="What the policy is for.  [default: the name]")
@with_change_options
@with_options(*NAMES)
def command(options: Options, how: ChangeOptions, **given: Any) -> int:
    """Add the policy NAME over some models. A policy of that name is updated: it becomes what the options describe, and what
    they leave out is removed."""
    return add(options, how, policy_from_options(**given))


def add(options: Options, how: ChangeOptions, policy: Policy) -> int:
    console = Console(options)
    # Where the change is made at once, the models are held against those of the remote, and take its spelling.
    codes = DEFAULT_CODES if how.save else DEFAULT_CODES - {"P441"}
    for complaint in lint(policy.document, codes):
        console.say(f"{complaint.severity}: {_note(complaint)}")
    return write_policy(policy, options, open_session(options), how, virtual=True)


def policy_from_options(
    *,
    name: str,
    models: tuple[str, ...],
    strategy: str,
    weights: tuple[float, ...],
    strategy_on_code: tuple[int, ...],
    retry_on_code: tuple[int, ...],
    retry_attempts: int | None,
    display_name: str | None,
    description: str | None,
) -> Policy:
    """The policy that the options describe. Raises UsageError, naming the option, for one that no file may say."""
    if weights and len(weights) != len(models):
        raise UsageError(f"--weight is given {len(weights)} × and --model {len(models)} ×; give one weight for each model")
    body: Document = {"strategy": {"mode": strategy}}
    if strategy_on_code:
        body["strategy"]["on_status_codes"] = list(strategy_on_code)
    if retry := _retry(retry_attempts, retry_on_code):
        body["retry"] = retry
    body["targets"] = [{"model_name": model} for model in models]
    for target, weight in zip(body["targets"], weights, strict=False):
        target["weight"] = weight
    texts = {"display_name": display_name or None, "description": description or None}
    document = {"name": name, **texts, "policy": body}
    found = policy_text(document)
    if not isinstance(found, str):
        raise UsageError("\n".join(map(_note, found)))
    return policy_from_file(document, "")


def _retry(attempts: int | None, codes: tuple[int, ...]) -> Document | None:
    if attempts is None and codes:
        raise UsageError("--retry-on-code needs --retry-attempts: the gateway refuses a retry without attempts")
    if attempts is None:
        return None
    if not codes:
        raise UsageError(
            "--retry-attempts needs --retry-on-code: without codes the platform's own command drops the retry, and the gateway "
            "would retry on its defaults; say which (its defaults are 429, 500, 502, 503 and 504)"
        )
    return {"attempts": attempts, "on_status_codes": list(codes)}


def _note(complaint: Finding) -> str:
    field = ".".join(part for part in complaint.path if isinstance(part, str))
    return f"{_OPTIONS.get(field, field)}: {complaint.message}"
