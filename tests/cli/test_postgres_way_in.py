"""A postgresql: remote is logged in to with what libpq finds by itself: how it is reached counts as it does for auth."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from policyctl.load.urls import postgres_files
from policyctl.remote.open import Access
from tests.cli.forges import Forge
from tests.cli.pull_requests import Work
from tests.conftest import Policyctl, Project
from tests.git_repo import commit, git

NOT_APPROVED = "no approved plan shows how remote, auth and ca_file came to be what they are now, so nothing logs in with them"
ROW = 'environments.prod.remote.sslrootcert: policies/ca.pem → "policies/ca.pem, whose content this branch changes"'


class Server:
    """A server that would like to be the remote."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.url = f"postgresql://policyctl@127.0.0.1:{listener.getsockname()[1]}/policies"

    @property
    def was_reached(self) -> bool:
        """Whether a connection was made: it waits to be accepted."""
        try:
            self._listener.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    @contextmanager
    def hanging_up(self) -> Iterator[list[object]]:
        """Accept connections and end them at once; gives those that came."""
        came: list[object] = []

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, address = self._listener.accept()
                    connection.close()
                    came.append(address)

        self._listener.setblocking(True)
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield came
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("PGPASSWORD", "canary-password")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield Server(listener)


@pytest.fixture(params=["prod", "*"], ids=["one", "several"])
def work(
    request: pytest.FixtureRequest, project: Project, forge: Forge, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> Work:
    """A pull request for one environment, or for all, on which one policy is applied."""
    monkeypatch.setenv("POLICYCTL_ENV", request.param)
    found = Work(project, forge, policyctl, monkeypatch)
    lead_to(project, "local")
    found.add("base")
    found.settle()
    assert policyctl("apply", "--yes").code == 0
    return found


def lead_to(project: Project, remote: str) -> None:
    project.write("policyctl.yaml", f"scope: ['*']\nenvironments: {{prod: {{remote: '{remote}'}}}}\n")


def test_a_push_that_leads_to_another_server_sends_no_password(work: Work, server: Server) -> None:
    lead_to(work.project, server.url)
    ran = work.apply()
    assert (ran.code, ran.out, server.was_reached) == (4, "", False)
    assert NOT_APPROVED in ran.err


def test_a_merge_whose_plan_was_not_approved_sends_no_password(work: Work, server: Server) -> None:
    work.add("new")
    work.comment()
    lead_to(work.project, server.url)
    work.forge.proposals[5] = ("d" * 40, "main")
    work.forge.merge(5)
    ran = work.apply()
    assert (ran.code, server.was_reached) == (4, False)
    assert NOT_APPROVED in ran.err


def test_a_server_that_was_shown_and_approved_is_asked(work: Work, server: Server) -> None:
    lead_to(work.project, server.url)
    work.add("new")
    assert work.comment().code == 0
    assert not server.was_reached, "while it is reviewed, the old one holds"
    work.settle()
    work.forge.merge(5)
    with server.hanging_up() as came:
        ran = work.on_main("ci", "approved")
    assert came
    assert NOT_APPROVED not in ran.err


@pytest.fixture
def trusting(project: Project, server: Server, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A branch of a repository with the certificate authority that its remote is checked by."""
    monkeypatch.setenv("POLICYCTL_ENV", "prod")
    project.policy("a")
    project.write("ca.pem", "one")
    lead_to(project, f"{server.url}?sslmode=verify-full&sslrootcert=policies/ca.pem")
    commit(project.folder)
    git(project.folder, "checkout", "-q", "-b", "change")
    return project


@pytest.mark.parametrize("how", ["edited", "taken away"])
def test_a_branch_does_not_decide_whom_a_plan_trusts(how: str, trusting: Project, server: Server, policyctl: Policyctl) -> None:
    if how == "edited":
        trusting.write("ca.pem", "two")
    else:
        (trusting.policies / "ca.pem").unlink()
    ran = policyctl("plan", "--base", "main")
    assert (ran.code, server.was_reached) == (3, False)
    assert "ca.pem, which environment prod refers to, is not what it is at the base; merge that first" in ran.err


def test_a_change_of_the_authority_is_shown(trusting: Project, policyctl: Policyctl) -> None:
    trusting.write("ca.pem", "two")
    assert ROW in policyctl("plan", "--base", "main", "--remote", "git:main").out


def test_the_authority_is_part_of_the_way_in(project: Project, forge: Forge, policyctl: Policyctl, server: Server) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLICYCTL_ENV", "prod")
        work = Work(project, forge, policyctl, patch)
        project.write("ca.pem", "one")
        lead_to(project, f"{server.url}?sslrootcert=policies/ca.pem")
        work.add("base")
        work.settle()
        assert work.on_main("ci", "approved").code == 0
        project.write("ca.pem", "two")
        assert work.on_main("ci", "approved").code == 4


def test_the_files_of_a_url_are_absolute_and_those_of_the_system_are_none() -> None:
    assert postgres_files("postgresql://h/d?sslrootcert=system&sslkey=k") == {"sslkey": os.path.abspath("k")}
    assert postgres_files("postgresql://h/d?sslrootcert=a+b%2Bc%20d&sslkey=") == {"sslrootcert": os.path.abspath("a+b+c d")}
    assert postgres_files("https://h.example/?sslkey=k") == {}
    Access().raise_if_moved("postgresql://h/d?sslkey=k")  # outside any repository
