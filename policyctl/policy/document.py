"""A desired policy as a document, and the normal form in which two documents are compared.

Used on both sides of the diff. It must take anything that a remote may hold, so it never raises on a strange value: what it
does not understand it keeps as it is. The rules:

* the name is canonical; absent texts are the canonical name; an absent weight is 1;
* null is absent (an empty code list is not: it means "never"); so is a switch that is off, as it is by default;
* status codes are a sorted set; a number is written one way (1, not 1.0);
* the order of targets is kept where it matters (fallback, single) and sorted away where it does not (loadbalance);
* keys that the format does not know are left out: they are carried over on writing, never compared.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from policyctl.policy.names import MODEL_PREFIX, canonical_name

Document = dict[str, Any]

KNOWN_KEYS = ("name", "display_name", "description", "policy")
BODY_KEYS = frozenset({"strategy", "retry", "cache", "targets"})
TARGET_KEYS = frozenset({"model_name", "weight", "strategy", "retry", "targets"})
SWITCH = "use_retry_after_header"
PART_KEYS = {
    "strategy": frozenset({"mode", "on_status_codes"}),
    "retry": frozenset({"attempts", "on_status_codes", SWITCH}),
    "cache": frozenset({"mode"}),
}
# Written by the platform; never sent, shown or hashed. Prefixes, because the set grows with the platform.
SERVER_KEYS = ("id", "etag", "spec_version", "kind")
SERVER_PREFIXES = ("tenant_", "created_", "updated_")


@lru_cache(maxsize=1024)  # asked of every key of every row, and there are few
def is_server_key(key: str) -> bool:
    """Whether a top-level key of a row is the platform's own bookkeeping."""
    return key in SERVER_KEYS or key.startswith(SERVER_PREFIXES)


def normal_form(document: Document, *, sort: bool = True) -> Document:
    """The normal form of a policy document (file or live), as a plain JSON value; `document` is left as it is.

    Without `sort`, targets of a load balance stay in the order written, for showing positions to people.
    """
    name = canonical_name(document["name"])
    display_name, description = document.get("display_name"), document.get("description")
    return {
        "name": name,
        "display_name": name if display_name is None else plain_value(display_name),
        "description": name if description is None else plain_value(description),
        "policy": _group(document["policy"], BODY_KEYS, sort),
    }


def target_text(target: Any) -> str:
    """A target's canonical text: equal for equal targets, with defaults written out or not."""
    return canonical_text(normal_target(target))


def normal_target(target: Any) -> Any:
    """The normal form of one target, as it is in that of its policy."""
    return _targets([target], True)[0]


def canonical_text(value: Any) -> str:
    """One text per value: equal values give equal texts, different values different ones."""
    return _ENCODER.encode(value)


def written_text(value: Any) -> str:
    """The same, but mappings keep their order: one text per value as it is written, for whatever can see that order."""
    return _KEEPING_ORDER.encode(value)


def order_matters(group: Document) -> bool:
    """Whether a group asks its targets in the order written: every group but a load balance."""
    strategy = group.get("strategy")
    return not (isinstance(strategy, dict) and strategy.get("mode") == "loadbalance")


def digest(value: Any) -> str:
    """The SHA-256 of a plain value's canonical text, as `sha256:` and 64 hexadecimal digits."""
    return "sha256:" + hashlib.sha256(canonical_text(value).encode()).hexdigest()


def hidden_mark(value: str) -> str:
    """A hash to show beside a text that is hidden, so that a page shows that it changed. It is too long for two texts with one
    hash to be found: its author chooses both."""
    return digest(value)[: len("sha256:") + 40]


def version_of(document: Document) -> str:
    """A short name for what a policy's document contains: the same for every way to write it."""
    return digest(normal_form(document)).removeprefix("sha256:")[:12]


def references(document: Document) -> frozenset[str]:
    """The canonical names that a policy's targets may mean: every target that is not plainly a model."""
    return frozenset(canonical_name(name) for name in model_names(document) if not name.startswith(MODEL_PREFIX))


def model_names(document: Document) -> Iterator[str]:
    """Every `model_name` of a document, at any depth."""
    pending = [document.get("policy")]
    while pending:
        group = pending.pop()
        targets = group.get("targets") if isinstance(group, dict) else None
        for target in targets if isinstance(targets, list) else ():
            if isinstance(target, dict):
                if isinstance(target.get("model_name"), str):
                    yield target["model_name"]
                if "targets" in target:
                    pending.append(target)


