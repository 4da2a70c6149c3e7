"""Python programs that start at once: each start is a fork of one process that has imported the program.

For what starts one again and again. A start of its own imports for a third of a second, or for more than one, what a fork
has; all else is as there: a process with its own arguments, variables, directory, streams and exit code."""

from __future__ import annotations

import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

# What is found as the program. It imports as little as it can, so that it is not what takes the time.
_PROGRAM = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    asked = json.dumps([*os.path.split(sys.argv[0])[1:], sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(asked).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(asked)
    answer = server.makefile("rb").read()  # up to the end of the process
sys.exit(int(answer or 70))
"""


@contextmanager
def forking(
    entry: str = "policyctl.cli.main:main", *, python: str = sys.executable, environ: dict[str, str] | None = None
) -> Iterator[Path]:
    """A program that calls this function, for as long as this lasts; what is read while it is imported is of `environ`."""
    with tempfile.TemporaryDirectory() as folder:  # the address of a socket must be short
        program, address = Path(folder, entry.partition(".")[0]), str(Path(folder, "socket"))
        program.write_text(_PROGRAM.format(python=sys.executable, address=address), "utf-8")
        program.chmod(0o755)
        server = [python, "-P", __file__, address, entry]
        with subprocess.Popen(server, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            try:
                yield program
            finally:
                process.terminate()


def _serve(address: str, entry: str) -> None:
    """Answer each connection from a process of its own, which returns from here; the server itself never does."""
    module, _, function = entry.partition(":")
    main = getattr(import_module(module), function)
    if module.startswith("policyctl."):  # it imports what a command needs when it is called
        for found in pkgutil.walk_packages([str(Path(__file__).parents[1] / "policyctl")], "policyctl."):
            if not found.name.endswith("__main__"):
                import_module(found.name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # clients alone wait for forks to end
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print("ready", flush=True)
        while True:
            client, _ = listening.accept()
            if os.fork() == 0:
                break
            client.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _run(client, main)


def _run(client: socket.socket, main: Callable[[], object]) -> None:
    size, streams, _, _ = socket.recv_fds(client, 4, 3)
    with client.makefile("rb") as reader:
        name, arguments, folder, environ = json.loads(reader.read(int.from_bytes(size, "big")))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # Those of the server know where they are in its files, which does not hold for these.
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", buffering=1 if os.isatty(1) else -1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = [name, *arguments]
    code: object = 1  # of what is not caught, which the interpreter prints
    try:
        sys.exit(main())  # type: ignore[arg-type]
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise
    finally:
        client.sendall(str(code).encode())


if __name__ == "__main__":
    _serve(*sys.argv[1:])
