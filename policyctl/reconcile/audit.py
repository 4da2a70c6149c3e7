"""The audit of an apply: who changes what, recorded in a file before and after each write."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from policyctl.errors import PolicyctlError
from policyctl.load.audit_log import AuditFile
from policyctl.load.git.checkout import head
from policyctl.load.git.revision import merge_base
from policyctl.plan.audit import AuditOrigin, entry_line, entry_of
from policyctl.plan.change import Change, Outcome
from policyctl.plan.plan import Plan
from policyctl.remote.lock import user_name
from policyctl.remote.sqlite import timestamp


@dataclass(frozen=True, slots=True)
class Audit:
    """Where to record changes, the command that makes them, and the page of the CI run that it is part of."""

    file: Path
    command: str
    run: str | None = None


@dataclass(slots=True)
class Recording:
    """The record of one apply. `lost` are the names of changes whose outcome could not be written: the file has their
    beginning only."""

    begun: Callable[[Change], None]
    finished: Callable[[Outcome], None]
    lost: list[str] = field(default_factory=list)


@contextmanager
def recording(audit: Audit | None, plan: Plan, directory: Path, warn: Callable[[str], None]) -> Iterator[Recording]:
    """Record the changes of a plan and their outcomes. Raises PolicyctlError when the file cannot be opened.

    `begun` raises PolicyctlError when a change cannot be recorded: then it must not be made. An outcome that cannot be
    recorded is reported to `warn`.
    """
    if audit is None:
        yield Recording(lambda _: None, lambda _: None)
        return
    file, origin, identifier = AuditFile(audit.file), _origin(audit, directory), str(uuid.uuid4())

    def add(change: Change, outcome: Outcome | None) -> None:
        file.add(entry_line(entry_of(plan, origin, identifier, timestamp(datetime.now(UTC)), change, outcome)))

    def begun(change: Change) -> None:
        try:
            add(change, None)
        except OSError as error:
            why = f"cannot write to the audit file {file.path}: {error.strerror}"
            raise PolicyctlError(f"{why}; so this change was not made") from None

    def finished(outcome: Outcome) -> None:
        try:
            add(outcome.change, outcome)
        except OSError as error:
            record.lost.append(outcome.change.name)
            why = f"cannot write to the audit file {file.path}: {error.strerror}"
            warn(f"{why}; it lacks the outcome of {outcome.change.name}")

    record = Recording(begun, finished)
    try:
        yield record
    finally:
        file.close()


def _origin(audit: Audit, directory: Path) -> AuditOrigin:
    origin = AuditOrigin(_user(), audit.command, audit.run or os.environ.get("CI_JOB_URL"))
    source = head(directory)
    if source is None:
        return replace(origin, no_commit=_why_no_commit(directory))
    return replace(origin, commit=source.commit, dirty=source.dirty, subject=source.subject)


def _why_no_commit(directory: Path) -> str:
    """Why a directory has no commit, as git explains it."""
    try:
        merge_base(directory, "HEAD")
    except PolicyctlError as error:
        return str(error)
    return "git does not show what is checked out"


def _user() -> str:
    """The person that a CI service names, else the user and the machine."""
    if person := os.environ.get("GITHUB_ACTOR") or os.environ.get("GITLAB_USER_LOGIN"):
        return person
    return f"{user_name()}@{socket.gethostname()}"
