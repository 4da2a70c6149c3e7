"""policyctl.yaml: its form, where it is, and its environments with their safety settings.

The form is a strict model of each part, whose descriptions the manual and the JSON Schema show.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from policyctl import __version__
from policyctl.errors import InvalidInput, Mark, Problem
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
    AuthFile,
    Names,
    ReceiverFile,
    SafetyFile,
    Secret,
    SuspendFile,
    auth_findings,
    check_receivers,
    exceptions_of,
    guards_of,
    own_or_shared,
    watch_settings,
)
from policyctl.load.source import Source, read_bytes, refuse_link
from policyctl.load.urls import LOCAL, http_url_error, remote_url_error, same_remotes
from policyctl.load.yaml import to_problems
from policyctl.plan.settings import PARTIAL, Limits, Settings
from policyctl.policy.document import canonical_text
from policyctl.policy.findings import FieldPath, Finding, did_you_mean, format_path
from policyctl.policy.memo import late_pattern
from policyctl.policy.names import within
from policyctl.policy.schema import Apart, FileModel, findings_of
from policyctl.rules import RULES, Chosen, guess_rule, with_prefix


def _check_remote(text: str) -> str:
    if complaint := remote_url_error(text):
        raise PydanticCustomError("remote", "{complaint}", {"complaint": complaint})
    return text


def _check_label(value: Any) -> Any:
    """A label as text: a number or true in YAML is what it looks like."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


Labels = dict[str, Annotated[str, BeforeValidator(_check_label)]]
_LABELS = "Words to select environments by, such as ring: canary. Policies do not see them."
_EXTENDS = "The template whose settings these are merged over."


class TemplateFile(SafetyFile):
    """Settings that environments share. `{{ expressions }}` over an inventory's columns and `vars` are rendered in remote,
    auth, ca_file, labels and vars."""

    extends: Annotated[str | None, Field(description=_EXTENDS)] = None
    remote: Annotated[str | None, Field(min_length=1, description="The remote, as for an environment.")] = None
    auth: Annotated[Apart[AuthFile] | None, Field(description="How to log in, merged by key.")] = None
    ca_file: Annotated[str | None, Field(description="A file with the certificates of a private authority.")] = None
    labels: Annotated[Labels | None, Field(description=_LABELS)] = None
    vars: Annotated[dict[str, Any] | None, Field(description="Variables for the templates in policy and test files.")] = None


