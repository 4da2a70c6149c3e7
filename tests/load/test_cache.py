"""What is kept from one run for the next changes nothing but the time it takes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policyctl.load.cache import ROOM, Cache, cache_folder, program_state
from policyctl.load.directory import Files, Loaded, find_files
from policyctl.load.environment import find_config, load_config
from policyctl.load.source import source_of
from policyctl.load.validation import Validation, validate_paths
from policyctl.model.policy import Policy
from tests.conftest import ANYGEM, Policyctl, Project
from tests.counting import calls
from tests.strategies import documents
from tests.test_cases import CASES, cases, copied


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, where the program looks for it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
    return tmp_path / "kept" / "policyctl"


@pytest.mark.parametrize("kind", ["valid", "invalid", "linted", "deep"])
def test_every_case_says_the_same_afresh_the_first_time_and_seen_before(
    kind: str, folder: Path, project: Project, policyctl: Policyctl
) -> None:
    options = ("-v", "--deep") if kind == "deep" else ("-v",)
    for case in cases(kind):
        copied(kind, case, project.folder)
        afresh = policyctl("--no-cache", "validate", case, *options)
        assert policyctl("validate", case, *options) == afresh, case
        assert policyctl("validate", case, *options) == afresh, case
    assert (CASES / kind).is_dir()
    assert list(folder.iterdir())


CONFIG = """\
environments:
  one: {vars: {weight: 0.5, name: a}}
  two: {vars: {weight: 5, name: b}, include: ["[!x]*"]}
