"""Everything that the server answers: a literal list, from which come both the routes and the description."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from policyctl.server import login, models, policies
from policyctl.server.exchange import Answer, Call, Service
from policyctl.server.health import healthz
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
Handler = Callable[[Service, Call], Answer]


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
class Place:
    """One path and what can be done on it."""

    path: str
    operations: tuple[Operation, ...]

    @property
    def by_method(self) -> Mapping[str, Operation]:
        return {operation.method: operation for operation in self.operations}


RESOURCES = (
    Place(
        "/model_policy",
        (
            Operation(
                "GET",
                policies.list_policies,
                "List policies; a filter's values are alternatives, and match exactly.",
                gives=PolicyRow,
                many=True,
                query=policies.FILTERS,
            ),
            Operation(
                "POST",
                policies.add_policy,
                "Add a policy.",
                takes=NewPolicy,
                gives=PolicyRow,
                status=201,
                versioned=True,
                faults=(409, 422, 429),
            ),
        ),
    ),
    Place(
        "/model_policy/{id}",
        (
            Operation("GET", policies.get_policy, "Read one policy.", gives=PolicyRow, versioned=True, faults=(404,)),
            Operation(
                "PUT",
                policies.update_policy,
                "Write over a policy: `policy` is replaced as a whole, absent and null keys stay as they are.",
                takes=PolicyUpdate,
                gives=PolicyRow,
                versioned=True,
                faults=(404, 409, 412, 422),
            ),
            Operation("DELETE", policies.remove_policy, "Remove a policy.", status=204, versioned=True, faults=(404, 412)),
        ),
    ),
    Place(
        "/models/list",
        (
            Operation(
                "GET",
                models.list_all_models,
                "List every model; here `id` is the model's name.",
                gives=ModelEntries,
                query=("id",),
            ),
        ),
    ),
    Place(
        "/models/validate",
        (
            Operation(
                "POST",
                models.validate_model,
                "Try a model. This server calls none: it says whether it knows the name.",
                takes=ModelQuestion,
                gives=ModelReport,
                faults=(404, 422),
            ),
        ),
    ),
    Place(
        "/models",
        (
            Operation("GET", models.list_models, "List virtual models.", gives=ModelRow, many=True, query=("name",)),
            Operation(
                "POST",
                models.add_model,
                "Add a virtual model.",
                takes=NewModel,
                gives=ModelRow,
                status=201,
                faults=(409, 422),
            ),
        ),
    ),
    Place(
        "/models/{id}",
        (
            Operation("GET", models.get_model, "Read one virtual model.", gives=ModelRow, faults=(404,)),
            Operation(
                "PUT",
                models.update_model,
                "Write over a virtual model: absent and null keys stay as they are.",
                takes=ModelUpdate,
                gives=ModelRow,
                faults=(404, 409, 422),
            ),
            Operation("DELETE", models.remove_model, "Remove a virtual model.", status=204, faults=(404,)),
        ),
    ),
    Place("/knowledge-bases", (Operation("GET", models.list_nothing, "List knowledge bases: none.", gives=Shape, many=True),)),
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
    Place("/identity/token", (_login(login.iam_token, "IBM Cloud", KeyLogin, IamToken, form=True),)),
    Place("/siusermgr/api/1.0/apikeys/token", (_login(login.mcsp_token, "AWS (MCSP version 1)", KeyLogin, AccountToken),)),
    Place("/api/2.0/apikeys/token", (_login(login.mcsp_token, "AWS (MCSP version 2)", KeyLogin, AccountToken),)),
    Place("/icp4d-api/v1/authorize", (_CPD_LOGIN,)),
    Place("/v1/authorize", (_CPD_LOGIN,)),  # where IBM's CLI goes when it is told another login URL
    Place("/api/v1/auth/token", (_LOCAL_LOGIN,)),
    Place("/api/v1/tenants", (Operation("GET", login.list_tenants, "List tenants: one.", gives=Tenant, many=True),)),
)
HEALTH = Place("/healthz", (Operation("GET", healthz, "Whether the server can read its store.", gives=Health, public=True),))
