"""Errors of a wrong command line: one line each, with what to write instead.

Words of other tools (terraform, kubectl, git) are translated. No suggestion leads to an option that permits more:
`--auto-approve` is spelled most like `--allow-remove`, and means `--yes`.
"""

from __future__ import annotations

import re

import click

from policyctl.policy.findings import closest, did_you_mean

_NOT_ONE_OF = re.compile(r"'(?P<word>[^']*)' is not one of (?P<known>'.*')$")
_WORD = re.compile(r"'([^']+)'")

# Options that lift a limit or overwrite something are never suggested.
_NEVER_OFFERED = ("--allow-", "--max-", "--overwrite", "--yes", "--lock-timeout")

_PLAN = "policyctl plan shows what would change and writes nothing"
_VARS = "variables are set in policyctl.yaml, under environments.NAME.vars"
_FRESH = "leave it out: the remote is read afresh each time"

# Our option, or a sentence → what other tools call it.
_MEANINGS: dict[str, tuple[str, ...]] = {
    "--yes": ("-y", "--auto-approve", "--autoapprove", "--assume-yes", "--non-interactive", "--no-input", "--confirm"),
    "--only": ("--target", "-t", "--targets", "--include", "--selector", "-l", "--policy", "--resource"),
    "--exclude": ("--skip", "--except", "--ignore"),
    "--dir": ("--path", "--directory", "--chdir", "-C", "--cwd", "-k", "-R", "--recursive"),
    "--env": ("--environment", "-e", "--workspace", "--context", "--namespace", "--profile", "--stage"),
    "--out": ("--save-plan", "--plan-out"),
    "--format": ("--output", "-o", "--json"),
    "--color": ("--no-color", "--no-colour", "--colour"),
    "--quiet": ("--silent", "-s"),
    "--verbose": ("--debug", "--trace-log", "--log-level"),
    "--name": ("--policy-name",),
    "--parallelism": ("--parallel", "-j", "--concurrency", "--jobs"),
}
_SENTENCES: dict[str, tuple[str, ...]] = {
    _PLAN: ("--dry-run", "--dryrun", "--check", "--diff", "--what-if", "--noop", "--preview", "--plan"),
    _VARS: ("--var", "--var-file", "--set", "--values", "--vars", "--extra-vars"),
    _FRESH: ("--refresh", "--refresh-only", "--no-refresh", "--reconfigure", "--upgrade"),
    "leave it out: safety rules are set in policyctl.yaml, in a reviewed change": (
        "--force",
        "--no-verify",
        "--ignore-errors",
        "--skip-checks",
        "--override",
    ),
    "policies are files in a directory: name it with --dir": ("-f", "--file", "--filename"),
    "delete the files of the policies that should go, then plan and apply": ("--destroy", "--delete", "--prune", "--purge"),
    "leave it out: apply reads back and verifies what it wrote": ("--wait", "--watch", "-w", "--verify"),
    "leave it out: no model is called to test it": ("--skip-validation", "--no-validation"),
    "leave it out: apply holds a lock by itself": ("--lock", "--no-lock"),
}

_COMMANDS = {
    "destroy": "delete the files of the policies that should go, then plan and apply",
    "delete": "to remove a policy, delete its file, then plan and apply; in an emergency, policyctl policy remove NAME",
    "remove": "to remove a policy, delete its file, then plan and apply; in an emergency, policyctl policy remove NAME",
    "rm": "to remove a policy, delete its file, then plan and apply; in an emergency, policyctl policy remove NAME",
    "dry-run": _PLAN,
    "preview": _PLAN,
    "status": _PLAN,
    "refresh": _PLAN,
    "check": "policyctl validate checks the files",
    "lint": "policyctl validate checks the files",
    "format": "policyctl fmt writes files in one style",
    "sync": "policyctl apply makes the remote match the files; policyctl pull writes files",
    "push": "policyctl apply makes the remote match the files",
    "deploy": "policyctl apply makes the remote match the files",
    "up": "policyctl apply makes the remote match the files",
    "get": "policyctl policy list shows the live policies, policyctl policy show NAME one of them",
    "list": "policyctl policy list shows the live policies",
    "ls": "policyctl policy list shows the live policies",
    "describe": "policyctl policy show NAME shows a live policy",
    "import": "policyctl pull writes every live policy as a file; policyctl policy import --file FILE writes one to the remote",
    "export": "policyctl pull writes every live policy as a file, policyctl policy export NAME one of them",
    "create": "write a file in the policy directory, then plan and apply; in an emergency, policyctl policy add",
    "add": "write a file in the policy directory, then plan and apply; in an emergency, policyctl policy add",
    "edit": "edit the file in the policy directory, then plan and apply",
    "rollback": "git revert the change, then plan and apply; until that is merged, policyctl apply --to REVISION",
    "undo": "git revert the change, then plan and apply; until that is merged, policyctl apply --to REVISION",
    "log": "policyctl history shows who changed what",
    "audit": "policyctl history shows who changed what",
    "new": "policyctl init makes a policy directory",
    "version": "policyctl --version prints it",
    "login": "a login is set in policyctl.yaml, under environments.NAME.auth",
    "workspace": "environments are set in policyctl.yaml; choose one with --env NAME",
    "env": "environments are set in policyctl.yaml; choose one with --env NAME",
    "config": "environments are set in policyctl.yaml; policyctl schema config prints its schema",
}
_POLICY_COMMANDS = {
    "delete": "remove",
    "rm": "remove",
    "destroy": "remove",
    "get": "show",
    "describe": "show",
    "cat": "show",
    "ls": "list",
    "create": "add",
    "update": "add",
    "set": "add",
    "edit": "add",
    "apply": "import",
}


