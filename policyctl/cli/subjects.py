"""Which policies a question is about: names of the directory's policies, files, and what each was before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from policyctl.cli.console import Console
from policyctl.cli.finding import find_those
from policyctl.cli.opening import find_place, load_policies, read_directory
from policyctl.cli.options import Options
from policyctl.effect.known import Known
from policyctl.errors import InvalidInput, UsageError
from policyctl.load.base import sources_at
from policyctl.load.environment import Environment, find_config, load_config
from policyctl.load.links import discreet
from policyctl.load.loosely import read_loosely
from policyctl.load.markers import is_template
from policyctl.load.source import SUFFIXES, Source, read_source
from policyctl.load.unread import Unread
from policyctl.load.urls import GIT, LOCAL
from policyctl.model.complaints import did_you_mean
from policyctl.model.live import Live, Observed
from policyctl.model.names import POLICY_PREFIX, canonical_name, full_model
from policyctl.model.normal import Document, references
from policyctl.model.policy import Policy
from policyctl.reconcile.observe import look_up, observe
from policyctl.remote.gitrev import GitReader
from policyctl.remote.open import open_reader
from policyctl.remote.protocol import Reader

LIVE = "live"


@dataclass(frozen=True, slots=True)
class Subjects:
    """The policies asked about, all policies that their targets may name, as far as the files have them, and the models that
    the directory declares."""

    policies: tuple[Policy, ...]
    known: Known
    models: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Sides:
    """Both sides of a comparison: what each policy asked about was (None: there is none), and the policies that targets name
    before and after."""

    versions: tuple[Document | None, ...]
    before: Known
    after: Known


def find_subjects(options: Options, arguments: tuple[str, ...], console: Console) -> Subjects:
    """The policies behind names and files; without any, all of the directory.

    The directory is read for names, and where a file of it targets policies that are in other files.
    """
    found: list[Policy] = []
    known: dict[str, Document] = {}
    models = frozenset[str]()
    if not arguments or any(not _is_file(argument) for argument in arguments):
        _, loaded, unread = load_policies(options, find_place(options), console)
        directory, models = loaded.policies, frozenset(map(full_model, loaded.models))
        known = {policy.name: policy.document for policy in directory}
        found += _named(directory, [argument for argument in arguments if not _is_file(argument)], options, unread)
    for argument in arguments:
        if _is_file(argument):
            policies, problems = read_loosely(*_opened(options, read_source(Path(argument)), Path(argument)))
            console.problems(discreet(problems))
            found += policies
    own = {policy.name: policy.document for policy in found}
    if not known and any(references(policy.document) - own.keys() and _in_directory(policy, options) for policy in found):
        known = _beside(options, console)
    return Subjects(tuple(found), Known({**known, **own}), models)


def _in_directory(policy: Policy, options: Options) -> bool:
    return Path(policy.file).resolve().is_relative_to(options.dir.resolve())


def _beside(options: Options, console: Console) -> dict[str, Document]:
    """The directory's policies as far as they can be read; that some cannot is not what was asked."""
    try:
        _, loaded, _ = read_directory(options, find_place(options), console)
    except (InvalidInput, UsageError):
        return {}
    return {policy.name: policy.document for policy in loaded.policies}


def sides_against(options: Options, subjects: Subjects, against: str) -> Sides:
    """What each policy was at `git:REF`, or is on the remote (`live`), and what its targets lead to on each side."""
    if against == LIVE:
        return _live(options, subjects)
    if not against.startswith(GIT) or against == GIT:
        raise UsageError(f"--against takes git:REF or live, not {against!r}")
    return _then(options, subjects, against)


def _is_file(argument: str) -> bool:
    """Whether an argument means a file: there is one, or it looks like nothing else."""
    if Path(argument).is_file():
        return True
    return argument.endswith(SUFFIXES) and not argument.startswith(POLICY_PREFIX)


def _named(directory: tuple[Policy, ...], names: list[str], options: Options, unread: Unread) -> list[Policy]:
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


def _opened(options: Options, source: Source, path: Path) -> tuple[Source, Environment]:
    """A source and the environment for its templates, for which alone a policyctl.yaml is looked up."""
    if not is_template(source.text):
        return source, Environment(LOCAL)
    return source, load_config(find_config(path.parent, options.dir)).environment(options.env)


def _then(options: Options, subjects: Subjects, against: str) -> Sides:
    """Policies of the directory are read as it was as a whole, others from their files alone."""
    revision, known = against.removeprefix(GIT), dict[str, Document]()
    if any(_in_directory(policy, options) for policy in subjects.policies):
        with GitReader(against, options.dir, find_place(options).environment) as reader:
            known = {name: live.normal for name, live in observe(reader).live.items()}
    files = list(dict.fromkeys(Path(policy.file) for policy in subjects.policies if policy.name not in known))
    for file, source in sources_at(files, revision).items():
        if source is not None:
            policies, _ = read_loosely(*_opened(options, source, file))
            known = {**{policy.name: policy.document for policy in policies}, **known}
    return Sides(tuple(known.get(policy.name) for policy in subjects.policies), Known(known), subjects.known)


def _live(options: Options, subjects: Subjects) -> Sides:
    """What is live is left as it is where no file says otherwise."""
    place = find_place(options)
    with open_reader(place.url, place.access) as reader:
        found = find_those(reader, {policy.name for policy in subjects.policies})
        live, unclear = _below(reader, dict(found), subjects)
    versions = tuple(live.get(policy.name) for policy in subjects.policies)
    whole = not place.url.startswith(GIT)
    left = {name: why for name, why in unclear.items() if name not in subjects.known}
    before = Known(live, whole=whole, unclear=unclear)
    return Sides(versions, before, Known({**live, **subjects.known}, whole=whole, unclear=left))


def _below(reader: Reader, found: dict[str, Live], subjects: Subjects) -> tuple[dict[str, Document], dict[str, str]]:
    """The live policies among `found` and all that they or the files lead to, in normal form; and those that are unclear."""
    live = {name: row.normal for name, row in found.items()}
    unclear: dict[str, str] = {}
    looked, seen = {policy.name for policy in subjects.policies}, set[str]()
    pending = [*live.values(), *(policy.document for policy in subjects.policies)]
    while pending:
        targets = frozenset[str]().union(*map(references, pending)) - seen
        seen |= targets
        observed = look_up(reader, targets - looked) if targets - looked else Observed({})
        live |= {name: row.normal for name, row in observed.live.items()}
        unclear |= observed.unclear
        pending = [some[name] for name in targets for some in (live, subjects.known) if name in some]
    return live, unclear
