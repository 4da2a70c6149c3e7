"""From a remote and a directory, one policy or a saved plan to a reviewed plan; and what stops such a plan.

Among that are the models that it targets, those of the remote and those that the directory declares; and of those that it
writes whether they can reach their credentials. The rules about connections are in the manual, virtual-models. Which of a
tenant's two environments (draft and live) a call uses is not known here, so a connection that is usable in neither stops a
plan, and one that is missing in one of them is noted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from shlex import quote
from typing import TYPE_CHECKING, NamedTuple

from policyctl.effect.tree import NOTHING, DeclaredModels, KnownPolicies
from policyctl.errors import Incomplete, InvalidInput, PolicyctlError, Refused, RemoteError, StalePlan
from policyctl.load.directory import Loaded
from policyctl.load.discovery import ExpectedFile, UnreadFiles
from policyctl.load.environment import Environment
from policyctl.plan.plan import (
    Change,
    Counts,
    Desired,
    LiveState,
    Plan,
    Selection,
    drifted_fields,
    is_as_written,
    live_state,
    make_plan,
)
from policyctl.plan.references import leads_back, only_declared, remote_spelling, unknown_targets
from policyctl.plan.safety import Review, by_traffic, review
from policyctl.plan.settings import Settings
from policyctl.policy.document import Document, Policy, references
from policyctl.policy.findings import Finding, did_you_mean, listed, listed_files
from policyctl.policy.live import Live, LiveRows, named_rows
from policyctl.policy.model_settings import provider_key
from policyctl.policy.names import MODEL_PREFIX, POLICY_PREFIX, canonical, kind_of, matches, virtual_model
from policyctl.policy.virtual_model import UNNAMED, may_lose_key
from policyctl.reconcile.observe import CONTRADICTS, observe
from policyctl.remote import Reader
from policyctl.report.format import count, position_name
from policyctl.report.plan_text import sides

if TYPE_CHECKING:
    from policyctl.remote.tenant_lists import Connection, Connections


def reason_to_keep(unread: UnreadFiles) -> str | None:
    """Why it is not proven that a policy is gone: git has files that the disk lacks, or cannot be asked. None when it is.

    See manual/architecture.md, safety rule 7.
    """
    if unread.unasked:
        return f"git cannot be asked whether files are missing: {unread.unasked}"
    if unread.gaps:
        remedies = "; ".join(dict.fromkeys(f"{gap.why}: {gap.remedy}" for gap in unread.gaps[:3]))
        return f"git has files that are not on this disk: {listed_files(unread.paths)} ({remedies})"
    return None


def hold_removals(review: Review, gone: Sequence[str], kept: str | None, unread: UnreadFiles) -> Review:
    """The review with a refusal if the policies in `gone` are only `kept` for want of proof, and with notes about those of them
    that are in a file all the same."""
    refusals = [f"{listed(gone)} may not be gone, so nothing is removed: {kept}"] if gone and kept else []
    notes = _notes({name: place for name in gone if (place := unread.where(name))})
    return review._replace(refusals=(*review.refusals, *refusals), notes=(*review.notes, *notes))


def _notes(places: Mapping[str, ExpectedFile]) -> Iterator[str]:
    """One note for each reason why policies are not read, not one for each policy."""
    by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for name, place in places.items():
        by_reason[place.why].append(name)
    for why, names in by_reason.items():
        if len(names) == 1:
            yield f"no file that is read has {names[0]}, but {places[names[0]]}"
        else:
            files = dict.fromkeys(places[name].file for name in names)
            yield f"no file that is read has {listed(names)}, but others have them: {listed_files(files)} ({why})"


def note_untracked(review: Review, unread: UnreadFiles) -> Review:
    """The review with a note about files that were read and that git does not have: no code review shows them."""
    files = unread.untracked()
    note = f"git does not have all files that were read (untracked or ignored), so no review shows them: {listed_files(files)}"
    return review._replace(notes=(*review.notes, note)) if files else review


def plan_directory(
    reader: Reader,
    desired: Sequence[Desired],
    environment: Environment,
    settings: Settings,
    selection: Selection,
    declared: DeclaredModels = NOTHING,
    on_row: Callable[[], object] = lambda: None,
    unread: UnreadFiles | None = None,
    base: Callable[[Plan], Mapping[str, Document]] = lambda _: {},
    models: KnownModels | None = None,
) -> Review:
    """Read the remote and compare. `settings` are the environment's, with the overrides of the command line.

    `declared` are the facts about models that the directory declares. `on_row` is called for each row of the remote. `unread`
    are the files of the directory that were not read; with it, only policies that are proven to be gone are removed. `base`
    gives the policies of the base revision that a plan may bring back; it is called if the plan writes something. Models are
    written as `models` (by default the remote's) spells them.
    """
    observed = observe(reader, on_row)
    removes = may_remove(reader, settings)
    kept = reason_to_keep(unread) if unread else None
    policies = _taken(observed) | {policy.name for policy in desired}
    plan = make_plan(
        environment=environment.name,
        remote=reader.identity,
        config=environment.digest,
        desired=desired,
        observed=observed,
        settings=settings,
        removes=removes and kept is None,
        selection=selection,
        spell=(models or KnownModels(reader)).speller(policies),
    )
    writes = any(change.after is not None for change in plan.changes)
    plan = plan._replace(settings=environment.decides)
    written = frozenset(policy.name for policy in desired if is_as_written(policy, observed.live.get(policy.name)))
    compared = [policy.name for policy in desired if policy.name not in written and selection.takes(policy.name)]
    reviewed = review(plan, observed, settings, declared, base(plan) if writes else None, compared, written)
    reviewed = reviewed._replace(refusals=(*reviewed.refusals, *_not_new(reader, plan)))
    if unread and removes:
        named = {policy.name for policy in desired}
        gone = [name for name in observed.live if name not in named and settings.in_scope(name) and selection.takes(name)]
        reviewed = hold_removals(reviewed, gone, kept, unread)
    return check_credentials(reader, reviewed, settings.allow_key_loss)


def _not_new(reader: Reader, plan: Plan) -> tuple[str, ...]:
    """A line for each policy that the plan adds and that a look-up by name finds: the list may be cut short. The embedded
    remote answers both from one table."""
    adds = () if reader.embedded else frozenset(change.name for change in plan.changes if change.action == "add")
    found = sorted(named_rows(reader.find(adds))) if adds else ()
    return tuple(
        f"{CONTRADICTS}: a look-up by name finds {name}, and its list does not have it, so what it serves now is not known"
        for name in found
        if name in adds
    )


def _names(observed: LiveRows) -> frozenset[str]:
    """The canonical names of all live policies, including names that several policies have."""
    return frozenset((*observed.live, *(twins.name for twins in observed.twins)))


def _taken(observed: LiveRows) -> frozenset[str]:
    """The same, and the names of unreadable rows: a target of such a name is not a model."""
    return _names(observed).union(observed.obstacles())


def may_remove(reader: Reader, settings: Settings) -> bool:
    """Whether a directory may remove policies that are not in it. Only the embedded remote allows that without a written scope.

    See manual/architecture.md, safety rule 2.
    """
    return settings.prune and (reader.embedded or settings.scope is not None)


def plan_write(
    reader: Reader,
    desired: Desired,
    environment: Environment,
    models: KnownModels,
    declared: DeclaredModels = NOTHING,
    *,
    virtual: bool = False,
) -> Review:
    """The plan that adds one policy or virtual model, or updates the live one of its name, whatever the directory contains.

    Scope, prune, limits and guards do not apply to it; what guards would refuse is noted. A policy's models are written as
    `models` spells them; with `virtual` a name without a prefix means the virtual model of that name, if there is one. Raises
    Refused when a policy would target itself through live ones.
    """
    observed = observe(reader)
    if not isinstance(desired, Policy):
        return _plan_one(reader, desired.name, [desired], environment, environment.settings, observed, declared=declared)
    _refuse_circle(desired, observed)
    spell = models.speller(_taken(observed), virtual=virtual)
    wanted = [spell(desired) if virtual else desired]
    return _plan_one(reader, desired.name, wanted, environment, environment.settings, observed, spell, declared)


def plan_removal(reader: Reader, name: str, environment: Environment, settings: Settings) -> Review:
    """The plan that removes one live policy or virtual model by its canonical name.

    Only `protect`, or a policy that targets it, prevents that.

    Raises PolicyctlError when it does not exist, and Incomplete when its row is unreadable.
    """
    observed = observe(reader)
    names = _names(observed)
    if name not in names:
        bad = next((row for row in observed.unreadable if row.name == name), None)
        if bad is not None:
            raise Incomplete(f"{name} cannot be removed: {bad.reason} (id {bad.id or 'unknown'}); repair it on the remote")
        kind = kind_of(name)
        same = sorted(other for other in names if kind_of(other) == kind)
        guess = did_you_mean(name, same, MODEL_PREFIX if kind == "model" else POLICY_PREFIX)
        raise PolicyctlError(f"no {kind} {name} on {environment.name}{guess}")
    return _plan_one(reader, name, [], environment, settings, observed)


def _plan_one(
    reader: Reader,
    name: str,
    desired: Sequence[Desired],
    environment: Environment,
    settings: Settings,
    observed: LiveRows,
    spell: Callable[[Policy], Policy] = lambda policy: policy,
    declared: DeclaredModels = NOTHING,
) -> Review:
    """A plan over one name; the rules see everything that is live. What guards would refuse is only noted."""
    plan = make_plan(
        environment=environment.name,
        remote=reader.identity,
        config=environment.digest,
        desired=desired,
        observed=LiveRows(
            {name: live for name, live in [(name, observed.live.get(name))] if live is not None},
            tuple(twins for twins in observed.twins if twins.name == name),
            tuple(row for row in observed.unreadable if row.name == name),
        ),
        settings=Settings(),
        removes=True,
        spell=spell,
    )
    allowed = tuple(other for other in settings.allow_remove if canonical(other) == name)
    rules = Settings(protect=settings.protect, allow_remove=allowed)
    # The only unreadable rows that matter are those that some policy targets, and those that may target this one.
    documents = [*(policy.document for policy in desired), *(live.document for live in observed.live.values())]
    led_to = frozenset[str]().union(*map(references, documents)) if observed.unreadable else frozenset[str]()
    others = observed._replace(unreadable=tuple(row for row in observed.unreadable if row.targets or row.name in led_to))
    # No counts: the other policies were not compared, so there is nothing to be a share of.
    reviewed = review(plan._replace(counts=Counts()), others, rules, declared, compared=[name])
    bound = [one for one in reviewed.affected if settings.in_scope(one.name)]
    affected = [one._replace(bound=True) for one in bound]
    breaches, _ = by_traffic(reviewed.plan, reviewed.policies, settings, reviewed.effects, affected, declared=declared)
    notes = (*reviewed.notes, *(f"plan and apply would refuse this: {breach}" for breach in breaches))
    return reviewed._replace(guarded=None, notes=notes, all_read=observed.all_read)


def _refuse_circle(policy: Policy, observed: LiveRows) -> None:
    """Raise Refused when a policy's targets lead back to it."""
    untouched = list(observed.untouched())

    def targets_of(name: str) -> Iterable[str]:
        if name == policy.name:
            return references(policy.document)
        live = references(observed.live[name].document) if name in observed.live else frozenset[str]()
        return live.union(*(targets for user, targets in untouched if user == name))

    if leads_back(policy.name, targets_of):
        raise Refused(f"{policy.name} would target itself, directly or through other policies; change its targets")


def review_saved(
    reader: Reader,
    plan: Plan,
    loaded: Loaded,
    settings: Settings,
    on_row: Callable[[], object] = lambda: None,
    base: Callable[[Plan], Mapping[str, Document]] = lambda _: {},
) -> Review:
    """Check a saved plan against the remote as it is now and against every rule that a plan made now would meet.

    What can be computed again is not taken from the file (safety rule 5). `loaded` is the directory, as far as it can be read:
    it provides the names of policies and models and their timeouts, but no change. `base` gives the policies of the base
    revision that a plan may bring back; a change to one of them is a restoration. What is wrong with the plan is among the
    refusals, what changed since it was made is stale.
    """
    from policyctl.plan.saved_plan import bad_targets, rule_violations, with_recomputed_counts  # builds models of pydantic's

    observed = observe(reader, on_row)
    removes = may_remove(reader, settings)
    plan = with_recomputed_counts(plan, {one.name: one for one in loaded.desired}, observed, settings, removes=removes)
    reviewed = review(plan, observed, settings, loaded.declared, base(plan))
    writes = any(change.after is not None for change in plan.changes)
    models = KnownModels(reader, loaded.models)
    names = models.names if writes else frozenset()
    known = reviewed.live | {change.name for change in plan.changes}
    refusals = (
        *rule_violations(plan, settings, removes=removes),
        *reviewed.refusals,
        *bad_targets(plan, known, names),
    )
    changed = {change.name for change in plan.changes}
    rows = [
        f"{block.name}: {block.reason}" for block in plan.blocked if block.name in changed and block.name not in reviewed.live
    ]
    done = [one.name for one in plan.changes if live_state(one, observed.live.get(one.name)) is LiveState.ALREADY]
    # A plan that is partly applied cannot be checked like that: what is done counts as live.
    stale = (*stale_changes(plan, observed), *rows, *(() if refusals or done else _moved_otherwise(plan, reviewed.plan)))
    made = f"already there, so not written again: {len(done):,} of {count(len(plan.changes), 'change')} ({listed(done)})"
    reviewed = reviewed._replace(plan=reviewed.plan._replace(traffic=plan.traffic), refusals=refusals, stale=stale)
    reviewed = reviewed._replace(notes=(*reviewed.notes, *([made] if done else [])))
    return check_credentials(reader, models.noted(reviewed), settings.allow_key_loss) if writes else reviewed


def _moved_otherwise(plan: Plan, now: Plan) -> Iterator[str]:
    """The policies whose traffic the plan now changes in another way than when it was made, because others changed."""
    for name in sorted(plan.traffic.keys() | now.traffic.keys()):
        if plan.traffic.get(name) != now.traffic.get(name):
            yield f"{name}: the plan does something else to its traffic than when it was made, because other policies changed"


def stale_changes(plan: Plan, observed: LiveRows) -> tuple[str, ...]:
    """Why a saved plan is stale, one line for each change whose live policy is neither as the plan saw it nor as planned."""
    obstacles = observed.obstacles()
    stale = [
        f"{change.name}: {moved_by_another(change, live)}"
        for change in plan.changes
        if live_state(change, live := observed.live.get(change.name)) is LiveState.STALE and change.name not in obstacles
    ]
    stale += [f"{change.name}: {obstacles[change.name]}" for change in plan.changes if change.name in obstacles]
    return tuple(stale)


def moved_by_another(change: Change, live: Live | None) -> str:
    """The fields of the live policy that changed since the plan was made, from what to what."""
    return ", ".join(
        f"{position_name(field.path)}: {before} → {after}"
        for field in drifted_fields(change, live)
        for before, after in [sides(field)]
    )


def raise_if_refused(review: Review, *, listed: bool = True) -> None:
    """Raise Refused for a plan that a safety rule refuses; reasons that the printed plan has `listed` are not repeated."""
    if review.refusals:
        summary = f"refused by {count(len(review.refusals), 'safety rule')}"
        raise Refused(f"{summary}; see above" if listed else "\n  ".join([f"{summary}:", *review.refusals]))


def raise_if_blocked(review: Review) -> None:
    """Raise Incomplete when rows on the remote keep a part of the plan from being applied."""
    if review.plan.blocked:
        names = ", ".join(block.name for block in review.plan.blocked)
        raise Incomplete(f"rows on the remote block {names}")


def raise_if_stale(stale: Sequence[str], *, listed: bool = False) -> None:
    """Raise StalePlan for what changed since a plan was made (see `stale_changes`); what the printed plan has `listed` is not
    repeated."""
    if stale:
        summary = "the remote changed since the plan was made; nothing was written, plan again"
        raise StalePlan(f"{summary} (see above)" if listed else "\n  ".join([summary, *stale]))


def unmoved(shown: Review, now: Review) -> Review:
    """The same plan, made anew once a person has agreed to it. Raises StalePlan if it is another one by then: what it does to
    other policies, or why a rule refuses it, may come from rows and consumers that it does not change."""
    raise_if_stale(now.stale)
    if (now.plan.digest, now.refusals) != (shown.plan.digest, shown.refusals):
        raise StalePlan(
            "something changed meanwhile, so this is not the plan that you have seen; nothing was written, plan again"
        )
    return now


ENVIRONMENTS = ("draft", "live")
_KEY_VALUE, _OAUTH2 = "key_value_creds", "oauth2"


class KnownModels:
    """The models that a remote lists (asked once, when needed) and those that a directory declares."""

    def __init__(self, reader: Reader, declared: Collection[str] = ()) -> None:
        self._reader = reader
        self._declared = declared

    @cached_property
    def listed(self) -> frozenset[str]:
        """The names that the remote lists; empty when it has no list."""
        return self._reader.models()

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name, as the remote spells it; empty when no model is known at all."""
        return self.listed | frozenset(map(virtual_model, self._declared))

    def noted(self, reviewed: Review) -> Review:
        """The review of a plan that writes something, with notes on targeted models that are not known on the remote."""
        if not self.names:
            return reviewed._replace(unchecked="targets not checked: the remote knows no models")
        written = {change.name: change.after for change in reviewed.plan.policies if change.after is not None}
        policies = reviewed.policies.keys() | KnownPolicies.of(reviewed.policies).unclear
        there = {change.name for change in reviewed.plan.changes if change.kind == "model"} | reviewed.live
        declared = [name for name in self._declared if virtual_model(name) not in there]
        notes = only_declared(written, self.listed, declared, policies)
        return reviewed._replace(notes=(*reviewed.notes, *notes))

    def speller(self, policies: Collection[str], *, virtual: bool = False) -> Callable[[Policy], Policy]:
        """Returns a function that spells a policy's models as they are known. `policies` are names that are not models; with
        `virtual` a name without a prefix means the virtual model of that name, if there is one."""
        return lambda policy: remote_spelling(policy, self.names, policies, virtual=virtual)


def check_models(models: KnownModels, reviewed: Review, loaded: Loaded, environment: Environment) -> Review:
    """Check that the targets of every policy that the plan writes exist, and return the review with notes.

    Raises InvalidInput with a problem for every target that will be neither a model nor a policy. If no models are known, on
    the remote or in the directory, only policies are checked, and the review notes that. A model that only the directory has
    is noted too.
    """
    # A git revision has the policies of one directory: names that the directory does not manage may exist elsewhere.
    elsewhere = (
        _unknown_everywhere if KnownPolicies.of(reviewed.policies).whole else lambda name: not environment.speaks_for(name)
    )
    known = models.names if _written_names(reviewed) else frozenset()
    if found := _unknown_targets(reviewed, loaded.policies, known, elsewhere):
        raise InvalidInput(loaded.mark_of(policy, complaint) for policy, complaint in found)
    return models.noted(reviewed) if _written_names(reviewed) else reviewed


def check_policy(models: KnownModels, reviewed: Review, policy: Policy) -> Review:
    """The same for a plan over one policy without a file. Raises PolicyctlError with a line for every unknown target."""
    known = models.names if _written_names(reviewed) else frozenset()
    if found := _unknown_targets(reviewed, [policy], known, _unknown_everywhere):
        raise PolicyctlError("; ".join(complaint.message for _, complaint in found))
    return models.noted(reviewed) if _written_names(reviewed) else reviewed


def _unknown_everywhere(_: str) -> bool:
    return False


def _written_names(reviewed: Review) -> set[str]:
    return {change.name for change in reviewed.plan.changes if change.after is not None}


def _unknown_targets(
    reviewed: Review, desired: Sequence[Policy], models: frozenset[str], elsewhere: Callable[[str], bool]
) -> list[tuple[Policy, Finding]]:
    """The targets that the plan would write and that do not exist; without `models` only policies are checked."""
    written = _written_names(reviewed)
    unclear = KnownPolicies.of(reviewed.policies_before).unclear
    there = reviewed.live.union((policy.name for policy in desired), unclear)
    return [
        (policy, complaint)
        for policy in desired
        if policy.name in written
        for complaint in unknown_targets(policy.document, models, there, elsewhere)
    ]


def check_credentials(reader: Reader, reviewed: Review, allow_key_loss: Sequence[str]) -> Review:
    """The review with a refusal for each connection that a written model cannot use, and for each update that may remove a
    key, unless its model's name matches `allow_key_loss`; and with notes on what may be missing.

    Nothing is looked up on a remote without connections, or for a plan that writes no model which names one. Where connections
    are, a row may also have a key that the remote does not show.
    """
    if reader.connections is None:
        return reviewed
    refused, allowed = _keys_at_risk(reviewed, allow_key_loss, shows_keys=reader.shows_keys)
    reviewed = reviewed._replace(refusals=(*reviewed.refusals, *refused), notes=(*reviewed.notes, *allowed))
    uses = _connection_uses(reviewed.plan)
    if not uses:
        return reviewed
    refusals, notes = list[str](), list[str]()
    try:
        entries = reader.connections.listed()
        if entries is None:
            unchecked = f"connections are not checked: this remote has no list of them ({listed(sorted(_app_ids(uses)))})"
            return reviewed._replace(notes=(*reviewed.notes, unchecked))
        for use in uses:
            _check_use(use, _entries_of(use.app_id, reader.connections, entries), refusals.append, notes.append)
    except RemoteError as error:
        names = listed(sorted(_app_ids(uses)))
        refusals.append(f"it is not known whether models can use {names}, because connections cannot be read: {error}")
    return reviewed._replace(refusals=(*reviewed.refusals, *refusals), notes=(*reviewed.notes, *notes))


def _keys_at_risk(reviewed: Review, allowed: Sequence[str], *, shows_keys: bool) -> tuple[list[str], list[str]]:
    """Refusals of the updates that remove a model's own key if there is one, and notes of those that are `allowed`.

    Every remote that has connections may keep keys to itself, unless it promises to show them. Whether it keeps a key that it
    hides when a PUT leaves the key out cannot be found out: what is read back shows no key either way, and nothing documents
    it.
    """
    refusals, notes = list[str](), list[str]()
    for change in () if shows_keys else reviewed.plan.changes:
        live = reviewed.models_before.get(change.name)
        if change.action == "update" and change.after is not None and live is not None and may_lose_key(live, change.after):
            risk = f"{change.name}: this remote shows neither a key nor a connection of it; if it has a key of its own, this "
            if matches(change.name, allowed):
                notes.append(f"{risk}update may remove it, which is allowed")
            else:
                refusals.append(
                    f"{risk}update may remove it (make a connection that holds the key, and write its app_id in the file; or "
                    f"allow it with --allow-key-loss {quote(change.name)} if it has no key, or if this remote keeps it)"
                )
    return refusals, notes


class _ConnectionUse(NamedTuple):
    """A connection, the kind of credentials that models need it to have, and the models."""

    app_id: str
    scheme: str
    models: tuple[str, ...]

    @property
    def subject(self) -> str:
        return f"connection {self.app_id} (of {listed(self.models)})"


def _connection_uses(plan: Plan) -> list[_ConnectionUse]:
    found: dict[tuple[str, str], list[str]] = {}
    for change in plan.changes:
        if change.kind == "model" and change.after is not None and isinstance(app_id := change.after.get("app_id"), str):
            scheme = _OAUTH2 if provider_key(change.name) == "openai-oauth2-client-creds" else _KEY_VALUE
            found.setdefault((app_id, scheme), []).append(change.name)
    return [_ConnectionUse(app_id, scheme, tuple(names)) for (app_id, scheme), names in sorted(found.items())]


def _app_ids(uses: Iterable[_ConnectionUse]) -> set[str]:
    return {use.app_id for use in uses}


def _entries_of(app_id: str, connections: Connections, entries: Sequence[Connection]) -> list[Connection] | None:
    """What the list has of a connection, one entry for each environment. None: it exists, and the list does not have it."""
    found = [one for one in entries if one.app_id == app_id]
    if not found and (app_id.startswith(UNNAMED) or connections.exists(app_id)):
        return None
    return found


def _check_use(
    use: _ConnectionUse, entries: list[Connection] | None, refuse: Callable[[str], None], note: Callable[[str], None]
) -> None:
    """Report what is wrong with one connection."""
    if entries is None:
        note(f"{use.subject} is not checked: the list of connections does not have it")
        return
    if not entries:
        refuse(f"{use.subject} does not exist (orchestrate connections add -a {quote(use.app_id)}, or correct app_id)")
        return
    configured = {one.environment: one for one in entries if one.environment is not None and one.is_configured}
    if not configured:
        remedy = f"orchestrate connections configure -a {quote(use.app_id)}"
        refuse(f"{use.subject} is configured neither for draft nor for live ({remedy})")
        return
    wrong = {name: one.security_scheme for name, one in configured.items() if one.security_scheme not in (None, use.scheme)}
    shown = " and ".join(f"{scheme} in {name}" for name, scheme in wrong.items())
    if wrong.keys() == configured.keys():
        refuse(f"{use.subject} has {shown}, and a model of this provider needs {use.scheme}")
        return
    if wrong:
        note(f"{use.subject} has {shown}, where a model of this provider cannot use it: it needs {use.scheme}")
    for why in _connection_notes(use, configured):
        note(why)


def _connection_notes(use: _ConnectionUse, configured: Mapping[str, Connection]) -> Iterator[str]:
    for name in ENVIRONMENTS:
        entry = configured.get(name)
        if entry is None:
            yield f"{use.subject} is not configured for {name}, so models cannot use it there"
        elif entry.security_scheme is None:
            yield f"{use.subject}: its kind of credentials in {name} is not shown, so it is not checked"
        elif entry.security_scheme == use.scheme and entry.credentials_entered is False:
            remedy = f"orchestrate connections set-credentials -a {quote(use.app_id)} --env {name}"
            yield f"{use.subject} has no credentials in {name} yet ({remedy})"
