"""What the tests of commands share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.forges import Forge, forge_of
from tests.cli.pull_requests import Work
from tests.conftest import Policyctl, Project


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with nothing in it: no policy directory, no configuration."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# The inner loop tries one of them: what differs is their requests and answers, and CI tries both.
@pytest.fixture(params=["github", pytest.param("gitlab", marks=pytest.mark.slow)])
def forge(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forge]:
    """A service, and the variables of one of its steps."""
    with forge_of(request.param) as made:
        for name, value in made.environ.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def work(project: Project, forge: Forge, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch) -> Work:
    """A pull request on that service, for a remote on which one policy is applied."""
    made = Work(project, forge, policyctl, monkeypatch)
    made.add("base")
    made.settle()
    assert policyctl("apply", "--yes").code == 0
    return made
