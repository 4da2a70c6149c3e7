"""From a reviewed plan to who moved what: the audit record is read, and git history is searched for what is live."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote

from policyctl.errors import PolicyctlError
from policyctl.load.directory import Files, Loaded
from policyctl.load.discovery import UnreadFiles
from policyctl.load.environment import Config, Environment
from policyctl.load.history import History, PastVersion
from policyctl.plan.audit import AuditEntry, fold
from policyctl.plan.drift import Drift, DriftReport, LastWrite, Past, judge, last_applied, last_writes
from policyctl.plan.plan import Change, Desired, equal, normal_of
from policyctl.plan.safety import Review
from policyctl.plan.settings import Settings
from policyctl.policy.document import Document, Policy, canonical_text, digest
from policyctl.policy.names import bare_name, canonical, short_model
from policyctl.reconcile.audit import AuditRecord

Spell = Callable[[Policy], Policy]
_EDITED = {"both": "was edited", "unknown": "may have been edited"}
_TEMPLATED_NAME = re.compile(rb"""\bname["']?\s*:\s*[^\n]*\{[{%]""")


class Evidence:
    """What can show who moved: git history, and the audit record if one is given. Shared by several environments."""

    def __init__(
        self,
        directory: Path,
        config: Config,
        audit: AuditRecord | None = None,
        within: int | None = None,
        base: str | None = None,
    ) -> None:
        """`within` limits how many commits of the repository are looked at. With a `base`, what only other commits have does
        not show that the policy was applied: a branch may have brought them for that. Raises PolicyctlError for an audit record
        that cannot be read, or that is in the checked out commit. A directory without history is not an error."""
        if audit is not None and (why := audit.why_untrusted()):
            raise PolicyctlError(why)
        self.audit = audit
        self._entries: list[AuditEntry] = []
        self._read: object = None
        if audit is not None and audit.mark() is not None:  # what cannot be read is reported at once
            self._entries_about("")
        self.history: History | None = None
        self._base: History | None = None
        try:
            self._base = None if base is None else History(directory, config, within, base)
            self.history = History(directory, config, within)
        except PolicyctlError as error:
            self.missing = f"git history cannot be searched: {error}"

    def _entries_about(self, remote: str) -> list[AuditEntry]:
        """The entries of the audit record, at least those about a remote; read again if it has grown since."""
        if self.audit is None:
            return []
        mark = self.audit.mark()
        if mark is None or mark != self._read:
            self._entries, self._read = fold(_entries(self.audit, remote)), mark
        return self._entries

    def judge(self, changes: Iterable[Change], environment: Environment, review: Review, spell: Spell) -> list[Drift]:
        """Who moved each of these changes of a reviewed plan. `spell` writes a policy's models as the remote spells them."""
        wanted = list(changes)
        written = last_writes(self._entries_about(review.plan.remote), review.plan.remote)
        writes = {one.name: last for one in wanted if (last := written.get(one.name)) is not None and last.decides(one)}
        searches = {one.name: _HistorySearch(one, writes.get(one.name), review, spell) for one in wanted}
        self._search([one for one in searches.values() if not one.settled], environment)
        if self._base is not None:
            self._search_base(searches, self._base, environment)
        return [judge(one, searches[one.name].past, writes.get(one.name)) for one in wanted]

    def applied(self, remote: str) -> Mapping[str, str | None]:
        """See `last_applied`; nothing without an audit record."""
        return last_applied(self._entries_about(remote), remote)

    @property
    def extent(self) -> tuple[int | None, str | None]:
        """How many commits history has (None: not known), and why that is not all."""
        if self.history is None:
            return None, self.missing
        try:
            return self.history.commits, self.history.gap
        except PolicyctlError as error:
            return None, str(error)

    def _search(self, searches: list[_HistorySearch], environment: Environment) -> None:
        if self.history is None:
            for one in searches:
                one.missing = self.missing
            return
        pending = {one.name: one for one in searches}
        missing = None
        try:
            self._go_back(pending, self.history, environment)
        except PolicyctlError as error:
            missing = f"git history cannot be searched: {error}"
        for one in pending.values():
            one.missing = missing or self.history.gap or one.unread

    def _search_base(self, searches: dict[str, _HistorySearch], base: History, environment: Environment) -> None:
        """Look again for what the base does not show yet, in the commits that it has."""
        again = {name: one.again() for name, one in searches.items() if not one.is_shown_by(base)}
        left, missing = dict(again), None
        try:
            self._go_back(left, base, environment)
        except PolicyctlError as error:
            missing = f"git history cannot be searched: {error}"
        for name, one in again.items():
            if name in left:
                one.missing = missing or base.gap or one.unread
                if (found := searches[name].live_in) is not None and not one.missing:
                    which = "of a merged branch" if base.has(found) else "that are not merged"
                    one.unmerged = f"only commits {which} have what is live, such as {found[:12]}"
            searches[name] = one

    def _go_back(self, pending: dict[str, _HistorySearch], history: History, environment: Environment) -> None:
        """Look at versions until nothing is pending."""
        for version in history.versions(environment) if pending else ():
            if version.desired is None:
                for one in pending.values():
                    if one.counts(version, history):
                        one.pass_over(version)
                continue
            found = pending.get(version.desired.name)
            if found is not None and found.counts(version, history) and found.look_at(version.desired, version):
                found.way = history.way(version)
                del pending[found.name]
            if not pending:
                return


