"""What still counts of merged approvals, and whether a plan is exactly the sum of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count

import pytest

from policyctl.plan.approval import (
    NONE,
    Approval,
    SettingsMarks,
    SettingsStep,
    Terms,
    adds_up,
    all_shown,
    newest,
    print_of,
    shown_terms,
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
    *changes: str,
    begun: str = "",
    digest: str = "sha256:shown",
    known: bool = True,
    edited: str = "",
    settings: bool = False,
    **traffic: str,
) -> Approval:
    prints, replaces = tuple(map(mark, changes)), frozenset(subject_of(mark(name)) for name in edited.split())
    found = Approval(digest, f"#{next(NUMBERS)}", prints=prints, traffic=traffic, begun=begun, known=known, replaces=replaces)
    return found._replace(terms=Terms("way", "rules", "way", "others" if settings else "rules"))


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
    "what is older than a change of settings": ([shown("q=1", settings=True), shown("p=1")], plan("p=1", "q=1"), False),
    "a change of settings itself": ([shown("q=1", settings=True)], plan("q=1"), True),
    "what is newer than a change of settings": ([shown("q=1"), shown("p=1", settings=True)], plan("p=1", "q=1"), True),
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
    "not behind a change of settings": ([shown(settings=True), shown("p=1")], 0),
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


def marks(text: str) -> SettingsMarks | None:
    """`a1`: the way a, the safety settings 1; `-` for none."""
    return None if text == "-" else SettingsMarks(text[0], text[1])


def step(text: str) -> SettingsStep:
    """`END BEFORE AFTER`; without an end where it is `-`."""
    end, before, after = text.split()
    return SettingsStep(end.replace("-", ""), marks(before), marks(after))


def approved(text: str) -> Approval:
    """A merge with that end, whose plan shows these settings."""
    end, before, after = text.split()
    return Approval("sha256:shown", end=end.replace("-", ""), terms=Terms(*before, *after))


# The steps of the branch, the oldest first; what merged plans show; whether all is shown, and whether the way is.
STEPS = {
    "nothing changed": ([], [], True, True),
    "shown": (["x a1 b2"], ["x a1 b2"], True, True),
    "two merges, each shown": (["x a1 a2", "y a2 b2"], ["y a2 b2", "x a1 a2"], True, True),
    "the safety settings were pushed": (["- a1 a2"], [], False, True),
    "the way was pushed": (["- a1 b1"], [], False, False),
    "pushed between two merges": (["x a1 a2", "- a2 a3"], ["x a1 a2"], False, True),
    "pushed before a merge whose plan begins with it": (["x a1 a2", "x a2 a3"], ["x a2 a3"], False, True),
    "pushed before a merge whose plan does not change it": (["x a1 a2"], ["x a2 a2"], False, True),
    "pushed before a merge whose plan shows that it leads to the same": (["x a1 a3", "x a3 a2"], ["x a1 a2"], True, True),
    "several commits of one merge": (["x a1 a2", "x a2 b2"], ["x a1 b2"], True, True),
    "pushed, and taken back by a push": (["- a1 b2", "- b2 a1"], [], False, False),
    "pushed, and taken back before a merge that shows neither": (["x a1 b2", "x b2 a1"], ["x a1 a1"], False, False),
    "approved, and taken back by a push": (["x a1 b2", "- b2 a1"], ["x a1 b2"], False, False),
    "approved, and taken back by a merge": (["x a1 b2", "y b2 a1"], ["x a1 b2", "y b2 a1"], True, True),
    "another merge shows it": (["x a1 a2"], ["y a1 a2"], False, True),
    "a merge of which the end is not known": (["- a1 a2"], ["- a1 a2"], False, True),
    "its plan shows what the base was before another merge": (["x a1 a2", "y a2 a3"], ["x a1 a2", "y a1 a3"], False, True),
    "its plan shows the way, and other safety settings": (["x a1 b3"], ["x a1 b2"], False, True),
    "two merges with one end show it in parts": (["x a1 b2"], ["x a1 b1", "x a1 a2"], False, True),
    "the environment is new": (["x - a1"], ["x a1 a1"], False, False),
    "several commits of one merge, one of which is not valid": (["x a1 -", "x - b2"], ["x a1 b2"], True, True),
    "one that is not valid, and taken back within a merge": (["x a1 -", "x - a1"], ["x a1 a1"], True, True),
    "what is not valid was pushed, and taken back": (["- a1 -", "- - a1"], [], False, False),
    "the environment was gone for a while": (["x a1 -", "y - a1"], ["x a1 a1", "y a1 a1"], False, False),
}


@pytest.mark.parametrize("case", STEPS)
def test_each_change_of_the_settings_must_be_shown_by_the_merge_that_brought_it(case: str) -> None:
    steps, approvals, settings, way = STEPS[case]
    given = [step(one) for one in steps], [approved(one) for one in approvals]
    assert (all_shown(*given), all_shown(*given, way_only=True)) == (settings, way)


@pytest.mark.parametrize(
    ("change", "paths", "counts"),
    [
        ("a1 a1", "", True),
        ("a1 b1", "environments.prod.remote", True),
        ("a1 b1", "environments.prod.auth.token", True),
        ("a1 b1", "templates.gold.ca_file (3 environments)", True),
        ("a1 b1", "remote of prod, dev", True),
        ("a1 b1", "environments.prod.limits.max_removes", False),
        ("a1 b1", "", False),
        ("a1 a2", "environments.prod.limits.max_removes", True),
        ("a1 a2", "", False),
        ("a1 b2", "environments.prod.remote", True),
    ],
)
def test_a_plan_shows_no_more_of_the_settings_than_it_names(change: str, paths: str, counts: bool) -> None:
    terms = Terms(*"".join(change.split()))
    assert shown_terms(terms, [paths] if paths else []) == (terms if counts else None)
