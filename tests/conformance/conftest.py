"""IBM's own CLI in a virtual environment of its own, made when it is missing and kept between runs."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conformance.orchestrate import LogIn, logged_in

LOCK = Path(__file__).parent / "requirements.txt"  # .ci/lock makes it
MAKING = 900  # seconds at most, on a machine that has much else to do
CACHE = "POLICYCTL_TEST_CACHE"  # the directory to keep it in; by default .policyctl-cache in the repository


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Allow the test that comes first to wait for the environment too: the time of a test includes its fixtures."""
    for item in items:
        if "orchestrate_python" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(MAKING + 300))


@pytest.fixture(scope="session")
def orchestrate_python() -> Path:
    """Python with the package ibm-watsonx-orchestrate."""
    default = Path(__file__).parents[2] / ".policyctl-cache"
    cache = Path(os.environ.get(CACHE, default)).absolute()
    lock = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    home = cache / f"orchestrate-{lock}-py{sys.version_info.major}.{sys.version_info.minor}"
    cache.mkdir(parents=True, exist_ok=True)
    with home.with_suffix(".lock").open("w") as turn:  # one test process makes it, the others wait
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            _make(home)
    return home / "bin" / "python"


@pytest.fixture
def log_in(orchestrate_python: Path) -> Iterator[LogIn]:
    """Makes a user of IBM's CLI in a directory, for a server in a layout."""
    with ExitStack() as stack:
        yield lambda home, served, layout: stack.enter_context(logged_in(orchestrate_python, home, served, layout))


def _make(home: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
    install = [str(home / "bin" / "pip"), "install", "--quiet", "--require-hashes", "--requirement", str(LOCK)]
    subprocess.run(install, check=True, capture_output=True, timeout=MAKING)
    (home / "complete").touch()
