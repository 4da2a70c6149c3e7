"""What the speed rests on, counted instead of timed: modules imported, files parsed, differences explained."""

from __future__ import annotations

import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial

import pytest
from deepdiff import DeepDiff

from policyctl.load.source import source_of
from policyctl.load.yaml import read_yaml
from policyctl.policy.document import normal_form
from tests.call_counts import calls
from tests.conftest import ANYGEM, Policyctl, Project
from tests.remote.fake_server import standing_in
from tests.remote.fake_tenant import Tenant

IMPORTED = """
import sys
from functools import partial
from policyctl.cli.main import run
code = run(sys.argv[1:])
print(*sys.modules, file=sys.stderr)
sys.exit(code)
"""
HEAVY = {
    *("pydantic", "yaml", "jinja2", "httpx", "deepdiff", "sqlite3", "starlette", "uvicorn", "multiprocessing", "asyncio"),
    "policyctl.effect.analysis",
    "policyctl.effect.course",
    "policyctl.plan.approval",
    "policyctl.load.config",
    "policyctl.plan.fleet",
    "policyctl.plan.saved_plan",
    "policyctl.plan.scenario",
    "policyctl.reconcile.drift",
    "policyctl.remote.tenant_lists",
    "policyctl.load.scenarios",
}


def imported(*args: str) -> set[str]:
    """Those of the heavy modules that a command line imports, in a process of its own. It must succeed."""
    ran = subprocess.run([sys.executable, "-c", IMPORTED, *args], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return HEAVY & set(ran.stderr.splitlines()[-1].split())


def test_nothing_looks_for_plugins_of_other_packages(project: Project) -> None:
    project.write("a.yaml")
    code = "import atexit, sys; from policyctl.cli.main import main; atexit.register(lambda: print(*sys.modules)); main()"
    ran = subprocess.run([sys.executable, "-c", code, "validate"], capture_output=True, text=True, check=True)
    modules = ran.stdout.splitlines()[-1].split()
    assert ("pydantic.main" in modules, "importlib.metadata" in modules) == (True, False)


@pytest.mark.parametrize(
    "command", [("--help",), ("--version",), ("policy", "--help"), ("model", "--help"), ("ci", "--help")], ids=" ".join
)
def test_help_and_version_import_nothing_heavy(command: tuple[str, ...]) -> None:
    assert imported(*command) == set()


def test_validate_imports_what_reads_files(project: Project) -> None:
    project.write("a.yaml")
    assert imported("validate") == {"pydantic", "yaml"}


def test_jinja_is_for_templates(project: Project) -> None:
    project.write("a.yaml", ANYGEM.replace("attempts: 1", "attempts: '{{ 1 }}'"))
    assert "jinja2" in imported("validate")
    project.write("a.yaml")
    assert "jinja2" not in imported("validate")


FRAMES = """
import sys, traceback
from policyctl.cli.main import run
from policyctl.policy.document import Policy

def first(policy, *args):
    names = [frame.name for frame in traceback.extract_stack() if "/policyctl/" in frame.filename]
    print(*names[names.index(sys.argv[1]) :], file=sys.stderr)
    sys.exit(3)

Policy.__init__ = first
run(sys.argv[1:])
"""


def test_a_plan_reaches_its_first_policy_after_few_frames(project: Project) -> None:
    """The way of one file, from the function of the command to the policy: `policy_from_file` is the last one."""
    project.write("a.yaml")
    ran = subprocess.run([sys.executable, "-c", FRAMES, "plan"], capture_output=True, text=True, check=False)
    *frames, last = ran.stderr.splitlines()[-1].split()
    assert (ran.returncode, last) == (3, "policy_from_file")
    assert len(frames) <= 8, frames


def test_a_plan_without_a_change_explains_nothing(project: Project, policyctl: Policyctl) -> None:
    project.write("a.yaml")
    assert policyctl("apply", "--yes").code == 0
    assert imported("plan") == {"pydantic", "yaml", "sqlite3"}


def test_a_plan_explains_what_changed(project: Project, policyctl: Policyctl) -> None:
    project.write("a.yaml")
    assert policyctl("apply", "--yes").code == 0
    project.write("a.yaml", ANYGEM.replace("attempts: 1", "attempts: 2"))
    assert {"deepdiff", "policyctl.effect.analysis"} < imported("plan")


@pytest.mark.parametrize("changed", [0, 1, 3])
def test_each_change_is_explained_once_and_nothing_else_is_looked_at(
    changed: int, project: Project, policyctl: Policyctl
) -> None:
    for number in range(12):
        project.write(f"{number}.yaml", ANYGEM.replace("anygem", f"gem-{number}"))
    assert policyctl("apply", "--yes").code == 0
    for number in range(changed):
        text = ANYGEM.replace("anygem", f"gem-{number}").replace("attempts: 1", "attempts: 2")
        project.write(f"{number}.yaml", text)
    explained, normalised = calls(lambda: policyctl("plan"), DeepDiff.__init__, normal_form)
    assert explained == changed
    assert (normalised > 0) == (changed > 0)


def test_no_file_is_parsed_twice(project: Project, policyctl: Policyctl) -> None:
    for number in range(5):
        project.write(f"{number}.yaml", ANYGEM.replace("anygem", f"gem-{number}"))
    for command in (("apply", "--yes"), ("plan",), ("validate",)):
        assert calls(partial(policyctl, *command), source_of) == [5]


def test_no_scenario_test_is_parsed_twice(project: Project, policyctl: Policyctl) -> None:
    tests = "spec_version: v1\nkind: policy_test\npolicy: anygem\ntests: [{name: it works, expect: {status: {200: 1}}}]\n"
    project.write("a.yaml")
    project.write("a.test.yaml", tests)
    assert calls(lambda: policyctl("validate"), read_yaml) == [2]


GENERATED = """
import dataclasses, sys
made, generate = [], dataclasses._process_class
dataclasses._process_class = lambda cls, *args: made.append(cls.__module__) or generate(cls, *args)
from policyctl.cli.main import run
code = run(sys.argv[1:])
print(sum(name.startswith("policyctl.") for name in made), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(("command", "most"), [("validate", 2), ("plan", 6)])
def test_short_runs_generate_few_classes(command: str, most: int, project: Project, policyctl: Policyctl) -> None:
    """To import a dataclass takes five times as long as a named tuple, and fifty times as long as a plain class."""
    project.write("a.yaml")
    assert policyctl("apply", "--yes").code == 0
    ran = subprocess.run([sys.executable, "-c", GENERATED, command], capture_output=True, text=True, check=False)
    assert (ran.returncode, int(ran.stderr) <= most) == (0, True), ran.stderr


def test_plan_leaves_scenario_tests_alone(project: Project, policyctl: Policyctl) -> None:
    project.write("a.yaml")
    project.write(
        "a.test.yaml", "spec_version: v1\nkind: policy_test\npolicy: anygem\ntests: [{name: it works, expect: {served: 1}}]\n"
    )
    assert policyctl("apply", "--yes").code == 0
    assert calls(lambda: policyctl("plan"), source_of) == [1]
    assert imported("plan") == {"pydantic", "yaml", "sqlite3"}
    assert {"policyctl.plan.scenario", "policyctl.load.scenarios"} < (needed := imported("validate"))
    assert "policyctl.effect.course" not in needed  # no test is run


def test_a_remote_on_this_machine_without_tls_needs_no_authorities(project: Project, policyctl: Policyctl) -> None:
    """Reading them takes longer than everything else that is done of a plan without a change."""
    project.write("a.yaml")
    with standing_in(Tenant()) as server:
        assert calls(lambda: policyctl("plan", "--remote", server.url), ssl.create_default_context) == [0]
        assert ("GET", "/v1/model_policy") in {(seen.method, seen.path) for seen in server.seen}


def test_a_remote_without_a_login_needs_no_models_of_one(project: Project, policyctl: Policyctl) -> None:
    project.write("a.yaml")
    with standing_in(Tenant()) as server:
        assert policyctl("apply", "--yes", "--remote", server.url).code == 0
        needed = {"pydantic", "yaml", "httpx", "sqlite3", "policyctl.remote.tenant_lists"}
        assert imported("plan", "--remote", server.url) == needed


@pytest.fixture
def traced() -> Iterator[list[object]]:
    found: list[object] = [sys.gettrace()]
    yield found
    assert sys.gettrace() is None


@pytest.mark.no_cover
def test_a_test_marked_no_cover_is_not_traced_in_any_thread_nor_in_its_fixtures(traced: list[object]) -> None:
    """Also with -n, where pytest-cov measures twice and pauses once."""
    traced.append(sys.gettrace())
    thread = threading.Thread(target=lambda: traced.append(sys.gettrace()))
    thread.start()
    thread.join()
    assert traced == [None, None, None]
