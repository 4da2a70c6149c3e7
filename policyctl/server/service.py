"""What handlers work with: plain values, so that they need no web framework, and the description of an operation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qs

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from policyctl.errors import Conflict, Moved
from policyctl.policy.document import Document, without_nulls
from policyctl.remote.store import DocumentTable, ModelTable, Store
from policyctl.server.shapes import Shape

if TYPE_CHECKING:
    from policyctl.server.login import TokenIssuer


@dataclass(frozen=True, slots=True)
class Variant:
    """How the server behaves where deployments of the platform differ, or may differ."""

    camel_case: bool = False
    """Models are returned with camelCase keys and the derived `provider` in `provider_config`."""
    replace_models: bool = False
    """A PUT of a model clears the keys that it leaves out; otherwise they stay."""
    allow_dangling: bool = False
    """A model can be removed while a policy targets it."""


@dataclass(frozen=True, slots=True)
class Service:
    """What handlers work on.

    `quota` is the number of policies at which another one is refused (None: no limit). Other servers may write to the same
    store: what a handler decides by what is stored, it writes only over the version that it read.
    """

    policies: Store
    keeper: TokenIssuer
    quota: int | None = None
    variant: Variant = Variant()

    @property
    def models(self) -> ModelTable:
        """The stored virtual models."""
        return ModelTable(self.policies.database, "model")

    def documents(self, kind: str) -> DocumentTable:
        """The stored documents of another kind."""
        return DocumentTable(self.policies.database, kind)


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One request: the variables of its path, its query (every value of every key), its body, and `If-Match`."""

    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, list[str]] = field(default_factory=dict)
    body: bytes = b""
    if_match: str | None = None


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """A status, a JSON value (None with 204: no body), and headers."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


class HttpError(Exception):
    """A request that fails: the status of the response, and its `detail`, which is text, an object or a list of mistakes."""

    def __init__(self, status: int, detail: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{status}: {detail}")
        self.answer = ApiResponse(status, {"detail": detail}, headers or {})


Handler = Callable[[Service, ApiRequest], ApiResponse]


@dataclass(frozen=True, slots=True)
class Operation:
    """What one method does on one path.

    `status` and `gives` describe the response of success (`many`: a bare array of `gives`). `faults` are the other statuses
    that it may have, besides those that every operation may have. `public` operations need no token. A handler that waits for
    nothing is called `at_once`, whatever the threads for the others are doing.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    handler: Handler
    summary: str
    gives: type[BaseModel] | None = None
    status: int = 200
    many: bool = False
    takes: type[Shape] | None = None
    form: bool = False
    query: tuple[str, ...] = ()
    versioned: bool = False
    faults: tuple[int, ...] = ()
    public: bool = False
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class PathItem:
    """One path and its operations."""

    path: str
    operations: tuple[Operation, ...]

    @property
    def by_method(self) -> Mapping[str, Operation]:
        return {operation.method: operation for operation in self.operations}


def read_json(shape: type[Shape], body: bytes, *, nulls: bool = False) -> Document:
    """The document in a JSON body, without its nulls unless they count.

    Raises HttpError (422, one entry a mistake) if it has another shape.
    """
    try:
        data = from_json(body, allow_inf_nan=False)
        json.dumps(data, allow_nan=False)  # 1e999 is read as infinity, which JSON cannot express
    except ValueError as error:
        raise _invalid([{"loc": ["body"], "msg": f"not JSON: {error}", "type": "json_invalid"}]) from None
    document = _checked(shape, data)
    if not nulls:
        document = without_nulls(document)
    return document


def read_form(shape: type[Shape], body: bytes) -> Document:
    """The same for a form-encoded body. A repeated key becomes a list, which no shape accepts as text."""
    try:
        text = body.decode("ascii")
        values = parse_qs(text, keep_blank_values=True, max_num_fields=100, errors="strict")
    except ValueError:
        raise _invalid([{"loc": ["body"], "msg": "not an encoded form", "type": "form_invalid"}]) from None
    return _checked(shape, {key: found[0] if len(found) == 1 else found for key, found in values.items()})


def _checked(shape: type[Shape], data: Any) -> Document:
    try:
        shape.model_validate(data)
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_context=False, include_input=False)
        raise _invalid([{**mistake, "loc": ["body", *mistake["loc"]]} for mistake in mistakes]) from None
    document: Document = data
    return document


def _invalid(mistakes: list[dict[str, Any]]) -> HttpError:
    return HttpError(422, mistakes)


def expected_version(if_match: str | None, row: Document) -> str | None:
    """The version that a write may replace, or None for any: the meaning of If-Match (RFC 9110, 13.1.1) for a row.

    Raises Moved when the row has none of the versions named. Quotation marks may be left out; a weak tag never matches.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    tags = {tag.strip().removeprefix('"').removesuffix('"') for tag in if_match.split(",")}
    if row["etag"] not in tags:
        raise Moved(f"{row['name']} does not have the version that If-Match names")
    return str(row["etag"])


def with_etag(status: int, row: Document) -> ApiResponse:
    """A response with one row and its version."""
    return ApiResponse(status, row, {"ETag": f'"{row["etag"]}"'})


def decided(decide: Callable[[], ApiResponse]) -> ApiResponse:
    """The response of `decide`, which reads what is stored and writes over that version; again where another writer was first.

    For requests without If-Match, which are carried out whatever is stored.
    """
    while True:
        try:
            return decide()
        except Conflict:
            continue
