"""policyctl policy list, show and export: what is live, without the directory."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile, ZipInfo

import click

from policyctl.cli.options import Options, with_options
from policyctl.cli.policy.change import with_name
from policyctl.cli.session import Session, open_session
from policyctl.errors import PolicyctlError, UsageError
from policyctl.load.atomic import write_atomically
from policyctl.load.placement import SUFFIX, file_names
from policyctl.load.write import file_text, unrepresentable_reasons
from policyctl.policy.live import Live, LiveRows
from policyctl.policy.names import Kind, canonical_name, kind_of
from policyctl.reconcile.observe import find_live, observe
from policyctl.report.policies import extra_comments, file_text_or_why, lacking, live_json, live_text

with_form = click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
with_output = click.option(
    "--output",
    "-o",
    required=True,
    metavar="FILE",
    help="FILE.yaml, FILE.zip (as the platform's own command), or - to print it.",
)

LIST_EPILOG = """\b
Example:
  policyctl policy list
  policyctl policy list --format json | jq -r '.policies[].name'"""


@click.command("list", epilog=LIST_EPILOG)
@with_form
@with_options("dir", "env", "remote", "color", "verbose")
def list_policies(options: Options, form: str) -> int:
    """List every policy on the remote, in scope or not."""
    return list_live("policy", open_session(options), form)


def list_live(kind: Kind, session: Session, form: str) -> int:
    """Print what is live of one kind."""
    console, environment = session.console, session.environment.name
    with session.reader() as reader, console.progress.of("Listing", f"live {kind}") as step:
        observed = observe(reader, step, kind)
    if form == "json":
        console.result(live_json(kind, observed, environment, reader.identity))
    else:
        console.result(live_text(kind, observed, environment, session.remote, console.out_style))
    return 0


SHOW_EPILOG = """\b
Example:
  policyctl policy show anygem
  policyctl policy show anygem --format json"""


@click.command("show", epilog=SHOW_EPILOG)
@with_name("policy")
@with_form
@with_options("dir", "env", "remote", "verbose")
def show_policy(options: Options, name: str, form: str) -> int:
    """Show the live policy NAME: as a policy file, or as JSON."""
    return show_live(canonical_name(name), open_session(options), form)


def show_live(name: str, session: Session, form: str) -> int:
    """Print the live policy or model of a canonical name."""
    live, remote = _find(session, name)
    if form == "json":
        session.console.result(live_json(kind_of(name), LiveRows({name: live}), session.environment.name, remote))
    else:
        session.console.result(file_text_or_why(live))
    return 0


def _find(session: Session, name: str) -> tuple[Live, str]:
    """What is live of that name, and the identity of the remote."""
    with session.reader() as reader:
        return find_live(reader, name, session.environment.name), reader.identity


EXPORT_EPILOG = """\b
Example:
  policyctl policy export anygem --output anygem.yaml
  policyctl policy export anygem --output anygem.zip
  policyctl policy export anygem --output -"""


@click.command("export", epilog=EXPORT_EPILOG)
@with_name("policy")
@with_output
@with_options("dir", "env", "remote", "verbose")
def export_policy(options: Options, name: str, output: str) -> int:
    """Write the live policy NAME as a policy file. The same policy gives the same bytes; an existing file is overwritten."""
    return export_live(canonical_name(name), options, open_session, output)


def export_live(name: str, options: Options, opened: Callable[[Options], Session], output: str) -> int:
    """Write the live policy or model of a canonical name as a file."""
    path = Path(output)
    if output != "-" and path.suffix not in (".yaml", ".yml", ".zip"):
        raise UsageError(f"--output: {output} must end in .yaml, .yml or .zip, or be -")
    session = opened(options)
    live, _ = _find(session, name)
    text = file_text(live)
    if not isinstance(text, str):
        raise PolicyctlError(f"{name} cannot be a {kind_of(name)} file: {'; '.join(unrepresentable_reasons(text))}")
    text += extra_comments(live)
    if output == "-":
        session.console.result(text)
        return 0
    for note in lacking(live):
        session.console.say(f"note  {note}")
    write_atomically(path, _archive(name, text, path.stem) if path.suffix == ".zip" else text)
    session.console.say(f"wrote {output}")
    return 0


_SAFE = re.compile(r"[\w-][\w. -]*", re.ASCII)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time in the zip format; a fixed one, so that the bytes are the same each time


def _archive(name: str, text: str, stem: str) -> bytes:
    """A zip with `<stem>/models/<last segment of the name>.yaml`; a segment that is not a safe file name is replaced."""
    segment = name.rpartition("/")[2]
    entry = ZipInfo(f"{stem}/models/{segment + SUFFIX if _SAFE.fullmatch(segment) else file_names(name)[-1]}", _EPOCH)
    entry.external_attr = 0o644 << 16
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as archive:  # not compressed: the bytes would depend on the compressor's version
        archive.writestr(entry, text)
    return buffer.getvalue()
