"""policyctl effect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import click
from click.core import ParameterSource

from policyctl.cli.console import Console
from policyctl.cli.options import NAMES, Options, with_options
from policyctl.cli.subjects import LIVE, Subjects, find_subjects, versions_against
from policyctl.cli.supposing import Script, Supposition, models_of, read_scripts, read_suppositions, read_timeouts
from policyctl.effect.bounds import max_waits
from policyctl.effect.compare import compare
from policyctl.effect.costs import costs
from policyctl.effect.dead import dead_configuration
from policyctl.effect.evaluate import evaluate
from policyctl.effect.picture import picture
from policyctl.effect.routes import Routes
from policyctl.effect.tree import read_tree
from policyctl.effect.walk import walk
from policyctl.errors import UsageError
from policyctl.model.names import canonical_name
from policyctl.model.policy import Policy
from policyctl.report.effect_graph import effect_graph
from policyctl.report.effect_json import effect_json
from policyctl.report.effect_text import effect_markdown, effect_text
from policyctl.report.effect_views import Compared, Pictured, Supposed, Traced, View

EPILOG = """\b
Example:
  policyctl effect anygem
  policyctl effect policies/chat.yaml --down openai=503
  policyctl effect chat --rate openai=503:0.1 --rate google=hang:0.01
  policyctl effect anygem --trace gemini-2.0-flash=503,503 --seed 1
  policyctl effect support --against git:main
  policyctl effect --graph --format markdown >> "$GITHUB_STEP_SUMMARY"

\b
MODEL is a model (with or without virtual-model/ and the provider), a provider, or a glob over these.
ANSWER is a status, refused (connection refused), hang (connect hangs) or broken-body (unparsable)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks, as it was written."""

    against: str | None
    down: tuple[str, ...]
    rate: tuple[str, ...]
    trace: tuple[str, ...]
    seed: int
    timeout: tuple[str, ...]
    graph: bool


@click.command("effect", epilog=EPILOG)
@click.argument("policies", nargs=-1, metavar="[NAME|FILE]...")
@click.option("--against", metavar="git:REF|live", help="Show what changed since a git revision, or against the remote.")
@click.option("--down", multiple=True, metavar="MODEL=ANSWER", help="It answers nothing else; repeatable.")
@click.option("--rate", multiple=True, metavar="MODEL=ANSWER:RATE", help="It answers a part of its calls so; repeatable.")
@click.option("--trace", multiple=True, metavar="MODEL=ANSWER,…", help="Walk one request; the last answer sticks; repeatable.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides the draws of --trace.")
@click.option("--timeout", multiple=True, metavar="MODEL=SECONDS", help="For the worst-case latency; repeatable.")
@click.option("--graph", is_flag=True, help="Draw the policies as a mermaid flowchart.")
@click.option("--format", "form", type=click.Choice(["text", "json", "markdown"]), default="text", show_default=True)
@with_options(*NAMES)
def command(
    options: Options,
    policies: tuple[str, ...],
    against: str | None,
    down: tuple[str, ...],
    rate: tuple[str, ...],
    trace: tuple[str, ...],
    seed: int,
    timeout: tuple[str, ...],
    graph: bool,
    form: str,
) -> int:
    """Show what policies do to traffic, offline and exactly: shares, outages, worst case, dead configuration.

    A FILE needs no directory and no remote, and may hold what no policy file should. Without a NAME or FILE it is all
    policies of the directory.
    """
    return effect(options, policies, Asked(against, down, rate, trace, seed, timeout, graph), form)


def effect(options: Options, names: tuple[str, ...], asked: Asked, form: str) -> int:
    console = Console(options)
    _check(options, asked, form)
    subjects = find_subjects(options, names, console)
    if asked.graph:
        text = effect_graph([policy.document for policy in subjects.policies])
        console.result(f"```mermaid\n{text}```\n" if form == "markdown" else text)
        return 0
    views: list[View] = []
    with console.progress.of("Working out", "policy", len(subjects.policies)) as step:
        for view in _views(options, subjects, asked):
            views.append(view)
            step()
    if form == "json":
        console.result(effect_json(views))
    else:
        console.result(
            effect_markdown(views, subjects.known.values()) if form == "markdown" else effect_text(views, console.out_style)
        )
    return 0


def _check(options: Options, asked: Asked, form: str) -> None:
    questions = {
        "--against": asked.against,
        "--down or --rate": asked.down or asked.rate,
        "--trace": asked.trace,
        "--graph": asked.graph,
    }
    chosen = [name for name, value in questions.items() if value]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)} are different questions; ask one at a time")
    given = click.get_current_context().get_parameter_source
    if given("seed") is ParameterSource.COMMANDLINE and not asked.trace:
        raise UsageError("--seed decides the draws of --trace, which is not there; add --trace or leave --seed out")
    if "remote" in options.given and asked.against != LIVE:
        raise UsageError("--remote is only asked with --against live; add that or leave --remote out")
    if asked.graph and form == "json":
        raise UsageError("--graph is drawn as text or markdown; leave out --format json")


def _views(options: Options, subjects: Subjects, asked: Asked) -> Iterator[View]:
    """What is shown, one policy after the other."""
    models = models_of(subjects)
    timeouts = read_timeouts(asked.timeout, models)
    if asked.trace:
        yield _traced(subjects, read_scripts(asked.trace, models), asked.seed)
    elif asked.down or asked.rate:
        supposition = read_suppositions(asked.down, asked.rate, models)
        yield from (_supposed(policy, subjects, supposition) for policy in subjects.policies)
    elif asked.against is None:
        yield from (_pictured(policy, subjects, timeouts) for policy in subjects.policies)
    else:
        before = versions_against(options, subjects, asked.against)
        for policy, old in zip(subjects.policies, before, strict=True):
            moves = compare(old, policy.document, subjects.known, subjects.known, timeouts)
            yield Compared(policy.name, policy.file, asked.against, moves)


def _pictured(policy: Policy, subjects: Subjects, timeouts: dict[str, float]) -> Pictured:
    seen = picture(policy.document, subjects.known, timeouts)
    return Pictured(policy.name, policy.file, seen, max_waits(Routes(seen.tree)), dead_configuration(policy.document))


def _supposed(policy: Policy, subjects: Subjects, supposition: Supposition) -> Supposed:
    tree = read_tree(policy.document, subjects.known)
    answers = supposition.answers
    return Supposed(policy.name, policy.file, supposition.given, evaluate(tree, answers), costs(tree, answers), tree)


def _traced(subjects: Subjects, script: Script, seed: int) -> Traced:
    if len(subjects.policies) != 1:
        raise UsageError("--trace walks one request of one policy; name one")
    policy = subjects.policies[0]
    tree = read_tree(policy.document, subjects.known)
    walked = walk(tree, script, Random(seed).random)  # noqa: S311 - the draw of a load balance is no secret
    for name in walked.models:
        if (why := tree.unknown.get(canonical_name(name))) and name not in script:
            raise UsageError(f"the request comes to {name}, which cannot be followed ({why}); give --trace {name}=ANSWER too")
    return Traced(policy.name, policy.file, walked, seed, tree.refused)
