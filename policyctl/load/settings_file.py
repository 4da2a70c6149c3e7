"""The form of the settings in policyctl.yaml that any environment may have: logins, guards, limits, watching and notifying."""

import datetime
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from policyctl.effect.gateway import ANSWERS, BROKEN_WORDS, Answer, RetryAfter, is_served, read_answer
from policyctl.load.urls import http_url_error, is_http, is_local, is_postgres, is_safe_for_secrets
from policyctl.load.windows import RetryWaits, WatchSettings, Window, cron_error, seconds_of, zone_error
from policyctl.plan.settings import Guard, GuardException, Guards, MinServed, Part, Survive
from policyctl.policy.findings import Finding, did_you_mean, format_path
from policyctl.policy.schema import Apart, FileModel


def _check_duration(value: Any) -> float:
    try:
        return seconds_of(value if isinstance(value, str) else "")
    except ValueError as error:
        raise PydanticCustomError("duration", "{complaint}", {"complaint": str(error)}) from None


def _check_cron(text: str) -> str:
    if complaint := cron_error(text):
        raise PydanticCustomError("cron", "{complaint}", {"complaint": complaint})
    return " ".join(text.split())


def _check_zone(text: str) -> str:
    if complaint := zone_error(text):
        raise PydanticCustomError("zone", "{complaint}", {"complaint": complaint})
    return text


_DURATION_SCHEMA = {"type": "string", "pattern": "^([0-9]{1,6}d)?([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$", "minLength": 2}
Duration = Annotated[float, BeforeValidator(_check_duration), WithJsonSchema(_DURATION_SCHEMA)]


class WindowFile(FileModel):
    """A time in which a watch may not write, or only in which it may."""

    kind: Annotated[
        Literal["deny", "allow"],
        Field(description="Whether nothing is written within it, or something only within it. Deny wins over allow."),
    ]
    at: Annotated[
        str, AfterValidator(_check_cron), Field(description='When it begins: a cron expression such as "0 9 * * 1-5".')
    ]
    length: Annotated[Duration, Field(alias="for", description="How long it lasts, such as 9h.")]
    zone: Annotated[
        Annotated[str, AfterValidator(_check_zone)] | None,
        Field(description="The time zone of at, such as Europe/Berlin. Default: UTC."),
    ] = None
    manual: Annotated[
        bool | None,
        Field(description="Whether a person may apply within this deny window without --outside-window. Default: false."),
    ] = None


def _unused(file: WindowFile) -> WindowFile:
    if file.manual is not None and file.kind == "allow":
        raise PydanticCustomError("manual", "manual does nothing in an allow window, which never stops a person; remove it")
    return file


class RetryFile(FileModel):
    """How long to wait after a failure. Waits are random, up to these times."""

    first: Annotated[Duration | None, Field(description="The longest wait after a first failure. Default: 10s.")] = None
    factor: Annotated[
        float | None,
        Field(ge=1, le=100, allow_inf_nan=False, description="How many times as long it is after the next one. Default: 3."),
    ] = None
    most: Annotated[Duration | None, Field(description="The longest wait of all. Default: 15m.")] = None


class WatchFile(FileModel):
    """How policyctl watch treats an environment. By default it only looks."""

    interval: Annotated[
        Duration | None,
        Field(description="How often the environment is looked at. Default: 5m."),
    ] = None
    apply: Annotated[
        Literal["never", "on-merge"] | None,
        Field(description="Whether what moved in Git is applied: never, or once it is in the source. Default: never."),
    ] = None
    heal: Annotated[
        Literal["never", "always"] | None,
        Field(description="Whether what moved on the remote is put back to what the files have. Default: never."),
    ] = None
    approved: Annotated[
        bool | None,
        Field(description="Whether only plans are applied that a merged pull request approved. Default: false."),
    ] = None
    windows: Annotated[
        Annotated[tuple[Annotated[WindowFile, AfterValidator(_unused)], ...], Field(strict=False)] | None,
        Field(description="When a watch may write. Looking is never limited."),
    ] = None
    retry: Annotated[RetryFile | None, Field(description="How long to wait after a failure.")] = None


