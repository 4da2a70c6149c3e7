"""Standard input, output and error as a command may use them: always there, and never what decides its exit code."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer


class _Unread(io.FileIO):
    """An output whose reader may leave before the end, as `head` does: what is not read is dropped, and the work goes on."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return super().write(data)


def open_streams() -> None:
    """Let streams that the caller closed lead nowhere; else the next file that is opened would be taken for one."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for as long as the process lasts
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show → gets \u2192, not a traceback
            stream.reconfigure(errors="backslashreplace")


def outlive_readers() -> None:
    """Let the process's output and error take what it writes also when the reader has left."""
    open_streams()
    # Not one that was opened just now, which nothing else would keep open.
    if sys.__stdout__ is not None:
        sys.stdout = _outliving(sys.__stdout__)
    if sys.__stderr__ is not None:
        sys.stderr = _outliving(sys.__stderr__)


def discard_unwritable() -> None:
    """Drop what standard output and error do not take, lest Python tries again at its end and makes an exit code of that."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _outliving(stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Unread(stream.fileno(), "wb", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        newline="\n",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
