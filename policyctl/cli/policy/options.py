"""The options that the commands share which change a policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click
from click.core import ParameterSource

from policyctl.cli.auditing import Audit, with_audit
from policyctl.errors import UsageError
from policyctl.model.names import canonical_name


def with_name(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command a policy's name: NAME, or --name as the platform's own command has it."""

    @click.argument("policy_name", metavar="NAME", required=False)
    @click.option("--name", "-n", metavar="NAME", help="The policy, with or without virtual-policy/; the same as NAME.")
    @wraps(function)
    def settled(*args: Any, policy_name: str | None, name: str | None, **more: Any) -> Any:
        if policy_name is not None and name is not None and canonical_name(policy_name) != canonical_name(name):
            raise UsageError(f"which policy, {policy_name} or {name}? name one")
        chosen = name if policy_name is None else policy_name
        if chosen is None:
            raise UsageError(f"which policy? name it: {click.get_current_context().command_path} NAME")
        return function(*args, name=chosen, **more)

    return settled


@dataclass(frozen=True, slots=True)
class How:
    """How to carry out a change: only show it, write it to the directory instead of the remote, do not ask, note it."""

    dry_run: bool
    save: bool
    yes: bool
    audit: Audit | None


def with_how(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --dry-run, --save, --yes and --audit, as `how`."""

    @click.option("--dry-run", is_flag=True, help="Show the change and stop.")
    @click.option("--save", is_flag=True, help="Change the policy directory instead of the remote.")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @with_audit
    @wraps(function)
    def settled(*args: Any, dry_run: bool, save: bool, yes: bool, audit: Audit | None, **more: Any) -> Any:
        given = click.get_current_context().get_parameter_source("audit_file") is ParameterSource.COMMANDLINE
        if given and (save or dry_run):
            raise UsageError(
                f"--audit notes what is written to the remote, and {'--save' if save else '--dry-run'} writes nothing there"
            )
        return function(*args, how=How(dry_run, save, yes, audit), **more)

    return settled
