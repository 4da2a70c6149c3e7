"""Predicted and observed figures of policies side by side, as text, markdown or JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from policyctl.effect.calibration import Calibration, Estimate
from policyctl.policy.names import bare_name
from policyctl.report.effect_rows import model, percent
from policyctl.report.format import columns, count, escape, json_text, padded
from policyctl.report.markdown import prose, row

Row = tuple[str, str, str, str]
HEADINGS: Row = ("", "predicted", "observed", "95% interval")
NOTE = "predicted: what the policy makes of the answers that its models gave"


def calibration_report(form: str, found: Sequence[Calibration], unread: int) -> str:
    """The report; `unread` is how many lines were not records."""
    if form == "json":
        return json_text({"policies": [_value(one) for one in found], "unread_lines": unread})
    parts = [(_title(one), list(_rows(one))) for one in found]
    text = _markdown(parts) if form == "markdown" else _text(parts)
    return text + (f"\n{count(unread, 'line')} could not be read\n" if unread else "")


def _title(one: Calibration) -> str:
    more = [f"{one.left} left early"] if one.left else []
    more += [f"{one.others} of other versions"] if one.others else []
    return f"{escape(bare_name(one.policy))}: {count(one.requests, 'request')}{''.join(f', {text}' for text in more)}"


def _rows(one: Calibration) -> Iterator[Row]:
    if one.served is not None:
        yield _row("served", one.served)
    for name, estimate in one.shares.items():
        yield _row(f"by {model(name)}", estimate)
    if one.wait is not None:
        yield _row("mean wait", one.wait, seconds=True)


def _row(name: str, estimate: Estimate, *, seconds: bool = False) -> Row:
    def shown(value: float) -> str:
        return f"{value:.2f} s" if seconds else percent(value)

    differs = "" if estimate.agrees else ", differs"
    interval = f"{shown(estimate.low)} to {shown(estimate.high)}{differs}"
    return name, shown(estimate.predicted), shown(estimate.observed), interval


def _text(parts: Sequence[tuple[str, list[Row]]]) -> str:
    every = [HEADINGS, *(cells for _, rows in parts for cells in rows)]
    widths = [max(map(columns, column)) for column in zip(*every, strict=True)]

    def line(cells: Row) -> str:
        return "  " + "  ".join(map(padded, cells, widths)).rstrip()

    lines = []
    for title, rows in parts:
        lines += [title, *map(line, (HEADINGS, *rows) if rows else ()), ""]
    return "\n".join([*lines, NOTE, ""])


def _markdown(parts: Sequence[tuple[str, list[Row]]]) -> str:
    blocks = []
    for title, rows in parts:
        blocks.append(f"#### {prose(title)}\n")
        if rows:
            head = row(HEADINGS) + "|---|---|---|---|\n"
            blocks.append(head + "".join(row((prose(name), *figures)) for name, *figures in rows))
    return "\n".join([*blocks, f"{NOTE}\n"])


def _value(one: Calibration) -> dict[str, Any]:
    return {
        "policy": one.policy,
        "version": one.version,
        "requests": one.requests,
        "left": one.left,
        "other_versions": one.others,
        "served": _estimate(one.served),
        "served_by": {model: _estimate(estimate) for model, estimate in one.shares.items()},
        "mean_wait_seconds": _estimate(one.wait),
    }


def _estimate(one: Estimate | None) -> dict[str, Any] | None:
    return None if one is None else {**one._asdict(), "agrees": one.agrees}