@dataclass
class _HistorySearch:
    """The search for one policy or model in git history; only along the `first_parents` for a removal that a base decides:
    what only a branch had on its way was not applied by its merge, and anybody's branch may have had anything."""

    change: Change
    write: LastWrite | None
    review: Review
    spell: Spell
    live_in: str | None = None
    missing: str | None = None
    unread: str | None = None
    written: Document | None = None
    way: str = ""
    elsewhere: bool = False
    unmerged: str = ""
    first_parents: bool = False
    versions: dict[str, tuple[str, Document]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.change.name

    @property
    def settled(self) -> bool:
        """Whether nothing in history would show more."""
        if self.write is None:
            return self.change.before is None
        done = {self.change.before_digest(), None if self.change.after is None else digest(normal_of(self.change.after))}
        return bool(done & self.write.digests)

    def is_shown_by(self, base: History) -> bool:
        """Whether the base has the commit that was found, so that it need not be searched."""
        if self.change.action == "remove" and self.write is None:
            return self.live_in is not None and base.has(self.live_in, merged=False)
        return self.live_in is None or base.has(self.live_in)

    def again(self) -> _HistorySearch:
        """The same search, of the history of a base."""
        only = self.change.action == "remove"
        return replace(self, live_in=None, missing=None, unread=None, way="", first_parents=only)

    def counts(self, version: PastVersion, history: History) -> bool:
        return not self.first_parents or history.has(version.commit, merged=False)

    @property
    def past(self) -> Past:
        versions = tuple(self.versions.values())
        return Past(self.live_in, versions, self.missing, self.written, self.way, self.elsewhere, self.unmerged)

    def look_at(self, version: Desired, found: PastVersion) -> bool:
        """Compare a version with what is searched; whether the search is over."""
        normals = [normal_of(version.document)]
        if isinstance(version, Policy):
            normals.append(normal_of(self.spell(version).document))
        if self.write is not None:
            self.written = next((one for one in normals if digest(one) in self.write.digests), None)
            return self.written is not None
        texts = [*map(canonical_text, normals)]
        self.elsewhere = self.elsewhere or found.way is not None
        if found.way is None:
            self.versions.setdefault(texts[-1], (found.commit, normals[-1]))
        if isinstance(version, Policy):
            is_live = canonical_text(self.change.before) in texts
        else:
            live = self.review.models_before.get(self.name)
            is_live = live is not None and equal(version, live)
        self.live_in = found.commit if is_live else None
        return is_live

    def pass_over(self, version: PastVersion) -> None:
        """Note a file of which it is not known what it held, and that may have had this policy."""
        own = short_model(self.name) if self.change.kind == "model" else bare_name(self.name)
        content = version.content
        if content and own.encode(errors="replace") not in content and not _TEMPLATED_NAME.search(content):
            return
        commit = f"commit {version.commit[:12]}"
        what = f"what {commit} had of it is not known: {version.doubt}"
        self.unread = what if version.doubt else f"a file of {commit} that may have had it cannot be read"


def _entries(audit: AuditRecord, remote: str) -> list[AuditEntry]:
    """The entries of an audit record, at least those about a remote. Raises PolicyctlError for a line that is not one, unless
    it is an unfinished last one."""
    found = []
    for line in audit.lines(remote):
        if line.entry is not None:
            found.append(line.entry)
        elif not line.unfinished:
            raise PolicyctlError(f"{audit}:{line.number}: {line.complaint}, so what policyctl wrote last is not known")
    return found


@dataclass(frozen=True, slots=True)
class FoundDrift:
    """Who moved what in an environment, and what it was found out from; `spell` writes models as the remote spells them."""

    report: DriftReport
    review: Review
    files: Files
    loaded: Loaded
    unread: UnreadFiles
    spell: Spell


def drift_of(review: Review, drifts: Iterable[Drift], evidence: Evidence) -> DriftReport:
    """The report of a reviewed plan whose changes were judged."""
    plan, found = review.plan, tuple(drifts)
    commits, gap = evidence.extent if found else (None, None)
    return DriftReport(
        plan.environment,
        plan.remote,
        found,
        plan.counts.unchanged,
        plan.counts.unmanaged,
        commits,
        gap,
        None if evidence.audit is None else str(evidence.audit),
        tuple((block.name, block.reason) for block in plan.blocked),
    )


def hold_edited(review: Review, evidence: Evidence, environment: Environment, settings: Settings, spell: Spell) -> Review:
    """The review with a refusal for each policy that would be removed though it was edited on the remote since Git had it,
    unless `allow_remove` names it; and with a note if that is not known. `spell` is as for `Evidence.judge`."""
    allowed = {*map(canonical, settings.allow_remove)}
    shown = {name for name, one in review.drifts.items() if one.moved == "git"}
    removes = [one for one in review.plan.changes if one.action == "remove" and one.name not in allowed | shown]
    drifts = evidence.judge(removes, environment, review, spell) if evidence.history is not None else []
    refusals = [
        f"{one.change.name} would be removed, but it {_EDITED[one.moved]} since: {one.why} "
        f"(allow it with --allow-remove {quote(one.change.name)})"
        for one in drifts
        if one.edited_and_gone
    ]
    notes = [
        f"whether {one.change.name} was edited on the remote since is not known: {one.why}"
        for one in drifts
        if one.moved == "unknown" and not one.edited_and_gone
    ]
    return review._replace(refusals=(*review.refusals, *refusals), notes=(*review.notes, *notes))
