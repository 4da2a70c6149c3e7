"""Logins: one secret, five protocols. Their handlers and operations.

The requests and responses are those of IBM Cloud IAM, MCSP versions 1 and 2, Cloud Pak for Data and the Developer Edition, as
far as IBM's clients use them.
"""

from __future__ import annotations

from policyctl.server.service import (
    ApiRequest,
    ApiResponse,
    Handler,
    HttpError,
    Operation,
    PathItem,
    Service,
    read_form,
    read_json,
)
from policyctl.server.shapes import AccountToken, IamToken, KeyLogin, Shape, Tenant, UserLogin

TENANT = {"id": "00000000-0000-4000-8000-000000000001", "name": "wxo-dev", "title": "policyctl serve"}
_PRIVATE = {"Cache-Control": "no-store"}


def iam_token(service: Service, call: ApiRequest) -> ApiResponse:
    return _answer(service, "access_token", "apikey", read_form(KeyLogin, call.body)["apikey"])


def mcsp_token(service: Service, call: ApiRequest) -> ApiResponse:
    return _answer(service, "token", "apikey", read_json(KeyLogin, call.body)["apikey"])


def cpd_token(service: Service, call: ApiRequest) -> ApiResponse:
    login = read_json(UserLogin, call.body)
    return _answer(service, "token", login["username"], login.get("password") or login.get("api_key") or "")


def local_token(service: Service, call: ApiRequest) -> ApiResponse:
    login = read_form(UserLogin, call.body)
    return _answer(service, "access_token", login["username"], login.get("password", ""))


def list_tenants(*_: object) -> ApiResponse:
    return ApiResponse(200, [TENANT])


def _answer(service: Service, key: str, subject: str, secret: str) -> ApiResponse:
    if not service.keeper.knows(secret):
        raise HttpError(401, "the key or password is wrong")
    token, ends = service.keeper.issue(subject)
    body = {key: token, "token_type": "Bearer", "expires_in": service.keeper.seconds, "expiration": ends}
    return ApiResponse(200, body, _PRIVATE)


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


_CPD_LOGIN = _login(cpd_token, "premises (Cloud Pak for Data)", UserLogin, AccountToken)
_LOCAL_LOGIN = _login(local_token, "the Developer Edition", UserLogin, IamToken, form=True, query=("tenant_id",))

PATHS = (
    PathItem("/identity/token", (_login(iam_token, "IBM Cloud", KeyLogin, IamToken, form=True),)),
    PathItem("/siusermgr/api/1.0/apikeys/token", (_login(mcsp_token, "AWS (MCSP version 1)", KeyLogin, AccountToken),)),
    PathItem("/api/2.0/apikeys/token", (_login(mcsp_token, "AWS (MCSP version 2)", KeyLogin, AccountToken),)),
    PathItem("/icp4d-api/v1/authorize", (_CPD_LOGIN,)),
    PathItem("/v1/authorize", (_CPD_LOGIN,)),  # where IBM's CLI logs in when it is given another login URL
    PathItem("/api/v1/auth/token", (_LOCAL_LOGIN,)),
    PathItem("/api/v1/tenants", (Operation("GET", list_tenants, "List tenants: one.", gives=Tenant, many=True),)),
)
