"""The command group and the one place where errors become messages and exit codes."""

from __future__ import annotations

import errno
import gc
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, TextIO

import click

from policyctl import __version__
from policyctl.cli.options import ALL, NAMES, Commands, Options, usage_message, with_options
from policyctl.errors import InvalidInput, PolicyctlError

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Name → what it does, in the order of the README.
COMMANDS = {
    "validate": "Check policy files, offline.",
    "fmt": "Write YAML files in one style, with their comments.",
    "test": "Run the scenario tests beside the policies.",
    "plan": "Show what apply would change.",
    "diff": "Show what is live and what the files want as unified YAML.",
    "show": "Show a saved plan, offline.",
    "drift": "Show who moved: Git, the remote, or both; take edits of the remote over into the files.",
    "apply": "Make the remote match the files.",
    "watch": "Look at environments again and again, and apply what their settings allow.",
    "effect": "Show what policies do to traffic.",
    "consumers": "Show who uses policies and models: agents, flows, knowledge bases, policies.",
    "env": "List the environments of policyctl.yaml, or show the settings of one.",
    "runs": "List the runs of apply over several environments, or show one.",
    "history": "Show who changed what, from the file that apply --audit adds to.",
    "init": "Make a policy directory to start from.",
    "pull": "Write what is live as files.",
    "policy": "Add, import, remove, export, list or show single policies on a remote, without the directory.",
    "model": "Add, import, remove, export, list or show single virtual models on a remote, without the directory.",
    "ci": "Steps of a workflow: comment a plan, find the approved one, keep an issue about drift.",
    "worker": "Plan and apply environments for runs with --on queue, on any number of machines.",
    "serve": "Serve the embedded remote or PostgreSQL over HTTP, as the platform's control plane.",
    "gateway": "Run the policies on live traffic, as an OpenAI-compatible API.",
    "doctor": "Check what would stop a plan: configuration, secrets, network, login, lists.",
    "rules": "List the rules of validate, or explain one.",
    "schema": "Print the JSON Schema of a policy file, of another file, or of what a command prints.",
    "completion": "Print the script for completion in bash, zsh or fish.",
    "help": "Show a page of the manual or the help of a command, or list both.",
}


# Command → the module that it is in, where that has another name.
MODULES = {
    **dict.fromkeys(("completion", "help", "rules", "schema"), "reference"),
    **dict.fromkeys(("fmt", "test", "validate"), "files"),
    "consumers": "live",
    "diff": "plan",
    "env": "environments",
    "gateway": "serve",
    "model": "main",
    "policy": "main",
    "pull": "drift",
    "runs": "history",
    "show": "plan",
    "worker": "queue",
}

EPILOG = """\b
Example:
  policyctl validate
  policyctl plan
  policyctl apply --yes
  policyctl help tutorial

\b
Exit codes: 0 done or no changes, 1 error, 2 changes (plan --detailed-exitcode),
3 refused by a safety rule, 4 stale plan, 5 not all applied, 64 usage."""


