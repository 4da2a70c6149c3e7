"""policyctl serve and gateway: the commands that answer over HTTP, as the platform's control plane and as its models."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from policyctl.cli.console import Console
from policyctl.cli.options import NumberRange, Options, with_options
from policyctl.cli.session import Session, open_session
from policyctl.errors import InvalidInput, PolicyctlError, Refused, RemoteError, UsageError, errors_in
from policyctl.load.directory import Files
from policyctl.load.discovery import find_files, stamp, stamps
from policyctl.load.urls import SQLITE, is_loopback_host
from policyctl.policy.document import Document, called_by
from policyctl.policy.virtual_model import VirtualModel
from policyctl.reconcile.observe import observe
from policyctl.remote.open import change_signature, sqlite_path
from policyctl.report.format import count, escape

if TYPE_CHECKING:
    from policyctl.gateway.app import CallerKeys, GatewayApp
    from policyctl.gateway.relay import Pretence, Upstreams
    from policyctl.gateway.table import RouteTable, Upstream
    from policyctl.remote.store import Store

SERVE_EPILOG = """\b
Example:
  policyctl serve
  policyctl plan --remote http://127.0.0.1:4321
  WXO_TOKEN=… policyctl serve --host 0.0.0.0 --token-from env:WXO_TOKEN
  policyctl serve --remote postgresql://db.example.com/policies"""

_SERVE_NEEDS = ("starlette", "uvicorn")


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


@click.command("serve", epilog=SERVE_EPILOG)
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
    if missing := [name for name in _SERVE_NEEDS if find_spec(name) is None]:
        raise PolicyctlError(f"serve needs {' and '.join(missing)}; install it with: pip install 'policyctl[server]'")
    from policyctl.server.api import Service, Variant
    from policyctl.server.app import JsonLog, listen, make_app, run, url_of
    from policyctl.server.login import TokenIssuer

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


GATEWAY_EPILOG = """\b
Example:
  policyctl gateway --pretend openai=503:0.1,anthropic=hang
  curl http://127.0.0.1:4400/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"model": "virtual-policy/anygem", "messages": [{"role": "user", "content": "Hello"}]}'
  policyctl gateway --host 0.0.0.0 --keys-from file:keys.txt --workers 2 --records records.jsonl
  policyctl effect --records records.jsonl

\b
MODEL is a model (with or without virtual-model/ and the provider), a provider, or a glob over these; ANSWER as for
effect --down, RATE the share of calls that get it. Models without one answer 200."""

_GATEWAY_NEEDS = ("uvicorn", "httptools", "aiohappyeyeballs", "msgspec")


class GatewayOptions(NamedTuple):
    """The options of the command itself."""

    host: str
    port: int
    keys_from: str | None
    pretend: str | None
    records: Path | None
    workers: int
    poll: float | None
    max_body: int
    max_requests: int
    drain_seconds: int
    pulled: Path | None


