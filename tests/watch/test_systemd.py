"""What is reported to systemd, through its socket."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from policyctl.cli.watch import report_to_systemd


@pytest.mark.parametrize("abstract", [False, True])
def test_a_state_is_a_datagram_and_a_full_socket_is_not_waited_for(tmp_path: Path, abstract: bool) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        name = f"policyctl-test-{tmp_path}" if abstract else str(tmp_path / "notify")
        systemd.bind(f"\0{name}" if abstract else name)
        environ = {"NOTIFY_SOCKET": f"@{name}" if abstract else name}
        for _ in range(10_000):
            report_to_systemd("WATCHDOG=1", environ)
        assert systemd.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "relative"])
def test_without_systemd_nothing_is_sent(address: str) -> None:
    report_to_systemd("READY=1", {"NOTIFY_SOCKET": address} if address else {})
