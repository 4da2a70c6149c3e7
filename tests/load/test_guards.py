"""Guards in policyctl.yaml: where each one wins, and what is wrong with them."""

from __future__ import annotations

import pytest

from policyctl.errors import InvalidInput
from policyctl.load.discovery import load_config
from policyctl.plan.settings import GUARDS, GuardException, Guards, MinServed, Survive
from tests.conftest import Project

FULL = """
environments:
  dev: {}
  prod:
    guards: {max_calls: 6, survive: {any: model, down_with: [408]}}
    guard_exceptions: []
guards:
  max_traffic_shift: 25
  max_calls: 12
  max_failover_seconds: 10
  survive: {any: provider, down_with: [429, 500, refused, broken-body]}
  min_served: {while: 0.1, of: provider, with: [429, 402], at_least: 0.999}
  deny_new: provider
  allow_providers: [openai, goo*]
guard_exceptions:
  - {policy: chat, guard: max_calls, reason: until June}
"""

SHARED = Guards(
    max_traffic_shift=25,
    max_calls=12,
    max_failover_seconds=10,
    survive=Survive("provider", (429, 500, "refused", "broken-body")),
    min_served=MinServed(0.1, "provider", (429, 402), 0.999),
    deny_new="provider",
    allow_providers=("openai", "goo*"),
)


def test_each_guard_of_an_environment_wins_there(project: Project) -> None:
    config = load_config(project.write("policyctl.yaml", FULL))
    dev, prod = (config.environments[name].settings for name in ("dev", "prod"))
    assert (dev.guards, dev.guard_exceptions) == (SHARED, (GuardException("max_calls", "chat", "until June"),))
    assert prod.guards == SHARED._replace(max_calls=6, survive=Survive("model", (408,)))
    assert prod.guard_exceptions == ()


def test_the_share_of_calls_that_fail_in_partial_failures_is_a_setting(project: Project) -> None:
    assert load_config(project.write("policyctl.yaml", "default: local\n")).environment(None).settings.partial == 0.1
    assert load_config(project.write("policyctl.yaml", "effect: {partial: 0.2}\n")).environment(None).settings.partial == 0.2


def test_a_survive_takes_every_failure_once(project: Project) -> None:
    answers = "[402, 451, 599, 999, hang, connect-timeout, cut-stream, broken-body, refused, 402]"
    config = load_config(project.write("policyctl.yaml", f"guards: {{survive: {{any: model, down_with: {answers}}}}}\n"))
    survive = config.environment(None).settings.guards.survive
    assert survive == Survive("model", (402, 451, 599, 999, "hang", "cut-stream", "broken-body", "refused"))


def test_without_guards_nothing_is_asked(project: Project) -> None:
    config = load_config(project.write("policyctl.yaml", "default: local\n"))
    assert config.environment(None).settings.guards.active == ()
    assert SHARED.active == tuple(guard for guard in GUARDS if guard != "deny_providers")


BAD = {
    "guards: {max_call: 6}": '1:10: unknown key "max_call" (did you mean max_calls?) [P101]',
    "guards: 6": "1:9: guards must be a mapping, got 6 [P104]",
    "guards: {max_calls: 0}": "1:21: max_calls must be 1 or more, got 0 [P103]",
    "guards: {max_calls: six}": '1:21: max_calls must be a whole number, got "six" [P104]',
    "guards: {max_traffic_shift: 101}": "1:29: max_traffic_shift must be from 0 to 100, got 101 [P103]",
    "guards: {max_failover_seconds: -1}": "1:32: max_failover_seconds must be 0 or more, got -1 [P103]",
    "guards: {max_failover_seconds: .inf}": "1:32: max_failover_seconds must be 0 or more, got inf [P103]",
    "guards: {survive: {any: region, down_with: [429]}}": '1:25: any must be provider or model, got "region" [P105]',
    "guards: {survive: {any: model}}": "1:10: missing key down_with (add it) [P102]",
    "guards: {survive: {any: model, down_with: []}}": "1:43: down_with must not be empty [P106]",
    **{
        f"guards: {{survive: {{any: model, down_with: [{written}]}}}}": "1:44: down_with item must be a status from 300 "
        f"to 999, refused, connect-timeout, broken-body or cut-stream, got {got} [P109]"
        for written, got in {
            "200": "200",
            "226": "226",
            "1000": "1000",
            "429 after 5s": '"429 after 5s"',
            "hung": '"hung" (did you mean hang?)',
            '"503"': '"503"',
            "{}": "{}",
        }.items()
    },
    "guards: {min_served: {while: 1, of: model, with: [429], at_least: 0.9}}": "1:30: while must be less than 1, got 1 [P103]",
    "guards: {min_served: {while: 0.1, of: model, with: [429], at_least: 9}}": "1:69: at_least must be 1 or less, got 9 [P103]",
    "guards: {min_served: {of: model, with: [429], at_least: 0.9}}": "1:10: missing key while (add it) [P102]",
    "effect: {partial: 10}": "1:19: partial must be less than 1, got 10 [P103]",
    "guards: {deny_new: providers}": (
        '1:20: deny_new must be provider or model, got "providers" (did you mean provider?) [P105]'
    ),
    "guards: {allow_providers: openai}": '1:27: allow_providers must be a list, got "openai" (write ["openai"]) [P104]',
    "guards: {allow_providers: []}": "1:27: allow_providers must not be empty [P106]",
    "guards: {deny_providers: ['']}": "1:27: deny_providers item must not be empty [P106]",
    "guard_exceptions: {policy: p}": (
        '1:19: guard_exceptions must be a list, got {"policy": "p"} (begin each item with a dash) [P104]'
    ),
    "guard_exceptions: [{policy: p, guard: max_calls}]": "1:20: missing key reason (add it) [P102]",
    "guard_exceptions: [{policy: p, guard: max_calls, reason: ''}]": "1:58: reason must not be empty [P106]",
    "guard_exceptions: [{policy: p, guard: max_call, reason: r}]": "1:39: guard must be max_traffic_shift, max_calls, "
    "max_failover_seconds, survive, min_served, deny_new, allow_providers or deny_providers, got "
    '"max_call" (did you mean max_calls?) [P105]',
}


@pytest.mark.parametrize("text", BAD)
def test_a_problem_shows_where_what_and_what_to_do(project: Project, text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_config(project.write("policyctl.yaml", f"{text}\n"))
    assert [str(problem) for problem in caught.value.problems] == [f"policies/policyctl.yaml:{BAD[text]}"]
