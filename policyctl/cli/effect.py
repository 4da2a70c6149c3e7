"""policyctl effect."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, TypeVar

import click
from click.core import ParameterSource

from policyctl.cli.console import Console
from policyctl.cli.effect_inputs import (
    LIVE,
    Assumptions,
    Here,
    PolicySet,
    Script,
    Versions,
    find_policies,
    is_file,
    models_of,
    raise_if_idle_dir,
    read_assumptions,
    read_scripts,
    read_timeouts,
    versions_against,
)
from policyctl.cli.environments import with_environments
from policyctl.cli.options import NAMES, Options, complete_policies_or_files, with_form, with_options
from policyctl.cli.selection import with_partial
from policyctl.cli.session import Session
from policyctl.effect.analysis import analyse, compare
from policyctl.effect.course import simulate
from policyctl.effect.evaluate import costs, evaluate
from policyctl.effect.gateway import ASSUMED, ASSUMED_STREAMED
from policyctl.effect.outages import outages, told_apart
from policyctl.effect.tree import UNFIT, DeclaredModels, tree_if_known, unfit_models
from policyctl.effect.usage import Names, Use, Uses, dead_configuration, names_in
from policyctl.errors import NotKnown, UsageError
from policyctl.load.environment import EnvironmentFilter
from policyctl.load.urls import is_shared
from policyctl.plan.diff import uncounted
from policyctl.plan.references import led_to
from policyctl.policy.document import Document, Policy, version_of
from policyctl.policy.findings import did_you_mean
from policyctl.policy.names import model_names_in, spellings
from policyctl.report.effects import Answer, render_answer
from policyctl.report.plan_json import AnalysisView, ComparisonView, NotKnownView, Trace, Users, View, WhatIf

T = TypeVar("T")

EPILOG = """\b
Example:
  policyctl effect anygem
  policyctl effect policies/chat.yaml --down openai=503
  policyctl effect chat --rate openai=503:0.1 --rate google=connect-timeout:0.01
  policyctl effect anygem --trace gemini-2.0-flash=503,503 --seed 1
  policyctl effect support --against git:main
  policyctl effect --uses openai/gpt-4o
  policyctl effect --records records.jsonl
  policyctl effect --all chat
  policyctl effect --graph --format markdown >> "$GITHUB_STEP_SUMMARY"

