"""The shapes of requests and responses, for checking bodies and for describing the API.

Types are checked, ranges are not, and unknown keys are kept; as far as is known, the platform does the same. An unknown
`mode` is refused, since one row with it makes every policy command of IBM's CLI fail. Null means absent everywhere.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from policyctl.policy.schema import Mode

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
