"""A gateway for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway.live import Running, running


@pytest.fixture(scope="module")
def gateway() -> Iterator[Running]:
    """A gateway that only notes its waits."""
    with running() as live:
        yield live
