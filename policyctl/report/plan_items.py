"""The changes of a plan as markdown: the row of each in the table, the details below it, and how many of them fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal

from policyctl.effect.analysis import Effect
from policyctl.plan.diff import FieldChange, contents, origins
from policyctl.plan.effects import Risk, Tier, loses, worst_of
from policyctl.plan.plan import Action, Change
from policyctl.policy.document import Document, canonical_text
from policyctl.policy.names import bare_name, canonical_model, kind_of
from policyctl.report.effect_rows import effect_graph, effect_rows, first_rows
from policyctl.report.format import count, describe_value, field_values, is_order, position_name, value
from policyctl.report.headline import describe_risks, is_unknown, losses_text, risk_of
from policyctl.report.markdown import block, code, html_code, prose, proses, row, whole_plan
from policyctl.report.plan_view import RESTORED, UNBOUND, PlanView, leads_to, moved_words, used_by

END = "</details>\n\n"
_LEAST_BLOCK = 100  # bytes of the smallest row or section
_FIRST = 25  # changes that are in the first table, and get room before all others
_ALIKE = 3  # of these may have the same risk
_MOST_STEPS = 6  # policies named between an affected policy and the change
_SHOWN_WHOLE = 200  # characters of a value; of two longer ones only the parts that differ are shown
_BIGGEST_GRAPH = 5000  # characters; GitHub draws ten times that, but it is unreadable


@dataclass(frozen=True, slots=True)
class Item:
    """A change, or an unchanged policy that one affects: then `change` is None, and `through` leads to the change.

    `effect` is the effect on traffic (None: not known, or the policy is not live), `risk` the worst of it, `before` and
    `after` the policy on both sides. `bound` is False for a policy outside this directory, to which its guards do not apply.
    `where` are the environments that it is for, on a page of several; `plans` shows which these are where not all are named.
    """

    action: Action | Literal["affected"]
    name: str
    change: Change | None
    effect: Effect | None
    risk: Risk | None
    before: Document | None
    after: Document | None
    verbose: bool
    through: tuple[str, ...] = ()
    bound: bool = True
    restored: bool = False
    further: str | None = None  # what a policy that is added leads to by way of others
    users: str = ""  # who uses it, if any consumer is known
    lost: str = ""  # what these lose
    where: tuple[str, ...] = ()
    plans: str = ""
    moved: str = ""  # who moved it, if that was looked for

    @property
    def worse(self) -> bool:
        """Whether requests are lost that were served before. A proven shift of weights alone does not count."""
        if self.change is None or self.change.action == "update":
            return loses(self.effect)
        return self.risk is not None and self.risk.tier is Tier.NORMAL


def items_of(subject: PlanView) -> list[Item]:
    """Changes and affected policies, from the riskiest down. Equal ones keep the order of the plan. Affected policies whose
    effect is not known come last."""
    review, verbose = subject.review, subject.verbose
    items = []
    for change in review.plan.changes:
        moves = review.effects.get(change.name)
        after = review.policies.get(change.name) if change.after is not None else None
        risk = risk_of(change, review)
        restored = change.name in review.restored
        more = leads_to(change.after, review) if change.action == "add" and change.after is not None else None
        items.append(
            Item(
                change.action,
                change.name,
                change,
                moves,
                risk,
                change.before,
                after,
                verbose,
                restored=restored,
                further=more,
                users=used_by(change.name, review, removed=change.action == "remove"),
                lost=losses_text(change.name, change.action, moves, review),
                moved=moved_words(change, review),
            )
        )
    for one in review.affected:
        before, after = (policies.get(one.name) for policies in (review.policies_before, review.policies))
        risk, name = worst_of(one.name, "update", one.effect), one.name
        item = Item("affected", name, None, one.effect, risk, before, after, verbose, one.through, one.bound)
        lost = losses_text(name, "update", one.effect, review)
        items.append(replace(item, users=used_by(name, review), lost=lost))
    items.sort(key=lambda item: item.risk.rank if item.risk else (0, 0.0), reverse=True)
    return sorted(items, key=lambda item: item.change is None and is_unknown(item.effect))


class Room:
    """The bytes that are left, and how many lines of lists were cut. GitHub counts characters, which are never more."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.cut = 0

    def part(self, share: int) -> Room:
        """A room of its own, with one part in `share` of this one."""
        own = self.left // share
        self.left -= own
        return Room(own)

    def take(self, texts: Iterable[str | None]) -> Iterator[str | None]:
        """Each text that fits, in order, and None for one that does not; smaller ones after it may still fit."""
        full = False
        for text in texts:
            size = 0 if full or text is None else len(text.encode())
            taken = None if full or size > self.left else text
            if taken is not None:
                self.left -= size
            full = full or (text is not None and taken is None and self.left < _LEAST_BLOCK)
            yield taken


