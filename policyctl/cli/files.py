"""policyctl validate, fmt and test: the commands for files alone, without a remote.

What only one of them needs is imported there: validate runs before each commit.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from policyctl.cli.console import CollectingConsole, Console, is_github, repository_path, streams_lines
from policyctl.cli.environments import choose, raise_broken, with_environments_or_all
from policyctl.cli.options import Options, with_form, with_options
from policyctl.errors import InvalidInput, PolicyctlError, Problem, UsageError
from policyctl.load.discovery import find_config, find_files, load_config
from policyctl.load.environment import EnvironmentFilter
from policyctl.load.kinds import CONFIG_FILE
from policyctl.load.source import line_at, read_bytes, redact_linked, refuse_link, write_atomically
from policyctl.policy.findings import Finding
from policyctl.report.format import NONE_AFFECTED, Style, count, diff_lines

if TYPE_CHECKING:
    from policyctl.lint.validate import Validation
    from policyctl.load.directory import Loaded
    from policyctl.load.environment import Config
    from policyctl.plan.scenario import Mismatch, ScenarioResult, Suite
    from policyctl.policy.findings import FieldPath
    from policyctl.report.checks import Ran

VALIDATE_EPILOG = """\b
Example:
  policyctl validate
  policyctl validate policies/anygem.yaml other/
  policyctl validate --deep -v
  policyctl validate -l 'ring=canary'
  policyctl validate --format json | jq -r '.problems[].code'"""


@click.command("validate", epilog=VALIDATE_EPILOG)
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option("--deep", is_flag=True, help="Also check what the policies do to traffic, as plan does (rules P5).")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "full", "concise", "json", "github", "sarif"]),
    help="full: each problem with its line and a caret; concise: one line each; github: annotations of GitHub Actions, the "
    "default there; sarif: for code scanners.  [default: text: full on a terminal, else concise]",
)
@with_options("dir", "env", "color", "verbose", "quiet")
@with_environments_or_all
def validate(options: Options, paths: tuple[Path, ...], deep: bool, form: str | None, chosen: EnvironmentFilter) -> int:
    """Check policy files and directories, offline: every problem of every file, in every environment.

    Without a PATH it checks the policy directory. Environments that are chosen are checked alone; POLICYCTL_ENV is ignored.
    Exit code 0 means valid (warnings allowed), 1 invalid. Findings of severity info are shown with -v, or when lint.select in
    policyctl.yaml names their rules. To silence a lint rule (see policyctl rules) on a line, add a comment to it:
    # policyctl: ignore[P405]
    """
    if paths and chosen.affected is not None:
        raise UsageError("--affected compares the whole policy directory; leave out the paths")
    paths = paths or (options.dir,)
    if form in (None, "text") and _is_unchanged(paths):  # checked first, because most commits change nothing here
        click.echo("Nothing to check: the commit changes nothing here.")
        return 0
    from policyctl.lint.validate import validate_paths

    console = Console(options)
    with console.progress.of("Checking", "file") as step:
        validation = validate_paths(
            paths,
            options.dir,
            environment=None if chosen.several or not chosen.names else chosen.names[0],
            choose=(lambda config: choose(options, config, chosen)) if chosen.is_narrow else None,
            infos=console.verbose,
            deep=deep,
            on_file=step,
        )
    if validation.environments == () and validation.valid:
        console.say(NONE_AFFECTED)
        return 0
    usual = "concise" if console.quiet else "text"
    console.result(_printed(validation, form or ("github" if is_github() else usual), console.out_style))
    return 0 if validation.valid else 1


def _is_unchanged(paths: tuple[Path, ...]) -> bool:
    """Whether this is the hook of a commit that changes nothing in these directories.

    Git sets GIT_INDEX_FILE for a commit hook only. validate reads the files on disk, so these are compared.
    """
    if "GIT_INDEX_FILE" not in os.environ or not all(path.is_dir() for path in paths):
        return False
    from policyctl.load.git.checkout import is_as_committed

    try:
        return all(is_as_committed(path, CONFIG_FILE, _inventories(path)) for path in paths)
    except PolicyctlError:  # the check shows what is wrong
        return False


def _inventories(directory: Path) -> tuple[Path, ...]:
    """The files from which a directory's environments are generated, which may be beside it."""
    config = find_config(directory)
    # Most configurations have none, and reading those takes longer than all else here.
    return () if config is None or b"fleet" not in read_bytes(config) else load_config(config).inventories


def _printed(validation: Validation, form: str, style: Style) -> str:
    from policyctl.report.checks import validation_json, validation_summary, validation_text

    if form == "json":
        return validation_json(validation)
    if form in ("text", "full", "concise"):
        full = form == "full" or (form == "text" and streams_lines(sys.stdout, os.environ))
        return validation_text(validation, style, line_at if full else None)
    if form == "github":
        from policyctl.report.checks import github_annotations

        return github_annotations(validation.problems, repository_path) + validation_summary(validation, style)
    from policyctl.report.checks import sarif

    return sarif(validation.problems, repository_path)


