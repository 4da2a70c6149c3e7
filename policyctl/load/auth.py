"""The `auth` of an environment: how to log in to its remote, and what each way needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from policyctl.load.urls import http_url_error, is_http, is_local, is_safe_for_secrets
from policyctl.policy.findings import Finding
from policyctl.policy.schema import FileModel

LoginType = Literal["ibm_iam", "mcsp", "mcsp_v1", "mcsp_v2", "cpd", "zen_api_key", "bearer", "local"]
FIELDS = ("url", "username", "api_key", "password", "token")


def _check_secret(text: str) -> str:
    if not text.startswith(("env:", "file:")) or not text.partition(":")[2]:
        # The text is not shown: it may be the secret itself.
        raise PydanticCustomError("secret", "must be a reference, env:NAME or file:PATH; the secret itself never stands here")
    return text


Secret = Annotated[str, AfterValidator(_check_secret)]


class AuthFile(FileModel):
    """How to log in to a remote. Secrets are references: `env:NAME` or `file:PATH`."""

    type: Annotated[
        LoginType | None, Field(description="The way to log in. Default: it follows from the remote's URL; with token, bearer.")
    ] = None
    url: Annotated[
        str | None,
        Field(description="Another token endpoint than the usual one: its whole URL, or only the part before the usual path."),
    ] = None
    username: Annotated[str | None, Field(description="The user, for cpd, zen_api_key and local.")] = None
    api_key: Annotated[Secret | None, Field(description="A reference to the API key, such as env:WXO_API_KEY.")] = None
    password: Annotated[Secret | None, Field(description="A reference to the password, for cpd and local.")] = None
    token: Annotated[Secret | None, Field(description="A reference to a bearer token, which is sent as it is.")] = None


# What each way needs, and what else it may have.
_NEEDS: dict[LoginType, tuple[str, ...]] = {
    "ibm_iam": ("api_key",),
    "mcsp": ("api_key",),
    "mcsp_v1": ("api_key",),
    "mcsp_v2": ("api_key",),
    "cpd": ("username",),
    "zen_api_key": ("username", "api_key"),
    "bearer": ("token",),
    "local": ("username", "password"),
}
_MAY: dict[LoginType, tuple[str, ...]] = {"cpd": ("url", "api_key", "password"), "zen_api_key": (), "bearer": ()}


def login_type(auth: AuthFile, remote: str) -> LoginType:
    """The way to log in: the one written, else by the remote's URL, in the order of IBM's CLI; a lone token is a bearer's."""
    if auth.type is not None:
        return auth.type
    if auth.token is not None:
        return "bearer"
    if is_local(remote):
        return "local"
    if ".cloud.ibm.com" in remote:
        return "ibm_iam"
    return "cpd" if remote.lower().startswith("https://cpd") else "mcsp"


def auth_findings(auth: AuthFile, remote: str) -> Iterator[Finding]:
    """What is wrong with an environment's `auth`, with paths into the environment; never a value: it may be a secret."""
    if not is_http(remote):
        return
    if not is_safe_for_secrets(remote):
        message = "remote must be an https:// URL, because auth would be sent in the clear (http:// only to this machine)"
        yield Finding(("remote",), "P308", message)
    if auth.url is not None and (complaint := http_url_error(auth.url)):
        yield Finding(("auth", "url"), "P308", f"url {complaint}")
    elif auth.url is not None and not is_safe_for_secrets(auth.url):
        yield Finding(("auth", "url"), "P308", "url must be an https:// URL (http:// only to this machine)")
    yield from _field_findings(auth, login_type(auth, remote))


def _field_findings(auth: AuthFile, kind: LoginType) -> Iterator[Finding]:
    said = f"auth of type {kind}" if auth.type else f"auth for this remote (type {kind})"
    given = [name for name in FIELDS if getattr(auth, name) is not None]
    for name in _NEEDS[kind]:
        if name not in given:
            yield Finding(("auth",), "P308", f"{said} needs {name}", "key")
    for name in given:
        if name not in (*_NEEDS[kind], *_MAY.get(kind, ("url",))):
            yield Finding(("auth", name), "P308", f"{said} takes no {name}", "key")
    if kind == "cpd" and (auth.password is None) == (auth.api_key is None):
        yield Finding(("auth",), "P308", f"{said} needs exactly one of password and api_key", "key")
