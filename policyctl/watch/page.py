"""The status of a watch: a page for people, and the same as JSON, whose schema is `schemas/status.schema.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlencode

from policyctl.report.format import count, json_text
from policyctl.report.page import filled_page
from policyctl.watch.status import Board, EnvironmentStatus, SourceStatus, State

VERSION = 1
REFRESH_SECONDS = 15
_ROWS = 200  # environments in sync that are shown at once; those that need a person are all shown, up to _MOST
_MOST = 2_000

# The gravest first: how a state is called, what it means, and how it is coloured.
STATES: dict[State, tuple[str, str, str]] = {
    State.FAILED: ("failing", "A look or an apply failed. It is tried again.", "remove"),
    State.REFUSED: ("refused", "A limit, a guard, a protection or a test holds the plan. It waits for a person.", "remove"),
    State.FIGHTING: ("fighting", "Another tool undoes what is applied, so nothing is applied any more.", "remove"),
    State.CONFLICT: ("in conflict", "Both the files and the remote moved. It waits for a person.", "remove"),
    State.DRIFTED: ("drifted", "The remote was edited since it was applied.", "update"),
    State.PENDING: ("pending", "The files moved, and are not applied yet.", "update"),
    State.SUSPENDED: ("suspended", "Left alone, as policyctl.yaml asks.", "rest"),
    State.IN_SYNC: ("in sync", "The remote is as the files are.", "add"),
}
_CALM = (State.SUSPENDED, State.IN_SYNC)
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


class StatusQuery(NamedTuple):
    """What a person asked the page for: words to search, one state, every row, and to be loaded again and again."""

    text: str = ""
    state: State | None = None
    whole: bool = False
    refresh: bool = False

    @classmethod
    def of(cls, query: str) -> StatusQuery:
        """The query of a URL. What it does not know is left out of account."""
        given = {key: values[-1] for key, values in parse_qs(query[:2_000]).items()}
        state = given.get("state", "")
        return cls(
            given.get("text", "")[:200].strip(),
            State(state) if state in [*State] else None,
            given.get("all") == "1",
            given.get("refresh") == "1",
        )

    def link(self, **other: Any) -> str:
        """The address of the page with some of this changed."""
        one = self._replace(**other)
        given = {
            "text": one.text,
            "state": one.state or "",
            "all": "1" if one.whole else "",
            "refresh": "1" if one.refresh else "",
        }
        query = urlencode({key: text for key, text in given.items() if text})
        return f"/?{query}" if query else "/"

    def fits(self, one: EnvironmentStatus) -> bool:
        """Whether an environment is among those that are asked for. Each word must be in its name, labels or reason."""
        if self.state is not None and one.state is not self.state:
            return False
        if not self.text:
            return True
        labels = " ".join(f"{key}={value}" for key, value in one.labels.items())
        searched = f"{one.name} {labels} {one.reason} {one.waits_for}".lower()
        return all(word in searched for word in self.text.lower().split())


class StatusRow(NamedTuple):
    """An environment on the page. Times are pairs: in words, and exactly."""

    name: str
    labels: tuple[str, ...]
    reason: str
    waits_for: str
    changes: str
    since: tuple[str, str]
    succeeded: tuple[str, str]
    next_look: tuple[str, str]


class StatusGroup(NamedTuple):
    """The environments of one state on the page; `left_out` is how many more there are."""

    state: State
    title: str
    meaning: str
    look: str
    rows: tuple[StatusRow, ...]
    left_out: int
    calm: bool


def status_html(board: Board, now: datetime, query: StatusQuery = StatusQuery(), broken: Sequence[str] = ()) -> str:
    """The page. `broken` are receivers of notifications that do not take them, each with why."""
    every = board.environments()
    chosen = [one for one in every if query.fits(one)]
    counts = Counter(one.state for one in every)
    return filled_page(
        "status.html",
        styles=["plan.css", "status.css"],
        forms="'self'",
        total=len(every),
        chosen=len(chosen),
        problems=sum(number for state, number in counts.items() if state not in _CALM),
        environments=count(len(every), "environment"),
        tiles=list(_tiles(counts, query)),
        notices=list(_notices(board, now, broken)),
        source=board.source,
        read=_ago(board.source.read_at, now),
        groups=list(_groups(chosen, query, now)),
        query=query,
        whole=query.link(whole=True),
        everything=query.link(text="", state=None, whole=False),
        refreshed=query.link(refresh=not query.refresh),
        refresh=REFRESH_SECONDS,
        now=_exact(now),
    )


def _tiles(counts: Counter[State], query: StatusQuery) -> Iterator[tuple[str, int, str, str, bool]]:
    """The counts at the top: how each is coloured, the number, what it counts, where it leads to, and whether it is chosen."""
    for state, (title, _, look) in STATES.items():
        if counts[state] or state in (State.FAILED, State.DRIFTED, State.IN_SYNC):
            chosen = query.state is state
            yield look, counts[state], title, query.link(state=None if chosen else state, whole=False), chosen


def _notices(board: Board, now: datetime, broken: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The messages above everything else: a word and a text."""
    source: SourceStatus = board.source
    if board.stopping:
        yield "stopping", "What was begun is finished; nothing new is begun."
    if source.error:
        since = (
            ""
            if source.read_at is None
            else f" They were last read {_ago(source.read_at, now)[0]}; what was read then is in use."
        )
        yield "failed", f"The files cannot be read: {source.error.rstrip('.')}.{since}"
    elif not source.revision:
        yield "starting", "The files are being read for the first time."
    yield from (("failed", f"Notifications do not arrive: {why}") for why in broken)