\b
MODEL is a model (with or without virtual-model/ and the provider), a provider, or a glob over these;
PATTERN is that, or a policy.
ANSWER is a status, refused (connection refused), connect-timeout (no connection in time; also: hang), broken-body
(unparsable), cut-stream (a stream that begins with 200 and breaks off) or "429 after 5s" (with a Retry-After)."""


class Question(NamedTuple):
    """The question on the command line, as it was written."""

    against: str | None
    partial: float | None
    down: tuple[str, ...]
    rate: tuple[str, ...]
    trace: tuple[str, ...]
    seed: int
    timeout: tuple[str, ...]
    graph: bool
    uses: str | None
    records: tuple[Path, ...]
    streamed: bool

    @property
    def about_streams(self) -> bool:
        """Whether the result is about requests for a stream."""
        return self.streamed or any("cut-stream" in text for text in (*self.down, *self.rate, *self.trace))


@click.command("effect", epilog=EPILOG)
@click.argument("policies", nargs=-1, metavar="[NAME|FILE]...", shell_complete=complete_policies_or_files)
@click.option("--against", metavar="git:REF|live", help="Show what changed since a git revision, or against the remote.")
@with_partial
@click.option("--down", multiple=True, metavar="MODEL=ANSWER", help="It gives only this answer; repeatable.")
@click.option(
    "--rate", multiple=True, metavar="MODEL=ANSWER:RATE", help="It gives this answer to a part of its calls; repeatable."
)
@click.option(
    "--trace", multiple=True, metavar="MODEL=ANSWER,…", help="Follow one request; the last answer is repeated; repeatable."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Decides the draws of --trace.")
@click.option("--timeout", multiple=True, metavar="MODEL=SECONDS", help="For the worst-case latency; repeatable.")
@click.option("--graph", is_flag=True, help="Draw the policies as a mermaid flowchart.")
@click.option("--uses", metavar="PATTERN", help="Show which policies use a model, a provider or a policy, and how.")
@click.option(
    "--records",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Hold predictions against records of policyctl gateway; repeatable.",
)
@click.option("--streamed", is_flag=True, help="For requests for a stream, whose outages include streams that are cut off.")
@with_form("text", "json", "markdown")
@with_options(*NAMES)
@with_environments
def effect(options: Options, policies: tuple[str, ...], form: str, chosen: EnvironmentFilter, **question: Any) -> int:
    """Show what policies do to traffic, offline and exactly: shares, outages, worst case, dead configuration.

    A FILE needs no directory and no remote, and may contain what validate would refuse. Without a NAME or FILE all policies of
    the directory are shown. With several environments, what is the same in them is shown once.
    """
    console, asked = Console(options), Question(**question)
    _check(options, policies, asked, form)
    if asked.records:
        if chosen.several:
            raise UsageError("--records is held against the policies of one environment; name one with --env")
        console.result(_calibrated(find_policies(Here(options), policies), asked.records, form))
        return 0
    if chosen.several:
        return _effect_several(options, chosen, policies, form, asked)
    console.result(render_answer(form, _answer(Here(options), policies, asked), console.out_style))
    return 0


def _effect_several(options: Options, chosen: EnvironmentFilter, names: tuple[str, ...], form: str, asked: Question) -> int:
    """Answer the question for several environments. What decides the answer is looked at once for those with the same."""
    from policyctl.cli.fleet import look_at, open_fleet
    from policyctl.report.effects import Marked, Part, effects_report, marked
    from policyctl.report.format import NONE_AFFECTED

    loose = bool(names) and all(map(is_file, names))
    fleet = open_fleet(options, chosen, deep=False, lenient=loose, suspended=True)
    if not fleet.names:
        fleet.console.say(NONE_AFFECTED)
        return 0
    answers: dict[str, Marked] = {}
    alike: dict[str, Marked] = {}
    parts: dict[str, Part] = {}

    def work(session: Session) -> None:
        one = session.environment
        key = one.name if asked.against or any(map(is_file, names)) else f"{is_shared(one.remote)} {one.digest}"
        if key not in alike:
            answer, marks = marked(_answer(Here(options, session), names, asked))
            same = tuple(parts.setdefault(mark, part) for mark, part in zip(marks, answer.parts, strict=True))
            alike[key] = Marked(answer._replace(parts=same), marks)
        answers[one.name] = alike[key]

    result = look_at(fleet, "effect", work)
    fleet.console.result(effects_report(form, result, answers, fleet.console.out_style))
    return result.exit_code()


def _answer(here: Here, names: tuple[str, ...], asked: Question) -> Answer:
    """The answer to the question about these policies in one environment."""
    subjects = find_policies(here, names)
    known = tuple(subjects.known.values())
    if asked.graph:
        from policyctl.report.effect_rows import effect_graph

        return Answer((effect_graph([policy.document for policy in subjects.policies]),), known)
    with here.console.progress.of("Working out", "policy", len(subjects.policies)) as step:
        if asked.uses is not None:
            return Answer((_users(subjects, asked.uses, step),), known)
        views: list[View] = []
        for view in _views(here, subjects, asked):
            views.append(view)
            step()
    return Answer(tuple(views), known, ASSUMED_STREAMED if asked.about_streams else ASSUMED)


def _lines(files: tuple[Path, ...]) -> Iterator[bytes]:
    for file in files:
        try:
            with file.open("rb") as lines:
                yield from lines
        except OSError as error:
            raise UsageError(f"--records {file} cannot be read: {error.strerror}") from None


def _calibrated(subjects: PolicySet, files: tuple[Path, ...], form: str) -> str:
    """What is predicted of the policies beside what the records show. Raises UsageError when they show nothing of any."""
    from policyctl.effect.evaluate import RecordedRequest, calibrate, read_record
    from policyctl.report.effects import calibration_report

    records: list[RecordedRequest] = []
    unread = 0
    for line in _lines(files):
        try:
            records.append(read_record(json.loads(line)))
        except (ValueError, RecursionError):
            unread += 1
    found = [
        calibrate(policy.name, version_of(policy.document), tree_if_known(policy.document, subjects.known), records)
        for policy in subjects.policies
        if any(record.policy == policy.name for record in records)
    ]
    if not found:
        raise UsageError(f"--records {files[0]} has no request of these policies; name the file that the gateway writes")
    return calibration_report(form, found, unread)


def _check(options: Options, names: tuple[str, ...], asked: Question, form: str) -> None:
    """Raise UsageError for options that ask several questions, or that have no effect on the one that is asked."""
    questions = {
        "--against": asked.against,
        "--down or --rate": asked.down or asked.rate,
        "--trace": asked.trace,
        "--graph": asked.graph,
        "--uses": asked.uses is not None,
        "--records": asked.records,
    }
    chosen = [name for name, value in questions.items() if value]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)} are different questions; ask one at a time")
    about, given = "".join(chosen), click.get_current_context().get_parameter_source
    if asked.streamed and about in ("--against", "--graph", "--uses", "--records"):
        raise UsageError("--streamed is for outages, --down, --rate and --trace; leave it out")
    if asked.timeout and about not in ("", "--against"):
        raise UsageError(f"--timeout is for the worst-case latency, which {about} does not show; leave it out")
    if asked.partial is not None and about != "--against":
        raise UsageError("--partial is for the partial failures that --against compares; add that or leave --partial out")
    if given("seed") is ParameterSource.COMMANDLINE and not asked.trace:
        raise UsageError("--seed is for the draws of --trace; add that or leave --seed out")
    if "remote" in options.given and asked.against != LIVE:
        raise UsageError("--remote is only used with --against live; add that or leave --remote out")
    if asked.graph and form == "json":
        raise UsageError("--graph is drawn as text or markdown; leave out --format json")
    if asked.against != LIVE:
        raise_if_idle_dir(options, names)


def _views(here: Here, subjects: PolicySet, asked: Question) -> Iterator[View]:
    """The views to show, policy by policy."""
    models = models_of(subjects)
    declared = subjects.declared | DeclaredModels(read_timeouts(asked.timeout, models))
    if asked.trace:
        yield _trace(subjects, read_scripts(asked.trace, models, asked.streamed), asked.seed)
    elif asked.down or asked.rate:
        supposition = read_assumptions(asked.down, asked.rate, models, asked.streamed)
        yield from (_known(_what_if, policy, subjects, supposition) for policy in subjects.policies)
    elif asked.against is None:
        yield from (_known(_analysis, policy, subjects, (declared, asked.streamed)) for policy in subjects.policies)
    else:
        sides = versions_against(here, subjects, asked.against)
        for policy, old, share in zip(subjects.policies, sides.versions, sides.partials, strict=True):
            moves = compare(old, policy.document, sides.before, sides.after, declared, asked.partial or share)
            names = {policy.name, *led_to((policy.name,), sides.before), *led_to((policy.name,), sides.after)}
            unknown = {name: fields for name, fields in sides.extras.items() if name in names}
            moves = uncounted(moves) if unknown and old else moves
            yield ComparisonView(
                policy.name, policy.file, asked.against, moves, _unfollowed(policy.document, old, sides), unknown
            )


def _unfollowed(after: Document, before: Document | None, sides: Versions) -> dict[str, str]:
    """Target policies of either version that cannot be followed or do not exist, each with the reason."""
    found: dict[str, str] = {}
    for document, known, why in ((before, sides.before, "did not exist"), (after, sides.after, "does not exist")):
        if document is not None:
            tree = tree_if_known(document, known)
            found |= dict.fromkeys(tree.missing, why) | dict(tree.unfollowed)
    return found


def _known(view: Callable[[Policy, PolicySet, T], View], policy: Policy, subjects: PolicySet, given: T) -> View:
    """A view of a policy, or why it is not known."""
    try:
        return view(policy, subjects, given)
    except NotKnown as error:
        return NotKnownView(policy.name, policy.file, str(error))


def _analysis(policy: Policy, subjects: PolicySet, asked: tuple[DeclaredModels, bool]) -> AnalysisView:
    declared, streamed = asked
    seen = analyse(policy.document, subjects.known, declared)
    matrix = outages(seen.tree, told_apart([seen.tree], streamed=streamed))
    return AnalysisView(policy.name, policy.file, seen, matrix, dead_configuration(policy.document))


def _what_if(policy: Policy, subjects: PolicySet, supposition: Assumptions) -> WhatIf:
    tree = tree_if_known(policy.document, subjects.known, subjects.declared)
    answers = {**dict.fromkeys(tree.unfit, UNFIT), **supposition.answers}
    return WhatIf(policy.name, policy.file, supposition.given, evaluate(tree, answers), costs(tree, answers), tree)


def _trace(subjects: PolicySet, script: Script, seed: int) -> Trace:
    if len(subjects.policies) != 1:
        raise UsageError("--trace follows one request of one policy; name one")
    policy = subjects.policies[0]
    tree = tree_if_known(policy.document, subjects.known, subjects.declared)
    script = {**dict.fromkeys(tree.unfit, (UNFIT,)), **script}
    walked = simulate(tree, script, Random(seed).random)  # noqa: S311 - the choice of a load balancer need not be secret
    for name in walked.models:
        if (why := tree.unfollowed.get(name)) and name not in script:
            raise UsageError(f"the request reaches {name}, which cannot be followed ({why}); add --trace {name}=ANSWER")
    return Trace(policy.name, policy.file, walked, seed, tree.refused, unfit_models(tree))


def _users(subjects: PolicySet, pattern: str, step: Callable[[], object]) -> Users:
    """Which policies use what the pattern matches. Raises UsageError when it matches nothing."""
    documents = [*subjects.known.values(), *(policy.document for policy in subjects.policies)]
    everything = names_in(documents, subjects.known.keys(), subjects.models)
    wanted = everything.fitting(pattern)
    if wanted == Names((), ()):
        raise UsageError(f"no model, provider or policy here matches {pattern}{_guess(pattern, everything)}")
    uses, found = Uses(wanted, subjects.known, subjects.declared), list[Use]()
    beyond, unknown = defaultdict[str, list[str]](list), dict[str, str]()
    for policy in subjects.policies:
        own = list(uses.of(policy.name, policy.document))
        found += own
        if not own and (why := uses.why_not_known(policy.document)):
            unknown[policy.name] = why
        for name in uses.beyond(policy.document):
            beyond[name].append(policy.name)
        step()
    files = {policy.name: policy.file for policy in subjects.policies}
    return Users(pattern, wanted, tuple(found), files, dict(sorted(beyond.items())), unknown)


def _guess(pattern: str, everything: Names) -> str:
    known = {name for model in everything.models for name in model_names_in(model)}
    known.update(spelling for policy in everything.policies for spelling in spellings(policy))
    return did_you_mean(pattern, sorted(known))