@click.command("gateway", epilog=GATEWAY_EPILOG)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=4400, show_default=True, help="The port; 0 takes a free one.")
@click.option("--keys-from", metavar="REF", help="Where the keys of callers are: file:PATH or env:NAME, one key a line.")
@click.option("--pretend", metavar="MODEL=ANSWER[:RATE],…", help="Answer for the providers, so that no key is needed.")
@click.option("--records", type=click.Path(path_type=Path, dir_okay=False), help="Add a line for each request to this file.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that share the port.")
@click.option(
    "--poll",
    type=NumberRange(0.05),
    metavar="SECONDS",
    help="How often to look for changes.  [default: 0.5, in PostgreSQL 1, of a service 10]",
)
@click.option("--max-body", type=click.IntRange(1), default=32 << 20, show_default=True, help="Bytes of a request's body.")
@click.option("--max-requests", type=click.IntRange(1), default=2000, show_default=True, help="More at once get a 503.")
@click.option(
    "--drain-seconds", type=click.IntRange(0), default=30, show_default=True, help="How long requests may go on after SIGTERM."
)
@click.option(
    "--pulled",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A file that is touched when the directory is brought up to date; a metric has its time.",
)
@with_options("dir", "env", "remote", "verbose")
def gateway(options: Options, **given: Any) -> int:
    """Run the policies on live traffic: an OpenAI-compatible API whose model is virtual-policy/NAME.

    The policies are those of the directory, or with --remote what is live there. A change takes effect without a restart; if
    it is invalid, the policies before it stay in use. See policyctl help gateway for upstreams, headers and metrics.
    """
    own = GatewayOptions(**given)
    if missing := [name for name in _GATEWAY_NEEDS if find_spec(name) is None]:
        raise PolicyctlError(f"gateway needs {' and '.join(missing)}; install it with: pip install 'policyctl[gateway]'")
    if own.keys_from is None and not is_loopback_host(own.host):
        raise Refused(f"{own.host} is reachable from other machines, so keys are needed; add --keys-from file:PATH or env:NAME")
    from policyctl.gateway.relay import read_pretences
    from policyctl.gateway.run import begin, listen, run, url_of

    pretences = None if own.pretend is None else read_pretences(own.pretend)
    source = PolicySource(options, own, pretend=pretences is not None)
    table, signature = begin(source)
    _raise_if_idle(pretences, table)
    with (
        listen(own.host, own.port, shared=own.workers > 1) as bound,
        tempfile.TemporaryDirectory(prefix="policyctl-gateway-") as folder,
    ):
        app = _make_app(source, own, pretences, table, signature, Path(folder) if own.workers > 1 else None)
        where = f"{count(len(table.policies), 'policy')} of {escape(source.identity)}"
        Console(options).result(f"Serving {where} at {url_of(bound)}/v1\n")
        sys.stdout.flush()
        run(app, bound, workers=own.workers, drain_seconds=own.drain_seconds)
    return 0


def _make_app(
    source: PolicySource,
    own: GatewayOptions,
    pretences: tuple[Pretence, ...] | None,
    table: RouteTable,
    signature: object,
    shared: Path | None,
) -> GatewayApp:
    from policyctl.gateway.app import GatewayApp, GatewayLimits
    from policyctl.gateway.observed import EventLog, Lines, Metrics, Observer, Records
    from policyctl.gateway.relay import HttpUpstreams, PretendedUpstreams
    from policyctl.gateway.run import following, report_unreachable

    def connect() -> Upstreams:
        return HttpUpstreams() if pretences is None else PretendedUpstreams(pretences)

    try:
        records = None if own.records is None else Records(own.records)
    except OSError as error:
        raise PolicyctlError(f"{own.records} cannot be written: {error.strerror}") from None
    app = GatewayApp(
        table,
        connect,
        Observer(Metrics(shared, own.pulled), EventLog(Lines(2)), records),
        keys=source.keys(),
        limits=GatewayLimits(body=own.max_body, requests=own.max_requests),
        follow=following(source, signature),
    )
    report_unreachable(app)
    return app


def _raise_if_idle(pretences: tuple[Pretence, ...] | None, table: RouteTable) -> None:
    """Raise UsageError for a pretence about models that no policy leads to."""
    from policyctl.policy.names import matching_models

    for one in pretences or ():
        if not matching_models(one.pattern, table.targets):
            targets = ", ".join(sorted(table.targets)[:10]) or "none"
            raise UsageError(f"--pretend {one.pattern}: no policy has a model that it matches; models: {targets}")


