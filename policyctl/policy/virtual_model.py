"""A virtual model as a document, and the normal form in which two documents are compared.

The rules, which follow what the platform's CLI sends and what its server answers (see the manual, virtual-models):

* the name has the platform's prefix; an absent display name or description is the name, in either spelling;
* settings of the provider are in snake_case; the provider itself follows from the name and is not compared;
* of a secret only that it is set is compared: files hold none (a reference to a key is for the gateway, and left out), so an
  update keeps what the remote has, unless the model changes to a connection, which takes its place;
* tags are a set; absent means none; an absent type is chat; an empty config is an absent one; null is absent;
* the connection is named by its `app_id`; the id that a remote has for it never leaves the room of the remote. One whose
  `app_id` cannot be found is kept until the file names another;
* keys that the format does not know are left out: they are carried over on writing, never compared.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from policyctl.policy.document import Document, canonical_text, hidden_mark, is_server_key, plain_value, without_nulls
from policyctl.policy.model_settings import (
    HALVES,
    PLACEHOLDERS,
    SECRETS,
    SET,
    comparable,
    has_mask,
    is_masked,
    is_placeholder,
    is_reference,
    needs_key,
    provider_key,
    secrets_in,
    unknown_settings,
    with_snake_case,
    without_secrets,
)
from policyctl.policy.names import short_model, virtual_model

KNOWN_KEYS = ("name", "display_name", "description", "provider_config", "config", "tags", "model_type", "app_id")
USUAL_TYPE = "chat"
UNNAMED = "id:"  # before the id of a connection whose app id cannot be found
# Written by the platform beside its usual bookkeeping; derived from the name and the settings.
_DERIVED = frozenset({"title", "model_name", "provider", "api_base", "api_version", "deployment_id", "connection_id"})
CLI_MAX_TOKENS = 4096  # what the platform's CLI adds to the config of a model whose name has `anthropic` in it


class VirtualModelRow(dict[str, Any]):
    """A row of a remote's list of models, which a row of its list of policies must never be taken for.

    Where the remote's own row has the id of a connection, this one has the connection's `app_id`.
    """


class VirtualModel:
    """One desired virtual model.

    `document` is what the remote is to hold: canonical name, texts filled, settings in snake_case, no nulls. `file` and
    `index` say which document of which file wrote it. `key` is the file's reference to the key, which is for the gateway alone
    and no part of the document.
    """

    __slots__ = ("document", "file", "index", "key", "name")

    def __init__(self, name: str, document: Document, file: str, index: int = 0, key: str | None = None) -> None:
        self.name = name
        self.document = document
        self.file = file
        self.index = index
        self.key = key

    @property
    def text(self) -> str:
        """The document's canonical text."""
        return canonical_text(self.document)


def model_from_file(data: Document, file: str, index: int = 0) -> VirtualModel:
    """The model that a valid file's data (see `ModelFile`) stands for, defaults filled and nulls dropped."""
    name = virtual_model(data["name"])
    data = without_nulls(data)
    settings, connection = _called(data)
    document = {
        "name": name,
        "display_name": data.get("display_name") or name,
        "description": data.get("description") or name,
        "provider_config": settings,
        "tags": data.get("tags", []),
        "model_type": data.get("model_type", USUAL_TYPE),
    }
    settings.pop("provider", None)
    key = settings.pop("api_key") if is_reference(settings.get("api_key")) else None
    if config := data.get("config"):
        document["config"] = config
    if connection:
        document["app_id"] = connection
    return VirtualModel(name, document, file, index, key)


def addresses_in(data: Document) -> dict[str, str]:
    """Where the gateway sends requests to a model, and with which key: `custom_host`, the `app_id` of its connection, and the
    reference `api_key`, to show. `data` is a file's, valid or not."""
    settings, connection = _called(without_nulls(data))
    key, host = settings.get("api_key"), settings.get("custom_host")
    found = {"custom_host": host, "app_id": connection, "api_key": key if is_reference(key) else None}
    return {setting: _to_show(item) for setting, item in found.items() if item and isinstance(item, str)}


def _called(data: Document) -> tuple[Document, Any]:
    """A file's settings of the provider in snake_case, and its connection. `data` has no nulls: one would hide what stands in
    the other spelling."""
    settings = data.get("provider_config")
    return with_snake_case(settings) if isinstance(settings, dict) else {}, data.get("app_id", data.get("connection"))


def _to_show(item: str) -> str:
    """An address without secrets. A hash of it shows that it changed where these are hidden."""
    shown = str(without_secrets(item))
    return shown if shown == item else f"{shown} ({hidden_mark(item)})"


def normal_form(document: Document) -> Document:
    """The normal form of a model's document (file or live), as a plain JSON value; `document` is left as it is."""
    name = virtual_model(document["name"])
    normal: Document = {
        "name": name,
        "display_name": _text(document.get("display_name"), name),
        "description": _text(document.get("description"), name),
        "model_type": document.get("model_type") or USUAL_TYPE,
    }
    settings = {
        "app_id": document.get("app_id"),
        "provider_config": plain_value(comparable(document.get("provider_config"))),
        "config": plain_value(without_secrets(document.get("config"))),
        "tags": _tags(document.get("tags")),
    }
    return normal | {key: value for key, value in settings.items() if value not in (None, "", {}, [])}


