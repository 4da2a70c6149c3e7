"""policyctl.yaml: where it is, and its environments with their safety settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from policyctl.errors import InvalidInput, Problem
from policyctl.lint.placeholders import in_variables
from policyctl.load.auth import AuthFile, auth_findings
from policyctl.load.environment import NO_CONFIG, Config, Environment, leaves
from policyctl.load.guards import Globs, GuardExceptions, GuardsFile, exceptions_of, guards_of, own_or_shared
from policyctl.load.kinds import CONFIG_FILE
from policyctl.load.locate import to_problems
from policyctl.load.source import Source
from policyctl.load.urls import LOCAL, remote_url_error
from policyctl.load.variables import MAX_VARIABLES
from policyctl.plan.settings import PARTIAL, Limits, Settings
from policyctl.policy.document import canonical_text
from policyctl.policy.findings import Finding, did_you_mean, format_path
from policyctl.policy.schema import FileModel
from policyctl.policy.validation_errors import findings_of
from policyctl.rules.catalogue import RULES, Chosen, guess_rule, with_prefix

# An environment's name is part of a file's name (that of its embedded remote).
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def _check_remote(text: str) -> str:
    if complaint := remote_url_error(text):
        raise PydanticCustomError("remote", "{complaint}", {"complaint": complaint})
    return text


Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)]


class LimitsFile(FileModel):
    """How much one plan may change."""

    max_removes: Annotated[
        Annotated[int, Field(ge=0)] | None,
        Field(description="The most policies that one plan may remove. Default: 5."),
    ] = None
    max_change_percent: Annotated[
        Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None,
        Field(
            description="The most policies that one plan may update or remove, in percent of the live policies in scope. "
            "Checked from 10 live policies on; adding policies never counts. Default: 30."
        ),
    ] = None


class SafetyFile(FileModel):
    """Safety settings for all environments, or for one, whose own values win."""

    scope: Annotated[
        Globs | None,
        Field(
            description="Globs of the policy names that this directory manages. Other live policies are counted and left "
            "alone. Default: every name on the embedded remote; on an http(s) remote only the names in the files, so that "
            "nothing is removed until a scope is written."
        ),
    ] = None
    prune: Annotated[
        bool | None,
        Field(description="Whether live policies in scope without a file are removed. Default: true."),
    ] = None
    protect: Annotated[Names | None, Field(description="Names or globs of policies that are never removed.")] = None
    allow_remove: Annotated[
        Names | None,
        Field(
            description="Exact names of protected policies that may be removed after all. A name that matches no live policy "
            "is reported."
        ),
    ] = None
    include: Annotated[
        Globs | None,
        Field(
            description="Globs of the files to read, by their path from the policy directory; * also matches /. Default: all "
            "files."
        ),
    ] = None
    limits: Annotated[LimitsFile | None, Field(description="How much one plan may change.")] = None
    guards: Annotated[
        GuardsFile | None,
        Field(description="What a changed policy may do to traffic. Each guard of an environment wins for itself."),
    ] = None
    guard_exceptions: Annotated[
        GuardExceptions | None,
        Field(description="Policies that a guard does not bind, each with a reason. Plans show them as notes."),
    ] = None


class EnvironmentFile(SafetyFile):
    """One environment: a remote, how to log in, its variables, and its own safety settings."""

    remote: Annotated[
        str,
        AfterValidator(_check_remote),
        Field(
            description="Where the policies are applied: local (a SQLite file in .policyctl/ beside the policy directory), "
            "sqlite:///PATH, or the http(s) URL of an instance."
        ),
    ] = LOCAL
    auth: Annotated[
        AuthFile | None, Field(description="How to log in to an http(s) remote. Not used for the embedded remote.")
    ] = None
    ca_file: Annotated[
        str | None,
        Field(description="A file with the certificates of a private authority, in PEM form. TLS is always verified."),
    ] = None
    vars: Annotated[dict[str, Any], Field(description="Variables for the templates in policy and test files.")] = Field(
        default_factory=dict
    )


class LintFile(FileModel):
    """Which lint rules run."""

    select: Annotated[
        Names | None,
        Field(
            description="The lint rules to run: codes such as P401, or the beginning of codes such as P4. Default: all except "
            "those of severity info."
        ),
    ] = None
    ignore: Annotated[
        Names | None, Field(description="Lint rules to leave out, by code or by the beginning of codes; wins over select.")
    ] = None


class EffectFile(FileModel):
    """How effects on traffic are computed."""

    partial: Annotated[
        float, Field(gt=0, lt=1, description="The share of calls that fail in the partial failures of a plan.")
    ] = PARTIAL


class ConfigFile(SafetyFile):
    """policyctl.yaml."""

    default: Annotated[
        str | None,
        Field(description="The environment to use without --env. With several environments and no default, --env is required."),
    ] = None
    lint: Annotated[LintFile | None, Field(description="Which lint rules run.")] = None
    effect: Annotated[EffectFile | None, Field(description="How effects on traffic are computed.")] = None
    environments: Annotated[
        Annotated[dict[str, EnvironmentFile], Field(min_length=1)] | None,
        Field(description="The environments by name. Default: one environment, local, on the embedded remote."),
    ] = None


def config_of(source: Source) -> Config:
    """The configuration that a file's text says. Raises InvalidInput with every problem."""
    data = source.documents[0].data if source.documents else None
    problems = [problem for document in source.documents for problem in document.problems]
    if len(source.documents) > 1:
        problems.append(Problem(source.documents[1].mark, "P301", f"{CONFIG_FILE} is one document; merge the two"))
    if data is None:
        return NO_CONFIG._replace(path=Path(source.file)) if not problems else _raise(problems)
    found = _check(data)
    known = {problem.mark for problem in problems}
    problems += [problem for problem in to_problems(source, 0, found) if problem.mark not in known]
    if problems:
        _raise(problems)
    config = _resolve(ConfigFile.model_validate(data), Path(source.file))
    return config._replace(source=source, problems=tuple(_warnings(source, config)))


