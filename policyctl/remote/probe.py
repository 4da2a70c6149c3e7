"""The way to a service, step by step: its name, its port, its certificate. Only to find out where the way ends."""

from __future__ import annotations

import socket
import ssl
import time

from policyctl.errors import RemoteError
from policyctl.load.urls import Origin
from policyctl.remote.http import trusted
from policyctl.remote.open import Access

_SECONDS = 10.0  # of each step


def addresses(place: Origin) -> list[str]:
    """The addresses of a host's name. Raises RemoteError without any."""
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "not a name"
        raise RemoteError(f"{place.host} cannot be found: {why}; check the host of the remote, and the name server") from None
    return sorted({str(address[0]) for *_, address in found})


def connect(place: Origin) -> float:
    """The seconds that a connection takes. Raises RemoteError when the port does not accept one."""
    began = time.monotonic()
    _open(place).close()
    return time.monotonic() - began


def days_of_certificate(place: Origin, access: Access) -> float:
    """The days until the service's certificate ends. Raises RemoteError for one that is not trusted."""
    context = trusted(access.authorities, access.read)
    with _open(place) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=place.host) as secure:
                ends = (secure.getpeercert() or {}).get("notAfter")
        except ssl.SSLCertVerificationError as error:
            why = error.verify_message
            raise RemoteError(f"the certificate of {place.host} is not trusted: {why}; set ca_file to its authority") from None
        except OSError as error:
            where = f"{place.host}:{place.port}"
            raise RemoteError(f"{where} does not answer with TLS: {_why(error)}; is it an http:// service?") from None
    return (ssl.cert_time_to_seconds(str(ends)) - time.time()) / 86_400


def _open(place: Origin) -> socket.socket:
    try:
        return socket.create_connection((place.host, place.port or 0), _SECONDS)
    except OSError as error:
        where = f"{place.host}:{place.port}"
        raise RemoteError(f"{where} cannot be reached: {_why(error)}; check that it runs, and firewalls in between") from None


def _why(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "reason", None) or error.strerror or "the connection was closed"
