"""policyctl policy: single policies on a remote, like `orchestrate models policy` of the platform. Its group is in main.py."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args
from zipfile import ZipFile, ZipInfo

import click

from policyctl.cli.change import (
    ChangeOptions,
    read_one,
    remove,
    with_change_options,
    with_name,
    with_removal_options,
    write,
)
from policyctl.cli.options import NAMES, Options, with_form, with_options
from policyctl.cli.session import Session, open_session
from policyctl.errors import PolicyctlError, UsageError
from policyctl.lint.directory import lint
from policyctl.load.adopt import SUFFIX, file_names
from policyctl.load.source import write_atomically
from policyctl.load.write import file_text, policy_text, unrepresentable_reasons
from policyctl.policy.document import Document, Policy, policy_from_file
from policyctl.policy.findings import Finding
from policyctl.policy.live import Live, LiveRows
from policyctl.policy.names import Kind, canonical_name, kind_of
from policyctl.policy.schema import Mode
from policyctl.reconcile.observe import find_live, observe
from policyctl.report.policies import extra_comments, file_text_or_why, lacking, live_json, live_text
from policyctl.rules import DEFAULT_CODES

ADD_EPILOG = """\b
Example:
  policyctl policy add anygem --strategy loadbalance \\
    --model virtual-model/google/gemini-2.0-flash --weight 0.75 \\
    --model virtual-model/google/gemini-2.0-flash-lite --weight 0.25
  policyctl policy add safe --strategy fallback --strategy-on-code 503 --model virtual-model/a/x \\
    --model virtual-model/b/y --retry-attempts 2 --retry-on-code 429 --retry-on-code 503 --dry-run"""

# The option that a part of the policy comes from, for messages.
_OPTIONS = {
    "name": "--name",
    "display_name": "--display-name",
    "description": "--description",
    "policy.strategy.mode": "--strategy",
    "policy.strategy.on_status_codes": "--strategy-on-code",
    "policy.retry.attempts": "--retry-attempts",
    "policy.retry.on_status_codes": "--retry-on-code",
    "policy.targets": "--model",
    "policy.targets.model_name": "--model",
    "policy.targets.weight": "--weight",
}


@click.command("add", epilog=ADD_EPILOG)
@with_name("policy")
@click.option("--model", "-m", "models", multiple=True, required=True, metavar="MODEL", help="A target; repeatable.")
@click.option("--strategy", "-s", type=click.Choice(get_args(Mode)), required=True, help="How a target is chosen.")
@click.option("--weight", "weights", type=float, multiple=True, metavar="W", help="One for each --model, in the same order.")
@click.option(
    "--strategy-on-code", type=int, multiple=True, metavar="CODE", help="A status after which a fallback moves on; repeatable."
)
@click.option(
    "--retry-on-code",
    type=int,
    multiple=True,
    metavar="CODE",
    help="A status after which the model is called again; repeatable.",
)
@click.option("--retry-attempts", type=int, metavar="N", help="How often it is called again.")
@click.option("--display-name", metavar="TEXT", help="The name that people see.  [default: the name]")
@click.option("--description", "-d", metavar="TEXT", help="What the policy is for.  [default: the name]")
@with_change_options
@with_options(*NAMES)
def add(options: Options, how: ChangeOptions, **given: Any) -> int:
    """Add the policy NAME over some models. A policy of that name is updated: it becomes what the options describe, and what
    they leave out is removed."""
    policy = policy_from_options(**given)
    session = open_session(options)
    # A change of the remote is checked against the remote's own models, and takes their spelling.
    codes = DEFAULT_CODES if how.save else DEFAULT_CODES - {"P441"}
    for finding in lint(policy.document, codes):
        session.console.say(f"{finding.severity}: {_note(finding)}")
    return write(policy, session, how, virtual=True)


def policy_from_options(
    *,
    name: str,
    models: tuple[str, ...],
    strategy: str,
    weights: tuple[float, ...],
    strategy_on_code: tuple[int, ...],
    retry_on_code: tuple[int, ...],
    retry_attempts: int | None,
    display_name: str | None,
    description: str | None,
) -> Policy:
    """The policy that the options describe. Raises UsageError, naming the option, for one that a file could not contain."""
    if weights and len(weights) != len(models):
        raise UsageError(f"--weight is given {len(weights)} × and --model {len(models)} ×; give one weight for each model")
    body: Document = {"strategy": {"mode": strategy}}
    if strategy_on_code:
        body["strategy"]["on_status_codes"] = list(strategy_on_code)
    if retry := _retry(retry_attempts, retry_on_code):
        body["retry"] = retry
    body["targets"] = [{"model_name": model} for model in models]
    for target, weight in zip(body["targets"], weights, strict=False):
        target["weight"] = weight
    texts = {"display_name": display_name or None, "description": description or None}
    document = {"name": name, **texts, "policy": body}
    found = policy_text(document)
    if not isinstance(found, str):
        raise UsageError("\n".join(map(_note, found)))
    return policy_from_file(document, "")


def _retry(attempts: int | None, codes: tuple[int, ...]) -> Document | None:
    if attempts is None and codes:
        raise UsageError("--retry-on-code needs --retry-attempts: the gateway refuses a retry without attempts")
    if attempts is None:
        return None
    if not codes:
        raise UsageError(
            "--retry-attempts needs --retry-on-code: without codes the platform's own command drops the retry, and the gateway "
            "would retry on its defaults; name the codes (its defaults are 429, 500, 502, 503 and 504)"
        )
    return {"attempts": attempts, "on_status_codes": list(codes)}


def _note(finding: Finding) -> str:
    field = ".".join(part for part in finding.path if isinstance(part, str))
    return f"{_OPTIONS.get(field, field)}: {finding.message}"


IMPORT_EPILOG = """\b
Example:
  policyctl policy import --file anygem.yaml
  policyctl policy import --file anygem.json --env prod --dry-run"""


@click.command("import", epilog=IMPORT_EPILOG)
@click.option(
    "--file", "-f", required=True, type=click.Path(path_type=Path), metavar="FILE", help="One policy, as YAML or JSON."
)
@with_change_options
@with_options(*NAMES)
def import_policy(options: Options, how: ChangeOptions, file: Path) -> int:
    """Add the policy of a file, or update the live one of its name."""
    session = open_session(options)
    return write(read_one(file, "policy", session), session, how)


REMOVE_EPILOG = """\b
Example:
  policyctl policy remove anygem
  policyctl policy remove prod-old --allow-remove prod-old --yes"""


@click.command("remove", epilog=REMOVE_EPILOG)
@with_name("policy")
@with_removal_options
@with_options(*NAMES)
def remove_policy(options: Options, name: str, **how: Any) -> int:
    """Remove the policy NAME. One that is protected, or that another live policy targets, is not removed."""
    return remove(canonical_name(name), open_session(options), **how)


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
@with_form("text", "json")
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
@with_form("text", "json")
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