class ShownChanges:
    """What fits of some changes: their rows, then their sections, then effects, then graphs."""

    def __init__(self, items: Sequence[Item], section: Callable[[Item], str], room: Room) -> None:
        self.items = items
        self._section = section
        self.rows = list(room.take(map(table_row, items)))
        self.opened = self.effects = self.graphs = list[str | None]()

    def open(self, room: Room) -> None:
        """Add the collapsed sections, with what differs."""
        self.opened = self._beside(self.rows, self._section, room)

    def explain(self, room: Room) -> None:
        """Add to them what the differences do."""
        self.effects = self._beside(self.opened, effect, room)
        self.graphs = self._beside(self.opened, graphs, room)

    def _beside(self, shown: Sequence[str | None], part: Callable[[Item], str], room: Room) -> list[str | None]:
        """One part of each change whose enclosing part is shown."""
        pairs = zip(self.items, shown, strict=True)
        return list(room.take(part(item) if text is not None else None for item, text in pairs))

    def text(self) -> str:
        if not self.listed:
            return ""
        parts = zip(self.opened, self.effects, self.graphs, strict=True)
        folded = (f"{first.removesuffix(END)}{does or ''}{looks or ''}{END}" for first, does, looks in parts if first)
        return f"{table_head(self.items)}{''.join(filter(None, self.rows))}\n{''.join(folded)}"

    @property
    def listed(self) -> int:
        """How many of the changes have a row."""
        return sum(text is not None for text in self.rows)

    @property
    def missing(self) -> int:
        """How many are not on the page as far as an approval covers them: what a change replaces and writes is in its section,
        and which unchanged policy is affected in its row."""
        pairs = zip(self.items, self.rows, self.opened, strict=True)
        return sum(row is None or (section is None and item.change is not None) for item, row, section in pairs)

    @property
    def whole(self) -> int:
        """How many of the changes are shown completely."""
        parts = zip(self.rows, self.opened, self.effects, self.graphs, strict=True)
        return sum(None not in texts for texts in parts)


