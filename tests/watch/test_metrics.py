"""The metrics, read again by the parser of the library."""

from __future__ import annotations

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from policyctl.errors import RemoteError, UsageError
from policyctl.load.urls import origin
from policyctl.remote import Backoff
from policyctl.remote.hosts import Hosts, HostTally
from policyctl.remote.http import HttpClient, Request
from policyctl.remote.redaction import Redactor
from policyctl.watch import Board, State
from policyctl.watch.telemetry import WatchMetrics
from tests.watch.boards import NOW, board, fleet, status

Labels = frozenset[tuple[str, str]]


def read(metrics: WatchMetrics) -> dict[tuple[str, Labels], float]:
    families = text_string_to_metric_families(metrics.text().decode())
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def labels(**given: str) -> Labels:
    return frozenset(given.items())


def test_an_environment_has_its_state_changes_and_times() -> None:
    hostile = 'a"\\\nb'
    metrics = WatchMetrics(
        board(status("eu", State.DRIFTED), status(hostile, State.FAILED, succeeded_at=None)), ["ring", "app/tier"]
    )
    series = read(metrics)
    eu = labels(environment="eu", state="drifted", label_ring="stable", label_app_tier="")
    assert series["policyctl_environment_info", eu] == 1
    assert series["policyctl_environment_changes", labels(environment="eu")] == 2
    assert series["policyctl_environment_interval_seconds", labels(environment="eu")] == 60
    when = NOW.timestamp() - 20
    assert series["policyctl_environment_last_success_timestamp_seconds", labels(environment="eu")] == when
    since = NOW.timestamp() - 3600  # it never succeeded, and failed since then
    assert series["policyctl_environment_last_success_timestamp_seconds", labels(environment=hostile)] == since
    assert series["policyctl_environment_changes", labels(environment=hostile)] == 2
    assert series["policyctl_source_info", labels(revision="5f2c1d0")] == 1
    assert series["policyctl_source_last_success_timestamp_seconds", labels()] == NOW.timestamp() - 5


def test_what_a_new_watch_does_not_know_yet_has_the_time_at_which_it_began() -> None:
    """Alerts compare times: without one they would never fire."""
    before, known = time.time(), Board()
    known.restore(status("eu", succeeded_at=None))
    series = read(WatchMetrics(known))
    assert series["policyctl_environment_last_success_timestamp_seconds", labels(environment="eu")] >= before
    assert series["policyctl_source_last_success_timestamp_seconds", labels()] >= before
    known.leads = False  # it reads nothing, and that is not an error
    assert ("policyctl_source_last_success_timestamp_seconds", labels()) not in read(WatchMetrics(known))


def test_an_environment_in_another_state_has_no_series_of_the_state_before() -> None:
    shown = board(status("eu", State.DRIFTED))
    metrics = WatchMetrics(shown)
    shown.put(status("eu"))
    states = [dict(found)["state"] for name, found in read(metrics) if name == "policyctl_environment_info"]
    assert states == ["in_sync"]
    shown.keep(frozenset())
    assert not any(name.startswith("policyctl_environment") for name, _ in read(metrics))


def test_labels_that_have_one_name_in_prometheus_are_refused() -> None:
    with pytest.raises(UsageError, match="have the same name in Prometheus: a-b, a/b"):
        WatchMetrics(Board(), ["a/b", "a-b"])


def test_looks_and_applies_are_counted_and_timed() -> None:
    metrics = WatchMetrics(Board())
    for seconds in (0.02, 0.02, 7):
        metrics.reconciled("look", "drifted", seconds)
    metrics.reconciled("apply", "failed", 1)
    metrics.late(0.5)
    metrics.turned(12)
    series = read(metrics)
    assert series["policyctl_reconcile_total", labels(action="look", result="drifted")] == 3
    assert series["policyctl_reconcile_total", labels(action="apply", result="failed")] == 1
    buckets = {
        dict(found)["le"]: value
        for (name, found), value in series.items()
        if ("action", "look") in found and "le" in dict(found)
    }
    assert (buckets["0.01"], buckets["0.03"], buckets["3.0"], buckets["10.0"], buckets["+Inf"]) == (0, 2, 2, 3, 3)
    assert series["policyctl_schedule_lag_seconds", labels()] == 0.5
    assert series["policyctl_schedule_due", labels()] == 12


def test_requests_and_waits_of_hosts_are_counted() -> None:
    now = [0.0]
    hosts = Hosts(Backoff(tries=0, clock=lambda: now[0], sleep=lambda seconds: now.append(now.pop() + seconds)))
    hosts.tally = tally = HostTally()
    url = "http://127.0.0.1:1/models"
    hosts.pace(origin(url)).limit(0.5)
    for _ in range(3):
        with pytest.raises(RemoteError, match="cannot be reached"):
            HttpClient(Redactor(), hosts=hosts).send(Request("GET", url))
    tally.asked(origin("https://[::1]/"), "200")
    series = read(WatchMetrics(Board(), tally=tally))
    assert series["policyctl_host_requests_total", labels(origin="http://127.0.0.1:1", status="none")] == 3
    assert series["policyctl_host_requests_total", labels(origin="https://[::1]:443", status="200")] == 1
    assert series["policyctl_host_wait_seconds_total", labels(origin="http://127.0.0.1:1")] == 4


@pytest.mark.slow
def test_two_thousand_environments_are_four_series_each() -> None:
    metrics = WatchMetrics(fleet(2000))
    text = metrics.text()
    assert len(text) < 800_000
    assert sum(name.startswith("policyctl_environment_") for name, _ in read(metrics)) == 4 * 2000


def test_names_are_those_of_the_text() -> None:
    metrics = WatchMetrics(board(status("eu")))
    metrics.reconciled("look", "drifted", 1)
    assert {name for name, _ in read(metrics)} == metrics.names()
