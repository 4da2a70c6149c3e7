"""Known secrets in every place that one can be: none of them is ever printed, stored, or sent to anybody else.

Every command runs with -vv, in a folder that holds all that it may write: its temporary files, caches, saved plans, audit, and
the files of a GitHub step. Where nothing depends on the process it runs in this one.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from html import escape
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.load.settings_file import AuthFile
from policyctl.remote.login import cpd
from policyctl.remote.redaction import Credentials, Redactor
from tests.conftest import Policyctl, Ran
from tests.examples import examples
from tests.remote.fake_server import Reply, Seen, Silence, StandIn, standing_in
from tests.remote.fake_tenant import Tenant
from tests.remote.http_helpers import row

# Characters that every encoding writes in its own way, around a core that all of them leave alone.
KEY = "kE&y+/ 'qu\"ote%-zqCANARYKEYqz"
FILED = "file-zqCANARYFILEqz"
PASSWORD = "pass:word@-zqCANARYPASSqz"
URL_SAFE = str.maketrans("+/", "-_")
TOKEN = "t0k3n.zqCANARYTOKENqz"
PROXY = "pr0xy%2Fzq-zqCANARYPROXYqz"
USERINFO = "zqCANARYURLqz"
CORES = ("CANARYKEY", "CANARYFILE", "CANARYPASS", "CANARYTOKEN", "CANARYPROXY", "CANARYURL")
SECRETS = (KEY, FILED, PASSWORD, TOKEN, "me:" + KEY, "me:pr0xy/zq-zqCANARYPROXYqz")
FORMS = (*CORES, *(base64.b64encode(secret.encode()).decode().rstrip("=") for secret in SECRETS))
SOURCES = ("secret.txt", "policyctl.yaml", "program.py")  # what holds secrets because a person put them there

POLICY = """\
spec_version: v1
kind: model
name: one
policy:
  strategy: {mode: single}
  targets: [{model_name: virtual-model/x/a}]
