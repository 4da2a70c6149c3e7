"""Who moved: what the files want, what is live, and what policyctl wrote last or Git has had, compared three ways.

What was written last comes from the audit record, where there is one, and then it is certain. Otherwise Git history decides:
what is live is searched among the versions that Git has had. History alone never takes a mere change in Git for an edit of the
remote, but it cannot see that an old version was put back by hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal, NamedTuple

from policyctl.plan.audit import AuditEntry
from policyctl.plan.diff import FieldChange, fields_between, pair_targets
from policyctl.plan.plan import GOOD, Change, normal_of
from policyctl.policy.document import Document, digest, normal_form

Moved = Literal["git", "remote", "both", "unknown"]
Basis = Literal["audit", "history", "nothing"]
MOVED: dict[Moved, str] = {
    "git": "Git moved",
    "remote": "the remote moved",
    "both": "both moved",
    "unknown": "not known",
}
_EDITED = "no commit has what is live: edited by hand or by another tool, or applied uncommitted"
_FOUND = "not applied since, or put back by hand"
_SHORT = 12  # digits of a commit
_COMPARED = 50  # versions to compare with what is live, field by field


class Past(NamedTuple):
    """What Git has had of one policy or model.

    `live_in` is the youngest commit with what is live, and `way` how Git had it, if not along the first parents. `versions` are
    the commits and normal forms of all different ones along these, the youngest first; `elsewhere` is whether another commit
    had one. `missing` is why not all of them are known, `unmerged` why what is live does not count as a version, though a
    commit has it. `written` is the one whose digest the audit record has.
    """

    live_in: str | None = None
    versions: tuple[tuple[str, Document], ...] = ()
    missing: str | None = None
    written: Document | None = None
    way: str = ""
    elsewhere: bool = False
    unmerged: str = ""


class LastWrite(NamedTuple):
    """What policyctl wrote last by the audit record: the digest, or both possible ones when the outcome is not known; None for
    a policy that is not there. `applied` is the digest that was applied from files last, and `edited` whether that was not the
    last write but an edit: by a single command, or by going back to an earlier revision."""

    digests: frozenset[str | None]
    entry: AuditEntry
    applied: str | None = None
    edited: bool = False

    def decides(self, change: Change) -> bool:
        """Whether it shows who moved. Where what is live is such an edit, and the files are not what was applied last, they may
        have taken it over since, which only history shows."""
        return not self.edited or change.before_digest() not in self.digests or _wanted(change) == self.applied

    @property
    def text(self) -> str:
        """Who wrote it, when, and from which commit."""
        commit = f" from commit {self.entry.origin.commit[:_SHORT]}" if self.entry.origin.commit else ""
        return f"{self.entry.time} by {self.entry.origin.who}{commit}"


class MovedField(NamedTuple):
    """One field on three sides; None is "absent". `was` is what policyctl wrote last, and only given where `moved` is known to
    be by one side or by both."""

    path: str
    was: Any
    files: Any
    live: Any
    moved: Moved


@dataclass(frozen=True, slots=True)
class Drift:
    """One policy or model whose file and live version differ: which side moved, what that rests on, and why in a sentence.

    `base` is the normal form of what policyctl wrote last, as far as it is known. `commit` is the youngest one with what is
    live, or with what is nearest to it. `written` is who wrote it last and when, which differs between environments.
    """

    change: Change
    moved: Moved
    basis: Basis
    why: str
    base: Document | None = None
    fields: tuple[MovedField, ...] = ()
    commit: str | None = None
    written: str = ""

    @property
    def reason(self) -> str:
        """Why, with who wrote it last."""
        return f"{self.why} (written {self.written})" if self.written else self.why

    @property
    def words(self) -> str:
        """Who moved and why: `the remote moved: no commit has what is live`."""
        return f"{MOVED[self.moved]}: {self.reason}"

    @property
    def conflicts(self) -> tuple[str, ...]:
        """The paths of the fields that both sides moved."""
        return tuple(field.path for field in self.fields if field.moved == "both")

    @property
    def edited_and_gone(self) -> bool:
        """Whether the files have no such policy any more, though it was edited on the remote since, or only commits that are
        not merged show that it was not."""
        unmerged = self.moved == "unknown" and self.basis == "history"
        return self.change.action == "remove" and (self.moved == "both" or unmerged)


def last_writes(entries: Iterable[AuditEntry], remote: str) -> dict[str, LastWrite]:
    """What policyctl wrote last of each policy and model of a remote. `entries` are folded: one for each change."""
    found: dict[str, LastWrite] = {}
    applied: dict[str, str | None] = {}
    for entry in entries:
        if entry.remote == remote and entry.outcome != "skipped":
            possible = {entry.after} if entry.outcome in GOOD else {entry.before, entry.after}
            own = _is_from_files(entry)
            if own and entry.outcome in GOOD:
                applied[entry.name] = entry.after
            last = applied.get(entry.name)
            found[entry.name] = LastWrite(frozenset(possible), entry, last, edited=not own and possible != {last})
    return found


def last_applied(entries: Iterable[AuditEntry], remote: str) -> dict[str, str | None]:
    """The digest of each policy and model of a remote as it was last applied from files, whatever was edited with policyctl
    later. `entries` are folded."""
    return {one.name: one.after for one in entries if one.remote == remote and one.outcome in GOOD and _is_from_files(one)}


def _is_from_files(entry: AuditEntry) -> bool:
    """Whether it is of an apply of the files of then: neither of a single command nor of an earlier revision."""
    return entry.origin.to is None and entry.origin.command.split(" ")[0] not in ("policy", "model")


def judge(change: Change, past: Past, written: LastWrite | None) -> Drift:
    """Which side of a change moved: by the audit record if it has the policy and decides, else by history."""
    return _by_history(change, past) if written is None else _by_audit(change, past, written)


def _by_audit(change: Change, past: Past, written: LastWrite) -> Drift:
    live, files = change.before_digest(), _wanted(change)
    if live in written.digests and not written.edited:
        moved: Moved = "git"
        why, base, fields = "not applied since policyctl wrote what is live", change.before, _fields(change, "git")
    elif files in written.digests or (written.edited and files == written.applied):
        moved, base = "remote", None if change.after is None else normal_of(change.after)
        what = "removed from the remote" if live is None else "edited on the remote" if files else "added on the remote"
        how = f"with policyctl {written.entry.origin.command}" if live in written.digests else "since policyctl wrote it"
        why, fields = f"{what} {how}", _fields(change, "remote")
    else:
        moved, base = "both", past.written
        what = "removed from" if live is None else "edited on"
        why = f"{what} the remote since policyctl wrote it, and {_git_did(change)} since"
        fields = _three_way(change, past.written)
    return Drift(change, moved, "audit", why, base, fields, written=written.text)


def _wanted(change: Change) -> str | None:
    """The digest of what the files want."""
    return None if change.after is None else digest(normal_of(change.after))


def _git_did(change: Change) -> str:
    return "removed from the files" if change.after is None else "changed in the files"


def _by_history(change: Change, past: Past) -> Drift:
    if change.before is None:
        return Drift(change, "git", "history", "not applied yet, or removed by hand", None, _fields(change, "git"))
    if past.live_in is not None:
        why = f"{past.way}: {_FOUND}" if past.way else _FOUND
        return Drift(change, "git", "history", why, change.before, _fields(change, "git"), past.live_in)
    if past.unmerged:
        return Drift(change, "unknown", "history", past.unmerged, None, _fields(change, "unknown"))
    if past.missing is not None:
        return Drift(change, "unknown", "nothing", past.missing, None, _fields(change, "unknown"))
    if change.after is None:
        if not past.versions and not past.elsewhere:
            why = "no commit has a policy of this name: added by hand or by another tool, or applied uncommitted"
            return Drift(change, "remote", "history", why)
        why = f"{_EDITED}, and removed from the files"
        return Drift(change, "both", "history", why)
    if not past.versions:
        return Drift(change, "unknown", "nothing", "no commit has this policy", None, _fields(change, "unknown"))
    files = normal_of(change.after)
    commit, base = _nearest(change.before, files, past.versions)
    if commit is None:
        return Drift(change, "remote", "history", _EDITED, files, _fields(change, "remote"))
    if base is None:
        why = f"{_EDITED}; an older version is as near to it as the files, so these may have changed too"
        fields = tuple(field._replace(was=None) for field in _fields(change, "remote"))
        return Drift(change, "remote", "history", why, None, fields)
    why = f"{_EDITED}; it is nearest to an older version, so the files probably changed since"
    return Drift(change, "both", "history", why, base, _three_way(change, base), commit)


def _nearest(live: Document, files: Document, versions: Sequence[tuple[str, Document]]) -> tuple[str | None, Document | None]:
    """The version that differs least from what is live, with its commit: the files (None), unless an older one is nearer.

    An older one that is just as near leaves it open what was edited: then neither is known.
    """
    nearest = _distance(files, live)
    found: tuple[str | None, Document | None] = (None, files)
    least = nearest
    for commit, version in versions[:_COMPARED]:
        if version == files:
            continue
        distance = _distance(version, live)
        if distance < least:
            found, least = (commit, version), distance
        elif distance == nearest == least and found[0] is None:
            found = (commit, None)
    return found


def _distance(one: Any, other: Any) -> int:
    """How many values differ, roughly: quicker than naming the fields."""
    if isinstance(one, dict) and isinstance(other, dict):
        return sum(_distance(one.get(key), other.get(key)) for key in one.keys() | other.keys())
    if isinstance(one, list) and isinstance(other, list):
        pairs = zip_longest(one, other)
        return sum(_distance(left, right) for left, right in pairs)
    return int(one != other)


def _fields(change: Change, moved: Moved) -> tuple[MovedField, ...]:
    """The fields of an update that one side moved."""
    return tuple(
        MovedField(path, {"git": live, "remote": files}.get(moved), files, live, moved) for path, live, files in change.fields
    )


def _three_way(change: Change, base: Document | None) -> tuple[MovedField, ...]:
    """The fields that either side moved since `base`; all are conflicts if that is not known."""
    if base is None or change.before is None or change.after is None:
        return tuple(MovedField(path, None, after, before, "both") for path, before, after in change.fields)
    files = {field.path: field for field in fields_between(base, normal_of(change.after))}
    live = {field.path: field for field in fields_between(base, change.before)}
    return tuple(_three_sides(files, live))


def _three_sides(files: dict[str, FieldChange], live: dict[str, FieldChange]) -> Iterator[MovedField]:
    for path in dict.fromkeys((*files, *live)):
        own, other = files.get(path), live.get(path)
        was = (own or other or FieldChange(path, None, None)).before
        theirs = (own.after if own else was), (other.after if other else was)
        clashes = any(_overlap(path, one) for one in (live if own else files))
        both = clashes and theirs[0] != theirs[1]
        yield MovedField(path, was, *theirs, "both" if both else "git" if own else "remote")


def _overlap(path: str, other: str) -> bool:
    """Whether one of two paths is the other, or is within it."""
    return path == other or any(long.startswith((f"{short}.", f"{short}[")) for short, long in ((path, other), (other, path)))


class SidesConflict(Exception):
    """Both sides moved the same value."""


def merged(base: Document, files: Document, live: Document) -> Document:
    """The normal form with what both sides moved since `base`. Raises SidesConflict where they moved one value differently."""
    found: Document = _merge(*(normal_form(one, sort=False) for one in (base, files, live)))
    return found


def _merge(base: Any, files: Any, live: Any) -> Any:
    if files == live or live == base:
        return files
    if files == base:
        return live
    if not all(isinstance(one, dict) for one in (base, files, live)):
        raise SidesConflict
    return {
        key: value
        for key in dict.fromkeys((*files, *live))
        if (value := _merge_key(key, base.get(key), files.get(key), live.get(key))) is not None
    }


def _merge_key(key: str, base: Any, files: Any, live: Any) -> Any:
    lists = all(isinstance(one, list) for one in (base, files, live))
    return _merge_targets(base, files, live) if key == "targets" and lists else _merge(base, files, live)


def _merge_targets(base: list[Any], files: list[Any], live: list[Any]) -> list[Any]:
    """Targets with both sides' edits, in the order of the files; what only the remote added comes last."""
    in_files = {pair.before: pair.after for pair in pair_targets(base, files)}
    in_live = {pair.before: pair.after for pair in pair_targets(base, live) if pair.before is not None}
    from_base = {after: before for before, after in in_files.items() if before is not None and after is not None}
    kept = [place for before, place in sorted(in_live.items()) if place is not None]
    if kept != sorted(kept):  # an order that the remote moved
        raise SidesConflict
    found = []
    for place, target in enumerate(files):
        before = from_base.get(place)
        there = None if before is None else in_live[before]
        if before is None or (there is None and target != base[before]):
            if before is not None:
                raise SidesConflict
            found.append(target)
        elif there is not None:
            found.append(_merge(base[before], target, live[there]))
    if any(
        in_files.get(before) is None and place is not None and live[place] != base[before] for before, place in in_live.items()
    ):
        raise SidesConflict
    return [*found, *(target for place, target in enumerate(live) if place not in in_live.values() and target not in files)]


class DriftReport(NamedTuple):
    """The drift of one environment: what differs, and what that was found out from.

    `in_sync` is how many policies and models are equal on both sides, `unmanaged` how many live ones no file names and none may
    remove. `commits` is how many commits were searched (None: there was no need to, or no history), `gap` why that is not all.
    `audit` is the audit record that was given. `blocked` are the reasons by name why one could not be compared.
    """

    environment: str
    remote: str
    drifts: tuple[Drift, ...]
    in_sync: int = 0
    unmanaged: int = 0
    commits: int | None = None
    gap: str | None = None
    audit: str | None = None
    blocked: tuple[tuple[str, str], ...] = ()

    @property
    def totals(self) -> dict[Moved, int]:
        """How many differ for each cause."""
        found = Counter(drift.moved for drift in self.drifts)
        return {moved: found[moved] for moved in MOVED}