class PolicySource:
    """The policies of a directory, or with --remote those that are live, and the upstreams of their models."""

    def __init__(self, options: Options, own: GatewayOptions, *, pretend: bool) -> None:
        self.options = options
        self.own = own
        self.pretend = pretend
        self.is_remote = options.remote is not None
        session = self._session()
        self.identity = session.url if self.is_remote else str(options.dir)
        self.database = sqlite_path(session.url) if self.is_remote and session.url.startswith(SQLITE) else None
        self._changed = change_signature(session.url) if self.is_remote else None
        often = 0.5 if not self.is_remote or session.url.startswith(SQLITE) else 10.0 if self._changed is None else 1.0
        self.every = own.poll or often
        self.secrets: set[str] = set()  # files with keys of upstreams

    def _session(self) -> Session:
        return open_session(self.options).whole

    def signature(self) -> object:
        """The sizes and times of all files that the policies are read from, and what a store in PostgreSQL has; None for a
        service."""
        if self.is_remote and self.database is None and self._changed is None:
            return None
        files: list[object] = [*stamps(self.options.dir), *map(stamp, sorted(self.secrets))]
        if self.database is not None:
            files += [stamp(f"{self.database}{suffix}") for suffix in ("", "-wal")]
        if self._changed is not None:
            files.append(self._changed())
        return tuple(files)

    def load(self) -> RouteTable:
        """The table of the policies as they are now. Raises InvalidInput, or PolicyctlError when there are none.

        A model with a file in the directory is called as the file has it: that the key goes to another host must not be
        decided on the remote.
        """
        from policyctl.gateway.table import PolicySnapshot, RouteTable

        session = self._session()
        files = self._of_directory(session)
        policies = {policy.name: policy.document for policy in files[0]}
        own = {model.name: (model.document, model.key) for model in files[1]}
        models, live = dict(own), {name: document for name, (document, _) in own.items()}
        left_out: Mapping[str, str] = {}
        if self.is_remote:
            with session.reader() as reader:
                observed = observe(reader)
            policies = {name: live.normal for name, live in observed.policies.items()}
            live = {name: _without_key(one.normal) for name, one in observed.models.items()}
            models = {name: (document, None) for name, document in live.items()} | own
            left_out = observed.obstacles()
        if not policies:
            raise PolicyctlError(f"{self.identity} has no policy for environment {session.environment.name}")
        upstreams, without = self._upstreams(session, models)
        others = frozenset(name for name in live if called_by(live[name]) != called_by(models[name][0]))
        return RouteTable(PolicySnapshot(policies, upstreams, without, left_out, live, others), pretend=self.pretend)

    def _of_directory(self, session: Session) -> tuple[tuple[Any, ...], tuple[VirtualModel, ...]]:
        """The policies and virtual models in the files. With a remote, only the models count, and there may be no directory."""
        directory = self.options.dir
        if self.is_remote and not directory.is_dir():
            return (), ()
        found = find_files(directory, may_be_empty=self.is_remote)
        names = [file for file in found.files if not session.config.is_inventory(file)]
        loaded = Files(names, found.problems, directory, whole=True, tests=False).load(session.environment)
        if errors := errors_in(loaded.problems):
            raise InvalidInput(errors)
        return loaded.policies, loaded.virtual_models

    def _upstreams(
        self, session: Session, models: Mapping[str, tuple[Document, str | None]]
    ) -> tuple[dict[str, Upstream], dict[str, str]]:
        """The upstreams of models, and of those that have none, why."""
        from policyctl.gateway.table import NoUpstream, upstream_of
        from policyctl.remote.redaction import resolve_secret

        folder = Path() if session.config.path is None else session.config.path.parent

        def resolve(what: str, reference: str) -> str:
            if reference.startswith("file:"):
                self.secrets.add(str(folder / reference.removeprefix("file:")))
            return resolve_secret(what, reference, folder)

        found, without = {}, {}
        for name, (document, key) in models.items():
            try:
                found[name] = upstream_of(document, key, session.config.connections, resolve)
            except NoUpstream as error:
                without[name] = str(error)
        return found, without

    def keys(self) -> CallerKeys | None:
        """The keys of callers."""
        from policyctl.gateway.app import read_keys

        return None if self.own.keys_from is None else read_keys(self.own.keys_from)


def _without_key(document: Document) -> Document:
    """A live model's document without the mark that it has a key: the remote does not show it."""
    settings = {key: value for key, value in document.get("provider_config", {}).items() if key != "api_key"}
    return {**document, "provider_config": settings}