FMT_EPILOG = """\b
Example:
  policyctl fmt
  policyctl fmt --check --diff
  policyctl fmt policies/anygem.yaml"""

_YAML = (".yaml", ".yml")
_UNREAD = ("P001", "P005", "P008")  # of what is there and cannot be read, or is a link that is not followed


@click.command("fmt", epilog=FMT_EPILOG)
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option("--check", is_flag=True, help="Write nothing, and exit with 1 if a file would change.")
@click.option("--diff", is_flag=True, help="Write nothing, and show what would change.")
@with_options("dir", "color", "verbose", "quiet")
def fmt(options: Options, paths: tuple[Path, ...], check: bool, diff: bool) -> int:
    """Write YAML files in one style, that of the files which pull and --save write, and print the names of those that change.
    Without a PATH all of the policy directory.

    Indentation, quotes, spaces and empty lines become alike. Comments, templates, the order of keys, line breaks within a
    value, and whether a list or mapping is on one line stay as they are. A file means the same afterwards; one that cannot be
    read is reported and not touched.
    """
    console = Console(options)
    found = _Found(console)
    total, changed = 0, 0
    for file in _files(paths or (options.dir,), found):
        total += 1
        if (change := _change_of(file, found)) is None:
            continue
        changed += 1
        if check or diff or not console.quiet:
            console.result(_diff(change, console.out_style) if diff else f"{file}\n")
        if not (check or diff):
            write_atomically(Path(file), change.after)
    would = "would be formatted" if check or diff else "formatted"
    unread = f", {found.unread:,} not read" if found.unread else ""
    console.say(f"{count(changed, 'file')} {would}, {total - changed - found.unread:,} unchanged{unread}")
    if found.problems:
        raise InvalidInput(found.problems)
    return 1 if check and changed else 0


class _Found:
    """What is wrong with the files, one problem for each, and how many of them could not be read."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.problems: list[Problem] = []
        self.unread = 0

    def add(self, error: InvalidInput) -> None:
        """Add the first problem of a file, or of a path without one."""
        self.problems += redact_linked(error.problems[:1])


class _Change(NamedTuple):
    file: str
    before: str
    after: str


def _files(paths: tuple[Path, ...], found: _Found) -> Iterator[str]:
    """The YAML files at these paths, each once."""
    seen = set[str]()
    for path in paths:
        try:
            files = _at(path, found)
        except InvalidInput as error:
            found.add(error)
            continue
        for file in files:
            if file.endswith(_YAML) and file not in seen:
                seen.add(file)
                yield file


def _at(path: Path, found: _Found) -> list[str]:
    if path.is_dir():
        below = find_files(path)
        found.problems += (one for one in below.problems if one.code in _UNREAD)
        return sorted([*below.files, *map(str, below.configs)])
    refuse_link(path)
    if not str(path).endswith(_YAML):
        found.console.say(f"{path} is left as it is: only *.yaml and *.yml files are formatted")
    return [str(path)]


def _change_of(file: str, found: _Found) -> _Change | None:
    """The file's text before and after; None for one that stays as it is."""
    from policyctl.load.style import styled  # with what reads templates behind it

    try:
        content = read_bytes(file)
        after = styled(content, file)
    except InvalidInput as error:
        found.add(error)
        found.unread += 1
        return None
    return None if after.encode() == content else _Change(file, content.decode(), after)


def _diff(change: _Change, style: Style) -> str:
    names = (f"{change.file} (now)", f"{change.file} (formatted)")
    before, after = (text.split("\n") for text in (change.before, change.after))
    return "".join(f"{line}\n" for line in diff_lines(before, after, names, style))


TEST_EPILOG = """\b
Example:
  policyctl test
  policyctl test --env prod policies/assistant.test.yaml
  policyctl test --format junit > report.xml

\b
A test file, such as policies/assistant.test.yaml:
  spec_version: v1
  kind: policy_test
  policy: assistant
  tests:
    - name: Anthropic is down
      given: {anthropic: 503}
      expect: {status: 200, served_by: openai/gpt-4o, max_calls: 3}
    - name: a tenth of the calls is one too many
      given: {anthropic: {429: 0.1}, openai: {429: 0.1}}
      expect: {served: ">= 0.999", served_by: {anthropic: "> 0.9"}, never: [deepseek]}

\b
given      what models answer; all others answer 200
  503, refused, connect-timeout, …     to every call; these words, broken-body, cut-stream, 429 after 5s
  [500, 500, 200]                      in order; the last one is repeated
  {429: 0.1, 500: 0.05}                by chance, for every call anew; the rest is 200
streamed   true for requests for a stream: a broken-body is then passed on with 200
expect     what must be true; nothing else is checked
  status: 200 | {200: 0.75, 503: 0.25} of every request, or of a part
  served: 1                            the part that succeeds
  served_by: openai | {openai: 0.75}   which model serves every request, or a part
  never: [deepseek]                    which models are never called
  max_calls: 3, max_wait_seconds: 3    of one request; waiting is the back-off

\b
Models are named virtual-model/openai/gpt-4o, openai/gpt-4o, gpt-4o, openai (the provider), or by a
glob over these; if several in given match a model, the last one wins. A part is a number from 0
to 1, or ">= 0.99", "> 0.2", "<= 0.5", "< 0.1" (in quotes); numbers that differ by at most 0.000001
are equal, and templates may compute them: "{{ 1 / 3 }}"."""


