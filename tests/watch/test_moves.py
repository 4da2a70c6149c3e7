"""Who moved a policy or model since an environment was last seen in sync, and whether a change only puts that back."""

from __future__ import annotations

import pytest

from policyctl.plan.drift import Moved
from policyctl.plan.plan import Action, Change
from policyctl.policy.document import Document, canonical_text, normal_form
from policyctl.watch.look import SyncedPolicies

NAME, MODEL = "virtual-policy/chat", "virtual-model/x/a"


def normal(version: str | None) -> Document | None:
    """A policy that leads to a model of this name."""
    body = {"strategy": {"mode": "single"}, "targets": [{"model_name": f"virtual-model/x/{version}"}]}
    return None if version is None else normal_form({"name": NAME, "policy": body})


def change(live: str | None, files: str | None, name: str = NAME) -> Change:
    action: Action = "add" if live is None else "remove" if files is None else "update"
    return Change(action, name, None, normal(live), normal(files))


def synced(version: str | None, *begun: str | None, models: bool = True) -> SyncedPolicies:
    found = normal(version)
    base = SyncedPolicies.text_of({} if found is None else {NAME: canonical_text(found)}, models=models)
    since = ""
    for one in begun:
        since = SyncedPolicies(base, since).beginning([change("x", one)], base)[1]
    return SyncedPolicies(base, since)


@pytest.mark.parametrize(
    ("base", "begun", "live", "files", "moved"),
    [
        ("a", [], "a", "b", "git"),
        ("a", [], "c", "a", "remote"),
        ("a", [], "c", "b", "both"),
        ("a", [], None, "a", "remote"),
        ("a", [], None, "b", "both"),
        ("a", [], "a", None, "git"),
        (None, [], "c", None, "remote"),
        (None, [], "c", "b", "both"),
        (None, [], None, "b", "git"),
        ("a", ["b"], "b", "a", "git"),  # it was written in part, and the files go back
        ("a", ["b"], "a", "b", "git"),  # it was not written
        ("a", ["b"], "c", "a", "both"),  # it may have been written, and was edited since
        ("a", ["b", "d"], "b", "a", "git"),
        ("a", ["b", "d"], "d", "a", "git"),
        ("a", [None], None, "a", "git"),
        ("a", ["a"], "c", "a", "remote"),  # an edit that could not be put back
    ],
)
def test_who_moved(base: str | None, begun: list[str | None], live: str | None, files: str | None, moved: Moved) -> None:
    known, found = synced(base, *begun), change(live, files)
    assert known.side(found) == moved
    assert known.puts_back(found) is (base == files and begun in ([], ["a"]))


@pytest.mark.parametrize(("models", "moved"), [(True, "remote"), (False, "unknown")])
def test_of_a_live_model_that_was_not_compared_it_is_not_known(moved: Moved, *, models: bool) -> None:
    known, found = synced("a", models=models), change("c", None, MODEL)
    assert known.side(found) == moved
    assert known.puts_back(found) is models


@pytest.mark.parametrize("text", ["", "no", "[]", "1"])
def test_a_text_of_anything_else_has_nothing(text: str) -> None:
    assert SyncedPolicies(text, text).side(change("c", None)) == "remote"


def text(**versions: str) -> str:
    found = {f"virtual-policy/{name}": canonical_text(normal(version) or {}) for name, version in versions.items()}
    return SyncedPolicies.text_of(found, models=True)


def test_what_was_begun_and_needs_no_change_any_more_is_in_sync() -> None:
    """Then it is an edit on the remote that leads back. Of the others it is not known whether they were written."""
    had, then = text(chat="a", gone="a", other="a"), text(chat="b", new="b", other="b")
    names = ("chat", "gone", "new", "other")
    before = dict(zip(names, ("a", "a", None, "a"), strict=True))
    files = dict(zip(names, ("b", None, "b", "b"), strict=True))
    changes = {name: change(before[name], files[name], f"virtual-policy/{name}") for name in names}
    was, begun = SyncedPolicies(had).beginning([*changes.values()], then)
    assert was == had
    assert {SyncedPolicies(was, begun).side(one) for one in changes.values()} == {"git"}
    now = SyncedPolicies(*SyncedPolicies(was, begun).beginning([changes["other"]], then))
    sides = {name: now.side(one) for name, one in changes.items()}
    assert sides == {"chat": "remote", "gone": "remote", "new": "remote", "other": "git"}


def test_what_was_not_compared_this_time_is_not_taken_for_in_sync() -> None:
    had = SyncedPolicies.text_of({MODEL: "a"}, models=True)
    one = change("a", "b", MODEL)
    was, begun = SyncedPolicies(had).beginning([one], had)
    assert SyncedPolicies(was, begun).beginning([], SyncedPolicies.text_of({}, models=False)) == (was, begun)