def _groups(chosen: Sequence[EnvironmentStatus], query: StatusQuery, now: datetime) -> Iterator[StatusGroup]:
    for state, (title, meaning, look) in STATES.items():
        found = [one for one in chosen if one.state is state]
        if found:
            found.sort(key=lambda one: (one.since, one.name))
            most = None if query.whole else _ROWS if state in _CALM else _MOST
            rows = tuple(_row(one, now) for one in found[:most])
            yield StatusGroup(
                state, f"{len(found):,} {title}", meaning, look, rows, len(found) - len(rows), state is State.IN_SYNC
            )


def _row(one: EnvironmentStatus, now: datetime) -> StatusRow:
    return StatusRow(
        one.name,
        tuple(f"{key}={value}" for key, value in sorted(one.labels.items())),
        one.reason,
        one.waits_for,
        f"{one.changes:,}" if one.changes else "",
        _ago(one.since, now),
        _ago(one.succeeded_at, now),
        _ahead(one.next_look_at, now),
    )


def _ago(when: datetime | None, now: datetime) -> tuple[str, str]:
    """A time that was, in words and exactly."""
    return ("never", "") if when is None else (f"{length((now - when).total_seconds())} ago", _exact(when))


def _ahead(when: datetime | None, now: datetime) -> tuple[str, str]:
    """A time that will be, in words and exactly."""
    if when is None:
        return "", ""
    return ("now" if when <= now else f"in {length((when - now).total_seconds())}"), _exact(when)


def length(seconds: float) -> str:
    """A length of time in its largest unit, such as `3 h`."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds // size:,.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _exact(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"


def status_json(board: Board, broken: Sequence[str] = ()) -> str:
    """The status as JSON text."""
    source = board.source
    data = {
        "format": "policyctl/status",
        "version": VERSION,
        "stopping": board.stopping,
        "source": {"revision": source.revision, "read_at": _moment(source.read_at), "error": source.error or None},
        "broken_receivers": [*broken],
        "environments": [_as_json(one) for one in board.environments()],
    }
    return json_text(data)


def _as_json(one: EnvironmentStatus) -> dict[str, Any]:
    return {
        "name": one.name,
        "state": one.state.value,
        "since": _moment(one.since),
        "labels": dict(sorted(one.labels.items())),
        "changes": one.changes,
        "digest": one.digest or None,
        "reason": one.reason or None,
        "waits_for": one.waits_for or None,
        "revision": one.revision or None,
        "looked_at": _moment(one.looked_at),
        "succeeded_at": _moment(one.succeeded_at),
        "next_look_at": _moment(one.next_look_at),
    }


def _moment(when: datetime | None) -> str | None:
    return None if when is None else _exact(when)