def watch_settings(own: WatchFile | None, shared: WatchFile | None) -> WatchSettings:
    """The settings of an environment: each its own, else the shared one, else the default."""
    usual, found = WatchSettings(), dict[str, Any]()
    for file in (shared, own):
        if file is not None:
            found |= {key: value for key in usual._fields if (value := getattr(file, key)) is not None}
    if "windows" in found:
        found["windows"] = tuple(map(_window, found["windows"]))
    if "retry" in found:
        given = {key: value for key in RetryWaits._fields if (value := getattr(found["retry"], key)) is not None}
        found["retry"] = RetryWaits(**given)
    return usual._replace(**found)


def _window(file: WindowFile) -> Window:
    return Window(file.kind, file.at, file.length, file.zone or "UTC", bool(file.manual))


LoginType = Literal["ibm_iam", "mcsp", "mcsp_v1", "mcsp_v2", "cpd", "zen_api_key", "bearer", "local"]
FIELDS = ("url", "username", "api_key", "password", "token")


def _check_secret(text: str) -> str:
    if not text.startswith(("env:", "file:")) or not text.partition(":")[2]:
        # The text is not shown: it may be the secret itself.
        raise PydanticCustomError("secret", "must be a reference, env:NAME or file:PATH, never the secret itself")
    return text


Secret = Annotated[str, AfterValidator(_check_secret)]


class AuthFile(FileModel):
    """How to log in to a remote. Secrets are references: `env:NAME` or `file:PATH`."""

    type: Annotated[
        LoginType | None, Field(description="The way to log in. Default: it follows from the remote's URL; with token, bearer.")
    ] = None
    url: Annotated[
        str | None,
        Field(description="Another token endpoint than the usual one: its whole URL, or only the part before the usual path."),
    ] = None
    username: Annotated[str | None, Field(description="The user, for cpd, zen_api_key and local.")] = None
    api_key: Annotated[Secret | None, Field(description="A reference to the API key, such as env:WXO_API_KEY.")] = None
    password: Annotated[Secret | None, Field(description="A reference to the password, for cpd and local.")] = None
    token: Annotated[Secret | None, Field(description="A reference to a bearer token, which is sent as it is.")] = None


# The fields that each way needs, and those that it may have.
_NEEDS: dict[LoginType, tuple[str, ...]] = {
    "ibm_iam": ("api_key",),
    "mcsp": ("api_key",),
    "mcsp_v1": ("api_key",),
    "mcsp_v2": ("api_key",),
    "cpd": ("username",),
    "zen_api_key": ("username", "api_key"),
    "bearer": ("token",),
    "local": ("username", "password"),
}
_MAY: dict[LoginType, tuple[str, ...]] = {"cpd": ("url", "api_key", "password"), "zen_api_key": (), "bearer": ()}


def login_type(auth: AuthFile, remote: str) -> LoginType:
    """The way to log in: as written, else bearer with a token, else by the remote's URL as IBM's CLI does."""
    if auth.type is not None:
        return auth.type
    if auth.token is not None:
        return "bearer"
    if is_local(remote):
        return "local"
    if ".cloud.ibm.com" in remote:
        return "ibm_iam"
    return "cpd" if remote.lower().startswith("https://cpd") else "mcsp"


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


_FAILURES = "a status from 300 to 999, refused, connect-timeout, broken-body or cut-stream"


def invalid(message: str, got: str) -> PydanticCustomError:
    """An error whose message, with `{got}` in it, follows the field's name."""
    return PydanticCustomError("scenario", message, {"got": got})


