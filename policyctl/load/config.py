"""policyctl.yaml: where it is, and its environments with their safety settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from policyctl.errors import InvalidInput, Mark, Problem
from policyctl.load.config_file import ConfigFile, EnvironmentFile, LintFile, version_error
from policyctl.load.environment import (
    NO_CONFIG,
    Config,
    Environment,
    GatewayConnection,
    Receiver,
    Suspend,
    Wave,
    dotted,
    leaves,
    listed_names,
)
from policyctl.load.fleet import ENVIRONMENT_NAME, FleetDescription, Member, Origin, Placed, ReadBeside, Rendered, render_member
from policyctl.load.kinds import CONFIG_FILE, MAX_VARIABLES
from policyctl.load.settings_file import (
    _MAY,
    _NEEDS,
    FIELDS,
    AuthFile,
    GuardExceptionFile,
    GuardsFile,
    LoginType,
    login_type,
    watch_settings,
)
from policyctl.load.source import Source, read_bytes, refuse_link
from policyctl.load.urls import LOCAL, http_url_error, is_http, is_postgres, is_safe_for_secrets, same_remotes
from policyctl.load.yaml import to_problems
from policyctl.plan.settings import PARTIAL, GuardException, Guards, Limits, MinServed, Settings, Survive
from policyctl.policy.document import canonical_text
from policyctl.policy.findings import FieldPath, Finding, did_you_mean, format_path
from policyctl.policy.names import within
from policyctl.policy.schema import FileModel, findings_of
from policyctl.rules import RULES, Chosen, guess_rule, with_prefix


def config_of(source: Source, read: ReadBeside | None = None) -> Config:
    """The configuration in a file's text; `read` gives the files beside it, which are read from the disk by default.

    Raises InvalidInput with every problem of the file and its inventories. What is wrong with one generated environment alone
    is kept in `broken`, and does not concern the others.
    """
    data = source.documents[0].data if source.documents else None
    problems = [problem for document in source.documents for problem in document.problems]
    if len(source.documents) > 1:
        problems.append(Problem(source.documents[1].mark, "P301", f"{CONFIG_FILE} is one document; merge the two"))
    if data is None:
        return NO_CONFIG._replace(path=Path(source.file)) if not problems else _raise(problems)
    if problems:
        dates = {problem.mark for problem in to_problems(source, 0, list(_dates(data)))}
        problems = [problem for problem in problems if problem.code != "P004" or problem.mark not in dates]
    if isinstance(data, dict) and (unfit := version_error(data.get("required_version"))):
        _raise(to_problems(source, 0, [Finding(("required_version",), "P312", unfit)]))  # others may not be understood here
    file, found = _form(data)
    known = {problem.mark for problem in problems}
    if file is None:
        raise InvalidInput([*problems, *(problem for problem in to_problems(source, 0, found) if problem.mark not in known)])
    fleet = FleetDescription(data, read or beside(Path(source.file)))
    members = _members(fleet, file)
    problems += [problem for problem in to_problems(source, 0, list(_checks(file, members))) if problem.mark not in known]
    problems += [*fleet.problems, *_placed(source, fleet.found), *_shared_remotes(source, members, file)]
    if problems:
        _raise(problems)
    return _resolve(file, members, source)


def _dates(data: Any) -> Iterator[Finding]:
    """Where a date is meant, which every reader of YAML takes for the same day."""
    environments = data.get("environments") if isinstance(data, dict) else None
    for name in environments if isinstance(environments, dict) else ():
        yield Finding(("environments", name, "suspend", "until"), "P004", "")


def _raise(problems: Iterable[Problem]) -> Any:
    raise InvalidInput(problems)


def beside(config: Path) -> ReadBeside:
    """Reads files beside a policyctl.yaml, which like it must not be links out of the repository."""

    def read(path: str) -> tuple[bytes, str]:
        file = config.parent / path
        refuse_link(file, config.parent)
        return read_bytes(file), str(file)

    return read


def _form(data: Any) -> tuple[ConfigFile | None, list[Finding]]:
    """The file by its strict model, or everything that is wrong with its form."""
    try:
        return ConfigFile.model_validate(data), []
    except ValidationError:
        return None, findings_of(data, ConfigFile)


class _Resolved(NamedTuple):
    """An environment with its settings merged and rendered; without a file for one that cannot be used."""

    member: Member
    file: EnvironmentFile | None
    rendered: Rendered | None = None  # None for one that is written out
    wrong: tuple[Placed, ...] = ()

    def origin_of(self, path: FieldPath) -> Origin:
        """Where one of its settings is to be corrected: at its row, if it was rendered over one."""
        return self.member.origin if self.rendered is None else self.rendered.place_of(path, self.member)


def _members(fleet: FleetDescription, file: ConfigFile) -> dict[str, _Resolved]:
    if not fleet.members:
        return {}
    plain = file.environments or {}
    return {
        name: _Resolved(member, plain[name]) if member.is_plain else _rendered_member(member, file)
        for name, member in fleet.members.items()
    }


def _rendered_member(member: Member, file: ConfigFile) -> _Resolved:
    rendered = render_member(member, file.allow_origins or ())
    if rendered.wrong:
        return _Resolved(member, None, rendered, rendered.wrong)
    own, data = None, rendered.data()
    try:
        own = EnvironmentFile.model_validate(data)
        found = list(_environment_findings(own))
    except ValidationError:
        found = findings_of(data, EnvironmentFile)
    resolved = _Resolved(member, own, rendered)
    wrong = tuple(Placed(resolved.origin_of(one.path), one) for one in found)
    return resolved._replace(file=None if wrong else own, wrong=wrong)


def _placed(source: Source, found: Iterable[Placed]) -> list[Problem]:
    """Findings as problems in an inventory, or at their setting in policyctl.yaml."""
    problems = []
    for where, one in found:
        if isinstance(where, Mark):
            problems.append(Problem(where, one.code, one.message, one.severity))
        else:
            problems += to_problems(
                source, 0, [one._replace(path=where if one.path[: len(where)] == where else (*where, *one.path))]
            )
    return problems


def _shared_remotes(source: Source, members: Mapping[str, _Resolved], shared: ConfigFile) -> list[Problem]:
    """A problem for each environment on the remote of another, unless both are written out with a scope of their own."""
    files = {name: one.file for name, one in members.items() if one.file is not None}

    def removes(one: str, other: str) -> bool:
        mine, theirs = (files[name].scope if members[name].member.is_plain else None for name in (one, other))
        prunes = own_or_shared("prune", files[one], shared) is not False
        return mine is None or theirs is None or mine == theirs or (prunes and within(theirs, mine))

    found = []
    remotes = {name: one.remote for name, one in files.items()}
    for name, other in same_remotes(remotes, str(Path(source.file).parent)):
        if removes(name, other) or removes(other, name):
            message = f"{name} has the remote of {other}: each would remove what only the other has; give each its own"
            found.append(Placed(members[name].origin_of(("remote",)), Finding(("remote",), "P313", message)))
    return _placed(source, found)


def _checks(config: ConfigFile, members: Mapping[str, _Resolved]) -> Iterator[Finding]:
    """What is wrong with a file of the right form."""
    yield from _unknown_rules(config.lint)
    names = {**(config.environments or {}), **members}
    for name, environment in (config.environments or {}).items():
        if name not in members or members[name].member.is_plain:
            for one in _environment_findings(environment):
                yield one._replace(path=("environments", name, *one.path))
        if not ENVIRONMENT_NAME.fullmatch(name):
            message = f"{format_path(name)} is not a name; use letters, digits, dots, dashes, _"
            yield Finding(("environments", name), "P307", message, "key")
    if config.default is not None and config.default not in (names or [LOCAL]):
        guess, known = did_you_mean(config.default, names), listed_names(names) or LOCAL
        yield Finding(("default",), "P302", f"unknown environment {config.default}{guess or f' (known: {known})'}")


def _environment_findings(environment: EnvironmentFile) -> Iterator[Finding]:
    """What is wrong with one environment, with paths into it."""
    for key, value in environment.vars.items():
        if isinstance(value, str) and value.startswith(("env:", "file:")):
            message = f"the variable {key} is a reference to a secret; remove it (secrets belong in auth)"
            yield Finding(("vars", key), "P303", message)
    if len(canonical_text(environment.vars)) > MAX_VARIABLES:
        yield Finding(("vars",), "P005", f"vars hold more than {MAX_VARIABLES:,} characters; shorten them")
    if environment.auth is not None:
        yield from auth_findings(environment.auth, environment.remote)


def _unknown_rules(file: LintFile | None) -> Iterator[Finding]:
    for key in ("select", "ignore"):
        for position, code in enumerate((file and getattr(file, key)) or ()):
            if not with_prefix(code):
                always = bool(with_prefix(code, RULES))
                why = "is always shown; only lint rules" if always else f"names no rule{guess_rule(code)}; only lint rules"
                yield Finding(("lint", key, position), "P306", f"{code} {why} can be chosen (policyctl rules lists all)")


def _resolve(file: ConfigFile, members: Mapping[str, _Resolved], source: Source) -> Config:
    files = {name: one.file for name, one in members.items() if one.file is not None} or {LOCAL: EnvironmentFile()}
    environments = {name: _environment(name, environment, file) for name, environment in files.items()}
    lint = Chosen(file.lint.select, file.lint.ignore or ()) if file.lint else Chosen()
    default = file.default or (next(iter(files)) if len(files) == 1 and len(members) < 2 else None)
    written = file.model_copy(update={"environments": files, "default": default}).model_dump(
        mode="json",
        by_alias=True,
        exclude_none=True,
        exclude={"environments": {"__all__": {"vars"}}, "templates": True, "fleet": True, "gateway": True, "notify": True},
    )
    return Config(
        Path(source.file),
        environments,
        default,
        lint,
        _environment(LOCAL, EnvironmentFile(), file),
        dict(leaves(written)) | _least_rows(file),
        source,
        broken={name: tuple(_placed(source, one.wrong)) for name, one in members.items() if one.wrong},
        broken_labels={name: _labels(one) for name, one in members.items() if one.wrong},
        unlabelled=frozenset(
            name for name, one in members.items() if any(wrong.finding.path[:1] == ("labels",) for wrong in one.wrong)
        ),
        waves=tuple(Wave(one.label, one.max_failures or 0) for one in file.waves or ()),
        inventories=tuple(Path(source.file).parent / one.source for one in file.fleet or ()),
        origins={name: _origins(one) for name, one in members.items() if one.rendered is not None},
        connections={
            name: GatewayConnection(one.api_key, one.custom_host)
            for name, one in (file.gateway.connections if file.gateway else {}).items()
        },
        receivers=tuple(Receiver(one.name, one.url or "", one.form, one.secret, one.states) for one in file.notify or ()),
    )


def _least_rows(file: ConfigFile) -> dict[str, int]:
    """How many rows each generator needs at least, by dotted path. All else of a generator shows in its environments."""
    least: dict[str, int] = {}
    for one in file.fleet or ():
        path = f"fleet.{one.source}.min"
        least[path] = max(one.min, least.get(path, 0))
    return {path: rows for path, rows in least.items() if rows > 1}


def _labels(resolved: _Resolved) -> dict[str, str]:
    settings = {} if resolved.rendered is None else resolved.rendered.settings
    return {str(path[1]): str(one.value) for path, one in settings.items() if path[0] == "labels" and len(path) == 2}


def _origins(resolved: _Resolved) -> dict[str, str]:
    """Where each setting of a generated environment comes from, by dotted path: `templates.gold`, or `tenants.csv:12`."""
    settings = {} if resolved.rendered is None else resolved.rendered.settings
    return {dotted(*path): _origin_text(one.origin) for path, one in settings.items()}


def _origin_text(origin: Origin) -> str:
    if isinstance(origin, Mark):
        return f"{Path(origin.file).name}:{origin.line}"
    return ".".join(map(str, origin))


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
        allow_key_loss=either("allow_key_loss") or (),
        limits=Limits(**{key: limit for key, limit in limits.items() if limit is not None}),
        guards=guards_of(file.guards, shared.guards),
        guard_exceptions=exceptions_of(either("guard_exceptions") or ()),
        partial=shared.effect.partial if shared.effect else PARTIAL,
    )
    suspend = None if file.suspend is None else Suspend(file.suspend.reason, file.suspend.until)
    labels = dict(file.labels or {})
    remote, rate = (file.remote, file.auth, file.ca_file), either("requests_per_second")
    watch = watch_settings(file.watch, shared.watch)
    return Environment(name, *remote, file.vars, either("include"), settings, labels, suspend, rate, watch)


def auth_findings(auth: AuthFile, remote: str) -> Iterator[Finding]:
    """What is wrong with an environment's `auth`, with paths into it. Values are not shown: they may be secrets."""
    if is_postgres(remote):
        message = "auth does not apply to a postgresql: remote; libpq finds the password (PGPASSFILE, service); remove it"
        yield Finding(("auth",), "P308", message, "key")
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
    value = None if own is None else getattr(own, key)
    return value if value is not None or shared is None else getattr(shared, key)


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
