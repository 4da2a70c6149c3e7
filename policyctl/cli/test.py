"""policyctl test."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import click

from policyctl.cli.console import CollectingConsole, Console
from policyctl.cli.environments import choose, raise_broken, with_environments_or_all
from policyctl.cli.options import Options, with_form, with_options
from policyctl.cli.session import DirectoryFiles, open_config, session_of
from policyctl.errors import PolicyctlError, UsageError
from policyctl.load.directory import Loaded
from policyctl.load.environment import Config, EnvironmentFilter
from policyctl.plan.scenario import Mismatch, ScenarioResult, Suite, run_suite
from policyctl.policy.findings import FieldPath, Finding
from policyctl.report.format import NONE_AFFECTED
from policyctl.report.scenarios import Ran, scenarios_json, scenarios_junit, scenarios_text

EPILOG = """\b
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


@click.command("test", epilog=EPILOG)
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
    files = DirectoryFiles(options, config, config.lint, lenient=False, deep=False, tests=True, several=len(names) > 1)
    messages = CollectingConsole(options) if len(names) > 1 else console
    found: dict[tuple[str, int, FieldPath], list[tuple[str, ScenarioResult]]] = {}
    for name in names:
        session = session_of(options, config, name)._replace(directory=files, console=messages)
        loaded = session.read(tests=True).loaded
        policies = {policy.name: policy.document for policy in loaded.policies}
        for suite in _chosen(loaded, options.dir, paths, if_any):
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


def _chosen(loaded: Loaded, directory: Path, paths: tuple[Path, ...], if_any: bool) -> list[Suite]:
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
