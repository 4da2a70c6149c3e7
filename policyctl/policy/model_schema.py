"""The strict model of a virtual model's file, what is wrong with one, and its JSON Schema.

The format is the platform's own (its ADK's `kind: model` without a `policy`). Whatever its CLI takes is taken, with three
exceptions, each with a message of what to write instead: secrets, ids of connections, and paths of certificates.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, create_model
from pydantic_core import PydanticCustomError

from policyctl.policy.document import Document
from policyctl.policy.findings import FieldPath, Finding, format_path
from policyctl.policy.model_settings import (
    ALIASES,
    ANY_PROVIDER,
    HEADER,
    SECRETS,
    SENT_AS,
    SET,
    SETTINGS,
    Setting,
    holds_secret,
    is_placeholder,
    is_reference,
    is_secret,
    masked,
    provider_key,
    sent_key,
    snake_case,
    what_is_secret,
    without_secrets,
)
from policyctl.policy.names import MODEL_PREFIX, POLICY_PREFIX, PREFIXES, name_error, virtual_model
from policyctl.policy.schema import FileModel, Text, Unicode, findings_of, templated_schema
from policyctl.policy.virtual_model import UNNAMED, VirtualModel, is_own_key, model_from_file

_TYPES: dict[str, Any] = {
    "text": Unicode,
    "number": Annotated[int, Field(strict=False)],  # the platform's CLI takes "500" for 500
    "switch": Annotated[bool, Field(strict=False)],
    "texts": Annotated[list[Unicode], Field(strict=False)],
    "mapping": dict[str, Any],
    "mappings": Annotated[list[dict[str, Any]], Field(strict=False)],
}
ModelType = Literal[
    "chat", "chat_vision", "completion", "embedding"
]  # those that the platform documents; files may have others
CONNECT = "make a connection (orchestrate connections add -a NAME, then configure and set-credentials) and write app_id: NAME"


def _check_name(name: str) -> str:
    bare = name.removeprefix(MODEL_PREFIX)
    if bare.startswith(PREFIXES):
        complaint: str | None = f"the name of a virtual model must have {MODEL_PREFIX} once, at most, and not {POLICY_PREFIX}"
    else:
        complaint = name_error(bare)
    if complaint is None and not provider_key(virtual_model(name)):
        complaint = "the name of a virtual model is <provider>/<model>"
    if complaint is not None:
        raise PydanticCustomError("policy_name", "{complaint}", {"complaint": complaint})
    return name


def _described(key: str, setting: Setting) -> Any:
    """The field of a setting: who uses it, as far as that is known, and that a secret is not written."""
    if key in SENT_AS:
        return Field(default=None, description=f"Another word for {SENT_AS[key]}, as which it is sent.")
    used = "every provider" if key in ANY_PROVIDER else " and ".join(setting.providers) or "no provider that is known"
    secret = " A secret, which must not be in a file: write app_id instead." if setting.is_secret else ""
    return Field(default=None, description=f"Used by {used}.{secret}")


_CONFIG_FIELDS: dict[str, Any] = {
    key: (_TYPES[setting.type] | None, _described(key, setting)) for key, setting in SETTINGS.items()
}
# The provider follows from the name; what a file has as provider is not looked at.
ProviderConfig = create_model(
    "ProviderConfig",
    __base__=FileModel,
    provider=(Unicode | None, Field(default=None, description="Follows from the name, and is not compared.")),
    **_CONFIG_FIELDS,
)


class ModelFile(FileModel):
    """A virtual model: one model of a provider, as the platform's gateway calls it."""

    spec_version: Annotated[Literal["v1"], Field(description="The version of the format.")]
    kind: Annotated[Literal["model"], Field(description="The platform's word for models and policies alike.")]
    name: Annotated[
        Text,
        AfterValidator(_check_name),
        Field(description="<provider>/<model>; virtual-model/ is added when missing."),
    ]
    display_name: Annotated[Unicode | None, Field(description="The name that people see. Default: the name.")] = None
    description: Annotated[Unicode | None, Field(description="What the model is for. Default: the name.")] = None
    provider_config: Annotated[
        ProviderConfig | None,  # type: ignore[valid-type]  # made of the table of settings
        Field(description="How the gateway reaches the provider; never secrets."),
    ] = None
    config: Annotated[dict[str, Any] | None, Field(description="Inference parameters, such as temperature and max_tokens.")] = (
        None
    )
    tags: Annotated[
        tuple[Unicode, ...], Field(strict=False, description="Tags; default makes the model the tenant's default.")
    ] = ()
    model_type: Annotated[Text | None, Field(description="chat, chat_vision, completion or embedding. Default: chat.")] = None
    app_id: Annotated[Text | None, Field(description="The connection that holds the credentials, by its app id.")] = None
    connection: Annotated[Text | None, Field(description="The same as app_id.")] = None


