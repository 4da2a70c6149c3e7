"""Failures of different kinds among many environments, over real connections."""

from __future__ import annotations

import socket
from collections import defaultdict
from dataclasses import replace

import pytest

from tests.conftest import ANYGEM, Policyctl, Project
from tests.remote.fake_server import Reply, Seen, Silence, standing_in
from tests.remote.fake_tenant import Tenant

CONFIG = """
scope: ["virtual-policy/*"]
templates: {one: {remote: "URL/instances/{{ tenant }}"}}
fleet: [{from: tenants.csv, name: "t-{{ tenant }}", extends: one}]
environments: {t-a70: {remote: "http://127.0.0.1:PORT"}}
"""


class _Instances:
    """A tenant at each path, of which one refuses the login and one answers with a page of something else."""

    def __init__(self) -> None:
        self.tenants: defaultdict[str, Tenant] = defaultdict(Tenant)

    def __call__(self, seen: Seen) -> Reply | Silence:
        name = seen.path.split("/")[2]
        if name == "a30":
            return Reply(403, {"detail": "forbidden"})
        if name == "a50":
            return Reply(200, b"<html>a proxy</html>", {"Content-Type": "text/html"})
        return self.tenants[name](replace(seen, target=seen.target.removeprefix(f"/instances/{name}")))


@pytest.mark.slow
def test_three_failures_among_120_environments_are_three_reasons_and_the_others_are_done(
    project: Project, policyctl: Policyctl
) -> None:
    """plan and apply report each reason once, exit with 5, and a second apply writes nothing more."""
    instances = _Instances()
    with standing_in(instances) as server, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # a port on which nothing listens
        project.write("policyctl.yaml", CONFIG.replace("URL", server.url).replace("PORT", str(closed.getsockname()[1])))
        project.write("tenants.csv", "tenant\n" + "".join(f"a{n}\n" for n in range(120)))
        project.write("anygem.yaml", ANYGEM)
        for command, word in ((("plan", "--all"), "117 with changes"), (("apply", "--all", "--yes"), "117 applied")):
            ran = policyctl(*command)
            assert ran.code == 5
            assert ran.out.endswith(f"120 environments: {word}, 3 failed.\n")
            failed = [line for line in ran.out.splitlines() if line.startswith("failed")]
            assert sorted(line.rpartition(": ")[2].partition(" ")[0] for line in failed) == ["t-a30", "t-a50", "t-a70"]
            assert all(line.startswith("failed  1 × ") for line in failed)
        done = {f"a{n}" for n in range(120)} - {"a30", "a50", "a70"}
        assert {name for name, one in instances.tenants.items() if one.rows} == done
        server.seen.clear()
        assert policyctl("apply", "--all", "--yes").out.endswith("117 without changes, 3 failed.\n")
        assert {one.method for one in server.seen} == {"GET"}
