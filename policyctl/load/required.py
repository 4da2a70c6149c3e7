"""Which versions of policyctl a configuration is for."""

from __future__ import annotations

from typing import Any

from policyctl import __version__


def version_error(required: Any) -> str | None:
    """Why this version may not read a configuration with that `required_version`; None if it may, or if none is required."""
    if not isinstance(required, str):
        return None  # absent, or of the wrong form, which is another problem
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        fits = SpecifierSet(required).contains(__version__, prereleases=True)
    except InvalidSpecifier:
        return f"{required!r} is not a range of versions; write it as >=0.1,<1"
    return None if fits else f"this is policyctl {__version__}, and {required} is required; use a version in that range"
