"""What is live, one by one: policyctl policy and model, like `orchestrate models` of the platform, and policyctl consumers.

The groups `policy` and `model` are in main.py.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
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
from policyctl.cli.options import NAMES, Options, complete_names, with_form, with_options
from policyctl.cli.selection import KEY_LOSS
from policyctl.cli.session import Session, open_session
from policyctl.errors import Incomplete, PolicyctlError, UsageError, errors_in
from policyctl.lint.directory import check_model, lint
from policyctl.load.adopt import SUFFIX, file_names
from policyctl.load.directory import Loaded
from policyctl.load.source import write_atomically
from policyctl.load.write import file_text, policy_text, unrepresentable_reasons
from policyctl.plan.consumers import Consumers
from policyctl.plan.plan import Desired
from policyctl.plan.settings import Override
from policyctl.policy.document import Document, Policy, policy_from_file
from policyctl.policy.findings import Finding, did_you_mean
from policyctl.policy.live import Live, LiveRows
from policyctl.policy.model_schema import ModelType, read_model
from policyctl.policy.names import MODEL_PREFIX, Kind, canonical_name, kind_of, matches, virtual_model
from policyctl.policy.schema import Mode
from policyctl.policy.virtual_model import VirtualModel
from policyctl.reconcile.observe import find_live, observe, read_consumers, uses_with_lines
from policyctl.report.format import count
from policyctl.report.policies import (
    Usage,
    UsedName,
    extra_comments,
    file_text_or_why,
    lacking,
    live_json,
    live_text,
    usage_json,
    usage_text,
)
from policyctl.rules import DEFAULT_CODES

ADD_POLICY_EPILOG = """\b
Example:
  policyctl policy add anygem --strategy loadbalance \\
    --model virtual-model/google/gemini-2.0-flash --weight 0.75 \\
    --model virtual-model/google/gemini-2.0-flash-lite --weight 0.25
  policyctl policy add safe --strategy fallback --strategy-on-code 503 --model virtual-model/a/x \\
    --model virtual-model/b/y --retry-attempts 2 --retry-on-code 429 --retry-on-code 503 --dry-run"""

# The option that a part of the policy comes from, for messages.
_POLICY_OPTIONS = {
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


@click.command("add", epilog=ADD_POLICY_EPILOG)
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
def add_policy(options: Options, how: ChangeOptions, **given: Any) -> int:
    """Add the policy NAME over some models. A policy of that name is updated: it becomes what the options describe, and what
    they leave out is removed."""
    policy = policy_from_options(**given)
    session = open_session(options)
    # A change of the remote is checked against the remote's own models, and takes their spelling.
    codes = DEFAULT_CODES if how.save else DEFAULT_CODES - {"P441"}
    for finding in lint(policy.document, codes):
        session.console.say(f"{finding.severity}: {_policy_note(finding)}")
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
        raise UsageError("\n".join(map(_policy_note, found)))
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


def _policy_note(finding: Finding) -> str:
    field = ".".join(part for part in finding.path if isinstance(part, str))
    return f"{_POLICY_OPTIONS.get(field, field)}: {finding.message}"


IMPORT_POLICY_EPILOG = """\b
Example:
  policyctl policy import --file anygem.yaml
  policyctl policy import --file anygem.json --env prod --dry-run"""


@click.command("import", epilog=IMPORT_POLICY_EPILOG)
@click.option(
    "--file", "-f", required=True, type=click.Path(path_type=Path), metavar="FILE", help="One policy, as YAML or JSON."
)
@with_change_options
@with_options(*NAMES)
def import_policy(options: Options, how: ChangeOptions, file: Path) -> int:
    """Add the policy of a file, or update the live one of its name."""
    session = open_session(options)
    return write(read_one(file, "policy", session), session, how)


REMOVE_POLICY_EPILOG = """\b
Example:
  policyctl policy remove anygem
  policyctl policy remove prod-old --allow-remove prod-old --yes"""


@click.command("remove", epilog=REMOVE_POLICY_EPILOG)
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

LIST_POLICY_EPILOG = """\b
Example:
  policyctl policy list
  policyctl policy list --format json | jq -r '.policies[].name'"""


@click.command("list", epilog=LIST_POLICY_EPILOG)
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


SHOW_POLICY_EPILOG = """\b
Example:
  policyctl policy show anygem
  policyctl policy show anygem --format json"""


@click.command("show", epilog=SHOW_POLICY_EPILOG)
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


EXPORT_POLICY_EPILOG = """\b
Example:
  policyctl policy export anygem --output anygem.yaml
  policyctl policy export anygem --output anygem.zip
  policyctl policy export anygem --output -"""


@click.command("export", epilog=EXPORT_POLICY_EPILOG)
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


def _open_with_models(options: Options) -> Session:
    """A session whose remote has virtual models too, whether or not the directory manages them."""
    session = open_session(options)
    environment = replace(session.environment, settings=session.environment.settings._replace(models=True))
    return session._replace(environment=environment, access=session.access._replace(environment=environment))


# The option that a part of the model comes from, for messages.
_MODEL_OPTIONS = {
    "name": "--name",
    "display_name": "--display-name",
    "description": "--description",
    "provider_config": "--provider-config",
    "model_type": "--type",
    "app_id": "--app-id",
}

_APP_ID = "The connection that holds the credentials, by its app id."
_with_key_loss = click.option(
    KEY_LOSS,
    "key_loss",
    multiple=True,
    metavar="NAME",
    help="Allow the update, though a key may be hidden.",
)

ADD_MODEL_EPILOG = """\b
Example:
  policyctl model add openai/gpt-4o --app-id openai_creds
  policyctl model add watsonx/meta-llama/llama-3 --app-id wx --provider-config '{"watsonx_space_id": "…"}' --dry-run"""


@click.command("add", epilog=ADD_MODEL_EPILOG)
@with_name("model")
@click.option("--app-id", "-a", metavar="APP_ID", help=_APP_ID)
@click.option("--provider-config", metavar="JSON", help="Settings of the provider, without secrets: those are in a connection.")
@click.option("--display-name", metavar="TEXT", help="The name that people see.  [default: the name]")
@click.option("--description", "-d", metavar="TEXT", help="What the model is for.  [default: the name]")
@click.option("--type", "model_type", type=click.Choice(get_args(ModelType)), default="chat", show_default=True)
@_with_key_loss
@with_change_options
@with_options(*NAMES)
def add_model(options: Options, how: ChangeOptions, key_loss: tuple[str, ...], **given: Any) -> int:
    """Add the model NAME, <provider>/<model>. A model of that name is updated: it becomes what the options describe, and what
    they leave out is removed, but for secrets of its own."""
    model = model_from_options(**given)
    session = _open_with_models(options)
    for finding in check_model(model.document):
        session.console.say(f"{finding.severity}: {_model_note(finding)}")
    return _write_model(model, session, how, key_loss)


def _write_model(model: Desired, session: Session, how: ChangeOptions, key_loss: tuple[str, ...]) -> int:
    if idle := [name for name in key_loss if not matches(model.name, (name,))]:
        raise UsageError(f"{KEY_LOSS} {idle[0]} is not the model to write, {model.name}; correct it or leave it out")
    return write(model, session, how, overrides=tuple(Override(KEY_LOSS, name) for name in key_loss))


def model_from_options(*, name: str, provider_config: str | None, **texts: str | None) -> VirtualModel:
    """The model that the options describe. Raises UsageError, naming the option, for one that a file could not contain."""
    data: Document = {"spec_version": "v1", "kind": "model", "name": name}
    data |= {key: text for key, text in texts.items() if text}
    if provider_config is not None:
        data["provider_config"] = _json_of(provider_config)
    model, found = read_model(data, "")
    if model is None:
        raise UsageError("\n".join(_model_note(one) for one in found if one.severity == "error"))
    return model


def _json_of(text: str) -> Any:
    """The settings in an option; no message shows the text, which may hold a secret."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise UsageError(
            '--provider-config: it is not JSON; write an object such as \'{"custom_host": "https://…"}\''
        ) from None
    if not isinstance(found, dict):
        raise UsageError("--provider-config: it must be a JSON object")
    return found