def virtual_model_schema() -> dict[str, Any]:
    """The schema of one virtual model's document, as a plain value. Aliases in camelCase are accepted, not suggested."""
    schema = templated_schema(ModelFile, "policyctl virtual model file")
    settings = schema["$defs"]["ProviderConfig"]
    settings["patternProperties"] = {f"^({'|'.join(sorted(ALIASES))})$": {}}
    return schema


def read_model(data: Document, file: str, index: int = 0) -> tuple[VirtualModel | None, list[Finding]]:
    """The model that a document stands for (None where an error is found), and what is wrong with it."""
    known = {key: value for key, value in data.items() if key in ("spec_version", "kind") or not is_own_key(key)}
    if "provider_config" in known:
        known["provider_config"], spellings, twice = _respelled(known["provider_config"])
    else:
        spellings, twice = {}, []
    found = [*twice, *_misplaced(data), *_secrets(known), *_not_finite(known)]
    complained = {one.path for one in found}
    found += [_as_warning(one) for one in findings_of(known, ModelFile) if one.path not in complained]
    if not any(one.severity == "error" for one in found):
        model: VirtualModel | None = model_from_file(_coerced(known), file, index)
    else:
        model = None
    return model, [one._replace(path=_as_written(one.path, spellings)) for one in found]


def _not_finite(value: Any, path: FieldPath = ()) -> Iterator[Finding]:
    """Numbers that JSON, which is what is sent, does not have."""
    if isinstance(value, float) and not isfinite(value):
        yield Finding(path, "P103", f"{path[-1]} is {value}, which cannot be sent; write a finite number")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _not_finite(item, (*path, key))


def fault_in_written(document: Document) -> str | None:
    """What keeps a document from being one that a plan writes over a live model, which may hold marks in place of secrets."""
    config = document.get("provider_config")
    marked = {key for key, value in config.items() if value == SET and key in SECRETS} if isinstance(config, dict) else set()
    own = {key: value for key, value in config.items() if key not in marked} if isinstance(config, dict) else config
    data = {"spec_version": "v1", "kind": "model", **document, "provider_config": own}
    # A connection whose name is not known is kept by its id, which no file may name.
    kept = {"app_id": data.pop("app_id")} if str(data.get("app_id")).startswith(UNNAMED) else {}
    model, found = read_model(data, "")
    if model is None:
        return found[0].message
    settings = {**model.document["provider_config"], **dict.fromkeys(marked, SET)}
    as_written = {**model.document, "provider_config": settings, **kept}
    return None if as_written == document else "it is not written as plan writes it"


def _coerced(data: Document) -> Document:
    """The data with numbers and switches of `provider_config` as such, where a file writes them as text."""
    config = data.get("provider_config")
    if not config:
        return data
    read = ProviderConfig.model_validate(config).model_dump(exclude_unset=True)
    return {**data, "provider_config": read}


def _respelled(config: Any) -> tuple[Any, dict[str, str], list[Finding]]:
    """The settings by the keys as which they are sent, how each respelled one was written, and a finding for each one that is
    written in two ways."""
    if not isinstance(config, dict):
        return config, {}, []
    spellings, twice, sent = dict[str, str](), list[Finding](), Document()
    for key in sorted(config, key=lambda key: sent_key(key) != key):  # the key that is sent comes first
        known = sent_key(key)
        if known in sent:
            message = f"{spellings.get(known, known)} is written as {key} too; keep one"
            twice.append(Finding(("provider_config", key), "P109", message, "key"))
        if known != key:
            spellings[known] = key
        sent[known] = config[key]
    return {sent_key(key): sent[sent_key(key)] for key in config}, spellings, twice