def usage_message(error: click.ClickException, args: list[str]) -> str:
    """An error of click's as one line, with our suggestions instead of its own."""
    if isinstance(error, click.NoSuchOption):
        typed, option = _typed(error.option_name, args)
        return f"unknown option {typed}{_instead_of(option, error.ctx)}"
    line = " ".join(error.format_message().split()).rstrip(".")
    line = line[:1].lower() + line[1:]
    if isinstance(error, click.BadParameter) and (wrong := _NOT_ONE_OF.search(line)):
        return f"{line}{did_you_mean(wrong['word'], _WORD.findall(wrong['known']))}"
    if line.startswith("got unexpected extra argument") and isinstance(error, click.UsageError):
        takes_only = "--only" in _options(error.ctx)
        return f"{line}; to choose policies, use --only NAME" if takes_only else f"{line}; remove it"
    return line


def unknown_command(name: str, context: click.Context, known: list[str]) -> str:
    """The error for a command that does not exist."""
    top = context.parent is None
    hint = _COMMANDS.get(name) if top else None
    meant = None if top else _POLICY_COMMANDS.get(name)
    close = [meant] if meant in known else closest(name, known)
    guess = f" (did you mean {close[0]}?)" if close and not hint else ""
    return f"unknown command {name}" + (f"; {hint}" if hint else guess)


def _typed(option: str, args: list[str]) -> tuple[str, str]:
    """The option as it was typed, and with two dashes: for `-auto-approve` click reports only `-a`."""
    if len(option) == 2:
        for arg in (arg.partition("=")[0] for arg in args if arg.startswith("-") and not arg.startswith("--")):
            if len(arg) > 2 and option[1] in arg and _meaning(f"-{arg}"):
                return arg, f"-{arg}"
    return option, option


def _meaning(option: str) -> str | None:
    """Our option, or the sentence, for another tool's option."""
    if option in _MEANINGS:
        return option
    return next((ours for table in (_MEANINGS, _SENTENCES) for ours, theirs in table.items() if option in theirs), None)


def _options(context: click.Context | None) -> list[str]:
    return [name for parameter in context.command.params for name in parameter.opts] if context else []


def _instead_of(option: str, context: click.Context | None) -> str:
    known = _options(context)
    meant = _meaning(option)
    if meant is None and option.startswith("--"):
        theirs = [word for table in (_MEANINGS, _SENTENCES) for words in table.values() for word in words if len(word) > 2]
        close = closest(option, [*known, *theirs], cutoff=0.75)
        meant = _meaning(close[0]) if close and close[0] not in known else None
        if close and close[0] in known:
            return "" if close[0].startswith(_NEVER_OFFERED) else f" (did you mean {close[0]}?)"
    if meant in _SENTENCES:
        return f"; {meant}"
    if meant in known:
        return f"; use {_example(meant, option)}"
    return "; leave it out: this command does not ask" if meant == "--yes" else ""


def _example(ours: str, theirs: str) -> str:
    examples = {"--color": "--color never", "--verbose": "-vv"}
    return "--format json" if theirs == "--json" else examples.get(ours, ours)
