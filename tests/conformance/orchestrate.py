"""IBM's CLI, pointed at a server: its two files are written as it would write them, so that it asks nothing."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

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
        environment = {"HOME": str(self.home), "PATH": os.environ["PATH"], "COLUMNS": "200", "NO_COLOR": "1", "LANG": "C.UTF-8"}
        ended = subprocess.run(
            [self.program, *arguments], env=environment, cwd=self.home, capture_output=True, text=True, timeout=120, check=False
        )
        output = ended.stdout + ended.stderr
        assert ended.returncode == code, output
        return output


def logged_in(program: Path, home: Path, served: Served, layout: str) -> Orchestrate:
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
    return Orchestrate(program, home)


def _write(path: Path, data: object) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(json.loads(json.dumps(data))))
