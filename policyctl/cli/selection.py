"""Which policies plan and apply select, and which limits and guards are overridden, by option or by comment."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from policyctl.cli.options import NumberRange, Options, complete_models, complete_names
from policyctl.errors import PolicyctlError, UsageError
from policyctl.load.source import read_bounded, write_atomically
from policyctl.plan.plan import Selection
from policyctl.plan.settings import GUARDS, GuardException, Override, Settings
from policyctl.policy.findings import closest_name, did_you_mean
from policyctl.policy.names import canonical, kind_of, matches

if TYPE_CHECKING:
    from policyctl.load.past import PastDirectory

UNSEEN = "--allow-unseen-consumers"
KEY_LOSS = "--allow-key-loss"


class Overrides:
    """The limits and guards that the command line, or a file that `ci` wrote, overrides by name."""

    def __init__(
        self, given: Iterable[Override] = (), partial: float | None = None, *, consumers: bool = True, uses: Sequence[str] = ()
    ) -> None:
        """`partial` replaces the environment's share of calls that fail in partial failures. `consumers` is whether it is read
        who uses what, `uses` whose approvals an apply uses, and `outside` why it writes in a deny window."""
        self.given, self.uses = tuple(given), uses
        self.consumers = consumers
        self.outside = ""
        self.partial = partial

    @property
    def unseen_consumers(self) -> bool:
        """Whether something may be removed though it is not known who uses it."""
        return any(one.option == UNSEEN for one in self.given)

    def values(self, option: str) -> list[str]:
        """The values that an option was given with."""
        return [one.value for one in self.given if one.option == option]

    @property
    def guards(self) -> list[tuple[str, str]]:
        """The guards that are overridden, each with the option that does it."""
        return [(one.value.partition("=")[0], one.text) for one in self.given if one.option == "--allow-guard"]

    def on(self, settings: Settings) -> Settings:
        """The environment's settings with the overrides; of several values for one limit the widest wins."""
        return settings.overridden(
            max(map(int, self.values("--max-removes")), default=None),
            max(map(float, self.values("--max-change-percent")), default=None),
            tuple(self.values("--allow-remove")),
            tuple(_exception(one) for one in self.given if one.option == "--allow-guard"),
            self.partial,
            tuple(self.values(KEY_LOSS)),
        )


def raise_if_idle(
    selection: Selection, overrides: Overrides, files: Collection[str], live: Collection[str], *, only: str = "--only"
) -> None:
    """Raise UsageError when an option selects or allows something that matches no policy: most often a misspelling."""
    if idle := idle_options(selection, overrides, files, live, only=only):
        raise UsageError("; ".join(idle.values()))


def idle_options(
    selection: Selection, overrides: Overrides, files: Collection[str], live: Collection[str], *, only: str = "--only"
) -> dict[str, str]:
    """The options that select or allow something that matches no policy, each with what to say of it.

    `files` are the names of the planned policies, `live` those on the remote, which a removal must be among. `only` is the
    option that selects; empty for an argument.
    """
    known = {*files, *live}
    asked = [(only, glob, known) for glob in selection.only]
    asked += [("--exclude", glob, known) for glob in selection.exclude]
    asked += [("--allow-remove", name, {*live}) for name in overrides.values("--allow-remove")]
    asked += [(KEY_LOSS, glob, {name for name in live if kind_of(name) == "model"}) for glob in overrides.values(KEY_LOSS)]
    allowed = [text.partition("=") for text in overrides.values("--allow-guard")]
    asked += [(f"--allow-guard {guard}=", policy, known) for guard, equals, policy in allowed if equals and policy != "*"]
    idle = {}
    for option, text, names in asked:
        exactly = option == "--allow-remove"
        if canonical(text) not in names and (exactly or not any(matches(name, (text,)) for name in names)):
            live_only = {"--allow-remove": "no live policy", KEY_LOSS: "no live model"}
            where = live_only.get(option, "no policy, neither in the files nor on the remote")
            space = "" if not option or option.endswith("=") else " "
            what = f"{option}{space}{text}"
            idle[what] = f"{what} matches {where}{closest_name(text, names)}"
    return idle


def _exception(override: Override) -> GuardException:
    """`max_calls` turns the guard off for every policy, `max_calls=NAME` for those that match a name or glob."""
    word, _, policy = override.value.partition("=")
    guard = next(guard for guard in GUARDS if guard == word)
    return GuardException(guard, policy or "*", override.reason or override.text)


