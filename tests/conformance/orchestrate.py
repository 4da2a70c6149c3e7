"""IBM's CLI, pointed at a server: its two files are written as it would write them, so that it asks nothing."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.forks import forking
from tests.server.serving import Served, loopback

SECRET = "the-secret-of-the-conformance-server"
# What IBM's CLI calls local gets /v1; any other URL gets /v1/orchestrate. Its test for local is for the letters, not the host.
LAYOUTS = {"local": "http://127.0.0.1:{port}", "saas": "http://LOCALHOST:{port}/instances/x"}


@dataclass(frozen=True)
class Orchestrate:
    """One user of IBM's CLI, logged in to one server."""

    program: Path
    home: Path

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Run one command and return what it printed. Every command line must end with the exit code that is expected."""
        ended = subprocess.run(
            [self.program, *arguments],
            env=surroundings(self.home),
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        output = ended.stdout + ended.stderr
        assert ended.returncode == code, output
        return output


LogIn = Callable[[Path, Served, str], Orchestrate]


def surroundings(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "PATH": os.environ["PATH"], "COLUMNS": "200", "NO_COLOR": "1", "LANG": "C.UTF-8"}


@contextmanager
def logged_in(python: Path, home: Path, served: Served, layout: str) -> Iterator[Orchestrate]:
    """A user whose files say that a login gave a token of the server."""
    url = LAYOUTS[layout].format(port=served.port)
    token = loopback.post(f"{served.url}/identity/token", data={"apikey": SECRET}).json()["access_token"]
    _write(
        home / ".config/orchestrate/config.yaml",
        {
            "context": {"active_environment": "e2e", "active_workspace": None},
            "environments": {"local": {"wxo_url": "http://localhost:4321"}, "e2e": {"wxo_url": url}},
            "python_registry": {"type": "pypi", "skip_version_check": True, "test_package_version_override": None},
            "cached_user_env": {},
        },
    )
    credentials = {"auth": {"local": None, "e2e": {"wxo_mcsp_token": token}}}
    _write(home / ".cache/orchestrate/credentials.yaml", credentials)
    entry = "ibm_watsonx_orchestrate.cli.main:app"  # importing it takes more than a second, and a test starts it ten times
    with forking(entry, python=str(python), environ=surroundings(home)) as program:
        yield Orchestrate(program, home)


def _write(path: Path, data: object) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(json.loads(json.dumps(data))))
