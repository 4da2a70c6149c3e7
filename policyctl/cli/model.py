"""policyctl model: single virtual models on a remote, like the platform's own `orchestrate models`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

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
from policyctl.cli.options import NAMES, Commands, Options, with_form, with_options
from policyctl.cli.policy import export_live, list_live, show_live, with_output
from policyctl.cli.selection import KEY_LOSS
from policyctl.cli.session import Session, open_session
from policyctl.errors import UsageError
from policyctl.lint.directory import check_model
from policyctl.plan.plan import Desired
from policyctl.plan.settings import Override
from policyctl.policy.document import Document
from policyctl.policy.findings import Finding
from policyctl.policy.model_schema import ModelType, read_model
from policyctl.policy.names import matches, virtual_model
from policyctl.policy.virtual_model import VirtualModel

COMMANDS = {
    "add": "Add a virtual model, or update the one of that name.",
    "import": "Add or update the model of a file.",
    "remove": "Remove a model.",
    "export": "Write a live model as a file.",
    "list": "List the live models.",
    "show": "Show one live model.",
}

EPILOG = """\b
Example:
  policyctl model list
  policyctl model add openai/gpt-4o --app-id openai_creds
  policyctl model import --file gpt-4o.yaml --dry-run"""


@click.group(
    "model", cls=Commands, package="policyctl.cli", table=COMMANDS, modules=dict.fromkeys(COMMANDS, "model"), epilog=EPILOG
)
@with_options(*NAMES)
def command(options: Options) -> None:
    """Single virtual models on a remote, for when a pull request would take too long. Where the directory manages models, its
    files still win at the next apply; add --save to change them instead. No model is called to test it."""


def _open(options: Options) -> Session:
    """A session whose remote has virtual models too, whether or not the directory manages them."""
    session = open_session(options)
    environment = replace(session.environment, settings=session.environment.settings._replace(models=True))
    return session._replace(environment=environment, access=session.access._replace(environment=environment))


# The option that a part of the model comes from, for messages.
_OPTIONS = {
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

ADD_EPILOG = """\b
Example:
  policyctl model add openai/gpt-4o --app-id openai_creds
  policyctl model add watsonx/meta-llama/llama-3 --app-id wx --provider-config '{"watsonx_space_id": "…"}' --dry-run"""


@click.command("add", epilog=ADD_EPILOG)
@with_name("model")
@click.option("--app-id", "-a", metavar="APP_ID", help=_APP_ID)
@click.option("--provider-config", metavar="JSON", help="Settings of the provider, without secrets: those are in a connection.")
@click.option("--display-name", metavar="TEXT", help="The name that people see.  [default: the name]")
@click.option("--description", "-d", metavar="TEXT", help="What the model is for.  [default: the name]")
@click.option("--type", "model_type", type=click.Choice(get_args(ModelType)), default="chat", show_default=True)
@_with_key_loss
@with_change_options
@with_options(*NAMES)
def add(options: Options, how: ChangeOptions, key_loss: tuple[str, ...], **given: Any) -> int:
    """Add the model NAME, <provider>/<model>. A model of that name is updated: it becomes what the options describe, and what
    they leave out is removed, but for secrets of its own."""
    model = model_from_options(**given)
    session = _open(options)
    for finding in check_model(model.document):
        session.console.say(f"{finding.severity}: {_note(finding)}")
    return _write(model, session, how, key_loss)


def _write(model: Desired, session: Session, how: ChangeOptions, key_loss: tuple[str, ...]) -> int:
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
        raise UsageError("\n".join(_note(one) for one in found if one.severity == "error"))
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


def _note(finding: Finding) -> str:
    return f"{_OPTIONS[str(finding.path[0])]}: {finding.message}"


IMPORT_EPILOG = """\b
Example:
  policyctl model import --file gpt-4o.yaml
  policyctl model import --file gpt-4o.yaml --app-id openai_creds --dry-run"""


@click.command("import", epilog=IMPORT_EPILOG)
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
    session = _open(options)
    model = read_one(file, "model", session)
    if app_id is not None:
        model = VirtualModel(model.name, {**model.document, "app_id": app_id}, model.file, model.index)
    return _write(model, session, how, key_loss)


REMOVE_EPILOG = """\b
Example:
  policyctl model remove openai/gpt-4o
  policyctl model remove openai/old --allow-remove openai/old --yes"""


@click.command("remove", epilog=REMOVE_EPILOG)
@with_name("model")
@with_removal_options
@with_options(*NAMES)
def remove_model(options: Options, name: str, **how: Any) -> int:
    """Remove the model NAME. One that is protected, or that a live policy targets, is not removed."""
    return remove(virtual_model(name), _open(options), **how)


LIST_EPILOG = """\b
Example:
  policyctl model list
  policyctl model list --format json | jq -r '.models[].name'"""


@click.command("list", epilog=LIST_EPILOG)
@with_form("text", "json")
@with_options("dir", "env", "remote", "color", "verbose")
def list_models(options: Options, form: str) -> int:
    """List every virtual model on the remote, in scope or not. Of secrets only that they are set is shown."""
    return list_live("model", _open(options), form)


SHOW_EPILOG = """\b
Example:
  policyctl model show openai/gpt-4o
  policyctl model show openai/gpt-4o --format json"""


@click.command("show", epilog=SHOW_EPILOG)
@with_name("model")
@with_form("text", "json")
@with_options("dir", "env", "remote", "verbose")
def show_model(options: Options, name: str, form: str) -> int:
    """Show the live model NAME: as a model file, or as JSON. Of secrets only that they are set is shown."""
    return show_live(virtual_model(name), _open(options), form)


EXPORT_EPILOG = """\b
Example:
  policyctl model export openai/gpt-4o --output gpt-4o.yaml
  policyctl model export openai/gpt-4o --output gpt-4o.zip
  policyctl model export openai/gpt-4o --output -"""


@click.command("export", epilog=EXPORT_EPILOG)
@with_name("model")
@with_output
@with_options("dir", "env", "remote", "verbose")
def export_model(options: Options, name: str, output: str) -> int:
    """Write the live model NAME as a model file, without secrets. The same model gives the same bytes; an existing file is
    overwritten."""
    return export_live(virtual_model(name), options, _open, output)