def _check_answer(value: Any) -> Answer:
    if type(value) is int or (isinstance(value, str) and not value.isdigit()):
        try:
            return read_answer(str(value))
        except ValueError:
            pass
    guess = did_you_mean(value, BROKEN_WORDS) if isinstance(value, str) else ""
    raise invalid(f"must be {ANSWERS}, got {{got}}", f"{format_path(value)}{guess}")


def _check_key(key: Any) -> Answer:
    return _check_answer(int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 4 else key)


def _check_failure(value: Any) -> Answer:
    try:
        answer = _check_answer(value)
    except PydanticCustomError:
        guess = did_you_mean(value, BROKEN_WORDS) if isinstance(value, str) else ""
        raise invalid(f"must be {_FAILURES}, got {{got}}", f"{format_path(value)}{guess}") from None
    if isinstance(answer, RetryAfter) or (isinstance(answer, int) and is_served(answer)):
        raise invalid(f"must be {_FAILURES}, got {{got}}", format_path(value))
    return answer


_WORDS = list(BROKEN_WORDS)
_TEMPLATE = {"type": "string", "pattern": r"\{\{"}
_AFTER = "429 after [0-9]{1,6} ?s"
_ANSWER_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 200, "maximum": 999},
        {"enum": _WORDS},
        {"type": "string", "pattern": f"^{_AFTER}$"},
        _TEMPLATE,
    ]
}
_KEY_SCHEMA = {"type": "string", "pattern": f"^([2-9][0-9][0-9]|{_AFTER}|{'|'.join(_WORDS)})$"}
_FAILURE_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 300, "maximum": 999}, {"enum": _WORDS}]}

OneAnswer = Annotated[Answer, PlainValidator(_check_answer), WithJsonSchema(_ANSWER_SCHEMA)]
AnswerKey = Annotated[Answer, PlainValidator(_check_key), WithJsonSchema(_KEY_SCHEMA)]
FailedAnswer = Annotated[Answer, PlainValidator(_check_failure), WithJsonSchema(_FAILURE_SCHEMA)]
FailedAnswers = Annotated[tuple[FailedAnswer, ...], Field(strict=False, min_length=1)]


Globs = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False, min_length=1)]


class SurviveFile(FileModel):
    """With any one provider (or model) down with any of these answers, every request must be served."""

    any: Annotated[Part, Field(description="What is down: any one provider with all its models, or any one model.")]
    down_with: Annotated[
        FailedAnswers, Field(description="The failures to survive, each by itself: statuses or words such as refused.")
    ]


class MinServedFile(FileModel):
    """While any one provider (or model) fails a share of its calls with any of these answers, so much must be served."""

    share: Annotated[float, Field(alias="while", gt=0, lt=1, description="The share of its calls that fail, such as 0.1.")]
    of: Annotated[Part, Field(description="What fails: any one provider with all its models, or any one model.")]
    answers: Annotated[FailedAnswers, Field(alias="with", description="The failures, each by itself: a status or a word.")]
    at_least: Annotated[float, Field(ge=0, le=1, description="The part of the requests that must be served, such as 0.999.")]


class GuardsFile(FileModel):
    """What a changed policy may do to traffic. A guard that is absent asks for nothing."""

    max_traffic_shift: Annotated[
        float | None,
        Field(
            ge=0,
            le=100,
            allow_inf_nan=False,
            description="The percentage of a policy's requests that may move at most. Updates only.",
        ),
    ] = None
    max_calls: Annotated[int | None, Field(ge=1, description="The most calls of one request in the worst case.")] = None
    max_failover_seconds: Annotated[
        float | None,
        Field(ge=0, allow_inf_nan=False, description="The most seconds of back-off before the last failover of a request."),
    ] = None
    survive: Annotated[SurviveFile | None, Field(description="The outages in which every request must still be served.")] = None
    min_served: Annotated[
        MinServedFile | None, Field(description="The part of the requests that must be served while some calls fail.")
    ] = None
    deny_new: Annotated[
        Part | None,
        Field(description="No provider (or model) may become reachable that the live policy could not reach. Updates only."),
    ] = None
    allow_providers: Annotated[Globs | None, Field(description="Globs of the only providers that requests may reach.")] = None
    deny_providers: Annotated[Globs | None, Field(description="Globs of providers that no request may reach.")] = None


