"""From a reviewed plan to who moved what, and taking edits of the remote over into the files.

The audit record is read, and git history is searched for what is live. Which edits are taken over, where they are written, and
proof that the result is right follow from that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Any

from policyctl.errors import InvalidInput, PolicyctlError, errors_in
from policyctl.load.adopt import Adoption, Edited, FileLayout, Placement, Templated, edit_policy, override_text
from policyctl.load.config import beside, config_of
from policyctl.load.directory import Files, Loaded, read_contents
from policyctl.load.discovery import UnreadFiles
from policyctl.load.environment import Config, Environment
from policyctl.load.history import History, PastVersion
from policyctl.load.source import Source, read_bytes, source_of
from policyctl.load.write import policy_text, unrepresentable_reasons
from policyctl.plan.audit import AuditEntry, fold
from policyctl.plan.diff import fields_between
from policyctl.plan.drift import Drift, DriftReport, LastWrite, Past, SidesConflict, judge, last_applied, last_writes, merged
from policyctl.plan.plan import Change, Desired, equal, make_plan, normal_of
from policyctl.plan.safety import Review, review
from policyctl.plan.settings import Settings
from policyctl.policy.document import Document, Policy, canonical_text, digest, normal_form
from policyctl.policy.findings import listed
from policyctl.policy.live import observe_rows
from policyctl.policy.names import bare_name, canonical, short_model
from policyctl.reconcile.audit import AuditRecord
from policyctl.report.format import count, value

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


_VARIABLE = re.compile(r"\{\{-?\s*([A-Za-z_]\w*)\s*-?\}\}")
_BOM = "\ufeff"


class Adopter:
    """Edits the files of a directory so that they match the remote of one environment."""

    def __init__(
        self,
        config: Config,
        environment: Environment,
        files: Files,
        loaded: Loaded,
        layout: FileLayout,
        spell: Callable[[Policy], Policy],
        *,
        named: frozenset[str] = frozenset(),
        shared: bool = False,
    ) -> None:
        """`named` are policies of which the remote's side wins in a conflict. `shared` files may change though they are for
        other environments too."""
        self.done = Adoption()
        self._config, self._environment = config, environment
        self._files, self._loaded, self._layout, self._spell = files, loaded, layout, spell
        self._named, self._shared = named, shared
        self._desired = {policy.name: policy for policy in loaded.policies}

    def take(self, drifts: Iterable[Drift]) -> Adoption:
        """Take over what the remote moved; what only Git moved is left to the next apply."""
        for one in drifts:
            name = one.change.name
            if one.moved in ("git", "unknown") and name not in self._named:
                if one.moved == "unknown":
                    self._leave(name, f"it is not known who moved it: {one.why}; name it to take it over")
            elif one.change.kind == "model":
                self._leave(name, "virtual models are not adopted; use policyctl pull --overwrite")
            elif one.change.action == "update":
                self._update(one)
            elif one.moved == "both" and name not in self._named:
                self._leave(name, f"{one.why}; name it to take it over")
            elif one.change.action == "remove":
                self._write_new(one)
            else:
                self._delete(one)
        self.done.config = self._environment.digest
        return self.done

    def _leave(self, name: str, why: str) -> None:
        self.done.left.append((name, why))

    def _update(self, drift: Drift) -> None:
        name = drift.change.name
        target = self._target(drift)
        if target is None:
            conflicts = listed(drift.conflicts) or "it"
            self._leave(name, f"both sides moved {conflicts}; name it to take the remote's side")
            return
        policy = self._desired[name]
        source = self._source(policy.file)
        edited = edit_policy(source, policy.index, policy.document, target)
        if (others := self._others(policy.file)) and not self._shared:
            self._override(policy, target, source, edited, others)
            return
        if edited is not None and self._says(source, edited, policy):
            self._put(policy.file, edited.text)
            self.done.documents[name] = edited.normal
            for one in edited.templated:
                self._leave(name, self._given(one, policy.file))
        elif not self._write_whole(policy, target):
            return
        if edited is None or not edited.templated:
            self.done.adopted.append(name)

    def _target(self, drift: Drift) -> Document | None:
        """The policy that the file should have; None for a conflict that the user did not decide."""
        live, change = drift.change.before, drift.change
        assert live is not None  # noqa: S101 - an update has a live side
        if drift.moved != "both":
            return live
        try:
            if drift.base is not None and change.after is not None:
                return merged(drift.base, change.after, live)
        except SidesConflict:
            pass
        return live if change.name in self._named else None

    def _says(self, source: Source, edited: Edited, policy: Policy) -> bool:
        """Whether an edited text is valid, gives the intended policy, and changes no other policy of the file."""
        before, after = (self._policies(one) for one in (source, source._replace(text=edited.text)))
        if before is None or after is None or before.keys() != after.keys():
            return False
        expected = self._spell(Policy(policy.name, edited.normal, policy.file))
        others = all(after[name].text == one.text for name, one in before.items() if name != policy.name)
        return others and _normal_text(self._spell(after[policy.name])) == _normal_text(expected)

    def _policies(self, source: Source) -> dict[str, Policy] | None:
        """The policies in a text, rendered for the environment; None if it has an error."""
        try:
            found = read_contents(
                source_of(source.text.encode(), source.file), self._environment.vars, models=self._environment.settings.models
            )
        except InvalidInput:
            return None
        return None if errors_in(found.problems) else {policy.name: policy for policy in found.policies}

    def _write_whole(self, policy: Policy, target: Document) -> bool:
        """Write a file anew, where no smaller change is right."""
        home = self._layout.of(policy.name)
        text = self._whole_text(policy.name, target, home)
        if text is None:
            return False
        self.done.whole.append(home.path)
        self.done.documents[policy.name] = target
        self._put(policy.file, text)
        return True

    def _whole_text(self, name: str, document: Document, home: Placement) -> str | None:
        """The text of a policy's file; None if it cannot be written, and the reason is noted."""
        text = policy_text(document)
        if home.complaint is not None:
            self._leave(name, f"{home.path} {home.complaint}")
        elif isinstance(text, str):
            return text
        else:
            self._leave(name, "; ".join(unrepresentable_reasons(text)))
        return None

    def _override(self, policy: Policy, target: Document, source: Source, edited: Edited | None, others: int) -> None:
        """In a file for several environments: set the variables of this environment, and leave what is written for all."""
        templated = () if edited is None else edited.templated
        variables = {found[1]: one.live for one in templated if (found := _VARIABLE.fullmatch(one.template))}
        if len(variables) < len(templated):
            for one in templated:
                self._leave(policy.name, self._given(one, policy.file))
        elif variables and not self._set(variables, policy, target, templated):
            names = listed([*variables])
            self._leave(policy.name, f"setting {names} in the vars of {self._environment.name} would change more than this")
        elif edited is not None and edited.text == source.text:
            self.done.adopted.append(policy.name)
            return
        if edited is None or edited.text != source.text:
            for_all = f"{policy.file} is for {count(others + 1, 'environment')}"
            self._leave(policy.name, f"{for_all}: take it over for all with --shared, or write a variable there")

    def _set(self, variables: dict[str, Any], policy: Policy, target: Document, templated: tuple[Templated, ...]) -> bool:
        """Set variables of the environment alone, if that gives the values which are live and moves no other policy."""
        path = self._config.path
        if path is None:
            return False
        source = self._source(str(path))
        text = override_text(source, self._environment.name, variables)
        try:
            config = config_of(source_of(text.encode(), str(path)), beside(path))
            environment = config.environment(self._environment.name)
            loaded = self._files.load(environment)
        except InvalidInput:
            return False
        after = {one.name: one for one in loaded.policies}
        if errors_in(loaded.problems) or after.keys() != self._desired.keys():
            return False
        if any(after[name].text != one.text for name, one in self._desired.items() if name != policy.name):
            return False
        differing = {one.path for one in fields_between(self._spell(after[policy.name]).document, target)}
        if differing & {one.path for one in templated} or replace(environment, vars={}) != replace(self._environment, vars={}):
            return False
        if self._besides(config) != self._besides(self._config):  # an anchor may share what was edited
            return False
        self._config, self._environment, self._desired = config, environment, after
        self.done.documents[policy.name] = after[policy.name].document
        self._put(str(path), text)
        return True

    def _besides(self, config: Config) -> tuple[Config, dict[str, str]]:
        """A configuration without this environment and without its positions in files, and the digests of the others."""
        others = {name: one for name, one in config.environments.items() if name != self._environment.name}
        rest = config._replace(environments=others, source=None, origins={}, broken=dict.fromkeys(config.broken, ()))
        return rest, {name: one.digest for name, one in others.items()}

    def _others(self, file: str) -> int:
        """How many other environments a file is for."""
        known = [one for one in self._config.environments.values() if one.name != self._environment.name]
        return sum(self._files.includes(file, one) for one in known) + len(self._config.broken)

    def _given(self, one: Templated, file: str) -> str:
        live = value(one.live)
        found = _VARIABLE.fullmatch(one.template)
        where = f"set {found[1]} in the vars of {self._environment.name}" if found else "change what it is computed from"
        return f"{one.path} is given by {one.template}, and live it is {live}: {where}, or write {live} in {file}"

    def _write_new(self, drift: Drift) -> None:
        """A file for a policy that only the remote has."""
        name, document = drift.change.name, drift.change.before or {}
        home = self._layout.of(name)
        text = self._whole_text(name, document, home)
        if text is None:
            return
        if (others := self._others(str(home.path))) and not self._shared:
            self._leave(name, f"{home.path} would be for {count(others + 1, 'environment')}: add it for all with --shared")
        else:
            self.done.files[home.path] = (None, text)
            self.done.documents[name] = document
            self.done.adopted.append(name)

    def _delete(self, drift: Drift) -> None:
        """Delete the file of a policy that was removed on the remote."""
        policy = self._desired[drift.change.name]
        source = self._source(policy.file)
        if sum(one.data is not None for one in source.documents) > 1:
            self._leave(policy.name, f"{policy.file} has more than this policy; remove it there by hand")
        elif (others := self._others(policy.file)) and not self._shared:
            self._leave(
                policy.name, f"{policy.file} is for {count(others + 1, 'environment')}: delete it for all with --shared"
            )
        else:
            self.done.files[Path(policy.file)] = (self._original(policy.file), None)
            self.done.documents[policy.name] = None
            self.done.adopted.append(policy.name)

    def _original(self, file: str) -> str:
        before = self.done.files.get(Path(file))
        content = self._files.contents[file] if file in self._files.contents else read_bytes(file)
        return before[0] if before is not None and before[0] is not None else content.decode()

    def _source(self, file: str) -> Source:
        """A file as it is by now."""
        changed = self.done.files.get(Path(file))
        text = changed[1] if changed is not None and changed[1] is not None else self._original(file)
        return source_of(text.encode(), file)

    def _put(self, file: str, text: str) -> None:
        before = self._original(file)
        after = f"{_BOM}{text}" if before.startswith(_BOM) and not text.startswith(_BOM) else text
        if after != before:
            self.done.files[Path(file)] = (before, after)


