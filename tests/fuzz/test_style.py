"""policyctl fmt, of texts gone wrong: what can be read means the same afterwards, and a second time changes nothing."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given, settings

from policyctl.errors import InvalidInput
from policyctl.load.style import styled
from tests.examples import examples
from tests.fuzz.mutating import CONFIG, SEEDS, contents


@given(contents(CONFIG, *SEEDS))
@settings(max_examples=examples(300))
def test_no_text_changes_its_meaning(content: bytes) -> None:
    """`styled` compares both texts itself, and raises another error than this if they differ."""
    with suppress(InvalidInput):
        once = styled(content, "x.yaml")
        assert styled(once.encode(), "x.yaml") == once
