"""The command line: groups whose commands are imported when they are used, options that commands share, what a shell completes,
and errors of a wrong line.

What is completed comes from files and the package; no remote is asked. A completion never fails: what cannot be read completes
nothing, since a message would be drawn into the line that is being typed.

An error has one line, with what to write instead. Words of other tools (terraform, kubectl, git) are translated. No suggestion
leads to an option that permits more: `--auto-approve` is spelled most like `--allow-remove`, and means `--yes`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import click

from policyctl.errors import UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from policyctl.reconcile.audit import AuditRecord

AUDIT_VARIABLE = "POLICYCTL_AUDIT"


class Commands(click.Group):
    """Commands by name, each imported when it is used."""

    def __init__(
        self, *args: Any, package: str, table: Mapping[str, str], modules: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        """`table` describes the commands, in the order of --help. A command is in the module of its name in `package`, or in
        the one that `modules` has for it; `module:function` there is for a module with several commands of one name."""
        super().__init__(*args, **more)
        self.package = package
        self.table = table
        self.modules = modules or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            if not ctx.resilient_parsing:  # shell completion shows no error
                ctx.fail(unknown_command(cmd_name, ctx, list(self.table)))
            return None
        where, _, function = self.modules.get(cmd_name, cmd_name).partition(":")
        module = import_module(f"{self.package}.{where}")
        if function:
            return cast("click.Command", getattr(module, function))
        return next(found for found in vars(module).values() if isinstance(found, click.Command) and found.name == cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.table.items()))


class NumberRange(click.FloatRange):
    """A finite number within bounds. click accepts NaN within any bounds, but nothing compares as greater than it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number: float = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


NAMES = ("dir", "env", "remote", "color", "verbose")
ALL = (*NAMES, "quiet")


class Options(NamedTuple):
    """The values of the global options; `given` are the names of those on the command line."""

    dir: Path = Path("policies")
    env: tuple[str, ...] = ()
    remote: str | None = None
    color: str = "auto"
    verbose: int = 0
    quiet: bool = False
    given: frozenset[str] = frozenset()

    @property
    def environment(self) -> str | None:
        """The one environment of a command that works on one; None for the default. Raises UsageError for several."""
        from policyctl.load.environment import is_glob

        if len(self.env) > 1 or any(map(is_glob, self.env)):
            command = click.get_current_context().command_path
            raise UsageError(f"{command} works on one environment here; name one with --env, without * and ?")
        return self.env[0] if self.env else None


