"""policyctl serve."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from policyctl.cli.console import Console
from policyctl.cli.options import Options, with_options
from policyctl.cli.session import open_session
from policyctl.errors import PolicyctlError, Refused, RemoteError, UsageError
from policyctl.load.urls import is_loopback_host
from policyctl.report.format import escape

if TYPE_CHECKING:
    from policyctl.remote.store import Store

EPILOG = """\b
Example:
  policyctl serve
  policyctl plan --remote http://127.0.0.1:4321
  WXO_TOKEN=… policyctl serve --host 0.0.0.0 --token-from env:WXO_TOKEN
  policyctl serve --remote postgresql://db.example.com/policies"""

_NEEDS = ("starlette", "uvicorn")


class ServeOptions(NamedTuple):
    """The options of the command itself."""

    host: str
    port: int
    token_from: str | None
    token_seconds: int
    allow_duplicate_names: bool
    allow_dangling: bool
    camel_case: bool
    replace_models: bool
    max_policies: int | None
    max_connections: int


@click.command("serve", epilog=EPILOG)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=4321, show_default=True, help="The port; 0 takes a free one.")
@click.option("--token-from", metavar="REF", help="Where the secret for callers is: env:NAME or file:PATH.")
@click.option(
    "--token-seconds", type=click.IntRange(1), default=3600, show_default=True, help="How long a login's token lasts."
)
@click.option(
    "--allow-duplicate-names",
    is_flag=True,
    help="Accept a second policy or model of one name (decided when the store is made).",
)
@click.option("--allow-dangling", is_flag=True, help="Remove a model even if a policy targets it.")
@click.option("--camel-case", is_flag=True, help="Return models as a live tenant does: camelCase keys, derived provider.")
@click.option("--replace-models", is_flag=True, help="Clear what a PUT of a model leaves out, instead of keeping it.")
@click.option("--max-policies", type=click.IntRange(0), help="Refuse more policies than that, like a quota.")
@click.option("--max-connections", type=click.IntRange(1), default=512, show_default=True, help="More clients get a 503.")
@with_options("dir", "env", "remote", "verbose")
def serve(options: Options, **given: Any) -> int:
    """Serve the embedded remote, or a store in PostgreSQL, over HTTP as the platform's control plane: its policies, models,
    connections, agents and other documents, below /v1, /api/v1 and …/v1/orchestrate, and its logins.

    To serve other machines a secret is needed: it is the bearer token, and the API key or password of the logins. Put a proxy
    in front of a server that others reach, for TLS and to end slow connections. Logs are JSON on standard error;
    /openapi.json describes the interface. SIGTERM and SIGINT end it once open requests are answered.
    """
    settings = ServeOptions(**given)
    if missing := [name for name in _NEEDS if find_spec(name) is None]:
        raise PolicyctlError(f"serve needs {' and '.join(missing)}; install it with: pip install 'policyctl[server]'")
    from policyctl.server.app import JsonLog, listen, make_app, run, url_of
    from policyctl.server.login import TokenIssuer
    from policyctl.server.service import Service, Variant

    secret = None if settings.token_from is None else _secret(settings.token_from)
    if secret is None and not is_loopback_host(settings.host):
        raise Refused(
            f"{settings.host} is reachable from other machines, so a secret is needed; add --token-from env:NAME or file:PATH"
        )
    with (
        _store(options, unique_names=not settings.allow_duplicate_names) as policies,
        listen(settings.host, settings.port) as listener,
    ):
        Console(options).result(f"Serving {escape(policies.identity)} at {url_of(listener)}\n")
        sys.stdout.flush()
        keeper = TokenIssuer(secret, settings.token_seconds)
        variant = Variant(settings.camel_case, settings.replace_models, settings.allow_dangling)
        service = Service(policies, keeper, settings.max_policies, variant)
        log = JsonLog(sys.stderr)
        run(make_app(service, log), listener, log, settings.max_connections)
    return 0


@contextmanager
def _store(options: Options, *, unique_names: bool) -> Iterator[Store]:
    """The store to serve. Raises UsageError for another kind of remote, or one made with the other naming rule."""
    from policyctl.remote.open import open_store

    session = open_session(options)
    with open_store(session.url, unique_names=unique_names) as store:
        if store.database.names_are_unique() is not unique_names:
            does, flag = ("refuses", "without") if not unique_names else ("accepts", "with")
            raise UsageError(
                f"{store.identity} {does} a second policy of one name, which was decided when it was made; "
                f"run {flag} --allow-duplicate-names, or choose another store"
            )
        store.database.prepare()
        yield store


def _secret(reference: str) -> str:
    """The secret that a reference points at. Raises UsageError when it is not a reference, or has no usable secret."""
    from policyctl.remote.redaction import resolve_secret

    kind, _, where = reference.partition(":")
    if kind not in ("env", "file") or not where:
        raise UsageError("--token-from must be a reference, env:NAME or file:PATH; never the secret itself")
    try:
        secret = resolve_secret("--token-from", reference)
    except RemoteError as error:
        raise UsageError(str(error)) from None
    if not secret.isascii():
        raise UsageError(f"--token-from refers to {reference}, which is not ASCII, so it cannot be sent in a header")
    return secret
