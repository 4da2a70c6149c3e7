"""A file name for a policy, whatever the policy is called: safe on every file system, and the same one every time."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from policyctl.model.names import bare_name, canonical_name

SUFFIX = ".yaml"
MAX_STEM = 100  # characters; file systems take 255 bytes, and a temporary file beside it needs some of them
_CLEAN = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9_])?")
_HASHED = re.compile(r".*-[0-9a-f]{10}")
# Names of devices on Windows, with any suffix.
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))})


def file_names(name: str) -> tuple[str, ...]:
    """The file names for a policy, the one to prefer first; the last one holds a hash of the name, so that no other has it.

    A name that is no plain file name (`/`, blanks, capitals that some file systems do not tell apart, `policyctl`, `x.test`, …)
    has the hashed one only.
    """
    bare = bare_name(name)
    hashed = f"{_slug(bare)}-{hashlib.sha256(_bytes(canonical_name(name))).hexdigest()[:10]}{SUFFIX}"
    return (bare + SUFFIX, hashed) if _is_clean(bare) else (hashed,)


def _is_clean(stem: str) -> bool:
    """Whether a policy's name may be its file's name as it is."""
    first, last = stem.partition(".")[0], stem.rpartition(".")[2]
    special = first == "policyctl" or first in _RESERVED or ("." in stem and last == "test")
    return len(stem) <= MAX_STEM and bool(_CLEAN.fullmatch(stem)) and not special and not _HASHED.fullmatch(stem)


def _slug(bare: str) -> str:
    """What of a name can be read in any file name."""
    ascii_only = unicodedata.normalize("NFKD", bare.casefold()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_only).strip("-")[: MAX_STEM // 2].strip("-") or "policy"


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