def with_options(*used: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the global options that it uses, as `options`, its first argument; a group takes all.

    Raises UsageError for an option before the command's name that the command does not use. From an environment variable it
    is accepted, since that is set for all commands.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def wrapper(*args: Any, **values: Any) -> Any:
            context = click.get_current_context()
            before: Options = context.parent.obj if context.parent is not None else Options()
            if idle := [_spelled(name) for name in ALL if name in before.given - {*used}]:
                raise UsageError(f"{context.command_path} does not use {' or '.join(idle)}; leave it out")
            chosen = {name: value for name in used if (value := values.pop(name)) not in (None, 0, (), False)}
            if context.parent is None and "dir" not in chosen:
                chosen["dir"] = _usual_directory()
            given = {name for name in chosen if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE}
            context.obj = before._replace(**chosen, given=before.given | given)
            if "quiet" in used and not isinstance(context.command, click.Group):
                context.obj = _settled(context.obj)
            return function(context.obj, *args, **values)

        for names, more in reversed(_OPTIONS):
            if _name(names) in used:
                wrapper = click.option(*names, **more)(wrapper)
        return wrapper

    return decorate


def with_form(*forms: str, about: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--format, as `form`: one of these, the first one unless another is given. `about` is shown in the help."""
    return click.option("--format", "form", type=click.Choice(forms), default=forms[0], show_default=True, help=about)


def audit_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--audit, as `record`: an AuditRecord, or None; `text` describes it."""
    help_text = f"{text}  [{AUDIT_VARIABLE}]"
    return click.option("--audit", "record", envvar=AUDIT_VARIABLE, callback=_record, metavar="FILE|DATABASE", help=help_text)


def _settled(options: Options) -> Options:
    """The options, of which --quiet or --verbose wins over the other one from a variable. Raises UsageError for both."""
    if not (options.quiet and options.verbose):
        return options
    if ("quiet" in options.given) == ("verbose" in options.given):
        raise UsageError("--quiet and --verbose exclude each other; leave one out")
    return options._replace(verbose=0) if "quiet" in options.given else options._replace(quiet=False)


def _name(spellings: tuple[str, ...]) -> str:
    return spellings[-1].removeprefix("--").replace("-", "_")


def _spelled(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _record(_: click.Context, __: click.Parameter, text: str | None) -> AuditRecord | None:
    if text is None:
        return None
    from policyctl.reconcile.audit import audit_record

    return audit_record(text)


def _usual_directory() -> Path:
    """The default policy directory: `policies` here, else the nearest one upward."""
    usual = Options().dir
    if usual.is_dir():
        return usual
    from policyctl.load.discovery import nearest_directory

    return nearest_directory()


Complete = Callable[[click.Context, click.Parameter, str], "list[CompletionItem[str]]"]

# A shell puts what it completes into the command line as it is. A name with other characters might end the command there.
_HARMLESS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./@+:-]*")


class Line(NamedTuple):
    """The command line so far, and the beginning of the word that is to be completed."""

    context: click.Context
    begun: str


def _completion(values: Callable[[Line], Iterable[tuple[str, str]]]) -> Complete:
    """A completion from a function that gives values, each with a few words about it."""

    @wraps(values)
    def complete(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem[str]]:
        try:
            found = dict(values(Line(context, begun)))
        except Exception:  # noqa: BLE001 - a shell that completes shows no errors, whatever is broken
            return []
        from click.shell_completion import CompletionItem  # only a shell asks for it

        return [CompletionItem(value, help=about or None) for value, about in found.items() if _fits(value, begun)]

    return complete


def _fits(value: str, begun: str) -> bool:
    return value.startswith(begun) and _HARMLESS.fullmatch(value) is not None


@_completion
def complete_environments(line: Line) -> Iterable[tuple[str, str]]:
    """The environments of policyctl.yaml."""
    from policyctl.load.discovery import find_config, load_config

    config = load_config(find_config(_directory(line.context)))
    return [(name, "") for name in sorted({*config.environments, *config.broken})]


@_completion
def complete_names(line: Line) -> Iterable[tuple[str, str]]:
    """The policies of the files, and the virtual models that are managed; with their prefixes once one is begun."""
    return _names_of(line, ("policy", "model"))


@_completion
def complete_policies(line: Line) -> Iterable[tuple[str, str]]:
    """The policies of the files."""
    return _names_of(line, ("policy",))


def complete_policies_or_files(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """The policies of the files; where none begins like that, any file."""
    from click.shell_completion import CompletionItem

    return complete_policies(context, parameter, begun) or [CompletionItem(begun, type="file")]


@_completion
def complete_models(line: Line) -> Iterable[tuple[str, str]]:
    """The virtual models of the files that are managed."""
    return _names_of(line, ("model",))


def complete_help_words(topics: Iterable[str]) -> Complete:
    """A page of the manual or a command; after a group of commands one of these."""

    def words(line: Line) -> Iterable[tuple[str, str]]:
        command: click.Command | None = line.context.find_root().command
        before = line.context.params.get("words") or ()
        for word in before:
            command = command.get_command(line.context, word) if isinstance(command, click.Group) else None
        names = command.list_commands(line.context) if isinstance(command, click.Group) else []
        return [(name, "") for name in (*(() if before else topics), *names)]

    return _completion(words)


@_completion
def complete_rules(line: Line) -> Iterable[tuple[str, str]]:
    """The codes of the rules."""
    from policyctl.rules import RULES

    lower = line.begun.startswith("p")  # codes are understood in either case
    return [(code.lower() if lower else code, rule.name) for code, rule in sorted(RULES.items())]


def _names_of(line: Line, kinds: tuple[str, ...]) -> list[tuple[str, str]]:
    from policyctl.load.directory import Files
    from policyctl.load.discovery import find_config, find_files, load_config
    from policyctl.policy.names import both_spellings, kind_of

    directory = _directory(line.context)
    config = load_config(find_config(directory))
    given = _given(line.context, "env")
    name = given[0] if isinstance(given, tuple) and given else None
    chosen = name or config.default
    environment = config.environments.get(chosen or "", config.shared)
    found = find_files(directory, may_be_empty=True)
    files = [file for file in found.files if not config.is_inventory(file)]
    loaded = Files(files, root=directory, tests=False).load(environment)
    spelled = 0 if line.begun.startswith("virtual-") else 1
    return [(both_spellings(name)[spelled], "") for name in sorted(loaded.names) if kind_of(name) in kinds]


def _directory(context: click.Context) -> Path:
    """The policy directory that the line so far names, or the usual one."""
    from policyctl.load.discovery import nearest_directory

    given = _given(context, "dir")
    return given if isinstance(given, Path) else nearest_directory()


def _given(context: click.Context | None, option: str) -> Any:
    """The value of a shared option behind the command's name, else before it; None without one."""
    while context is not None:
        if value := context.params.get(option):
            return value
        context = context.parent
    return None


# Only the group reads POLICYCTL_… (see main.py): a variable must not win over an option before the command's name.
_OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("--dir",),
        {
            "type": click.Path(path_type=Path),
            "metavar": "DIR",
            "help": "The directory of policy files.  [POLICYCTL_DIR; default: policies, here or upward in the repository]",
        },
    ),
    (
        ("--env",),
        {
            "metavar": "NAME",
            "multiple": True,
            "shell_complete": complete_environments,
            "help": "The environment of policyctl.yaml; a glob, or several, where a command takes them.  [POLICYCTL_ENV]",
        },
    ),
    (
        ("--remote",),
        {
            "metavar": "URL",
            "help": "Another remote than the environment's: local, sqlite:///PATH, postgresql://HOST/DATABASE, an https:// "
            "URL, or, to plan against, git:REVISION.  [POLICYCTL_REMOTE]",
        },
    ),
    (
        ("--color",),
        {
            "type": click.Choice(["auto", "always", "never"]),
            "help": "When to use colour.  [POLICYCTL_COLOR; default: auto]",
        },
    ),
    (("-q", "--quiet"), {"is_flag": True, "help": "Only problems and the last line, as text.  [POLICYCTL_QUIET]"}),
    (("-v", "--verbose"), {"count": True, "help": "Show more; -vv for a bug report.  [POLICYCTL_VERBOSE]"}),
)


_NOT_ONE_OF = r"'(?P<word>[^']*)' is not one of (?P<known>'.*')$"
_WORD = r"'([^']+)'"

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

_OTHER_COMMANDS = {
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
_OTHER_POLICY_COMMANDS = {
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
    from policyctl.policy.findings import did_you_mean  # only an error needs it

    if isinstance(error, click.NoSuchOption):
        typed, option = _typed(error.option_name, args)
        return f"unknown option {typed}{_instead_of(option, error.ctx)}"
    line = " ".join(error.format_message().split()).rstrip(".")
    line = line[:1].lower() + line[1:]
    if isinstance(error, click.BadParameter) and (wrong := re.search(_NOT_ONE_OF, line)):
        return f"{line}{did_you_mean(wrong['word'], re.findall(_WORD, wrong['known']))}"
    if line.startswith("got unexpected extra argument") and isinstance(error, click.UsageError):
        takes_only = "--only" in _options_of(error.ctx)
        return f"{line}; to choose policies, use --only NAME" if takes_only else f"{line}; remove it"
    return line


def unknown_command(name: str, context: click.Context, known: list[str]) -> str:
    """The error for a command that does not exist."""
    from policyctl.policy.findings import closest  # only an error needs it

    top = context.parent is None
    hint = _OTHER_COMMANDS.get(name) if top else None
    meant = None if top else _OTHER_POLICY_COMMANDS.get(name)
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


def _options_of(context: click.Context | None) -> list[str]:
    return [name for parameter in context.command.params for name in parameter.opts] if context else []


def _instead_of(option: str, context: click.Context | None) -> str:
    from policyctl.policy.findings import closest  # only an error needs it

    known = _options_of(context)
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
