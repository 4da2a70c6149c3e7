"""The README's transcripts: `python -m tests.readme` runs them and writes what they print into the README."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.gitting import SURROUNDINGS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def rerun(text: str, folder: Path) -> str:
    """The README's text with every transcript run anew, one after the other, in a folder that starts as a copy of ours."""
    shutil.copytree(ROOT / "policies", folder / "policies")
    return _BLOCK.sub(lambda block: f"```console\n{_replay(block[1], folder)}```", text)


def _replay(transcript: str, folder: Path) -> str:
    commands = [line.removeprefix("$ ") for line in transcript.splitlines() if line.startswith("$ ")]
    said = ""
    for command in commands:
        if command.startswith("cd "):
            folder /= command.removeprefix("cd ")
            said += f"$ {command}\n"
        else:
            said += f"$ {command}\n{_shell(command, folder)}"
    return said


def _shell(command: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    keep = {name: value for name, value in SURROUNDINGS.items() if not name.startswith(("POLICYCTL_", "GITHUB_", "CI"))}
    ran = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**keep, "PATH": path, "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return ran.stdout


def write(text_of: Callable[[str], str]) -> None:
    README.write_text(text_of(README.read_text("utf-8")), "utf-8")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(lambda text: rerun(text, Path(folder)))


if __name__ == "__main__":
    main()
