"""The form of `watch` in policyctl.yaml: how often an environment is looked at, and what may be written without a person."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from policyctl.load.windows import RetryWaits, WatchSettings, Window, cron_error, seconds_of, zone_error
from policyctl.policy.schema import FileModel


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


_SCHEMA = {"type": "string", "pattern": "^([0-9]{1,6}d)?([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$", "minLength": 2}
Duration = Annotated[float, BeforeValidator(_check_duration), WithJsonSchema(_SCHEMA)]


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
