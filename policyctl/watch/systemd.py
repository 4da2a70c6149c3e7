"""What a service of `Type=notify` reports to systemd: a datagram to the socket that it names. Elsewhere nothing is sent."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress


def notify(state: str, environ: Mapping[str, str] = os.environ) -> None:
    """Send a state such as `READY=1`, `WATCHDOG=1` or `STOPPING=1`."""
    address = environ.get("NOTIFY_SOCKET", "")
    if address.startswith(("/", "@")):
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)  # one datagram more or less does not matter, and a watch must not wait
            sender.sendto(state.encode(), f"\0{address[1:]}" if address[0] == "@" else address)