def _guards(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for text in values:
        word, equals, policy = text.partition("=")
        if word not in GUARDS:
            raise click.BadParameter(f"unknown guard {word}{did_you_mean(word, GUARDS)}; known: {', '.join(GUARDS)}")
        if equals and not policy:
            raise click.BadParameter(f"write {word} alone, or {word}=NAME")
    return values


_OVERRIDES: dict[str, dict[str, Any]] = {
    "--max-removes": {"type": click.IntRange(min=0), "metavar": "N", "help": "Allow that many removals this once."},
    "--max-change-percent": {
        "type": NumberRange(0, 100),
        "metavar": "P",
        "help": "Allow that share of the live policies to change this once.",
    },
    "--allow-remove": {
        "multiple": True,
        "metavar": "NAME",
        "shell_complete": complete_names,
        "help": "Allow the removal of this policy or model, though it is protected or used; repeatable.",
    },
    KEY_LOSS: {
        "multiple": True,
        "metavar": "NAME",
        "shell_complete": complete_models,
        "help": "Allow the update of this model, though it may have a key that the remote does not show; repeatable.",
    },
    "--allow-guard": {
        "multiple": True,
        "callback": _guards,
        "metavar": "GUARD[=NAME]",
        "help": "Ignore this guard this once, for one policy or for all; repeatable.",
    },
    UNSEEN: {"is_flag": True, "help": "Allow removals though it could not be read who uses what."},
}


def override_options() -> list[click.Option]:
    """The options that override a safety setting, to be parsed from other texts than the command line."""
    return [click.Option((option,), **more) for option, more in _OVERRIDES.items()]


def overrides_of(values: Mapping[str, Any], reason: str = "", by: str = "") -> tuple[Override, ...]:
    """The overrides in these option values, each as it would be written on the command line."""
    found: list[Override] = []
    for option in _OVERRIDES:
        value = values[option.removeprefix("--").replace("-", "_")]
        given = value if isinstance(value, tuple) else () if value is None or value is False else (value,)
        found += (Override(option, "" if one is True else _as_written(one), reason, by) for one in given)
    return tuple(found)


with_partial = click.option(
    "--partial",
    type=NumberRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="The share of calls that fail in partial failures, such as 0.1.",
)


def _as_written(value: Any) -> str:
    """A value as written on the command line; 60.0 is written 60."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _globs(option: str, about: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(option, multiple=True, metavar="GLOB", shell_complete=complete_names, help=about)


def with_selection(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --only and --exclude (as `selection`) and the overrides of limits and guards (as `overrides`)."""

    @_globs("--only", "Only policies whose name matches; repeatable.")
    @_globs("--exclude", "Not the policies whose name matches; repeatable.")
    @click.option(
        "--overrides",
        "overrides_file",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Also override what is in this file, which ci overrides or ci approved wrote.",
    )
    @click.option("--reason", default="", metavar="TEXT", help="Why something is overridden; the plan and the audit show it.")
    @click.option("--no-consumers", is_flag=True, help="Do not read who uses what; removals are then refused.")
    @with_partial
    @wraps(function)
    def wrapper(
        *args: Any,
        no_consumers: bool,
        only: tuple[str, ...],
        exclude: tuple[str, ...],
        overrides_file: Path | None,
        reason: str,
        partial: float | None,
        **more: Any,
    ) -> Any:
        names = {option.removeprefix("--").replace("-", "_") for option in _OVERRIDES}
        given = overrides_of({name: more.pop(name) for name in names}, reason)
        if reason and not given:
            raise UsageError("--reason is for an override, and none is given; add one (--max-removes, --allow-guard, …)")
        also, uses = ((), ()) if overrides_file is None else read_overrides(overrides_file)
        chosen = Overrides((*given, *also), partial, consumers=not no_consumers, uses=uses)
        return function(*args, selection=Selection(only, exclude), overrides=chosen, **more)

    for option, more in reversed(_OVERRIDES.items()):
        wrapper = click.option(option, **more)(wrapper)
    return wrapper


with_past = click.option(
    "--to",
    metavar="REVISION",
    help="Go back to the policies as they were at REVISION, in the history of the checked out commit. Safety settings, remote "
    "and auth stay as they are now.",
)


def read_to(options: Options, to: str | None, **others: object) -> PastDirectory | None:
    """The policy directory at the revision of --to, if it is given. Raises UsageError with one of the `others`, which are given
    unless they are None or False, and as `read_past` does."""
    if to is None:
        return None
    for option, given in others.items():
        if given is not None and given is not False:
            raise UsageError(f"--to and {_BESIDES[option]}")
    from policyctl.load.past import read_past  # imports subprocess

    return read_past(options.dir, to)


_BESIDES = {
    "base": "--base exclude each other: going back is judged by the settings that are checked out, like any change",
    "tests": "--test exclude each other: scenario tests are about the files as they are now",
    "planfile": "a saved plan exclude each other: the plan has its revision already",
    "resume": "--resume exclude each other: the run has its revision already",
}


FORMAT = "policyctl/overrides"
VERSION = 1
MAX_BYTES = 1024 * 1024  # of a file of overrides, which has those of all merges that are applied together
MOST = 20  # overrides of one pull request, so that they fit above its plan
_LONGEST = 300  # characters of a reason
_COMMAND = re.compile(r"/policyctl[ \t]+allow[ \t]+(\S.*)")
_HTML = re.compile(r"<[A-Za-z/!?]")  # may hide everything after it, or turn it into an example
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_BECAUSE = re.compile(r"""((?:[^'"]|'[^']*'|"(?:[^"\\]|\\.)*")+?)\s+because\s+(\S.*)""", re.DOTALL)
_ANY_BECAUSE = re.compile(r"(.+?)\s+because\s+(\S.*)", re.DOTALL)  # also within quotes, which may not be closed


def commands_in(comment: str) -> list[str]:
    """The overrides in a comment: the rest of each line that begins with `/policyctl allow`.

    Lines count only in a paragraph of such lines alone, outside blocks of code, and without HTML before it. Others are
    examples, quotes, or hidden from the people who allow something.
    """
    text = comment.replace("\r\n", "\n").replace("\r", "\n")
    html = _HTML.search(text)
    found: list[str] = []
    for paragraph in _paragraphs(text[: html.start()].rpartition("\n")[0] if html else text):
        commands = [_COMMAND.fullmatch(line) for line in paragraph]
        found += [one[1].strip() for one in commands if one is not None] if all(commands) else []
    return found


def asks(comment: str) -> bool:
    """Whether a comment has a line that looks like such a command, whether or not it counts."""
    return re.search(r"^[ \t>`]*/policyctl[ \t]+allow\b", comment, re.MULTILINE) is not None


def _paragraphs(text: str) -> Iterator[list[str]]:
    """The lines between blank lines, run by run, without fenced blocks of code (which need not be closed)."""
    fence, lines = "", list[str]()
    for line in text.split("\n"):
        found = _FENCE.fullmatch(line)
        if fence:
            closes = found is not None and found[1].startswith(fence) and not found[2].strip(" \t")
            fence = "" if closes else fence
        elif found is None and line.strip(" \t"):
            lines.append(line)
        else:
            yield lines
            fence, lines = found[1] if found is not None else "", []
    yield lines


def parse_overrides(text: str, by: str) -> tuple[Override, ...]:
    """Parse `--max-removes 12 --allow-guard max_calls=chat because …`, which the person `by` wrote.

    Raises UsageError when an option is unknown or wrong, without any option, and without a reason.
    """
    found = _BECAUSE.fullmatch(text.strip()) or _ANY_BECAUSE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"the override {text!r} gives no reason; write: OPTIONS because REASON")
    reason = " ".join(found[2].split())
    if len(reason) > _LONGEST:
        raise UsageError(f"the reason of an override has {len(reason)} characters; at most {_LONGEST} are shown")
    parser = click.Command("allow", params=[*override_options()], add_help_option=False)
    try:
        values = parser.make_context("allow", shlex.split(found[1])).params
    except (click.UsageError, ValueError) as error:
        why = error.format_message() if isinstance(error, click.UsageError) else str(error)
        raise UsageError(f"the override {found[1]!r} is not valid: {why}") from None
    given = overrides_of(values, reason, by)
    if not given:
        raise UsageError(f"{found[1]!r} overrides nothing; write for example --max-removes 12")
    return given


