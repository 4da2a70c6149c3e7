"""What a service's answer is taken to say."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.remote.http import describe, is_quota, retry_after
from policyctl.remote.redaction import Redactor

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["detail", "msg", "loc", "message", "code", "error"]), inner)
    ),
)


def silent(text: str) -> str:
    return text


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"detail": "a string"}, "a string"),
        ({"detail": {"code": "X", "message": "an object"}}, "an object"),
        ({"detail": {"code": "X"}}, "X"),
        ({"detail": [{"loc": ["body", "policy", 0], "msg": "bad", "type": "t"}, {"msg": "worse"}]}, "policy.0: bad; worse"),
        ({"message": "top"}, "top"),
        ({"error": "e"}, "e"),
        ({"error": {"message": "inner"}}, "inner"),
        ({"errorCode": "BXN", "errorMessage": "IAM's words"}, "IAM's words"),
        ({"errors": [{"code": "not_found", "message": "gone"}]}, "gone"),
        (["one", "two"], "one; two"),
        ("text", "text"),
        ("two\n lines\tand\x00more", "two lines and\x00more"),
        ({"detail": None}, ""),
        (5, ""),
        ("x" * 1000, "x" * 299 + "…"),
    ],
)
def test_an_errors_words_are_found_wherever_they_are(body: Any, words: str) -> None:
    said = describe(httpx.Response(422, json=body), silent)
    assert said == "422 Unprocessable Entity" + (f": {words}" if words else "")


@given(JSON | st.binary())
def test_whatever_the_body_is_the_description_is_one_short_line(body: Any) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    said = describe(httpx.Response(500, content=content), silent)
    assert said.startswith("500 Internal Server Error")
    assert len(said.splitlines()) == 1 or not said.isprintable()
    assert "\n" not in said
    assert len(said) < 350


@pytest.mark.parametrize("depth", [5, 900, 100_000])
def test_a_deep_body_is_harmless(depth: int) -> None:
    assert describe(httpx.Response(500, content=b"[" * depth + b"]" * depth), silent).startswith("500")


@given(st.text("12346789", min_size=4, max_size=400), st.text("xyz \n", max_size=600), st.text("xyz", max_size=20))
def test_no_part_of_a_secret_is_left_by_cutting(secret: str, before: str, after: str) -> None:
    scrub = Redactor()
    scrub.hide(secret)
    said = describe(httpx.Response(500, json={"detail": f"{before}{secret}{after}"}), scrub)
    assert not set(secret) & set(said)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": " 20 "}, 20.0),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "1.5"}, None),
        ({"Retry-After": "²"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT", "Date": "Wed, 21 Oct 2015 09:00:00 GMT"}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30 -0000", "Date": "Wed, 21 Oct 2015 07:28:00 -0000"}, 30.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT"}, 0.0),
    ],
)
def test_retry_after_is_a_number_or_a_date_by_the_servers_clock(headers: dict[str, str], seconds: float | None) -> None:
    response = httpx.Response(429, headers=[(key.encode(), value.encode()) for key, value in headers.items()])
    assert retry_after(response) == seconds


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"])))
def test_any_other_retry_after_is_none_or_some_seconds(text: str) -> None:
    seconds = retry_after(httpx.Response(429, headers={"Retry-After": text, "Date": text}))
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("body", "quota"),
    [
        ({"detail": {"code": "RESOURCE_QUOTA_EXCEEDED"}}, True),
        ({"code": "RESOURCE_QUOTA_EXCEEDED"}, True),
        ({"detail": {"code": "RATE_LIMITED"}}, False),
        ({"detail": "RESOURCE_QUOTA_EXCEEDED"}, False),
        ([], False),
        (None, False),
    ],
)
def test_a_quota_is_told_from_too_many_requests_by_its_code(body: Any, quota: bool) -> None:
    assert is_quota(httpx.Response(429, json=body)) is quota


def test_a_page_is_not_a_quota() -> None:
    assert not is_quota(httpx.Response(429, content=b"<html>"))