def written_form(document: Document) -> Document:
    """The normal form of a document that is to be written, with the placeholders of secrets that it writes as they are."""
    normal, config = normal_form(document), document.get("provider_config")
    words = {key: word for key, word in config.items() if is_placeholder(word)} if isinstance(config, dict) else {}
    written = {key: words.get(key, item) if key in SECRETS else item for key, item in normal.get("provider_config", {}).items()}
    return {**normal, "provider_config": written} if written else normal


def _text(text: Any, name: str) -> Any:
    return name if text in (None, "", short_model(name)) else plain_value(text)


def _tags(tags: Any) -> Any:
    if not isinstance(tags, list):
        return plain_value(tags)
    return sorted(dict.fromkeys(tags)) if all(isinstance(tag, str) for tag in tags) else plain_value(tags)


class LiveModel:
    """One live virtual model: its canonical name, the remote's id, and its document (the row less the server's own keys).

    `document["name"]` keeps the row's own spelling. Secrets in it are as the remote shows them; nothing but a write of the
    same row may hand them on. `version` is the row's `etag`, where the remote gives one.
    """

    def __init__(self, name: str, identifier: str, document: Document, version: str | None = None) -> None:
        self.name = name
        self.id = identifier
        self.document = document
        self.version = version

    @cached_property
    def normal(self) -> Document:
        return normal_form(self.document)

    @cached_property
    def text(self) -> str:
        return canonical_text(self.normal)


def is_own_key(key: str) -> bool:
    """Whether a top-level key of a model's row is the platform's own bookkeeping."""
    return key in _DERIVED or is_server_key(key)


def settled(desired: Document, live: LiveModel) -> Document:
    """The document that a live model is to become: what is desired, with what the file leaves to the remote.

    That is its secrets (marked `SET`), unless the model changes to another connection; a connection that no file can name,
    unless the file names another one; and the limit that the platform's CLI adds where the file has none.
    """
    document = dict(desired)
    connection = live.document.get("app_id")
    if isinstance(connection, str) and connection.startswith(UNNAMED):
        document.setdefault("app_id", connection)
    if not _takes_over(desired, live):
        kept = dict.fromkeys(secrets_in(live.document.get("provider_config")), SET)
        document["provider_config"] = {**kept, **desired["provider_config"]}
    config = live.document.get("config")
    if "anthropic" in live.name and isinstance(config, dict) and config.get("max_tokens") == CLI_MAX_TOKENS:
        document["config"] = {"max_tokens": CLI_MAX_TOKENS, **desired.get("config", {})}
    return document


def _takes_over(desired: Document, live: LiveModel) -> bool:
    """Whether a connection is to take the place of the secrets that a row has of its own."""
    return "app_id" in desired and desired["app_id"] != live.document.get("app_id")


def lost_secrets(live: LiveModel, after: Document) -> tuple[str, ...]:
    """The secrets that a write of `after` would have to keep and cannot, since the remote only shows a mask of them."""
    kept = [key for key, value in after["provider_config"].items() if value == SET and key in SECRETS]
    shown = secrets_in(live.document.get("provider_config"))
    return tuple(key for key in kept if is_masked(shown.get(key), key))


def may_lose_key(live: LiveModel, after: Document) -> bool:
    """Whether a row may have a key of its own that the remote does not show at all, so that a write of `after` loses it: the
    model needs one, the row shows neither a key nor a connection, and `after` has no connection. A word that opens nothing
    would take the key's place, where more than such a word is needed."""
    provider = provider_key(live.name)
    if not needs_key(provider) or live.document.get("app_id") or after.get("app_id"):
        return False
    if provider in PLACEHOLDERS and secrets_in(after["provider_config"]):
        return False
    return secrets_in(live.document.get("provider_config")).keys() <= HALVES


def masked_extras(live: LiveModel) -> tuple[str, ...]:
    """The fields that the format does not know, which every update sends back, and of which the remote shows a mask."""
    own = {key: value for key, value in live.document.items() if key not in KNOWN_KEYS and not is_own_key(key)}
    settings = unknown_settings(live.document.get("provider_config"))
    return (
        *(key for key, value in own.items() if has_mask({key: value})),
        *(f"provider_config.{key}" for key, value in settings.items() if has_mask({key: value})),
    )


def written(live: LiveModel | None, after: Document) -> Document:
    """The document to send: `after` with the provider, and of a live row its secrets and the keys that nothing knows.

    Every key of the format is in it, empty where the file has none, since a remote may merge what it is sent into what it
    has. Only the connection has no empty value: whether it goes is read back.
    """
    document: Document = {"config": {}, **without_nulls(after)}
    settings = {"provider": provider_key(after["name"]), **after["provider_config"]}
    if live is not None:
        shown = secrets_in(live.document.get("provider_config"))
        settings = unknown_settings(live.document.get("provider_config")) | {
            key: shown.get(key) if value == SET and key in SECRETS else value for key, value in settings.items()
        }
        document = {key: value for key, value in live.document.items() if key not in KNOWN_KEYS} | document
        document["name"] = live.document["name"]
    # What the row alone has goes back as it is, with the nulls within.
    document["provider_config"] = {key: value for key, value in settings.items() if value is not None}
    return document