class GuardExceptionFile(FileModel):
    """Policies that a guard does not bind, and why."""

    policy: Annotated[str, Field(min_length=1, description="The name of the policy, or a glob.")]
    guard: Annotated[Guard, Field(description="The guard that does not bind these policies.")]
    reason: Annotated[str, Field(min_length=1, description="Why; plans show it.")]


GuardExceptions = Annotated[tuple[Apart[GuardExceptionFile], ...], Field(strict=False)]


Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)]


class LimitsFile(FileModel):
    """How much one plan may change."""

    max_removes: Annotated[
        Annotated[int, Field(ge=0)] | None,
        Field(description="The most policies and models that one plan may remove. Default: 5."),
    ] = None
    max_change_percent: Annotated[
        Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None,
        Field(
            description="The most policies and models that one plan may update or remove, in percent of the live ones in "
            "scope. Checked from 10 live ones on; what is added never counts. Default: 30."
        ),
    ] = None


def _check_managed(kinds: tuple[str, ...]) -> tuple[str, ...]:
    if "policies" not in kinds:
        raise PydanticCustomError("manage", "needs policies too: models are managed beside them, never alone")
    return kinds


class SafetyFile(FileModel):
    """Safety settings for all environments, or for one, whose own values win."""

    manage: Annotated[
        Annotated[tuple[Literal["policies", "models"], ...], Field(strict=False, min_length=1), AfterValidator(_check_managed)]
        | None,
        Field(
            description="What is reconciled: policies, or policies and models. Files of virtual models are only declarations "
            "unless models is in the list. Default: policies."
        ),
    ] = None
    scope: Annotated[
        Globs | None,
        Field(
            description="Globs of the policy names that this directory manages. Other live policies are counted and left "
            "alone. Default: every name on the embedded remote; on an http(s) or postgresql: remote only the names in the "
            "files, so that nothing is removed until a scope is written."
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
    allow_key_loss: Annotated[
        Names | None,
        Field(
            description="Names or globs of models that may be updated although the remote shows neither a key nor a connection "
            "of theirs. For remotes that keep a hidden key, and for models without one."
        ),
    ] = None
    include: Annotated[
        Globs | None,
        Field(
            description="Globs of the files to read, by their path from the policy directory; * also matches /. Default: all "
            "files."
        ),
    ] = None
    limits: Annotated[Apart[LimitsFile] | None, Field(description="How much one plan may change.")] = None
    guards: Annotated[
        Apart[GuardsFile] | None,
        Field(description="What a changed policy may do to traffic. Each guard of an environment wins for itself."),
    ] = None
    guard_exceptions: Annotated[
        GuardExceptions | None,
        Field(description="Policies that a guard does not bind, each with a reason. Plans show them as notes."),
    ] = None
    requests_per_second: Annotated[
        Annotated[float, Field(gt=0, allow_inf_nan=False)] | None,
        Field(
            description="The most requests a second to the host of the remote, evenly spread. The environments of one host "
            "share it, and the lowest of their values holds. Default: as many as the host answers."
        ),
    ] = None
    watch: Annotated[
        Apart[WatchFile] | None,
        Field(description="How policyctl watch treats an environment. Each setting of an environment wins for itself."),
    ] = None


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


def check_receivers(receivers: tuple[ReceiverFile, ...]) -> tuple[ReceiverFile, ...]:
    """Refuse receivers of which two have one name, or two are issues."""
    names = [one.name for one in receivers]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PydanticCustomError("receivers", "has two receivers named {name}; give each its own name", {"name": twice[0]})
    if [one.form for one in receivers].count("issue") > 1:
        raise PydanticCustomError("receivers", "has two receivers of form issue; one lists every environment")
    return receivers
