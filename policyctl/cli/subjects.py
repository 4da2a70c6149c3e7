"""Which policies a question is about: names of the directory's policies, files, and what each was before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from policyctl.cli.console import Console
from policyctl.cli.finding import find_those
from policyctl.cli.opening import find_place, load_policies
from policyctl.cli.options import Options
from policyctl.errors import UsageError
from policyctl.load.base import sources_at
from policyctl.load.environment import find_config, load_config
from policyctl.load.links import discreet
from policyctl.load.loosely import read_loosely
from policyctl.load.markers import is_template
from policyctl.load.source import SUFFIXES, Source, read_source
from policyctl.load.unread import Unread
from policyctl.load.urls import GIT
from policyctl.model.complaints import did_you_mean
from policyctl.model.names import POLICY_PREFIX, canonical_name
from policyctl.model.normal import Document
from policyctl.model.policy import Policy
from policyctl.remote.open import open_reader

LIVE = "live"


@dataclass(frozen=True, slots=True)
class Subjects:
    """The policies asked about, and all policies that their targets may name."""

    policies: tuple[Policy, ...]
    known: Mapping[str, Document]


def find_subjects(options: Options, arguments: tuple[str, ...], console: Console) -> Subjects:
    """The policies behind names and files; without any, all of the directory. The directory is read only for names."""
    found: list[Policy] = []
    known: dict[str, Document] = {}
    if not arguments or any(not _is_file(argument) for argument in arguments):
        _, loaded, unread = load_policies(options, find_place(options), console)
        known = {policy.name: policy.document for policy in loaded.policies}
        names = [argument for argument in arguments if not _is_file(argument)]
        found += _named(loaded.policies, names, options, unread)
    for argument in arguments:
        if _is_file(argument):
            policies, problems = read_loosely(*_opened(options, read_source(Path(argument)), Path(argument)))
            console.problems(discreet(problems))
            found += policies
    return Subjects(tuple(found), {**known, **{policy.name: policy.document for policy in found}})


def versions_against(options: Options, subjects: Subjects, against: str) -> Iterator[Document | None]:
    """What each policy was at `git:REF`, or is on the remote (`live`), in their order; None where there was or is none."""
    if against == LIVE:
        return iter(_live(options, subjects))
    if not against.startswith(GIT) or against == GIT:
        raise UsageError(f"--against takes git:REF or live, not {against!r}")
    return iter(_at(options, subjects.policies, against.removeprefix(GIT)))


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


def _opened(options: Options, source: Source, path: Path) -> tuple[Source, Mapping[str, object]]:
    """A source and the variables for its templates, for which alone a policyctl.yaml is looked up."""
    if not is_template(source.text):
        return source, {}
    return source, load_config(find_config(path.parent, options.dir)).environment(options.env).vars


def _at(options: Options, policies: Sequence[Policy], revision: str) -> list[Document | None]:
    """What each policy was at a revision, in the file that has it now."""
    files = list(dict.fromkeys(policy.file for policy in policies))
    sources = sources_at([Path(file) for file in files], revision)
    then: dict[tuple[str, str], Document] = {}
    for file in files:
        if (source := sources.get(Path(file))) is not None:
            said, _ = read_loosely(*_opened(options, source, Path(file)))
            then.update(((file, policy.name), policy.document) for policy in said)
    return [then.get((policy.file, policy.name)) for policy in policies]


def _live(options: Options, subjects: Subjects) -> list[Document | None]:
    names = [policy.name for policy in subjects.policies]
    place = find_place(options)
    with open_reader(place.url, place.access) as reader:
        found = find_those(reader, set(names))
    return [found[name].normal if name in found else None for name in names]
