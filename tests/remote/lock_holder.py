"""A process that holds the apply lock of a database."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Holds the lock until its standard input ends.
HOLDER = """
import sys
from pathlib import Path
from policyctl.remote.sqlite import LockWait, apply_lock

with apply_lock(Path(sys.argv[1]), "policyctl apply", LockWait(0), print):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(database: Path, program: str = HOLDER) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the lock of a database."""
    command = [sys.executable, "-c", program, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()
