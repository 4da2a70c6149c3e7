"""The harness as a program, and what it writes into the manual."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest

from policyctl.errors import LostAnswer
from policyctl.policy.document import Document
from policyctl.policy.names import Kind
from policyctl.remote.orchestrate import OrchestrateRemote
from policyctl.remote.redaction import Redactor
from tests.chaos import inside
from tests.chaos.faults import Fault
from tests.chaos.figures import BROKEN, Figures
from tests.chaos.harness import MARKED, run_all, section, with_section
from tests.chaos.inside import run_inside
from tests.chaos.window import Window, table
from tests.readme_blocks import EVIDENCE


def test_the_same_seed_gives_the_same_run() -> None:
    """Seed 4 writes with one thread; with several, the same faults may meet each other in another order."""
    one, other = (run_inside(4)[0] for _ in range(2))
    assert one.to_json() == other.to_json()


class Telling(Redactor):
    """Takes nothing out of any text."""

    def __call__(self, text: str) -> str:
        return text


class Believing(OrchestrateRemote):
    """Takes a lost answer for a good one."""

    def add(self, document: Document, kind: Kind = "policy") -> str | None:
        with suppress(LostAnswer):
            return super().add(document, kind)
        return None


class Insisting(OrchestrateRemote):
    """Sends an add again whose answer was lost, without looking."""

    def add(self, document: Document, kind: Kind = "policy") -> str | None:
        try:
            return super().add(document, kind)
        except LostAnswer:
            return self.add(document, kind)


CLIENTS: dict[str, tuple[type, str]] = {
    "that tells what it was sent": (Telling, "leaks"),
    "that believes in a lost answer": (Believing, "untrue reports"),
    "that repeats a write without looking": (Insisting, "duplicates"),
}


@pytest.mark.parametrize("case", CLIENTS)
def test_a_client_is_found_out(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the run of this seed it comes to each of these: where a figure is 0, it was looked for."""
    client, kind = CLIENTS[case]
    monkeypatch.setattr(inside, client.__mro__[1].__name__, client)
    assert kind in {violation.kind for violation in run_inside(6)[1]}


def test_it_sums_up_over_processes() -> None:
    seeds = [2, 3]
    total = run_all(run_inside, seeds, 2)
    assert total.inside == seeds
    assert total.faults.total() > 0
    assert not total.broken


def test_the_manual_shows_figures_of_the_harness_form_and_none_of_them_is_bad() -> None:
    """Rows are compared by their names, figures by their form: they are of another run than this one."""
    found = MARKED.search(EVIDENCE.read_text("utf-8"))
    assert found is not None
    shown = re.findall(r"^\| (.+?) \| (.+?) \|", found[0], re.MULTILINE)
    form = re.findall(r"^\| (.+?) \| (.+?) \|", section(Figures(), [Window(0, 0, 0), Window(0.1, 0, 0)]), re.MULTILINE)
    assert [name for name, _ in shown] == [name for name, _ in form]
    figures = dict(shown)
    assert {figures[kind] for kind in BROKEN} == {"0"}
    assert all(int(figures[f"· {fault}"].replace(",", "")) > 0 for fault in Fault)
    runs = [int(figures[name].split()[0].replace(",", "")) for name in figures if name.startswith("runs")]
    assert sum(runs) >= 500
    assert runs[1] >= 20


def test_it_writes_between_its_marks_and_nowhere_else() -> None:
    text = EVIDENCE.read_text("utf-8")
    written = with_section(text, section(Figures(), [Window(0, 0, 0)]))
    assert MARKED.sub("", written) == MARKED.sub("", text)
    assert Figures().table() in written
    with pytest.raises(AssertionError, match="no marks"):
        with_section("nothing", "x")


def test_windows_are_shown_in_milliseconds() -> None:
    assert "| where an answer takes 100 ms | 907 ms | 1,717 ms |" in table([Window(0.1, 0.9071, 1.717)])
