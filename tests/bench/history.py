"""A repository with a long history, to measure how long drift searches it: every commit changes one file.

`python -m tests.bench.history` measures it alone.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.corpus import write_corpus
from tests.bench.measure import Cost, measure
from tests.git_repo import SURROUNDINGS, git
from tests.sqlite_rows import edit

COMMITS, FILES = 1000, 50
GOAL = 4.0  # seconds


def write_history(folder: Path) -> None:
    """Make a repository in a folder, whose last commit is applied, and then edit every policy by hand."""
    policies = folder / "policies"
    write_corpus(policies, FILES)
    texts = {path.name: path.read_text("utf-8") for path in sorted(policies.iterdir())}
    chosen = random.Random(1)
    stream = []
    for number in range(COMMITS):
        names = [*texts] if number == 0 else [chosen.choice([*texts])]
        stream.append(f"commit refs/heads/main\ncommitter test <test@example.invalid> {number} +0000\ndata 1\nx\n")
        for name in names:
            text = texts[name].replace("description: ", f"description: Version {number}. ")
            stream.append(f"M 100644 inline policies/{name}\ndata {len(text.encode())}\n{text}\n")
    git(folder, "init", "--quiet", "--initial-branch=main")
    subprocess.run(
        ["git", "-C", str(folder), "fast-import", "--quiet"], input="".join(stream).encode(), env=SURROUNDINGS, check=True
    )
    git(folder, "reset", "--quiet", "--hard", "main")


def _by_hand(document: dict[str, Any]) -> None:
    document["policy"]["retry"]["attempts"] = 9


def search(policyctl: str) -> Cost:
    """The cost of a drift for which all of history is searched: everything was edited by hand."""
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top)
        write_history(folder)
        os.chdir(folder)
        measure((policyctl, "apply", "--yes"))
        for number in range(FILES):
            edit(f"policy-{number:06}", _by_hand, folder / ".policyctl/local.db")
        return measure((policyctl, "drift"))


if __name__ == "__main__":
    cost = search(str(Path(sys.executable).with_name("policyctl")))
    print(f"drift over {COMMITS:,} commits × {FILES} files: {cost.seconds:.2f} s (processor {cost.processor:.2f} s)")