def _check_beside(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise PydanticCustomError("inventory", "must be a file beside policyctl.yaml or below it")
    if not path.endswith((".csv", ".yaml", ".yml", ".json")):
        raise PydanticCustomError("inventory", "must be a file in CSV, YAML or JSON (.csv, .yaml, .json)")
    return path


class GeneratorFile(FileModel):
    """One environment for each row of an inventory."""

    source: Annotated[
        str,
        AfterValidator(_check_beside),
        Field(alias="from", description="The inventory: a file in CSV, YAML or JSON beside policyctl.yaml."),
    ]
    name: Annotated[
        str, Field(min_length=1, description="The name of a row's environment, with expressions: prod-{{ tenant }}.")
    ]
    extends: Annotated[str | None, Field(description=f"{_EXTENDS} A column named extends wins.")] = None
    defaults: Annotated[Apart[TemplateFile] | None, Field(description="Settings of all rows, merged over the template's.")] = (
        None
    )
    labels: Annotated[Names, Field(description="The columns to select environments by.")] = ()
    vars: Annotated[Names, Field(description="The columns that policies may see, as variables.")] = ()
    min: Annotated[int, Field(ge=1, description="The fewest rows; fewer are an error. Default: 1.")] = 1


class WaveFile(FileModel):
    """Environments that are applied before the next wave begins."""

    label: Annotated[
        str | None, Field(min_length=1, description="A selector such as ring=canary. Default: all that no earlier wave has.")
    ] = None
    max_failures: Annotated[
        int | None, Field(ge=0, description="The most environments that may fail before later waves are held back. Default: 0.")
    ] = None


class EnvironmentFile(SafetyFile):
    """One environment: a remote, how to log in, its variables, and its own safety settings."""

    remote: Annotated[
        str,
        AfterValidator(_check_remote),
        Field(
            description="Where the policies are applied: local (a SQLite file in .policyctl/ beside the policy directory), "
            "sqlite:///PATH, postgresql://HOST/DATABASE, or the http(s) URL of an instance."
        ),
    ] = LOCAL
    auth: Annotated[
        Apart[AuthFile] | None, Field(description="How to log in to an http(s) remote. Not used for the embedded remote.")
    ] = None
    ca_file: Annotated[
        str | None,
        Field(description="A file with the certificates of a private authority, in PEM form. TLS is always verified."),
    ] = None
    vars: Annotated[dict[str, Any], Field(description="Variables for the templates in policy and test files.")] = Field(
        default_factory=dict
    )
    extends: Annotated[str | None, Field(description=_EXTENDS)] = None
    labels: Annotated[Labels | None, Field(description=_LABELS)] = None
    suspend: Annotated[Apart[SuspendFile] | None, Field(description="Leave this environment as it is for a while.")] = None


def _check_origin(text: str) -> str:
    if not _ORIGIN.fullmatch(text):
        # Without the text, which may have a password.
        raise PydanticCustomError("origin", "must be https://HOST or https://HOST:PORT, with nothing after it")
    return text


_ORIGIN = late_pattern(r"https?://[A-Za-z0-9*._-]+(:[0-9]{1,5})?/?")
Origins = Annotated[tuple[Annotated[str, AfterValidator(_check_origin)], ...], Field(strict=False, min_length=1)]


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


def _check_base(text: str) -> str:
    if complaint := http_url_error(text):
        raise PydanticCustomError("base", "{complaint}", {"complaint": complaint})
    return text


class ConnectionFile(FileModel):
    """What a connection of the platform holds, for the gateway."""

    api_key: Annotated[Secret | None, Field(description="A reference to the key, such as env:OPENAI_API_KEY.")] = None
    custom_host: Annotated[
        Annotated[str, AfterValidator(_check_base)] | None,
        Field(description="Where requests go if the model's own file does not say: https://HOST/v1."),
    ] = None


class GatewayFile(FileModel):
    """How `policyctl gateway` reaches the providers."""

    connections: Annotated[
        dict[str, ConnectionFile], Field(description="By app id, what each connection of the virtual models holds.")
    ] = Field(default_factory=dict)


class ConfigFile(SafetyFile):
    """policyctl.yaml."""

    default: Annotated[
        str | None,
        Field(description="The environment to use without --env. With several environments and no default, --env is required."),
    ] = None
    lint: Annotated[Apart[LintFile] | None, Field(description="Which lint rules run.")] = None
    effect: Annotated[Apart[EffectFile] | None, Field(description="How effects on traffic are computed.")] = None
    gateway: Annotated[Apart[GatewayFile] | None, Field(description="How policyctl gateway reaches the providers.")] = None
    environments: Annotated[
        Annotated[dict[str, Apart[EnvironmentFile]], Field(min_length=1)] | None,
        Field(description="The environments by name. Default: one environment, local, on the embedded remote."),
    ] = None
    required_version: Annotated[
        str | None,
        Field(description="The versions of policyctl that read this file, such as >=0.1,<1. It is checked before all else."),
    ] = None
    templates: Annotated[
        dict[str, Apart[TemplateFile]] | None,
        Field(description="Settings by name that environments extend. They are never planned."),
    ] = None
    fleet: Annotated[
        Annotated[tuple[Apart[GeneratorFile], ...], Field(strict=False, min_length=1)] | None,
        Field(description="Environments that are generated from inventories, one for each row."),
    ] = None
    allow_origins: Annotated[
        Origins | None,
        Field(
            description="Where rendered remotes may lead: https://HOST, in which * is a part of a host's name. Required when "
            "a row decides the host, since credentials are sent there."
        ),
    ] = None
    waves: Annotated[
        Annotated[tuple[Apart[WaveFile], ...], Field(strict=False, min_length=1)] | None,
        Field(description="The order in which many environments are applied: a wave begins when the one before ended well."),
    ] = None
    notify: Annotated[
        Annotated[
            tuple[Apart[ReceiverFile], ...],
            Field(strict=False, min_length=1),
            AfterValidator(check_receivers),
        ]
        | None,
        Field(description="Who is notified of environments that policyctl watch finds in another state."),
    ] = None


def version_error(required: Any) -> str | None:
    """Why this version may not read a configuration with that `required_version`; None if it may, or if none is required."""
    if not isinstance(required, str):
        return None  # absent, or of the wrong form, which is another problem
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        fits = SpecifierSet(required).contains(__version__, prereleases=True)
    except InvalidSpecifier:
        return f"{required!r} is not a range of versions; write it as >=0.1,<1"
    return None if fits else f"this is policyctl {__version__}, and {required} is required; use a version in that range"


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