"""


class Home:
    """A project, everything that a command may write around it, and the commands."""

    def __init__(self, folder: Path, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._policyctl, self._patch = folder, policyctl, monkeypatch
        for name in ("policies", "tmp", "home", "cache"):
            (folder / name).mkdir()
        (folder / "secret.txt").write_text(FILED + "\n")
        (folder / "policies/one.yaml").write_text(POLICY)
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
            "GITHUB_OUTPUT": str(folder / "output.txt"),
            "POLICYCTL_AUDIT": str(folder / "audit.jsonl"),
            "KEY": KEY,
            "PASSWORD": PASSWORD,
            "TOKEN": TOKEN,
        }

    def configure(self, **environment: Any) -> None:
        text = json.dumps({"environments": {"prod": environment}, "scope": ["*"]})
        (self.folder / "policies/policyctl.yaml").write_text(text)

    def run(self, *args: str, **environ: str) -> Ran:
        """Run a command with -vv in this process, and look for canaries in all that it left behind."""
        with self._patch.context() as surroundings:
            surroundings.chdir(self.folder)
            for name in list(os.environ):
                surroundings.delenv(name)
            for name, value in {**self.environ, **environ}.items():
                surroundings.setenv(name, value)
            tempfile.tempdir = None  # look again
            ran = self._policyctl(*args, "-vv")
        tempfile.tempdir = None
        return self._searched(ran, args)

    def start(self, *args: str, program: tuple[str, ...] = ("-m", "policyctl")) -> Ran:
        """The same in a process of its own."""
        command = [sys.executable, *program, *args, "-vv"]
        done = subprocess.run(command, cwd=self.folder, env=self.environ, capture_output=True, text=True, check=False)
        return self._searched(Ran(done.returncode, done.stdout, done.stderr), args)

    def _searched(self, ran: Ran, args: tuple[str, ...]) -> Ran:
        assert_silent(ran.out + ran.err, args)
        for path in self.folder.rglob("*"):
            if path.is_file() and path.name not in SOURCES:
                assert_silent(path.read_bytes().decode("latin-1"), path)
        return ran


def assert_silent(text: str, where: object) -> None:
    for form in FORMS:
        assert form not in text, f"{form} in {where}: {text[max(0, text.find(form) - 100) :][:300]}"


@pytest.fixture
def home(tmp_path: Path, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch) -> Home:
    return Home(tmp_path, policyctl, monkeypatch)


AUTHS: dict[str, Callable[[str], dict[str, Any]]] = {
    "key from the environment": lambda url: {"type": "ibm_iam", "api_key": "env:KEY", "url": url},
    "key in a header too": lambda url: {"type": "mcsp_v2", "api_key": "env:KEY", "url": url},
    "key from a file": lambda url: {"type": "mcsp_v1", "api_key": "file:../secret.txt", "url": url},
    "password": lambda _: {"type": "local", "username": "me", "password": "env:PASSWORD"},
    "bearer": lambda _: {"type": "bearer", "token": "env:TOKEN"},
    "zen": lambda _: {"type": "zen_api_key", "username": "me", "api_key": "env:KEY"},
}
LOGINS = ("/identity/token", "/api/2.0/apikeys/token", "/siusermgr/api/1.0/apikeys/token", "/api/v1/auth/token")


def sent(seen: Seen) -> str:
    """The parts of a request that may be secret."""
    headers = [seen.headers.get(name, "") for name in ("authorization", "x-api-key", "proxy-authorization")]
    return " ".join([*headers, seen.body.decode(), seen.target])


# How a server repeats what it was sent; a message keeps the first 300 characters.
WAYS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "as Python writes it": lambda text: repr({"sent": text}),
    "as JSON writes it": lambda text: json.dumps({"sent": text}),
    "as HTML writes it": escape,
    "as a URL writes it": lambda text: quote(text, safe=""),
    "as a form writes it": quote_plus,
}


def echo(seen: Seen, way: str = "as it is") -> str:
    return WAYS[way](sent(seen))


def service(
    answer: Callable[[Seen], Reply | Silence], login: Callable[[Seen], Reply | Silence] | None = None
) -> Callable[[Seen], Any]:
    """A remote with a login that works, unless another one is given."""

    def handler(seen: Seen) -> Reply | Silence:
        if seen.path == "/api/v1/tenants":
            return Reply(200, [{"id": "t", "name": "wxo-dev"}])
        if seen.path in LOGINS:
            return (
                login(seen)
                if login
                else Reply(200, {"access_token": TOKEN, "token": TOKEN, "refresh_token": TOKEN, "me": TOKEN})
            )
        return answer(seen)

    return handler


@contextmanager
def two_servers(handler: Callable[[Seen], Any]) -> Iterator[tuple[StandIn, StandIn]]:
    """The remote, and another server, which must never hear of a secret."""
    with ExitStack() as stack:
        remote = stack.enter_context(standing_in(handler))
        other = stack.enter_context(standing_in(lambda _: Reply(200, [])))
        yield remote, other
        for seen in other.seen:
            assert_silent(f"{seen.target} {seen.headers} {seen.body!r}", "the request to another origin")


COMMANDS = {
    "plan": ("plan", "--out", "plan.json"),
    "plan as JSON": ("plan", "--format", "json"),
    "apply": ("apply", "--yes"),
    "pull": ("pull",),
    "list": ("policy", "list", "--format", "json"),
    "show": ("policy", "show", "--name", "one"),
    "export": ("policy", "export", "--name", "one", "--output", "one.zip"),
    "add": ("policy", "add", "--name", "two", "--strategy", "single", "--model", "virtual-model/x/b", "--yes"),
    "import": ("policy", "import", "--file", "policies/one.yaml", "--yes"),
    "remove": ("policy", "remove", "--name", "one", "--yes"),
    "effect": ("effect", "--against", "live"),
}


@pytest.mark.parametrize("auth", AUTHS)
def test_where_all_is_well_no_command_shows_or_keeps_a_secret(auth: str, home: Home) -> None:
    tenant = Tenant()
    with two_servers(service(tenant)) as (remote, _):
        home.configure(remote=remote.url, auth=AUTHS[auth](remote.url))
        whole = auth == "key from the environment"  # every command, each in a process of its own
        run = home.start if whole else home.run
        assert run("plan", "--out", "plan.json").code == 0
        assert run("apply", "plan.json", "--yes").code == 0
        assert len(tenant.rows) == 1
        for command in list(COMMANDS) if whole else ():
            ran = run(*COMMANDS[command])
            assert ran.code == 0, ran.err
        assert run("history").code == 0
    assert any(
        TOKEN in str(seen.headers) or KEY in str(seen.headers) or "ZenApiKey" in str(seen.headers) for seen in remote.seen
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_an_error_that_repeats_what_was_sent(command: str, home: Home) -> None:
    with two_servers(service(lambda seen: Reply(400, {"detail": echo(seen)}))) as (remote, _):
        home.configure(remote=remote.url, auth=AUTHS["zen" if command in ("plan", "add") else "bearer"](remote.url))
        ran = home.run(*COMMANDS[command])
        assert ran.code == 1
        assert "***" in ran.err


ECHOES: dict[str, Callable[[Seen], Reply]] = {
    "401": lambda seen: Reply(401, {"message": echo(seen, "as Python writes it")}),
    "403 as text": lambda seen: Reply(403, echo(seen, "as HTML writes it").encode(), {"Content-Type": "text/plain"}),
    "404 as HTML": lambda seen: Reply(404, f"<html>{echo(seen)}".encode(), {"Content-Type": "text/html"}),
    "409 in a list": lambda seen: Reply(409, [{"msg": echo(seen, "as a URL writes it"), "loc": ["body", echo(seen)]}]),
    "a redirect": lambda seen: Reply(302, {"detail": echo(seen)}, {"Location": f"/?{quote(echo(seen)[:500])}"}),
    "rows that hold it": lambda seen: Reply(200, [row("one", description=echo(seen))]),
    "rows that hold it in their names": lambda seen: Reply(200, [row(seen.authorization or "x")]),
    "an answer that is no list": lambda seen: Reply(200, {"detail": echo(seen)}),
}  # fmt: skip


@pytest.mark.parametrize("case", ECHOES)
def test_a_remote_that_repeats_what_was_sent(case: str, home: Home) -> None:
    with two_servers(service(ECHOES[case])) as (remote, _):
        home.configure(remote=remote.url, auth=AUTHS["zen" if case[0] == "4" else "bearer"](remote.url))
        assert home.run("plan", "--out", "plan.json").code == 1
        assert not (home.folder / "plan.json").exists()


@pytest.mark.parametrize(
    ("case", "auth"),
    [
        ("401", "key from the environment"),
        ("403 as text", "key in a header too"),
        ("a redirect", "key from a file"),
        ("an answer that is no list", "password"),
        ("409 in a list", "password"),
    ],
)
def test_a_login_that_repeats_what_was_sent(case: str, auth: str, home: Home) -> None:
    with two_servers(service(lambda _: Reply(200, []), ECHOES[case])) as (remote, _):
        home.configure(remote=remote.url, auth=AUTHS[auth](remote.url))
        assert home.run("plan").code == 1


@pytest.mark.parametrize("status", [302, 307])
@pytest.mark.parametrize("at", ["login", "remote"])
def test_a_redirect_to_another_host_is_not_followed(status: int, at: str, home: Home) -> None:
    def away(_: Seen) -> Reply:
        return Reply(status, None, {"Location": other.url + "/identity/token"})

    handler = service(Tenant(), away) if at == "login" else service(away)
    with two_servers(handler) as (remote, other):
        home.configure(remote=remote.url, auth=AUTHS["key from the environment"](remote.url))
        assert home.run("apply", "--yes").code == 1
        assert other.seen == []


def test_a_write_that_is_answered_with_what_was_sent(home: Home) -> None:
    tenant = Tenant()

    def answer(seen: Seen) -> Reply | Silence:
        return tenant(seen) if seen.method == "GET" else Reply(422, {"detail": echo(seen)})

    with two_servers(service(answer)) as (remote, _):
        home.configure(remote=remote.url, auth=AUTHS["bearer"](remote.url))
        ran = home.start("apply", "--yes")
        assert (ran.code, "***" in ran.out) == (5, True)
        assert "***" in (home.folder / "audit.jsonl").read_text()


@given(st.sampled_from([KEY, PASSWORD, TOKEN]) | st.text(st.characters(exclude_categories=["C"]), min_size=8, max_size=30))
@settings(max_examples=examples(25))
def test_a_secret_is_hidden_as_any_program_writes_it_once_or_twice(secret: str) -> None:
    scrub = Redactor()
    scrub.hide(secret)
    packed = base64.b64encode(secret.encode()).decode().rstrip("=")
    for form, first, then in product((secret, packed, packed.translate(URL_SAFE)), WAYS.values(), WAYS.values()):
        written = then(first(f"<{form}>"))
        said = scrub(written)
        assert "***" in said, written
        assert not any(core in said for core in CORES)
        assert len(said) <= len(then(first("<***>"))) + 6, written


def test_another_remote_hears_nothing(home: Home) -> None:
    with two_servers(service(Tenant())) as (remote, other):
        home.configure(remote=remote.url, auth=AUTHS["key from the environment"](remote.url))
        assert home.run("plan", "--remote", other.url).code == 0
        assert (remote.seen, len(other.seen) > 0) == ([], True)


USERINFOS: dict[str, tuple[dict[str, Any], tuple[str, ...], int]] = {
    "in --remote": ({}, ("--remote", f"https://me:{USERINFO}@example.invalid/x"), 64),
    "in the configuration": ({"remote": f"https://me:{USERINFO}@example.invalid/x"}, (), 1),
    "in a git revision": ({}, ("--remote", f"git:https://me:{USERINFO}@example.invalid/x.git"), 64),
    "in a git revision in the configuration": ({"remote": f"git:https://me:{USERINFO}@example.invalid/x.git"}, (), 1),
    "in a list": ({"remote": [f"https://me:{USERINFO}@example.invalid/x"]}, (), 1),
    "in auth.url": (
        {"remote": "https://x.invalid", "auth": {"type": "ibm_iam", "api_key": "env:KEY", "url": f"https://{USERINFO}@x.invalid"}},
        (),
        1,
    ),
    "as the secret itself": ({"remote": "https://x.invalid", "auth": {"api_key": USERINFO}}, (), 1),
    "as a list of secrets": ({"remote": "https://x.invalid", "auth": {"api_key": [USERINFO]}}, (), 1),
    "as auth": ({"remote": "https://x.invalid", "auth": USERINFO}, (), 1),
    "as an unknown key's value": ({"remote": "https://x.invalid", "auth": {"apikey": USERINFO}}, (), 1),
    "as a kind of login": ({"remote": "https://x.invalid", "auth": {"username": [USERINFO]}}, (), 1),
}  # fmt: skip


@pytest.mark.parametrize("case", USERINFOS)
def test_a_secret_that_was_written_where_none_may_be_is_refused_and_not_repeated(case: str, home: Home) -> None:
    environment, args, code = USERINFOS[case]
    home.configure(**environment)
    assert home.run("plan", *args).code == code
    assert home.run("apply", "--yes", *args).code == code
    home.configure(**environment)
    assert home.run("validate").code == (0 if args else 1)


def test_an_environment_that_is_a_url_is_not_repeated_with_its_password(home: Home) -> None:
    (home.folder / "policies/policyctl.yaml").write_text(f"environments: {{prod: 'https://me:{USERINFO}@x.invalid'}}\n")
    assert home.run("plan").code == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_repeats_its_password(scheme: str, home: Home) -> None:
    def answer(seen: Seen) -> Reply:
        said = base64.b64decode(seen.headers["proxy-authorization"].partition(" ")[2]).decode()
        return Reply(407, {"detail": f"{echo(seen)} {said} {said.partition(':')[2]}"})

    with standing_in(answer) as proxy:
        url = proxy.url.replace("http://", f"http://me:{PROXY}@")
        home.configure(remote=f"{scheme}://example.invalid/instances/x")
        ran = home.run("plan", **{f"{scheme.upper()}_PROXY": url, f"{scheme}_proxy": url})
        assert ran.code == 1
        assert scheme == "https" or proxy.seen


def test_a_proxy_that_cannot_be_used_is_not_repeated(home: Home) -> None:
    home.configure(remote="https://example.invalid/instances/x")
    for url in (f"ftp://me:{PROXY}@127.0.0.1:1", f"http://me:{PROXY}@127.0.0.1:99999", f"http://me:{PROXY}@[::1"):
        assert home.run("plan", HTTPS_PROXY=url).code == 1


def test_what_goes_to_this_machine_passes_no_proxy(home: Home) -> None:
    """A token for a service on this machine may go in the clear, but not to a proxy that is somewhere else."""
    with two_servers(service(Tenant())) as (remote, other):
        home.configure(remote=remote.url, auth=AUTHS["password"](remote.url))
        assert home.run("plan", HTTP_PROXY=other.url, http_proxy=other.url, ALL_PROXY=other.url).code == 0
        assert other.seen == []


BUG = """
import httpx
from policyctl.cli.main import main

