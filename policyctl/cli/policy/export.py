"""policyctl policy export."""

from __future__ import annotations

import io
import re
from pathlib import Path
from zipfile import ZipFile, ZipInfo

import click

from policyctl.cli.console import Console
from policyctl.cli.options import Options, with_options
from policyctl.cli.policy.change import with_name
from policyctl.cli.session import find_live, open_session
from policyctl.errors import PolicyctlError, UsageError
from policyctl.load.atomic import write_atomically
from policyctl.load.placement import SUFFIX, file_names
from policyctl.load.write import policy_text, unrepresentable_reasons
from policyctl.plan.change import unknown_field_notes, unknown_fields
from policyctl.policy.names import canonical_name
from policyctl.remote.open import open_reader
from policyctl.report.format import position_name as where
from policyctl.report.policies import extra_comments

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


EPILOG = """\b
Example:
  policyctl policy export anygem --output anygem.yaml
  policyctl policy export anygem --output anygem.zip
  policyctl policy export anygem --output -"""


@click.command("export", epilog=EPILOG)
@with_name
@click.option(
    "--output",
    "-o",
    required=True,
    metavar="FILE",
    help="FILE.yaml, FILE.zip (as the platform's own command), or - to print it.",
)
@with_options("dir", "env", "remote", "verbose")
def command(options: Options, name: str, output: str) -> int:
    """Write the live policy NAME as a policy file. The same policy gives the same bytes; an existing file is written over."""
    return export(options, canonical_name(name), output)


def export(options: Options, name: str, output: str) -> int:
    console = Console(options)
    path = Path(output)
    if output != "-" and path.suffix not in (".yaml", ".yml", ".zip"):
        raise UsageError(f"--output: {output} is none of .yaml, .yml, .zip, -")
    place = open_session(options)
    with open_reader(place.url, place.access) as reader:
        live = find_live(reader, name, place.environment.name)
    text = policy_text(live.document)
    if not isinstance(text, str):
        raise PolicyctlError(f"{name} cannot be a policy file: {'; '.join(unrepresentable_reasons(text))}")
    text += extra_comments(live)
    if output == "-":
        console.result(text)
        return 0
    for note in unknown_field_notes({name: unknown_fields(live.document)}, where):
        console.say(f"note  {note}")
    write_atomically(path, policy_archive(name, text, path.stem) if path.suffix == ".zip" else text)
    console.say(f"wrote {output}")
    return 0
