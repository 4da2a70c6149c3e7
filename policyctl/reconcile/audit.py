"""The audit of an apply: who changes what, recorded before and after each write."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from policyctl.errors import PolicyctlError, RemoteError
from policyctl.load.git.checkout import head
from policyctl.load.git.revision import merge_base
from policyctl.plan.audit import AuditOrigin, entry_line, entry_of
from policyctl.plan.change import Change, Outcome
from policyctl.plan.plan import Plan
from policyctl.plan.settings import Override
from policyctl.reconcile.audit_record import AuditRecord
from policyctl.remote.lock import user_name
from policyctl.remote.table import timestamp


@dataclass(frozen=True, slots=True)
class Audit:
    """Where to record changes, the command that makes them, and the page of the CI run that it is part of. `commit` is the one
    that the files are of, where they are not those of a checkout. `overrides` are those of the apply, besides its plan's. `who`
    makes the changes, if it is not the user of this process."""

    record: AuditRecord
    command: str
    run: str | None = None
    who: str = ""
    commit: str | None = None
    overrides: tuple[Override, ...] = ()


@dataclass(slots=True)
class Recording:
    """The record of one apply. `lost` are the names of changes whose outcome could not be written: only their beginning is
    recorded."""

    begun: Callable[[Change], None]
    finished: Callable[[Outcome], None]
    lost: list[str] = field(default_factory=list)


@contextmanager
def recording(audit: Audit | None, plan: Plan, directory: Path, warn: Callable[[str], None]) -> Iterator[Recording]:
    """Record the changes of a plan and their outcomes. Raises PolicyctlError when that cannot be done.

    `begun` raises PolicyctlError when a change cannot be recorded: then it must not be made. An outcome that cannot be
    recorded is reported to `warn`.
    """
    if audit is None:
        yield Recording(lambda _: None, lambda _: None)
        return
    writer, origin, identifier = audit.record.writer(), _origin(audit, directory), str(uuid.uuid4())

    def add(change: Change, outcome: Outcome | None) -> None:
        entry = entry_of(plan, origin, identifier, timestamp(datetime.now(UTC)), change, outcome)
        writer.add(entry_line(replace(entry, overrides=(*entry.overrides, *audit.overrides))))

    def begun(change: Change) -> None:
        try:
            add(change, None)
        except (OSError, RemoteError) as error:
            why = f"cannot write to {audit.record.title}: {_reason(error)}"
            raise PolicyctlError(f"{why}; so this change was not made") from None

    def finished(outcome: Outcome) -> None:
        try:
            add(outcome.change, outcome)
        except (OSError, RemoteError) as error:
            record.lost.append(outcome.change.name)
            why = f"cannot write to {audit.record.title}: {_reason(error)}"
            warn(f"{why}; it lacks the outcome of {outcome.change.name}")

    record = Recording(begun, finished)
    try:
        yield record
    finally:
        writer.close()


def _reason(error: OSError | RemoteError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _origin(audit: Audit, directory: Path) -> AuditOrigin:
    origin = AuditOrigin(audit.who or person(), audit.command, audit.run or os.environ.get("CI_JOB_URL"))
    source = head(directory)
    if audit.commit is not None:
        subject = source.subject if source is not None and source.commit == audit.commit else None
        return replace(origin, commit=audit.commit, dirty=False, subject=subject)
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


def person() -> str:
    """The person that a CI service names, else the user and the machine."""
    if person := os.environ.get("GITHUB_ACTOR") or os.environ.get("GITLAB_USER_LOGIN"):
        return person
    return f"{user_name()}@{socket.gethostname()}"
