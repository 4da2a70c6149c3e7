"""IBM's own CLI in a virtual environment of its own, made when it is missing and kept between runs."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

LOCK = Path(__file__).parent / "requirements.txt"  # .ci/lock makes it
MAKING = 900  # seconds at most, on a machine that has much else to do
CACHE = "POLICYCTL_TEST_CACHE"  # the directory to keep it in; by default .policyctl-cache in the repository


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Allow the test that comes first to wait for the environment too: the time of a test includes its fixtures."""
    for item in items:
        if "orchestrate_program" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(MAKING + 300))


@pytest.fixture(scope="session")
def orchestrate_program() -> Path:
    """The program `orchestrate` of the package ibm-watsonx-orchestrate."""
    default = Path(__file__).parents[2] / ".policyctl-cache"
    cache = Path(os.environ.get(CACHE, default)).absolute()
    lock = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    home = cache / f"orchestrate-{lock}-py{sys.version_info.major}.{sys.version_info.minor}"
    cache.mkdir(parents=True, exist_ok=True)
    with home.with_suffix(".lock").open("w") as turn:  # one test process makes it, the others wait
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            _make(home)
    return home / "bin" / "orchestrate"


def _make(home: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
    install = [str(home / "bin" / "pip"), "install", "--quiet", "--require-hashes", "--requirement", str(LOCK)]
    subprocess.run(install, check=True, capture_output=True, timeout=MAKING)
    (home / "complete").touch()
