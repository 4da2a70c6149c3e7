"""Which policies a question is about: names of the directory's policies, files, and what each was before."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from policyctl.cli.console import Console
from policyctl.cli.finding import find_those
from policyctl.cli.opening import find_place, load_policies, read_directory
from policyctl.cli.options import Options
from policyctl.core.extra import Extra, extras
from policyctl.effect.declared import NOTHING, Declared
from policyctl.effect.known import Known
from policyctl.errors import PolicyctlError, UsageError
from policyctl.load.base import sources_at
from policyctl.load.config import find_config, load_config
from policyctl.load.directory import Loaded
from policyctl.load.environment import Environment
from policyctl.load.links import discreet
from policyctl.load.loosely import read_loosely
from policyctl.load.markers import is_template
from policyctl.load.source import SUFFIXES, Source, read_source
from policyctl.load.unread import Unread
from policyctl.load.urls import GIT, LOCAL
from policyctl.model.complaints import did_you_mean
from policyctl.model.live import Live, Observed
from policyctl.model.names import POLICY_PREFIX, canonical_model, canonical_name
from policyctl.model.normal import Document, references
from policyctl.model.policy import Policy
from policyctl.reconcile.observe import look_up, observe
from policyctl.remote.gitrev import GitReader
from policyctl.remote.open import open_reader
from policyctl.remote.protocol import Reader

LIVE = "live"


@dataclass(frozen=True, slots=True)
class Subjects:
    """The policies asked about, all policies that their targets may name, as far as the files have them, the models that the
    directory declares, and what is declared of models."""

    policies: tuple[Policy, ...]
    known: Known
    models: frozenset[str] = frozenset()
    declared: Declared = NOTHING


@dataclass(frozen=True, slots=True)
class Sides:
    """Both sides of a comparison: what each policy asked about was (None: there is none), and the policies that targets name
    before and after. `extras` are the fields of live policies among all these that the format does not know, by the policy's
    name. `partials` are for each policy asked about the share of calls that fail in partial failures, by the policyctl.yaml of
    its file."""

    versions: tuple[Document | None, ...]
    before: Known
    after: Known
    partials: tuple[float, ...]
    extras: Mapping[str, tuple[Extra, ...]] = field(default_factory=dict)


def find_subjects(options: Options, arguments: tuple[str, ...], console: Console) -> Subjects:
    """The policies behind names and files; without any, all of the directory.

    The directory is read for names, and for what else it says where a file lies in it: a policy is the same one by either, and
    one that is asked for in several ways is there once.
    """
    files = [Path(argument) for argument in arguments if _is_file(argument)]
    names = [argument for argument in arguments if not _is_file(argument)]
    found: list[Policy] = []
    models = frozenset[str]()
    directory: Loaded | None
    if names or not files:
        _, directory, unread = load_policies(options, find_place(options), console)
        found += _named(directory.policies, names, options, unread)
        models = frozenset(map(canonical_model, directory.models))
    else:
        directory = _around(files, options, console)
    declared = directory.declared if directory else NOTHING
    for file in files:
        loose = read_loosely(*_opened(options, read_source(file), file))
        console.problems(discreet(loose.problems))
        found += loose.policies
        declared |= loose.declared
    known = {policy.name: policy.document for policy in (*(directory.policies if directory else ()), *found)}
    once = {(policy.name, Path(policy.file).resolve(), policy.index): policy for policy in found}
    return Subjects(tuple(once.values()), Known(known), models, declared)


def _around(files: list[Path], options: Options, console: Console) -> Loaded | None:
    """The directory where one of these files lies in it, as far as it can be read: what is asked is about the files alone."""
    if any(_is_inside(file, options) for file in files):
        with suppress(PolicyctlError):
            return read_directory(options, find_place(options), console)[1]
    return None


def raise_if_idle_dir(options: Options, arguments: tuple[str, ...]) -> None:
    """Raise UsageError where --dir is given and decides nothing: the arguments are files, and none of them lies in it."""
    uses_it = not arguments or any(not _is_file(one) or _is_inside(Path(one), options) for one in arguments)
    if "dir" in options.given and not uses_it:
        raise UsageError(f"--dir {options.dir} has none of these files; leave it out")


def _is_inside(path: Path, options: Options) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(options.dir))


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
    """A source and the environment for its templates. Without one a policyctl.yaml is only read where --env names it."""
    if not is_template(source.text) and "env" not in options.given:  # one that is asked for must exist
        return source, Environment(LOCAL)
    return source, load_config(find_config(path.parent, options.dir)).environment(options.env)


def _then(options: Options, subjects: Subjects, against: str) -> Sides:
    """Policies of the directory are read as it was as a whole, others from their files alone."""
    revision, known = against.removeprefix(GIT), dict[str, Document]()
    if any(_is_inside(Path(policy.file), options) for policy in subjects.policies):
        with GitReader(against, options.dir, find_place(options).environment) as reader:
            known = {name: live.normal for name, live in observe(reader).live.items()}
    files = list(dict.fromkeys(Path(policy.file) for policy in subjects.policies if policy.name not in known))
    for file, source in sources_at(files, revision).items():
        if source is not None:
            loose = read_loosely(*_opened(options, source, file))
            known = {**{policy.name: policy.document for policy in loose.policies}, **known}
    versions = tuple(known.get(policy.name) for policy in subjects.policies)
    return Sides(versions, Known(known), subjects.known, _partials(options, subjects))


def _live(options: Options, subjects: Subjects) -> Sides:
    """What is live is left as it is where no file says otherwise."""
    place = find_place(options)
    with open_reader(place.url, place.access) as reader:
        found = find_those(reader, {policy.name for policy in subjects.policies})
        rows, unclear = _below(reader, dict(found), subjects)
    live = {name: row.normal for name, row in rows.items()}
    versions = tuple(live.get(policy.name) for policy in subjects.policies)
    whole = not place.url.startswith(GIT)
    left = {name: why for name, why in unclear.items() if name not in subjects.known}
    before = Known(live, whole=whole, unclear=unclear)
    after = Known({**live, **subjects.known}, whole=whole, unclear=left)
    written = {**subjects.known, **{policy.name: policy.document for policy in subjects.policies}}
    unknown = {name: fields for name, row in rows.items() if (fields := extras(row.document, written.get(name)))}
    return Sides(versions, before, after, _partials(options, subjects), unknown)


def _partials(options: Options, subjects: Subjects) -> tuple[float, ...]:
    folders = [Path(policy.file).parent for policy in subjects.policies]
    starts = {folder: options.dir if _is_inside(folder, options) else folder for folder in {*folders}}
    found = {start: load_config(find_config(start, options.dir)).shared.settings.partial for start in {*starts.values()}}
    return tuple(found[starts[folder]] for folder in folders)


def _below(reader: Reader, live: dict[str, Live], subjects: Subjects) -> tuple[dict[str, Live], dict[str, str]]:
    """The `live` policies, and all that they or the files lead to; and those that are unclear."""
    unclear: dict[str, str] = {}
    looked, seen = {policy.name for policy in subjects.policies}, set[str]()
    pending = [*(row.normal for row in live.values()), *(policy.document for policy in subjects.policies)]
    while pending:
        targets = frozenset[str]().union(*map(references, pending)) - seen
        seen |= targets
        observed = look_up(reader, targets - looked) if targets - looked else Observed({})
        live |= observed.live
        unclear |= observed.obstacles()
        pending = [live[name].normal for name in targets if name in live]
        pending += [subjects.known[name] for name in targets if name in subjects.known]
    return live, unclear