_KEEPING_ORDER = json.JSONEncoder(separators=(",", ":"))
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def _group(group: Any, known: frozenset[str], sort: bool) -> Any:
    if not isinstance(group, dict):
        return plain_value(group)
    normal: Document = {}
    for key, value in group.items():
        if value is None or key not in known:
            continue
        if key == "targets":
            normal[key] = _targets(value, sort)
        elif key in PART_KEYS:
            normal[key] = _part(value, PART_KEYS[key])
        else:
            normal[key] = plain_value(value)
    if sort and isinstance(normal.get("targets"), list) and not order_matters(normal):
        normal["targets"].sort(key=canonical_text)
    return normal


def _targets(targets: Any, sort: bool) -> Any:
    if not isinstance(targets, list):
        return plain_value(targets)
    normal = [_group(target, TARGET_KEYS, sort) for target in targets]
    for target in normal:
        if isinstance(target, dict):
            target.setdefault("weight", 1)
    return normal


def _part(part: Any, known: frozenset[str]) -> Any:
    if not isinstance(part, dict):
        return plain_value(part)
    return {
        key: _codes(value) if key == "on_status_codes" else plain_value(value)
        for key, value in part.items()
        if value is not None and key in known and not (key == SWITCH and value is False)
    }


def _codes(codes: Any) -> Any:
    if not isinstance(codes, list):
        return plain_value(codes)
    plain = [plain_value(code) for code in codes]
    if all(type(code) is int for code in plain):
        return sorted(set(plain))
    return [json.loads(text) for text in sorted({canonical_text(code) for code in plain})]


def plain_value(value: Any) -> Any:
    if type(value) is float:
        if not math.isfinite(value):
            return str(value)
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        return {key: plain_value(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [plain_value(item) for item in value]
    return value


class Policy:
    """One desired policy.

    `document` is what the remote is to hold: canonical name, texts filled, no nulls, targets in the file's order; `text` is
    the canonical text of that. Either is made from the other when it is asked for: of most policies one is enough. `file` and
    `index` are the file and the document in it.
    """

    __slots__ = ("_document", "_text", "file", "index", "name")

    def __init__(self, name: str, document: Document | str, file: str, index: int = 0) -> None:
        """`document` is the document, or its canonical text."""
        self.name = name
        self.file = file
        self.index = index
        self._text = document if isinstance(document, str) else None
        self._document = None if isinstance(document, str) else document

    @property
    def document(self) -> Document:
        if self._document is None:
            document: Document = json.loads(self.text)
            self._document = document
        return self._document

    @property
    def text(self) -> str:
        if self._text is None:
            self._text = canonical_text(self._document)
        return self._text

    def keep_text(self) -> None:
        """Drop the document: of many policies, the texts alone take a fraction of the memory."""
        self._text, self._document = self.text, None


def policy_from_file(data: dict[str, Any], file: str, index: int = 0) -> Policy:
    """The policy of a valid file's data (see `PolicyFile`), with defaults filled in and nulls dropped."""
    name = canonical_name(data["name"])
    document = {
        "name": name,
        "display_name": _or(data.get("display_name"), name),
        "description": _or(data.get("description"), name),
        "policy": without_nulls(data["policy"]),
    }
    return Policy(name, document, file, index)


def _or(text: str | None, default: str) -> str:
    return default if text is None else text


def without_nulls(value: Any) -> Any:
    """The same plain value with every null key dropped, at any depth; null means absent in this format."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


_CALLED = ("custom_host", "request_timeout")  # of a provider's settings, those that a gateway uses


def called_by(model: Document) -> Document:
    """What decides how a gateway calls a virtual model, without secrets. Equal for equal calls."""
    settings = model.get("provider_config") or {}
    found = {"app_id": model.get("app_id"), **{key: settings.get(key) for key in _CALLED}}
    return {key: plain_value(value) for key, value in found.items() if value not in (None, "")}


def revision_of(policies: Mapping[str, Document], models: Mapping[str, Document]) -> str:
    """A short hash of the policies' normal forms and of how the models are called, which names a set that is in use."""
    called = {name: called_by(model) for name, model in models.items()}
    return digest([sorted(policies.items()), sorted(called.items())])[len("sha256:") :][:12]
