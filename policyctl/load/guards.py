"""The guards in policyctl.yaml: what a changed policy may do to traffic."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field

from policyctl.core.settings import Guard, GuardException, Guards, Part, Survive
from policyctl.model.policy_file import FileModel

# One of the failures of the outage matrix.
Failure = Literal[400, 401, 403, 404, 408, 429, 500, 502, 503, 504, 529, "refused", "hang", "broken-body"]
Globs = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False, min_length=1)]


class SurviveFile(FileModel):
    """With any one provider (or model) down with any of these answers, every request must be served."""

    any: Part
    down_with: Annotated[tuple[Failure, ...], Field(strict=False, min_length=1)]


class GuardsFile(FileModel):
    """What a changed policy may do to traffic. Where nothing is written, nothing is asked."""

    max_traffic_shift: Annotated[
        float | None,
        Field(ge=0, le=100, allow_inf_nan=False, description="Percent of a policy's requests that another model may serve."),
    ] = None
    max_calls: Annotated[int | None, Field(ge=1, description="Calls that one request may make, at worst.")] = None
    max_failover_seconds: Annotated[
        float | None,
        Field(ge=0, allow_inf_nan=False, description="Seconds of back-off before a request's last failover, at worst."),
    ] = None
    survive: SurviveFile | None = None
    deny_new: Annotated[
        Part | None,
        Field(description="No provider (or model) may become reachable that the live policy could not reach."),
    ] = None
    allow_providers: Annotated[Globs | None, Field(description="The only providers that requests may come to.")] = None
    deny_providers: Annotated[Globs | None, Field(description="Providers that no request may come to.")] = None


class GuardExceptionFile(FileModel):
    """A policy (a name or a glob) that a guard does not hold for, and why."""

    policy: Annotated[str, Field(min_length=1)]
    guard: Guard
    reason: Annotated[str, Field(min_length=1)]


GuardExceptions = Annotated[tuple[GuardExceptionFile, ...], Field(strict=False)]


def own_or_shared(key: str, own: FileModel | None, shared: FileModel | None) -> Any:
    """What an environment writes itself, else what is written for all, else None."""
    values = (getattr(file, key) for file in (own, shared) if file is not None)
    return next((value for value in values if value is not None), None)


def guards_of(own: GuardsFile | None, shared: GuardsFile | None) -> Guards:
    """The guards of an environment: each its own, else the shared one, else none."""
    found = {name: own_or_shared(name, own, shared) for name in Guards._fields}
    survive = found.pop("survive")
    return Guards(**found, survive=None if survive is None else Survive(survive.any, survive.down_with))


def exceptions_of(files: Iterable[GuardExceptionFile]) -> tuple[GuardException, ...]:
    """The exceptions as they stand in the file."""
    return tuple(GuardException(file.guard, file.policy, file.reason) for file in files)
