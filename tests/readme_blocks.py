"""The console blocks of README and manual: `python -m tests.readme_blocks` runs them and writes what they print."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.git_repo import SURROUNDINGS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
MANUAL = ROOT / "policyctl" / "manual"
EVIDENCE = MANUAL / "evidence.md"
PAGES = (README, *sorted(MANUAL.glob("*.md")))
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\$ (.+(?:\n> .*)*)", re.MULTILINE)
_MARK = "\x1e"  # printed before what a command prints; no command prints it


def rerun(text: str, folder: Path) -> str:
    """A page's text with its console blocks run anew in one shell, which starts in a copy of the checkout's policies.

    `folder` holds that copy (`checkout`) and, beside it, all temporary files of the commands.
    """
    checkout = folder / "checkout"
    shutil.copytree(ROOT / "policies", checkout / "policies")
    commands = [found for block in _BLOCK.findall(text) for found in _COMMAND.findall(block)]
    printed = iter(_shell(commands, checkout))

    def replay(block: re.Match[str]) -> str:
        shown = "".join(f"$ {command}\n{next(printed)}" for command in _COMMAND.findall(block[1]))
        return f"```console\n{shown}```"

    return _BLOCK.sub(replay, text)


def _shell(commands: list[str], folder: Path) -> list[str]:
    """What each command prints, on standard output and error together, one after the other in one shell."""
    temporary = folder.parent / "tmp"
    temporary.mkdir()
    script = "".join(f"printf '\\036'\n{command.replace(chr(10) + '> ', chr(10))}\n" for command in commands)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    keep = {name: value for name, value in SURROUNDINGS.items() if not name.startswith(("POLICYCTL_", "GITHUB_", "CI"))}
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**keep, "PATH": path, "COLUMNS": "100", "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return ran.stdout.split(_MARK)[1:]


def main() -> None:
    """Rerun the pages that are named on the command line, or all."""
    for page in map(Path, sys.argv[1:] or PAGES):
        with tempfile.TemporaryDirectory() as folder:
            page.write_text(rerun(page.read_text("utf-8"), Path(folder)), "utf-8")


if __name__ == "__main__":
    main()
