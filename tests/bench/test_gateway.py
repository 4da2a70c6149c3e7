"""The benchmark of the gateway: what it reads from wrk, its tables, and that it leaves no process behind."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.bench.contenders import memory, running
from tests.bench.gateway import Peers, needed
from tests.bench.goals import DIRECT, MANY, ONE, OWN, SIXTEEN, TWO, WAITING, WORKLOADS, Found, figure_table, goal_table, rows
from tests.bench.model import EVENT_BYTES, event
from tests.bench.report import replaced
from tests.bench.wrk import Figures, read_figures
from tests.readme_blocks import EVIDENCE

PORTKEY, LITELLM = "Portkey 1.2.3", "LiteLLM 4.5.6"
PRINTED = """\
Running 4s test @ http://127.0.0.1:8080/v1/chat/completions
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.12ms    3.10ms  47.21ms   94.17%
    Req/Sec     9.61k     1.21k   11.02k    72.50%
  Latency Distribution
     50%  {median}
     75%    2.20ms
     90%    3.01ms
     99%   16.33ms
  4000 requests in 4.00s, 46.43MB read
{more}Requests/sec:   1000.00
Transfer/sec:     11.60MB
"""


@pytest.mark.parametrize(
    ("median", "milliseconds"), [("75.00us", 0.075), ("1.31ms", 1.31), ("2.05s", 2050), ("1.10m", 66_000), ("0.00us", 0)]
)
def test_the_median_is_read_in_milliseconds(median: str, milliseconds: float) -> None:
    assert read_figures(PRINTED.format(median=median, more="")) == Figures(1000, milliseconds, 4000)


def test_an_answer_that_is_not_good_does_not_count_for_the_rate() -> None:
    more = "  Socket errors: connect 0, read 3, write 0, timeout 7\n  Non-2xx or 3xx responses: 1000\n"
    assert read_figures(PRINTED.format(median="1.00ms", more=more)) == Figures(750, 1, 4000, 1010)


def test_what_answers_nothing_has_a_rate_of_zero() -> None:
    text = PRINTED.replace("4000 requests", "0 requests").replace("1000.00", "0.00").format(median="0.00us", more="")
    assert read_figures(text) == Figures(0, 0, 0)


def test_other_output_is_refused() -> None:
    with pytest.raises(ValueError, match="unable to connect"):
        read_figures("unable to connect to 127.0.0.1:8080 Connection refused\n")


def found(**more: float) -> Found:
    """A run in which the gateway has 1,000 requests a second and 0.3 ms, and the others what is `more`, or the same."""
    portkey, litellm = more.get("portkey", 100), more.get("litellm", 10)
    rates = {DIRECT: 50_000.0, OWN: 1000.0, MANY: 900.0, TWO: more.get("two", 1800.0), PORTKEY: portkey, LITELLM: litellm}
    medians = {DIRECT: 0.1, PORTKEY: more.get("latency", 1.1)}
    figures = {
        (name, workload): [
            Figures(
                rate,
                medians.get(name, 0.3),
                1000,
                0,
                None if name == DIRECT else more.get("many", 110) if name == MANY else 100,
            )
        ]
        * 3
        for name, rate in rates.items()
        for workload in WORKLOADS
        if (name not in (MANY, TWO) or (workload.is_fast and workload is not ONE)) and rate
    }
    most = {name: more.get("memory", 79.0) for name in rates if name != DIRECT and rates[name]}
    return Found(figures, most, 50, {"files": more.get("start", 1.9)}, 10_000, 0.5)


def verdict(result: Found, begins: str) -> list[str]:
    """The verdicts of the rows that begin so."""
    return [row.verdict for row in rows(result) if f"{row.work} {row.goal}".startswith(begins)]


def test_a_goal_is_met_or_not_by_what_was_measured() -> None:
    requests = f"requests on {SIXTEEN.name} "
    for more, begins, met in (
        ({"portkey": 166}, f"{requests}≥ 6 × {PORTKEY}", True),
        ({"portkey": 168}, f"{requests}≥ 6 × {PORTKEY}", False),
        ({"litellm": 19}, f"{requests}≥ 50 × {LITELLM}", True),
        ({"litellm": 21}, f"{requests}≥ 50 × {LITELLM}", False),
        ({"portkey": 249}, "an upstream of 200 ms", True),
        ({"portkey": 251}, "an upstream of 200 ms", False),
        ({"latency": 0.61}, "added median latency", True),
        ({"latency": 0.59}, "added median latency", False),
        ({}, "streams of 100 events, without a pause, 1 at once", False),
        ({"memory": 81}, "peak memory", False),
        ({"start": 2.1}, "start with 10,000 policies in files", False),
        ({"many": 119}, "a request to a policy of 200 targets", True),
        ({"many": 121}, "a request to a policy of 200 targets", False),
        ({"two": 1710}, "two workers", True),
    ):
        assert verdict(found(**more), begins) == ["yes" if met else "**no**"], (more, begins)


@pytest.mark.parametrize(("cores", "verdicts"), [(2, "cannot be seen here"), (8, "**no**")])
def test_two_workers_are_judged_only_where_there_are_cores_for_them(
    cores: int, verdicts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert verdict(found(two=1100), "two workers") == [verdicts]


def test_a_peer_that_answered_none_proves_nothing() -> None:
    result = found()
    silent = {**result.figures, (PORTKEY, WAITING): [Figures(0, 0, 0)] * 3}
    assert verdict(result._replace(figures=silent), "an upstream of 200 ms") == ["cannot be seen here"]


def test_a_ratio_is_the_median_of_those_of_each_round() -> None:
    """A machine that is slow in one round is slow for all that are measured in it."""
    rounds = {OWN: [900.0, 90.0, 900.0], PORTKEY: [100.0, 10.0, 150.0]}
    figures = {(name, SIXTEEN): [Figures(rate, 1, 100) for rate in rates] for name, rates in rounds.items()}
    assert Found(figures, {}, 0, {}, 0, 0).ratio(OWN, PORTKEY, SIXTEEN) == 9


def test_rows_of_what_was_not_measured_are_left_out_and_that_is_said() -> None:
    assert "not measured" not in goal_table(found())
    alone = found(portkey=0, litellm=0)
    assert "Portkey and LiteLLM were not measured, so these rows are left out." in goal_table(alone)
    assert not [row for row in rows(alone) if "×" in row.goal and "direct" not in row.goal and "one" not in row.goal]
    assert "LiteLLM was not measured" in goal_table(found(litellm=0))
    assert LITELLM not in figure_table(found(litellm=0))


def test_a_failed_request_is_shown_and_fails_the_goal() -> None:
    result = found()
    broken = {**result.figures, (OWN, SIXTEEN): [Figures(5000, 0.3, 1000, 2, 100)]}
    failing = result._replace(figures={key: list(seen)[:1] for key, seen in broken.items()})
    assert verdict(failing, f"requests on {SIXTEEN.name}") == ["**no**", "**no**"]
    assert "5,000/s, 0.30 ms, 2 failed" in figure_table(failing)


def test_all_rows_of_a_table_have_the_same_columns() -> None:
    for text in (goal_table(found()), figure_table(found())):
        assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_a_table_replaces_the_one_between_its_own_marks() -> None:
    page = "a\n<!-- one -->\nold\n<!-- /one -->\n<!-- two -->\nold\n<!-- /two -->\n"
    assert replaced(page, "two", "new") == page[::-1].replace("dlo", "wen", 1)[::-1]
    with pytest.raises(ValueError, match="unpack"):
        replaced(page, "three", "new")
    for mark in ("bench", "gateway"):
        assert f"<!-- {mark} -->\nnew\n<!-- /{mark} -->" in replaced(EVIDENCE.read_text("utf-8"), mark, "new")


def test_what_is_missing_is_one_line_that_shows_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrk").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert needed(Peers(None, None)) == "nginx is missing; install with apt: wrk nginx-light"
    (tmp_path / "nginx").touch(0o755)
    assert needed(Peers(None, None)) is None
    assert "with npm" in (needed(Peers(tmp_path, None)) or "")
    assert "LiteLLM" in (needed(Peers(None, tmp_path)) or "")


def test_what_was_started_ends_with_all_that_it_started(tmp_path: Path) -> None:
    """Also when what it was started for fails."""
    group = 0
    with suppress(KeyError), running(["sh", "-c", "sleep 600 & sleep 600"], tmp_path / "log") as process:
        group = process.pid
        assert memory(group, "VmRSS") > 0
        raise KeyError("a benchmark that fails")
    end = time.monotonic() + 10
    while memory(group, "VmRSS") and time.monotonic() < end:  # a process that was killed may take a moment to go
        pass
    assert memory(group, "VmRSS") == 0


def test_an_event_of_a_stream_has_the_size_that_the_table_is_about() -> None:
    assert len(event()) == EVENT_BYTES
