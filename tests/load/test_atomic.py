"""Files are written whole or not at all, where they belong, with the mode that they need."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from policyctl.errors import PolicyctlError
from policyctl.load.source import read_bounded, write_atomically
from tests.conftest import ANYGEM, Policyctl, Project
from tests.sqlite_rows import put, row


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_file_that_was_named_is_written_through_a_link_of_its_owner(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/real").write_text("old")
    (tmp_path / "named").symlink_to("there/real")
    (tmp_path / "new").symlink_to("there/made")
    for name in ("named", "new"):
        write_atomically(tmp_path / name, "text")
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "there/real").read_text() == (tmp_path / "there/made").read_text() == "text"
    assert names(tmp_path) == ["named", "new", "there"]


@pytest.mark.parametrize("where", ["out", "folder/x.yaml", "up/x.yaml"])
def test_no_link_leads_out_of_a_directory(where: str, tmp_path: Path) -> None:
    inside, outside = tmp_path / "policies", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "out").symlink_to(outside / "x.yaml")
    (inside / "folder").symlink_to(outside)
    (inside / "up").symlink_to("..")
    with pytest.raises(PolicyctlError, match="leads out of"):
        write_atomically(inside / where, "text", inside=inside)
    assert names(outside) == []
    assert names(tmp_path) == ["outside", "policies"]


def test_a_link_within_a_directory_is_followed_and_so_is_the_directory_itself(tmp_path: Path) -> None:
    (tmp_path / "real/sub").mkdir(parents=True)
    (tmp_path / "policies").symlink_to("real")
    (tmp_path / "real/a.yaml").symlink_to("sub/a.yaml")
    write_atomically(tmp_path / "policies/a.yaml", "text", inside=tmp_path / "policies")
    assert (tmp_path / "real/sub/a.yaml").read_text() == "text"


STRANGE = {
    "a directory": "is not a regular file",
    "a pipe": "is not a regular file",
    "a link to itself": "Too many levels of symbolic links",
    "a name too long": "File name too long",
    "below a file": "Not a directory",
}


@pytest.mark.parametrize("case", STRANGE)
@pytest.mark.parametrize("within", [True, False])
def test_what_is_not_a_file_is_left_alone(case: str, within: bool, tmp_path: Path) -> None:
    (tmp_path / "a directory").mkdir()
    os.mkfifo(tmp_path / "a pipe")
    (tmp_path / "a link to itself").symlink_to("a link to itself")
    (tmp_path / "file").write_text("kept")
    path = {"a name too long": tmp_path / ("x" * 300), "below a file": tmp_path / "file/x"}.get(case, tmp_path / case)
    before = names(tmp_path)
    with pytest.raises(PolicyctlError, match=STRANGE[case]) as told:
        write_atomically(path, "text", inside=tmp_path if within else None)
    assert "\n" not in str(told.value)
    assert names(tmp_path) == before
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0, 0o666)])
def test_modes(umask: int, mode: int, tmp_path: Path) -> None:
    """A new file has the mode that the umask leaves, an old one keeps its own, a private one is always its owner's alone."""
    (tmp_path / "old").touch(0o640)
    (tmp_path / "old").chmod(0o640)
    (tmp_path / "private").touch()
    (tmp_path / "private").chmod(0o666)
    code = f"""
import os
from pathlib import Path
from policyctl.load.source import write_atomically
os.umask({umask})
for name in ("new", "old"):
    write_atomically(Path(name), "text")
for name in ("private", "secret"):
    write_atomically(Path(name), "text", private=True)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in names(tmp_path)}
    assert modes == {"new": mode, "old": 0o640, "private": 0o600, "secret": 0o600}


LONG = "a description that goes on. " * 500
# Nothing is compiled there: a file that is cut short would stay, and be read by whatever runs next.
FULL = """
import resource
import sys
sys.dont_write_bytecode = True
from policyctl.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
main()
"""
WRITERS = {
    "plan --out": (("plan", "--out", "file"), "file"),
    "policy export": (("policy", "export", "--name", "long", "--output", "file.yaml"), "file.yaml"),
    "policy export as zip": (("policy", "export", "--name", "random", "--output", "file.zip"), "file.zip"),
    "pull": (("pull", "--overwrite"), "policies/long.yaml"),
    "add --save": (
        (
            "policy",
            "add",
            "--name",
            "long",
            "--strategy",
            "single",
            "--model",
            "virtual-model/x/b",
            "--description",
            LONG,
            "--save",
            "--yes",
        ),
        "policies/long.yaml",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", WRITERS)
def test_a_disk_that_is_full_keeps_the_old_file_and_leaves_no_other(case: str, project: Project, policyctl: Policyctl) -> None:
    args, file = WRITERS[case]
    noise = os.urandom(4000).hex()
    put([row("long", description=LONG), row("random", description=noise)])
    project.policy("long")
    project.policy("new", *(f"virtual-model/x/{n}" for n in range(100)))
    Path(file).write_text(ANYGEM.replace("anygem", "long"))
    before = (Path(file).read_text(), names(Path()), names(project.policies))
    ran = subprocess.run([sys.executable, "-c", FULL, *args], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1] == f"error: {file} cannot be written: File too large"
    assert "Traceback" not in ran.stderr
    assert (Path(file).read_text(), names(Path()), names(project.policies)) == before


HOSTILE = [
    "../../up",
    "/abs",
    "a/../../b",
    "..",
    ".hidden",
    "con",
    "policyctl",
    "x" * 500,
    "é/ü",
    "a\x00b",
    "a\nb",
    ".git/config",
    "~",
    "$HOME",
]


def test_pull_stays_in_its_directory_whatever_the_policies_are_called(project: Project, policyctl: Policyctl) -> None:
    put([row(name) for name in HOSTILE])
    outside = {path for path in project.folder.rglob("*") if not path.is_relative_to(project.policies)}
    ran = policyctl("pull")
    assert ran.code in (0, 5)
    assert {path for path in project.folder.rglob("*") if not path.is_relative_to(project.policies)} == outside
    assert all(path.parent == project.policies and not path.name.startswith(".") for path in project.policies.rglob("*"))
    assert not any(
        path.exists()
        for path in (Path("/abs.yaml"), project.folder.parent / "up.yaml", project.folder.parent.parent / "up.yaml")
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", ["pull", "add --save"])
def test_a_directory_that_becomes_a_link_between_reading_and_writing_is_not_followed(
    how: str, project: Project, policyctl: Policyctl
) -> None:
    """A link that is there already is a problem of its own; here it comes while the command runs."""
    put([row("anygem")])
    (project.policies / "sub").mkdir()
    project.write("sub/anygem.yaml")
    (project.folder / "outside").mkdir()
    args = {
        "pull": ("pull", "--overwrite"),
        "add --save": (
            "policy",
            "add",
            "--name",
            "anygem",
            "--strategy",
            "single",
            "--model",
            "virtual-model/x/b",
            "--save",
            "--yes",
        ),
    }[how]
    ran = subprocess.run([sys.executable, "-c", SWAP, *args], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "cannot be written: a link leads out of policies; remove it" in ran.stderr
    assert names(project.folder / "outside") == []


SWAP = """
import os
from policyctl.cli.main import main
import policyctl.load.adopt as placement