def write_overrides(file: Path, overrides: Sequence[Override], uses: Sequence[str] = ()) -> None:
    """Write overrides for a later step, and whose approvals it uses. Raises PolicyctlError when they cannot be written."""
    data = {"format": FORMAT, "version": VERSION, "overrides": [one._asdict() for one in overrides], "uses": list(uses)}
    write_atomically(file, json.dumps(data, indent=2) + "\n", private=True)


def read_overrides(file: Path) -> tuple[tuple[Override, ...], tuple[str, ...]]:
    """The overrides in a file that `write_overrides` wrote, each checked as on the command line, and the pull requests.

    Raises PolicyctlError for any other file.
    """
    try:
        data = json.loads(read_bounded(file, MAX_BYTES))
    except OSError as error:
        raise PolicyctlError(f"{file} cannot be read: {error.strerror}; write it with ci overrides --out {file}") from None
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or data.get("format") != FORMAT or data.get("version") != VERSION:
        raise PolicyctlError(f"{file} is not a file of overrides; write it with ci overrides --out {file}")
    rows = data.get("overrides")
    if not isinstance(rows, list) or not all(map(_is_override, rows)):
        raise PolicyctlError(f"{file} is not a complete file of overrides; write it again with ci overrides --out {file}")
    for row in rows:
        words = shlex.join(filter(None, (row["option"], row["value"])))
        parse_overrides(f"{words} because {row['reason'] or 'the command line has it'}", row["by"])
    return tuple(Override(**row) for row in rows), tuple(map(str, data.get("uses", ())))


def _is_override(row: Any) -> bool:
    return isinstance(row, dict) and row.keys() == set(Override._fields) and all(isinstance(one, str) for one in row.values())