@click.command("test", epilog=TEST_EPILOG)
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@with_form("text", "junit", "json")
@click.option("--if-any", is_flag=True, help="Succeed when there are no tests.")
@with_options("dir", "env", "color", "verbose", "quiet")
@with_environments_or_all
def test(options: Options, paths: tuple[Path, ...], form: str, if_any: bool, chosen: EnvironmentFilter) -> int:
    """Run the scenario tests beside the policies (*.test.yaml, or documents of kind: policy_test), offline and exactly.

    Without a PATH it runs all tests of the policy directory; a PATH is a file or a directory in it. Tests run in every
    environment, unless some are chosen; POLICYCTL_ENV is ignored. Exit code 0 means that
    all passed, 1 that a test failed, that there are no tests, or that the policies or tests have problems.
    """
    from policyctl.cli.session import open_config
    from policyctl.report.checks import scenarios_json, scenarios_junit, scenarios_text

    config, console = open_config(options), Console(options)
    names = choose(options, config, chosen)
    if not names:
        console.say(NONE_AFFECTED)
        return 0
    raise_broken(config, names)
    ran = _run(options, config, names, paths, if_any=if_any, console=console)
    results = ran.results
    if form == "junit":
        console.result(scenarios_junit(ran))
    elif form == "json":
        console.result(scenarios_json(ran))
    elif not results:
        console.say("there are no scenario tests to run")
    else:
        console.result(scenarios_text(ran, console.out_style, verbose=console.verbose, quiet=console.quiet))
    return 1 if ran.failed else 0


def _run(
    options: Options, config: Config, names: Collection[str], paths: tuple[Path, ...], *, if_any: bool, console: Console
) -> Ran:
    """The results in all these environments: a test that ends alike everywhere once, else once for each way it ends."""
    from policyctl.cli.session import DirectoryFiles, session_of
    from policyctl.plan.scenario import run_suite
    from policyctl.report.checks import Ran

    files = DirectoryFiles(options, config, config.lint, lenient=False, deep=False, tests=True, several=len(names) > 1)
    messages = CollectingConsole(options) if len(names) > 1 else console
    found: dict[tuple[str, int, FieldPath], list[tuple[str, ScenarioResult]]] = {}
    for name in names:
        session = session_of(options, config, name)._replace(directory=files, console=messages)
        loaded = session.read(tests=True).loaded
        policies = {policy.name: policy.document for policy in loaded.policies}
        for suite in _chosen_suites(loaded, options.dir, paths, if_any):
            for result in run_suite(suite, policies, loaded.declared):
                found.setdefault((suite.file, suite.index, result.path), []).append((name, result))
    if isinstance(messages, CollectingConsole):
        messages.print_to(console)
    results = [one for key in sorted(found, key=str) for one in _merged(found[key])]
    where = " and ".join(filter(None, (", ".join([*names][:-1]), [*names][-1])))
    return Ran(where, tuple(results), lambda suite, path: files.files.mark_of(suite, Finding(path, "", "")).mark)


def _merged(results: list[tuple[str, ScenarioResult]]) -> Iterator[ScenarioResult]:
    """One test's results in several environments: those that are alike once, named after their environments if not all are."""
    ways: dict[tuple[Mismatch, ...], list[str]] = {}
    for name, result in results:
        ways.setdefault(result.failures, []).append(name)
    for failures, names in ways.items():
        title = results[0][1].name if len(ways) == 1 else f"{results[0][1].name} ({', '.join(names)})"
        yield results[0][1]._replace(name=title, failures=failures)


def _chosen_suites(loaded: Loaded, directory: Path, paths: tuple[Path, ...], if_any: bool) -> list[Suite]:
    """The tests in these files and directories, by default in the whole directory, sorted by file.

    Raises UsageError for a path that is not in the directory and, unless `if_any`, PolicyctlError for one without tests.
    """
    chosen: dict[tuple[str, int], Suite] = {}
    for path in paths or (directory,):
        below = path.resolve()
        if not path.exists() or not below.is_relative_to(directory.resolve()):
            raise UsageError(f"{path} is not in the policy directory {directory}; name a file of it, or another one with --dir")
        found = [suite for suite in loaded.suites if Path(suite.file).resolve().is_relative_to(below)]
        if not found and not if_any:
            raise PolicyctlError(f"there are no scenario tests in {path} (policyctl test --help shows how to write one)")
        chosen.update(((suite.file, suite.index), suite) for suite in found)
    return [chosen[key] for key in sorted(chosen)]
