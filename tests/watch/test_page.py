"""The status page and its JSON."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from importlib.resources import files

import jsonschema
import pytest

from policyctl.watch import Board, SourceStatus, State
from policyctl.watch.http import STATES, StatusQuery, length, status_html, status_json
from tests.watch.boards import NOW, REASONS, board, fleet, status


def headings(page: str) -> list[str]:
    return re.findall(r"<h[12]>(.*?)</h[12]>", page)


def names(page: str) -> list[str]:
    return [name.replace("<wbr>", "") for name in re.findall(r'<th scope="row"><b>(.*?)</b>', page)]


def test_problems_come_first_and_each_has_its_reason() -> None:
    shown = board(status("calm"), *(status(f"is-{state}", state) for state in STATES if state is not State.IN_SYNC))
    page = status_html(shown, NOW)
    assert headings(page) == [
        "6 of 8 environments need a look",
        *(f"1 {STATES[state][0]}" for state in STATES),
    ]
    assert all(reason in page for reason in REASONS.values())
    assert names(page)[-1] == "calm"


def test_of_one_state_what_lasts_longest_comes_first() -> None:
    shown = board(*(status(name, State.DRIFTED, age=age) for name, age in [("a", 5), ("b", 90), ("c", 5), ("d", 30)]))
    assert names(status_html(shown, NOW)) == ["b", "d", "a", "c"]


def test_every_state_is_on_the_page() -> None:
    assert {*STATES} == {*State}


@pytest.mark.parametrize(
    ("shown", "title"),
    [
        (Board(), "No environment was looked at yet"),
        (board(status("eu")), "1 environment, all well"),
        (board(status("eu"), status("us", State.SUSPENDED)), "2 environments, all well"),
        (board(status("eu", State.FAILED), status("us")), "1 of 2 environments needs a look"),
    ],
)
def test_the_title_is_what_a_person_wants_to_know(shown: Board, title: str) -> None:
    assert headings(status_html(shown, NOW))[0] == title


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("text=TENANT+ring%3Dcanary", ["tenant-0"]),
        ("text=503", ["tenant-1"]),
        ("text=22:00", ["tenant-2"]),
        ("state=drifted", ["tenant-2"]),
        ("state=drifted&text=canary", []),
        ("state=nonsense", ["tenant-1", "tenant-2", "tenant-0"]),
        ("text=nothing", []),
        ("%ff=%00&&&=&text", ["tenant-1", "tenant-2", "tenant-0"]),
    ],
)
def test_the_page_is_filtered_by_its_query(query: str, found: list[str]) -> None:
    shown = board(
        status("tenant-0"), status("tenant-1", State.FAILED), status("tenant-2", State.DRIFTED, waits_for="a window at 22:00")
    )
    page = status_html(shown, NOW, StatusQuery.of(query))
    assert names(page) == found
    assert ("No environment fits" in page) == (not found)


def test_links_keep_what_was_asked() -> None:
    query = StatusQuery.of("text=a+b%26&state=failed&refresh=1")
    assert StatusQuery.of(query.link().partition("?")[2]) == query
    assert 'http-equiv="refresh"' in status_html(Board(), NOW, query)
    assert StatusQuery().link() == "/"


@pytest.mark.slow
def test_of_two_thousand_environments_those_in_sync_are_shortened() -> None:
    shown = fleet(2000)
    page = status_html(shown, NOW)
    assert len(page) < 150_000
    assert len(names(page)) == 208
    assert "and 1,792 more" in page
    assert len(names(status_html(shown, NOW, StatusQuery(whole=True)))) == 2000


def test_nothing_from_outside_becomes_markup() -> None:
    hostile = "<img src=x onerror=alert(1)>\x1b[31m\u202e\"'&"
    one = status(hostile, State.FAILED, labels={hostile: hostile}, reason=hostile, waits_for=hostile)
    shown = board(one)
    shown.source = SourceStatus(hostile, NOW, hostile)
    page = status_html(shown, NOW, StatusQuery(text="<img"), [hostile])
    assert "<img" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert names(page) != []


def test_what_is_wrong_with_the_watch_itself_is_above_everything() -> None:
    shown = board(status("eu"))
    shown.source = SourceStatus("5f2c1d0", NOW - timedelta(hours=3), "git fetch failed.")
    shown.stopping = True
    page = status_html(shown, NOW, StatusQuery(), ["hooks.example answered 500"])
    found = re.findall(r'<li class="(\w+)"><b>\1</b> (.*?)</li>', page)
    assert found == [
        ("stopping", "What was begun is finished; nothing new is begun."),
        ("failed", "The files cannot be read: git fetch failed. They were last read 3 h ago; what was read then is in use."),
        ("failed", "Notifications do not arrive: hooks.example answered 500"),
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (0, "0 s"), (59.4, "59 s"), (60, "1 min"), (3599, "59 min"), (7200, "2 h"), (864e5, "1,000 d")],
)
def test_lengths_of_time(seconds: float, text: str) -> None:
    assert length(seconds) == text


@pytest.mark.parametrize("shown", [Board(), fleet(800)])
def test_the_json_has_its_schema(shown: Board) -> None:
    schema = json.loads(files("policyctl.report.schemas").joinpath("status.schema.json").read_text("utf-8"))
    data = json.loads(status_json(shown, ["hooks.example answered 500"]))
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(data)
    assert len(data["environments"]) == len(shown.environments())
    assert schema["properties"]["environments"]["items"]["properties"]["state"]["enum"] == [*State]
