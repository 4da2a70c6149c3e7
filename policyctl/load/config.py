"""policyctl.yaml: where it is, and its environments with their safety settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from policyctl.errors import InvalidInput, Problem
from policyctl.load.config_file import ConfigFile, EnvironmentFile, LintFile
from policyctl.load.environment import NO_CONFIG, Config, Environment, leaves
from policyctl.load.kinds import CONFIG_FILE, MAX_VARIABLES
from policyctl.load.locate import to_problems
from policyctl.load.settings_file import _MAY, _NEEDS, FIELDS, AuthFile, GuardExceptionFile, GuardsFile, LoginType, login_type
from policyctl.load.source import Source
from policyctl.load.urls import LOCAL, http_url_error, is_http, is_safe_for_secrets
from policyctl.plan.settings import PARTIAL, GuardException, Guards, Limits, MinServed, Settings, Survive
from policyctl.policy.document import canonical_text
from policyctl.policy.findings import Finding, did_you_mean, format_path
from policyctl.policy.schema import FileModel
from policyctl.policy.validation_errors import findings_of
from policyctl.rules import RULES, Chosen, guess_rule, with_prefix

# An environment's name is part of a file's name (that of its embedded remote).
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def config_of(source: Source) -> Config:
    """The configuration in a file's text. Raises InvalidInput with every problem."""
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
    return _resolve(ConfigFile.model_validate(data), Path(source.file))._replace(source=source)


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
            f"the variable {key} is a reference to a secret; remove it (secrets belong in auth)",
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
        found.append(Finding(("default",), "P302", f"unknown environment {config.default}{guess or f' (known: {known})'}"))
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
        models="models" in (either("manage") or ()),
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


def auth_findings(auth: AuthFile, remote: str) -> Iterator[Finding]:
    """What is wrong with an environment's `auth`, with paths into it. Values are not shown: they may be secrets."""
    if not is_http(remote):
        return
    if not is_safe_for_secrets(remote):
        message = "remote must be an https:// URL, because auth would be sent in the clear (http:// only to this machine)"
        yield Finding(("remote",), "P308", message)
    if auth.url is not None and (complaint := http_url_error(auth.url)):
        yield Finding(("auth", "url"), "P308", f"url {complaint}")
    elif auth.url is not None and not is_safe_for_secrets(auth.url):
        yield Finding(("auth", "url"), "P308", "url must be an https:// URL (http:// only to this machine)")
    yield from _field_findings(auth, login_type(auth, remote))


def _field_findings(auth: AuthFile, kind: LoginType) -> Iterator[Finding]:
    subject = f"auth of type {kind}" if auth.type else f"auth for this remote (type {kind})"
    given = [name for name in FIELDS if getattr(auth, name) is not None]
    for name in _NEEDS[kind]:
        if name not in given:
            yield Finding(("auth",), "P308", f"{subject} needs {name}", "key")
    for name in given:
        if name not in (*_NEEDS[kind], *_MAY.get(kind, ("url",))):
            yield Finding(("auth", name), "P308", f"{subject} does not take {name}; remove it", "key")
    if kind == "cpd" and (auth.password is None) == (auth.api_key is None):
        yield Finding(("auth",), "P308", f"{subject} needs exactly one of password and api_key", "key")


def own_or_shared(key: str, own: FileModel | None, shared: FileModel | None) -> Any:
    """An environment's own value, else the shared one, else None."""
    values = (getattr(file, key) for file in (own, shared) if file is not None)
    return next((value for value in values if value is not None), None)


def guards_of(own: GuardsFile | None, shared: GuardsFile | None) -> Guards:
    """The guards of an environment: each its own, else the shared one, else none."""
    found = {name: own_or_shared(name, own, shared) for name in Guards._fields}
    survive, least = found.pop("survive"), found.pop("min_served")
    return Guards(
        **found,
        survive=survive and Survive(survive.any, tuple(dict.fromkeys(survive.down_with))),
        min_served=least and MinServed(least.share, least.of, least.answers, least.at_least),
    )


def exceptions_of(files: Iterable[GuardExceptionFile]) -> tuple[GuardException, ...]:
    """The exceptions, in the order written."""
    return tuple(GuardException(file.guard, file.policy, file.reason) for file in files)