send = httpx.HTTPTransport.handle_request

def failing(self, request):
    if AT in str(request.url):
        raise RuntimeError(f"{request.headers.raw} {request.content!r} {dict(request.headers)}")
    return send(self, request)

httpx.HTTPTransport.handle_request = failing
main()
"""


@pytest.mark.parametrize("at", ["/identity/token", "/model_policy"])
def test_a_bug_whose_words_quote_a_request(at: str, home: Home) -> None:
    with two_servers(service(Tenant())) as (remote, _):
        home.configure(remote=remote.url, auth=AUTHS["key from the environment"](remote.url))
        ran = home.start("plan", program=("-c", BUG.replace("AT", repr(at))))
        assert ran.code == 1
        assert "error: a bug in policyctl: RuntimeError: " in ran.err
        assert "Traceback" in ran.err
        assert "***" in ran.err


def test_a_password_for_a_host_that_is_called_like_the_path_goes_to_that_host() -> None:
    """The token endpoint of Software Hub is found before /orchestrate in the URL's path, not in its host."""
    auth = AuthFile.model_validate({"type": "cpd", "username": "me", "password": "env:PASSWORD"})
    credentials = Credentials(auth, Redactor(), environ={"PASSWORD": PASSWORD})
    for remote in ("https://orchestrate.example.invalid/orchestrate/ns/instances/7", "https://orchestrate.example.invalid/x"):
        assert next(cpd(credentials, remote)).url.startswith("https://orchestrate.example.invalid/")


def test_private_files_are_for_their_owner_alone_whatever_the_umask(home: Home) -> None:
    (home.folder / "plan.json").touch(0o666)
    program = ("-c", "import os; os.umask(0); from policyctl.cli.main import main; main()")
    assert home.start("plan", "--out", "plan.json", program=program).code == 0
    assert home.start("apply", "--yes", program=program).code == 0
    private = [home.folder / "plan.json", home.folder / "audit.jsonl", home.folder / ".policyctl/local.db"]
    assert [oct(path.stat().st_mode & 0o777) for path in private] == ["0o600"] * 3
