"""What a plan of many environments costs, beside a plan of one in a process of its own.

Every tenant is answered by one service (see `service`), with the 50 policies of the directory. For a plan with changes ten
lists of each tenant are read, for one without changes one.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests.bench.corpus import write_corpus
from tests.bench.measure import Cost, measure

POLICIES = 50
CHANGED = 3
CONFIG = """
scope: ["virtual-policy/*"]
templates:
  one: {{remote: "{url}/instances/{{{{ tenant }}}}", vars: {{lite: 0.1}}}}
fleet:
  - {{from: tenants.csv, name: "t-{{{{ tenant }}}}", extends: one, labels: [ring], vars: [lite]}}
"""


def write_fleet(folder: Path, url: str, tenants: int) -> None:
    """A directory of 50 policies for so many tenants of a service."""
    policies = folder / "policies"
    write_corpus(policies, POLICIES)
    (policies / "policyctl.yaml").write_text(CONFIG.format(url=url), "utf-8")
    rows = "".join(f"a{number},{number % 3},{0.2 if number % 10 == 1 else ''}\n" for number in range(tenants))
    (policies / "tenants.csv").write_text(f"tenant,ring,lite\n{rows}", "utf-8")


def planning(url: str, tenants: int, policyctl: tuple[str, ...], changed: int = 0) -> Cost:
    """What a plan of all tenants costs, with so many changed policies in each of them."""
    with tempfile.TemporaryDirectory() as folder:
        write_fleet(Path(folder), url, tenants)
        os.chdir(folder)
        for path in sorted(Path("policies").glob("policy-*.yaml"))[:changed]:
            path.write_text(path.read_text("utf-8").replace("attempts: 1", "attempts: 2", 1), "utf-8")
        return measure((*policyctl, "plan", "--all"))


def alone(url: str, policyctl: tuple[str, ...]) -> Cost:
    """What a plan of one tenant costs in a process of its own, as in a loop of the shell."""
    with tempfile.TemporaryDirectory() as folder:
        write_fleet(Path(folder), url, 20)
        os.chdir(folder)
        return measure((*policyctl, "plan", "--env", "t-a0"))


def listing(tenants: int, policyctl: tuple[str, ...]) -> Cost:
    """What listing the environments costs."""
    with tempfile.TemporaryDirectory() as folder:
        write_fleet(Path(folder), "http://127.0.0.1:9", tenants)
        os.chdir(folder)
        return measure((*policyctl, "env", "list"))
