"""policyctl policy export."""

from __future__ import annotations

from pathlib import Path

import click

from policyctl.cli.console import Console
from policyctl.cli.finding import find_live
from policyctl.cli.opening import find_place
from policyctl.cli.options import Options, with_options
from policyctl.cli.policy.options import with_name
from policyctl.core.extra import extra_notes, extras
from policyctl.errors import PolicyctlError, UsageError
from policyctl.load.archive import policy_archive
from policyctl.load.files import write_atomically
from policyctl.load.write import policy_text, reasons
from policyctl.model.names import canonical_name
from policyctl.remote.open import open_reader
from policyctl.report.plain import place as where
from policyctl.report.policies import extra_comments

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
    place = find_place(options)
    with open_reader(place.url, place.access) as reader:
        live = find_live(reader, name, place.environment.name)
    text = policy_text(live.document)
    if not isinstance(text, str):
        raise PolicyctlError(f"{name} cannot be a policy file: {'; '.join(reasons(text))}")
    text += extra_comments(live)
    if output == "-":
        console.result(text)
        return 0
    for note in extra_notes({name: extras(live.document)}, where):
        console.say(f"note  {note}")
    write_atomically(path, policy_archive(name, text, path.stem) if path.suffix == ".zip" else text)
    console.say(f"wrote {output}")
    return 0
