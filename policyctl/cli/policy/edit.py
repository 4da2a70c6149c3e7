"""policyctl policy add, import and remove: one policy on a remote is changed, whatever the directory contains."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from policyctl.cli.options import NAMES, Options, with_options
from policyctl.cli.policy.change import (
    ChangeOptions,
    read_one,
    remove,
    with_change_options,
    with_name,
    with_removal_options,
    write,
)
from policyctl.cli.session import open_session
from policyctl.errors import UsageError
from policyctl.lint.directory import lint
from policyctl.load.write import policy_text
from policyctl.policy.document import Document, Policy, policy_from_file
from policyctl.policy.findings import Finding
from policyctl.policy.names import canonical_name
from policyctl.policy.schema import Mode
from policyctl.rules import DEFAULT_CODES

ADD_EPILOG = """\b
Example:
  policyctl policy add anygem --strategy loadbalance \\
    --model virtual-model/google/gemini-2.0-flash --weight 0.75 \\
    --model virtual-model/google/gemini-2.0-flash-lite --weight 0.25
  policyctl policy add safe --strategy fallback --strategy-on-code 503 --model virtual-model/a/x \\
    --model virtual-model/b/y --retry-attempts 2 --retry-on-code 429 --retry-on-code 503 --dry-run"""

# The option that a part of the policy comes from, for messages.
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


@click.command("add", epilog=ADD_EPILOG)
@with_name("policy")
@click.option("--model", "-m", "models", multiple=True, required=True, metavar="MODEL", help="A target; repeatable.")
@click.option("--strategy", "-s", type=click.Choice(get_args(Mode)), required=True, help="How a target is chosen.")
@click.option("--weight", "weights", type=float, multiple=True, metavar="W", help="One for each --model, in the same order.")
@click.option(
    "--strategy-on-code", type=int, multiple=True, metavar="CODE", help="A status after which a fallback moves on; repeatable."
)
@click.option(
    "--retry-on-code",
    type=int,
    multiple=True,
    metavar="CODE",
    help="A status after which the model is called again; repeatable.",
)
@click.option("--retry-attempts", type=int, metavar="N", help="How often it is called again.")
@click.option("--display-name", metavar="TEXT", help="The name that people see.  [default: the name]")
@click.option("--description", "-d", metavar="TEXT", help="What the policy is for.  [default: the name]")
@with_change_options
@with_options(*NAMES)
def add(options: Options, how: ChangeOptions, **given: Any) -> int:
    """Add the policy NAME over some models. A policy of that name is updated: it becomes what the options describe, and what
    they leave out is removed."""
    policy = policy_from_options(**given)
    session = open_session(options)
    # A change of the remote is checked against the remote's own models, and takes their spelling.
    codes = DEFAULT_CODES if how.save else DEFAULT_CODES - {"P441"}
    for finding in lint(policy.document, codes):
        session.console.say(f"{finding.severity}: {_note(finding)}")
    return write(policy, session, how, virtual=True)


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
    """The policy that the options describe. Raises UsageError, naming the option, for one that a file could not contain."""
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
            "would retry on its defaults; name the codes (its defaults are 429, 500, 502, 503 and 504)"
        )
    return {"attempts": attempts, "on_status_codes": list(codes)}


def _note(finding: Finding) -> str:
    field = ".".join(part for part in finding.path if isinstance(part, str))
    return f"{_OPTIONS.get(field, field)}: {finding.message}"


IMPORT_EPILOG = """\b
Example:
  policyctl policy import --file anygem.yaml
  policyctl policy import --file anygem.json --env prod --dry-run"""


@click.command("import", epilog=IMPORT_EPILOG)
@click.option(
    "--file", "-f", required=True, type=click.Path(path_type=Path), metavar="FILE", help="One policy, as YAML or JSON."
)
@with_change_options
@with_options(*NAMES)
def import_policy(options: Options, how: ChangeOptions, file: Path) -> int:
    """Add the policy of a file, or update the live one of its name."""
    session = open_session(options)
    return write(read_one(file, "policy", session), session, how)


REMOVE_EPILOG = """\b
Example:
  policyctl policy remove anygem
  policyctl policy remove prod-old --allow-remove prod-old --yes"""


@click.command("remove", epilog=REMOVE_EPILOG)
@with_name("policy")
@with_removal_options
@with_options(*NAMES)
def remove_policy(options: Options, name: str, **how: Any) -> int:
    """Remove the policy NAME. One that is protected, or that another live policy targets, is not removed."""
    return remove(canonical_name(name), open_session(options), **how)