def parted(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """The changes to show first, and the others. Many changes with one risk do not displace the rest."""
    if len(items) <= _FIRST:
        return list(items), []
    first: list[Item] = []
    others: list[Item] = []
    alike = Counter[tuple[str, ...]]()
    for item in items:
        words = describe_risks(item.risk) if item.risk else (item.action,)
        alike[words] += 1
        (first if len(first) < _FIRST and alike[words] <= _ALIKE else others).append(item)
    return first, others


def fitted(first: Sequence[Item], rest: Sequence[Item], left: Room) -> tuple[ShownChanges, ShownChanges]:
    """What fits of the changes to show first, and of the others.

    If every row and section fits, all of them come before what explains them. Otherwise the first ones are shown as well as
    half of the room allows, and the page approves nothing.
    """
    made: dict[int, str] = {}

    def section(item: Item) -> str:
        key = id(item)  # a page of several environments has a policy as often as it changes in another way
        if key not in made:
            made[key] = opened(item) + END
        return made[key]

    sizes = (len((table_row(item) + section(item)).encode()) for item in (*first, *rest))
    if all(total <= left.left for total in accumulate(sizes)):
        shown = ShownChanges(first, section, left), ShownChanges(rest, section, left)
        for part in shown:
            part.open(left)
        for part in shown:
            part.explain(left)
        return shown
    riskiest = ShownChanges(first, section, left)
    details = left.part(2)  # the other half is for the rows of all others
    riskiest.open(details)
    riskiest.explain(details)
    left.left += details.left
    others = ShownChanges(rest, section, left)
    others.open(left)
    others.explain(left)
    return riskiest, others


def folded(others: ShownChanges) -> str:
    if not others.listed:
        return ""
    listed = f", {others.listed:,} of them listed" if others.listed < len(others.items) else ""
    return f"<details><summary>{count(len(others.items), 'further change')}{listed}</summary>\n\n{others.text()}{END}"


def cut_note(parts: Sequence[ShownChanges], artifacts: str | None) -> str:
    """How many changes were cut, and where the whole plan is."""
    short = sum(len(part.items) - part.whole for part in parts)
    return (
        f"Cut to what GitHub shows: {short:,} lack some detail here; all of it is in {whole_plan(artifacts)}.\n\n"
        if short
        else ""
    )


def table_head(items: Iterable[Item]) -> str:
    """The first rows of a table of changes."""
    known = [*items]
    what = "policy or model" if any(kind_of(item.name) == "model" for item in known) else "policy"
    cells = ("change", what, *(("where",) if any(item.where for item in known) else ()), "effect")
    return row(cells) + row(["---"] * len(cells)).replace(" ", "")


def table_row(item: Item) -> str:
    """The action, the policy, and the worst effect."""
    way = f" through {_way(item.through, code)}" if item.through else ""
    action = "restoration" if item.restored else item.action
    users = [prose(text) for text in (item.lost, item.users) if text]
    name = code(bare_name(item.name)) + way
    where = (named(item.where),) if item.where else ()
    return row((action, name, *where, "; ".join(filter(None, (_in_short(item), *users)))))


NAMED = 3  # environments that a line names


def named(names: Sequence[str], shown: Callable[[str], str] = code) -> str:
    """The first environments, and how many more there are."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"{', '.join(map(shown, names[:NAMED]))}{more}"


def _way(through: tuple[str, ...], shown: Callable[[str], str]) -> str:
    """The policies that lead to a change; of many, the first ones and the last, which is the changed policy."""
    names = [shown(bare_name(name)) for name in through]
    return ", ".join(names if len(names) <= _MOST_STEPS else [*names[: _MOST_STEPS - 2], "…", names[-1]])


def opened(item: Item) -> str:
    """The beginning of the collapsed section, with everything that differs. The section ends with END.

    Nothing in it is cut but the files' names: who merges the change approves what this shows.
    """
    change, name = item.change, html_code(bare_name(item.name), None)
    where = f" · {named(item.where, html_code)}{item.plans}" if item.where else ""
    if change is None:
        way = _way(item.through, html_code)
        free = "" if item.bound else f" {prose(UNBOUND)}"
        head = f"<details><summary><b>{item.action}</b> {name} through {way}{where}</summary>"
        return f"{head}\n\nThe policy itself stays{free}.\n\n"
    name += f" in {html_code(change.file)}" if change.file else ""
    restored = f"{prose(RESTORED).capitalize()}.\n\n" if item.restored else ""
    moved = f"{prose(item.moved[0].upper() + item.moved[1:])}.\n\n" if item.moved else ""
    head = f"<details><summary><b>{change.action}</b> {name}{where}</summary>"
    return f"{head}\n\n{restored}{moved}{_difference(change, item.verbose)}\n"


def effect(item: Item) -> str:
    """The effect of an update on traffic, as a list."""
    if item.effect is None:
        return ""
    rows, more = first_rows(item.effect, whole=item.verbose)
    return "".join(f"- {_describe(line)}\n" for line in (*rows, *([f"and {more} more"] if more else []))) + "\n"


def graphs(item: Item) -> str:
    """Graphs before and after an update that changes the shape, and of an added policy with groups."""
    before = item.before
    if item.action == "add" and item.after is not None:  # a policy: models are not drawn
        nested = any("targets" in target for target in item.after["policy"]["targets"])
        return "" if not nested else f"Drawn:\n\n{_graph(item.after)}\n"
    if item.effect is None or before is None or item.after is None or shape(before["policy"]) == shape(item.after["policy"]):
        return ""
    return "".join(f"{title}:\n\n{_graph(policy)}\n" for title, policy in (("Before", before), ("After", item.after)))


def shape(target: Any) -> Any:
    """The structure of a target without its weights: its model, or its strategy and the structures of its targets."""
    if not isinstance(target, dict) or not isinstance(target.get("targets"), list):
        name = target.get("model_name") if isinstance(target, dict) else target
        return canonical_model(name) if isinstance(name, str) else name
    shapes = [shape(one) for one in target["targets"]]
    strategy = target.get("strategy")
    drawn = isinstance(strategy, dict) and strategy.get("mode") == "loadbalance"
    return (strategy, sorted(shapes, key=repr) if drawn else shapes)


def _describe(line: str) -> str:
    """A row of an effect; that it is worse is policyctl's own word, whatever policies are called."""
    rest = line.removeprefix("worse: ")
    return prose(line) if rest == line else f"**worse:** {prose(rest)}"


def _in_short(item: Item) -> str:
    if item.risk is not None:
        return proses(describe_risks(item.risk))
    if item.effect is not None:
        return prose(next(effect_rows(item.effect)))
    text = describe_value(item.change.after) if item.change and item.change.after is not None else ""
    shown = code(text) if "[" in text else prose(text)
    return f"{shown}; {prose(item.further)}" if item.further else shown


def _difference(change: Change, verbose: bool) -> str:
    """All that differs. Targets that their labels do not identify come first, as they were."""
    before, after = change.before, change.after
    was = origins(before, after) if change.kind == "policy" and before is not None and after is not None else ()
    known = [f"  {position_name(path)} was: {value(target, longest=None)}" for path, target in was]
    return block("diff", known + [line for field in fields_of(change) for line in _both(field, verbose)])


def fields_of(change: Change) -> tuple[FieldChange, ...]:
    """The fields of a change; for an added or removed policy all that it contains, including its texts."""
    document = change.after or change.before
    if change.action == "update" or document is None:
        return change.fields
    return contents(document, gone=change.action == "remove")


def _both(field: FieldChange, verbose: bool) -> Iterator[str]:
    texts = field_values(field, longest=None)
    if not verbose and field.before is not None and field.after is not None and max(map(len, texts)) > _SHOWN_WHOLE:
        texts = _shortened(field, texts)
    label = position_name(field.path)
    for sign, item, text in zip("-+", (field.before, field.after), texts, strict=True):
        if item is not None:
            yield f"{sign} {label}: {text}"


def _shortened(field: FieldChange, texts: tuple[str, str]) -> tuple[str, str]:
    """Both values without what they have in common at both ends, which is counted. An entry of a list stays whole: part of it
    does not show which one it is. So does an order."""
    before, after = field.before, field.after
    if isinstance(before, list) and isinstance(after, list):
        start = _in_common(before, after)
        end = _in_common(before[start:][::-1], after[start:][::-1])
        return _entries(before, start, end), _entries(after, start, end)
    if is_order(field):
        return texts
    from policyctl.report.plan_text import elided  # imports difflib

    return elided(*texts, most=None)


def _in_common(one: list[Any], other: list[Any]) -> int:
    """How many entries at the beginning of two lists are equal."""
    differ = (at for at, both in enumerate(zip(one, other, strict=False)) if len({*map(canonical_text, both)}) > 1)
    return next(differ, min(len(one), len(other)))


def _entries(entries: list[Any], start: int, end: int) -> str:
    """`[(… 2 entries), 418, (… 1 entry)]`."""
    shown = [value(entry, longest=None) for entry in entries[start : len(entries) - end]]
    left, right = ([f"(… {count(number, 'entry')})"] if number else [] for number in (start, end))
    return f"[{', '.join([*left, *shown, *right])}]"


def _graph(policy: Document) -> str:
    source = effect_graph([policy])
    if len(source) > _BIGGEST_GRAPH:
        return "too large to draw here\n"
    return block("mermaid", source.splitlines())
