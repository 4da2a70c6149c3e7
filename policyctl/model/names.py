"""Names: one policy has one canonical name, whichever way it is spelled.

The platform writes `virtual-policy/anygem`; files may say `anygem`. Both are the same policy.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

POLICY_PREFIX = "virtual-policy/"
MODEL_PREFIX = "virtual-model/"
MAX_NAME_LENGTH = 512


def canonical_name(name: str) -> str:
    """The one name of a policy: with the platform's prefix, which is added when missing."""
    return name if name.startswith(POLICY_PREFIX) else POLICY_PREFIX + name


def bare_name(name: str) -> str:
    """The name without the platform's prefix."""
    return name.removeprefix(POLICY_PREFIX)


def spellings(name: str) -> tuple[str, str]:
    """Both spellings that a remote may hold for one policy: canonical first."""
    return canonical_name(name), bare_name(name)


def short_model(model_name: str) -> str:
    """A target's model as shown to people: without `virtual-model/`, which every model shares."""
    return model_name.removeprefix(MODEL_PREFIX)


def full_model(name: str) -> str:
    """A virtual model's name with the platform's prefix, which a declaration may leave out."""
    return name if name.startswith(MODEL_PREFIX) else MODEL_PREFIX + name


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a policy's name, in either spelling, matches one of the globs (case counts, `*` crosses `/`)."""
    both = spellings(name)
    return any(fnmatchcase(spelling, pattern) for pattern in patterns for spelling in both)


def name_complaint(name: str) -> str | None:
    """Why this cannot be a policy's name in a file, or None when it can."""
    bare = bare_name(name)
    if not bare:
        return "name must not be empty"
    if bare != bare.strip():
        return "name must not start or end with white space"
    if not bare.isprintable():
        return "name must not contain control or invisible formatting characters"
    if len(name) > MAX_NAME_LENGTH:
        return f"name must have at most {MAX_NAME_LENGTH} characters, has {len(name)}"
    return None
