"""policyctl rules lists the rules and explains one."""

from __future__ import annotations

import json

import pytest

from policyctl.cli.main import run
from policyctl.rules import RULES

P402 = """\
P402 fallback-never-moves-on (warning)

An empty on_status_codes makes a fallback move on after nothing at all: it is not the
default, which needs the key to be absent. The same holds for a list of nothing but 205,
304 and 407, which never come out of a target. The targets after the first are never
called. List codes, or remove on_status_codes.

Silence it on one line with the comment `# policyctl: ignore[P402]`, everywhere with
lint.ignore in policyctl.yaml.
"""


def test_without_a_code_every_rule_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of the codes, with severity and short name."""
    assert run(["rules"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(RULES)
    assert lines[0] == "P001  error    unreadable-file"


def test_the_beginning_of_a_code_lists_its_family(capsys: pytest.CaptureFixture[str]) -> None:
    """P43 is about weights."""
    assert run(["rules", "P43"]) == 0
    assert capsys.readouterr().out == (
        "P431  warning  missing-weight\nP432  warning  weights-sum\nP433  warning  weight-ignored\n"
    )


@pytest.mark.parametrize("code", ["P402", "p402"])
def test_a_code_is_explained(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its paragraph, and how to silence it."""
    assert run(["rules", code]) == 0
    assert capsys.readouterr().out == P402


def test_what_cannot_be_silenced_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """A missing key is no matter of taste; a retry without attempts is the one that people wonder about."""
    assert run(["rules", "P102"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.endswith("It cannot be silenced.")
    assert "when a retry has no attempts" in text


@pytest.mark.parametrize(("code", "count"), [(None, len(RULES)), ("P45", 4), ("P402", 1)])
def test_as_json_every_rule_has_its_explanation(code: str | None, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Versioned, and alone on standard output."""
    assert run(["rules", *([code] if code else []), "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["format"], data["version"], len(data["rules"])) == ("policyctl/rules", 1, count)
    for rule in data["rules"]:
        assert rule == {**RULES[rule["code"]]._asdict(), "ignorable": rule["code"].startswith(("P4", "P5"))}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("P499", "error: unknown rule P499 (did you mean P492?); policyctl rules lists all\n"),
        ("P4O1", "error: unknown rule P4O1 (did you mean P401?); policyctl rules lists all\n"),
        ("dead", "error: unknown rule dead; policyctl rules lists all\n"),
        ("", "error: unknown rule ; policyctl rules lists all\n"),
    ],
)
def test_an_unknown_code_is_a_usage_error(code: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With a near miss where there is one."""
    assert run(["rules", code]) == 64
    assert capsys.readouterr() == ("", message)
