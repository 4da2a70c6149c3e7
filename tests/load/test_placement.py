"""A policy's file name is safe and its own, whatever the policy is called."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.load.adopt import file_names
from policyctl.load.kinds import CONFIG_FILE, is_test_file
from policyctl.policy.names import canonical_name

NASTY = "policyctl x.test .x ../x a/b con nul.x lpt1 AnyGem ANYGEM anygem a.b -x x- x. x.yaml policyctl.x x-0123456789".split()
names = st.one_of(
    st.sampled_from([*NASTY, "..", ".", "-", "a b", "x" * 101, "x" * 512, "日本", "ſ", "s", "K", "k", "é", "e\u0301"]),
    st.text(min_size=1, max_size=30),
    st.from_regex(r"[a-zA-Z0-9._-]{1,12}", fullmatch=True),
)


@given(names)
def test_every_name_is_safe_on_every_file_system(name: str) -> None:
    for file in file_names(name):
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*\.yaml", file)
        assert file == PurePosixPath(file).name == PureWindowsPath(file).name
        assert not fnmatch(file, "policyctl.*")
        assert file != CONFIG_FILE
        assert not is_test_file(file)
        assert file.partition(".")[0] not in ("con", "prn", "aux", "nul", "com1", "lpt1")
        assert len(file) <= 105


@given(names, names)
def test_two_policies_never_share_a_name_not_even_where_case_does_not_count(one: str, other: str) -> None:
    mine, others = file_names(one), file_names(other)
    if canonical_name(one) == canonical_name(other):
        assert mine == others
    else:
        assert {file.casefold() for file in mine}.isdisjoint(file.casefold() for file in others)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("anygem", "anygem.yaml"),
        ("virtual-policy/anygem", "anygem.yaml"),
        ("a.b_c-d", "a.b_c-d.yaml"),
        ("tests", "tests.yaml"),
        ("AnyGem", "anygem-d1dae6f0ca.yaml"),
        ("team/chat", "team-chat-4c8235d77b.yaml"),
        ("Grüße an alle", "grusse-an-alle"),
        ("日本", "policy-"),
        ("policyctl", "policyctl-"),
        ("x.test", "x-test-"),
        ("con.fig", "con-fig-"),
        ("x" * 200, "x" * 50 + "-"),
    ],
)
def test_a_name_stays_readable_and_the_same(name: str, first: str) -> None:
    assert file_names(name)[0].startswith(first)
