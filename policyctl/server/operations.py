"""Everything that the server answers: a literal list, from which come both the routes and the description."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from policyctl.server import handlers, login
from policyctl.server.handlers import healthz
from policyctl.server.service import ApiRequest, ApiResponse, Service
from policyctl.server.shapes import (
    AccountToken,
    Health,
    IamToken,
    KeyLogin,
    ModelEntries,
    ModelQuestion,
    ModelReport,
    ModelRow,
    ModelUpdate,
    NewModel,
    NewPolicy,
    PolicyRow,
    PolicyUpdate,
    Shape,
    Tenant,
    UserLogin,
)

# Where resources are: the Developer Edition's layout, IBM's API reference's, and that of an instance elsewhere.
PREFIXES = ("/v1/orchestrate", "/{instance:path}/v1/orchestrate", "/api/v1", "/v1")
Handler = Callable[[Service, ApiRequest], ApiResponse]


@dataclass(frozen=True, slots=True)
class Operation:
    """What one method does on one path.

    `status` and `gives` are the answer when all is well (`many`: a bare array of it); `faults` are the other statuses it may
    have besides those that every operation may have. `public` operations need no token.
    """

    method: Literal["GET", "POST", "PUT", "DELETE"]
    handler: Handler
    summary: str
    gives: type[Shape] | None = None
    status: int = 200
    many: bool = False
    takes: type[Shape] | None = None
    form: bool = False
    query: tuple[str, ...] = ()
    versioned: bool = False
    faults: tuple[int, ...] = ()
    public: bool = False


@dataclass(frozen=True, slots=True)
class PathItem:
    """One path and what can be done on it."""

    path: str
    operations: tuple[Operation, ...]

    @property
    def by_method(self) -> Mapping[str, Operation]:
        return {operation.method: operation for operation in self.operations}


RESOURCES = (
    PathItem(
        "/model_policy",
        (
            Operation(
                "GET",
                handlers.list_policies,
                "List policies; a filter's values are alternatives, and match exactly.",
                gives=PolicyRow,
                many=True,
                query=handlers.FILTERS,
            ),
            Operation(
                "POST",
                handlers.add_policy,
                "Add a policy.",
                takes=NewPolicy,
                gives=PolicyRow,
                status=201,
                versioned=True,
                faults=(409, 422, 429),
            ),
        ),
    ),
    PathItem(
        "/model_policy/{id}",
        (
            Operation("GET", handlers.get_policy, "Read one policy.", gives=PolicyRow, versioned=True, faults=(404,)),
            Operation(
                "PUT",
                handlers.update_policy,
                "Write over a policy: `policy` is replaced as a whole, absent and null keys stay as they are.",
                takes=PolicyUpdate,
                gives=PolicyRow,
                versioned=True,
                faults=(404, 409, 412, 422),
            ),
            Operation("DELETE", handlers.remove_policy, "Remove a policy.", status=204, versioned=True, faults=(404, 412)),
        ),
    ),
    PathItem(
        "/models/list",
        (
            Operation(
                "GET",
                handlers.list_all_models,
                "List every model; here `id` is the model's name.",
                gives=ModelEntries,
                query=("id",),
            ),
        ),
    ),
    PathItem(
        "/models/validate",
        (
            Operation(
                "POST",
                handlers.validate_model,
                "Try a model. This server calls none: it says whether it knows the name.",
                takes=ModelQuestion,
                gives=ModelReport,
                faults=(404, 422),
            ),
        ),
    ),
    PathItem(
        "/models",
        (
            Operation("GET", handlers.list_models, "List virtual models.", gives=ModelRow, many=True, query=("name",)),
            Operation(
                "POST",
                handlers.add_model,
                "Add a virtual model.",
                takes=NewModel,
                gives=ModelRow,
                status=201,
                faults=(409, 422),
            ),
        ),
    ),
    PathItem(
        "/models/{id}",
        (
            Operation("GET", handlers.get_model, "Read one virtual model.", gives=ModelRow, faults=(404,)),
            Operation(
                "PUT",
                handlers.update_model,
                "Write over a virtual model: absent and null keys stay as they are.",
                takes=ModelUpdate,
                gives=ModelRow,
                faults=(404, 409, 422),
            ),
            Operation("DELETE", handlers.remove_model, "Remove a virtual model.", status=204, faults=(404,)),
        ),
    ),
    PathItem(
        "/knowledge-bases", (Operation("GET", handlers.list_nothing, "List knowledge bases: none.", gives=Shape, many=True),)
    ),
)


def _login(
    handler: Handler, where: str, takes: type[Shape], gives: type[Shape], *, form: bool = False, query: tuple[str, ...] = ()
) -> Operation:
    return Operation(
        "POST",
        handler,
        f"Log in as on {where}.",
        takes=takes,
        gives=gives,
        form=form,
        query=query,
        public=True,
        faults=(401, 422),
    )


_CPD_LOGIN = _login(login.cpd_token, "premises (Cloud Pak for Data)", UserLogin, AccountToken)
_LOCAL_LOGIN = _login(login.local_token, "the Developer Edition", UserLogin, IamToken, form=True, query=("tenant_id",))

# At the root, wherever the client was told to log in.
LOGINS = (
    PathItem("/identity/token", (_login(login.iam_token, "IBM Cloud", KeyLogin, IamToken, form=True),)),
    PathItem("/siusermgr/api/1.0/apikeys/token", (_login(login.mcsp_token, "AWS (MCSP version 1)", KeyLogin, AccountToken),)),
    PathItem("/api/2.0/apikeys/token", (_login(login.mcsp_token, "AWS (MCSP version 2)", KeyLogin, AccountToken),)),
    PathItem("/icp4d-api/v1/authorize", (_CPD_LOGIN,)),
    PathItem("/v1/authorize", (_CPD_LOGIN,)),  # where IBM's CLI goes when it is told another login URL
    PathItem("/api/v1/auth/token", (_LOCAL_LOGIN,)),
    PathItem("/api/v1/tenants", (Operation("GET", login.list_tenants, "List tenants: one.", gives=Tenant, many=True),)),
)
HEALTH = PathItem("/healthz", (Operation("GET", healthz, "Whether the server can read its store.", gives=Health, public=True),))