def _model_note(finding: Finding) -> str:
    return f"{_MODEL_OPTIONS[str(finding.path[0])]}: {finding.message}"


IMPORT_MODEL_EPILOG = """\b
Example:
  policyctl model import --file gpt-4o.yaml
  policyctl model import --file gpt-4o.yaml --app-id openai_creds --dry-run"""


@click.command("import", epilog=IMPORT_MODEL_EPILOG)
@click.option(
    "--file", "-f", required=True, type=click.Path(path_type=Path), metavar="FILE", help="One model, as YAML or JSON."
)
@click.option("--app-id", "-a", metavar="APP_ID", help=f"{_APP_ID} It wins over the file's.")
@_with_key_loss
@with_change_options
@with_options(*NAMES)
def import_model(options: Options, how: ChangeOptions, file: Path, app_id: str | None, key_loss: tuple[str, ...]) -> int:
    """Add the model of a file, or update the live one of its name."""
    if app_id == "":
        raise UsageError("--app-id: it is empty; name a connection, or leave it out")
    session = _open_with_models(options)
    model = read_one(file, "model", session)
    if app_id is not None:
        model = VirtualModel(model.name, {**model.document, "app_id": app_id}, model.file, model.index)
    return _write_model(model, session, how, key_loss)


REMOVE_MODEL_EPILOG = """\b
Example:
  policyctl model remove openai/gpt-4o
  policyctl model remove openai/old --allow-remove openai/old --yes"""


@click.command("remove", epilog=REMOVE_MODEL_EPILOG)
@with_name("model")
@with_removal_options
@with_options(*NAMES)
def remove_model(options: Options, name: str, **how: Any) -> int:
    """Remove the model NAME. One that is protected, or that a live policy targets, is not removed."""
    return remove(virtual_model(name), _open_with_models(options), **how)


