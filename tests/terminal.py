"""A program on a real pseudo-terminal: keys for it, and what its screen shows."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# Makes the terminal its own, so that ^C there is a signal for it (also where who runs the tests ignores that), and becomes
# the program.
_TAKE = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
_TOKEN = re.compile(r"\x1b\[[\d;]*[A-Za-z]|.", re.DOTALL)
CTRL_C = "\x03"


class Terminal:
    """What was shown so far, and the running program."""

    def __init__(self, terminal: int, process: subprocess.Popen[bytes]) -> None:
        self._terminal = terminal
        self._process = process
        self._bytes = b""

    @property
    def shown(self) -> str:
        """Everything that was written to the terminal."""
        return self._bytes.decode(errors="replace")

    def until(self, text: str) -> None:
        """Read on until a text was shown."""
        while text not in self.shown:
            assert self._read(), f"{text!r} was never shown, only {self.shown!r}"

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def end(self) -> int:
        """Read on until the program is done; its exit code."""
        while self._read():
            pass
        return self._process.wait()

    def screen(self) -> list[str]:
        """The lines as they are now: what was written over or erased is gone."""
        lines, column = [""], 0
        for token in _TOKEN.findall(self.shown):
            if token == "\r":
                column = 0
            elif token == "\n":
                lines.append("")
            elif token == "\x1b[K":
                lines[-1] = lines[-1][:column]
            elif token[0] != "\x1b":
                lines[-1] = lines[-1][:column].ljust(column) + token + lines[-1][column + 1 :]
                column += 1
        return lines

    def _read(self) -> bool:
        try:
            piece = os.read(self._terminal, 65_536)
        except OSError:  # Linux: the other end is closed
            return False
        self._bytes += piece
        return bool(piece)


@contextmanager
def on_terminal(
    *args: str | Path, width: int = 80, stdout: int | None = None, environ: Mapping[str, str] | None = None
) -> Iterator[Terminal]:
    """Run a Python program on a terminal of its own; `stdout` may go elsewhere."""
    terminal, inner = os.openpty()
    own = {name: value for name, value in os.environ.items() if name != "COLUMNS"}  # that of the terminal that runs the tests
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-c", _TAKE, sys.executable, *args],
        stdin=inner,
        stdout=inner if stdout is None else stdout,
        stderr=inner,
        start_new_session=True,
        env={**own, "TERM": "xterm", **(environ or {})},
    ) as process:
        os.close(inner)
        try:
            yield Terminal(terminal, process)
        finally:
            process.kill()
            os.close(terminal)


def answer_on_terminal(answer: str, *args: str) -> tuple[int, str]:
    """Run policyctl on a terminal, answer its question, and give its exit code and everything it showed."""
    with on_terminal("-m", "policyctl", *args) as terminal:
        terminal.until("[y/N]: ")
        terminal.type(f"{answer}\n")
        return terminal.end(), terminal.shown
