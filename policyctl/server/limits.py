"""How much one client may take: of memory, of time, of connections."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of a request's URL and headers, and of its body (of a login's body); seconds; connections at once.

    `client_seconds` is how long a client may take over the head of a request, again over its body, and over a short answer.
    """

    head_bytes: int = 32 * 1024
    body_bytes: int = 1 << 20  # a policy has about a thousand
    login_bytes: int = 16 * 1024  # all that is read of those who are not known yet
    client_seconds: float = 10.0
    connections: int = 512

    @property
    def idle_seconds(self) -> float:
        """How long a connection is kept on which nothing is asked. Longer, since closing one may cross a new request."""
        return 3 * self.client_seconds

    def taking_seconds(self, size: int) -> float:
        """How long a client may take over so many bytes of an answer: as long again for every megabyte."""
        return self.client_seconds * (1 + size / 1_000_000)
