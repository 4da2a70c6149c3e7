"""--audit: records who changes what in a file, before and after each write."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

import click

from policyctl.cli.console import Console
from policyctl.cli.github_actions import run_page
from policyctl.errors import PolicyctlError
from policyctl.load.audit_log import AuditFile
from policyctl.load.git.revision import head, merge_base
from policyctl.plan.audit import AuditOrigin, entry_line, entry_of
from policyctl.plan.change import Change
from policyctl.plan.outcome import Outcome
from policyctl.plan.plan import Plan
from policyctl.remote.lock import user_name
from policyctl.remote.sqlite import timestamp

VARIABLE = "POLICYCTL_AUDIT"


@dataclass(frozen=True, slots=True)
class Audit:
    """Where changes are noted, and the command that makes them."""

    file: Path
    command: str


def audit_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--audit, as `audit_file`, with what it does."""
    path = click.Path(path_type=Path, dir_okay=False)
    return click.option("--audit", "audit_file", type=path, envvar=VARIABLE, metavar="FILE", help=f"{text}  [{VARIABLE}]")


def with_audit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --audit, as `audit`: an Audit, or None."""

    @audit_option("Add who changed what to this file, in lines of JSON; see history.")
    @wraps(function)
    def settled(*args: Any, audit_file: Path | None, **more: Any) -> Any:
        command = click.get_current_context().command_path.removeprefix("policyctl ")
        return function(*args, audit=None if audit_file is None else Audit(audit_file, command), **more)

    return settled


@dataclass(slots=True)
class AuditNotes:
    """The notes of one apply. `lost` counts outcomes that could not be noted; their changes are noted as begun."""

    begun: Callable[[Change], None]
    became: Callable[[Outcome], None]
    lost: list[str] = field(default_factory=list)


@contextmanager
def recording(audit: Audit | None, plan: Plan, directory: Path, console: Console) -> Iterator[AuditNotes]:
    """Note what a plan's changes are and become. Raises PolicyctlError, before anything is written, when nothing can be noted.

    `begun` raises PolicyctlError when a change cannot be noted: then it must not be made.
    """
    if audit is None:
        yield AuditNotes(lambda _: None, lambda _: None)
        return
    file, origin, identifier = AuditFile(audit.file), _origin(audit.command, directory), str(uuid.uuid4())

    def note(change: Change, outcome: Outcome | None) -> None:
        file.add(entry_line(entry_of(plan, origin, identifier, timestamp(datetime.now(UTC)), change, outcome)))

    def begun(change: Change) -> None:
        try:
            note(change, None)
        except OSError as error:
            raise PolicyctlError(f"not written, because the audit file {file.path} takes no line: {error.strerror}") from None

    def became(outcome: Outcome) -> None:
        try:
            note(outcome.change, outcome)
        except OSError as error:
            notes.lost.append(outcome.change.name)
            console.say(f"the audit file {file.path} takes no line: {error.strerror}; {outcome.change.name} is not noted in it")

    notes = AuditNotes(begun, became)
    try:
        yield notes
    finally:
        file.close()


def _origin(command: str, directory: Path) -> AuditOrigin:
    origin = AuditOrigin(_user(), command, run_page() or os.environ.get("CI_JOB_URL"))
    source = head(directory)
    if source is None:
        return replace(origin, no_commit=_why_no_commit(directory))
    return replace(origin, commit=source.commit, dirty=source.dirty, subject=source.subject)


def _why_no_commit(directory: Path) -> str:
    """Why git names no commit for a directory, in git's words where it has some."""
    try:
        merge_base(directory, "HEAD")
    except PolicyctlError as error:
        return str(error)
    return "git could not say what is checked out"


def _user() -> str:
    """The person that a CI service names, else the user and the machine."""
    if person := os.environ.get("GITHUB_ACTOR") or os.environ.get("GITLAB_USER_LOGIN"):
        return person
    return f"{user_name()}@{socket.gethostname()}"