def _warnings(source: Source, config: Config) -> list[Problem]:
    """What the variables hold that they hardly mean."""
    found = [
        complaint
        for name, environment in config.environments.items()
        for complaint in in_variables(("environments", name, "vars"), environment.vars)
        if complaint.code in config.lint.codes()
    ]
    return to_problems(source, 0, found)


def _raise(problems: Iterable[Problem]) -> Any:
    raise InvalidInput(problems)


def _check(data: Any) -> list[Finding]:
    try:
        config = ConfigFile.model_validate(data)
    except ValidationError:
        return findings_of(data, ConfigFile)
    environments = config.environments or {}
    found = list(_unknown_rules(config.lint)) + [
        Finding(
            ("environments", name, "vars", key),
            "P303",
            f"the variable {key} is a reference to a secret; remove it, secrets belong in auth",
        )
        for name, environment in environments.items()
        for key, value in environment.vars.items()
        if isinstance(value, str) and value.startswith(("env:", "file:"))
    ]
    found += [
        Finding(("environments", name, "vars"), "P005", f"vars hold more than {MAX_VARIABLES:,} characters; shorten them")
        for name, environment in environments.items()
        if len(canonical_text(environment.vars)) > MAX_VARIABLES
    ]
    found += [
        complaint._replace(path=("environments", name, *complaint.path))
        for name, environment in environments.items()
        if environment.auth is not None
        for complaint in auth_findings(environment.auth, environment.remote)
    ]
    found += [
        Finding(
            ("environments", name), "P307", f"{format_path(name)} is not a name; use letters, digits, dots, dashes, _", "key"
        )
        for name in environments
        if not _ENVIRONMENT_NAME.fullmatch(name)
    ]
    if config.default is not None and config.default not in (environments or [LOCAL]):
        guess, known = did_you_mean(config.default, environments), ", ".join(environments) or LOCAL
        found.append(Finding(("default",), "P302", f"there is no environment {config.default}{guess or f' (known: {known})'}"))
    return found


def _unknown_rules(file: LintFile | None) -> Iterator[Finding]:
    for key in ("select", "ignore"):
        for position, code in enumerate((file and getattr(file, key)) or ()):
            if not with_prefix(code):
                always = bool(with_prefix(code, RULES))
                why = "is always shown; only lint rules" if always else f"names no rule{guess_rule(code)}; only lint rules"
                yield Finding(("lint", key, position), "P306", f"{code} {why} can be chosen (policyctl rules lists all)")


def _resolve(file: ConfigFile, path: Path) -> Config:
    files = file.environments or {LOCAL: EnvironmentFile()}
    environments = {name: _environment(name, environment, file) for name, environment in files.items()}
    lint = Chosen(file.lint.select, file.lint.ignore or ()) if file.lint else Chosen()
    default = file.default or (next(iter(files)) if len(files) == 1 else None)
    written = file.model_copy(update={"environments": files, "default": default}).model_dump(
        mode="json",
        by_alias=True,
        exclude_none=True,
        exclude={"environments": {"__all__": {"vars"}}},
    )
    return Config(path, environments, default, lint, _environment(LOCAL, EnvironmentFile(), file), dict(leaves(written)))


def _environment(name: str, file: EnvironmentFile, shared: ConfigFile) -> Environment:
    def either(key: str) -> Any:
        return own_or_shared(key, file, shared)

    prune = either("prune")
    limits = {key: own_or_shared(key, file.limits, shared.limits) for key in Limits._fields}
    settings = Settings(
        scope=either("scope"),
        prune=True if prune is None else prune,
        protect=either("protect") or (),
        allow_remove=either("allow_remove") or (),
        limits=Limits(**{key: limit for key, limit in limits.items() if limit is not None}),
        guards=guards_of(file.guards, shared.guards),
        guard_exceptions=exceptions_of(either("guard_exceptions") or ()),
        partial=shared.effect.partial if shared.effect else PARTIAL,
    )
    return Environment(name, file.remote, file.auth, file.ca_file, file.vars, either("include"), settings)
