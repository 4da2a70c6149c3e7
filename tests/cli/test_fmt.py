"""policyctl fmt: which files it writes, and what it does with those that it must not."""

from __future__ import annotations

import stat

import pytest

from tests.conftest import ANYGEM, Policyctl, Project, files_of
from tests.git_repo import commit
from tests.sqlite_rows import put, row

CROOKED = ANYGEM.replace("    - model", "  - model").replace("      weight", "    weight").replace("name: a", "name:   a", 1)


def test_files_are_written_in_one_style_and_named(project: Project, policyctl: Policyctl) -> None:
    project.write("a.yaml", CROOKED)
    project.write("sub/b.yml", "kind: other\n")
    project.write("policyctl.yaml", "default:   local\n")
    project.write("a.test.yaml", "given: { 200: 1 }\n")
    project.write("c.json", '{"a":1}')
    project.write("notes.txt", "a:   1\n")
    before = policyctl("plan", "--format", "json")
    ran = policyctl("fmt")
    assert (ran.code, ran.out) == (0, "policies/a.test.yaml\npolicies/a.yaml\npolicies/policyctl.yaml\n")
    assert ran.err == "3 files formatted, 1 unchanged\n"
    found = files_of(project.policies)
    assert found["a.yaml"] == ANYGEM
    assert found["policyctl.yaml"] == "default: local\n"
    assert found["a.test.yaml"] == "given: {200: 1}\n"
    assert (found["c.json"], found["notes.txt"]) == ('{"a":1}', "a:   1\n")
    assert policyctl("plan", "--format", "json") == before
    again = policyctl("fmt")
    assert (again.code, again.out, again.err) == (0, "", "0 files formatted, 4 unchanged\n")


@pytest.mark.parametrize(
    ("options", "code"), [(["--check"], 1), (["--diff"], 0), (["--check", "--diff"], 1)], ids=["check", "diff", "both"]
)
def test_check_and_diff_write_nothing(options: list[str], code: int, project: Project, policyctl: Policyctl) -> None:
    project.write("a.yaml", "a:   1\nb: 2\n")
    project.write("b.yaml", "b: 2\n")
    before = files_of(project.policies)
    ran = policyctl("fmt", *options)
    assert ran.code == code
    assert ran.err == "1 file would be formatted, 1 unchanged\n"
    if "--diff" in options:
        assert (
            ran.out == "--- policies/a.yaml (now)\n+++ policies/a.yaml (formatted)\n@@ -1,3 +1,3 @@\n-a:   1\n+a: 1\n b: 2\n \n"
        )
    else:
        assert ran.out == "policies/a.yaml\n"
    assert files_of(project.policies) == before
    assert policyctl("fmt", "--check", "policies/b.yaml").code == 0


def test_what_pull_and_init_write_is_in_style(project: Project, policyctl: Policyctl) -> None:
    put([row("a", description="what: ever"), row("b", display_name="two\nlines")])
    project.policy("x")
    (project.policies / "x.yaml").unlink()
    assert policyctl("pull").code == 0
    ran = policyctl("fmt", "--check")
    assert (ran.code, ran.out, ran.err) == (0, "", "0 files would be formatted, 2 unchanged\n")
    assert policyctl("--dir", "new", "init").code == 0
    ran = policyctl("--dir", "new", "fmt", "--check", "--diff")
    assert (ran.code, ran.out) == (0, "")


def test_what_save_writes_is_in_style(project: Project, policyctl: Policyctl) -> None:
    project.policy("a")
    assert policyctl("apply", "--yes").code == 0
    add = ("policy", "add", "z", "-s", "single", "-m", "virtual-model/x/a", "-d", "a: b", "--yes", "--save")
    assert policyctl(*add).code == 0
    assert policyctl("fmt", "--check", "policies/z.yaml").code == 0


def test_an_invalid_file_is_one_line_and_not_touched_and_the_others_are_formatted(
    project: Project, policyctl: Policyctl
) -> None:
    project.write("a.yaml", "a: [1\nb: [\n")
    project.write("b.yaml", "a:   1\n")
    project.write("c.yaml", "a: 1\na: 2\n")
    ran = policyctl("fmt")
    assert (ran.code, ran.out) == (1, "policies/b.yaml\n")
    assert ran.err.startswith("1 file formatted, 0 unchanged, 2 not read\npolicies/a.yaml:1:4: this [ is never closed")
    assert "\npolicies/c.yaml:2:1: duplicate key" in ran.err
    assert ran.err.count("\n") == 3
    assert files_of(project.policies) == {"a.yaml": "a: [1\nb: [\n", "b.yaml": "a: 1\n", "c.yaml": "a: 1\na: 2\n"}


WRONG = {
    "nothing there": (["nope.yaml"], 1, "nope.yaml: the file does not exist; correct the path [P001]\n"),
    "a directory without files": (["empty"], 1, "empty: contains no policy file"),
    "no YAML": (["notes.txt"], 0, "notes.txt is left as it is: only *.yaml and *.yml files are formatted\n"),
    "a file as directory": (["--dir", "notes.txt"], 0, "notes.txt is left as it is"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_path_without_anything_to_format_says_so(case: str, project: Project, policyctl: Policyctl) -> None:
    (project.folder / "notes.txt").write_text("a:   1\n", "utf-8")
    (project.folder / "empty").mkdir()
    args, code, message = WRONG[case]
    ran = policyctl("fmt", *args)
    assert (ran.code, ran.out) == (code, "")
    assert message in ran.err


def test_the_mode_stays_and_a_reader_never_sees_half_a_file(project: Project, policyctl: Policyctl) -> None:
    path = project.folder / project.write("a.yaml", "a:   1\n")
    path.chmod(0o640)
    with open(path, encoding="utf-8") as before:
        assert policyctl("fmt").code == 0
        assert before.read() == "a:   1\n"  # another file took its place
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.read_text("utf-8") == "a: 1\n"


def test_a_link_out_of_the_repository_is_not_followed(
    project: Project, policyctl: Policyctl, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.yaml"
    outside.write_text("a:   1\n", "utf-8")
    project.write("own.yaml", "a: 1\n")
    (project.policies / "link.yaml").symlink_to(outside)
    (project.policies / "inside.yaml").symlink_to("own.yaml")
    commit(project.folder)
    for paths in ([], ["policies/link.yaml"]):
        ran = policyctl("fmt", *paths)
        assert ran.code == 1
        assert "policies/link.yaml: is a link that leads out of the " in ran.err
        assert "a:   1" not in ran.out + ran.err
    project.write("own.yaml", "a:   1\n")
    assert policyctl("fmt", "policies/inside.yaml").code == 0
    assert (project.policies / "inside.yaml").is_symlink()
    assert (project.policies / "own.yaml").read_text("utf-8") == "a: 1\n"
    assert outside.read_text("utf-8") == "a:   1\n"


def test_what_a_terminal_would_obey_is_escaped_in_a_diff(project: Project, policyctl: Policyctl) -> None:
    project.write("a.yaml", "a:   \u202eb\n")
    ran = policyctl("fmt", "--diff")
    assert "\u202e" not in ran.out
    assert "\\u202e" in ran.out