def _as_written(path: FieldPath, spellings: dict[str, str]) -> FieldPath:
    if len(path) > 1 and path[0] == "provider_config":
        return (path[0], spellings.get(str(path[1]), path[1]), *path[2:])
    return path


def _misplaced(data: Document) -> Iterator[Finding]:
    if "connection_id" in data:
        yield Finding(
            ("connection_id",),
            "P111",
            "connection_id is the id that one environment has for a connection; write app_id with the connection's name",
            "key",
        )
    for key in ("app_id", "connection"):
        if isinstance(named := data.get(key), str) and named.startswith(UNNAMED):
            yield Finding((key,), "P111", f"{key} is the name of a connection, not its id; write the name")
    if data.get("app_id") and data.get("connection") and data["app_id"] != data["connection"]:
        yield Finding(("connection",), "P109", "connection and app_id name two connections; keep app_id", "key")
    if isinstance(config := data.get("provider_config"), dict) and "server_cert_file" in config:
        message = "server_cert_file is not read; write the certificate's text as server_cert"
        yield Finding(("provider_config", "server_cert_file"), "P111", message, "key")


def _secrets(data: Document) -> Iterator[Finding]:
    """A finding for each secret in the settings of a file; none of them shows its value."""
    for part in ("provider_config", "config"):
        yield from _secrets_in(data.get(part), (part,))
    for part in ("display_name", "description", "tags"):
        if masked(data.get(part)) != data.get(part):
            yield Finding((part,), "P110", f"{part} has a user or password in a URL, which must not be in a file; remove it")
    config = data.get("provider_config")
    headers = config.get("forward_headers") if isinstance(config, dict) else None
    for place, header in enumerate(headers if isinstance(headers, list) else ()):
        if isinstance(header, str) and HEADER.match(header):
            message = "forward_headers lists names of headers only; remove the value"
            yield Finding(("provider_config", "forward_headers", place), "P110", message)


def _secrets_in(value: Any, path: FieldPath) -> Iterator[Finding]:
    """The secrets at any depth of a value: under their own keys, beside their names, and within texts."""
    key = path[-1]
    if is_secret(key, value):
        is_own = path[:-1] == ("provider_config",) and snake_case(str(key)) == "api_key"
        if not (is_own and (is_placeholder(value) or is_reference(value))):
            yield Finding(path, "P110", f"{key} is a secret, which must not be in a file; {CONNECT}", "key")
    elif path[:-1] == ("provider_config",) and snake_case(str(key)) in SECRETS and value in ("", {}):
        # It is compared as absent, so a write of it over a key that the remote hides would be on no page.
        yield Finding(path, "P110", f"{key} is a secret, which must not be in a file, not even empty; leave the key out", "key")
    elif isinstance(value, dict):
        shown = without_secrets(value)
        for name, item in value.items():
            if shown[name] == SET and not is_secret(name, item):
                yield Finding((*path, name), "P110", f"{name} is that of a secret, which must not be in a file; {CONNECT}")
            else:
                yield from _secrets_in(item, (*path, name))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _secrets_in(item, (*path, place))
    elif isinstance(value, str) and holds_secret(value):
        yield Finding(path, "P110", f"{key} has {what_is_secret(value)}, which must not be in a file; {CONNECT}")


def _as_warning(complaint: Finding) -> Finding:
    """An unknown key beside the format's own is left out with a warning, unless it is a slip for one of them."""
    if complaint.code != "P101" or len(complaint.path) != 1 or "did you mean" in complaint.message:
        return complaint
    key = format_path(complaint.path[0])
    message = f"{key} is not a field of a virtual model and is not sent (remove it)"
    return Finding(complaint.path, "P484", message, "key", "warning")
