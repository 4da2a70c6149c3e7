"""What a watch with `approved: true` does without an approval: it puts back what was in sync, where it was reached before."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from policyctl.reconcile.observe import observe
from policyctl.remote.sqlite import SqliteReader
from tests.cli.pull_requests import Work
from tests.patience import LONGEST
from tests.remote.fake_server import Reply, Seen, standing_in
from tests.remote.fake_tenant import Tenant
from tests.sqlite_rows import LOCAL, add_models, edit, live_documents

MODELS = "virtual-model/x/a", "virtual-model/x/b"
BY_HAND = f"sha256:{'0' * 64}"  # the digest that a person started a run with
HEALS = "apply: on-merge, heal: always, approved: true"


def configure(work: Work, watch: str = HEALS, more: str = "scope: ['virtual-policy/base*']", remote: str = "local") -> None:
    work.project.write("policyctl.yaml", f"environments: {{local: {{remote: '{remote}', watch: {{{watch}}}}}}}\n{more}\n")


def push(work: Work) -> None:
    """Commit what the files say, without a pull request."""
    work.commit()


def merge(work: Work, number: int = 5) -> None:
    """The same with a pull request that showed its plan."""
    assert work.comment(number).code == 0
    push(work)
    work.forge.merge(number, str(work.forge.head))
    work.base = work.forge.head


def look(work: Work, *args: str) -> str:
    return work.policyctl("watch", "--once", *args).out


def assert_waits(work: Work) -> None:
    """What is merged or pushed is not applied at the next look."""
    before = contents()
    assert "waits for an approval" in look(work)
    assert contents() == before


def by_hand(work: Work, *args: str) -> None:
    assert work.policyctl("policy", *args, "--yes").code == 0


def to(model: str) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["policy"].update(targets=[{"model_name": model, "weight": 1}], strategy={"mode": "single"})


def contents() -> dict[str, Any]:
    return {name: document["policy"]["targets"] for name, document in live_documents().items()}


@pytest.fixture
def synced(work: Work) -> Work:
    """A watch that saw an environment in sync: two policies in scope, and one of others beside them."""
    work.policyctl("policy", "add", "theirs", "-m", MODELS[0], "--strategy", "single", "--yes")
    configure(work)
    work.add("base-2")
    push(work)
    assert work.policyctl("apply", "--yes").code == 0
    assert work.policyctl("watch", "--once").code == 0
    return work


def edited(_: Work) -> None:
    edit("base", to("virtual-model/y/c"), LOCAL)


def added(work: Work) -> None:
    by_hand(work, "add", "base-3", "-m", MODELS[0], "--strategy", "single")


def removed(work: Work) -> None:
    by_hand(work, "remove", "base-2")


@pytest.mark.parametrize("moves", [edited, added, removed])
def test_what_was_in_sync_is_put_back_without_an_approval(synced: Work, moves: Callable[[Work], None]) -> None:
    before = contents()
    moves(synced)
    assert contents() != before
    assert "applied: the remote moved" in look(synced)
    assert contents() == before


def test_what_would_come_back_with_unknown_fields_elsewhere_waits_for_a_person(synced: Work) -> None:
    """A person gave two groups the models of each other, and their unknown fields stayed where they are."""

    def fallback(*targets: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"strategy": {"mode": "fallback"}, "targets": [*targets], **more}

    def groups(*several: str, **notes: int) -> dict[str, Any]:
        models = [[{"model_name": f"virtual-model/{one}"} for one in some.split()] for some in several]
        return fallback(*(fallback(*some, **dict.fromkeys(notes, at)) for at, some in enumerate(models)))

    policy = {"spec_version": "v1", "kind": "model", "name": "base", "policy": groups("x/a x/b", "y/c y/d")}
    (synced.project.policies / "base.yaml").write_text(json.dumps(policy), "utf-8")
    edit("base", lambda live: live.update(policy=groups("x/a x/b", "y/c y/d", x_note=1)), LOCAL)
    push(synced)
    assert look(synced) == "", "it is in sync as before"
    edit("base", lambda live: live.update(policy=groups("y/c y/e", "x/a x/f", x_note=1)), LOCAL)
    before = contents()
    assert "conflict" in look(synced)
    assert contents() == before


def widened(work: Work) -> None:
    configure(work, more="scope: ['virtual-policy/*']")


def theirs_moved(work: Work) -> None:
    widened(work)
    edit("theirs", to("virtual-model/y/c"), LOCAL)


def theirs_new(work: Work) -> None:
    by_hand(work, "add", "theirs-2", "-m", MODELS[0], "--strategy", "single")
    widened(work)


def loosened(work: Work) -> None:
    configure(work, more="scope: ['virtual-policy/base*']\nlimits: {max_removes: 999}")


def loosened_before(work: Work) -> None:
    """It was in sync under other settings too, which were not approved."""
    loosened(work)
    push(work)
    assert look(work) == ""


def widened_before(work: Work) -> None:
    configure(work, more="scope: ['virtual-policy/base*', 'virtual-policy/new*']")
    push(work)
    assert look(work) == ""
    by_hand(work, "add", "new", "-m", MODELS[0], "--strategy", "single")


def other_windows(work: Work) -> None:
    configure(work, f"{HEALS}, windows: [{{kind: allow, at: 0 0 * * *, for: 1d}}]")


def other_file(work: Work) -> None:
    work.project.policy("base", "virtual-model/evil/m")


def file_less(work: Work) -> None:
    work.take_away("base-2")


UNAPPROVED = [
    widened,
    theirs_moved,
    theirs_new,
    loosened,
    loosened_before,
    widened_before,
    other_windows,
    other_file,
    file_less,
]


@pytest.mark.parametrize("pushed", UNAPPROVED)
@pytest.mark.parametrize("moves", [edited, added])
def test_a_push_adds_nothing_to_what_is_put_back(
    synced: Work, pushed: Callable[[Work], None], moves: Callable[[Work], None]
) -> None:
    """Not other contents, and not what other safety settings would let it write."""
    pushed(synced)
    moves(synced)
    push(synced)
    before = contents()
    out = look(synced)
    assert "waits for an approval" in out or "conflict" in out
    assert contents() == before


def test_healing_is_not_switched_on_by_a_push(work: Work) -> None:
    configure(work, "apply: on-merge, approved: true")
    push(work)
    assert look(work) == ""
    configure(work)
    push(work)
    assert look(work) == ""
    edited(work)
    assert "waits for an approval" in look(work)


def test_what_is_put_back_follows_settings_that_were_approved(synced: Work) -> None:
    """They are noted when it is next in sync, once for a revision."""
    synced.base = synced.forge.head
    loosened(synced)
    merge(synced)
    assert look(synced) == ""
    before = contents()
    edited(synced)
    assert "applied: the remote moved" in look(synced)
    assert contents() == before


@pytest.mark.parametrize("pushed", [widened_before, loosened, other_windows])
def test_a_pull_request_does_not_approve_settings_that_a_push_brought(synced: Work, pushed: Callable[[Work], None]) -> None:
    """They are in its base, so its page does not show them."""
    pushed(synced)
    push(synced)
    synced.base = synced.forge.head
    synced.project.policy("base", MODELS[1])
    merge(synced)
    assert_waits(synced)


def test_a_pull_request_releases_no_approvals_that_a_push_released(synced: Work) -> None:
    configure(synced, "apply: on-merge")
    push(synced)
    synced.base = synced.forge.head
    look(synced)
    synced.add("base-4")
    merge(synced)
    look(synced)
    synced.project.policy("base", "virtual-model/evil/m")
    push(synced)
    assert_waits(synced)


def risky(work: Work) -> None:
    work.project.policy("base", "virtual-model/evil/m")


@pytest.mark.parametrize(
    ("pushed", "held"), [(risky, "guards: {deny_providers: [evil]}"), (file_less, "protect: [virtual-policy/base-2]")]
)
def test_a_push_does_not_free_what_an_approved_change_of_settings_holds_up(
    synced: Work, pushed: Callable[[Work], None], held: str
) -> None:
    synced.base = synced.forge.head
    pushed(synced)
    merge(synced)
    configure(synced, more=f"scope: ['virtual-policy/base*']\n{held}")
    merge(synced, 6)
    assert "local  refused" in look(synced)
    configure(synced)
    push(synced)
    assert_waits(synced)


@pytest.mark.parametrize("moves", [edited, risky])
def test_a_push_does_not_end_what_an_approved_pull_request_suspended(synced: Work, moves: Callable[[Work], None]) -> None:
    """Neither what was approved before is written then, nor what was edited by hand meanwhile is put back."""
    synced.base = synced.forge.head
    usual = (synced.project.policies / "policyctl.yaml").read_text("utf-8")
    if moves is risky:
        risky(synced)
        merge(synced)
    synced.project.write("policyctl.yaml", usual.replace("watch:", "suspend: {reason: incident}, watch:"))
    merge(synced, 6)
    assert "suspended" in look(synced)
    if moves is edited:
        edited(synced)
    synced.project.write("policyctl.yaml", usual)
    push(synced)
    assert_waits(synced)
    synced.project.write("policyctl.yaml", usual.replace("watch:", "suspend: {reason: incident}, watch:"))
    push(synced)
    synced.base = synced.forge.head
    synced.project.write("policyctl.yaml", usual)
    merge(synced, 7)
    assert "applied: " in look(synced)


def test_what_was_in_sync_is_put_back_while_the_service_cannot_be_asked(synced: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents()
    edited(synced)
    for name in ("GITHUB_TOKEN", "GITLAB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert "applied: the remote moved" in look(synced)
    assert contents() == before


def other_policy(work: Work) -> None:
    work.add("base-3")


def other_test(work: Work) -> None:
    case = "{name: ok, given: {}, expect: {status: 200}}"
    work.project.write("base.test.yaml", f"spec_version: v1\nkind: policy_test\npolicy: base\ntests: [{case}]\n")


@pytest.mark.parametrize("second", [other_policy, other_test])
def test_settings_are_approved_whatever_is_merged_after_them_before_the_next_look(
    synced: Work, second: Callable[[Work], None]
) -> None:
    """The plan of the newer one was made without them."""
    synced.base = synced.forge.head
    loosened(synced)
    assert synced.comment(6).code == 0
    configure(synced)
    second(synced)
    assert synced.comment(7).code == 0
    loosened(synced)
    push(synced)
    for number in (6, 7):
        synced.forge.merge(number, str(synced.forge.head))
    synced.base = synced.forge.head
    assert "waits for an approval" not in look(synced)
    edited(synced)
    assert "applied: the remote moved" in look(synced)
    synced.project.policy("base", MODELS[1])
    merge(synced, 8)
    assert "applied: Git moved" in look(synced)


def noted(work: Work) -> None:
    """The workflow found nothing to do, or did it, and noted that."""
    assert work.on_main("ci", "applied").code == 0


@pytest.mark.parametrize("looked", [True, False])
def test_settings_are_approved_that_the_workflow_noted_before_the_next_look(work: Work, looked: bool) -> None:
    """Also if the watch was not in sync before."""
    configure(work)
    work.begin()
    if looked:
        assert work.policyctl("apply", "--yes").code == 0
    look(work)
    work.base = work.forge.head
    loosened(work)
    merge(work, 6)
    assert work.policyctl("apply", "--yes").code == 0
    noted(work)
    push(work)
    look(work)
    edited(work)
    assert "applied: the remote moved" in look(work)


def test_settings_that_others_noted_before_the_watch_began_do_not_come_back(synced: Work) -> None:
    """A watch begins with the settings of the branch, which a person has read."""
    synced.base = synced.forge.head
    merge(synced, 6)
    noted(synced)
    loosened(synced)
    push(synced)
    assert look(synced, "--state", "another") == ""
    configure(synced)
    push(synced)
    look(synced, "--state", "another")
    edited(synced)
    assert "waits for an approval" in look(synced, "--state", "another")


def test_an_environment_that_was_away_is_new(synced: Work) -> None:
    """Another one may have had its remote meanwhile, and Git history would take what others have for an edit."""
    usual = (synced.project.policies / "policyctl.yaml").read_text("utf-8")
    synced.project.write("policyctl.yaml", usual.replace("{local:", "{other:"))
    push(synced)
    look(synced)
    widened(synced)
    synced.project.policy("theirs", "virtual-model/evil/m")
    push(synced)
    before = contents()
    assert "refused" in look(synced)
    assert contents() == before


def test_git_history_alone_puts_nothing_back(synced: Work) -> None:
    """A watch that was just installed has not seen it in sync. It has once a person applied, or an approval was."""
    synced.project.policy("theirs", "virtual-model/evil/m")
    configure(synced, more="scope: ['virtual-policy/*']")
    push(synced)
    before = contents()
    out = look(synced, "--state", "another")
    assert "the remote moved: virtual-policy/theirs; waits for an approval" in out
    assert contents() == before
    assert synced.policyctl("apply", "--yes").code == 0
    assert "in_sync" in look(synced, "--state", "another")
    edited(synced)
    assert "applied: the remote moved" in look(synced, "--state", "another")


def test_models_that_were_not_compared_are_not_removed_as_edits(work: Work) -> None:
    """A commit lets models be managed, which the remote had all the time."""
    configure(work, "heal: always", more="scope: ['virtual-policy/*', 'virtual-model/z/*']")
    own = {"name": "virtual-model/z/own", "tags": ["own"]}
    work.project.write("own.json", json.dumps({"spec_version": "v1", "kind": "model", **own}))
    push(work)
    assert look(work) == ""
    add_models(LOCAL, own, {"name": "virtual-model/z/theirs"}, *({"name": name} for name in MODELS))
    configure(work, "heal: always", more="scope: ['virtual-policy/*', 'virtual-model/z/*']\nmanage: [policies, models]")
    push(work)
    edited(work)
    assert "not known: virtual-model/z/theirs" in look(work)
    with SqliteReader(LOCAL, models=True) as reader:
        assert "virtual-model/z/theirs" in observe(reader).models


# Where it is reached

SECRET = "canary-token-of-prod"


def environment(name: str, url: str, watch: str = "apply: on-merge, approved: true", token: str = "WXO_TOKEN") -> str:
    auth = f"auth: {{type: bearer, token: 'env:{token}'}}"
    return f"  {name}: {{remote: '{url}', scope: ['virtual-policy/*'], {auth}, watch: {{{watch}}}}}\n"


def write(work: Work, *environments: str) -> None:
    work.project.write("policyctl.yaml", f"environments:\n{''.join(environments)}")


def tenant(**models: str) -> Tenant:
    found = Tenant()
    for name, model in models.items():
        full = f"virtual-policy/{name}"
        body = {"strategy": {"mode": "single"}, "targets": [{"model_name": model, "weight": 1}]}
        found.put({"id": name, "name": full, "display_name": full, "description": full, "policy": body})
    return found


def models_of(found: Tenant) -> dict[str, str]:
    return {name: row["policy"]["targets"][0]["model_name"] for name, row in found.rows.items()}


LED: dict[str, Callable[[str, str, str], list[str]]] = {
    "a new environment": lambda prod, dev, evil: [environment("prod", prod), dev, environment("new", evil)],
    "another name": lambda _, dev, evil: [environment("renamed", evil), dev],
    "another remote": lambda _, dev, evil: [environment("prod", evil), dev],
    "another remote, without approvals": lambda _, dev, evil: [environment("prod", evil, "apply: on-merge"), dev],
    "that of one without approvals": lambda prod, _, evil: [environment("prod", prod), environment("dev", evil, "")],
    "other credentials": lambda prod, _, evil: [environment("prod", prod), environment("dev", evil, "", "OTHER_TOKEN")],
}


@pytest.mark.parametrize("led", LED)
@pytest.mark.parametrize("in_sync", [True, False])
def test_a_push_leads_no_login_elsewhere(work: Work, monkeypatch: pytest.MonkeyPatch, led: str, *, in_sync: bool) -> None:
    """Also not before it was ever in sync, nor after the watch saw that commit once."""
    for name in ("WXO_TOKEN", "DEV_TOKEN", "OTHER_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    work.project.policy("base", MODELS[0])
    live = tenant(base=MODELS[0] if in_sync else MODELS[1])
    with standing_in(live) as prod, standing_in(Tenant()) as evil, standing_in(Tenant()) as other:
        dev = environment("dev", other.url, "", "DEV_TOKEN")
        write(work, environment("prod", prod.url), dev)
        push(work)
        look(work, "--all")
        assert prod.seen[0].authorization == f"Bearer {SECRET}"
        assert other.seen
        write(work, *LED[led](prod.url, dev, evil.url))
        push(work)
        out = "".join(look(work, "--all") for _ in range(2))
        assert (
            "refused    remote, auth or ca_file is not what was used before, so nothing logs in: no merged pull request" in out
        )
        assert evil.seen == []


def test_a_new_environment_is_reached_once_a_person_applied_it(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WXO_TOKEN", SECRET)
    work.project.policy("base", MODELS[0])
    with standing_in(tenant(base=MODELS[0])) as prod, standing_in(tenant(base=MODELS[0])) as new:
        write(work, environment("prod", prod.url))
        push(work)
        look(work, "--all")
        write(work, environment("prod", prod.url), environment("new", new.url))
        push(work)
        work.base = work.forge.head
        assert "new  refused" in look(work, "--all")
        assert new.seen == []
        work.project.policy("base", MODELS[1])
        assert work.comment(5, "--env", "new").code == 0
        push(work)
        work.forge.merge(5, str(work.forge.head))
        seen = len(new.seen)
        assert "waits for" in look(work, "--all")  # that page does not show that it was pushed
        assert len(new.seen) == seen
        assert work.policyctl("apply", "--env", "new", "--yes").code == 0
        assert "noted as applied" in work.on_main("ci", "applied", "--env", "new", "--digest", BY_HAND).err
        push(work)
        assert "new  in_sync" in look(work, "--all")


def test_a_new_environment_is_not_released_by_what_was_pushed_before_it_was_seen_in_sync(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings of the first apply count, which is noted, and not those of the first look."""
    monkeypatch.setenv("WXO_TOKEN", SECRET)
    work.project.policy("base", MODELS[0])
    live = tenant(base=MODELS[0])
    with standing_in(tenant(base=MODELS[0])) as prod, standing_in(live) as new:
        usual = environment("prod", prod.url)
        write(work, usual)
        push(work)
        look(work, "--all")
        write(work, usual, environment("new", new.url))
        push(work)
        work.base = work.forge.head
        look(work, "--all")
        work.project.policy("more", MODELS[0])
        assert work.comment(5, "--env", "new").code == 0
        push(work)
        work.forge.merge(5, str(work.forge.head))
        assert work.policyctl("apply", "--env", "new", "--yes").code == 0
        assert "noted as applied" in work.on_main("ci", "applied", "--env", "new", "--digest", BY_HAND).err
        write(work, usual, environment("new", new.url, "apply: on-merge"))
        push(work)
        assert "new  in_sync" in look(work, "--all")
        work.base = work.forge.head
        work.project.policy("more", MODELS[1])
        assert work.comment(6, "--env", "new").code == 0
        push(work)
        work.forge.merge(6, str(work.forge.head))
        look(work, "--all")
        work.project.policy("base", "virtual-model/evil/m")
        push(work)
        assert "waits for an approval" in look(work, "--all")
        assert "virtual-model/evil/m" not in models_of(live).values()


