"""A plan: ordered changes as a value, with its digest and what else the comparison found."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from policyctl.errors import Refused
from policyctl.plan.change import ACTIONS, Action, Change, Desired, add, equal, remove, update
from policyctl.plan.references import ordered
from policyctl.plan.settings import Override, Settings
from policyctl.policy.document import Document, Policy, canonical_text, digest, normal_form
from policyctl.policy.live import Live, LiveRows, UnreadableRow
from policyctl.policy.names import MODEL_PREFIX, kind_of, matches


class BlockedChange(NamedTuple):
    """A policy that cannot be planned because of rows on the remote: their ids, and the reason."""

    name: str
    ids: tuple[str, ...]
    reason: str


class Counts(NamedTuple):
    """Live policies that the plan leaves alone: equal, out of scope, in scope but not removed, not selected.

    `managed` is the number of live policies that the directory manages, the base of limits in percent. `blocked` are
    the policies that rows of the remote block, and `unreadable` the other rows that could not be read and are of a name in
    scope, or of none: what these are was not compared.
    """

    unchanged: int = 0
    outside_scope: int = 0
    unmanaged: int = 0
    unselected: int = 0
    managed: int = 0
    blocked: int = 0
    unreadable: int = 0

    @property
    def whole(self) -> bool:
        """Whether everything that the directory manages was compared."""
        return not (self.blocked or self.unreadable)


class Plan(NamedTuple):
    """What apply would do: to which environment on which remote, under which configuration, and the changes in order.

    Of the directory's own policies that it leaves alone, `kept` are those that match the files and may target others,
    and `unselected` those that are not selected.
    `config` is the digest of the `settings` that affect the plan, where those are known.
    `overrides` are the safety settings that were overridden for it: approving the plan approves them too. So they do
    with what it does by way of other policies: `traffic` has a hash for each policy that it moves so (see `traffic_of`).
    `to` is the commit whose files it goes back to; empty for the files as they are. It is not in the digest: a revert of those
    files has the same plan, and approving one approves what the other does. `made` is when it was made, if it was saved.
    `edited` are the policies and models that differ in the files from those of the base, whatever is live; None without a
    base, or where its files cannot all be read. `access` is a hash of how the remote is reached (see `access_at`), if that is
    known: it is not in the digest, since a digest is compared only once that was used.
    """

    environment: str
    remote: str
    config: str
    changes: tuple[Change, ...]
    counts: Counts = Counts()
    blocked: tuple[BlockedChange, ...] = ()
    kept: frozenset[str] = frozenset()
    unselected: frozenset[str] = frozenset()
    settings: Mapping[str, Any] = {}
    overrides: tuple[Override, ...] = ()
    traffic: Mapping[str, str] = {}
    to: str = ""
    made: str = ""
    edited: frozenset[str] | None = None
    access: str = ""

    @property
    def digest(self) -> str:
        """The hash of what apply would do, to the policies that it leaves alone too. It holds no time and no file."""
        return digest(
            {
                "environment": self.environment,
                "remote": self.remote,
                "config": self.config,
                "changes": [[c.action, c.name, c.id, c.before, c.after] for c in self.changes],
                "overrides": sorted({override.text for override in self.overrides}),
                **({"traffic": dict(self.traffic)} if self.traffic else {}),
            }
        )

    @property
    def prints(self) -> tuple[str, ...]:
        """A short hash of each change, the same in every plan of this environment and remote that has the change, after one of
        what it changes.

        So the changes of several plans can be added up where only their hashes are kept. 160 bits: to find two changes with one
        of them is out of reach, even for one author who makes both.
        """
        from policyctl.plan.approval import print_of  # most plans are shown, and nothing is approved

        where = [self.environment, self.remote]
        return tuple(
            print_of([self.environment, c.name], [where, c.action, c.name, c.id, c.before, c.after]) for c in self.changes
        )

    @property
    def replaces(self) -> tuple[str, ...] | None:
        """Hashes of what the files have changed since the base though the plan leaves it as it is: what was approved for it
        before counts no longer. None if that is not known."""
        from policyctl.plan.approval import print_of, subject_of  # as above

        if self.edited is None:
            return None
        left = sorted(self.edited.difference(self.changed))
        return tuple(subject_of(print_of([self.environment, name], [])) for name in left)

    @property
    def changed(self) -> tuple[str, ...]:
        """The name of what each change is about."""
        return tuple(change.name for change in self.changes)

    @property
    def environments(self) -> dict[str, int]:
        """Empty: the changes are all in this one environment."""
        return {}

    @property
    def has_models(self) -> bool:
        """Whether virtual models are among the changes."""
        return any(change.kind == "model" for change in self.changes)

    @property
    def policies(self) -> tuple[Change, ...]:
        """The changes of policies, which are those that the effect engine looks at."""
        return tuple(change for change in self.changes if change.kind == "policy")

    def count(self, action: Action) -> int:
        """How many changes of one kind the plan has."""
        return Counter(change.action for change in self.changes)[action]

    @property
    def totals(self) -> dict[Action, int]:
        """How many changes of each kind the plan has."""
        return {action: self.count(action) for action in ACTIONS}


class Selection(NamedTuple):
    """Which policies a run is about: those that match `only` (all, when empty) and not `exclude`."""

    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def takes(self, name: str) -> bool:
        return (not self.only or matches(name, self.only)) and not matches(name, self.exclude)


def make_plan(
    *,
    environment: str,
    remote: str,
    config: str,
    desired: Sequence[Desired],
    observed: LiveRows,
    settings: Settings,
    removes: bool,
    selection: Selection = Selection(),
    spell: Callable[[Policy], Policy] = lambda policy: policy,
) -> Plan:
    """Compare the `desired` policies and models of the directory with the rows `observed` on the remote.

    `removes` is whether live policies without a file may be removed at all (a written scope or the embedded remote, and prune
    on). `spell` returns a policy with its models spelled as the remote knows them; it is called only for policies that differ
    from the live one as written, so that a file that matches the live policy changes nothing. Raises Refused when the
    selection includes a change but not the new policy that it needs.
    """
    wanted = {policy.name: policy for policy in desired}
    blocked = blocked_by_rows(wanted, observed, settings)
    names = {block.name for block in blocked}
    compared = [_change(policy, observed.live.get(policy.name), spell) for policy in desired if policy.name not in names]
    changes = [change for change in compared if change is not None]
    counts = Counter(unchanged=len(compared) - len(changes))
    for live in observed.live.values():
        if live.name not in wanted and live.name not in names:
            _consider_remove(live, settings, removes, changes, counts)
    selected = [change for change in changes if selection.takes(change.name)]
    unselected = [change for change in changes if not selection.takes(change.name)]
    _refuse_missing_needs(selected, unselected)
    named = sum(policy.name in observed.live and settings.in_scope(policy.name) for policy in desired)
    removable = sum(change.action == "remove" for change in changes)
    totals = Counts(
        **counts,
        unselected=len(unselected),
        managed=named + removable,
        blocked=len(blocked),
        unreadable=unread_rows(wanted, observed, settings),
    )
    left = frozenset(change.name for change in unselected)
    others = left | names | {change.name for change in selected}
    kept = frozenset(one.name for one in desired if one.name not in others and _may_target_policies(one))
    return Plan(environment, remote, config, ordered(selected), totals, blocked, kept, left)


def _may_target_policies(policy: Desired) -> bool:
    """Whether a policy has a target that may be a policy. Counted in its text, which is cheaper than parsing it."""
    return policy.text.count('"model_name":"') != policy.text.count(f'"model_name":"{MODEL_PREFIX}')


def _change(desired: Desired, live: Live | None, spell: Callable[[Policy], Policy]) -> Change | None:
    if live is not None and equal(desired, live):
        return None
    spelled = spell(desired) if isinstance(desired, Policy) else desired
    return add(spelled) if live is None else update(spelled, live)


def _consider_remove(live: Live, settings: Settings, removes: bool, changes: list[Change], counts: Counter[str]) -> None:
    if not settings.in_scope(live.name):
        counts["outside_scope"] += 1
    elif removes:
        changes.append(remove(live))
    else:
        counts["unmanaged"] += 1


def blocked_by_rows(wanted: Collection[str], observed: LiveRows, settings: Settings) -> tuple[BlockedChange, ...]:
    """Policies and models blocked by twins in scope, or by unreadable rows of a name that is wanted or that a readable row in
    scope has too: reported, and left alone."""
    return tuple(_blocked(wanted, observed, settings))


def unread_rows(wanted: Collection[str], observed: LiveRows, settings: Settings) -> int:
    """How many rows could not be read that block nothing, but whose policies the directory may manage."""
    rows = (row for row in observed.unreadable if not _blocks(row, wanted, observed, settings))
    return sum(row.count for row in rows if row.name is None or settings.in_scope(row.name))


def _blocks(row: UnreadableRow, wanted: Collection[str], observed: LiveRows, settings: Settings) -> bool:
    return row.name is not None and (row.name in wanted or (row.name in observed.live and settings.in_scope(row.name)))


def _blocked(wanted: Collection[str], observed: LiveRows, settings: Settings) -> Iterator[BlockedChange]:
    for twins in observed.twins:
        if settings.in_scope(twins.name):
            yield BlockedChange(twins.name, twins.ids, twins.reason)
    for row in observed.unreadable:
        if row.name is not None and _blocks(row, wanted, observed, settings):
            yield BlockedChange(row.name, (row.id,) if row.id else (), f"{row.reason}; repair it on the remote")


def _refuse_missing_needs(selected: list[Change], unselected: list[Change]) -> None:
    new = {change.name for change in unselected if change.action == "add"}
    for change in selected:
        for name in sorted(change.comes_after & new):
            raise Refused(f"{change.name} targets the new {kind_of(name)} {name}, which is not selected; select both")


def renames(plan: Plan) -> Iterator[str]:
    """A sentence for every added policy with the content of exactly one removed policy."""
    added, removed = _by_content(plan, "add"), _by_content(plan, "remove")
    for content, names in added.items():
        if len(names) == len(old := removed.get(content, [])) == 1:
            yield f"{names[0]} is added with the content of the removed {old[0]}: a rename? Requests for the old name will fail"


def _by_content(plan: Plan, action: Action) -> dict[str, list[str]]:
    """The names of the added, or removed, policies by their content."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for change in plan.changes:
        document = change.after or change.before
        if change.kind == "policy" and change.action == action and document is not None:
            found[_content(normal_form(document))].append(change.name)
    return found


def _content(normal: Document) -> str:
    """A policy's content without its name, which its texts default to."""
    texts = [None if normal[key] == normal["name"] else normal[key] for key in ("display_name", "description")]
    return canonical_text([texts, normal["policy"]])
