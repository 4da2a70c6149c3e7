"""IBM's own CLI and the SDK of litellm, each in a virtual environment of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conformance.orchestrate import LogIn, logged_in
from tests.kept_environment import MAKING, kept_environment

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Allow the test that comes first to wait for the environment too: the time of a test includes its fixtures."""
    for item in items:
        if {"orchestrate_python", "litellm_python"} & {*getattr(item, "fixturenames", ())}:
            item.add_marker(pytest.mark.timeout(MAKING + 300))


@pytest.fixture(scope="session")
def orchestrate_python() -> Path:
    """Python with the package ibm-watsonx-orchestrate."""
    return kept_environment("orchestrate", HERE / "requirements.txt")


@pytest.fixture(scope="session")
def litellm_python() -> Path:
    """Python with the package litellm."""
    return kept_environment("litellm", HERE / "litellm.txt")


@pytest.fixture
def log_in(orchestrate_python: Path) -> Iterator[LogIn]:
    """Makes a user of IBM's CLI in a directory, for a server in a layout."""
    with ExitStack() as stack:
        yield lambda home, served, layout: stack.enter_context(logged_in(orchestrate_python, home, served, layout))
