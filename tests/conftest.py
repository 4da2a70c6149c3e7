"""What the tests share: a directory to work in, and policyctl as a function."""

from __future__ import annotations

import ast
import gc
import os
import pkgutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from functools import cache, wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import policyctl as package
from policyctl.cli.main import run as run_main
from tests.examples import FEW, USUAL, examples

if TYPE_CHECKING:
    from tests.postgres import PostgresServer

pytest_plugins = ["tests.chaos.plugin"]

# The package and the tests are compiled once, and not in each of the hundreds of processes that tests start.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

INNER_LOOP = "not slow"
# Of cases that are alike, each third is in it; of heavy ones each fifth: no even number, since values often alternate.
ALIKE_EACH, HEAVY_EACH = 3, 5
# Where every test is slow. `-m "not slow"` does not even import these: some take longer to collect than most take to run.
SLOW = (
    "browser",
    "chaos",
    "conformance",
    "fuzz",
    "cli/test_approvals.py",
    "cli/test_canaries.py",
    "cli/test_kill.py",
    "cli/test_progress.py",
    "cli/test_several_in_one_comment.py",
    "cli/test_used_approvals.py",
    "cli/test_what_was_merged.py",
    "gateway/test_clients.py",
    "remote/test_postgres.py",
    "server/test_limits.py",
    "server/test_openapi_fuzz.py",
    "server/test_replicas.py",
    "server/test_serve.py",
    "server/test_soak.py",
    "server/test_workers.py",
    "test_budget.py",
    "test_code_of_the_checkout.py",
    "test_readme.py",
    "test_workflows.py",
)
# Where each test starts much, mostly git, watches and pages. The inner loop tries each fifth of the tests in such a module.
HEAVY = (
    "cli/test_adopt.py",
    "cli/test_affected.py",
    "cli/test_audit.py",
    "cli/test_audit_table.py",
    "cli/test_base.py",
    "cli/test_base_led_elsewhere.py",
    "cli/test_ci.py",
    "cli/test_command_line.py",
    "cli/test_consumers.py",
    "cli/test_converted_files.py",
    "cli/test_doctor.py",
    "cli/test_drift.py",
    "cli/test_edited_plans.py",
    "cli/test_expect_digest.py",
    "cli/test_git_remote.py",
    "cli/test_going_back.py",
    "cli/test_gone.py",
    "cli/test_hostile_checkout.py",
    "cli/test_idle_settings.py",
    "cli/test_managed_models.py",
    "cli/test_model_canaries.py",
    "cli/test_model_names.py",
    "cli/test_models.py",
    "cli/test_models_on_serve.py",
    "cli/test_policy_commands.py",
    "cli/test_postgres_way_in.py",
    "cli/test_redeclared.py",
    "cli/test_references.py",
    "cli/test_referred_files.py",
    "cli/test_restoration.py",
    "cli/test_saved_plan.py",
    "cli/test_several_environments.py",
    "cli/test_show.py",
    "cli/test_shown_addresses.py",
    "cli/test_unknown_fields.py",
    "cli/test_watch.py",
    "cli/test_watch_trust.py",
    "gateway/test_recorded.py",
    "load/test_git.py",
    "load/test_history.py",
    "load/test_settings_history.py",
    "plan/test_model_effect.py",
    "remote/test_commands.py",
    "report/test_hostile.py",
    "report/test_one_page_one_plan.py",
    "report/test_pages_of_several.py",
    "report/test_plan_markdown.py",
    "server/test_login.py",
    "watch/test_issue.py",
    "watch/test_loop.py",
    "watch/test_pulled.py",
)
# Where many tests walk the same long ways. Measuring coverage doubles the time of a test: each third of these is measured.
MANY = (
    "browser/test_plan_page.py",
    "cli/test_approvals.py",
    "cli/test_model_canaries.py",
    "cli/test_models_on_serve.py",
    "cli/test_several_in_one_comment.py",
    "cli/test_used_approvals.py",
    "cli/test_watch_trust.py",
    "cli/test_what_was_merged.py",
    "gateway/test_recorded.py",
    "plan/test_effects.py",
    "plan/test_moved_fields.py",
    "reconcile/test_drift.py",
    "reconcile/test_live_models.py",
    "remote/test_bad_days.py",
    "report/test_one_page_one_plan.py",
    "report/test_pages_of_several.py",
    "report/test_plan_markdown.py",
    "server/test_login.py",
    "test_workflows.py",
)
MEASURED_EACH = 3
# Where tests are random in another way than by @given.
RANDOM = ("chaos", "server/test_openapi_fuzz.py", "server/test_replicas.py")
HERE = Path(__file__).parent
# Variables of the machine that programs follow, besides policyctl's own and GitHub's.
SETTINGS = ("CI", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE")


# Where files of tests are kept, if it is large enough: a database waits for its disk after each of thousands of writes, and
# what a test ends is a process and never the machine.
MEMORY, ENOUGH = Path("/dev/shm"), 2 * 1024**3


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr == INNER_LOOP:
        os.environ.setdefault("TEST_EXAMPLES", FEW)
    # In CI the same examples in every run, so that a red run means a change; elsewhere new ones each time, to find more.
    settings.register_profile(
        "policyctl",
        max_examples=examples(USUAL),
        deadline=None,
        derandomize=os.environ.get("CI") == "true",
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("policyctl")
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK):
        disk = os.statvfs(MEMORY)
        if disk.f_bavail * disk.f_frsize >= ENOUGH and not disk.f_flag & os.ST_NOEXEC:
            os.environ.setdefault("TMPDIR", str(MEMORY))
            tempfile.tempdir = None  # look again


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if config.option.markexpr == INNER_LOOP and _in(collection_path, SLOW) else None


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Collecting makes thousands of tests and no garbage. The garbage collector need not visit them meanwhile, nor later.

    Most of what a test leaves behind goes without it, so it then visits the rest more rarely than usual."""
    gc.disable()
    try:
        found = yield
        if any(map(_is_random, session.items)):
            _have_sources_read()
        if sys.gettrace() is not None:
            _have_all_imported()
        return found
    finally:
        gc.freeze()
        gc.enable()
        gc.set_threshold(20_000, 50, 50)


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    numbers = Counter[str]()
    for item in items:
        if _in(item.path, SLOW):
            item.add_marker("slow")
        elif not item.get_closest_marker("slow") and (_in(item.path, HEAVY) or item.get_closest_marker("alike")):
            heavy = _in(item.path, HEAVY)
            among = item.nodeid.partition("::" if heavy else "[")[0]
            if numbers[among] % (HEAVY_EACH if heavy else ALIKE_EACH):
                item.add_marker("slow")
            numbers[among] += 1
        if _in(item.path, MANY):
            if numbers[f"measured {item.path}"] % MEASURED_EACH:
                item.add_marker("no_cover")
            numbers[f"measured {item.path}"] += 1
        if _is_random(item):
            item.add_marker("no_cover")


def _unmeasured(item: pytest.Item) -> Generator[None, object, object]:
    """Measures nothing in a step of a test marked no_cover. In a process of pytest-xdist there are two measurements, that of
    its session and one begun with its command line, and pytest-cov pauses only the first: the other goes on in its place."""
    if item.get_closest_marker("no_cover") is None:
        return (yield)
    here, in_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(here)
        threading.settrace(in_threads)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from _unmeasured(item))


@pytest.hookimpl(wrapper=True, trylast=True)  # around the test alone, within what pytest-cov does
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from _unmeasured(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from _unmeasured(item))


@settings(max_examples=1, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.none())
def _have_sources_read(_: None) -> None:
    """Hypothesis reads the modules of the package at its first test, for constants to try: so all tests try the same ones, in
    any order."""


def _have_all_imported() -> None:
    """What a test imports that is not measured would be imported by then for those that are."""
    for found in pkgutil.walk_packages(package.__path__, "policyctl."):
        if not found.name.endswith("__main__"):
            import_module(found.name)


def _undisturbed(parse: Callable[..., ast.AST]) -> Callable[..., ast.AST]:
    """In Python 3.11 a tree of source fails ("AST constructor recursion depth mismatch") if another one is made meanwhile, as
    for the traceback of garbage that is collected."""

    @wraps(parse)
    def parsed(*args: Any, **keys: Any) -> ast.AST:
        collects = gc.isenabled()
        gc.disable()
        try:
            return parse(*args, **keys)
        finally:
            if collects:
                gc.enable()

    return parsed


setattr(ast, "parse", _undisturbed(ast.parse))  # noqa: B010 - its type has overloads


def _is_random(item: pytest.Item) -> bool:
    """Whether a test tries random examples. What they happen to reach should not count, and measuring doubles their time."""
    function = getattr(item, "obj", None)
    return getattr(function, "is_hypothesis_test", False) or _in(item.path, RANDOM)


@cache
def _in(path: Path, places: tuple[str, ...]) -> bool:
    return f"{path}/".startswith(tuple(f"{HERE}/{place}/" for place in places))


ANYGEM = """\
spec_version: v1
kind: model
name: anygem
description: Balances requests between 2 Gemini models
display_name: Any Gem
policy:
  strategy:
    mode: loadbalance
  retry:
    attempts: 1
    on_status_codes: [503]
  targets:
    - model_name: virtual-model/google/gemini-2.0-flash
      weight: 0.75   # Weights must be greater than 0 and less than or equal to 1
    - model_name: virtual-model/google/gemini-2.0-flash-lite
      weight: 0.25
"""


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this process's own. It does not wait for its disk, so a test that crashes one starts another."""
    from tests.postgres import programs, running_postgres

    if programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with running_postgres() as server:
        yield server


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    """The URL of an empty database."""
    return postgres.url(postgres.new_database())


class Ran(NamedTuple):
    """What a command line did."""

    code: int
    out: str
    err: str


Policyctl = Callable[..., Ran]


class Project:
    """A directory with `policies/` in it, which is the working directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.policies = folder / "policies"
        self.policies.mkdir()

    def write(self, name: str, text: str = ANYGEM) -> Path:
        """Write a file below `policies/`; its path as policyctl will print it."""
        path = self.policies / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path.relative_to(self.folder)

    def policy(self, name: str, *targets: str, mode: str | None = None, **more: str) -> Path:
        """Write a policy over these models, a fallback where there are several; `more` are lines of the policy."""
        mode = mode or ("fallback" if len(targets) > 1 else "single")
        lines = [f"spec_version: v1\nkind: model\nname: {name}\npolicy:\n  strategy: {{mode: {mode}}}\n"]
        lines += [f"  {key}: {value}\n" for key, value in more.items()]
        lines += ["  targets:\n", *(f"    - model_name: {target}\n" for target in targets or ("virtual-model/x/a",))]
        return self.write(f"{name}.yaml", "".join(lines))


def files_of(folder: Path) -> dict[str, str]:
    """The text of every file below a directory, by its path there."""
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session", autouse=True)
def _clean_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No setting of the machine's reaches a test, and what programs that it runs cache stays among the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "caches"))
        for name in list(os.environ):
            if name.startswith(("POLICYCTL_", "GITHUB_")) or name in SETTINGS:
                patch.delenv(name)
        yield


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


@pytest.fixture
def policyctl(capfd: pytest.CaptureFixture[str]) -> Policyctl:
    """Run a command line in this process, through the same door as the program."""

    def call(*args: str | Path) -> Ran:
        capfd.readouterr()
        code = run_main([str(arg) for arg in args])
        return Ran(code, *capfd.readouterr())

    return call
