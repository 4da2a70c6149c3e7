"""The form of policyctl.yaml: a strict model of each part, whose descriptions the manual and the JSON Schema show."""

import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from policyctl import __version__
from policyctl.load.settings_file import AuthFile, Names, SafetyFile, Secret
from policyctl.load.urls import LOCAL, http_url_error, remote_url_error
from policyctl.plan.settings import PARTIAL
from policyctl.policy.memo import late_pattern
from policyctl.policy.schema import Apart, FileModel


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


def _check_date(text: Any) -> Any:
    try:
        return datetime.date.fromisoformat(text) if isinstance(text, str) else text
    except ValueError:
        raise PydanticCustomError("date", "must be a date such as 2026-12-04") from None


class SuspendFile(FileModel):
    """Leaves an environment as it is for a while. Every report names it."""

    reason: Annotated[str, Field(min_length=1, description="Why; every report shows it.")]
    until: Annotated[
        Annotated[datetime.date, BeforeValidator(_check_date)] | None,
        Field(description="The first day on which it is not suspended any more. Default: until this is removed."),
    ] = None


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


def _check_address(text: str) -> str:
    if text.startswith(("env:", "file:")) and text.partition(":")[2]:
        return text
    if http_url_error(text):  # without the text, which may have a password
        raise PydanticCustomError(
            "address", "must be an https:// URL without a password, or a reference to one, such as env:URL"
        )
    return text


NotifiedState = Literal["in_sync", "pending", "drifted", "conflict", "fighting", "refused", "failed", "suspended"]


# For editors, what `ReceiverFile` checks.
_OF_FORM: dict[str, Any] = {
    "if": {"properties": {"form": {"const": "issue"}}, "required": ["form"]},
    "then": {"properties": {"url": {"type": "null"}, "secret": {"type": "null"}}},
    "else": {"properties": {"url": {"type": "string"}}, "required": ["url"]},
}


class ReceiverFile(FileModel):
    """Who is notified of environments that `policyctl watch` finds in another state."""

    model_config = ConfigDict(json_schema_extra=_OF_FORM)

    name: Annotated[str, Field(min_length=1, description="What messages and metrics call it.")]
    url: Annotated[
        Annotated[str, AfterValidator(_check_address)] | None,
        Field(
            description="Where notifications are posted: an https:// URL, or a reference to one that is secret. An issue has "
            "none, and every other form needs one."
        ),
    ] = None
    form: Annotated[
        Literal["json", "slack", "issue"],
        Field(
            description="json: everything, as JSON. slack: a text, as Slack and those like it take it. issue: one issue on "
            "GitHub or GitLab, which lists the environments in these states. Default: json."
        ),
    ] = "json"
    secret: Annotated[
        Secret | None,
        Field(
            description="A reference to the secret that signs notifications, such as env:HOOK_SECRET. An issue is not signed."
        ),
    ] = None
    states: Annotated[
        Annotated[tuple[NotifiedState, ...], Field(strict=False, min_length=1)],
        Field(
            description="The states to notify of. in_sync is only notified after another one of these. Default: drifted, "
            "conflict, fighting, refused, failed, in_sync."
        ),
    ] = ("drifted", "conflict", "fighting", "refused", "failed", "in_sync")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.form != "issue" and self.url is None:
            raise PydanticCustomError("receiver", "needs a url with form {form}", {"form": self.form})
        if self.form == "issue" and (self.url is not None or self.secret is not None):
            why = "has form issue, so leave out url and secret: the token shows where it is opened"
            raise PydanticCustomError("receiver", why)
        return self


def _check_receivers(receivers: tuple[ReceiverFile, ...]) -> tuple[ReceiverFile, ...]:
    names = [one.name for one in receivers]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PydanticCustomError("receivers", "has two receivers named {name}; give each its own name", {"name": twice[0]})
    if [one.form for one in receivers].count("issue") > 1:
        raise PydanticCustomError("receivers", "has two receivers of form issue; one lists every environment")
    return receivers


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
            AfterValidator(_check_receivers),
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
