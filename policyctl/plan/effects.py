"""What a plan does to traffic: the effect of each change, also on the policies that target it, and how risky that is.

The one measure of risk is what of a plan a reviewer has to know first. Headline, tables and pages are ordered by it. A change
is as risky as the worst that it does:

1. `NORMAL`: requests fail although nothing is broken; weighed by how many. A removed policy that another one targets comes
   here, and an effect that is not known. Where credentials may go to another host, that comes first.
2. What takes requests while nothing, or one thing, is broken; weighed by how many, and of equal weight in this order:
   `SHARE`: another model serves. `OUTAGE`: an outage that was survived no longer is; weighed also by how usual it is: 429, 500,
   502, 503, 504, 529 and broken connections count ten times as much as other statuses that providers are known to answer with,
   and those ten times as much as the rest; several models at once count a hundredth. `PARTIAL`: the same while only a share of
   the calls fails.
3. `REACH`: a model that no request came to before may be asked after some failure.
4. `REMOVED`: a policy goes that no other policy targets.
5. `COST`: a request may make more calls or wait longer; weighed by how many times over.
6. `MIXED`: requests are lost only while the answers of a model change from call to call, between failures.

What takes many requests is never hidden behind what takes few: see `Risk.also`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from functools import cached_property
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from policyctl.effect.gateway import Answer
from policyctl.effect.tree import MAX_CHAIN, NOTHING, TOO_LONG, DeclaredModels, KnownPolicies, leads_to_unclear
from policyctl.plan.diff import differs, uncounted, unknown_fields
from policyctl.plan.plan import Action, Plan
from policyctl.plan.references import all_below, leading, mark, marks_of
from policyctl.plan.settings import PARTIAL
from policyctl.policy.document import Document, normal_form, references
from policyctl.policy.live import Live, LivePolicy, LiveRows
from policyctl.policy.memo import Memo, content_key
from policyctl.policy.model_settings import DESTINATIONS, SECRETS, comparable, snake_case
from policyctl.policy.names import canonical_name

if TYPE_CHECKING:
    from policyctl.effect.analysis import Cell, Delta, Effect, Reached
    from policyctl.effect.outages import Together
    from policyctl.plan.diff import FieldChange
    from policyctl.plan.plan import Change


class AffectedPolicy(NamedTuple):
    """A live policy that a plan leaves alone, but whose traffic changes because of what it targets.

    `through` are the policies that lead from it to the nearest changed one, which is the last; of more than MAX_CHAIN the
    first ones and the last. `bound` is whether the guards of the directory hold for it.
    """

    name: str
    through: tuple[str, ...]
    effect: Effect
    bound: bool


_NO_CALLS = frozenset({"display_name", "description", "tags"})  # fields of a model that no call depends on
_CONNECTION = "its connection changes, which decides the credentials of its calls and may decide their host"
_DEFAULT = "its tag default changes, by which the platform chooses the model for new agents"
_OTHER = "its calls are made with other settings, and what answers them is not modelled"
_NAMED, _LONGEST = 3, 60  # settings in a sentence, and the characters of a setting's path in it
# The scheme and authority of a URL, with all that one of the many ways to read a URL may take for part of the host.
_AUTHORITY = re.compile(r"https?:[/\\]*[^/?#]*", re.IGNORECASE)
_HOST_KEY = re.compile(r"(host|hostname|url|uri|endpoint|domain|proxy|server|api_?base)$", re.IGNORECASE)
_EFFECTS = Memo["Effect"]()
_MOST_SEARCHES = 25  # for failures at once, which take some 10 ms each


class Comparison:
    """How the versions of policies are compared: each with its own set of policies.

    `before` are all policies as they are live, `after` as they will be when the plan is applied (see `policies_around`):
    targets that are policies count with what those do. `live` are the rows, which may have fields that the format does not
    know, unless they are as `written`. `declared` are facts about models, `partial` the share that fails in a partial failure.
    """

    def __init__(
        self,
        before: Mapping[str, Document],
        after: Mapping[str, Document],
        declared: DeclaredModels = NOTHING,
        partial: float = PARTIAL,
        live: Mapping[str, Live] = MappingProxyType({}),
        written: Collection[str] = (),
    ) -> None:
        self.before, self.after = before, after
        self.declared, self._partial = declared, partial
        self._unlike_files = {name: row for name, row in live.items() if name not in written}
        self._searches = 0

    def declaring(self, declared: DeclaredModels) -> Comparison:
        """The same with other facts about models."""
        found = Comparison(self.before, self.after, declared, self._partial)
        found._unlike_files = self._unlike_files
        return found

    def effect(self, one: Document, other: Document) -> Effect:
        """What a change does."""
        from policyctl.effect.analysis import compare  # most plans change nothing, and then the effect engine is not needed

        deep = self._searches < _MOST_SEARCHES
        sides = (self.before, self.after, self.declared, self._partial)
        effect = _EFFECTS.of(lambda: self._key(one, other, deep=deep), lambda: compare(one, other, *sides, deep=deep))
        self._searches += effect.kind == "effective" and not effect.worse and not effect.sure
        return uncounted(effect) if canonical_name(one["name"]) in self._uncounted else effect

    def _key(self, one: Document, other: Document, *, deep: bool) -> bytes | None:
        below = all_below(one, self.before), all_below(other, self.after)
        return None if None in below else content_key(one, other, *below, self.declared.facts, self._partial, deep)

    @cached_property
    def _uncounted(self) -> Collection[str]:
        """The live policies that have fields which the format does not know, and all that lead to one, before or after."""
        found = {name for name, row in self._unlike_files.items() if unknown_fields(row.document)}
        users: defaultdict[str, set[str]] = defaultdict(set)
        for policies in (self.before, self.after) if found else ():
            for name, document in policies.items():
                for target in references(document):
                    users[target].add(name)
        return _ways_to(found, users).keys()


def effects_of(plan: Plan, observed: LiveRows, comparing: Comparison) -> dict[str, Effect]:
    """The effect of every update of a plan, by canonical name."""
    updated = [change for change in plan.changes if change.kind == "model" and change.action == "update"]
    models = {change.name: _of_model(change) for change in updated}
    updates = [(change.name, change.before) for change in plan.policies if change.action == "update"]
    effects = {name: comparing.effect(before, comparing.after[name]) for name, before in updates if before is not None}
    # What moves such a field moves it between parts that differ. Should it look harmless all the same, it is not called so.
    effects |= {
        one.name: uncounted(effects[one.name], moved=True) for one in plan.policies if one.moved and one.name in effects
    }
    unseen = _unseen(_roots(plan, effects), _users(plan, observed), observed) if observed.obstacles() else {}
    return models | {name: _as_seen(effect, unseen.get(name)) for name, effect in effects.items()}


def _of_model(change: Change) -> Effect:
    """The effect of an update of a virtual model: its calls are made another way, and what answers them is not modelled. What a
    reviewer must see first is where requests, and with them credentials, go to another host."""
    from policyctl.effect.analysis import Effect

    calls = [field for field in change.fields if field.path not in _NO_CALLS]
    moved = [field for field in calls if _leads_elsewhere(field)]
    connection = [_CONNECTION] * any(field.path == "app_id" for field in calls)
    default = [_DEFAULT] * any(_default_moves(field) for field in change.fields)
    others = [_OTHER] * (len(calls) > len(moved) + len(connection))
    if not (calls or default):
        return Effect("metadata", sure=True, of_model=True)
    if not (moved or connection):
        return Effect("unknown", unknown="; ".join([*default, *others]), of_model=True)
    credentials = _credentials(change)
    where = f"may go to another host, since {_named(moved)}"
    sent = [f"{' and '.join(['its requests', *credentials])} {where}"] * bool(moved)
    brief = [f"its requests{' and credentials' if credentials else ''} {where}"] if moved else connection
    return Effect(
        "unknown",
        unknown="; ".join([*sent, *connection, *default, *others]),
        brief="; ".join([*brief, *default]),
        of_model=True,
    )


def _credentials(change: Change) -> list[str]:
    """The credentials that go with a model's requests, as far as the model shows them: its own secrets, a connection's."""
    before, after = change.before or {}, change.after or {}
    old, new = (comparable(one.get("provider_config")) for one in (before, after))
    own = sorted(SECRETS & old.keys() & new.keys())
    # A remote that merges what it is sent may keep a connection that the file no longer has.
    connected = bool(before.get("app_id") or after.get("app_id"))
    return [f"its own {', '.join(own)}"] * bool(own) + ["the credentials of its connection"] * connected


def _named(fields: list[FieldChange]) -> str:
    """`custom_host changes`; of many settings the first ones and how many more there are."""
    names = sorted((field.path.removeprefix("provider_config.") for field in fields), key=lambda name: name not in DESTINATIONS)
    shown = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in names[:_NAMED]]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(shown)}{more} {'changes' if len(names) == 1 else 'change'}"


def _leads_elsewhere(field: FieldChange) -> bool:
    """Whether a setting decides a host, and may decide another one from now on."""
    key = field.path.rpartition(".")[2].strip('"')
    return _hosts(field.before, key) != _hosts(field.after, key)


def _hosts(value: Any, key: str) -> frozenset[str]:
    """All within a setting's value that may decide a host: what is before the path of each URL, also of one within a text,
    and the whole text without a URL below a key that is named after a host."""
    if isinstance(value, dict):
        return frozenset().union(*(_hosts(item, name) for name, item in value.items()))
    if isinstance(value, list):
        return frozenset().union(*(_hosts(item, key) for item in value))
    if not isinstance(value, str):
        return frozenset()
    found = frozenset(one.lower() for one in _AUTHORITY.findall(value))
    return found or (frozenset({value}) if _is_host_key(key) else found)


def _is_host_key(key: str) -> bool:
    return snake_case(key) in DESTINATIONS or bool(_HOST_KEY.search(key))


def _default_moves(field: FieldChange) -> bool:
    return field.path == "tags" and _has_default(field.before) != _has_default(field.after)


def _has_default(tags: Any) -> bool:
    return isinstance(tags, list) and "default" in tags


def affected_by(
    plan: Plan,
    observed: LiveRows,
    comparing: Comparison,
    effects: Mapping[str, Effect],
    bound: Callable[[str], bool],
) -> tuple[AffectedPolicy, ...]:
    """The live policies that a plan leaves alone and whose traffic it changes, sorted by name.

    `effects` are those of the plan's updates; the others are as for `effects_of`. `bound` is whether guards hold for a
    policy.
    """
    roots = _roots(plan, effects)
    if not roots:
        return ()
    users = _users(plan, observed)
    ways, unseen = _ways_to(roots, users), _unseen(roots, users, observed)
    changed = {change.name for change in plan.changes}
    found = []
    for name in sorted(ways.keys() - changed):
        effect = _effect_on(name, comparing, unseen.get(name)) if len(ways[name]) <= MAX_CHAIN else _too_far()
        if _is_effective(effect):
            found.append(AffectedPolicy(name, ways[name], effect, bound(name)))
    return tuple(found)


def traffic_of(
    plan: Plan, comparing: Comparison, effects: Mapping[str, Effect], affected: Sequence[AffectedPolicy]
) -> dict[str, str]:
    """For each policy that a plan moves by way of others a hash of what it and all that it leads to say, before and after.

    These are the policies that stay and are affected, and the added and updated ones that lead to a policy: of any other
    change its own two versions say everything. Documents are hashed and no numbers of an effect, so that the hash is the
    same on every machine and with every version of the effect engine.
    """
    equivalent = {name for name, effect in effects.items() if not _is_effective(effect)}
    changed = {change.name for change in plan.changes if change.after is not None and (change.needs or change.frees)}
    # Of a policy that is too far from the change for its effect to be known the way there is what a page shows.
    found = {one.name: mark(one.through) for one in affected if len(one.through) > MAX_CHAIN}
    names = sorted((changed - equivalent | {one.name for one in affected}) - found.keys())
    sides = [leading(names, policies) for policies in (comparing.before, comparing.after)]
    marks = [marks_of(names, policies) for policies in (comparing.before, comparing.after)]
    moved = (name for name in names if any(name in side for side in sides))
    return found | {name: mark([side.get(name) for side in marks]) for name in moved}


def restorations(names: Iterable[str], after: KnownPolicies, reviewed: Mapping[str, Document]) -> frozenset[str]:
    """The policies that will again match their reviewed version, together with every policy that they lead to, changed or
    not, because those also decide what a policy does."""
    back = [name for name in names if name in after and name in reviewed and not differs(after[name], reviewed[name])]
    now, then = (marks_of(back, policies) for policies in (after, _NormalForms({}, reviewed)))
    return frozenset(name for name in back if now[name] == then[name])


def _roots(plan: Plan, effects: Mapping[str, Effect]) -> set[str]:
    """The changes that may move the traffic of policies which target them."""
    return {change.name for change in plan.policies if change.action != "update" or _is_effective(effects.get(change.name))}


def _unseen(roots: set[str], users: Mapping[str, set[str]], observed: LiveRows) -> dict[str, str]:
    """The policies that lead to a changed one by way of a policy of which it is not known what it is (one that the remote has
    several times), each with the reason why it is not known what the change does to it."""
    reasons = observed.obstacles()
    through = _ways_to(_ways_to(roots, users).keys() & reasons, users) if reasons else {}
    return {name: leads_to_unclear(way[-1], reasons[way[-1]]) if way else reasons[name] for name, way in through.items()}


def _as_seen(effect: Effect | None, unseen: str | None) -> Effect:
    """The effect, or that it is not known where none was found and there may be one that cannot be seen."""
    from policyctl.effect.analysis import Effect

    if effect is not None and (unseen is None or _is_effective(effect)):
        return effect
    return Effect("unknown", unknown=unseen)


def _too_far() -> Effect:
    """The effect on a policy from which more lead to the change than are evaluated: nothing of it needs to be read."""
    from policyctl.effect.analysis import Effect

    return Effect("unknown", unknown=TOO_LONG)


def _is_effective(effect: Effect | None) -> bool:
    """Whether traffic may change: what is not known counts as well."""
    return effect is None or effect.kind in ("effective", "unknown")


def _effect_on(name: str, comparing: Comparison, unseen: str | None) -> Effect:
    """The effect on a policy that stays. One that is not among the live ones is one of which it is not known what it is."""
    stays = comparing.before.get(name)
    return _as_seen(comparing.effect(stays, comparing.after[name]) if stays is not None else None, unseen)


def _users(plan: Plan, observed: LiveRows) -> dict[str, set[str]]:
    """For each policy those that target it, before the plan or after it."""
    users: defaultdict[str, set[str]] = defaultdict(set)
    live = ((row.name, references(row.document)) for row in observed.live.values())
    for name, targets in (*live, *observed.untouched()):
        if name is not None:
            for target in targets:
                users[target].add(name)
    for change in plan.changes:
        for target in change.needs:
            users[target].add(change.name)
    return users


def _ways_to(roots: set[str], users: Mapping[str, set[str]]) -> dict[str, tuple[str, ...]]:
    """For every policy that leads to one of these the shortest way: the names from its own target to the first of them.

    Of a way of more than MAX_CHAIN names the first ones and the last.
    """
    ways: dict[str, tuple[str, ...]] = dict.fromkeys(roots, ())
    reached = sorted(roots)
    for target in reached:
        for name in sorted(users.get(target, ())):
            if name not in ways:
                way = (target, *ways[target])
                ways[name] = way if len(way) <= MAX_CHAIN else (*way[:MAX_CHAIN], way[-1])
                reached.append(name)
    return ways


def policies_around(plan: Plan, observed: LiveRows) -> tuple[KnownPolicies, KnownPolicies]:
    """Every policy as it is live, and as it will be when a plan is applied, in normal form."""
    unclear = observed.obstacles()
    policies = ((name, row) for name, row in observed.live.items() if isinstance(row, LivePolicy))
    live = {name: row for name, row in policies if name not in unclear}
    changed = {change.name for change in plan.changes}
    kept = {name: row for name, row in live.items() if name not in changed}
    written = {change.name: change.after for change in plan.policies if change.after is not None}
    left = {name: reason for name, reason in unclear.items() if name not in written}
    return (
        KnownPolicies(_NormalForms(live, {}), whole=observed.whole, unclear=unclear),
        KnownPolicies(_NormalForms(kept, written), whole=observed.whole, unclear=left),
    )


class _NormalForms(Mapping[str, Document]):
    """Live and written policies in normal form, which is made when it is asked for: of thousands of policies few are."""

    def __init__(self, live: Mapping[str, LivePolicy], written: Mapping[str, Document]) -> None:
        self._live = live
        self._written = written
        self._normal: dict[str, Document] = {}

    def __getitem__(self, name: str) -> Document:
        if name in self._live:
            return self._live[name].normal
        if name not in self._normal:
            self._normal[name] = normal_form(self._written[name])
        return self._normal[name]

    def __contains__(self, name: object) -> bool:
        return name in self._live or name in self._written

    def __iter__(self) -> Iterator[str]:
        yield from self._live
        yield from self._written

    def __len__(self) -> int:
        return len(self._live) + len(self._written)


_USUAL = frozenset[Answer]({429, 500, 502, 503, 504, 529, "refused", "hang"})
_RARER = 0.1  # what failures that are met less often weigh of those that are met more often
_NEARLY = 0.5  # of the weight of the worst is nearly as bad
_DIGITS = 9  # further ones of a part of the requests are rounding


class Tier(IntEnum):
    """What a risk is about; the greater, the worse, where the weight does not decide."""

    MIXED = 1
    COST = 2
    REMOVED = 3
    REACH = 4
    PARTIAL = 5
    OUTAGE = 6
    SHARE = 7
    NORMAL = 8


_BY_SIZE = frozenset({Tier.SHARE, Tier.OUTAGE, Tier.PARTIAL})  # whichever takes the most requests comes first


class Risk(NamedTuple):
    """One thing that a change does. `about` is what moves: None where it is the policy as a whole.

    `size` is the part of the requests that it moves or loses, however usual what it takes for that is; 0 where that is not
    known. `also` is what else there is to know of the same policy: what takes more requests than all that is graver, and who
    serves where an outage or a partial failure is graver than that. `all_read` is whether it is known of every live policy
    what it targets.
    """

    tier: Tier
    weight: float
    policy: str
    about: Delta | Cell | Together | Reached | Effect | None = None
    size: float = 0.0
    also: tuple[Risk, ...] = ()
    all_read: bool = True

    @property
    def rank(self) -> tuple[int, float, int]:
        """The greater, the worse."""
        return self._level, round(self.weight, _DIGITS), self.tier

    @property
    def _level(self) -> Tier:
        return Tier.SHARE if self.tier in _BY_SIZE else self.tier

    @property
    def takes(self) -> float:
        """The most requests that this, or what there is to know besides, moves or loses."""
        return max(round(one.size, _DIGITS) for one in (self, *self.also))

    def like(self, other: Risk) -> bool:
        """Whether another one is as bad as this one, or nearly."""
        return other.rank[0] == self.rank[0] and other.weight >= self.weight * _NEARLY


def worst_of(policy: str, action: Action, effect: Effect | None, *, used: bool = False, all_read: bool = True) -> Risk | None:
    """The worst that the change of one policy does, or None when nothing gets worse, slower, dearer or another's.

    `effect` is None where it is not known, and of removals and adds. `used` is whether a policy that stays targets this one,
    `all_read` whether it is known of all of them what they target.
    """
    if action == "remove":
        return Risk(Tier.NORMAL, 1.0, policy, size=1.0) if used else Risk(Tier.REMOVED, 1.0, policy, all_read=all_read)
    found = sorted(_risks(policy, action, effect), key=lambda risk: risk.rank, reverse=True)
    return found[0]._replace(also=_also(found)) if found else None


def _also(found: Sequence[Risk]) -> tuple[Risk, ...]:
    """What to know besides the first of the risks of a policy, which are sorted."""
    shown = [found[0]]
    for risk in found[1:]:
        takes_more = risk.takes > max(one.takes for one in shown)
        serves = risk.tier is Tier.SHARE and found[0].tier in _BY_SIZE
        if takes_more or serves:
            shown.append(risk)
    return tuple(shown[1:])


def loses(effect: Effect | None) -> bool:
    """Whether an update loses requests that were served before, apart from what is proven to be a shift of weights alone.

    Of one that is not known that is not claimed.
    """
    if effect is None:
        return True
    if effect.unknown:
        return False
    fell = effect.usual is not None and _fall(effect.usual) > 0
    return fell or effect.together is not None or bool(effect.worse and not effect.shift)


def _risks(policy: str, action: Action, effect: Effect | None) -> Iterator[Risk]:
    if effect is not None and effect.unknown:
        yield Risk(Tier.NORMAL, 2.0 if effect.brief else 0.0, policy, effect)
    elif effect is not None:
        yield from _losses(policy, effect)
        yield from (Risk(Tier.REACH, 0.0, policy, one) for one in effect.added)
        yield from _costs(policy, effect)
    elif action == "update":
        yield Risk(Tier.NORMAL, 0.0, policy)


def _losses(policy: str, effect: Effect) -> Iterator[Risk]:
    """Requests that are lost, or served by another model."""
    if effect.usual is not None and (fall := _fall(effect.usual)) > 0:
        yield Risk(Tier.NORMAL, fall, policy, effect.usual, fall)
    if effect.traffic:
        yield Risk(Tier.SHARE, effect.traffic, policy, effect, effect.traffic)
    for cell in effect.worse:
        tier = Tier.PARTIAL if cell.share < 1 else Tier.OUTAGE
        yield Risk(tier, weight_of(cell), policy, cell, cell.size)
    if (together := effect.together) is not None:
        tier, lost = _tier_of(together), together.before - together.after
        yield Risk(tier, lost * _RARER**2, policy, together, 0.0 if tier is Tier.MIXED else lost)


def _tier_of(together: Together) -> Tier:
    if any(len(answers) > 1 for _, answers in together.failing):
        return Tier.MIXED
    return Tier.OUTAGE if together.share == 1 else Tier.PARTIAL


def _costs(policy: str, effect: Effect) -> Iterator[Risk]:
    # More calls wait longer as well; what only waits longer obeys a Retry-After.
    waits = effect.waits if effect.calls is None and effect.failover is None else None
    for moved in (effect.latency, effect.failover, effect.calls, waits):
        if moved is not None and moved.before is not None and moved.after is not None and moved.after > moved.before:
            yield Risk(Tier.COST, moved.after / moved.before if moved.before else inf, policy, moved)


def weight_of(cell: Cell) -> float:
    """How many more requests, or fewer, are lost, by how usual that is."""
    return cell.size * _usualness(cell.failures)


def _usualness(failures: Collection[Answer]) -> float:
    """How often one of these failures is met, from 0 to 1."""
    if not _USUAL.isdisjoint(failures):
        return 1.0
    from policyctl.effect.outages import KNOWN  # imports the effect engine

    return _RARER if any(code in failures for code in KNOWN) else _RARER**2


def _fall(moved: Delta) -> float:
    return (moved.before or 0.0) - (moved.after or 0.0)
