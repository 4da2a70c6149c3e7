"""What still counts of merged approvals, and whether a plan is exactly the sum of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count

import pytest

from policyctl.plan.approval import (
    NONE,
    Approval,
    Terms,
    adds_up,
    lead_to,
    led_rules,
    newest,
    print_of,
    standing,
    subject_of,
)
from policyctl.plan.settings import Override

NUMBERS = count(5)
NOW, THEN = "c" * 40, "d" * 40  # the commit of a run, and another one


def mark(change: str) -> str:
    """The print of a change, written POLICY=CONTENT."""
    return print_of([change.partition("=")[0]], [change])


@dataclass
class Changes:
    """A plan, as far as it is approved."""

    prints: tuple[str, ...]
    traffic: Mapping[str, str] = field(default_factory=dict)
    digest: str = "sha256:plan"
    overrides: tuple[Override, ...] = ()
    environments: Mapping[str, int] = field(default_factory=dict)
    replaces: tuple[str, ...] = ()

    @property
    def changed(self) -> tuple[str, ...]:
        return self.prints


def plan(*changes: str, **traffic: str) -> Changes:
    return Changes(tuple(map(mark, changes)), traffic)


def shown(
    *changes: str, begun: str = "", digest: str = "sha256:shown", known: bool = True, edited: str = "", **traffic: str
) -> Approval:
    prints, replaces = tuple(map(mark, changes)), frozenset(subject_of(mark(name)) for name in edited.split())
    return Approval(digest, f"#{next(NUMBERS)}", prints=prints, traffic=traffic, begun=begun, known=known, replaces=replaces)


SUMS: dict[str, tuple[list[Approval], Changes, bool]] = {
    "one": ([shown("p=1", "q=1")], plan("p=1", "q=1"), True),
    "two": ([shown("q=1"), shown("p=1")], plan("p=1", "q=1"), True),
    "one of which nothing is left": ([shown("q=1"), shown("p=1")], plan("q=1"), True),
    "more than was shown": ([shown("p=1")], plan("p=1", "q=1"), False),
    "a part of one": ([shown("p=1", "q=1")], plan("q=1"), False),
    # A newer merge replaces what it changes too.
    "the older one's part is the newer one's": ([shown("p=2"), shown("p=1", "q=1")], plan("p=2", "q=1"), True),
    "what was taken back": ([shown("p=0", "q=1"), shown("p=1", "q=1")], plan("p=1", "q=1"), False),
    "what was taken back alone": ([shown("p=0"), shown("p=1")], plan("p=1"), False),
    "what a merge took back that approved nothing": ([shown("p=0", digest=NONE), shown("p=1")], plan("p=1"), False),
    "what a used merge took back": ([shown("p=0", begun=THEN), shown("p=1")], plan("p=1"), False),
    "what may have been taken back": ([shown(digest=NONE, known=False), shown("p=1")], plan("p=1"), False),
    "what is older than that": ([shown("q=1"), shown(digest=NONE, known=False), shown("p=1")], plan("p=1", "q=1"), False),
    "a merge that approved nothing of something else": ([shown("q=1", digest=NONE), shown("p=1")], plan("p=1"), True),
    "a merge that changed nothing": ([shown(), shown("p=1")], plan("p=1"), True),
    "what was taken back before it was applied": ([shown(edited="p"), shown("p=1")], plan("p=1"), False),
    "what was taken back beside a change": ([shown("q=1", edited="p"), shown("p=1")], plan("p=1", "q=1"), False),
    "something else that is live already": ([shown(edited="q"), shown("p=1")], plan("p=1"), True),
    # An approval is used once.
    "begun for this commit": ([shown("p=1", "q=1", begun=NOW)], plan("q=1"), True),
    "begun for this commit, and more": ([shown("p=1", begun=NOW)], plan("p=1", "q=1"), False),
    "begun for another commit": ([shown("p=1", "q=1", begun=THEN)], plan("p=1", "q=1"), False),
    "what is left for another commit": ([shown("p=1", "q=1", begun=THEN)], plan("q=1"), False),
    "one that is new beside it": ([shown("r=1"), shown("p=1", "q=1", begun=THEN)], plan("r=1"), True),
    # What plans do by way of other policies is shown too.
    "traffic as shown": ([shown("p=1", t="a")], plan("p=1", t="a"), True),
    "other traffic": ([shown("p=1", t="a")], plan("p=1", t="b"), False),
    "no traffic": ([shown("p=1", t="a")], plan("p=1"), False),
    "traffic that was moved by what is done": ([shown("p=1", "q=1", begun=NOW, t="a")], plan("q=1"), True),
    "other traffic of what is left": ([shown("p=1", "q=1", begun=NOW, t="a")], plan("q=1", t="b"), False),
}


@pytest.mark.parametrize("case", SUMS)
def test_a_plan_must_be_the_sum_of_what_still_counts(case: str) -> None:
    approvals, changes, approved = SUMS[case]
    assert adds_up(standing(approvals, NOW), changes) is approved


NEWEST: dict[str, tuple[list[Approval], int | None]] = {
    "one": ([shown("p=1")], 0),
    "the newest": ([shown("p=2"), shown("p=1")], 0),
    "not one that changed nothing": ([shown(), shown("p=1")], 1),
    "one that changed files alone": ([shown(edited="p"), shown("p=1")], 0),
    "not behind one that approved nothing": ([shown("p=2", digest=NONE), shown("p=1")], None),
    "not behind one of which nothing is known": ([shown(digest=NONE, known=False), shown("p=1")], None),
    "without room for its changes": ([shown(known=False), shown("p=1")], 0),
    "begun for another commit": ([shown("p=1", begun=THEN)], None),
    "begun for this commit": ([shown("p=1", begun=NOW)], 0),
}


@pytest.mark.parametrize("case", NEWEST)
def test_a_digest_counts_for_the_newest_merge_alone(case: str) -> None:
    approvals, number = NEWEST[case]
    assert newest(approvals, NOW) is (None if number is None else approvals[number])


def test_in_several_environments_a_newer_merge_replaces_only_what_it_changes_there() -> None:
    def of_both(dev: str, prod: str) -> Approval:
        prints = tuple(print_of([where], [where, one]) for where, one in (("dev", dev), ("prod", prod)))
        return Approval("sha256:shown", "#5", prints=prints, environments={"dev": 1, "prod": 1}, known=True)

    older = of_both("p=1", "p=1")
    newer = Approval("sha256:shown", "#6", prints=of_both("p=2", "p=2").prints[1:], environments={"prod": 1}, known=True)
    now = (older.prints[0], newer.prints[0])
    assert adds_up(standing([newer, older], NOW), Changes(now))
    assert not adds_up(standing([newer, older], NOW), Changes(older.prints))
    assert not adds_up(standing([older], NOW), Changes(older.prints[:1]))
    assert adds_up(standing([older._replace(begun=NOW)], NOW), Changes(older.prints[:1]))


@pytest.mark.parametrize(
    ("steps", "known", "end"),
    [
        ([], "a", "a"),
        (["a b"], "a", "b"),  # not a any more
        (["b c", "a b"], "a", "c"),  # the newest first
        (["b a", "a b"], "a", "a"),  # b was taken back
        (["a a", "a b"], "a", "b"),  # of an older base: it shows no step
        (["a b", "b c"], "a", "b"),  # c was not reached from b
        (["b b"], "a", "a"),  # a push brought b
        (["b c"], "a", "a"),
        (["b c"], "", ""),
    ],
)
def test_approved_settings_are_where_steps_lead_from_known_ones(steps: list[str], known: str, end: str) -> None:
    found = [Approval(NONE, terms=Terms("here", before, "here", after)) for before, after in map(str.split, steps)]
    approvals = [*found, Approval(NONE)]
    assert led_rules(approvals, known) == end
    assert [one for one in ("a", "b", "c") if lead_to(approvals, known, one, "here")] == [end] * bool(end)


@pytest.mark.parametrize(
    ("steps", "ways"),
    [
        ([], "abc"),  # whether one may be used at all is asked elsewhere
        (["a b"], "bc"),
        (["b b", "a b"], "bc"),
        (["b a", "a b"], "ac"),
        (["a a", "a b"], "bc"),  # of an older base
    ],
)
def test_approvals_do_not_count_where_an_approved_step_led_away_from(steps: list[str], ways: str) -> None:
    found = [Approval(NONE, terms=Terms(before, "a", after, "a")) for before, after in map(str.split, steps)]
    assert [one for one in "abc" if lead_to(found, "a", "a", one)] == [*ways]