def adoption_review(found: FoundDrift, done: Adoption, environment: Environment) -> Review:
    """The adoption as a plan from the files as they are to what they become, judged by the environment's guards."""
    settings, loaded = environment.settings, found.loaded
    now = {policy.name: found.spell(policy) for policy in loaded.policies}
    then = {**now}
    for name, document in done.documents.items():
        if document is None:
            del then[name]
        else:
            then[name] = found.spell(Policy(name, document, now[name].file if name in now else ""))
    observed = observe_rows({**policy.document, "id": policy.name} for policy in now.values())
    rules = Settings(guards=settings.guards, guard_exceptions=settings.guard_exceptions, partial=settings.partial)
    plan = make_plan(
        environment=environment.name,
        remote=found.report.remote,
        config=environment.digest,
        desired=list(then.values()),
        observed=observed,
        settings=rules,
        removes=True,
    )
    return review(plan, observed, rules, loaded.declared)


def digest_after(found: FoundDrift, done: Adoption) -> str | None:
    """The digest of the plan after the merge, if that is empty."""
    plan = found.review.plan
    if not all(one.change.name in done.adopted and _is_as_live(one, done, found) for one in found.report.drifts):
        return None
    return plan._replace(changes=(), config=done.config, traffic={}).digest


def _is_as_live(drift: Drift, done: Adoption, found: FoundDrift) -> bool:
    """Whether the files get what is live of a policy, and nothing that only Git moved."""
    document = done.documents.get(drift.change.name)
    if document is None or drift.change.before is None:
        return document is drift.change.before
    return digest(normal_of(found.spell(Policy(drift.change.name, document, "")).document)) == drift.change.before_digest()


def _normal_text(policy: Policy) -> str:
    return canonical_text(normal_form(policy.document))
