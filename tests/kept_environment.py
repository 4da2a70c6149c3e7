"""Virtual environments of programs that policyctl is tried with and does not depend on, each made from a lock of its own.

One is made when it is missing, and kept between runs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

MAKING = 900  # seconds at most, on a machine that has much else to do
# The directory to keep them in; read now, since no variable of policyctl's reaches a test.
CACHE = Path(os.environ.get("POLICYCTL_TEST_CACHE", Path(__file__).parents[1] / ".policyctl-cache")).absolute()


def kept_environment(name: str, lock: Path) -> Path:
    """The Python of an environment with the packages of a lock, which .ci/lock makes."""
    version = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    home = CACHE / f"{name}-{version}-py{sys.version_info.major}.{sys.version_info.minor}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with home.with_suffix(".lock").open("w") as turn:  # one test process makes it, the others wait
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            _make(home, lock)
    return home / "bin" / "python"


def _make(home: Path, lock: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
    # What is imported is compiled then: most of it never is.
    install = [str(home / "bin" / "pip"), "install", "--quiet", "--no-compile", "--require-hashes", "--requirement", str(lock)]
    subprocess.run(install, check=True, capture_output=True, timeout=MAKING)
    (home / "complete").touch()
