"""`policyctl effect`: pictures, suppositions, traces, comparisons and graphs, of names and of files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from policyctl.effect.gateway import PROFILE
from policyctl.report import schema_text
from tests.conftest import ANYGEM, Policyctl, Project
from tests.report.github_html import Page
from tests.sqlite_rows import put, row

SCHEMA = jsonschema.Draft202012Validator(json.loads(schema_text("effect")))
CASES = json.loads((Path(__file__).parent.parent / "effect/data/cases.json").read_text("utf-8"))
FLASH, LITE = "virtual-model/google/gemini-2.0-flash", "virtual-model/google/gemini-2.0-flash-lite"


@pytest.fixture
def machine(policyctl: Policyctl) -> Any:
    """Run `effect … --format json`, hold its output to the shipped schema, and give it as a value."""

    def call(*args: str | Path) -> Any:
        ran = policyctl("effect", *args, "--format", "json")
        assert ran.code == 0, ran.err
        data = json.loads(ran.out)
        SCHEMA.validate(data)
        assert data["profile"] == PROFILE
        return data

    return call


def write(folder: Path, policy: Any, name: str = "p.yaml", **more: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps({"spec_version": "v1", "kind": "model", "name": "p", "policy": policy, **more}), "utf-8")
    return path


def fallback(*models: str, codes: list[int] | None = None, **more: Any) -> dict[str, Any]:
    strategy = {"mode": "fallback", **({} if codes is None else {"on_status_codes": codes})}
    return {"strategy": strategy, "targets": [{"model_name": f"virtual-model/{model}"} for model in models], **more}


@pytest.mark.slow
def test_a_file_needs_no_directory_and_no_remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real process, in an empty folder, leaves nothing behind."""
    path = tmp_path / "elsewhere" / "anygem.yaml"
    path.parent.mkdir()
    path.write_text(ANYGEM, "utf-8")
    empty = tmp_path / "empty"
    empty.mkdir()
    args = [sys.executable, "-m", "policyctl", "effect", str(path)]
    ran = subprocess.run(args, cwd=empty, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "   75%  google/gemini-2.0-flash\n" in ran.stdout
    assert "google/gemini-2.0-flash down: 25% served\n" in ran.stdout
    assert "2 calls: google/gemini-2.0-flash × 2\n" in ran.stdout
    assert (
        ran.stdout.splitlines()[-1]
        == f"by gateway profile {PROFILE}, which the platform is assumed to follow; for answers that are not streamed"
    )
    assert list(empty.iterdir()) == []
    assert list(path.parent.iterdir()) == [path]


def test_the_whole_picture_as_json(tmp_path: Path, machine: Any) -> None:
    path = write(tmp_path, fallback("google/a", "openai/b", codes=[429, 503], retry={"attempts": 1}))
    [seen] = machine(path, "--timeout", "*=30")["policies"]
    assert seen["shares"] == {
        "models": {"virtual-model/google/a": 1, "virtual-model/openai/b": 0},
        "providers": {"google": 1, "openai": 0},
    }
    row = seen["outages"]["providers"]["google"]
    assert {tuple(cell["failures"]) for cell in row if cell["served"]} == {("429", "503", "connect-timeout")}
    assert seen["bounds"]["calls"]["value"] == 4
    assert seen["bounds"]["backoff_seconds"]["value"] == 2
    assert seen["bounds"]["failover_seconds"]["value"] == 1
    assert seen["bounds"]["latency_seconds"]["value"] == 122
    assert seen["reachable"]["virtual-model/openai/b"] == "when a answers 429 or 503"
    assert seen["dead"] == []


def test_names_are_of_the_directory_and_none_is_all(project: Project, machine: Any) -> None:
    project.write("anygem.yaml")
    project.policy("other", "virtual-model/x/a")
    assert [one["name"] for one in machine()["policies"]] == ["virtual-policy/anygem", "virtual-policy/other"]
    assert [one["name"] for one in machine("virtual-policy/other")["policies"]] == ["virtual-policy/other"]
    assert [one["name"] for one in machine("anygem")["policies"]] == ["virtual-policy/anygem"]
    same = ("anygem", "virtual-policy/anygem", "policies/anygem.yaml", "policies/../policies/anygem.yaml")
    assert [one["name"] for one in machine(*same)["policies"]] == ["virtual-policy/anygem"]


def test_a_target_that_is_a_policy_of_the_directory_does_what_that_does(project: Project, machine: Any) -> None:
    project.write("anygem.yaml")
    project.policy("outer", "virtual-policy/anygem", "virtual-model/x/a")
    [seen] = machine("outer")["policies"]
    assert seen["shares"]["models"] == {FLASH: 0.75, LITE: 0.25, "virtual-model/x/a": 0}
    assert seen["assumed"] == ["virtual-policy/anygem"]


def test_variables_of_the_environment_are_used(project: Project, machine: Any) -> None:
    (project.policies / "policyctl.yaml").write_text(
        "default: dev\nenvironments:\n  dev: {vars: {lite: 0.25}}\n  prod: {vars: {lite: 0.75}}\n", "utf-8"
    )
    path = project.write("anygem.yaml", ANYGEM.replace("weight: 0.25", 'weight: "{{ lite }}"'))
    assert machine(path)["policies"][0]["shares"]["models"][LITE] == 0.25
    assert machine(path, "--env", "prod")["policies"][0]["shares"]["models"][LITE] == 0.5


def test_what_happens_while_something_is_down(project: Project, machine: Any, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    [seen] = machine("anygem", "--down", "gemini-2.0-flash=503")["policies"]
    assert seen["served"] == 0.25
    failed, served = sorted(seen["statuses"], key=lambda one: -one["status"])
    assert (failed["status"], failed["chance"], failed["costs"]) == (503, 0.75, [{"calls": 2, "seconds": 1, "chance": 0.75}])
    assert served["costs"] == [{"calls": 1, "seconds": 0, "chance": 0.25}]
    assert machine("anygem", "--down", "google=refused")["policies"][0]["served"] == 0
    assert machine("anygem", "--down", "*-lite=400")["policies"][0]["served"] == 0.75
    text = policyctl("effect", "anygem", "--down", f"{FLASH}=503").out
    assert "   75%  503\n            75% after 2 calls and 1 s of back-off\n" in text


def test_streams_that_are_cut_are_in_the_matrix_when_asked_for(tmp_path: Path, machine: Any, policyctl: Policyctl) -> None:
    path = write(tmp_path, fallback("x/a", "y/b"))
    plain, streamed = (machine(path, *options) for options in ((), ("--streamed",)))
    row, cut = (seen["policies"][0]["outages"]["models"]["virtual-model/x/a"] for seen in (plain, streamed))
    assert [cell["served"] for cell in row] == [cell["served"] for cell in cut]
    assert {cell["served"] for cell in cut if "cut-stream" in cell["failures"]} == {0}
    assert not any("cut-stream" in cell["failures"] for cell in row)
    assert plain["assumption"].endswith("; for answers that are not streamed")
    assert streamed["assumption"].endswith("; for streamed answers")
    shown = [policyctl("effect", path, *options).out for options in ((), ("--streamed",), ("--format", "markdown"))]
    assert [text.count("streamed") for text in shown] == [1, 1, 1]
    assert "x/a down: 0% served with a broken body, a cut stream; otherwise 100%" in shown[1]


BROKEN_STREAMS = {
    "cut": ("--down", "x=cut-stream"),
    "unreadable": ("--down", "x=broken-body", "--streamed"),
    "cut, always": ("--rate", "x=cut-stream:1"),
}


@pytest.mark.parametrize("case", BROKEN_STREAMS)
def test_a_broken_stream_is_a_200_and_serves_no_one(case: str, tmp_path: Path, machine: Any, policyctl: Policyctl) -> None:
    path = write(tmp_path, fallback("x/a", "y/b"))
    seen = machine(path, *BROKEN_STREAMS[case])["policies"][0]
    assert (seen["served"], seen["cut"], [one["status"] for one in seen["statuses"]]) == (0, 1, [200])
    assert seen["models"]["virtual-model/y/b"]["reached"] == 0
    ran = policyctl("effect", path, *BROKEN_STREAMS[case])
    assert "0%; 100% get a broken stream" in ran.out
    assert "which the platform is assumed to follow; for streamed answers" in ran.out


def test_a_trace_of_a_broken_stream(tmp_path: Path, machine: Any, policyctl: Policyctl) -> None:
    path = write(tmp_path, fallback("x/a", "y/b", retry={"attempts": 1}))
    seen = machine(path, "--trace", "x=connect-timeout,cut-stream")
    assert (seen["status"], seen["cut"], seen["answers"]) == (200, True, ["connect-timeout", "cut-stream"])
    ran = policyctl("effect", path, "--trace", "x=hang,cut-stream")
    assert "1. x/a: connect timeout\n" in ran.out
    assert "200 with a broken stream after 2 calls" in ran.out


def test_a_trace_waits_for_a_retry_after(tmp_path: Path, machine: Any) -> None:
    retry = {"attempts": 1, "use_retry_after_header": True}
    path = write(tmp_path, fallback("x/a", "y/b", retry=retry))
    seen = machine(path, "--trace", "x=429 after 7s")
    assert (seen["answers"], seen["waits"]) == (["429 after 7s", "429 after 7s", 200], [0, 7, 7])
    assert machine(path)["policies"][0]["bounds"]["failover_seconds"]["value"] == 61


def test_what_happens_in_a_partial_outage(project: Project, machine: Any) -> None:
    """A tenth of the calls fail, and each is asked again once: a hundredth of the requests fails."""
    project.write("anygem.yaml")
    [seen] = machine("anygem", "--rate", "google=503:0.1")["policies"]
    assert seen["served"] == pytest.approx(0.99)
    assert seen["models"][FLASH]["calls"] == pytest.approx(0.75 * 1.1)
    [seen] = machine("anygem", "--rate", f"{FLASH}=503:0.5", "--rate", f"{FLASH}=500:0.5")["policies"]
    assert {one["status"] for one in seen["statuses"]} == {200, 500, 503}
    assert seen["models"][FLASH]["serves"] == 0


def test_a_trace_walks_one_request(tmp_path: Path, machine: Any, policyctl: Policyctl) -> None:
    path = write(tmp_path, fallback("x/a", "x/b", codes=[503], retry={"attempts": 2}))
    seen = machine(path, "--trace", "virtual-model/x/a=500,503", "--trace", "virtual-model/x/b=200")
    assert seen["status"] == 200
    assert seen["calls"] == ["virtual-model/x/a"] * 3 + ["virtual-model/x/b"]
    assert seen["waits"] == [0, 1, 2, 0]
    assert seen["answers"] == [500, 503, 503, 200]
    text = policyctl("effect", path, "--trace", "a=500,503").out
    assert "    2. x/a: 503 (after 1 s)\n" in text
    assert "    200 after 4 calls and 3 s of back-off\n" in text


def test_the_seed_decides_the_draw(project: Project, machine: Any) -> None:
    project.write("anygem.yaml")
    drawn = {seed: machine("anygem", "--trace", f"{FLASH}=200", "--seed", str(seed))["calls"] for seed in range(20)}
    assert {call for calls in drawn.values() for call in calls} == {FLASH, LITE}
    assert drawn[3] == machine("anygem", "--trace", f"{FLASH}=200", "--seed", "3")["calls"]


def test_a_client_that_never_gets_an_answer(tmp_path: Path, machine: Any, policyctl: Policyctl) -> None:
    path = write(tmp_path, {"strategy": {"mode": "loadbalance"}, "targets": [{"model_name": "virtual-model/x/a", "weight": 0}]})
    assert machine(path, "--trace", "a=200")["status"] is None
    assert "no answer at all after 0 calls" in policyctl("effect", path, "--trace", "a=200").out


# In a file null means absent, which no policy's gateway ever sees; the recorded gateway was sent it and refused.
FROM_A_FILE = [case for case in CASES if case["script"] and "null" not in json.dumps(case["policy"])]


@pytest.mark.parametrize("case", FROM_A_FILE[::6], ids=lambda case: case["id"])
def test_a_trace_of_a_file_is_what_the_gateway_was_recorded_doing(case: dict[str, Any], tmp_path: Path, machine: Any) -> None:
    """Also of policies that no valid file may be."""
    traces = [f"--trace={model}={','.join(map(str, answers))}" for model, answers in case["script"].items()]
    seen = machine(write(tmp_path, case["policy"]), *traces)
    assert {key: seen[key] for key in ("status", "calls")} == case["expect"]


def test_what_no_file_may_contain_is_shown_with_what_is_wrong(tmp_path: Path, policyctl: Policyctl) -> None:
    path = write(
        tmp_path, {"strategy": {"mode": "loadbalance"}, "targets": [{"model_name": "virtual-model/x/a", "weight": 250}]}
    )
    ran = policyctl("effect", path)
    assert ran.code == 0
    assert "weight must be greater than 0 and at most 1, got 250" in ran.err
    assert "  100%  x/a\n" in ran.out


def test_a_policy_that_the_gateway_refuses_says_so(tmp_path: Path, policyctl: Policyctl) -> None:
    ran = policyctl("effect", write(tmp_path, fallback("x/a", retry={"on_status_codes": [503]})))
    assert ran.code == 0
    assert "every request gets 400: policy has a retry without attempts" in ran.out


def test_a_mode_that_is_not_known_is_shown_as_not_known(tmp_path: Path, machine: Any, policyctl: Policyctl) -> None:
    conditional = {"strategy": {"mode": "conditional", "conditions": [], "default": "a"}, "targets": [{"name": "a"}]}
    path = write(tmp_path, conditional)
    why = 'policy has mode "conditional", which policyctl does not know'
    for options in ((), ("--down", "*=503"), ("--format", "markdown"), ("--graph",)):
        ran = policyctl("effect", path, *options)
        assert ran.code == (64 if "--down" in options else 0)
        assert ("--down" in options) or (why in ran.out.replace("`", "").replace("#quot;", '"') and "400" not in ran.out)
    assert machine(path)["policies"] == [{"name": "virtual-policy/p", "file": str(path), "not_known": why}]
    traced = policyctl("effect", path, "--trace", "x=200")
    assert traced.code == 64


def git(folder: Path, *args: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    subprocess.run(["git", "-C", str(folder), *identity, *args], check=True, capture_output=True)


@pytest.fixture
def repository(project: Project) -> Project:
    """anygem, committed; then its weights changed, and a new policy beside it."""
    git(project.folder, "init", "-q")
    project.write("anygem.yaml")
    git(project.folder, "add", ".")
    git(project.folder, "commit", "-qm", "one")
    project.write("anygem.yaml", ANYGEM.replace("loadbalance", "fallback"))
    project.policy("new", "virtual-model/x/a")
    return project


def test_a_comparison_with_a_revision_shows_only_what_moved(repository: Project, machine: Any, policyctl: Policyctl) -> None:
    [seen] = machine("anygem", "--against", "git:HEAD")["policies"]
    assert seen["class"] == "effective"
    assert seen["models"] == {FLASH: {"before": 0.75, "after": 1}, LITE: {"before": 0.25, "after": 0}}
    assert seen["calls"] == {"before": 2, "after": 4}
    assert "newly_reachable" not in seen
    ran = policyctl("effect", "policies/anygem.yaml", "--against", "git:HEAD")
    assert "better: served 25% → 100% while google/gemini-2.0-flash is down with any failure but a broken body\n" in ran.out
    assert "worse: served 25% → 0% while google/gemini-2.0-flash is down with a broken body\n" in ran.out
    assert (repository.folder / ".git/index").exists()


def test_a_policy_that_was_not_there_is_new(repository: Project, machine: Any) -> None:
    [seen] = machine("new", "--against", "git:HEAD")["policies"]
    assert seen["newly_reachable"] == [{"model": "virtual-model/x/a", "when": ""}]


def test_reading_a_revision_touches_neither_files_nor_index(repository: Project, machine: Any) -> None:
    before = {path: path.read_bytes() for path in repository.folder.rglob("*") if path.is_file()}
    machine("anygem", "--against", "git:HEAD")
    assert {path: path.read_bytes() for path in repository.folder.rglob("*") if path.is_file()} == before


def test_metadata_and_equivalent_changes_are_shown_as_such(repository: Project, machine: Any, policyctl: Policyctl) -> None:
    repository.write("anygem.yaml", ANYGEM.replace("Any Gem", "All Gems"))
    assert machine("anygem", "--against", "git:HEAD")["policies"][0]["class"] == "metadata"
    repository.write("anygem.yaml", ANYGEM.replace("weight: 0.75", "weight: 0.6").replace("weight: 0.25", "weight: 0.2"))
    assert machine("anygem", "--against", "git:HEAD")["policies"][0]["class"] == "equivalent"
    assert "equivalent: the same behaviour, written differently" in policyctl("effect", "anygem", "--against", "git:HEAD").out


def test_a_comparison_with_the_remote(project: Project, machine: Any, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    assert machine("anygem", "--against", "live")["policies"][0]["newly_reachable"]
    assert policyctl("apply", "--yes").code == 0
    assert machine("anygem", "--against", "live")["policies"][0]["class"] == "metadata"
    project.write("anygem.yaml", ANYGEM.replace("attempts: 1", "attempts: 3"))
    assert machine("anygem", "--against", "live")["policies"][0]["calls"] == {"before": 2, "after": 4}


def test_partial_failures_are_those_of_the_plan(project: Project, machine: Any, policyctl: Policyctl) -> None:
    """The share is the option's, else that of policyctl.yaml, else 0.1; also against a revision, and for a file elsewhere."""
    git(project.folder, "init", "-q")
    outside = project.folder / "elsewhere" / "p.yaml"
    for attempts in (2, 1):
        outside.parent.mkdir(exist_ok=True)
        write(outside.parent, fallback("x/a", retry={"attempts": attempts}))
        project.policy("one", "x/a", retry=f"{{attempts: {attempts}}}")
        if attempts == 2:
            git(project.folder, "add", ".")
            git(project.folder, "commit", "-qm", "one")
            assert policyctl("apply", "--yes").code == 0

    def shares(*args: str | Path) -> set[float]:
        return {cell["share"] for cell in machine(*args)["policies"][0]["worse"]}

    def planned(*args: str) -> set[float]:
        (change,) = json.loads(policyctl("plan", "--format", "json", *args).out)["changes"]
        return {cell["share"] for cell in change["effect"]["worse"]}

    for config, args, share in (("", (), 0.1), ("effect: {partial: 0.25}", (), 0.25), ("", ("--partial", "0.4"), 0.4)):
        (project.policies / "policyctl.yaml").write_text(config, "utf-8")
        (outside.parent / "policyctl.yaml").write_text(config, "utf-8")
        found = [shares("one", "--against", against, *args) for against in ("live", "git:HEAD")]
        assert [*found, shares(outside, "--against", "git:HEAD", *args), planned(*args)] == [{share}] * 4


UNCLEAR = {
    "several of one name": (
        [row("anygem", id="1"), row("anygem", id="2")],
        "virtual-policy/anygem: the remote has several policies of this name; remove all but one by id (ids 1, 2)",
    ),
    "an unreadable one": ([row("anygem", id="1", policy=None)], "virtual-policy/anygem cannot be read: the row has no policy"),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_what_is_live_must_be_known_to_compare_with_it(case: str, project: Project, policyctl: Policyctl) -> None:
    """It is not taken for a policy that is not there; `policy show` shows the same."""
    rows, message = UNCLEAR[case]
    project.write("anygem.yaml")
    put(rows, unique_names=False)
    ran = policyctl("effect", "anygem", "--against", "live")
    shown = policyctl("policy", "show", "--name", "anygem")
    assert (ran.code, ran.out, ran.err) == (5, "", shown.err) == (shown.code, shown.out, shown.err)
    assert message in ran.err


def test_markdown_lets_nothing_of_a_policy_act(tmp_path: Path, policyctl: Policyctl) -> None:
    name = "virtual-model/x/<img>@team|*bold*[link](http://x)\x1b[2J"
    ran = policyctl("effect", write(tmp_path, fallback("x/a", name[14:])), "--format", "markdown")
    assert ran.code == 0
    assert "### `virtual-policy/p`" in ran.out
    assert "\x1b" not in ran.out
    page = Page(ran.out)
    assert {element.tag for element in page.elements} == {"h3", "p", "strong", "ul", "li", "code", "em"}
    assert (page.magic, page.wrong) == ([], [])


def test_a_graph_has_the_shares_on_its_arrows(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    project.policy("outer", "virtual-policy/anygem", "virtual-model/x/a")
    chart = policyctl("effect", "--graph").out
    assert chart.splitlines()[0] == "flowchart LR"
    assert '  p0["virtual-policy/anygem<br>loadbalance<br>retry × 1"]' in chart
    assert '  p0 -- "75%" --> m0' in chart
    assert '  p1 -- "100%" --> p0' in chart
    assert '  p1 -. "0%" .-> m2' in chart
    assert policyctl("effect", "--graph", "--format", "markdown").out == f"```mermaid\n{chart}```\n"


def test_a_graph_label_cannot_end_early(tmp_path: Path, policyctl: Policyctl) -> None:
    chart = policyctl("effect", write(tmp_path, fallback('x/"]; click a "http://x"')), "--graph").out
    assert '(["#quot;x/#92;#quot;]; click a #92;#quot;http://x#92;#quot;#quot;"])' in chart


USAGE: dict[str, tuple[tuple[str, ...], str]] = {
    "an unknown name": (("nope",), "policies has no policy nope"),
    "a near miss": (("anygen",), "did you mean virtual-policy/anygem?"),
    "two questions": (("anygem", "--down", "google=503", "--trace", "google=503"), "are different questions"),
    "a graph as json": (("--graph", "--format", "json"), "leave out --format json"),
    "a trace of several": (("--trace", "google=503"), "name one"),
    "an unknown model": (("anygem", "--down", "gogle=503"), "no model matches gogle (did you mean google?)"),
    "no answer": (("anygem", "--down", "google"), "--down takes MODEL=…"),
    "a bad answer": (("anygem", "--down", "google=5xx"), "'5xx' is not an answer"),
    "down twice": (("anygem", "--down", "google=503", "--down", "google=500"), "cannot be down in two ways"),
    "a graph of streams": (("anygem", "--graph", "--streamed"), "--streamed is for outages"),
    "a comparison of streams": (("anygem", "--against", "live", "--streamed"), "--streamed is for outages"),
    "uses of streams": (("--uses", "google", "--streamed"), "--streamed is for outages"),
    **{
        f"a timeout with {args[-2]}": ((*args, "--timeout", "google=3"), "--timeout is for the worst-case latency, which --")
        for args in (
            ("anygem", "--uses", "google"),
            ("anygem", "--down", "google=503"),
            ("anygem", "--rate", "google=503:0.1"),
            ("anygem", "--trace", "google=503"),
        )
    },
    "a timeout of a graph": (("--graph", "--timeout", "google=3"), "--timeout is for the worst-case latency, which --graph"),
    **{
        f"partial failures with {' '.join(args)}": (
            ("anygem", *args, "--partial", "0.2"),
            "--partial is for the partial failures",
        )
        for args in ((), ("--uses", "google"), ("--down", "google=503"), ("--trace", "google=503"), ("--graph",))
    },
    "a share that is not one": (("anygem", "--against", "git:HEAD", "--partial", "1"), "is not in the range 0<x<1"),
    "a directory without the file": (("other.yaml", "--dir", "policies"), "--dir policies has none of these files"),
    "an environment that does not exist": (("other.yaml", "--env", "pord"), "unknown environment pord"),
    "a bad rate": (("anygem", "--rate", "google=503:2"), "is not a rate"),
    "no rate": (("anygem", "--rate", "google=503"), "is not a rate"),
    "rates above 1": (("anygem", "--rate", "google=503:0.6", "--rate", "google=500:0.6"), "more than all of its calls"),
    "down and a rate": (("anygem", "--down", "google=503", "--rate", "google=500:0.6"), "more than all of its calls"),
    "two scripts": (("anygem", "--trace", "google=503", "--trace", f"{FLASH}=500"), "has a script already"),
    "a bad timeout": (("anygem", "--timeout", "google=-1"), "is not a timeout"),
    "a name that is near to none": (("zzz",), "policies has no policy zzz; name one of its policies, or a file"),
    "against what": (("anygem", "--against", "main"), "--against takes git:REF or live"),
    "against no revision": (("anygem", "--against", "git:"), "--against takes git:REF or live"),
    "against an unknown revision": (("anygem", "--against", "git:nope"), "unknown git revision 'nope'"),
    "against an option": (("anygem", "--against", "git:--output=x"), "the git revision must not begin with -"),
}


@pytest.mark.parametrize("case", USAGE)
def test_usage_errors_are_one_line_and_64(case: str, project: Project, policyctl: Policyctl) -> None:
    git(project.folder, "init", "-q")
    project.write("anygem.yaml")
    path = project.policy("other")
    (project.folder / "other.yaml").write_bytes(path.read_bytes())
    args, message = USAGE[case]
    ran = policyctl("effect", *args)
    assert (ran.code, ran.out) == (64, "")
    assert message in ran.err
    assert ran.err.count("\n") == 1


def test_outside_a_repository_there_is_no_revision(tmp_path: Path, policyctl: Policyctl) -> None:
    ran = policyctl("effect", write(tmp_path, fallback("x/a")), "--against", "git:HEAD")
    assert ran.code == 1
    assert "is not in a git repository" in ran.err


BROKEN = {
    "no such file": (None, "the file does not exist"),
    "no policy": ('{"spec_version": "v1", "kind": "agent"}', "contains no policy"),
    "not YAML": ("a: [", "this [ is never closed"),
    "a template without its variable": (
        json.dumps({"kind": "model", "name": "p", "policy": {"x": "{{ y }}"}}),
        "the variable y is not set in environment local",
    ),
    "a key written twice": ("kind: model\nname: p\npolicy: {}\npolicy: {}\n", "duplicate key"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_cannot_be_made_out_is_an_error(case: str, tmp_path: Path, policyctl: Policyctl) -> None:
    content, message = BROKEN[case]
    path = tmp_path / "p.yaml"
    if content is not None:
        path.write_text(content, "utf-8")
    ran = policyctl("effect", path)
    assert (ran.code, ran.out) == (1, "")
    assert message in ran.err
    assert "bug" not in ran.err
