"""Sums up the figures of the chaos runs of a test session, over all its processes, and prints them at its end."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.figures import Figures

FIGURES = pytest.StashKey[Figures]()
_SENT = "chaos figures"


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = Figures()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker hands its figures to the process that it works for."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[_SENT] = session.config.stash[FIGURES].to_json()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    sent = getattr(node, "workeroutput", {}).get(_SENT)
    if sent is not None:
        node.config.stash[FIGURES].add(Figures.from_json(sent))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    figures = config.stash[FIGURES]
    if figures.inside or figures.outside:
        terminalreporter.section("chaos")
        terminalreporter.write_line(figures.text())


@pytest.fixture
def chaos_figures(pytestconfig: pytest.Config) -> Figures:
    """What the session's runs came to so far; a test adds its own."""
    return pytestconfig.stash[FIGURES]
