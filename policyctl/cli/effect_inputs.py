"""Which policies `effect` is about, and what --down, --rate, --trace and --timeout assume about models."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from policyctl.cli.console import Console
from policyctl.cli.options import Options
from policyctl.cli.session import Session, open_session
from policyctl.effect.gateway import Answer, Answers, answer_streamed, read_answer, with_remainder
from policyctl.effect.tree import NOTHING, DeclaredModels, KnownPolicies, tree_if_known
from policyctl.errors import NotKnown, PolicyctlError, UsageError
from policyctl.load.directory import Loaded, read_leniently
from policyctl.load.discovery import UnreadFiles, find_config, load_config
from policyctl.load.environment import Config, Environment
from policyctl.load.kinds import is_template
from policyctl.load.source import SUFFIXES, Source, read_source, redact_linked
from policyctl.load.urls import GIT, LOCAL
from policyctl.plan.diff import UnknownField, unknown_fields
from policyctl.policy.document import Document, Policy, model_names, references
from policyctl.policy.findings import did_you_mean
from policyctl.policy.live import LivePolicy, LiveRows
from policyctl.policy.names import (
    POLICY_PREFIX,
    canonical,
    canonical_model,
    canonical_name,
    matching_models,
    model_names_in,
    short_model,
)
from policyctl.reconcile.observe import find_those, look_up, observe
from policyctl.remote import Reader

LIVE = "live"


class PolicySet(NamedTuple):
    """The policies asked about, all policies that they may target (as far as files have them), the models that the directory
    declares, and the facts that it declares about models."""

    policies: tuple[Policy, ...]
    known: KnownPolicies
    models: frozenset[str] = frozenset()
    declared: DeclaredModels = NOTHING


@dataclass(frozen=True, slots=True)
class Versions:
    """Both sides of a comparison: the earlier version of each policy (None: it did not exist), and all policies that may be
    targeted, before and after. `partials` has for each policy the share of calls that fail in partial failures, by the
    policyctl.yaml of its file. `extras` are fields of live policies that the format does not know, by the policy's name."""

    versions: tuple[Document | None, ...]
    before: KnownPolicies
    after: KnownPolicies
    partials: tuple[float, ...]
    extras: Mapping[str, tuple[UnknownField, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Here:
    """Where policies are looked for: the options, and the session of one of several environments (None: the one chosen)."""

    options: Options
    opened: Session | None = None

    def session(self) -> Session:
        """The session of the policy directory."""
        return self.opened or open_session(self.options)

    @property
    def console(self) -> Console:
        """Where messages go."""
        return Console(self.options) if self.opened is None else self.opened.console

    def config(self, folder: Path) -> Config:
        """The configuration of a folder, which may be that of the policy directory."""
        path = find_config(folder, self.options.dir)
        return self.opened.config if self.opened is not None and path == self.opened.config.path else load_config(path)

    @property
    def environment(self) -> str | None:
        """The name of the environment; None for the default."""
        return self.options.environment if self.opened is None else self.opened.environment.name


def find_policies(here: Here, arguments: tuple[str, ...]) -> PolicySet:
    """The policies with these names, and those in these files; without arguments, all of the directory.

    The directory is read if there is a name, or a file inside it. A policy that is given several times, by name or by file,
    is shown once.
    """
    files = [Path(argument) for argument in arguments if is_file(argument)]
    names = [argument for argument in arguments if not is_file(argument)]
    found: list[Policy] = []
    models = frozenset[str]()
    directory: Loaded | None
    if names or not files:
        _, directory, unread = here.session().read()
        found += _named(directory.policies, names, here.options, unread)
        models = frozenset(map(canonical_model, directory.models))
    else:
        directory = _around(files, here)
    declared = directory.declared if directory else NOTHING
    for file in files:
        loose = read_leniently(*_opened(here, read_source(file), file))
        here.console.problems(redact_linked(loose.problems))
        found += loose.policies
        declared |= loose.declared
    known = {policy.name: policy.document for policy in (*(directory.policies if directory else ()), *found)}
    once = {(policy.name, Path(policy.file).resolve(), policy.index): policy for policy in found}
    return PolicySet(tuple(once.values()), KnownPolicies(known), models, declared)


def _around(files: list[Path], here: Here) -> Loaded | None:
    """The directory if one of these files is in it, as far as it can be read: its other files are not what is asked about."""
    if any(_is_inside(file, here.options) for file in files):
        with suppress(PolicyctlError):
            return here.session().read(lenient=True).loaded
    return None


def raise_if_idle_dir(options: Options, arguments: tuple[str, ...]) -> None:
    """Raise UsageError for a --dir without an effect: the arguments are files, and none of them is in it."""
    uses_it = not arguments or any(not is_file(one) or _is_inside(Path(one), options) for one in arguments)
    if "dir" in options.given and not uses_it:
        raise UsageError(f"--dir {options.dir} has none of these files; leave it out")


def _is_inside(path: Path, options: Options) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(options.dir))


def versions_against(here: Here, subjects: PolicySet, against: str) -> Versions:
    """Each policy at `git:REF`, or on the remote (`live`), and the policies that it may target on each side."""
    if against == LIVE:
        return _live(here, subjects)
    if not against.startswith(GIT) or against == GIT:
        raise UsageError(f"--against takes git:REF or live, not {against!r}")
    return _then(here, subjects, against)


def is_file(argument: str) -> bool:
    """Whether an argument is a file: it exists, or looks like one."""
    if Path(argument).is_file():
        return True
    return argument.endswith(SUFFIXES) and not argument.startswith(POLICY_PREFIX)


def _named(directory: tuple[Policy, ...], names: list[str], options: Options, unread: UnreadFiles) -> list[Policy]:
    if not names:
        return list(directory)
    by_name = {policy.name: policy for policy in directory}
    for name in names:
        if canonical_name(name) not in by_name:
            if elsewhere := unread.where(canonical_name(name)):
                raise UsageError(f"{options.dir} has no policy {name} that is read: {elsewhere}")
            guess = did_you_mean(canonical_name(name), by_name, POLICY_PREFIX)
            raise UsageError(f"{options.dir} has no policy {name}{guess}; name one of its policies, or a file")
    return [by_name[canonical_name(name)] for name in dict.fromkeys(names)]


def _opened(here: Here, source: Source, path: Path) -> tuple[Source, Environment]:
    """A source and the environment for its templates. Without templates or --env no policyctl.yaml is read."""
    is_named = here.opened is not None or "env" in here.options.given
    if not is_template(source.text) and not is_named:  # an environment that is named must exist
        return source, Environment(LOCAL)
    return source, here.config(path.parent).environment(here.environment)


def _then(here: Here, subjects: PolicySet, against: str) -> Versions:
    """Policies at a revision. For those of the directory all of it is read, for others only their files."""
    from policyctl.load.base_config import sources_at  # with git behind it, as the other
    from policyctl.remote.git import GitReader

    revision, known = against.removeprefix(GIT), dict[str, Document]()
    if any(_is_inside(Path(policy.file), here.options) for policy in subjects.policies):
        with GitReader(against, here.options.dir, here.session().environment) as reader:
            known = {name: live.normal for name, live in observe(reader).live.items()}
    files = list(dict.fromkeys(Path(policy.file) for policy in subjects.policies if policy.name not in known))
    for file, source in sources_at(files, revision).items():
        if source is not None:
            loose = read_leniently(*_opened(here, source, file))
            known = {**{policy.name: policy.document for policy in loose.policies}, **known}
    versions = tuple(known.get(policy.name) for policy in subjects.policies)
    return Versions(versions, KnownPolicies(known), subjects.known, _partials(here, subjects))


def _live(here: Here, subjects: PolicySet) -> Versions:
    """Live policies. On the later side, those without a file stay as they are."""
    session = here.session()
    with session.reader() as reader:
        found = find_those(reader, {policy.name for policy in subjects.policies})
        rows, unclear = _below(reader, dict(found), subjects)
    live = {name: row.normal for name, row in rows.items()}
    versions = tuple(live.get(policy.name) for policy in subjects.policies)
    whole = not session.url.startswith(GIT)
    left = {name: why for name, why in unclear.items() if name not in subjects.known}
    before = KnownPolicies(live, whole=whole, unclear=unclear)
    after = KnownPolicies({**live, **subjects.known}, whole=whole, unclear=left)
    written = {**subjects.known, **{policy.name: policy.document for policy in subjects.policies}}
    unknown = {name: fields for name, row in rows.items() if (fields := unknown_fields(row.document, written.get(name)))}
    return Versions(versions, before, after, _partials(here, subjects), unknown)


def _partials(here: Here, subjects: PolicySet) -> tuple[float, ...]:
    folders = [Path(policy.file).parent for policy in subjects.policies]
    starts = {folder: here.options.dir if _is_inside(folder, here.options) else folder for folder in {*folders}}
    found = {start: here.config(start).shared.settings.partial for start in {*starts.values()}}
    return tuple(found[starts[folder]] for folder in folders)


def _below(reader: Reader, live: dict[str, LivePolicy], subjects: PolicySet) -> tuple[dict[str, LivePolicy], dict[str, str]]:
    """The `live` policies and all that they or the files lead to; and by name, why others cannot be read."""
    unclear: dict[str, str] = {}
    looked, seen = {policy.name for policy in subjects.policies}, set[str]()
    pending = [*(row.normal for row in live.values()), *(policy.document for policy in subjects.policies)]
    while pending:
        targets = frozenset[str]().union(*map(references, pending)) - seen
        seen |= targets
        observed = look_up(reader, targets - looked) if targets - looked else LiveRows({})
        live |= observed.policies
        unclear |= observed.obstacles()
        pending = [live[name].normal for name in targets if name in live]
        pending += [subjects.known[name] for name in targets if name in subjects.known]
    return live, unclear


Script = dict[str, Sequence[Answer]]
T = TypeVar("T")


class Assumptions(NamedTuple):
    """What models answer, and the options that state it."""

    answers: dict[str, Answers]
    given: tuple[str, ...]


def models_of(subjects: PolicySet) -> tuple[str, ...]:
    """Every model that the policies name, even if it is never called, and those of the policies that they target."""
    found: dict[str, None] = {}
    for policy in subjects.policies:
        named = (name for name in model_names(policy.document) if canonical(name) not in subjects.known)
        found.update(dict.fromkeys(map(canonical_model, named)))
        with suppress(NotKnown):  # shown in the view of that policy
            found.update(dict.fromkeys(tree_if_known(policy.document, subjects.known).models))
    return tuple(found)


def read_assumptions(down: Iterable[str], rate: Iterable[str], models: tuple[str, ...], streamed: bool) -> Assumptions:
    """Models that are down, and models that fail a part of their calls and answer the rest with 200.

    `streamed` is whether requests are for a stream. Raises UsageError for what cannot be true at once.
    """
    read = _reader(streamed)
    chances: dict[str, dict[Answer, float]] = {}
    for text in down:
        for model, answer in _each("--down", text, models, read):
            if chances.setdefault(model, {answer: 1.0}) != {answer: 1.0}:
                raise UsageError(f"--down {text}: {short_model(model)} cannot be down in two ways at once")
    for text in rate:
        for model, (answer, share) in _each("--rate", text, models, lambda value: _read_rate(value, read)):
            own = chances.setdefault(model, {})
            own[answer] = own.get(answer, 0.0) + share
            if sum(own.values()) > 1 + 1e-9:
                raise UsageError(f"--rate {text}: {short_model(model)} would answer more than all of its calls")
    answers: dict[str, Answers] = {model: with_remainder(own) for model, own in chances.items()}
    return Assumptions(answers, (*(f"down {text}" for text in down), *(f"rate {text}" for text in rate)))


def read_scripts(trace: Iterable[str], models: tuple[str, ...], streamed: bool) -> Script:
    """The answers that models give, in order; `streamed` is whether the request is for a stream."""
    read, script = _reader(streamed), Script()
    for text in trace:
        for model, answers in _each("--trace", text, models, lambda value: _read_script(value, read)):
            if model in script:
                raise UsageError(f"--trace {text}: {short_model(model)} has a script already; write one for each model")
            script[model] = answers
    return script


def read_timeouts(timeout: Iterable[str], models: tuple[str, ...]) -> dict[str, float]:
    """The models' own timeouts, in seconds."""
    return {model: seconds for text in timeout for model, seconds in _each("--timeout", text, models, _read_seconds)}


def _each(option: str, text: str, models: tuple[str, ...], read: Callable[[str], T]) -> list[tuple[str, T]]:
    """The models that a MODEL=VALUE matches, each with the value."""
    pattern, equals, value = text.rpartition("=")
    if not equals or not pattern:
        raise UsageError(f"{option} takes MODEL=…, not {text!r}")
    found = matching_models(pattern, models)
    if not found:
        known = sorted({name for model in models for name in model_names_in(model)})
        asked = ", ".join(sorted(map(short_model, models))) or "none"
        raise UsageError(f"{option} {text}: no model matches {pattern}{did_you_mean(pattern, known)}; models: {asked}")
    try:
        return [(model, read(value)) for model in found]
    except ValueError as error:
        raise UsageError(f"{option} {text}: {error}") from None


def _reader(streamed: bool) -> Callable[[str], Answer]:
    return (lambda text: answer_streamed(read_answer(text))) if streamed else read_answer


def _read_rate(text: str, read: Callable[[str], Answer]) -> tuple[Answer, float]:
    answer, _, rate = text.partition(":")
    try:
        share = float(rate)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise ValueError(f"{rate!r} is not a rate; write ANSWER:RATE with a rate above 0, at most 1")
    return read(answer), share


def _read_script(text: str, read: Callable[[str], Answer]) -> tuple[Answer, ...]:
    return tuple(read(answer.strip()) for answer in text.split(","))


def _read_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e9:
        raise ValueError(f"{text!r} is not a timeout; write seconds, such as 30")
    return seconds