lint: {ignore: [P432]}
"""
TEXTS = [
    ANYGEM,
    ANYGEM.replace("weight: 0.25", "weight: '{{ weight }}'").replace("name: anygem", "name: '{{ name }}'"),
    ANYGEM.replace("loadbalance", "single"),
    ANYGEM.replace("lite\n", "lite # policyctl: ignore[P401]\n").replace("loadbalance", "single"),
    ANYGEM.replace("attempts: 1", "atempts: 1"),
    ANYGEM.replace("virtual-model/google/gemini-2.0-flash-lite", "virtual-policy/a"),
    f"{ANYGEM}---\n{ANYGEM.replace('name: anygem', 'name: second', 1)}",
    "kind: model\nname: virtual-model/google/gemini-2.0-flash\nprovider_config: {request_timeout: 2000}\n",
    "kind: agent\nname: other\n",
    "kind: policy_test\npolicy: anygem\ntests: [{name: it works, expect: {status: 200}}]\n",
    "name: [",
    "",
]
texts = st.sampled_from(TEXTS) | documents().map(lambda one: yaml.safe_dump({"spec_version": "v1", "kind": "model", **one}))
edits = st.dictionaries(st.sampled_from(["a.yaml", "b.yaml", "c.json", "d.test.yaml", "x.yaml"]), texts, min_size=1)


def everything(root: Path, cache: Cache | None) -> tuple[Validation, list[Any]]:
    """What validate says of a directory, and what plan would take from it for each environment."""
    loaded = []
    for environment in load_config(find_config(root)).environments.values():
        found = find_files(root)
        files = Files(found.files, found.problems, root, whole=True, deep=True, cache=cache)
        loaded.append(_compared(files.load(environment)))
    return validate_paths([root], root, infos=True, deep=True, cache=cache), loaded


def _compared(loaded: Loaded) -> tuple[Any, ...]:
    said = [(policy.name, policy.document, policy.text, policy.file, policy.index) for policy in loaded.policies]
    return (said, *loaded._replace(policies=(), mark_of=_nowhere))


def _nowhere(about: object, complaint: object) -> Any:
    """In the place of what gives marks, which no two loads share."""


@example([{f"{number}.yaml": text for number, text in enumerate(TEXTS)}])
@example([{"a.yaml": TEXTS[0]}, {"a.yaml": TEXTS[1]}, {"a.yaml": TEXTS[3]}])
@given(st.lists(edits, min_size=1, max_size=3))
@settings(max_examples=30)
def test_whatever_is_edited_the_cached_and_the_uncached_path_agree(
    tmp_path_factory: pytest.TempPathFactory, steps: list[dict[str, str]]
) -> None:
    root = tmp_path_factory.mktemp("edited")
    (root / "policyctl.yaml").write_text(CONFIG)
    for step in steps:
        for name, text in step.items():
            (root / name).write_text(text, "utf-8")
        afresh = everything(root, None)
        assert everything(root, Cache(root / ".kept")) == afresh  # as far as earlier steps left something
        assert everything(root, Cache(root / ".kept")) == afresh


@pytest.mark.parametrize("template", ["{{ x | first }}", "{{ x }}", "{{ [x] | last }}", "{{ w.z | last }}"])
def test_the_order_of_a_mapping_in_the_variables_decides_like_its_values(
    template: str, folder: Path, project: Project, policyctl: Policyctl
) -> None:
    project.write("a.yaml", ANYGEM.replace("description: Balances", f'description: "{template} balances"  #'))
    config = "environments: {dev: {vars: {x: {%s}, w: {z: {%s}}}}}\n"
    project.write("policyctl.yaml", config % ("openai: 1, google: 2", "openai: 1, google: 2"))
    assert policyctl("apply", "--yes").code == 0
    project.write("policyctl.yaml", config % ("google: 2, openai: 1", "google: 2, openai: 1"))
    assert policyctl("plan", "--detailed-exitcode").code == 2
    assert policyctl("plan", "--detailed-exitcode", "--no-cache").code == 2


def test_files_that_were_seen_before_are_not_parsed(folder: Path, project: Project) -> None:
    for number, text in enumerate(TEXTS[:2]):
        project.write(f"{number}.yaml", text)
    project.write("policyctl.yaml", CONFIG)
    found = find_files(project.policies)

    def load() -> None:
        files = Files(found.files, root=project.policies, cache=Cache(folder))
        for environment in load_config(find_config(project.policies)).environments.values():
            files.load(environment)

    configuration = 1
    assert calls(load, source_of) == [configuration + 2]  # each once, also the template, which two environments ask for
    assert calls(load, source_of) == [configuration]


def _other_state(part: Path) -> None:
    head, _, body = part.read_bytes().partition(b"\n")
    part.write_bytes(b"0" * len(head) + b"\n" + body)


def _another_entry(part: Path) -> None:
    head, _, body = part.read_bytes().partition(b"\n")
    part.write_bytes(head + b"\n" + body.replace(b"anygem", b"nogems"))


def _directory(part: Path) -> None:
    part.unlink()
    part.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "half a file": lambda part: part.write_bytes(part.read_bytes()[:-20]),
    "nothing": lambda part: part.write_bytes(b""),
    "random bytes": lambda part: part.write_bytes(bytes(range(256)) * 9),
    "written by another version": _other_state,
    "changed by hand": _another_entry,
    "a directory": _directory,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_corrupt_cache_is_not_there(damage: str, folder: Path, project: Project, policyctl: Policyctl) -> None:
    project.write("a.yaml")
    project.write("b.yaml", ANYGEM.replace("attempts: 1", "atempts: 1"))
    afresh = policyctl("validate")
    for part in list(folder.iterdir()):
        DAMAGE[damage](part)
    assert policyctl("validate") == afresh
    assert policyctl("validate") == afresh


def test_a_cache_that_others_may_write_to_is_not_written(folder: Path, project: Project, policyctl: Policyctl) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    project.write("a.yaml")
    assert policyctl("validate").code == 0
    assert list(folder.iterdir()) == []


def test_a_cache_that_others_may_write_to_is_not_read(folder: Path, project: Project, policyctl: Policyctl) -> None:
    """It may say that all is well."""
    project.write("a.yaml")
    policyctl("validate")
    folder.chmod(0o777)
    assert calls(lambda: policyctl("validate"), source_of) == [1]


def test_where_nothing_can_be_kept_the_work_is_done_without(project: Project, policyctl: Policyctl, folder: Path) -> None:
    folder.parent.write_text("a file where the cache's directory would be")
    project.write("a.yaml")
    assert policyctl("validate").code == 0


def test_only_the_user_can_read_what_is_kept(folder: Path, project: Project, policyctl: Policyctl) -> None:
    project.write("a.yaml")
    policyctl("validate")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {part.stat().st_mode & 0o777 for part in folder.iterdir()} == {0o600}


@pytest.mark.parametrize("how", ["option", "variable"])
def test_no_cache_keeps_nothing(
    how: str, folder: Path, project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("a.yaml")
    if how == "variable":
        monkeypatch.setenv("POLICYCTL_NO_CACHE", "1")
    policyctl("validate", *(["--no-cache"] if how == "option" else []))
    assert not folder.exists()


def test_what_is_kept_lies_in_the_users_caches() -> None:
    assert cache_folder({"HOME": "/home/ada"}) == Path("/home/ada/.cache/policyctl")
    assert cache_folder({"HOME": "/home/ada", "XDG_CACHE_HOME": "/caches"}) == Path("/caches/policyctl")
    assert cache_folder({"HOME": "/home/ada", "XDG_CACHE_HOME": "here"}) is None  # relative ones count for nothing
    assert cache_folder({}) is None


def test_what_was_not_used_makes_room_where_there_is_more_of_it_than_of_what_was(tmp_path: Path) -> None:
    def keep(key: str, size: int) -> None:
        cache = Cache(tmp_path / "kept")
        assert cache.get(key) is None
        cache.put(key, "x" * size)
        cache.save()

    def known(*keys: str) -> list[bool]:
        return [Cache(tmp_path / "kept").get(key) is not None for key in keys]

    keep("aa01", ROOM - 100)
    keep("aa02", 10)
    assert known("aa01", "aa02") == [True, True]
    keep("aa03", 10)
    keep("aa04", ROOM)
    assert known("aa01", "aa02", "aa03", "aa04") == [True, True, True, True]
    keep("aa05", 10)
    assert known("aa01", "aa02", "aa03", "aa04", "aa05") == [False, False, False, False, True]


def test_a_program_that_changed_is_another_program(tmp_path: Path) -> None:
    package = tmp_path / "policyctl"
    shutil.copytree(Path(sys.modules["policyctl"].__path__[0]), package, ignore=shutil.ignore_patterns("__pycache__"))
    states = [program_state(package)]
    assert program_state(package) == states[0]
    (package / "lint" / "weights.py").write_text("# another rule\n")
    assert program_state(package) != states[0]


def test_a_program_whose_folder_cannot_be_listed_keeps_nothing(project: Project, folder: Path, tmp_path: Path) -> None:
    """As one that runs from an archive: the work is done without."""
    archive = shutil.make_archive(
        str(tmp_path / "program"), "zip", Path(sys.modules["policyctl"].__path__[0]).parent, "policyctl"
    )
    project.write("a.yaml")
    ran = subprocess.run(
        [sys.executable, "-m", "policyctl", "validate"],
        env={**os.environ, "PYTHONPATH": archive},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "Valid: 1 policy in 1 file.\n", "")
    assert not folder.exists()
    assert program_state(tmp_path / "nowhere") is None


def test_a_policy_is_the_same_from_its_document_and_from_its_text() -> None:
    document = {"name": "virtual-policy/a", "policy": {"targets": [{"model_name": "x", "weight": 0.1}], "strategy": {}}}
    one = Policy("virtual-policy/a", document, "a.yaml")
    other = Policy("virtual-policy/a", one.text, "a.yaml")
    assert (one.document, one.text) == (other.document, other.text)
