"""A policy file in a zip archive, as the platform's ADK 2.19 exports one."""

from __future__ import annotations

import io
import re
from zipfile import ZipFile, ZipInfo

from policyctl.load.file_names import SUFFIX, file_names

_SAFE = re.compile(r"[\w-][\w. -]*", re.ASCII)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that an archive can say: the same policy gives the same bytes


def policy_archive(name: str, text: str, stem: str) -> bytes:
    """An archive that holds `<stem>/models/<last segment of the name>.yaml`; a segment that is no file name is replaced."""
    segment = name.rpartition("/")[2]
    entry = ZipInfo(f"{stem}/models/{segment + SUFFIX if _SAFE.fullmatch(segment) else file_names(name)[-1]}", _EPOCH)
    entry.external_attr = 0o644 << 16
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as archive:  # stored: how well a compressor does depends on its version
        archive.writestr(entry, text)
    return buffer.getvalue()
