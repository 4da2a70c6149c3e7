"""The API of the server: the shapes of requests and responses, what an operation is, and what handlers work with.

Handlers take and return plain values, so that they need no web framework. Of what is sent types are checked, ranges are not,
and unknown keys are kept; as far as is known, the platform does the same. An unknown `mode` is refused, since one row with it
makes every policy command of IBM's CLI fail. Null means absent everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import parse_qs

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError
from pydantic_core import from_json

from policyctl.errors import Conflict, Moved
from policyctl.policy.document import Document, without_nulls
from policyctl.policy.schema import Mode
from policyctl.remote.store import DocumentTable, ModelTable, Store

if TYPE_CHECKING:
    from policyctl.server.login import TokenIssuer

Filled = Annotated[str, Field(min_length=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Shape(BaseModel):
    """The base of all shapes: strict about types, open to unknown keys."""

    model_config = ConfigDict(extra="allow", strict=True)


class Strategy(Shape):
    mode: Mode | None = None
    on_status_codes: list[int] | None = None


class Retry(Shape):
    attempts: int | None = None
    on_status_codes: list[int] | None = None
    use_retry_after_header: bool | None = None


class Cache(Shape):
    mode: str | None = None


class Target(Shape):
    """A model, or a group of targets."""

    model_name: str | None = None
    weight: Number | None = None
    strategy: Strategy | None = None
    retry: Retry | None = None
    targets: list[Target] | None = None


class Body(Shape):
    strategy: Strategy | None = None
    retry: Retry | None = None
    cache: Cache | None = None
    targets: list[Target] | None = None


class NewPolicy(Shape):
    """A policy to add. A null description is stored as an empty one."""

    name: Filled
    display_name: str
    description: str | None
    policy: Body


class PolicyUpdate(Shape):
    """What to write to a policy. Keys that are absent or null stay as they are; `policy` is replaced as a whole."""

    name: Filled | None = None
    display_name: str | None = None
    description: str | None = None
    policy: Body | None = None


class PolicyRow(Shape):
    """A policy as the server returns it; `etag` changes with every write."""

    id: str
    name: str
    display_name: str = ""
    description: str = ""
    policy: Body
    created_on: str
    updated_at: str
    etag: str


class ModelUpdate(Shape):
    """What to write to a virtual model. A secret that is `***`, as it is returned, stays as it is."""

    name: Filled | None = None
    display_name: str | None = None
    description: str | None = None
    config: dict[str, Any] | None = None
    provider_config: dict[str, Any] | None = None
    tags: list[str] | None = None
    model_type: str | None = None
    connection_id: str | None = None


class NewModel(ModelUpdate):
    """A virtual model to add."""

    name: Filled


class ModelRow(Shape):
    """A virtual model as the server returns it, its secrets as `***`; `etag` changes with every write."""

    id: str
    name: str
    created_on: str
    updated_at: str
    etag: str


class ModelEntry(Shape):
    """A model in a list of models, where `id` is its name."""

    id: str
    label: str
    type: str
    description: str
    tags: list[str]


class ModelEntries(Shape):
    resources: list[ModelEntry]


class ModelQuestion(Shape):
    """Which model to try."""

    model: Filled


class ModelReport(Shape):
    """The result of trying a model. This server calls no model, so it never runs a test."""

    overall_status: str
    summary: dict[str, int]
    tests: list[dict[str, Any]]


class SelectionSettings(Shape):
    """The tenant's default model, and the models that new agents may not use."""

    default_llm: str | None = None
    llm_denylist: list[str] | None = None
    premier_models_enabled: bool | None = None


class SelectionPatch(Shape):
    """A change of these settings: at least one key. No model may be added to the denylist and removed from it."""

    default_llm: Annotated[str, Field(pattern=r"\S")] | None = None
    add_to_llm_denylist: list[str] | None = None
    remove_from_llm_denylist: list[str] | None = None
    premier_models_enabled: bool | None = None


class ModelSelection(Shape):
    model_selection_settings: SelectionSettings
    warnings: list[str]


class WarningText(RootModel[str]):
    """A warning about settings that were stored nevertheless."""


class NewConnection(Shape):
    """A connection to add. Without `connection_id` it gets one."""

    app_id: Filled
    connection_id: Filled | None = None
    resource: dict[str, Any] | None = None


class ConnectionRow(Shape):
    connection_id: str
    app_id: str
    tenant_id: str
    resource: dict[str, Any]


class ConnectionDetails(Shape):
    """One environment of a connection; null for a connection that has none."""

    connection_id: str
    app_id: str
    environment: str | None
    security_scheme: str | None
    credentials_entered: bool


class ConnectionsReply(Shape):
    """One connection, or a page of rows."""

    applications: list[ConnectionDetails] | None = None
    page: int | None = None
    limit: int | None = None
    total: int | None = None
    connection_id: str | None = None
    app_id: str | None = None


class Configuration(Shape):
    """How one environment of a connection is reached."""

    preference: Literal["team", "member"] | None = None
    security_scheme: str | None = None
    auth_type: str | None = None
    sso: bool | None = None
    server_url: str | None = None


class NewConfiguration(Configuration):
    environment: Literal["draft", "live"]


class ConfigurationRow(Configuration):
    config_id: str
    tenant_id: str
    app_id: str
    environment: str


class EnteredCredentials(Shape):
    """Credentials. None of them is stored."""


class CredentialsState(Shape):
    app_id: str
    environment: str
    credentials_entered: bool


class DocumentUpdate(Shape):
    """What to write to a stored document."""

    name: Filled | None = None


class NewDocument(Shape):
    """A document to store. Without `id` it gets one."""

    name: Filled
    id: Filled | None = None


class NewWorkspace(NewDocument):
    workspace_id: Filled | None = None


class DocumentRow(Shape):
    """A stored document."""

    id: str
    name: str


class WorkspaceRow(Shape):
    workspace_id: str
    name: str


class AgentEnvironment(Shape):
    """A version of an agent: its draft, or what is live."""

    id: str
    name: str


class Bindings(Shape):
    """Controls."""

    bindings: list[DocumentRow]
    total: int


class KeyLogin(Shape):
    """Logging in with an API key."""

    apikey: Filled


class UserLogin(Shape):
    """Logging in with a user name and a password or an API key."""

    username: Filled
    password: str | None = None
    api_key: str | None = None


class IamToken(Shape):
    access_token: str
    token_type: str
    expires_in: int
    expiration: int


class AccountToken(Shape):
    token: str
    token_type: str
    expires_in: int
    expiration: int


class Tenant(Shape):
    id: str
    name: str
    title: str


class Health(Shape):
    status: str


class FieldError(Shape):
    loc: list[str | int]
    msg: str
    type: str


class Invalid(Shape):
    """What is wrong with a body: one entry for each mistake."""

    detail: list[FieldError]


class Fault(Shape):
    """Why a request failed."""

    detail: str


class Quota(Shape):
    code: str
    message: str
    resource: str
    current: int
    requested: int
    limit: int


class QuotaFault(Shape):
    """The tenant's limit is reached; trying again does not help."""

    detail: Quota


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
