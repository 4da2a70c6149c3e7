"""IBM's own CLI in a virtual environment of its own, made when it is missing and kept between runs."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

VERSION = "2.19.1"
CACHE = "POLICYCTL_TEST_CACHE"  # the directory to keep it in; by default .policyctl-cache in the repository


@pytest.fixture(scope="session")
def orchestrate_program() -> Path:
    """The program `orchestrate` of the package ibm-watsonx-orchestrate."""
    default = Path(__file__).parents[2] / ".policyctl-cache"
    cache = Path(os.environ.get(CACHE, default)).absolute()
    home = cache / f"orchestrate-{VERSION}-py{sys.version_info.major}.{sys.version_info.minor}"
    cache.mkdir(parents=True, exist_ok=True)
    with home.with_suffix(".lock").open("w") as lock:  # one test process makes it, the others wait
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            _make(home)
    return home / "bin" / "orchestrate"


def _make(home: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
    install = [str(home / "bin" / "pip"), "install", "--quiet", f"ibm-watsonx-orchestrate=={VERSION}"]
    subprocess.run(install, check=True, capture_output=True, timeout=900)
    (home / "complete").touch()