LIST_MODEL_EPILOG = """\b
Example:
  policyctl model list
  policyctl model list --format json | jq -r '.models[].name'"""


@click.command("list", epilog=LIST_MODEL_EPILOG)
@with_form("text", "json")
@with_options("dir", "env", "remote", "color", "verbose")
def list_models(options: Options, form: str) -> int:
    """List every virtual model on the remote, in scope or not. Of secrets only that they are set is shown."""
    return list_live("model", _open_with_models(options), form)


SHOW_MODEL_EPILOG = """\b
Example:
  policyctl model show openai/gpt-4o
  policyctl model show openai/gpt-4o --format json"""


@click.command("show", epilog=SHOW_MODEL_EPILOG)
@with_name("model")
@with_form("text", "json")
@with_options("dir", "env", "remote", "verbose")
def show_model(options: Options, name: str, form: str) -> int:
    """Show the live model NAME: as a model file, or as JSON. Of secrets only that they are set is shown."""
    return show_live(virtual_model(name), _open_with_models(options), form)


EXPORT_MODEL_EPILOG = """\b
Example:
  policyctl model export openai/gpt-4o --output gpt-4o.yaml
  policyctl model export openai/gpt-4o --output gpt-4o.zip
  policyctl model export openai/gpt-4o --output -"""


@click.command("export", epilog=EXPORT_MODEL_EPILOG)
@with_name("model")
@with_output
@with_options("dir", "env", "remote", "verbose")
def export_model(options: Options, name: str, output: str) -> int:
    """Write the live model NAME as a model file, without secrets. The same model gives the same bytes; an existing file is
    overwritten."""
    return export_live(virtual_model(name), options, _open_with_models, output)


CONSUMERS_EPILOG = """\b
Example:
  policyctl consumers
  policyctl consumers anygem --env prod
  policyctl consumers virtual-model/openai/gpt-4o --format json"""


@click.command("consumers", epilog=CONSUMERS_EPILOG)
@click.argument("name", required=False, shell_complete=complete_names)
@with_form("text", "json")
@with_options(*NAMES)
def consumers(options: Options, name: str | None, form: str) -> int:
    """Show who uses each policy and model, or the one called NAME: agents, flows, knowledge bases, controls, the tenant's
    settings and other policies, directly or through others.

    Files of agents, flows, knowledge bases and controls in the policy directory count too. Exit code 5 means that some list
    could not be read, so who uses what is not known as a whole.
    """
    session = open_session(options)
    loaded = session.read(lenient=True).loaded
    with session.reader() as reader, session.console.progress.of("Reading who uses what", "list"):
        observed, models = observe(reader), reader.models()
        in_files = {policy.name: policy.document for policy in loaded.policies}
        found = read_consumers(reader, loaded, in_files | {one.name: one.document for one in observed.policies.values()})
    names = _known_names(observed, models, loaded, found)
    chosen = sorted(names) if name is None else _chosen(name, names)
    uses = uses_with_lines(found, sorted(chosen, key=lambda one: (kind_of(one) == "model", one)), loaded)
    used = tuple(UsedName(one, _exists(one, observed, models), by) for one, by in uses.items())
    notes = [*found.notes, *_broken_files(loaded)]
    usage = Usage(session.environment.name, session.remote, used, found.unread, tuple(notes))
    session.console.result(usage_json(usage) if form == "json" else usage_text(usage, session.console.out_style))
    if found.unread:
        raise Incomplete(f"{count(len(found.unread), 'source')} could not be read, so it is not known who uses what")
    return 0


def _known_names(observed: LiveRows, models: Collection[str], loaded: Loaded, found: Consumers) -> frozenset[str]:
    """Every policy and virtual model that is live, declared in a file, or named with its prefix by a consumer."""
    virtual = (name for name in models if name.startswith(MODEL_PREFIX))
    return frozenset((*observed.live, *virtual, *loaded.names, *map(virtual_model, loaded.models), *found.named))


def _chosen(name: str, names: Collection[str]) -> list[str]:
    """The policy and the model of that name, in either spelling. Raises PolicyctlError when there is neither."""
    found = [one for one in dict.fromkeys((name, canonical_name(name), virtual_model(name))) if one in names]
    if not found:
        guess = did_you_mean(name, sorted(names)) or did_you_mean(canonical_name(name), sorted(names))
        raise PolicyctlError(f"no policy or model {name} is known{guess}; policyctl consumers lists all")
    return found


def _exists(name: str, observed: LiveRows, models: Collection[str]) -> bool | None:
    """Whether the remote has it; None where that is not known, as of models that it does not list."""
    if name in observed.live or name in models or any(twins.name == name for twins in observed.twins):
        return True
    known = bool(models) if kind_of(name) == "model" else observed.whole and not observed.unreadable
    return False if known else None


def _broken_files(loaded: Loaded) -> Iterator[str]:
    if number := len({problem.mark.file for problem in errors_in(loaded.problems)}):
        yield f"{count(number, 'file')} with errors could not be read as a whole; policyctl validate shows why"
