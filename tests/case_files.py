"""The stored policy files below `cases/`; tests/test_cases.py describes their kinds."""

from __future__ import annotations

import shutil
from pathlib import Path

CASES = Path(__file__).parent / "cases"

# Links that belong to a case, made here because archives and checkouts lose them: (the case, the link, where it leads).
LINKS = (
    ("P001-dangling-link", "gone.yaml", "nowhere.yaml"),
    ("P008-links", "out.yaml", "../outside.yaml"),
    ("P008-links", "folder", "."),
)


def cases(kind: str) -> list[str]:
    """The names of the cases of a kind."""
    return sorted(path.name for path in (CASES / kind).iterdir() if path.suffix != ".txt")


def copied(kind: str, name: str, folder: Path) -> None:
    """Put a case where nothing above it is a configuration of anything else."""
    source = CASES / kind / name
    if source.is_dir():
        shutil.copytree(source, folder / name)
        for case, link, target in LINKS:
            if case == name:
                (folder / name / link).symlink_to(target)
    else:
        shutil.copy(source, folder)