found = placement.FileLayout.of

def swap(self, name):
    home = found(self, name)
    os.rename("policies/sub", "policies/was")
    os.symlink("../outside", "policies/sub")
    return home

placement.FileLayout.of = swap
main()
"""


def test_a_directory_that_may_not_be_written_is_one_line(project: Project) -> None:
    """As an unprivileged user: for root, every directory is open."""
    project.write("anygem.yaml")
    project.policies.chmod(0o555)
    if os.geteuid():
        with pytest.raises(PolicyctlError, match="cannot be written: Permission denied"):
            write_atomically(project.policies / "x.yaml", "x", inside=project.policies)
        return
    with pytest.raises(PolicyctlError, match="cannot be written: "):
        write_atomically(Path("/proc/x.yaml"), "x")


def test_what_is_read_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    assert read_bounded(tmp_path / "f", 5) == b"12345"
    for path, most in ((tmp_path / "f", 4), (Path("/dev/zero"), 1000), (tmp_path / "a\0b", 9), (tmp_path / "none", 9)):
        with pytest.raises(OSError):
            read_bounded(path, most)


SIGNALLED = """
import os, signal, sys
from pathlib import Path
from policyctl.load.source import write_atomically

class Text(str):
    def encode(self):
        for name in sys.argv[1].split():
            os.kill(os.getpid(), getattr(signal, name))
        (temporary,) = Path("there").iterdir()
        return super().encode()

Path("there").mkdir()
write_atomically(Path("there/out"), Text("whole"))
print("goes on")
"""


@pytest.mark.parametrize(
    ("signals", "prefix", "code"),
    [
        ("SIGTERM", "", -signal.SIGTERM),
        ("SIGHUP", "", -signal.SIGHUP),
        ("SIGINT", "", -signal.SIGINT),
        ("SIGTERM SIGINT SIGTERM", "", -signal.SIGTERM),
        ("SIGHUP", "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)", 0),
    ],
)
def test_a_signal_leaves_a_whole_file_and_nothing_else(signals: str, prefix: str, code: int, tmp_path: Path) -> None:
    """The signal comes while the temporary file is there, and does what it would do otherwise once it is not."""
    usual = "import signal\nfor one in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(one, signal.SIG_DFL)"
    command = [sys.executable, "-c", f"{usual}\n{prefix}\n{SIGNALLED}", signals]  # who started the tests may ignore some
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == code
    assert (tmp_path / "there/out").read_text() == "whole"
    assert names(tmp_path / "there") == ["out"]
    assert (ran.stdout == "goes on\n") == (code == 0)


@pytest.mark.slow
def test_pull_ended_at_any_moment_leaves_only_policy_files(project: Project) -> None:
    """Each ends with SIGTERM when one more file is there; whatever the moment, no file is half written or hidden."""
    put(row(f"p{number:03}", description="x" * 2000) for number in range(400))
    for wanted in range(1, 60, 12):
        shutil.rmtree(project.policies)
        project.policies.mkdir()
        with subprocess.Popen([sys.executable, "-m", "policyctl", "pull"], stdout=-3, stderr=-3) as process:
            while len(os.listdir(project.policies)) < wanted:
                assert process.poll() is None
            process.terminate()
        assert process.returncode == -signal.SIGTERM
        found = list(project.policies.iterdir())
        assert wanted <= len(found) < 400
        assert [path.name for path in found if path.suffix != ".yaml" or path.name.startswith(".")] == []
        assert {len(path.read_bytes()) for path in found} == {len(found[0].read_bytes())}