def added_as(work: Work, monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """A pull request that adds an environment, which a person applies then. It has no plan before the merge."""
    with monkeypatch.context() as job:
        job.setenv("POLICYCTL_ENV", name)
        assert work.comment(number).code == 0
    assert "has no plan" in work.forge.comments[number][-1]["body"]
    push(work)
    work.forge.merge(number, str(work.forge.head))
    assert f"{name}  refused" in look(work, "--all")
    assert work.policyctl("apply", "--env", name, "--yes").code == 0
    assert "noted as applied" in work.on_main("ci", "applied", "--env", name, "--digest", BY_HAND).err
    push(work)
    work.base = work.forge.head
    assert f"{name}  in_sync" in look(work, "--all")


@pytest.mark.parametrize("between", [True, False])
def test_a_name_from_the_past_does_not_bring_back_its_settings(
    work: Work, monkeypatch: pytest.MonkeyPatch, between: bool
) -> None:
    """Those of the name that it has now are strict. What was noted for the old name is older than that."""
    monkeypatch.setenv("WXO_TOKEN", SECRET)
    monkeypatch.setenv("DEV_TOKEN", SECRET)
    work.project.policy("base", MODELS[0])
    live = tenant(base=MODELS[0])
    with standing_in(live) as server, standing_in(tenant(base=MODELS[0])) as other:
        usual = environment("dev", other.url, HEALS, "DEV_TOKEN")
        wide = environment("production", server.url, HEALS)
        write(work, usual)
        push(work)
        work.base = work.forge.head
        look(work, "--all")
        write(work, usual, wide)
        added_as(work, monkeypatch, "production", 5)
        write(work, usual, environment("prod", server.url, HEALS).replace("virtual-policy/*", "virtual-policy/b*"))
        added_as(work, monkeypatch, "prod", 6)
        if between:
            write(work, usual)
            push(work)
            look(work, "--all")
        write(work, usual, wide)
        push(work)
        look(work, "--all")
        live.put(next(iter(tenant(theirs=MODELS[0]).rows.values())))
        assert "applied" not in look(work, "--all")
        assert "theirs" in live.rows


def test_an_environment_of_which_no_approved_settings_are_known_is_not_released(synced: Work) -> None:
    """An older policyctl did not remember them."""
    (state,) = synced.project.folder.rglob("watch.jsonl")
    lines = [json.loads(line) for line in state.read_text("utf-8").splitlines()]
    state.write_text("".join(f"{json.dumps({key: one for key, one in line.items() if key != 'rules'})}\n" for line in lines))
    configure(synced, "apply: on-merge")
    push(synced)
    assert look(synced) == ""
    synced.base = synced.forge.head
    synced.add("base-3")
    merge(synced)
    look(synced)
    risky(synced)
    push(synced)
    assert_waits(synced)


def test_an_environment_that_was_away_is_reached_as_before(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one without approvals, and whatever the next pull request for it was planned with."""
    for name in ("WXO_TOKEN", "DEV_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    work.project.policy("base", MODELS[0])
    with standing_in(tenant(base=MODELS[0])) as prod, standing_in(Tenant()) as dev, standing_in(Tenant()) as evil:
        usual = environment("prod", prod.url)
        for more in (environment("dev", dev.url, "", "DEV_TOKEN"), "", environment("dev", evil.url, "", "DEV_TOKEN")):
            write(work, usual, more)
            push(work)
            out = look(work, "--all")
        assert "dev  refused" in out
        assert evil.seen == []
        work.base = work.forge.head
        work.project.policy("web")
        assert work.comment(5, "--env", "dev").code == 0
        push(work)
        work.forge.merge(5, str(work.forge.head))
        planned = len(evil.seen)
        look(work, "--all")
        assert len(evil.seen) == planned


def test_a_pull_request_for_something_else_does_not_approve_where_a_push_led(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its page names the remote that it was made for, and does not show that this changed."""
    monkeypatch.setenv("WXO_TOKEN", SECRET)
    work.project.policy("base", MODELS[0])
    with standing_in(tenant(base=MODELS[0])) as prod, standing_in(tenant(base=MODELS[0])) as evil:
        write(work, environment("prod", prod.url))
        push(work)
        look(work)
        write(work, environment("prod", evil.url))
        push(work)
        work.base = work.forge.head
        work.project.policy("base", MODELS[1])
        merge(work)
        planned = len(evil.seen)
        assert "nothing logs in" in look(work)
        assert len(evil.seen) == planned


def test_a_push_does_not_lead_back_to_where_an_approved_change_led_away_from(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although an apply was noted there, and nothing since: what is at the other place waits for a person."""
    monkeypatch.setenv("WXO_TOKEN", SECRET)
    work.project.policy("base", MODELS[0])
    with standing_in(tenant(base=MODELS[0])) as prod, standing_in(tenant(base="virtual-model/y/c")) as new:
        write(work, environment("prod", prod.url, HEALS))
        push(work)
        work.base = work.forge.head
        look(work)
        work.project.policy("base", MODELS[1])
        merge(work)
        assert "in_sync" in look(work)
        write(work, environment("prod", new.url, HEALS))
        merge(work, 6)
        assert "waits for an approval" in look(work)
        write(work, environment("prod", prod.url, HEALS))
        push(work)
        prod.seen.clear()
        assert "nothing logs in" in look(work)
        assert prod.seen == []


@pytest.mark.parametrize("name", ["prod", "production"])
def test_a_pull_request_releases_no_approvals_that_a_push_released_under_another_name(
    work: Work, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("WXO_TOKEN", SECRET)
    work.project.policy("base", MODELS[0])
    live = tenant(base=MODELS[0])
    with standing_in(live) as prod:
        write(work, environment("prod", prod.url))
        push(work)
        look(work, "--all")
        write(work, environment(name, prod.url, "apply: on-merge"))
        push(work)
        look(work, "--all")
        work.base = work.forge.head
        work.project.policy("more", MODELS[0])
        assert work.comment(5, "--env", name).code == 0
        push(work)
        work.forge.merge(5, str(work.forge.head))
        look(work, "--all")
        work.project.policy("base", MODELS[1])
        push(work)
        assert "applied" not in look(work, "--all")
        assert MODELS[1] not in models_of(live).values()


def test_an_approved_change_of_the_remote_does_not_approve_what_is_written_there(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its page shows no plan for the new one, whatever Git history had of what is there."""
    monkeypatch.setenv("WXO_TOKEN", SECRET)
    work.project.policy("base", MODELS[0])
    there = tenant(base="virtual-model/y/c", theirs=MODELS[0])
    with standing_in(tenant(base=MODELS[0])) as prod, standing_in(there) as new:
        write(work, environment("prod", prod.url, HEALS))
        push(work)
        work.base = work.forge.head
        look(work)
        write(work, environment("prod", new.url, HEALS))
        merge(work)
        assert "; waits for an approval: " in look(work)
        assert new.asked("GET")
        assert models_of(there) == {"base": "virtual-model/y/c", "theirs": MODELS[0]}


TAKEN: dict[str, Callable[[str, str], list[str]]] = {
    "the other one is gone": lambda prod, _: [environment("dev", prod, "apply: on-merge")],
    "they change places": lambda prod, dev: [environment("prod", dev), environment("dev", prod, "apply: on-merge")],
    "another spelling": lambda prod, _: [environment("dev", f"{prod}/", "apply: on-merge")],
}


@pytest.mark.parametrize("taken", TAKEN)
def test_a_remote_that_was_written_with_approvals_is_under_every_name(
    work: Work, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    monkeypatch.setenv("WXO_TOKEN", SECRET)
    work.project.policy("base", MODELS[0])
    live = tenant(base=MODELS[0])
    with standing_in(live) as prod, standing_in(tenant(base=MODELS[0])) as dev:
        write(work, environment("prod", prod.url), environment("dev", dev.url, "apply: on-merge"))
        push(work)
        look(work, "--all")
        write(work, *TAKEN[taken](prod.url, dev.url))
        work.project.policy("base", "virtual-model/evil/m")
        push(work)
        look(work, "--all")
        assert models_of(live) == {"base": MODELS[0]}


@pytest.mark.parametrize("watch", ["apply: on-merge", HEALS])
@pytest.mark.parametrize("swapped", [True, False])
def test_a_remote_is_not_given_to_another_environment_by_a_push(
    work: Work, monkeypatch: pytest.MonkeyPatch, watch: str, swapped: bool
) -> None:
    """Its settings were approved for another one: they would remove what is not its business there, or need no approval."""
    monkeypatch.setenv("WXO_TOKEN", SECRET)
    work.project.policy("base", MODELS[0])
    live = tenant(base=MODELS[0])
    with standing_in(live) as prod, standing_in(tenant(base=MODELS[0])) as dev:
        own = environment("prod", prod.url).replace("virtual-policy/*", "virtual-policy/b*")
        other = environment("dev", dev.url, watch).replace(
            "virtual-policy/*", "virtual-policy/*s*"
        )  # neither is within the other
        write(work, own, other)
        push(work)
        look(work, "--all")
        write(work, own.replace(prod.url, dev.url) if swapped else own, other.replace(dev.url, prod.url))
        push(work)
        assert "dev  refused" in look(work, "--all")
        live.put(next(iter(tenant(theirs=MODELS[0]).rows.values())))
        work.base = work.forge.head
        work.project.policy("base", MODELS[1])
        assert work.comment(5, "--env", "dev").code == 0
        push(work)
        work.forge.merge(5, str(work.forge.head))
        before = models_of(live)
        assert "dev  in_sync" not in look(work, "--all")
        assert models_of(live) == before


# What it began itself


class Refusing(Tenant):
    """A tenant that takes no update of `other`, and calls this first."""

    instead: Callable[[], object] = staticmethod(lambda: None)

    def _answer(self, seen: Seen) -> Reply:
        if seen.method == "PUT" and seen.path.endswith("/other"):
            self.instead()
            return Reply(422, {"detail": "no"})
        return super()._answer(seen)


def end_before_other(work: Work, live: Refusing, how: str) -> None:
    """Have a watch apply what is there up to `other`: it is refused that, or killed as it asks for it."""
    if how == "refused":
        look(work)
        return
    command = [sys.executable, "-m", "policyctl", "watch", "--once"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        live.instead = process.kill
        process.communicate(timeout=LONGEST)
        live.instead = lambda: None


BACK: dict[str, Callable[[Work], None]] = {"pushed": push, "approved": lambda work: merge(work, 6)}


def test_what_others_applied_is_not_an_edit_on_the_remote(synced: Work) -> None:
    """A workflow applied what was approved, after the watch saw it in the files. The way back needs an approval again."""
    configure(synced, "apply: never, heal: always, approved: true")
    synced.project.policy("base", MODELS[1])
    push(synced)
    assert "Git moved: virtual-policy/base" in look(synced)
    assert synced.policyctl("apply", "--yes").code == 0
    synced.project.policy("base")
    push(synced)
    before = contents()
    assert "Git moved: virtual-policy/base" in look(synced)
    assert contents() == before


@pytest.mark.parametrize("how", ["refused", "killed"])
def test_what_was_applied_in_part_and_put_back_by_hand_is_not_overwritten(work: Work, how: str) -> None:
    """The next try is for the others. What a watch that was killed wrote is known once the next one saw it."""
    models = dict.fromkeys(("base", "gone", "other"), MODELS[0])
    live = Refusing(tenant(**models).rows)
    for name in models:
        work.project.policy(name, MODELS[0])
    with standing_in(live) as remote:
        configure(work, "apply: on-merge", more="scope: ['virtual-policy/*']", remote=remote.url)
        push(work)
        assert look(work) == ""
        before = copy.deepcopy(live.rows)
        for name in ("base", "new", "other"):
            work.project.policy(name, MODELS[1])
        work.take_away("gone")
        push(work)
        end_before_other(work, live, how)
        if how == "killed":
            look(work)
        assert sorted(models_of(live).values()) == [MODELS[0], MODELS[1], MODELS[1]]
        live.rows = before
        out = look(work)
        moved = "virtual-policy/base, virtual-policy/new, virtual-policy/gone"
        assert f"Git moved: virtual-policy/other; the remote moved: {moved}" in out
        assert models_of(live) == models


@pytest.mark.slow
@pytest.mark.parametrize("back", BACK)
@pytest.mark.parametrize("how", ["refused", "killed"])
def test_what_was_applied_in_part_is_not_an_edit_on_the_remote(work: Work, how: str, back: str) -> None:
    """The way back needs an approval as any change does, and needs no person once it has one."""
    work.project.policy("base", MODELS[0])
    work.project.policy("other", MODELS[0])
    live = Refusing(tenant(base=MODELS[0], other=MODELS[0]).rows)
    with standing_in(live) as remote:
        configure(work, more="scope: ['virtual-policy/*']", remote=remote.url)
        push(work)
        work.base = work.forge.head
        assert look(work) == ""
        for name in ("base", "other"):
            work.project.policy(name, MODELS[1])
        merge(work)
        end_before_other(work, live, how)
        assert models_of(live) == {"base": MODELS[1], "other": MODELS[0]}
        for name in ("base", "other"):
            work.project.policy(name, MODELS[0])
        BACK[back](work)
        out = look(work)
        assert "Git moved: virtual-policy/base" in out
        assert "the remote moved" not in out
        assert models_of(live)["base"] == MODELS[0 if back == "approved" else 1]