@click.group(
    cls=Commands,
    package="policyctl.cli",
    table=COMMANDS,
    modules=MODULES,
    epilog=EPILOG,
    context_settings={"auto_envvar_prefix": "POLICYCTL", "help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="policyctl", message="%(prog)s %(version)s")
@with_options(*ALL)
def policyctl(options: Options) -> None:
    """Model policies in Git: a directory of YAML files is what should exist, plan shows what would change, apply changes
    it."""


POLICY_COMMANDS = {
    "add": "Add a policy over some models, or update the one of that name.",
    "import": "Add or update the policy of a file.",
    "remove": "Remove a policy.",
    "export": "Write a live policy as a file.",
    "list": "List the live policies.",
    "show": "Show one live policy.",
}

POLICY_EPILOG = """\b
Example:
  policyctl policy list
  policyctl policy add anygem --strategy fallback --model virtual-model/a/x --model virtual-model/b/y
  policyctl policy import --file anygem.yaml --dry-run"""


# Here, and not with their commands, so that the help of these groups imports none of them.
@click.group(
    "policy",
    cls=Commands,
    package="policyctl.cli",
    table=POLICY_COMMANDS,
    modules={**{name: f"live:{name}_policy" for name in POLICY_COMMANDS}, "list": "live:list_policies"},
    epilog=POLICY_EPILOG,
)
@with_options(*NAMES)
def policy(options: Options) -> None:
    """Single policies on a remote, for when a pull request would take too long. The files of the directory still win at
    the next apply; add --save to change them instead."""


MODEL_COMMANDS = {
    "add": "Add a virtual model, or update the one of that name.",
    "import": "Add or update the model of a file.",
    "remove": "Remove a model.",
    "export": "Write a live model as a file.",
    "list": "List the live models.",
    "show": "Show one live model.",
}

MODEL_EPILOG = """\b
Example:
  policyctl model list
  policyctl model add openai/gpt-4o --app-id openai_creds
  policyctl model import --file gpt-4o.yaml --dry-run"""


@click.group(
    "model",
    cls=Commands,
    package="policyctl.cli",
    table=MODEL_COMMANDS,
    modules={**{name: f"live:{name}_model" for name in MODEL_COMMANDS}, "list": "live:list_models"},
    epilog=MODEL_EPILOG,
)
@with_options(*NAMES)
def model(options: Options) -> None:
    """Single virtual models on a remote, for when a pull request would take too long. Where the directory manages models, its
    files still win at the next apply; add --save to change them instead. No model is called to test it."""


def main(args: Sequence[str] | None = None) -> None:
    """The program: run and exit."""
    # Plugins of other packages are not wanted here, and looking for them reads the metadata of every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # pydantic still imports what would look for them, which takes a twelfth of the time of a short run.
    loader = ModuleType("pydantic.plugin._loader")
    vars(loader).update(get_plugins=tuple)
    sys.modules[loader.__name__] = loader
    outlive_readers()
    code = run(args)
    # The interpreter collects once more before it ends, which takes a sixth of a short run and frees what ends anyway.
    gc.freeze()
    sys.exit(code)


def run(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Every error becomes one clear message on standard error."""
    open_streams()
    try:
        code = policyctl.main(args, prog_name="policyctl", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        return _report_usage(error, sys.argv[1:] if args is None else list(args))
    except (click.Abort, KeyboardInterrupt):
        _print_error("interrupted")
        return 130
    except InvalidInput as error:
        return _report_problems(error)
    except PolicyctlError as error:
        return _report_error(error, args)
    except Exception as error:  # noqa: BLE001 - the boundary: whatever is left becomes one message
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # of click's own output; commands name what they write
            _print_error(f"error: standard output cannot be written: {error.strerror}")
            return 1
        return _report_bug(error, args)
    finally:
        discard_unwritable()
    return code if isinstance(code, int) else 0


def _report_usage(error: click.ClickException, args: list[str]) -> int:
    """Print an error of click's in one line, like all others, or the help for a group without a command."""
    message = error.format_message()
    context = error.ctx if isinstance(error, click.UsageError) else None
    if message.startswith("Usage:"):
        _print_error(message)
    else:
        see = f" (see {context.command_path} --help)" if context else ""
        _print_error(f"error: {_visible(usage_message(error, args))}{see}")
    return 64 if isinstance(error, click.UsageError) else 1


def _print_error(text: str) -> None:
    """Print a line on standard error. If that fails, the exit code still shows the error."""
    with suppress(OSError):
        click.echo(text, err=True)


def _report_problems(error: InvalidInput) -> int:
    from policyctl.cli.console import stream_lines, terminal_width
    from policyctl.report.format import Style

    for line in stream_lines(error.problems, Style(width=terminal_width(sys.stderr, os.environ)), sys.stderr):
        _print_error(line)
    return error.exit_code


def _visible(text: str) -> str:
    """A message without control characters that a terminal would obey; lines are kept."""
    from policyctl.report.format import escape

    return "\n".join(map(escape, text.split("\n")))


def _report_error(error: PolicyctlError, args: Sequence[str] | None) -> int:
    _print_error(f"error: {_visible(str(error))}")
    for line in error.details if _is_verbose(args) else ():
        _print_error(f"  {_visible(line)}")
    return error.exit_code


def _is_verbose(args: Sequence[str] | None) -> bool:
    """Whether -v was given. The command's options are gone once an error has ended it."""
    given = sys.argv[1:] if args is None else args
    return os.environ.get("POLICYCTL_VERBOSE", "0") != "0" or any(arg == "--verbose" or arg.startswith("-v") for arg in given)


def _report_bug(error: Exception, args: Sequence[str] | None) -> int:
    # The message may come from any library, and may contain a request with its headers.
    redaction = sys.modules.get("policyctl.remote.redaction")  # if it was not imported, no secret was read
    redact = redaction.redact_everything if redaction else str
    _print_error(f"error: a bug in policyctl: {type(error).__name__}: {_visible(redact(str(error)))}")
    if any(arg.startswith("-vv") for arg in (sys.argv[1:] if args is None else args)):
        import traceback

        _print_error(_visible(redact("".join(traceback.format_exception(error)))).removesuffix("\n"))
    else:
        _print_error("run it again with -vv and report the output")
    return 1


class _Unread(io.FileIO):
    """An output whose reader may leave early, as `head` does: the rest is dropped, and the work goes on."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return super().write(data)


def open_streams() -> None:
    """Replace streams that the caller closed by the null device; else the next file that is opened would take their place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - open until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show → gets \u2192, not a traceback
            stream.reconfigure(errors="backslashreplace")


def outlive_readers() -> None:
    """Let writes to output and error succeed after the reader has left."""
    open_streams()
    # __stdout__, not stdout: a stream that open_streams made would be closed with the object that is replaced here.
    if sys.__stdout__ is not None:
        sys.stdout = _outliving(sys.__stdout__)
    if sys.__stderr__ is not None:
        sys.stderr = _outliving(sys.__stderr__)


def discard_unwritable() -> None:
    """Discard output that cannot be written, or the interpreter would retry at exit and change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _outliving(stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Unread(stream.fileno(), "wb", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        newline="\n",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
