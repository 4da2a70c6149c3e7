"""The handlers of the login flows: one secret, asked for in five ways, each answered in its own words.

The requests and answers are those of IBM Cloud IAM, MCSP versions 1 and 2, Cloud Pak for Data and the Developer Edition, as
far as IBM's clients use them.
"""

from __future__ import annotations

from policyctl.server.handlers import read_form, read_json
from policyctl.server.service import ApiRequest, ApiResponse, HttpError, Service
from policyctl.server.shapes import KeyLogin, UserLogin

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


def list_tenants(service: Service, call: ApiRequest) -> ApiResponse:  # noqa: ARG001 - every handler takes the same
    return ApiResponse(200, [TENANT])


def _answer(service: Service, key: str, subject: str, secret: str) -> ApiResponse:
    if not service.keeper.knows(secret):
        raise HttpError(401, "the key or password is wrong")
    token, ends = service.keeper.issue(subject)
    body = {key: token, "token_type": "Bearer", "expires_in": service.keeper.seconds, "expiration": ends}
    return ApiResponse(200, body, _PRIVATE)
